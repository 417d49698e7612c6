"""Means, paired differences and their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.search.sweeps import Played

__all__ = ["Method", "Row", "bootstrap", "rows"]

RESAMPLES = 10_000

Method = tuple[str, str]
"""A sampler and a rule of early stopping."""


@dataclass(frozen=True)
class Row:
    """How a method did in all sweeps. Intervals are at 95 %.

    Attributes:
        sampler: The sampler.
        stopper: The rule of early stopping.
        begun: Trials begun, the mean.
        completed: Trials completed, the mean.
        error: By how many percent the true error of the chosen trial is above the least one, the mean.
        interval: Of that mean.
        gain: By how many points ``error`` is less than with another method, for each of these, the mean over
            pairs of sweeps of the same seed.
        gain_interval: Of these means.
    """

    sampler: str
    stopper: str
    begun: float
    completed: float
    error: float
    interval: tuple[float, float]
    gain: Mapping[str, float]
    gain_interval: Mapping[str, tuple[float, float]]


def bootstrap(values: np.ndarray) -> tuple[float, float]:
    """The interval of a mean: percentiles of the means of resampled values, at 95 %."""
    drawn = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.percentile(values[drawn].mean(1), [2.5, 97.5])
    return float(low), float(high)


def rows(played: Mapping[Method, Sequence[Played]], best: float) -> list[Row]:
    """A row for each method.

    Args:
        played: The sweeps of each method; those at the same place have the same seed.
        best: The least true error.
    """
    above = {
        method: 100 * (np.array([sweep.error for sweep in sweeps]) / best - 1)
        for method, sweeps in played.items()
    }
    return [_row(method, sweeps, above) for method, sweeps in played.items()]


def _row(method: Method, sweeps: Sequence[Played], above: Mapping[Method, np.ndarray]) -> Row:
    sampler, stopper = method
    against = {
        "random, none": ("random", "none"),
        "the same sampler, none": (sampler, "none"),
        "the same sampler, asha": (sampler, "asha"),
        "tpe, asha": ("tpe", "asha"),
        "the same with asha": (sampler, stopper.replace("promotion", "asha")),
    }
    gains = {
        name: above[other] - above[method]
        for name, other in against.items()
        if other in above and other != method
    }
    return Row(
        sampler,
        stopper,
        float(np.mean([sweep.begun for sweep in sweeps])),
        float(np.mean([sweep.completed for sweep in sweeps])),
        float(above[method].mean()),
        bootstrap(above[method]),
        {name: float(gain.mean()) for name, gain in gains.items()},
        {name: bootstrap(gain) for name, gain in gains.items()},
    )
