"""The display of a running sweep: a table on a terminal, plain lines elsewhere.

Both are made from the journal's events, so they show only what was recorded. The progress of trials
between reports is read from their folders.
"""

from __future__ import annotations

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

from sweeper.layout import trial_folder
from sweeper.records.events import Event, EventKind
from sweeper.records.forecast import Forecast
from sweeper.records.spending import spending_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.terminal.tables import (
    Column,
    best_words,
    clock_text,
    duration_text,
    fitted_table,
    number_text,
    reason_text,
    short_names,
    spending_text,
    stacked,
    trial_state_text,
    value_text,
)
from sweeper.trial.exchange import ProgressReader, phase_of

__all__ = ["RESUME_HINT", "Display", "events_as_lines", "trials_table"]

LOSS = "train/loss"

GRAD_NORM = "train/grad_norm"

REFRESH_PER_S = 2.0

LOOK_S = 1.0
"""Seconds between looks at what trials do before their first report, for a log."""

OTHER_ROWS = 9
"""Lines of the display that do not show trials."""

RESUME_HINT = "`sweeper resume {}` continues the sweep."

FEWEST_ROWS = 4

FEW_PARAMETERS = 6
"""The number of parameters that fits into the table on most terminals."""


class Display:
    """Shows a sweep: a table that is redrawn on a terminal, a line for each change elsewhere.

    A context manager.

    Args:
        console: Shows the sweep.
        board: The sweep, and its forecast.
        problem: Returns the current warning, e.g. that the tracking server does not answer, or "".
        elsewhere: Whether the trials' folders are not on this machine.
    """

    def __init__(
        self,
        console: Console,
        board: Forecast,
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
        self._told: dict[int, str] = {}
        self._progress_of = ProgressReader()
        self._next_look = 0.0

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(
                get_renderable=self.render,
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
        if event["event"] == EventKind.TRIAL_END:
            self._progress_of.forget(trial_folder(self._board.sweep.folder, event["trial"]))
            self._told.pop(event["trial"], None)
        if self._live is None:
            line = event_line(self._board, event)
            if line:
                self._print(line)

    def say(self, text: str) -> None:
        """Show what the sweep does at the moment. An empty text removes the message."""
        self._notice = text
        if self._live is None and text:
            self._print(text)

    def look(self) -> None:
        """Print what trials do that have not reported yet, a line for each phase. A table shows it anyway."""
        now = time.monotonic()
        if self._live is not None or self._elsewhere or now < self._next_look:
            return
        self._next_look = now + LOOK_S
        for trial in self._board.running():
            message = (
                ""
                if trial.metrics
                else self._progress_of(trial_folder(self._board.sweep.folder, trial.number))
            )
            if message and phase_of(message) != self._told.get(trial.number):
                self._told[trial.number] = phase_of(message)
                self._print(f"trial {trial.number}: {message}")

    def _print(self, text: str) -> None:
        self._console.print(text, soft_wrap=True, markup=False)

    def render(self) -> RenderableType:
        """The table as it is at the moment."""
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
            parts.append(
                Text(f"Paused. {RESUME_HINT.format(shlex.quote(self._board.sweep.name))}", style="bold")
            )
        elif self._notice:
            parts.append(Text(self._notice, style="bold"))
        return Group(*parts)

    def _progress(self, trials: Sequence[TrialState]) -> list[RenderableType]:
        """The progress of running trials, and what waiting trials need."""
        said: list[RenderableType] = []
        for trial in trials:
            if trial.needs:
                said.append(_one_line(f"trial {trial.number}: waiting for {trial.needs}", "yellow"))
            elif trial.status == TrialStatus.RUNNING and not self._elsewhere:
                message = self._progress_of(trial_folder(self._board.sweep.folder, trial.number))
                if message:
                    said.append(_one_line(f"trial {trial.number}: {message}", "dim"))
        return said


def events_as_lines(events: Sequence[Event]) -> list[str]:
    """The events of a journal as lines with their times. Events without a line are left out."""
    followed = SweepState(Path())
    board = Forecast(followed, 1)
    lines = []
    for event in events:
        followed.apply(event)
        said = event_line(board, event)
        if said:
            lines.append(f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(event['time']))} {said}")
    return lines


def event_line(board: Forecast, event: Event) -> str:
    """An event as a line for a log; empty for events that are not shown."""
    if event["event"] in (EventKind.NOTE, EventKind.STEER):
        return str(event["text"])
    if "trial" not in event:
        return ""
    trial = board.sweep.trials[event["trial"]]
    at = f"step {_step(board, trial)}"
    numbers = _numbers(board, trial)
    match event["event"]:
        case EventKind.TRIAL_START:
            origin = f" ({trial.origin})" if trial.origin else ""
            return f"trial {trial.number} started{origin}: {_values(trial.values)}"
        case EventKind.TRIAL_WAIT if trial.needs:
            return f"trial {trial.number} is waiting for {trial.needs}"
        case EventKind.REPORT if {item.name for item in board.sweep.tracked} & set(event["metrics"]):
            return f"trial {trial.number} {at}: {numbers}"
        case EventKind.TRIAL_RETRY:
            return f"trial {trial.number}: {event['reason']}: {event['message']}"
        case EventKind.TRIAL_END:
            state = trial.status.replace("_", " ")
            reason = f" ({reason_text(trial)})" if reason_text(trial) else ""
            words = f"trial {trial.number} {state}{reason} at {at} after {duration_text(trial.duration_s())}"
            message = f"\n    {trial.message}" if trial.status == TrialStatus.FAILED and trial.message else ""
            return words + (f": {numbers}" if numbers else "") + message
    return ""


def trials_table(
    board: Forecast, trials: Sequence[TrialState], now: float, width: int | None = None
) -> Table:
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
    rows: list[list[Text | str]] = [
        [
            f"★ {trial.number}" if trial is best else str(trial.number),
            trial_state_text(trial),
            *(_value(trial, name) for name in parameters),
            _step(board, trial),
            *(number_text(trial.metrics.get(name)) for name in losses),
            *(number_text(trial.final.get(name)) for name in objectives),
            clock_text(trial.duration_s(now)),
        ]
        for trial in trials
    ]
    styles = ["bold" if t is best else ("" if t.status == "running" else "dim") for t in trials]
    return fitted_table(columns, rows, width, styles=styles, lines=False)


def _value(trial: TrialState, name: str) -> str:
    return stacked(value_text(trial.values[name])) if name in trial.values else "–"


def _varying(board: Forecast) -> list[str]:
    """The searched parameters. If there are many, only those that differ among the trials."""
    names = list(board.sweep.varying)
    every = board.trials()
    if len(every) < 2 or len(names) <= FEW_PARAMETERS:
        return names
    return [name for name in names if len({repr(trial.values.get(name)) for trial in every}) > 1]


def _title(board: Forecast, now: float) -> Text:
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
    spending = spending_of(sweep, now)
    if spending is not None:
        title.append(f", {spending_text(spending, runs=True)}")
    silent = board.silent_s(now)
    if silent is not None:
        title.append(f", last report {duration_text(silent)} ago")
    if best is not None:
        value = number_text(best.final.get(board.objective.name))
        words, where = best_words(best.status)
        title.append(f"\n{words}: {board.objective.name} {value} (trial {best.number}{where})")
    return title


def _numbers(board: Forecast, trial: TrialState) -> str:
    names = dict.fromkeys([LOSS, *(objective.name for objective in board.sweep.objectives)])
    return ", ".join(f"{name} {number_text(trial.metrics[name])}" for name in names if name in trial.metrics)


def _step(board: Forecast, trial: TrialState) -> str:
    steps = board.steps(trial)
    return f"{trial.step}" if steps is None else f"{trial.step}/{steps}"


def _values(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value_text(value)}" for name, value in values.items())


def _one_line(text: str, style: str) -> Text:
    return Text(text, style=style, overflow="ellipsis", no_wrap=True)
