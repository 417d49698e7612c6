"""Flow matching beside diffusion: the same small network and training on Push-T from positions.

``python -m benchmarks.flow_matching [--seeds N] [--steps N] [--episodes N] [--folder PATH]``; most of an hour
on an idle core, so `make bench` leaves it out. Trainings differ in ``policy.prediction_type`` and their seed
alone. Every policy plays the same episodes with 1 to 8 steps of DDIM (trailing), which for a flow is Euler's
method. Rewards are compared episode by episode with those of epsilon for the same seed and steps. With
``--folder`` a run that was interrupted continues.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from sweeper.evidence.intervals import mean_interval
from sweeper.evidence.paired import compare_paired_values
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.interface import EvaluationContext, TrainContext

PREDICTIONS = ("epsilon", "sample", "flow")
COUNTS = (1, 2, 4, 8)
CONFIG: dict[str, Any] = {
    "dataset.repo_id": BUILTIN_PUSHT,
    "dataset.observations": ["observation.state", "observation.environment_state"],
    "policy.down_dims": [32, 64],
    "policy.diffusion_step_embed_dim": 32,
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 8,
    "policy.timestep_spacing": "trailing",
    "optimizer.lr": 2.6e-3,
    "lr_scheduler.warmup_steps": 100,
    "train.batch_size": 64,
    "train.flush_denormals": True,
    "eval.windows": 64,
    "eval.num_inference_steps": 8,
    "eval.denoising_picture": False,
}
ENVIRONMENT = {"rollout.env": "gym_pusht/PushT-v0", "rollout.parallel": 32}


@dataclass(frozen=True)
class Row:
    """A policy with a number of steps.

    Attributes:
        prediction: What its network predicts.
        seed: Seed of its training.
        steps: Denoising steps.
        reward: Mean over the episodes of the largest reward.
        reward_low: Lower end of its 95 % interval.
        reward_high: Upper end.
        difference: Mean difference of the reward to that of epsilon, episode by episode.
        difference_low: Lower end of its 95 % interval.
        difference_high: Upper end.
        action_mse: The held-out action error after the training, with 8 steps.
    """

    prediction: str
    seed: int
    steps: int
    reward: float
    reward_low: float
    reward_high: float
    difference: float
    difference_low: float
    difference_high: float
    action_mse: float


def run(
    folder: Path,
    cache: Path,
    console: Console,
    *,
    seeds: int,
    steps: int,
    episodes: int,
    counts: Sequence[int] = COUNTS,
) -> list[Row]:
    """Train what is missing, and play.

    Args:
        folder: The folder of the runs; runs in it continue.
        cache: The folder of the built-in dataset.
        console: Shows the progress.
        seeds: Trainings of each prediction type.
        steps: Optimiser steps of a training.
        episodes: Episodes of each policy and number of denoising steps.
        counts: The numbers of denoising steps.
    """
    rows = []
    for seed in range(seeds):
        reference: dict[int, np.ndarray] = {}
        for prediction in PREDICTIONS:
            place = folder / f"{prediction}-{seed}"
            error = _train(prediction, seed, steps, place, cache, console)
            rewards = _rewards(place, cache, episodes, counts, console)
            if prediction == PREDICTIONS[0]:
                reference = rewards
            rows += [
                _row(prediction, seed, count, rewards[count], reference[count], error) for count in counts
            ]
    return rows


def _train(prediction: str, seed: int, steps: int, folder: Path, cache: Path, console: Console) -> float:
    """Train a policy, or take one that is there; its held-out action error."""
    done = folder / "error.json"
    if not done.exists():
        console.print(f"[dim]training {folder.name}: {steps} steps …[/dim]")
        own = {"policy.prediction_type": prediction, "train.seed": seed}
        length = {"train.steps": steps, "train.eval_every": steps, "train.log_every": max(1, steps // 4)}
        context = TrainContext(folder=folder, cache=cache, threads=1)
        reports = list(TRAINABLE.train({**CONFIG, **own, **length}, context))
        done.write_text(json.dumps(reports[-1].metrics["eval/action_mse"]))
    return float(json.loads(done.read_text()))


def _rewards(
    folder: Path, cache: Path, episodes: int, counts: Sequence[int], console: Console
) -> dict[int, np.ndarray]:
    policy = TRAINABLE.open_policy(folder, ENVIRONMENT, EvaluationContext(cache=cache, threads=1))
    rewards = {}
    for count in counts:
        console.print(f"[dim]{folder.name}, {count} steps: {episodes} episodes …[/dim]")
        records = policy.rollout({"policy.num_inference_steps": count}, "confirm", range(episodes))
        rewards[count] = np.array([record.max_reward for record in records])
    return rewards


def _row(
    prediction: str, seed: int, count: int, rewards: np.ndarray, reference: np.ndarray, error: float
) -> Row:
    interval = mean_interval(rewards, bounds=(0.0, 1.0))
    compared = compare_paired_values(rewards, reference)
    same = prediction == PREDICTIONS[0]
    return Row(
        prediction,
        seed,
        count,
        float(rewards.mean()),
        interval.low,
        interval.high,
        0.0 if same else compared.difference,
        0.0 if same else compared.interval.low,
        0.0 if same else compared.interval.high,
        error,
    )


def table_of(rows: Sequence[Row]) -> Table:
    """The rows, for a person."""
    table = Table(title="flow matching beside diffusion on Push-T", title_justify="left")
    for column in ("predicts", "seed", "steps", "reward", "95 %", "to epsilon", "95 %", "action error"):
        table.add_column(column, justify="left" if column == "predicts" else "right")
    for row in rows:
        table.add_row(
            row.prediction,
            str(row.seed),
            str(row.steps),
            f"{row.reward:.3f}",
            f"{row.reward_low:.2f} – {row.reward_high:.2f}",
            f"{row.difference:+.3f}",
            f"{row.difference_low:+.2f} – {row.difference_high:+.2f}",
            f"{row.action_mse:.0f}",
        )
    return table


def main() -> None:
    """Run it, show a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.flow_matching", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each prediction type")
    parser.add_argument("--steps", type=int, default=2400, help="optimiser steps of a training")
    parser.add_argument(
        "--episodes", type=int, default=96, help="episodes of each policy and number of steps"
    )
    parser.add_argument("--folder", type=Path, help="keep the runs here, and continue those that are there")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        rows = run(
            folder / "runs",
            folder / "cache",
            console,
            seeds=arguments.seeds,
            steps=arguments.steps,
            episodes=arguments.episodes,
        )
    console.print(table_of(rows))
    if arguments.json is not None:
        everything = {"machine": machine.describe(), "rows": [asdict(row) for row in rows]}
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
