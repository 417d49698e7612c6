"""Tables of trials and sweeps for the terminal. Nothing is cut off in 80 columns."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from sweeper.certainty.standing import Standing, standing_of
from sweeper.layout import ERROR_TEXT, trial_folder
from sweeper.records.forecast import cost_of, gpus_per_trial
from sweeper.records.ranking import ORDER, is_better
from sweeper.records.spending import Spending, spending_of
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.cost import money_text
from sweeper.terminal.finalists.sentences import certainty_lines, interval_text
from sweeper.terminal.long_table import LongTable
from sweeper.text import duration_text, number_text, short_names, value_text

__all__ = [
    "Column",
    "best_words",
    "clock_text",
    "duration_text",
    "fitted_table",
    "number_text",
    "print_ranking",
    "ranking_table",
    "reason_text",
    "short_names",
    "stacked",
    "state_text",
    "sweeps_table",
    "trial_state_text",
    "value_text",
]

STYLES = {
    "completed": "green",
    "running": "cyan",
    "stopped_early": "yellow",
    "interrupted": "magenta",
    "failed": "red",
    "done": "green",
    "pausing": "yellow",
    "paused": "yellow",
    "stopping": "yellow",
    "cancelling": "magenta",
}
ASKED = ("stopped", "cancelled")
"""Reasons of trials that the user ended early."""
RANKED_BY_STATE = "Stopped trials rank below completed ones, by their steps, whatever their value."
COMPARED = (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY)
FAILURES_SHOWN = 5
WIDE = 200
"""Width of a table in a file, in characters."""
NAME_WIDTHS = (100, 24, 16, 11)
"""Names and values longer than this are broken into lines. The first with which a table fits is used."""


def stacked(name: str, width: int = NAME_WIDTHS[-1]) -> str:
    """A name broken between its words into lines of at most ``width`` characters, if the words allow it."""
    lines = [""]
    for word in re.findall(r"[^_/]+[_/]?", name):
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)


def ranking_table(sweep: SweepState, top: int | None = None, width: int | None = None) -> Table:
    """The ranking as a table for the terminal.

    Args:
        sweep: The sweep.
        top: Show this many trials; None for all.
        width: Characters of the terminal; None for as many as the table needs. In a narrow terminal the least
            important columns are left out.
    """
    ranking = sweep.ranking()
    return _ranking_table(sweep, ranking[:top], width, standing_of(sweep, ranking))


def _ranking_table(
    sweep: SweepState, trials: Sequence[TrialState], width: int | None, standing: Standing
) -> Table:
    names = short_names([*sweep.varying, *(name for name in sweep.examined if name not in sweep.varying)])
    settings = _setting_columns(sweep, trials, names)
    columns = [Column("trial"), Column("state", justify="left", wraps=True)]
    values: list[tuple[str, bool]] = []
    for objective in sweep.objectives:
        arrow = "↑" if objective.goal == "maximize" else "↓"
        columns.append(Column(f"{objective.name} {arrow}", style="bold", stacks=True))
        values.append((objective.name, _best_differs(trials, objective.name)))
        if values[-1][1]:
            columns.append(Column("best", style="dim", spare=2))
    certain = _certainty_columns(trials, standing)
    columns += [column for column, _ in certain]
    columns += [Column(names[name], stacks=True) for name in sweep.varying]
    columns += [column for column, _ in settings]
    costs = cost_of(sweep).trials if gpus_per_trial(sweep) else {}
    columns += [Column("step", spare=1), Column("time", spare=3)]
    columns += [Column("GPU-\nhours", spare=4)] if costs else []
    spending = spending_of(sweep)
    columns += [] if spending is None else [Column(f"cost\n{spending.currency}", spare=4)]
    rows = [
        _cells(
            trial,
            values,
            [cells[place] for _, cells in certain],
            [
                *(value_text(trial.values.get(name, "")) for name in sweep.varying),
                *(cells[place] for _, cells in settings),
            ],
        )
        for place, trial in enumerate(trials)
    ]
    if costs:
        rows = [[*row, f"{costs[trial.number]:.2f}"] for row, trial in zip(rows, trials, strict=True)]
    if spending is not None:
        amounts = [spending.trials[trial.number] for trial in trials]
        rows = [[*row, f"{amount:.2f}"] for row, amount in zip(rows, amounts, strict=True)]
    columns, rows = _stacked_table(columns, rows, width)
    return fitted_table(columns, rows, width, title=f"{sweep.name}: {_summary(sweep)}")


def _certainty_columns(
    trials: Sequence[TrialState], standing: Standing
) -> list[tuple[Column, list[Text | str]]]:
    """The columns that say how sure the ranking is, with their cells; only those that are not empty."""
    known = [standing.of(trial.number) for trial in trials]
    marks: dict[bool | None, Text | str] = {None: "", True: Text("yes", style="yellow"), False: "no"}
    name = standing.metric
    found: list[tuple[Column, list[Text | str]]] = [
        (Column("95 %\ninterval", spare=2), [interval_text(one.low, one.high) for one in known]),
        (
            Column("may be\nthe best", spare=1),
            [
                Text("leader", style="green") if trial.number == standing.leader else marks[one.may_be_best]
                for trial, one in zip(trials, known, strict=True)
            ],
        ),
        (
            Column("P(best)", spare=2),
            ["" if one.p_best is None else f"{one.p_best:.2f}" for one in known],
        ),
        (
            Column("con-\nfirmed", style="bold", spare=1),
            [number_text(trial.confirmed[name]) if name in trial.confirmed else "" for trial in trials],
        ),
        (
            Column("its 95 %\ninterval", spare=2),
            [
                interval_text(trial.confirmed.get(f"{name}_low"), trial.confirmed.get(f"{name}_high"))
                for trial in trials
            ],
        ),
    ]
    return [(column, cells) for column, cells in found if any(str(cell) for cell in cells)]


def _setting_columns(
    sweep: SweepState, trials: Sequence[TrialState], names: Mapping[str, str]
) -> list[tuple[Column, list[str]]]:
    """A column for each inference field that was examined, with the value with which each policy acts."""
    found = []
    for name in sweep.examined:
        # A searched parameter has a column already; it shows the value of the training.
        header = f"{names[name]} chosen" if name in sweep.varying else names[name]
        cells = [value_text(trial.acting(name)) if trial.tried else "" for trial in trials]
        if any(cells):
            found.append((Column(header, stacks=True, spare=1), cells))
    return found


def _stacked_table(
    columns: list[Column], rows: list[list[Text | str]], width: int | None
) -> tuple[list[Column], list[list[Text | str]]]:
    """A table whose long names and values are broken into lines as far as the width requires it."""
    for name_width in NAME_WIDTHS if width is not None else NAME_WIDTHS[-1:]:
        heads = [
            replace(one, header=stacked(one.header, name_width)) if one.stacks else one for one in columns
        ]
        cells = [
            [
                stacked(cell, name_width) if column.stacks and isinstance(cell, str) else cell
                for column, cell in zip(columns, row, strict=True)
            ]
            for row in rows
        ]
        if width is not None and _width(heads, cells) <= width:
            break
    return heads, cells


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        header: Its header, of one or more lines.
        justify: The alignment of its cells.
        style: The style of its cells.
        stacks: Whether its header and cells are names, which are broken between their words.
        wraps: Whether a cell may be broken into lines if the terminal is narrow.
        spare: The higher, the sooner it is left out if there is no space; 0: never.
    """

    header: str
    justify: Literal["left", "right"] = "right"
    style: str = ""
    stacks: bool = False
    wraps: bool = False
    spare: int = 0

    def width(self, cells: Sequence[Text | str]) -> int:
        """The least number of characters that it needs."""
        texts = [self.header, *(str(cell) for cell in cells)]
        pieces = [piece for text in texts for piece in (text.split() if self.wraps else text.splitlines())]
        return max((len(piece) for piece in pieces), default=1)


