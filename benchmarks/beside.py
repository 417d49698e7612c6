"""How much longer a training takes if it is evaluated beside or inline: a simulator that sleeps 5 ms a step.

``python -m benchmarks.beside [--rounds N] [--steps N] [--json FILE]``; about eight minutes on two idle cores.
Each round trains the same policy on one thread without evaluations, with evaluations beside training and
inline, in turns. Counted is the time from the first step to the last one: the evaluation after the last step
has no training to run beside. Checkpoints are written at the same steps in all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["main"]

KINDS = ("none", "beside", "inline")
GOAL = 1.1


def run(rounds: int, steps: int, folder: Path) -> dict[str, list[dict[str, float]]]:
    """Measure each kind of training as many times as there are rounds."""
    from benchmarks.chaos.training import write_circles

    write_circles(folder / "circles")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for number in range(rounds):
        for kind in KINDS:
            place = folder / f"{kind}-{number}"
            found[kind].append(_train(_config(folder / "circles", kind, steps), place))
    return found


def _config(root: Path, kind: str, steps: int) -> dict[str, Any]:
    config: dict[str, Any] = {
        "dataset.root": str(root),
        "dataset.holdout_fraction": 0.25,
        "policy.horizon": 16,
        "policy.down_dims": [32, 64],
        "policy.sampler": "DDIM",
        "policy.num_inference_steps": 10,
        "lr_scheduler.warmup_steps": 10,
        "train.steps": steps,
        "train.batch_size": 64,
        "train.log_every": 25,
        "train.eval_every": steps // 3,
        "train.checkpoint_every": steps // 3,
        "eval.windows": 64,
        "eval.denoising_picture": False,
        "rollout.env": "benchmarks.sleeping:Sleeping",
        "rollout.max_steps": 40,
        "rollout.episodes": 50,
        "rollout.final_episodes": 1,
        "rollout.video": "never",
    }
    if kind == "none":
        return config | {"train.eval_every": steps}
    return config | {"train.evaluation": kind}


def _train(config: Mapping[str, Any], folder: Path) -> dict[str, float]:
    """Train, and measure the time between the first step and the last, and everything's CPU-seconds."""
    from trainables.diffusion_policy import TRAINABLE
    from trainables.interface import TrainContext

    stepped: list[float] = []

    def stop_requested() -> bool:
        stepped.append(time.perf_counter())
        return False

    context = TrainContext(
        folder=folder, cache=folder.parent / "cache", threads=1, stop_requested=stop_requested
    )
    before = _cpu_s()
    reports = list(TRAINABLE.train(config, context))
    assert reports[-1].final
    assert len(stepped) == config["train.steps"]
    return {"wall_s": stepped[-1] - stepped[0], "cpu_s": _cpu_s() - before}


def _cpu_s() -> float:
    """CPU-seconds of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def main() -> None:
    """Measure, and print a table."""
    from rich.console import Console
    from rich.table import Table

    from benchmarks import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="times that each is measured")
    parser.add_argument("--steps", type=int, default=1500, help="optimiser steps, a multiple of 3")
    parser.add_argument("--json", type=Path, help="write everything that was measured to this file too")
    arguments = parser.parse_args()
    info = machine.describe() | {"load": f"{os.getloadavg()[0]:.1f}"}
    with tempfile.TemporaryDirectory() as folder:
        found = run(arguments.rounds, arguments.steps, Path(folder))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps({"machine": info, "rounds": found}, indent=1) + "\n")
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in info.items()), style="dim")
    table = Table(title=f"{arguments.steps} steps, two evaluations of 50 episodes between them")
    for column in ("evaluation", "wall, s (least)", "of training alone", "CPU, s (least)"):
        table.add_column(column, justify="left" if column == "evaluation" else "right")
    least = {kind: min(one["wall_s"] for one in rows) for kind, rows in found.items()}
    for kind, rows in found.items():
        ratio = least[kind] / least["none"]
        cpu_s = min(one["cpu_s"] for one in rows)
        table.add_row(kind, f"{least[kind]:.1f}", f"{ratio:.2f}", f"{cpu_s:.1f}")
    console.print(table)
    console.print(f"The goal for beside is at most {GOAL}, if a core is free.", style="dim")


if __name__ == "__main__":
    main()
