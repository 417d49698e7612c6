"""The summary at the end of a sweep."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sweeper.records.status import SweepStatus
from sweeper.records.sweep_state import SweepState
from sweeper.terminal.tables import print_ranking
from sweeper.tracking.state import Delivery

__all__ = ["SweepResult", "print_result"]

EXIT_CODES: Mapping[SweepStatus, int] = {
    SweepStatus.DONE: 0,
    SweepStatus.FAILED: 1,
    SweepStatus.INTERRUPTED: 130,
}


@dataclass(frozen=True)
class SweepResult:
    """The result of a sweep.

    Attributes:
        sweep: Its state at the end.
        status: ``done``, ``failed`` or ``interrupted``.
        message: Why it ended, in a sentence.
        delivery: How much of it was uploaded to MLflow.
        url: Address of MLflow's page that compares the best trials; None if MLflow has none of them.
        charts: Address of MLflow's charts of all trials, best first; None if MLflow has none of them.
        served: Whether a server already answers at these addresses.
        address: Ray cluster that the user named for it.
    """

    sweep: SweepState
    status: SweepStatus
    message: str
    delivery: Delivery
    url: str | None = None
    charts: str | None = None
    served: bool = False
    address: str | None = None

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
    if not result.delivery.complete:
        console.print(Text(str(result.delivery), style="yellow"), soft_wrap=True)
    option = (
        "" if sweep.folder.parent == Path("sweeps") else f" --sweeps {shlex.quote(str(sweep.folder.parent))}"
    )
    if result.url is not None:
        if not result.served:
            console.print(
                f"To see it in MLflow, run `sweeper ui {shlex.quote(sweep.name)}{option}`, then open:",
                soft_wrap=True,
            )
        console.print(f"Compare the best trials: {result.url}", soft_wrap=True)
        console.print(f"Chart all trials: {result.charts}", soft_wrap=True)
    if result.status == SweepStatus.INTERRUPTED:
        console.print(f"To continue it: {_resume_command(result, option)}", soft_wrap=True)


def _resume_command(result: SweepResult, option: str) -> str:
    """The command that continues a sweep, in the same folder and on the same cluster."""
    address = "" if result.address is None else f" --address {shlex.quote(result.address)}"
    return f"`sweeper resume {shlex.quote(result.sweep.name)}{option}{address}`"