def _width(columns: Sequence[Column], rows: Sequence[Sequence[Text | str]]) -> int:
    widths = [column.width([row[number] for row in rows]) for number, column in enumerate(columns)]
    return sum(widths) + len(widths) - 1


def fitted_table(
    columns: Sequence[Column],
    rows: Sequence[Sequence[Text | str]],
    width: int | None = None,
    *,
    title: str | None = None,
    styles: Sequence[str] = (),
    lines: bool = True,
) -> Table:
    """A table whose cells are never cut off: a column is as wide as its longest word.

    Args:
        columns: Its columns.
        rows: Its cells.
        width: Available characters; None for as many as it needs. If it is too wide, columns that can be
            spared are left out. What still does not fit is folded: an ugly number is better than a wrong one.
        title: The line above it.
        styles: The style of each row.
        lines: Whether a line is drawn below the headers.
    """
    while width is not None and _width(columns, rows) > width and any(column.spare for column in columns):
        least = max(range(len(columns)), key=lambda number: columns[number].spare)
        columns = [*columns[:least], *columns[least + 1 :]]
        rows = [[*row[:least], *row[least + 1 :]] for row in rows]
    folds = width is not None and _width(columns, rows) > width
    table = LongTable(
        title=None if title is None else escape(title),
        title_justify="left",
        header_style="bold" if lines else "dim",
        box=SIMPLE_HEAD if lines else None,
        show_edge=False,
        pad_edge=False,
        padding=0 if lines else (0, 1, 0, 0),
    )
    for number, column in enumerate(columns):
        table.add_column(
            column.header,
            justify=column.justify,
            style=column.style,
            vertical="top",
            overflow="fold",
            no_wrap=not (column.wraps or folds),
            min_width=None if folds else column.width([row[number] for row in rows]),
        )
    for number, row in enumerate(rows):
        # A value such as "[/]" or ":smile:" is not markup.
        cells = [Text(cell) if isinstance(cell, str) else cell for cell in row]
        table.add_row(*cells, style=styles[number] if styles else None)
    return table


