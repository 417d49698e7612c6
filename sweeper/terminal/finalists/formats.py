"""What was exported to other runtimes, printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.terminal.tables import Column, fitted_table

__all__ = ["print_formats"]


def print_formats(console: Console, made: Sequence[Mapping[str, Any]]) -> None:
    """Print each format: its files, how close they are to the policy, how fast, and what they cost."""
    for one in made:
        _print_report(console, one["report"])
        console.print(f"Exported to {one['folder']} ({one['format']}).", soft_wrap=True, markup=False)


def _print_report(console: Console, report: Mapping[str, Any]) -> None:
    console.print(
        f"{report['format']}: {report['sampler']}, {report['steps']} steps; compared with the policy on "
        f"{report['compared_on']}.",
        soft_wrap=True,
        markup=False,
    )
    rows: list[list[Text | str]] = []
    for variant in report["variants"]:
        parity, latency = variant["parity"], variant["latency"]
        rows.append(
            [
                variant["precision"],
                ", ".join(file["name"] for file in variant["files"]),
                f"{sum(file['bytes'] for file in variant['files']) / 1e6:.2f}",
                f"{parity['largest_difference']:.2g}",
                f"{parity['share_of_range']:.1e}",
                f"{latency['median_ms']:.1f}",
                f"{latency['policy_median_ms']:.1f}",
            ]
        )
    columns = [
        Column("precision", justify="left"),
        Column("files", justify="left", wraps=True),
        Column("MB"),
        Column("largest\ndifference"),
        Column("of the\nrange"),
        Column("ms a\nchunk"),
        Column("policy\nms"),
    ]
    console.print(fitted_table(columns, rows, console.width if console.is_terminal else None))
    for variant in report["variants"]:
        for measured in (variant["action_error"], variant["episodes"]):
            if measured is not None:
                console.print(f"{variant['precision']}: {measured['words']}", soft_wrap=True, markup=False)
    for note in report["notes"]:
        console.print(f"! {note}", style="yellow", soft_wrap=True, markup=False)
