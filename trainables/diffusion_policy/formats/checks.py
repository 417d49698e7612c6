"""Is an export the policy, and how fast is it?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.formats.errors import FormatError
from trainables.diffusion_policy.formats.parts import HORIZON, Denoising
from trainables.diffusion_policy.formats.running import ExportedPolicy, draw_noise
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import ACTION

__all__ = ["ALLOWED", "action_range", "parity", "timed"]

ALLOWED = 1e-4
"""Largest difference of an action in fp32, as a share of the range of its dimension."""
RUNS, MOST_S, WARM_UP = 30, 6.0, 2


def action_range(policy: DiffusionPolicy) -> np.ndarray:
    """The range of each dimension of the actions in the training's data (A,); 0 if it never varied.

    Without minimum and maximum six standard deviations count as the range.
    """
    known = policy.statistics().get(ACTION, {})
    if {"min", "max"} <= set(known):
        return np.asarray(known["max"], np.float64) - np.asarray(known["min"], np.float64)
    if "std" in known:
        return 6 * np.asarray(known["std"], np.float64)
    return np.ones(policy.action_dim)


def parity(
    exported: ExportedPolicy,
    policy: DiffusionPolicy,
    denoising: Denoising,
    observations: Mapping[str, Tensor],
    precision: str,
) -> dict[str, Any]:
    """Compare an export with the policy for the same observations and noise, all at once and one alone.

    Raises:
        FormatError: If an action is not finite, or fp32 differs by more than rounding.
    """
    count = len(next(iter(observations.values())))
    expected_BTA = policy.predict_horizon(observations, generator=_generators(count)).numpy()
    values = {name: value.numpy() for name, value in observations.items()}
    values |= draw_noise(denoising, _generators(count), (policy.horizon, policy.action_dim))
    alone = {name: value[:1] for name, value in values.items()}
    found_BTA = exported.run(values)[HORIZON]
    found_1TA = exported.run(alone)[HORIZON]
    difference_A = np.maximum(
        np.abs(found_BTA - expected_BTA).max(axis=(0, 1)),
        np.abs(found_1TA - expected_BTA[:1]).max(axis=(0, 1)),
    )
    range_A = action_range(policy)
    share_A = difference_A / np.where(range_A > 0, range_A, 1.0)
    worst = int(np.argmax(share_A)) if np.isfinite(share_A).all() else int(np.argmin(np.isfinite(share_A)))
    result = {
        "observations": count,
        "largest_difference": float(difference_A[worst]),
        "dimension": worst,
        "share_of_range": float(share_A[worst]),
    }
    if not np.isfinite(share_A).all():
        raise FormatError(f"{precision}: an exported action is not finite (dimension {worst}).")
    if precision == "fp32" and share_A[worst] > ALLOWED:
        raise FormatError(
            f"the export is not the policy: dimension {worst} of an action differs by "
            f"{difference_A[worst]:.3g}, {share_A[worst]:.2g} of its range. Rounding explains {ALLOWED:g}."
        )
    return result


def timed(
    exported: ExportedPolicy, policy: DiffusionPolicy, observations: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Time one chunk for one observation, in turns with the policy, with as many threads."""
    observation = {name: value[:1] for name, value in observations.items()}
    times_ms: dict[str, list[float]] = {"export": [], "policy": []}
    begin_s = time.perf_counter()
    for number in range(-WARM_UP, RUNS):
        if number > 0 and time.perf_counter() - begin_s > MOST_S:
            break
        for name, one in (("export", exported), ("policy", policy)):
            start_s = time.perf_counter()
            one.predict_action(observation, generator=_generators(1))
            if number >= 0:
                times_ms[name].append(1e3 * (time.perf_counter() - start_s))
    return {
        "median_ms": statistics.median(times_ms["export"]),
        "policy_median_ms": statistics.median(times_ms["policy"]),
        "runs": len(times_ms["export"]),
        "threads": torch.get_num_threads(),
        "device": "cpu",
    }


def _generators(count: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(number) for number in range(count)]