def print_ranking(
    console: Console, sweep: SweepState, top: int | None = None, standing: Standing | None = None
) -> None:
    """Print the ranking: fitted to a terminal, and whole into a file or a pipe.

    Args:
        console: Where to print.
        sweep: The sweep.
        top: Show this many trials; None for all.
        standing: How sure the ranking is; None: it is found out.
    """
    ranking = sweep.ranking()
    standing = standing_of(sweep, ranking) if standing is None else standing
    if console.is_terminal:
        console.print(_ranking_table(sweep, ranking[:top], console.width, standing))
    else:
        narrow, console.width = console.width, WIDE
        console.print(_ranking_table(sweep, ranking[:top], None, standing))
        console.width = narrow
    for line in certainty_lines(sweep, standing):
        console.print(line, soft_wrap=True)
    if _contradicts_values(sweep, ranking[:top]):
        console.print(Text(RANKED_BY_STATE, style="dim"), soft_wrap=True)
    for remark in _remarks(sweep, ranking):
        console.print(remark, soft_wrap=True)


def _contradicts_values(sweep: SweepState, trials: Sequence[TrialState]) -> bool:
    """Whether a trial that was stopped early is below one whose value is worse."""
    objective = sweep.objectives[0]
    worst: float | None = None
    for trial in trials:
        value = trial.final.get(objective.name, math.nan)
        if not math.isfinite(value) or trial.status not in COMPARED:
            continue
        if worst is None or is_better(worst, value, objective.goal):
            worst = value
        elif trial.status == TrialStatus.STOPPED_EARLY and value != worst:
            return True
    return False


def _remarks(sweep: SweepState, ranking: Sequence[TrialState]) -> list[Text]:
    """The lines below the table: why trials failed, where their logs are, and which were retried."""
    remarks = []
    failed = [trial for trial in ranking if trial.status == TrialStatus.FAILED]
    for trial in failed[:FAILURES_SHOWN]:
        message = (trial.message.splitlines() or [""])[0]
        remarks.append(Text(f"trial {trial.number} failed: {trial.reason}: {message}", style="red"))
        log = trial_folder(sweep.folder, trial.number) / ERROR_TEXT
        if log.exists():
            remarks.append(Text(f"  last lines and path of its log: {log}", style="dim"))
    if len(failed) > FAILURES_SHOWN:
        remarks.append(
            Text(f"{len(failed) - FAILURES_SHOWN} more trials failed; --json shows all.", style="red")
        )
    first = sorted((trial for trial in ranking if trial.origin), key=lambda trial: trial.number)
    if first:
        listed = ", ".join(f"trial {trial.number} ({trial.origin})" for trial in first)
        remarks.append(Text(f"tried first: {listed}", style="dim"))
    for trial in ranking:
        if trial.retries:
            reasons = ", ".join(f"{reason} ({count}×)" for reason, count in trial.retries.items())
            changed = "".join(f", now with {name} = {value_text(to)}" for name, to in trial.changes.items())
            remarks.append(Text(f"trial {trial.number} was retried after {reasons}{changed}", style="dim"))
    return remarks


