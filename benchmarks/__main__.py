"""Run the short benchmarks: ``python -m benchmarks [--json FILE]``.

Longer ones have commands of their own: ``benchmarks.finetune``, ``benchmarks.chaos``, ``benchmarks.serving``,
and ``benchmarks.gpu`` for a machine with a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import batches, machine, steps

BENCHMARKS: dict[str, Callable[[], dict[str, float]]] = {
    "batches of image windows": batches.run,
    "optimiser steps": steps.run,
}


def main() -> None:
    """Run the benchmarks, show a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on the CPU")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    console = Console()
    results: dict[str, dict[str, float] | dict[str, str]] = {"machine": machine.describe()}
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    for title, run in BENCHMARKS.items():
        console.print(f"[dim]{title} …[/dim]")
        results[title] = run()
        table = Table(title=title, title_justify="left")
        table.add_column("what")
        table.add_column("measured", justify="right")
        for name, value in results[title].items():
            table.add_row(name, f"{value:,.2f}")
        console.print(table)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
