"""Rollouts in processes: ``python -m benchmarks.rollouts [--json FILE]``.

The same evaluation with its simulators in the policy's process, as ``rollout.processes: auto`` chooses, and
in a fixed number of processes, alternating. Every episode must be the same to the last bit. The first
simulator sleeps 5 ms a step and computes almost nothing, like one that waits for another program; the others
are Push-T with and without pictures. The policy is a small random network: the stepping is what is measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from trainables.evaluation.rollout import EpisodeResult, rollout
from trainables.evaluation.stepping import choice
from trainables.evaluation.stepping.choice import Stepping
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures

STATE_ONLY = (Feature(STATE, FeatureType.STATE, (2,)),)
KEYPOINTS = (*STATE_ONLY, Feature(ENVIRONMENT_STATE, FeatureType.ENV, (16,)))
CAMERA = Feature("observation.image", FeatureType.VISUAL, (3, 96, 96))
ACTIONS = Feature(ACTION, FeatureType.ACTION, (2,))


class RandomPolicy:
    """A linear function of what is observed, and noise."""

    n_obs_steps = 2
    n_action_steps = 8

    def __init__(self, features: PolicyFeatures) -> None:
        self.features = features
        size = self.n_obs_steps * sum(int(np.prod(feature.shape)) for feature in features.inputs)
        weights = torch.Generator().manual_seed(0)
        self._weight = torch.randn(size, 2 * self.n_action_steps, generator=weights) / size**0.5

    def predict_action(self, observation: Any, *, generator: list[torch.Generator]) -> torch.Tensor:
        """Predict (B, 8, 2) in px."""
        flat = [observation[feature.name].float().flatten(1) / 256 - 1 for feature in self.features.inputs]
        noise = torch.stack([torch.randn(2 * self.n_action_steps, generator=g) for g in generator])
        chunk = torch.cat(flat, dim=1) @ self._weight + noise
        return 256 + 150 * torch.tanh(chunk.reshape(len(chunk), self.n_action_steps, 2))


@dataclass(frozen=True)
class Case:
    """A simulator to measure.

    Attributes:
        name: What it is called.
        env: As in ``rollout.env``.
        features: What the policy sees and does.
        max_steps: Steps of an episode.
    """

    name: str
    env: str
    features: PolicyFeatures
    max_steps: int


CASES = (
    Case("sleeps 5 ms a step", "benchmarks.sleeping:Sleeping", PolicyFeatures(STATE_ONLY, ACTIONS), 300),
    Case("Push-T, keypoints", "gym_pusht/PushT-v0", PolicyFeatures(KEYPOINTS, ACTIONS), 300),
    Case("Push-T, camera", "gym_pusht/PushT-v0", PolicyFeatures((CAMERA, *STATE_ONLY), ACTIONS), 300),
)
Processes = int | Literal["auto"]


def _cpu_s() -> float:
    """Processor time of this process and of those that it started and that have ended."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


def _play(case: Case, processes: Processes, episodes: int) -> tuple[list[EpisodeResult], float, float]:
    wall_s, cpu_s = time.perf_counter(), _cpu_s()
    results = rollout(
        RandomPolicy(case.features),
        case.env,
        episode_indices=range(episodes),
        seed=100_000,
        parallel=32,
        max_steps=case.max_steps,
        stepping=Stepping(processes),
    )
    return results, time.perf_counter() - wall_s, _cpu_s() - cpu_s


class _Chosen(logging.Handler):
    """Keeps what ``auto`` says that it chose."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.said = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.said = record.getMessage()


def measure(case: Case, ways: tuple[Processes, ...], episodes: int, repeats: int) -> dict[str, Any]:
    """Play all ways in turn, several times, and keep the least times of each.

    Raises:
        RuntimeError: If an episode differs between two ways.
    """
    chosen = _Chosen()
    logger = logging.getLogger(choice.__name__)
    logger.addHandler(chosen)
    logger.setLevel(logging.INFO)
    reference = None
    wall_s: dict[Processes, list[float]] = {way: [] for way in ways}
    cpu_s: dict[Processes, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way in ways:
            results, wall, cpu = _play(case, way, episodes)
            wall_s[way].append(wall)
            cpu_s[way].append(cpu)
            played = [(result.record, result.actions.tobytes()) for result in results]
            reference = reference or played
            if played != reference:
                raise RuntimeError(f"{case.name}: {way} processes give other episodes")
    logger.removeHandler(chosen)
    rows = {
        str(way): {
            "wall_s": min(wall_s[way]),
            "cpu_s": min(cpu_s[way]),
            "share": min(wall_s[way]) / min(wall_s[ways[0]]),
        }
        for way in ways
    }
    return {"chosen": chosen.said, "ways": rows}


def main() -> None:
    """Measure, show a table for each simulator, and write JSON if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rollouts", description=__doc__)
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--repeats", type=int, default=2, help="how often each way is measured")
    parser.add_argument("--case", type=int, choices=range(len(CASES)), help="only this simulator")
    parser.add_argument("--processes", type=int, default=2, help="the fixed number of processes")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    console = Console()
    described = machine.describe()
    load = os.getloadavg()[0]
    console.print(", ".join(f"{name} {value}" for name, value in described.items()), f"load {load:.1f}")
    found: dict[str, Any] = {"machine": {**described, "load": load}, "episodes": arguments.episodes}
    for case in CASES if arguments.case is None else [CASES[arguments.case]]:
        found[case.name] = measure(
            case, (1, "auto", arguments.processes), arguments.episodes, arguments.repeats
        )
        table = Table(title=f"{case.name}, {arguments.episodes} episodes", title_justify="left")
        for column in ("rollout.processes", "wall, s", "of one process", "CPU, s"):
            table.add_column(column, justify="right")
        for way, row in found[case.name]["ways"].items():
            table.add_row(way, f"{row['wall_s']:.2f}", f"{row['share']:.2f}", f"{row['cpu_s']:.2f}")
        console.print(table)
        console.print(found[case.name]["chosen"])
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
