"""What a person is told when a sweep has ended."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from sweeper.records.sweep_state import Status, SweepState
from sweeper.terminal.tables import print_ranking
from sweeper.tracking.state import Delivery

__all__ = ["SweepResult", "print_result"]

EXIT_CODES: Mapping[Status, int] = {"done": 0, "failed": 1, "interrupted": 130}


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        sweep: What came of it.
        status: ``done``, ``failed`` or ``interrupted``.
        message: Why, in a sentence.
        delivery: What MLflow has of it.
        url: Address that compares the best trials in MLflow's pages; None where MLflow has none of them.
        charts: Address that charts all trials, the best first; None where MLflow has none of them.
        served: Whether these addresses are served already.
        address: Ray cluster that was named for it.
    """

    sweep: SweepState
    status: Status
    message: str
    delivery: Delivery
    url: str | None = None
    charts: str | None = None
    served: bool = False
    address: str | None = None

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return EXIT_CODES[self.status]


def print_result(console: Console, result: SweepResult) -> None:
    """Print what came of a sweep: the ranking, where everything lies, and how to look closer or go on."""
    sweep = result.sweep
    console.print()
    if sweep.trials:
        print_ranking(console, sweep)
        console.print()
    style = {"done": "bold green", "failed": "bold red", "interrupted": "bold magenta"}[result.status]
    console.print(Text(result.message, style=style))
    if not sweep.folder.exists():
        console.print("No trial had begun, so nothing is left behind.")
        return
    console.print(f"Everything lies in {sweep.folder}", soft_wrap=True)
    if not result.delivery.complete:
        console.print(Text(str(result.delivery), style="yellow"), soft_wrap=True)
    option = (
        "" if sweep.folder.parent == Path("sweeps") else f" --sweeps {shlex.quote(str(sweep.folder.parent))}"
    )
    if result.url is not None:
        if not result.served:
            console.print(
                f"MLflow's pages: `sweeper ui {shlex.quote(sweep.name)}{option}`, then", soft_wrap=True
            )
        console.print(f"Compare the best trials: {result.url}", soft_wrap=True)
        console.print(f"Chart all trials: {result.charts}", soft_wrap=True)
    if result.status == "interrupted":
        console.print(f"To go on where it stopped: {_go_on(result, option)}", soft_wrap=True)


def _go_on(result: SweepResult, option: str) -> str:
    """The command that goes on with a sweep, from the same folder and on the same cluster."""
    address = "" if result.address is None else f" --address {shlex.quote(result.address)}"
    return f"`sweeper resume {shlex.quote(result.sweep.name)}{option}{address}`"
