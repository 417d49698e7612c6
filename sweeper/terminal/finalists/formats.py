"""What was exported to other runtimes, printed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from sweeper.terminal.tables import Column, print_table

__all__ = ["print_formats"]


def print_formats(console: Console, made: Sequence[Mapping[str, Any]]) -> None:
    """Print each format: its files, how close they are to the policy, how fast, and what they cost."""
    for one in made:
        if "report" in one:
            _print_report(console, one["report"])
        else:
            for note in one["notes"]:
                console.print(f"- {note}", soft_wrap=True, markup=False)
        console.print(f"Exported to {one['folder']} ({one['format']}).", soft_wrap=True, markup=False)


def _print_report(console: Console, report: Mapping[str, Any]) -> None:
    console.print(
        f"{report['format']}: {report['sampler']}, {report['steps']} steps; compared with the policy on "
        f"{report['compared_on']}.",
        soft_wrap=True,
        markup=False,
    )
    rows = []
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
    titles = ["precision", "files", "MB", "largest difference", "of the range", "ms", "policy ms"]
    print_table(console, [Column(title) for title in titles], rows)
    for variant in report["variants"]:
        for measured in (variant["action_error"], variant["episodes"]):
            if measured is not None:
                console.print(f"{variant['precision']}: {measured['words']}", soft_wrap=True, markup=False)
    for note in report["notes"]:
        console.print(f"! {note}", style="yellow", soft_wrap=True, markup=False)
