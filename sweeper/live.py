"""What a person watches while a sweep runs: a table on a terminal, plain lines elsewhere.

Both are made from the journal's events, so they say what was recorded and nothing else. What trials say
between reports is read from their folders.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweeper.journal import Event, EventKind
from sweeper.layout import trial_folder
from sweeper.results import Sweep
from sweeper.spec.space_file.fields import STEPS
from sweeper.spec.sweep import Objective
from sweeper.tables import (
    ASKED,
    Column,
    clock_text,
    duration_text,
    fitted_table,
    number_text,
    short_names,
    stacked,
    state_text,
    value_text,
)
from sweeper.trial import progress_of
from sweeper.trial_result import TrialResult

__all__ = ["GO_ON", "Board", "Display", "told_events", "trials_table"]

LOSS = "train/loss"
GRAD_NORM = "train/grad_norm"
REFRESH_PER_S = 2.0
OTHER_ROWS = 9
"""Lines of the display that are not trials."""
GO_ON = "`sweeper resume {}` goes on."
FEWEST_ROWS = 4
FEW_PARAMETERS = 6
"""As many parameters fit into the table on most terminals."""


class Board:
    """A sweep that runs, and what can be said of its future.

    Args:
        sweep: The sweep; somebody else applies the journal's events to it, perhaps while we look.
        at_once: Trials that run at the same time.
        steps: Optimiser steps of a trial whose configuration does not say; None where nobody knows.
    """

    def __init__(self, sweep: Sweep, at_once: int, steps: int | None = None) -> None:
        self.sweep = sweep
        self.at_once = max(1, at_once)
        self._steps = steps

    @property
    def objective(self) -> Objective:
        """The first objective: what the best trial is told by."""
        return self.sweep.objectives[0]

    @property
    def budget(self) -> int:
        """Trials of the whole sweep."""
        return int(self.sweep.spec["budget"]["trials"])

    def steps(self, trial: TrialResult) -> int | None:
        """Optimiser steps of a whole trial."""
        steps = trial.config.get(STEPS, self._steps)
        return None if steps is None else int(steps)

    def trials(self) -> list[TrialResult]:
        """The trials, as they stand."""
        return list(self.sweep.trials.values())

    def running(self) -> list[TrialResult]:
        """The trials that run."""
        return [trial for trial in self.trials() if trial.status == "running"]

    def best(self) -> TrialResult | None:
        """The trial with the best value so far, whether it goes on or not; None where none has a value."""
        known = [trial for trial in self.trials() if math.isfinite(self._cost(trial))]
        return min(known, key=self._cost, default=None)

    def left_s(self, now: float) -> float | None:
        """Estimate how long the sweep will go on; None while there is nothing to judge by.

        Trials that are still to come are taken to last as long as those that ended, on average.
        """
        ended = [trial for trial in self.trials() if trial.status in ("completed", "stopped_early")]
        running = self.running()
        lengths = [trial.duration_s(now) for trial in ended]
        lengths = lengths or [whole for trial in running if (whole := self._whole_s(trial, now))]
        if not lengths:
            return None
        mean = sum(lengths) / len(lengths)
        to_come = max(0, self.budget - self.sweep.ended_trials - len(running))
        left = sum(max(0.0, (self._whole_s(trial, now) or mean) - trial.duration_s(now)) for trial in running)
        left = (left + to_come * mean) / self.at_once
        hours = self.sweep.spec["budget"]["hours"]
        if hours is not None:
            left = min(left, max(0.0, hours * 3600 - self.sweep.running_s(now)))
        return left

    def shown(self, most: int) -> list[TrialResult]:
        """At most this many trials, by number: those that run, then the best, then the latest."""

        def rank(trial: TrialResult) -> tuple[float, float]:
            cost = self._cost(trial)
            if trial.status == "running":
                return (0, trial.number)
            return (1, cost) if math.isfinite(cost) else (2, -trial.number)

        chosen = sorted(self.trials(), key=rank)[:most]
        return sorted(chosen, key=lambda trial: trial.number)

    def _cost(self, trial: TrialResult) -> float:
        """The first objective turned so that less is better; infinite where there is none."""
        value = trial.final.get(self.objective.name, math.nan)
        cost = -value if self.objective.goal == "maximize" else value
        return cost if math.isfinite(cost) else math.inf

    def _whole_s(self, trial: TrialResult, now: float) -> float:
        """How long a trial lasts as a whole, by its pace so far; 0 where that cannot be told."""
        steps = self.steps(trial)
        since, first = trial.first or (now, trial.step)
        if not steps or trial.step <= first:
            return 0.0
        return trial.duration_s(now) + (now - since) * max(0, steps - trial.step) / (trial.step - first)


class Display:
    """Shows a sweep: a table that is drawn again and again on a terminal, a line for each change elsewhere.

    A context manager.

    Args:
        console: Where to.
        board: What is shown.
        problem: Asked for a warning that holds at the moment, such as a tracking server that does not answer.
        elsewhere: Whether the trials' folders are not on this machine.
    """

    def __init__(
        self,
        console: Console,
        board: Board,
        problem: Callable[[], str] = str,
        *,
        elsewhere: bool = False,
    ) -> None:
        self._console = console
        self._board = board
        self._problem = problem
        self._elsewhere = elsewhere
        self._notice = ""
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self._render,
                console=self._console,
                refresh_per_second=REFRESH_PER_S,
                redirect_stdout=False,
                redirect_stderr=False,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def tell(self, event: Event) -> None:
        """Show an event that was applied to the sweep."""
        if self._live is None:
            line = event_line(self._board, event)
            if line:
                self._print(line)

    def say(self, text: str) -> None:
        """Show what the sweep itself does at the moment; an empty text takes that away again."""
        self._notice = text
        if self._live is None and text:
            self._print(text)

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def _render(self) -> RenderableType:
        now = time.time()
        every = self._board.trials()
        trials = self._board.shown(max(FEWEST_ROWS, self._console.height - OTHER_ROWS))
        parts: list[RenderableType] = [
            _title(self._board, now),
            trials_table(self._board, trials, now, self._console.width),
        ]
        if len(every) > len(trials):
            parts.append(Text(f"… and {len(every) - len(trials)} more", style="dim"))
        parts += self._progress(trials)
        problem = self._problem()
        if problem:
            parts.append(_one_line(f"! {problem}", "yellow"))
        if self._board.sweep.steered == "paused":
            parts.append(Text(f"Paused. {GO_ON.format(shlex.quote(self._board.sweep.name))}", style="bold"))
        elif self._notice:
            parts.append(Text(self._notice, style="bold"))
        return Group(*parts)

    def _progress(self, trials: Sequence[TrialResult]) -> list[RenderableType]:
        """What trials say that have not reported anything for a while."""
        said: list[RenderableType] = []
        for trial in trials:
            if trial.needs:
                said.append(_one_line(f"trial {trial.number}: waiting for {trial.needs}", "yellow"))
            elif trial.status == "running" and not self._elsewhere:
                message = progress_of(trial_folder(self._board.sweep.folder, trial.number))
                if message:
                    said.append(_one_line(f"trial {trial.number}: {message}", "dim"))
        return said


def told_events(events: Sequence[Event]) -> list[str]:
    """What a journal tells from its beginning: a line for each event that says something, with its time."""
    followed = Sweep(Path())
    board = Board(followed, 1)
    lines = []
    for event in events:
        followed.apply(event)
        said = event_line(board, event)
        if said:
            lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['time']))} {said}")
    return lines


def event_line(board: Board, event: Event) -> str:
    """An event as a line for a log; empty for those that nobody waits for."""
    if event["event"] in (EventKind.NOTE, EventKind.STEER):
        return str(event["text"])
    if "trial" not in event:
        return ""
    trial = board.sweep.trials[event["trial"]]
    at = f"step {_step(board, trial)}"
    numbers = _numbers(board, trial)
    match event["event"]:
        case EventKind.TRIAL_START:
            return f"trial {trial.number} started: {_values(trial.values)}"
        case EventKind.TRIAL_WAIT if trial.needs:
            return f"trial {trial.number} is waiting for {trial.needs}"
        case EventKind.REPORT if {item.name for item in board.sweep.tracked} & set(event["metrics"]):
            return f"trial {trial.number} {at}: {numbers}"
        case EventKind.TRIAL_RETRY:
            return f"trial {trial.number}: {event['reason']}: {event['message']}"
        case EventKind.TRIAL_END:
            state = trial.status.replace("_", " ")
            reason = f" ({trial.reason})" if trial.status == "failed" or trial.reason in ASKED else ""
            words = f"trial {trial.number} {state}{reason} at {at} after {duration_text(trial.duration_s())}"
            message = f"\n    {trial.message}" if trial.status == "failed" and trial.message else ""
            return words + (f": {numbers}" if numbers else "") + message
    return ""


def trials_table(board: Board, trials: Sequence[TrialResult], now: float, width: int | None = None) -> Table:
    """Trials as a table that fits into a terminal of ``width`` characters."""
    every = board.trials()
    objectives = [objective.name for objective in board.sweep.objectives]
    losses = [name for name in (LOSS, GRAD_NORM) if name not in objectives]
    losses = [name for name in losses if any(name in trial.metrics for trial in every)]
    parameters = _varying(board)
    best = board.best()
    columns = [Column("trial"), Column("state", "left", wraps=True)]
    columns += [Column(stacked(name)) for name in short_names(parameters).values()]
    columns.append(Column("step"))
    for name, short in short_names([*losses, *objectives]).items():
        columns.append(Column(stacked(short), spare=2 if name == GRAD_NORM else 0))
    columns.append(Column("time", spare=1))
    rows: list[list[Text | str]] = []
    for trial in trials:
        state = state_text(trial.status)
        if trial.reason and (trial.status == "failed" or trial.reason in ASKED):
            state.append(f": {trial.reason}")
        rows.append(
            [
                f"★ {trial.number}" if trial is best else str(trial.number),
                state,
                *(_value(trial, name) for name in parameters),
                _step(board, trial),
                *(number_text(trial.metrics.get(name)) for name in losses),
                *(number_text(trial.final.get(name)) for name in objectives),
                clock_text(trial.duration_s(now)),
            ]
        )
    styles = ["bold" if t is best else ("" if t.status == "running" else "dim") for t in trials]
    return fitted_table(columns, rows, width, styles=styles, lines=False)


def _value(trial: TrialResult, name: str) -> str:
    return stacked(value_text(trial.values[name])) if name in trial.values else "–"


def _varying(board: Board) -> list[str]:
    """The searched parameters; where they are many, those that differ among the trials."""
    names = list(board.sweep.varying)
    every = board.trials()
    if len(every) < 2 or len(names) <= FEW_PARAMETERS:
        return names
    return [name for name in names if len({repr(trial.values.get(name)) for trial in every}) > 1]


def _title(board: Board, now: float) -> Text:
    sweep, best, running = board.sweep, board.best(), len(board.running())
    title = Text.assemble(
        (sweep.name, "bold"), f"  {sweep.ended_trials} of {board.budget} trials ended, {running} running"
    )
    if sweep.steered:
        title.append(f" ({sweep.steered})", "yellow")
    title.append(f", {duration_text(sweep.running_s(now))} so far")
    left = None if sweep.steered else board.left_s(now)
    if left is not None and (running or sweep.ended_trials < board.budget):
        title.append(f", about {duration_text(left)} left")
    if best is not None:
        value = number_text(best.final.get(board.objective.name))
        title.append(f"\nbest so far: {board.objective.name} {value} (trial {best.number})")
    return title


def _numbers(board: Board, trial: TrialResult) -> str:
    names = dict.fromkeys([LOSS, *(objective.name for objective in board.sweep.objectives)])
    return ", ".join(f"{name} {number_text(trial.metrics[name])}" for name in names if name in trial.metrics)


def _step(board: Board, trial: TrialResult) -> str:
    steps = board.steps(trial)
    return f"{trial.step}" if steps is None else f"{trial.step}/{steps}"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)
