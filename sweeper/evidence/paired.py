"""Comparison of two policies on the same starts.

Pairs help only as far as the start explains the outcome. The noise of two policies is shared by key, but
after the first different action it has another effect in each.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sweeper.evidence.comparison import Comparison
from sweeper.evidence.intervals import Interval, as_values, mean_interval, two_sided_z

__all__ = [
    "compare_paired_successes",
    "compare_paired_values",
    "mcnemar_p_value",
    "shared_episodes",
    "sign_flip_p_value",
    "tango_interval",
]

GRID = 1000
"""Steps between 0 and the largest difference; the permutation distribution is exact on this grid."""

HALVINGS = 36
"""Steps of a bisection in [-1, 1]: the error is below 1e-10."""

Start = TypeVar("Start", bound=Hashable)


def shared_episodes(
    a: Mapping[Start, float], b: Mapping[Start, float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The outcomes of two policies on the starts (or seeds) that both have, in the order of the first."""
    both = [start for start in a if start in b]
    return np.array([a[start] for start in both], float), np.array([b[start] for start in both], float)


def compare_paired_successes(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Comparison:
    """Compare the success of two policies, episode by episode on the same starts.

    The p-value is McNemar's exact test. The interval is Tango's (1998). The probability that A is better
    belongs to a uniform prior for the share of A among the starts on which exactly one succeeds.

    Args:
        a: For each start whether A succeeded, 0 or 1.
        b: The same of B, in the same order.
        confidence: Of the interval, between 0 and 1, exclusive.

    Raises:
        ValueError: If the lengths differ, or a value is neither 0 nor 1.
    """
    first, second = _pairs(a, b)
    for values in (first, second):
        if not np.isin(values, (0.0, 1.0)).all():
            raise ValueError("a success is 0 or 1: compare other values with compare_paired_values")
    only_a, only_b = int(np.sum(first > second)), int(np.sum(first < second))
    return Comparison(
        a=_mean(first),
        b=_mean(second),
        interval=tango_interval(only_a, only_b, len(first), confidence),
        p_value=mcnemar_p_value(only_a, only_b),
        test="McNemar, exact",
        a_is_better=float(special.betainc(only_b + 1, only_a + 1, 0.5)),
        episodes=(len(first), len(second)),
        paired=True,
        variance=float(np.var(first - second)) if len(first) else math.nan,
        only_a=only_a,
        only_b=only_b,
    )


def compare_paired_values(
    a: ArrayLike, b: ArrayLike, confidence: float = 0.95, bounds: tuple[float, float] | None = None
) -> Comparison:
    """Compare the values (e.g. rewards) of two policies, episode by episode on the same starts.

    The p-value is the sign-flip permutation test of the paired differences. The interval is that of
    `mean_interval` for the differences. The probability that A is better is that of Student's t with the
    usual flat prior.

    Args:
        a: A value for each start.
        b: The same of B, in the same order.
        confidence: Of the interval, between 0 and 1, exclusive.
        bounds: The range of a value, if known.

    Raises:
        ValueError: If the lengths differ, or a value is not finite or out of bounds.
    """
    first, second = _pairs(a, b)
    reach = None
    if bounds is not None:
        as_values(first, bounds)
        as_values(second, bounds)
        reach = (bounds[0] - bounds[1], bounds[1] - bounds[0])
    differences = first - second
    n = len(differences)
    return Comparison(
        a=_mean(first),
        b=_mean(second),
        interval=mean_interval(differences, confidence, reach),
        p_value=sign_flip_p_value(differences),
        test="sign flips of paired differences, exact",
        a_is_better=_positive_mean(differences),
        episodes=(n, n),
        paired=True,
        variance=float(np.var(differences)) if n else math.nan,
    )


def mcnemar_p_value(only_a: int, only_b: int) -> float:
    """Exact two-sided test of equal success from the pairs in which exactly one succeeds (McNemar 1947)."""
    pairs = only_a + only_b
    return min(1.0, 2 * float(special.bdtr(min(only_a, only_b), pairs, 0.5))) if pairs else 1.0


def sign_flip_p_value(differences: ArrayLike) -> float:
    """Exact two-sided permutation test of a zero mean of paired differences.

    If two policies are equal, each difference could have had the other sign. The distribution of the sum
    over all ``2^n`` signs is computed by adding one difference after the other (Pagano and Tritchler 1983),
    with sizes rounded to 1/1000 of the largest. So the result needs no random numbers, and small p-values
    have no floor, which tests of many policies need. For differences of -1, 0 and 1 it is McNemar's exact
    test.
    """
    found = as_values(differences)
    found = found[found != 0]
    if len(found) == 0:
        return 1.0
    steps = np.rint(np.abs(found) / np.abs(found).max() * GRID).astype(np.int64)
    total = int(steps.sum())
    observed = abs(int(np.sum(np.sign(found).astype(np.int64) * steps)))
    # The probability that the positive ones have a given sum.
    chance = np.zeros(total + 1)
    chance[0] = 1.0
    for step in steps[steps > 0]:
        chance *= 0.5
        chance[step:] += chance[:-step].copy()
    # The sum of all is twice the sum of the positive ones, minus the total.
    least = (total + observed + 1) // 2
    return min(1.0, 2 * float(chance[least:].sum()))


def tango_interval(only_a: int, only_b: int, pairs: int, confidence: float = 0.95) -> Interval:
    """Score interval of the difference of two success rates on the same starts (Tango 1998).

    Args:
        only_a: Pairs in which only A succeeds.
        only_b: Pairs in which only B succeeds.
        pairs: All pairs; 0 gives [-1, 1].
        confidence: Between 0 and 1, exclusive.

    Raises:
        ValueError: If there are more successes than pairs, or ``confidence`` is out of range.
    """
    if min(only_a, only_b) < 0 or only_a + only_b > pairs:
        raise ValueError(f"{only_a} and {only_b} pairs with one success, of {pairs} pairs")
    z = two_sided_z(confidence)
    if pairs == 0:
        return Interval(-1.0, 1.0, confidence, "Tango")
    low, high = tango_ends(only_a, only_b, pairs, z)
    return Interval(float(low), float(high), confidence, "Tango")


def tango_ends(
    only_a: ArrayLike, only_b: ArrayLike, pairs: int, z: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ends of Tango's interval, for one or for many results at once."""
    b, c = np.asarray(only_a, dtype=np.float64), np.asarray(only_b, dtype=np.float64)
    estimate = (b - c) / pairs
    ends = []
    for border, sign in ((-1.0, 1.0), (1.0, -1.0)):
        outside, inside = np.full_like(estimate, border), estimate
        # The score falls with the difference.
        for _ in range(HALVINGS):
            middle = (outside + inside) / 2
            excluded = sign * _tango_score(middle, b, c, pairs) > z
            outside, inside = np.where(excluded, middle, outside), np.where(excluded, inside, middle)
        # The border itself remains in the interval if nothing before it was excluded.
        ends.append(outside)
    return ends[0], ends[1]


def _tango_score(
    difference: NDArray[np.float64], b: NDArray[np.float64], c: NDArray[np.float64], pairs: int
) -> NDArray[np.float64]:
    linear = -b - c + (2 * pairs - b + c) * difference
    constant = -c * difference * (1 - difference)
    root = np.sqrt(np.maximum(linear * linear - 8 * pairs * constant, 0.0))
    # The likeliest share of pairs in which only B succeeds, given the difference.
    share = np.maximum(root - linear, 0.0) / (4 * pairs)
    variance = pairs * (2 * share + difference * (1 - difference))
    with np.errstate(divide="ignore", invalid="ignore"):
        score = (b - c - pairs * difference) / np.sqrt(np.maximum(variance, 0.0))
    return np.nan_to_num(score, nan=0.0, posinf=np.inf, neginf=-np.inf)


def _positive_mean(differences: NDArray[np.float64]) -> float:
    """Probability that the mean of differences is above 0, half of the probability of a tie included."""
    n = len(differences)
    if n == 0 or not differences.any():
        return 0.5
    mean, deviation = float(differences.mean()), float(differences.std(ddof=1)) if n > 1 else 0.0
    if deviation <= 1e-12 * abs(mean):
        # Without a spread only the signs count, as for successes with a uniform prior.
        chance = 0.5 ** (n + 1)
        return 1 - chance if mean > 0 else chance
    return float(special.stdtr(n - 1, mean / deviation * math.sqrt(n)))


def _pairs(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    first, second = as_values(a), as_values(b)
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} episodes are not pairs: both need the same starts")
    return first, second


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else math.nan
