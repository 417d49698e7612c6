"""Intervals of a mean that stay valid however often you look, and whenever you stop.

A confidence sequence covers the true mean at all numbers of episodes at once. It is made of bets: against
each candidate mean a fortune is bet on the outcomes. If the candidate is the truth, the expected fortune
never grows, so it exceeds 20 at any time with a probability of at most 1/20 (Ville 1939). The candidates
against which the fortune stayed below are the interval (Waudby-Smith and Ramdas 2024).

How much to bet is not tuned: the fortune is spread over many fixed bets (Cover 1991; Orabona and Jun 2024),
weighted as by Jeffreys' prior. For successes this is Robbins' mixture (1970). A finite set of bets is valid
by itself, so there is no error of numerical integration, and the order of the episodes does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeper.evidence.intervals import Bounds, Interval, as_values, two_sided_z

__all__ = ["anytime_interval", "confidence_sequence"]

BETS = 128
HALVINGS = 30
"""Steps of a bisection: the error is below 1e-9 of the range."""

METHOD = "betting, valid at any time"


def anytime_interval(values: ArrayLike, bounds: Bounds, confidence: float = 0.95) -> Interval:
    """Bound a mean with an interval that stays valid if you look at it after every episode.

    For a paired difference of outcomes in [0, 1] the bounds are -1 and 1.

    Args:
        values: One value per episode; none gives the bounds.
        bounds: The least and the largest possible value. They must be known, not observed.
        confidence: Probability that all intervals of a growing series cover the mean, between 0 and 1,
            exclusive.

    Raises:
        ValueError: If a value is not finite or out of bounds, or ``confidence`` is out of range.
    """
    found = as_values(values, bounds)
    two_sided_z(confidence)
    low, high = bounds
    shares, counts = np.unique((found - low) / (high - low), return_counts=True)
    if not len(found):
        return Interval(low, high, confidence, METHOD)
    limit = -math.log(1 - confidence)
    mean = float(shares @ counts) / len(found)
    ends = []
    for border in (0.0, 1.0):
        outside, inside = border, mean
        # The fortune falls from the border to the mean. A border that was not excluded remains the end.
        for _ in range(HALVINGS):
            middle = (outside + inside) / 2
            if middle in (0.0, 1.0) or _log_fortune(middle, shares, counts) < limit:
                inside = middle
            else:
                outside = middle
        ends.append(border if abs(inside - border) < 1e-8 else outside)
    return Interval(low + (high - low) * ends[0], low + (high - low) * ends[1], confidence, METHOD)


def confidence_sequence(
    values: ArrayLike, bounds: Bounds, looks: Sequence[int], confidence: float = 0.95
) -> list[Interval]:
    """The intervals after given numbers of episodes; each is within those before it.

    Args:
        values: One value per episode, in their order.
        bounds: The least and the largest possible value.
        looks: Numbers of episodes at which the interval is computed, ascending.
        confidence: Probability that all of them cover the mean.

    Raises:
        ValueError: As `anytime_interval`.
    """
    found = as_values(values, bounds)
    intervals: list[Interval] = []
    low, high = bounds
    for look in looks:
        now = anytime_interval(found[:look], bounds, confidence)
        # In the rare case that two do not overlap the mean was missed; the ends stay in order.
        low = min(max(low, now.low), high)
        high = max(min(high, now.high), low)
        intervals.append(Interval(low, high, confidence, METHOD))
    return intervals


def _log_fortune(mean: float, shares: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Logarithm of the fortune that the bets against a candidate mean have made."""
    gains = np.outer(_BETS, shares / mean) + np.outer(1 - _BETS, (1 - shares) / (1 - mean))
    return mean_of_exponentials(np.log(gains) @ counts)


def mean_of_exponentials(logarithms: NDArray[np.float64]) -> float:
    """Logarithm of the mean of what has these logarithms."""
    largest = float(logarithms.max())
    return largest + math.log(float(np.exp(logarithms - largest).mean()))


_BETS: NDArray[np.float64] = np.sin(np.pi * (np.arange(BETS) + 0.5) / (2 * BETS)) ** 2
"""Gauss-Chebyshev nodes, which represent Jeffreys' prior with equal weights."""