def _best_differs(trials: Sequence[TrialState], name: str) -> bool:
    return any(trial.final.get(name) != trial.best.get(name) for trial in trials)


def _cells(
    trial: TrialState,
    values: Sequence[tuple[str, bool]],
    certain: Sequence[Text | str],
    parameters: Sequence[Text | str],
) -> list[Text | str]:
    """The cells of a trial.

    Args:
        trial: The trial.
        values: Each objective, and whether the table has a column for its best value.
        certain: Cells that say how sure the ranking is.
        parameters: Cells of the searched parameters, and of the inference fields.
    """
    cells: list[Text | str] = [str(trial.number), trial_state_text(trial)]
    for name, with_best in values:
        cells.append(number_text(trial.final.get(name)))
        if with_best:
            cells.append(number_text(trial.best.get(name)))
    cells += certain
    return [*cells, *parameters, str(trial.step), clock_text(trial.duration_s())]


def sweeps_table(sweeps: Sequence[SweepState], width: int | None = None) -> Table:
    """Several sweeps as a table for a terminal of this width; None for as wide as it needs."""
    columns = [
        Column("sweep", "left"),
        Column("state", "left"),
        Column("trials"),
        Column("failed"),
        Column("best", style="bold"),
        Column("objective", "left"),
        Column("started", "left", wraps=True, spare=1),
    ]
    return fitted_table(columns, [_sweep_cells(sweep) for sweep in sweeps], width)


def _sweep_cells(sweep: SweepState) -> list[Text | str]:
    best = sweep.best_so_far()
    budget = sweep.spec.get("budget", {}).get("trials", "?")
    return [
        sweep.name,
        state_text(sweep.state),
        f"{sweep.ended_trials}/{budget}",
        str(sweep.count(TrialStatus.FAILED)),
        "\n".join(number_text(best.get(objective.name)) for objective in sweep.objectives),
        "\n".join(objective.name for objective in sweep.objectives),
        time.strftime("%Y-%m-%d %H:%M", time.localtime(sweep.started)),
    ]


def _summary(sweep: SweepState) -> str:
    counts = [(status, sweep.count(status)) for status in ORDER]
    words = [f"{count} {status.replace('_', ' ')}" for status, count in counts if count]
    return ", ".join([*words, *_cost(sweep)]) or "no trials"


def _cost(sweep: SweepState) -> list[str]:
    """GPU-hours and money so far, and expected ones; empty if no GPU is used and there are no prices."""
    cost, spending, runs = cost_of(sweep), spending_of(sweep), sweep.status == SweepStatus.RUNNING
    words = []
    if cost.so_far:
        so_far = f"{number_text(cost.so_far)} GPU-hours"
        words.append(
            f"{so_far} of about {number_text(cost.expected)}"
            if runs and cost.expected is not None
            else so_far
        )
    if spending is not None:
        words.append(spending_text(spending, runs))
    return words


def spending_text(spending: Spending, runs: bool) -> str:
    """What a sweep costs, and is expected to cost while it runs."""
    so_far = money_text(spending.so_far, spending.currency)
    if not runs or spending.expected is None:
        return so_far
    return f"{so_far} of about {money_text(spending.expected, spending.currency)}"


def state_text(status: str) -> Text:
    """A state as text, in its colour."""
    return Text(status.replace("_", " "), style=STYLES.get(status, ""))


def trial_state_text(trial: TrialState) -> Text:
    """The state of a trial, and the reason if the trial failed or the user ended it."""
    text = state_text(trial.status)
    reason = reason_text(trial)
    return text.append(f": {reason}") if reason else text


def reason_text(trial: TrialState) -> str:
    """Why a trial failed, or how the user ended it; empty for other trials."""
    if trial.status == "failed":
        return trial.reason
    return {"stopped": "on request"}.get(trial.reason, trial.reason) if trial.reason in ASKED else ""


def best_words(status: str) -> tuple[str, str]:
    """What the best trial is called, and what is added to its number: a running one may still get worse."""
    if status == TrialStatus.RUNNING:
        return "in the lead", ", still running"
    return "best so far", ""


def clock_text(seconds: float) -> str:
    """A duration as in a column: ``0:45``, ``3:05`` or ``2:10:00``."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
