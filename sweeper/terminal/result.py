"""The summary at the end of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sweeper.errors import INTERRUPTED
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.terminal.finalists.sentences import sweep_arguments
from sweeper.terminal.tables import print_ranking
from sweeper.tracking.state import Delivery
from sweeper.tracking.urls import Links

__all__ = ["SweepResult", "print_links", "print_result", "ui_command"]

EXIT_CODES: Mapping[SweepStatus, int] = {
    SweepStatus.DONE: 0,
    SweepStatus.FAILED: 1,
    SweepStatus.INTERRUPTED: INTERRUPTED,
}


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        sweep: Its state at the end.
        status: ``done``, ``failed`` or ``interrupted``.
        message: Why it ended, in a sentence.
        delivery: How much of it was uploaded to MLflow.
        links: MLflow's pages for it; None if MLflow has none of its trials.
        address: Ray cluster that the user named for it.
        report: Its report; None if there is none.
        report_fault: Why the report was not written, in a line; empty if it was, or if it is switched off.
        missing: What trackers beside MLflow are still missing, in a sentence each.
    """

    sweep: SweepState
    status: SweepStatus
    message: str
    delivery: Delivery
    links: Links | None = None
    address: str | None = None
    report: Path | None = None
    report_fault: str = ""
    missing: Sequence[str] = ()

    @property
    def exit_code(self) -> int:
        """The exit code of the command line."""
        return EXIT_CODES[self.status]


def print_result(console: Console, result: SweepResult) -> None:
    """Print the ranking of a sweep, its folder, the addresses of its pages, and how to resume it."""
    sweep = result.sweep
    console.print()
    if sweep.trials:
        print_ranking(console, sweep)
        console.print()
    style = {"done": "bold green", "failed": "bold red", "interrupted": "bold magenta"}[result.status]
    console.print(Text(result.message, style=style))
    if not sweep.folder.exists():
        console.print("No trial had started, so no files were kept.")
        return
    console.print(f"Results are in {sweep.folder}", soft_wrap=True)
    if result.report is not None:
        console.print(f"Report: {result.report}", soft_wrap=True, markup=False)
    elif result.report_fault:
        fault = f"The report was not written: {result.report_fault}. `sweeper report` writes it."
        console.print(Text(fault, style="yellow"), soft_wrap=True)
    if not result.delivery.complete:
        console.print(Text(str(result.delivery), style="yellow"), soft_wrap=True)
    for sentence in result.missing:
        console.print(Text(sentence, style="yellow"), soft_wrap=True)
    print_links(console, result.links, ui_command(sweep.folder))
    if result.status == SweepStatus.INTERRUPTED or sweep.count(TrialStatus.INTERRUPTED):
        console.print(f"To continue it: {_resume_command(result)}", soft_wrap=True)


def ui_command(folder: Path) -> str:
    """The command that serves the pages of the sweep in a folder."""
    return f"sweeper ui {sweep_arguments(folder)}"


def print_links(console: Console, links: Links | None, command: str) -> None:
    """Print the addresses of MLflow's pages for a sweep; nothing if MLflow has none of its trials.

    Args:
        console: Receives the text.
        links: The addresses.
        command: The command that serves the pages, if no server does.
    """
    if links is None:
        return
    if not links.served:
        console.print(f"To see it in MLflow, run `{command}`, then open:", soft_wrap=True, markup=False)
    console.print(f"Chart all trials: {links.charts}", soft_wrap=True, markup=False)
    console.print(f"Compare the best trials: {links.comparison}", soft_wrap=True, markup=False)


def _resume_command(result: SweepResult) -> str:
    """The command that continues a sweep, in the same folder and on the same cluster."""
    address = "" if result.address is None else f" --address {shlex.quote(result.address)}"
    return f"`sweeper resume {sweep_arguments(result.sweep.folder)}{address}`"
