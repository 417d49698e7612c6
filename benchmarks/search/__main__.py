"""Which search method ends with better policies: ``python -m benchmarks.search [--json FILE]``.

Plays sweeps with our samplers and our rules of early stopping, each combination with the same seeds and the
same budget of optimiser steps. Trials report learning curves that were recorded on Push-T
(`benchmarks.learning_curves`), in two ways: ``fitted`` predicts the curve of any configuration and adds the
noise of a recorded one, ``recorded`` uses the nearest recorded curve. Prints the tables of docs/search.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch

from benchmarks import machine
from benchmarks.learning_curves import TABLE, read_table
from benchmarks.search.comparison import Method, Row, bootstrap, rows
from benchmarks.search.curves import Curves, Fitted, Recorded
from benchmarks.search.sweeps import AT_ONCE, SAMPLERS, STOPPERS, Played, play
from sweeper.records.ranking import since_gain

SLOW = ("gp",)
SLOW_STOPPERS = ("none", "asha", "asha, later")
"""Rules with which slow samplers are played."""
PATIENCE = (5, 10, 15, 20, 30)
"""Values of ``budget.stagnation`` that are compared."""


def methods(samplers: Sequence[str], stoppers: Sequence[str]) -> list[Method]:
    """The combinations that are played."""
    return [
        (sampler, stopper)
        for sampler in samplers
        for stopper in stoppers
        if sampler not in SLOW or stopper in SLOW_STOPPERS
    ]


def compare(curves: Curves, chosen: Sequence[Method], sweeps: int, trainings: int) -> list[Row]:
    """Play the sweeps of each method."""
    played: dict[Method, list[Played]] = {}
    for method in chosen:
        began = time.process_time()
        played[method] = [play(curves, *method, seed, trainings) for seed in range(sweeps)]
        print(f"  {', '.join(method)}: {time.process_time() - began:.0f} s of CPU", flush=True)
    return rows(played, curves.best)


def stagnation(sweeps: Sequence[Played], best: float) -> list[dict[str, Any]]:
    """What a sweep that ends when nothing improves any more saves, and what it loses."""
    found = []
    lengths = np.array([len(sweep.ends) for sweep in sweeps])
    whole = np.array([_chosen(sweep, len(sweep.ends)) for sweep in sweeps])
    for patience in PATIENCE:
        stops = np.array([_stop(sweep, patience) for sweep in sweeps])
        chosen = np.array([_chosen(sweep, stop) for sweep, stop in zip(sweeps, stops, strict=True)])
        lost = 100 * (chosen - whole) / best
        found.append(
            {
                "stagnation": patience,
                "sweeps ended by it": float((stops < lengths).mean()),
                "trials": float(stops.mean()),
                "trials without it": float(lengths.mean()),
                "worse by": float(lost.mean()),
                "interval": bootstrap(lost),
            }
        )
    return found


def _stop(sweep: Played, patience: int) -> int:
    """The number of trials after which the last ones brought no gain."""
    ended = [(reported,) for reported, _ in sweep.ends]
    counts = range(patience, len(ended))
    return next((count for count in counts if since_gain(ended[:count]) >= patience), len(ended))


def _chosen(sweep: Played, trials: int) -> float:
    """The true error of the best of the first trials."""
    return min(sweep.ends[:trials])[1]


def table(found: Sequence[Row]) -> str:
    """The rows as Markdown."""
    lines = [
        "| sampler | early stopping | trials begun | completed | above the best | less than random, none | "
        "less than the same sampler with asha | promotion: less than with asha and the same first rung |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in found:
        against = ("random, none", "the same sampler, asha", "the same with asha")
        gains = " | ".join(_gain(row, name) for name in against)
        low, high = row.interval
        lines.append(
            f"| {row.sampler} | {row.stopper} | {row.begun:.0f} | {row.completed:.1f} | "
            f"{row.error:.2f} % ({low:.2f} to {high:.2f}) | {gains} |"
        )
    return "\n".join(lines)


def stagnation_table(found: Sequence[Mapping[str, Any]]) -> str:
    """What `stagnation` found as Markdown."""
    lines = [
        "| `budget.stagnation` | sweeps that it ended | trials, mean | instead of | worse by |",
        "|---|---|---|---|---|",
    ]
    for row in found:
        low, high = row["interval"]
        lines.append(
            f"| {row['stagnation']} | {100 * row['sweeps ended by it']:.0f} % | {row['trials']:.0f} | "
            f"{row['trials without it']:.0f} | {row['worse by']:.2f} % ({low:.2f} to {high:.2f}) |"
        )
    return "\n".join(lines)


def _gain(row: Row, name: str) -> str:
    if name not in row.gain:
        return ""
    low, high = row.gain_interval[name]
    return f"{row.gain[name]:+.2f} ({low:+.2f} to {high:+.2f})"


def main() -> None:
    """Print the tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.search", description=__doc__)
    parser.add_argument("--sweeps", type=int, default=100, help="simulated sweeps of each method")
    parser.add_argument("--trainings", type=int, default=16, help="budget of a sweep, in whole trainings")
    parser.add_argument(
        "--long", type=int, default=48, help="the same of the sweeps for budget.stagnation; 0: none"
    )
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--stoppers", nargs="+", choices=STOPPERS, default=tuple(STOPPERS))
    parser.add_argument("--curves", nargs="+", choices=("fitted", "recorded"), default=("fitted", "recorded"))
    parser.add_argument("--table", type=Path, default=TABLE, help="the recorded learning curves")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    if 0 < arguments.long < AT_ONCE:
        parser.error(
            f"--long {arguments.long}: no trial completes. Use {AT_ONCE} or more, or 0 to leave it out."
        )
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trials = read_table(arguments.table)["trials"]
    fitted = Fitted(trials)
    kinds: dict[str, Curves] = {"fitted": fitted, "recorded": Recorded(trials, fitted.lengths)}
    said: dict[str, Any] = {
        "machine": machine.describe() | machine.versions("optuna", "cmaes", "scipy"),
        "recorded trials": len(trials),
        "sweeps": arguments.sweeps,
        "trainings": arguments.trainings,
        "length scales": fitted.lengths.tolist(),
        "noise of the last error": float(fitted.unexplained()[-1]),
    }
    print(json.dumps(said))
    for kind in arguments.curves:
        chosen = methods(arguments.samplers, arguments.stoppers)
        print(f"{kind} curves, {arguments.sweeps} sweeps of {arguments.trainings} trainings", flush=True)
        compared = compare(kinds[kind], chosen, arguments.sweeps, arguments.trainings)
        print(table(compared), flush=True)
        said[kind] = [dataclasses.asdict(row) for row in compared]
    for stopper in ("none", "asha") if arguments.long else ():
        long = [play(fitted, "tpe", stopper, seed, arguments.long) for seed in range(arguments.sweeps)]
        said[f"stagnation, tpe, {stopper}"] = found = stagnation(long, fitted.best)
        print(f"budget.stagnation, tpe, {stopper}, {arguments.long} trainings at most")
        print(stagnation_table(found), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(said, indent=1) + "\n")


if __name__ == "__main__":
    main()
