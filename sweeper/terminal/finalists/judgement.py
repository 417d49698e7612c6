"""Print what a person judged of finalists on the real robot."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from sweeper.records.events import winner_of
from sweeper.terminal.finalists.sentences import interval_text
from sweeper.terminal.tables import Column, fitted_table, number_text
from sweeper.text import counted, policy_words, race_words

__all__ = ["print_bundles", "print_judgement", "print_recorded", "print_session"]


class ServedAt(Protocol):
    """Where a policy is served, under its neutral name."""

    @property
    def letter(self) -> str:
        """The neutral name."""
        ...

    @property
    def url(self) -> str:
        """What a client connects to."""
        ...

    @property
    def token(self) -> str | None:
        """What it must send; None if it needs none."""
        ...


class Packed(Protocol):
    """A bundle that was written."""

    @property
    def file(self) -> str:
        """Its path."""
        ...

    @property
    def sha256(self) -> str:
        """Its SHA-256."""
        ...

    @property
    def bytes(self) -> int:
        """Its size."""
        ...


class Unanswered(Protocol):
    """An episode that has no outcome."""

    @property
    def letter(self) -> str:
        """The neutral name of the policy."""
        ...

    @property
    def start(self) -> int:
        """The start, from 0."""
        ...


def print_bundles(console: Console, name: str, folder: Path, bundles: Sequence[Packed]) -> None:
    """Print what was written for another machine, and how the outcomes come back.

    Args:
        console: Where to print.
        name: Name of the sweep.
        folder: The folder that was written.
        bundles: The bundles in it.
    """
    console.print(f"Written into {folder}", style="bold", soft_wrap=True, markup=False)
    for one in bundles:
        file = Path(one.file).name
        console.print(
            f"  {file}  {one.bytes / 1e6:.1f} MB, SHA-256 {one.sha256}", soft_wrap=True, markup=False
        )
    console.print("  sheet.csv: which policy is next, and a place for each outcome", soft_wrap=True)
    console.print("  README.md: what to do on the robot's computer", soft_wrap=True)
    back = f"sweeper judge {shlex.quote(name)} --record {shlex.quote(str(folder / 'sheet.csv'))}"
    console.print(f"When it is filled in, also in part: {back}", soft_wrap=True, markup=False)


def print_recorded(console: Console, file: Path, before: int, recorded: int, left: Unanswered | None) -> None:
    """Print what was recorded of a sheet.

    Args:
        console: Where to print.
        file: The sheet.
        before: How many outcomes the session had.
        recorded: How many were recorded.
        left: The first episode that has no outcome; None if the session has ended.
    """
    words = f"Recorded {counted(recorded, 'outcome')} of {file}; the session had {before} before."
    console.print(words, style="bold", soft_wrap=True, markup=False)
    if left is not None:
        console.print(
            f"The first episode without an outcome is start {left.start + 1} with policy {left.letter}. "
            "Later starts count when it has one.",
            soft_wrap=True,
        )


def print_judgement(console: Console, judgement: Mapping[str, Any], name: str) -> None:
    """Print a judgement: the table of policies, best first, and the answer.

    Args:
        console: Where to print.
        judgement: The event of the journal.
        name: Name of the sweep.
    """
    console.print(_table(judgement, name, console.width if console.is_terminal else None))
    tags = [_tags(one) for one in judgement["finalists"] if one.get("tags")]
    if tags:
        console.print()
        for line in tags:
            console.print(line, soft_wrap=True, markup=False)
    console.print()
    style = "bold green" if judgement["complete"] else "bold magenta"
    console.print(Text(judgement["verdict"], style=style), soft_wrap=True)


def print_session(
    console: Console, letters: Sequence[str], episodes: int, answers: int, served: Sequence[ServedAt]
) -> None:
    """Print what a session is about, before the first question.

    Args:
        console: Where to print.
        letters: The neutral names of the policies.
        episodes: Most starts.
        answers: How many answers there are already.
        served: Where the policies are served; empty if they run elsewhere.
    """
    going = f"continues after {answers} answers" if answers else "starts"
    names = ", ".join(letters)
    console.print(
        f"The session {going}: policies {names}, up to {episodes} starts. The end shows which is which.",
        style="bold",
        soft_wrap=True,
    )
    for one in served:
        token = f"  token {one.token}" if one.token else ""
        console.print(f"  policy {one.letter}: {one.url}{token}", soft_wrap=True, markup=False)


def _tags(one: Mapping[str, Any]) -> str:
    counted = ", ".join(f"{name} ({count:g})" for name, count in one["tags"].items())
    return f"{policy_words(one['trial'], one.get('policy', ''), begin=True)}, what went wrong: {counted}"


def _table(judgement: Mapping[str, Any], name: str, width: int | None) -> Table:
    columns = [
        Column("trial or\npath" if any(one["trial"] is None for one in judgement["finalists"]) else "trial"),
        Column("policy", justify="left"),
        Column("state", justify="left"),
        Column("mean\nscore", style="bold"),
        Column("95 %\ninterval"),
        Column("success", spare=1),
        Column("P(best)"),
        Column("episodes"),
        Column("void", spare=2),
    ]
    rows = [_cells(one) for one in judgement["finalists"]]
    title = f"{name}: on the real robot, judged by a person"
    return fitted_table(columns, rows, width, title=title)


def _cells(one: Mapping[str, Any]) -> list[Text | str]:
    metrics = one["metrics"]
    styles = {"best": "bold green", "left": "yellow", "out": "dim"}
    return [
        str(winner_of(one)),
        str(one.get("letter", "")),
        Text(race_words(one["state"]), style=styles.get(one["state"], "")),
        number_text(metrics.get("score")),
        interval_text(metrics.get("score_low"), metrics.get("score_high")),
        number_text(metrics.get("success_rate")),
        f"{one['p_best']:.2f}" if "p_best" in one else "",
        number_text(metrics.get("episodes")),
        number_text(metrics.get("void")),
    ]
