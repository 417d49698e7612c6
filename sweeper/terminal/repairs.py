"""Print what a repair of a dataset changed, and what it left."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from sweeper.terminal.findings import print_finding
from sweeper.text import counted
from trainables.interface import Change, Repair

__all__ = ["print_repair", "repair_json"]

SHOWN_FILES = 10


def repair_json(root: str, to: Path | None, repair: Repair) -> dict[str, Any]:
    """A repair as plain types. All keys exist; those of the copy are null if there can be none."""
    names = ("version", "fps", "episodes", "frames", "size_b")
    return {
        "root": root,
        "to": str(to) if repair.written else None,
        **{name: repair.summary.get(name) for name in names},
        "changes": [
            dataclasses.asdict(change) | {"episodes": list(change.episodes)} for change in repair.changes
        ],
        "remaining": [
            dataclasses.asdict(found) | {"episodes": list(found.episodes)} for found in repair.remaining
        ],
        "left_behind": list(repair.left_behind),
    }


def print_repair(console: Console, root: str, to: Path | None, repair: Repair, *, dry_run: bool) -> None:
    """Print each change, what remains with its reason, and where the copy is."""
    console.print(Text(root, style="bold"), soft_wrap=True)
    if repair.changes:
        console.print()
        console.print(Padding(_changes(repair.changes), (0, 0, 0, 2), expand=False))
    if repair.left_behind:
        _print_left_behind(console, repair.left_behind)
    for found in repair.remaining:
        print_finding(console, found)
    console.print()
    console.print(_last_words(to, repair, dry_run), soft_wrap=True)


def _changes(changes: Sequence[Change]) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="dim")
    table.add_column("where", overflow="fold", max_width=26)
    table.add_column("in the original", overflow="fold")
    table.add_column("in the copy", overflow="fold", style="green")
    for change in changes:
        table.add_row(
            Text(change.where, style="bold"), Text(change.problem), Text(change.done, style="green")
        )
    return table


def _print_left_behind(console: Console, files: Sequence[str]) -> None:
    more = f" and {len(files) - SHOWN_FILES:,} more" if len(files) > SHOWN_FILES else ""
    shown = ", ".join(files[:SHOWN_FILES])
    words = f"Not part of the dataset, and not copied: {shown}{more}."
    console.print()
    console.print(Padding(Text(words, style="dim"), (0, 0, 0, 2), expand=False))


def _last_words(to: Path | None, repair: Repair, dry_run: bool) -> Text:
    made = counted(len(repair.changes), "change")
    open_ones = [found for found in repair.remaining if found.severity != "note"]
    left = f" {counted(len(open_ones), 'problem')} not repaired." if open_ones else ""
    if not repair.summary:
        return Text(f"Nothing was written.{left}", style="bold red")
    summary = repair.summary
    what = f"{summary['version']}, {summary['episodes']:,} episodes, {summary['frames']:,} frames"
    if dry_run:
        return Text(f"{made} would be made ({what}).{left} Nothing was written.", style="bold")
    return Text(f"{made}. The copy is {to} ({what}).{left}", style="bold")
