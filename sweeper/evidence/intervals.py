"""Intervals of a success rate and of a mean reward, for a number of episodes that was fixed beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainables.confidence import mean_interval as confidence_of_mean
from trainables.confidence import wilson_interval

__all__ = ["Bounds", "Interval", "as_values", "mean_interval", "success_interval"]

Bounds = tuple[float, float]
"""The least and the largest value that an outcome can have."""


@dataclass(frozen=True)
class Interval:
    """A range that covers the true value with a stated confidence.

    Attributes:
        low: Lower end; minus infinity if nothing is known.
        high: Upper end; infinity if nothing is known.
        confidence: Probability that such an interval covers the true value.
        method: How it was computed, e.g. ``Wilson``.
    """

    low: float
    high: float
    confidence: float
    method: str

    def covers(self, value: float) -> bool:
        """Whether a value is inside, ends included."""
        return self.low <= value <= self.high

    @property
    def half_width(self) -> float:
        """Half of the distance between the ends."""
        return (self.high - self.low) / 2


def success_interval(successes: float, episodes: int, confidence: float = 0.95) -> Interval:
    """Bound a success rate by Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001).

    Unlike the normal approximation it stays within [0, 1] and is honest near 0 and 1.

    Args:
        successes: Successful episodes, 0 to ``episodes``. A fraction is allowed, see `mean_interval`.
        episodes: Episodes; 0 gives [0, 1], because nothing is known.
        confidence: Between 0 and 1, exclusive.

    Raises:
        ValueError: If ``successes`` is not within 0 to ``episodes``, or ``confidence`` is out of range.
    """
    return Interval(*wilson_interval(successes, episodes, confidence), confidence, "Wilson")


def mean_interval(values: ArrayLike, confidence: float = 0.95, bounds: Bounds | None = None) -> Interval:
    """Bound a mean, e.g. of rewards, by Student's t with a correction for skewness.

    The interval is that of `trainables.confidence.mean_interval`, which trials report.

    Args:
        values: One value per episode.
        confidence: Between 0 and 1, exclusive.
        bounds: The range of a value, if known. The interval is then within it, and values that are all equal
            get Wilson's interval of their mean: of all distributions in the range with this mean, success and
            failure have the largest variance. Without bounds, equal values give an interval without width.

    Returns:
        The bounds (or an infinite range) if there are fewer than two values, because their spread is unknown.

    Raises:
        ValueError: If a value is not finite or out of bounds, or ``confidence`` is out of range.
    """
    found = as_values(values, bounds)
    low, high = bounds or (-math.inf, math.inf)
    two_sided_z(confidence)
    n = len(found)
    method = "Student's t, corrected for skewness"
    known = confidence_of_mean(found, confidence)
    if known is not None:
        return Interval(max(known[0], low), min(known[1], high), confidence, method)
    if n and bounds is not None:
        share = min(max((float(found[0]) - low) / (high - low), 0.0), 1.0)
        wilson = success_interval(n * share, n, confidence)
        width = high - low
        return Interval(
            low + width * wilson.low, low + width * wilson.high, confidence, "Wilson, equal values"
        )
    if n < 2:
        return Interval(low, high, confidence, method)
    return Interval(float(found[0]), float(found[0]), confidence, method)


def two_sided_z(confidence: float) -> float:
    """The quantile of the normal distribution that leaves half of the error on each side."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)


def as_values(values: ArrayLike, bounds: Bounds | None = None) -> NDArray[np.float64]:
    """Outcomes as a checked array of one dimension.

    Raises:
        ValueError: If they have more than one dimension, or a value is not finite or out of bounds.
    """
    found = np.asarray(values, dtype=np.float64)
    if found.ndim != 1:
        raise ValueError(f"expected one value per episode, not an array of shape {found.shape}")
    if not np.isfinite(found).all():
        raise ValueError(
            f"episode {int(np.argmin(np.isfinite(found)))} has the value {found[~np.isfinite(found)][0]}"
        )
    if bounds is None:
        return found
    low, high = bounds
    if not low < high:
        raise ValueError(f"bounds {low} and {high}: expected the smaller one first")
    outside = (found < low) | (found > high)
    if outside.any():
        raise ValueError(f"the value {found[outside][0]} is out of bounds: expected {low} to {high}")
    return found
