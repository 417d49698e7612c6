"""Ways to compute a policy's chunks beside each other: time, memory, difference, and success.

As `sweeper eval`, it opens the policy in this process, without Ray: other processes would disturb the times.
"""

from __future__ import annotations

import itertools
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from sweeper.errors import UserError
from sweeper.evidence.comparison import Comparison
from sweeper.evidence.paired import compare_paired_successes
from sweeper.finalists.candidates import Candidate
from sweeper.gpus import first_device, visible_gpus
from trainables import registry
from trainables.confidence import mean_interval, wilson_interval
from trainables.episodes import EpisodeRecord
from trainables.inspection import Benched, BenchedRow, BenchRow, Played
from trainables.interface import BenchmarksPolicies, ConfigError, EvaluatesPolicies, EvaluationContext

__all__ = ["bench_policy"]

BUSY_S = 1.0
FEWEST = 2
"""Episodes below which there is no interval."""


def bench_policy(
    candidate: Candidate,
    values: Mapping[str, Sequence[Any]],
    backends: Sequence[str],
    precision: str | None,
    runs: int,
    episodes: int,
    lerobot: Path | None,
    cache: Path,
    progress: Callable[[str], None],
) -> Benched:
    """Measure a policy.

    Args:
        candidate: The policy, with the inference setting that every row has unless ``values`` changes it.
        values: Values of inference fields; every combination is measured.
        backends: What computes; empty: the reference and all that are not slow to prepare.
        precision: Of the network; None: the default.
        runs: Timed predictions of each row.
        episodes: Episodes of each row; 0 for none.
        lerobot: A Python with LeRobot, which is timed too.
        cache: Folder for what is shared on this machine.
        progress: Receives messages for the user.

    Raises:
        UserError: If the trainable has one way only, or there is no environment for episodes.
        TrainableError: If the checkpoint, a setting or LeRobot cannot be used.
    """
    trainable = registry.load(candidate.trainable)
    assert isinstance(trainable, EvaluatesPolicies)
    context = EvaluationContext(cache, first_device(), progress=progress)
    policy = trainable.open_policy(candidate.checkpoint, candidate.config, context)
    if not isinstance(policy, BenchmarksPolicies):
        raise UserError(
            f"{candidate.label}: the trainable {candidate.trainable} has one way to compute its actions. "
            "Its policies must have what trainables.interface.BenchmarksPolicies asks for."
        )
    settings = [
        {**candidate.setting, **dict(zip(values, combination, strict=True))}
        for combination in itertools.product(*values.values())
    ]
    faults = [fault for setting in settings for fault in policy.setting_faults(setting)]
    if faults:
        raise ConfigError(faults)
    if episodes and policy.environment is None:
        raise UserError(f"--episodes {episodes}: the policy has no simulator. Name one with --env.")
    chosen = list(backends) or _quick(policy.backends, on_gpu=bool(visible_gpus()))
    width = precision or policy.precisions[0]
    busy_share = psutil.cpu_percent(BUSY_S) / 100
    rows = policy.bench(settings, chosen, width, runs, lerobot)
    machine = {"host": platform.node(), "cpus": os.cpu_count(), "busy_share": busy_share}
    benched = [BenchedRow(row) for row in rows]
    if episodes:
        benched = _with_episodes(rows, policy, episodes, progress)
    return Benched(candidate.label, str(candidate.checkpoint), machine, tuple(benched))


def _quick(backends: Sequence[str], *, on_gpu: bool) -> list[str]:
    """The backends that are ready in moments on this machine."""
    left_out = {"compile", "onnx" if on_gpu else "graph"}
    return [backend for backend in backends if backend not in left_out]


def _with_episodes(
    rows: Sequence[BenchRow],
    policy: BenchmarksPolicies,
    episodes: int,
    progress: Callable[[str], None],
) -> list[BenchedRow]:
    """Play the same starts with every row that this program computes."""
    first: list[EpisodeRecord] = []
    played: list[Played | None] = []
    for number, row in enumerate(rows, start=1):
        if row.backend not in policy.backends:
            played.append(None)
            continue
        progress(f"episodes of row {number} of {len(rows)}")
        records = policy.rollout_with(row.backend, row.precision, row.setting, "look", range(episodes))
        played.append(_played(records, first))
        first = first or records
    values = [None if one is None else one.max_reward for one in played]
    front = [_is_front(number, rows, values) for number in range(len(rows))]
    return [BenchedRow(*whole) for whole in zip(rows, played, front, strict=True)]


def _played(records: Sequence[EpisodeRecord], first: Sequence[EpisodeRecord]) -> Played:
    successes = sum(record.success for record in records)
    rewards = np.array([record.max_reward for record in records])
    apart = rewards - np.array([record.max_reward for record in first]) if first else None
    paired = _successes_apart(records, first) if first else None
    return Played(
        episodes=len(records),
        success_rate=successes / len(records),
        success_interval=wilson_interval(successes, len(records)),
        max_reward=float(rewards.mean()),
        difference=None if apart is None else float(apart.mean()),
        difference_interval=None if apart is None or len(apart) < FEWEST else mean_interval(apart),
        success_difference=None if paired is None else paired.difference,
        success_difference_interval=None if paired is None else (paired.interval.low, paired.interval.high),
    )


def _successes_apart(records: Sequence[EpisodeRecord], first: Sequence[EpisodeRecord]) -> Comparison:
    return compare_paired_successes(
        [float(record.success) for record in records], [float(record.success) for record in first]
    )


def _is_front(number: int, rows: Sequence[BenchRow], values: Sequence[float | None]) -> bool | None:
    """Whether no other row is faster and at least as good."""
    own = values[number]
    if own is None:
        return None
    own_ms = rows[number].latency.p50_ms
    return not any(
        value is not None and value >= own and row.latency.p50_ms < own_ms
        for row, value in zip(rows, values, strict=True)
    )
