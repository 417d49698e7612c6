"""Before the first client: run the policy, time it, and choose how many rows a batch has."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from trainables.deployment.server.batcher import Row, ServedPolicy, predict_rows
from trainables.features import FeatureType

__all__ = ["BatchSize", "choose_batch", "rows_are_alike"]

SIZES = (32, 16, 8)
"""What is tried, the largest first. With fewer rows the place in the batch decides the last bits."""
LONGEST_S = 0.020
"""A chunk may take this long in a batch whose size was not given: a control period at 50 Hz."""
RUNS = 3


@dataclass(frozen=True)
class BatchSize:
    """The number of rows of every batch.

    Attributes:
        rows: The number.
        predicted_s: How long a batch takes.
        alike: Whether a row's result is the same in every place of the batch, to the last bit.
    """

    rows: int
    predicted_s: float
    alike: bool


def choose_batch(policy: ServedPolicy, rows: int | None = None) -> BatchSize:
    """Run the policy once or more, and choose the rows of a batch.

    Args:
        policy: In evaluation mode.
        rows: The number that was asked for; None for the most rows whose prediction takes 20 ms at most
            and whose place does not matter, or else one.
    """
    if rows is not None:
        return _measured(policy, rows)
    alone = _measured(policy, 1)
    if alone.predicted_s < LONGEST_S:
        for size in SIZES:
            found = _measured(policy, size)
            if found.alike and found.predicted_s <= LONGEST_S:
                return found
    return alone


def rows_are_alike(policy: ServedPolicy, size: int) -> bool:
    """Whether the same row has the same result, to the last bit, in every place of a batch."""
    actions_BTA = predict_rows(policy, [_row(policy, 1) for _ in range(size)], size)
    return bool((actions_BTA == actions_BTA[:1]).all())


def _measured(policy: ServedPolicy, size: int) -> BatchSize:
    alike = rows_are_alike(policy, size)  # also warms up
    times_s = []
    for run in range(RUNS):
        start_s = time.perf_counter()
        predict_rows(policy, [_row(policy, run)], size)
        times_s.append(time.perf_counter() - start_s)
    return BatchSize(size, min(times_s), alike)


def _row(policy: ServedPolicy, seed: int) -> Row:
    """An observation of the policy's shapes; neither times nor the order of sums depend on the values."""
    rng = np.random.default_rng(seed)
    observation = {}
    for feature in policy.features.inputs:
        shape = (policy.n_obs_steps, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            observation[feature.name] = rng.integers(256, size=shape, dtype=np.uint8)
        else:
            observation[feature.name] = rng.standard_normal(shape).astype(np.float32)
    return Row(observation, torch.Generator().manual_seed(seed))
