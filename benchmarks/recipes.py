"""Which width of network fits how many demonstrations: the recipes of `sweeper init`, an eighth as wide.

``python -m benchmarks.recipes DATASET [--episodes 55 all] [--steps N] [--json FILE]``; DATASET is a LeRobot
dataset of Push-T with keypoints (observation.environment_state), e.g. the 206 human demonstrations. The three
recipes differ in the channels of the U-Net; at their full width a processor would need days, so that each is
trained with an eighth of it: same data, steps, batches, learning rate and seed. All policies then play the
same starts with the same noise. A second call with the same file continues: each cell is measured once.

Times are CPU-seconds of this process, training and evaluations together.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from sweeper.layout import write_whole
from trainables.diffusion_policy.proposals.recipes import FEW, MANY, SOME, Recipe
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.interface import Report, TrainContext

RECIPES = {recipe.words: recipe for recipe in (FEW, SOME, MANY)}
PART = 8
ERROR, REWARD, SUCCESS = "eval/action_mse", "rollout/avg_max_reward", "rollout/success_rate"
CONFIG: dict[str, Any] = {
    "dataset.observations": ["observation.state", "observation.environment_state"],
    "policy.horizon": 16,
    "policy.n_action_steps": 8,
    "policy.diffusion_step_embed_dim": 64,
    "policy.prediction_type": "sample",
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 10,
    "optimizer.lr": 1e-3,
    "lr_scheduler.warmup_steps": 100,
    "train.batch_size": 64,
    "eval.windows": 512,
    "rollout.env": "gym_pusht/PushT-v0",
    "rollout.episodes": 8,
    "rollout.parallel": 32,
    "rollout.video": "never",
}
EVALUATIONS = 6


def widths(recipe: Recipe) -> list[int]:
    """Channels of a recipe's U-Net at the width that is measured."""
    return [channels // PART for channels in recipe.down_dims]


def measure(
    dataset: Path, episodes: int | None, recipe: Recipe, steps: int, rollouts: int, folder: Path
) -> dict[str, Any]:
    """Train one policy, and return what it learnt; a run that was interrupted continues.

    Args:
        dataset: The folder of the dataset.
        episodes: How many of its first episodes are used; None: all.
        recipe: Decides the width of the network.
        steps: Optimiser steps.
        rollouts: Episodes after the last step.
        folder: The run's folder; the cache is beside it.
    """
    begin_s = time.process_time()
    every = max(1, steps // EVALUATIONS)
    config = CONFIG | {
        "dataset.root": str(dataset),
        "dataset.episodes": None if episodes is None else list(range(episodes)),
        "policy.down_dims": widths(recipe),
        "train.steps": steps,
        "train.eval_every": every,
        "train.log_every": every,
        "lr_scheduler.warmup_steps": min(CONFIG["lr_scheduler.warmup_steps"], every),
        "rollout.final_episodes": rollouts,
    }
    context = TrainContext(folder=folder, cache=folder.parent / "cache", threads=1)
    reports: list[Report] = list(TRAINABLE.train(config, context))
    errors = {report.step: report.metrics[ERROR] for report in reports if ERROR in report.metrics}
    best = min(errors, key=errors.__getitem__)
    last = reports[-1].metrics
    return {
        "episodes": episodes,
        "recipe": recipe.words,
        "down_dims": widths(recipe),
        "steps": steps,
        "errors": errors,
        "best_step": best,
        "reward": last[REWARD],
        "reward_low": last[f"{REWARD}_low"],
        "reward_high": last[f"{REWARD}_high"],
        "success": last[SUCCESS],
        "cpu_s": time.process_time() - begin_s,
    }


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """The cells for a person."""
    table = Table(title="the recipes on Push-T, at an eighth of their width", title_justify="left")
    columns = ("episodes", "recipe", "down_dims", "least error", "at step", "last error", "reward", "95 %")
    for column in (*columns, "success", "CPU, s"):
        table.add_column(column, justify="left" if column in ("recipe", "down_dims") else "right")
    for row in rows:
        errors = list(row["errors"].values())
        table.add_row(
            "all" if row["episodes"] is None else str(row["episodes"]),
            row["recipe"],
            "-".join(str(channels) for channels in row["down_dims"]),
            f"{min(errors):.4f}",
            f"{row['best_step']:,}",
            f"{errors[-1]:.4f}",
            f"{row['reward']:.3f}",
            f"{row['reward_low']:.2f} – {row['reward_high']:.2f}",
            f"{row['success']:.3f}",
            f"{row['cpu_s']:,.0f}",
        )
    return table


def main() -> None:
    """Measure the cells that are missing, show a table, and keep everything in JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipes", description=__doc__)
    parser.add_argument("dataset", type=Path, help="a LeRobot dataset of Push-T with keypoints")
    parser.add_argument("--episodes", nargs="+", default=["55", "all"], help="numbers of episodes, or all")
    parser.add_argument("--recipes", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--steps", type=int, default=3000, help="optimiser steps of each")
    parser.add_argument("--rollouts", type=int, default=128, help="episodes of each policy at its end")
    parser.add_argument("--folder", type=Path, help="keep the runs here, and continue those that are there")
    parser.add_argument("--json", type=Path, help="keep the measurements here; a second call continues")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    rows: list[dict[str, Any]] = []
    if arguments.json is not None and arguments.json.exists():
        rows = json.loads(arguments.json.read_text())["rows"]
    known = {(row["episodes"], row["recipe"], row["steps"]) for row in rows}
    sizes = [None if size == "all" else int(size) for size in arguments.episodes]
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        for name in arguments.recipes:
            for size in sizes:
                if (size, name, arguments.steps) in known:
                    continue
                console.print(f"[dim]{name}, {size or 'all'} episodes …[/dim]")
                run = folder / f"{size or 'all'}-{widths(RECIPES[name])[0]}-{arguments.steps}"
                row = measure(
                    arguments.dataset, size, RECIPES[name], arguments.steps, arguments.rollouts, run
                )
                rows.append(row)
                if arguments.json is not None:
                    everything = {"machine": machine.describe(), "rows": rows}
                    write_whole(arguments.json, json.dumps(everything, indent=2) + "\n")
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    console.print(table_of(rows))


if __name__ == "__main__":
    main()
