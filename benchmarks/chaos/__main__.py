"""Disturb sweeps and count what is lost: ``python -m benchmarks.chaos [--kind K] [--count N] [--seconds S]``.

Every sweep is a real one, with its own Ray, MLflow and Optuna; only what is trained is small, and its series
are known beforehand. docs/reliability.md says what the columns mean.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.chaos.arena import Arena
from benchmarks.chaos.checks import COUNTS, Tally
from benchmarks.chaos.kinds import KINDS, Order
from benchmarks.chaos.outages import OUTAGES
from benchmarks.chaos.training import TRAINING

ALL = {**KINDS, **OUTAGES, **TRAINING}


def main() -> None:
    """Run the kinds that are asked for, show a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--kind", action="append", choices=list(ALL), help="only this one; may be repeated")
    parser.add_argument("--count", type=int, default=10, help="strikes of each kind")
    parser.add_argument("--seconds", type=float, default=600, help="most seconds for each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--json", type=Path, help="write everything that was counted to this file too")
    arguments = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console.width = 200
    info = {**machine.describe(), **{name: version(name) for name in ("ray", "optuna", "mlflow")}}
    results: dict[str, Any] = {"machine": info, "seed": arguments.seed, "kinds": {}}
    tallies = []
    for kind in arguments.kind or ALL:
        tally = _run(kind, arguments, console)
        tallies.append(tally)
        results["kinds"][kind] = tally.to_json()
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    console.print(", ".join(f"{name} {value}" for name, value in info.items()), style="dim")
    console.print(_table(tallies))
    for tally in tallies:
        for note in tally.notes:
            console.print(f"{tally.kind}: {note}", style="red", markup=False)
    sys.exit(0 if all(tally.clean for tally in tallies) else 1)


def _run(kind: str, arguments: argparse.Namespace, console: Console) -> Tally:
    arena = Arena()
    since = time.monotonic()
    order = Order(
        arguments.count,
        since + arguments.seconds,
        random.Random(f"{kind} {arguments.seed}"),
        lambda text: console.print(text, style="dim", markup=False),
        arena,
    )
    try:
        tally = ALL[kind](order)
    finally:
        arena.close()
    tally.figures["took_s"] = round(time.monotonic() - since)
    return tally


def _table(tallies: list[Tally]) -> Table:
    table = Table(title="What was done, and what was lost", title_justify="left")
    table.add_column("")
    for tally in tallies:
        table.add_column(tally.kind, justify="right")
    rows: dict[str, list[str]] = {
        "strikes": [str(tally.strikes) for tally in tallies],
        "trials": [str(tally.trials) for tally in tallies],
        "points checked": [str(tally.points) for tally in tallies],
        **{words: [str(tally.counts[name]) for tally in tallies] for name, words in COUNTS.items()},
        "seconds until work went on, median": [_seconds(tally, median) for tally in tallies],
        "longest": [_seconds(tally, max) for tally in tallies],
    }
    for name, cells in rows.items():
        table.add_row(name, *cells)
    return table


def _seconds(tally: Tally, of: Callable[[list[float]], float]) -> str:
    return f"{of(tally.seconds):.1f}" if tally.seconds else ""


if __name__ == "__main__":
    main()
