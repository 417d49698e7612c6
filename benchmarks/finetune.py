"""What fine-tuning is worth: a policy that learnt half of Push-T's demonstrations goes on with the other.

``python -m benchmarks.finetune [--steps N] [--json FILE]``; some minutes on one core, so `make bench` leaves
it out. Side by side: the policy of the first half at its end, its first and its last evaluation on the second
half (normalised with the new statistics, and with its own), and a policy that begins with random weights
there. Rollouts start from the same places with the same noise everywhere; the held-out error is that of the
half that is trained on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT, DatasetConfig
from trainables.diffusion_policy.data import load_dataset
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.interface import Report, TrainContext

STEPS = 1600
REWARD, ERROR = "rollout/avg_max_reward", "eval/action_mse"
OBSERVATIONS = ["observation.state", "observation.environment_state"]
CONFIG: dict[str, Any] = {
    "dataset.repo_id": BUILTIN_PUSHT,
    "dataset.observations": OBSERVATIONS,
    "optimizer.lr": 3e-3,
    "lr_scheduler.warmup_steps": 100,
    "train.batch_size": 64,
    "train.log_every": 100,
    "eval.windows": 128,
    "rollout.env": "gym_pusht/PushT-v0",
    "rollout.episodes": 50,
    "rollout.video": "never",
}
POLICY: dict[str, Any] = {
    "policy.horizon": 16,
    "policy.n_action_steps": 8,
    "policy.down_dims": [32, 64],
    "policy.diffusion_step_embed_dim": 32,
    "policy.prediction_type": "sample",
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 8,
}


def run(folder: Path, cache: Path, steps: int = STEPS) -> dict[str, float]:
    """Train, fine-tune and begin anew; rewards and errors at the ends, and of the first evaluations.

    Args:
        folder: Where the runs lie.
        cache: Where the built-in dataset lies or is made.
        steps: Optimiser steps on the first half; a quarter of them on the second.
    """
    dataset = DatasetConfig(repo_id=BUILTIN_PUSHT, observations=tuple(OBSERVATIONS))
    episodes = len(load_dataset(dataset, cache).episodes)
    halves = [list(range(episodes // 2)), list(range(episodes // 2, episodes))]
    further = {
        **CONFIG,
        "dataset.episodes": halves[1],
        "train.steps": max(2, steps // 4),
        "train.eval_every": max(2, steps // 4),
        "lr_scheduler.warmup_steps": min(100, steps // 10),
        "train.eval_at_start": True,
    }
    first = CONFIG | POLICY | {"dataset.episodes": halves[0], "train.steps": steps, "train.eval_every": steps}
    first["lr_scheduler.warmup_steps"] = min(100, steps // 10)
    tuned = further | {"policy.path": str(folder / "first"), "optimizer.lr": CONFIG["optimizer.lr"] / 3}
    runs = {
        "first half": _train(first, folder / "first", cache),
        "second half, fine-tuned": _train(tuned, folder / "tuned", cache),
        "second half, fine-tuned, old statistics": _train(
            tuned | {"policy.stats": "checkpoint"}, folder / "old-statistics", cache
        ),
        "second half, from scratch": _train(further | POLICY, folder / "scratch", cache),
    }
    results = {}
    for name, reports in runs.items():
        judged = [report for report in reports if REWARD in report.metrics]
        for report in judged:
            where = f"{name}, step {report.step}"
            results[f"{where}: {REWARD}"] = report.metrics[REWARD]
            results[f"{where}: {ERROR}"] = report.metrics[ERROR]
    return results


def _train(config: dict[str, Any], folder: Path, cache: Path) -> list[Report]:
    objective = (REWARD, "maximize")
    context = TrainContext(folder=folder, cache=cache, threads=1, objective=objective)  # type: ignore[arg-type]
    return list(TRAINABLE.train(config, context))


def main() -> None:
    """Run it, show a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.finetune", description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS, help="optimiser steps on the first half")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory() as folder:
        results = run(Path(folder) / "runs", Path(folder) / "cache", arguments.steps)
    table = Table(title="fine-tuning on the other half of Push-T", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in results.items():
        table.add_row(name, f"{value:,.4f}")
    console.print(table)
    if arguments.json is not None:
        everything = {"machine": machine.describe(), "fine-tuning": results}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
