"""Rollouts of a policy with a camera on a CPU: which pictures are encoded.

``python -m benchmarks.encodings [--json FILE] [--steps N]``; some minutes on two cores. A prediction has the
same number of rows whatever the number of episodes. The same episodes are played with the pictures of all
rows encoded, and with only those of rows that have an episode, alternating; it says how far their actions
differ. Then several chunks are drawn for the same observations, as the held-out action error, a comparison
with demonstrations and the picture of a denoising do it, with each observation encoded for each chunk, and
once. The least times of some rounds are shown. The policy has random weights, so no episode ends early.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from benchmarks.steps import NETWORKS, make_batch, make_policy
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.evaluation.encoding import encoded_once
from trainables.evaluation.rollout import EpisodeResult, rollout

NETWORK = "one camera, ResNet18, down_dims [32, 64]"
EPISODES = (1, 4, 8, 32)
CHUNKS = ((64, 2), (8, 24), (1, 8))
"""Moments and chunks of each, as in a batch of the held-out action error (which draws one chunk after the
other), in one of a comparison with demonstrations, and for the picture of a denoising."""
ROUNDS, LENGTH = 3, 64


class WholeRows:
    """A policy that does not offer to encode pictures apart."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self._policy = policy
        self.features = policy.features
        self.n_obs_steps = policy.n_obs_steps
        self.n_action_steps = policy.n_action_steps

    def predict_action(
        self, observation: Mapping[str, torch.Tensor], *, generator: list[torch.Generator]
    ) -> torch.Tensor:
        """Predict (B, n_action_steps, A) from all rows of the observation."""
        return self._policy.predict_action(observation, generator=generator)

    def predict_horizon(
        self, observation: Mapping[str, torch.Tensor], *, generator: list[torch.Generator]
    ) -> torch.Tensor:
        """Predict (B, T, A) likewise."""
        return self._policy.predict_horizon(observation, generator=generator)


def measure_rollouts(policy: DiffusionPolicy, episodes: int, rounds: int) -> dict[str, float]:
    """Seconds of an evaluation both ways, and how far the actions of first chunks, in [0, 1], differ."""
    ways: dict[str, Any] = {"all rows": WholeRows(policy), "rows with an episode": policy}
    wall_s: dict[str, list[float]] = {way: [] for way in ways}
    cpu_s: dict[str, list[float]] = {way: [] for way in ways}
    results: dict[str, list[EpisodeResult]] = {}
    for _ in range(rounds):
        for way, one in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            results[way] = rollout(
                one,
                "gym_pusht/PushT-v0",
                episode_indices=range(episodes),
                seed=100_000,
                parallel=episodes,
                max_steps=LENGTH,
            )
            wall_s[way].append(time.perf_counter() - wall)
            cpu_s[way].append(time.process_time() - cpu)
    first = slice(policy.n_action_steps)
    differences = [
        np.abs(one.actions[first] - other.actions[first]).max()
        for one, other in zip(*results.values(), strict=True)
    ]
    times = {
        f"{way}, {kind}": min(found[way]) for kind, found in (("s", wall_s), ("CPU s", cpu_s)) for way in ways
    }
    return {"episodes": episodes, **times, "difference": float(max(differences))}


def measure_chunks(policy: DiffusionPolicy, moments: int, samples: int, rounds: int) -> dict[str, float]:
    """CPU seconds of some chunks at each of some moments, both ways."""
    batch = make_batch(policy.config, True, moments, torch.device("cpu"))
    ways: dict[str, Any] = {"for each chunk, CPU s": WholeRows(policy), "once, CPU s": policy}
    times_s: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, one in ways.items():
            start_s = time.process_time()
            seen = {feature.name: batch[feature.name] for feature in policy.features.inputs}
            observation, options = encoded_once(one, seen, samples)
            generators = [torch.Generator().manual_seed(row) for row in range(moments * samples)]
            with torch.inference_mode():
                one.predict_horizon(observation, generator=generators, **options)
            times_s[way].append(time.process_time() - start_s)
    return {"moments": moments, "chunks each": samples} | {way: min(found) for way, found in times_s.items()}


def main() -> None:
    """Measure every number of episodes and of chunks, and show the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.encodings",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", type=Path, help="write the measurements here")
    parser.add_argument("--steps", type=int, default=10, help="denoising steps (DDIM)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="how often each way is measured")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    described = machine.describe() | {"threads of torch": str(arguments.threads)}
    console = Console(width=130)
    console.print(", ".join(f"{name} {value}" for name, value in described.items()))
    config, camera = NETWORKS[NETWORK]
    policy = make_policy(replace(config, sampler="DDIM", num_inference_steps=arguments.steps), camera).eval()
    rows = [measure_rollouts(policy, episodes, arguments.rounds) for episodes in EPISODES]
    chunks = [measure_chunks(policy, *counts, arguments.rounds) for counts in CHUNKS]
    title = f"{NETWORK}, {arguments.steps} denoising steps"
    _show(f"{title}, episodes of {LENGTH} steps", rows, console)
    _show(f"{title}, observations encoded", chunks, console)
    if arguments.json:
        found = {"machine": described, "rows": rows, "chunks": chunks}
        arguments.json.write_text(json.dumps(found, indent=1))


def _show(title: str, rows: list[dict[str, float]], console: Console) -> None:
    table = Table(*rows[0], title=title, title_justify="left")
    for row in rows:
        table.add_row(*(f"{value:.3g}" for value in row.values()))
    console.print(table)


if __name__ == "__main__":
    main()
