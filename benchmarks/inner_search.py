"""What it is worth to search the executed actions on trained policies instead of by training.

``python -m benchmarks.inner_search FOLDER [--repetitions N] [--json FILE]``; an hour or two on two cores.
Each repetition runs two sweeps of twelve trials on Push-T with the same budget of optimiser steps and seed
of the search. ``inner`` tries every number of executed actions on each trained policy (section
``inference`` of the space); ``outer`` has ``policy.n_action_steps`` as one more parameter of the search. The
best three trials of either are then confirmed on the same fresh starts. A second call with the same folder
continues.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import figures, machine
from sweeper.layout import JOURNAL
from sweeper.records.journal import read_journal
from trainables.confidence import mean_interval

TRIALS, FINALISTS, EPISODES = 12, 3, 192
REWARD = "rollout/avg_max_reward"
KINDS = ("inner", "outer")
ACTIONS = "{values: [4, 8, 12]}"
COMMON = (
    "confirm=null",
    f"budget.trials={TRIALS}",
    "config.train.steps=1200",
    "config.train.eval_every=400",
    "config.rollout.video=never",
    "early_stop.min_steps=400",
)
"""Half of the demo's steps, so that six sweeps take hours and not days."""
DIFFERENT = {
    "inner": (f"inference.parameters={{policy.n_action_steps: {ACTIONS}}}",),
    "outer": (
        "inference=null",
        f"parameters.policy.n_action_steps={ACTIONS}",
        "constraints=[policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1]",
    ),
}


def run(folder: Path, repetitions: int, say: Console) -> list[dict[str, Any]]:
    """Run or continue the sweeps and their confirmations; one row for each sweep."""
    rows = []
    for repetition in range(repetitions):
        for kind in KINDS:
            say.print(f"[dim]repetition {repetition}, {kind} …[/dim]")
            rows.append({"repetition": repetition, "kind": kind} | _sweep(folder, kind, repetition))
    return rows


def _sweep(folder: Path, kind: str, seed: int) -> dict[str, Any]:
    name = f"{kind}-{seed}"
    if not (folder / name).exists():
        space = ("pusht_quick", f"name={name}", f"search.seed={seed}", *COMMON, *DIFFERENT[kind])
        _command("launch", *space, folder=folder)
    elif _results(folder, name)["state"] != "done":
        _command("resume", name, folder=folder)
    if not (_results(folder, name)["confirmation"] or {}).get("complete"):
        finalists = ("--top", str(FINALISTS), "--episodes", str(EPISODES))
        _command("confirm", name, *finalists, folder=folder)
    return _row(_results(folder, name), folder / name)


def _row(found: dict[str, Any], sweep: Path) -> dict[str, Any]:
    """The winner before and after the confirmation, and what the sweep cost."""
    confirmed = found["confirmation"]
    winner = next(one for one in confirmed["finalists"] if one["trial"] == confirmed["winner"])
    ranked = found["trials"]
    steps = sum(trial["step"] for trial in ranked)
    actions = winner["setting"].get("policy.n_action_steps")
    if actions is None:
        values = next(trial["values"] for trial in ranked if trial["trial"] == winner["trial"])
        actions = values.get("policy.n_action_steps")
    figures = winner["metrics"]
    return {
        "search": ranked[0]["final"][REWARD],
        "winner's search": figures["search"],
        "confirmed": figures[REWARD],
        "low": figures[f"{REWARD}_low"],
        "high": figures[f"{REWARD}_high"],
        "success": figures["rollout/success_rate"],
        "n_action_steps": actions,
        "optimiser steps": steps,
        "trained to the end": sum(trial["status"] == "completed" for trial in ranked),
        "seconds of trials": sum(trial["duration_s"] for trial in ranked),
        "settings examined": sum(event["event"] == "tuned" for event in read_journal(sweep / JOURNAL).events),
    }


def _results(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_command("results", name, "--json", folder=folder))
    return found


def _command(*arguments: str, folder: Path) -> str:
    environment = os.environ | {"SWEEPER_SWEEPS": str(folder), "SWEEPER_REPORT": "off"}
    command = [sys.executable, "-m", "sweeper.cli", *arguments]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean difference of the confirmed values, inner minus outer, and of what the search had shown."""
    by_kind = {kind: np.array([row["confirmed"] for row in rows if row["kind"] == kind]) for kind in KINDS}
    differences = by_kind["inner"] - by_kind["outer"]
    shrinkage = np.array([row["search"] - row["confirmed"] for row in rows])
    found = {"inner - outer": float(differences.mean()), "search - confirmed": float(shrinkage.mean())}
    for name, values in (("inner - outer", differences), ("search - confirmed", shrinkage)):
        interval = mean_interval(values)
        if interval is not None:
            found[f"{name}, low"], found[f"{name}, high"] = interval
    return found


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw for each sweep what its search promised and what was confirmed, with the interval at 95 %."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for kind, colour, shift in zip(KINDS, ("tab:blue", "tab:orange"), (-0.12, 0.12), strict=True):
        mine = [row for row in rows if row["kind"] == kind]
        places = np.array([row["repetition"] for row in mine]) + shift
        confirmed = np.array([row["confirmed"] for row in mine])
        reach = np.array([[row["confirmed"] - row["low"], row["high"] - row["confirmed"]] for row in mine]).T
        axes.errorbar(places, confirmed, yerr=reach, fmt="o", color=colour, label=f"{kind}: confirmed")
        searched = [row["search"] for row in mine]
        axes.plot(places, searched, "x", color=colour, label=f"{kind}: best of its search")
    numbers = sorted({row["repetition"] for row in rows})
    axes.set_xticks(numbers, [f"repetition {number + 1}" for number in numbers])
    axes.set_ylabel("mean of the largest rewards")
    axes.set_ylim(bottom=0)
    figure.legend(loc="outside right upper", frameon=False)
    figures.save(figure, path)


def main() -> None:
    """Run it, show a table, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inner_search", description=__doc__)
    parser.add_argument("folder", type=Path, help="where the sweeps are kept; a second call continues them")
    parser.add_argument("--repetitions", type=int, default=3, help="pairs of sweeps")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--figure", type=Path, help="draw the rewards into this file")
    arguments = parser.parse_args()
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    rows = run(arguments.folder, arguments.repetitions, console)
    table = Table(title="executed actions, searched on trained policies or by training", title_justify="left")
    for name in rows[0]:
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
    console.print(table)
    totals = summary(rows)
    console.print(", ".join(f"{name} {value:+.3f}" for name, value in totals.items()))
    if arguments.figure is not None:
        draw(rows, arguments.figure)
    if arguments.json is not None:
        everything = {"machine": machine.describe(), "sweeps": rows, "summary": totals}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
