"""Confidence intervals of measured rates and means."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np

__all__ = ["mean_interval", "wilson_interval"]


def wilson_interval(successes: float, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bound a success probability by Wilson's score interval.

    Unlike the normal approximation it stays within [0, 1] and holds near 0 and 1 too, the rates of a young
    policy.

    Args:
        successes: Successful trials, 0 to ``n``. A fraction bounds the mean of values in [0, 1].
        n: Trials; 0 gives (0, 1), as nothing is known.
        confidence: Probability that the interval covers the truth, between 0 and 1 (exclusive).

    Returns:
        Lower and upper bound.

    Raises:
        ValueError: If ``successes`` is not within 0..``n``, or ``confidence`` is out of range.
    """
    if not 0 <= successes <= n:
        raise ValueError(f"{successes} successes in {n} trials: expected 0 to {n}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    if n == 0:
        return (0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / n
    centre = rate + z * z / (2 * n)
    spread = z * sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # Rounding must not put the bound on the wrong side of a measured 0 or 1.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return (low, high)


def mean_interval(values: np.ndarray, confidence: float = 0.95) -> tuple[float, float] | None:
    """Bound the mean of the distribution that values come from: Student's t, corrected for skewness.

    Both ends of the t interval move by ``skewness · s / n · (1 + 2 z²) / 6``, the first term of the Edgeworth
    expansion of the t statistic (Hall 1983, Abramovitch and Singh 1985). The corrected interval is
    second-order accurate, as the bias-corrected accelerated bootstrap is, and needs no random numbers.

    Args:
        values: (n,) independent measurements.
        confidence: Probability that the interval is to cover the mean, between 0 and 1 (exclusive).

    Returns:
        Lower and upper bound, on both sides of the mean; None for fewer than two values, or values that are
        all equal: they do not show how much they vary.

    Raises:
        ValueError: If ``confidence`` is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    found_N = np.asarray(values, dtype=np.float64)
    n = len(found_N)
    if n < 2 or np.ptp(found_N) == 0:
        return None
    from scipy.special import stdtrit  # takes a third of a second, which only evaluations need

    mean, deviation = float(found_N.mean()), float(found_N.std(ddof=1))
    share = 0.5 + confidence / 2
    z = NormalDist().inv_cdf(share)
    shift = _skewness(found_N) * deviation / n * (1 + 2 * z * z) / 6
    reach = float(stdtrit(n - 1, share)) * deviation / sqrt(n)
    return (min(mean - reach + shift, mean), max(mean + reach + shift, mean))


def _skewness(values_N: np.ndarray) -> float:
    deviations_N = values_N - values_N.mean()
    spread = float(np.sqrt(np.mean(deviations_N**2)))
    if spread <= 1e-12 * max(1.0, float(np.abs(values_N).max())):
        return 0.0
    return float(np.mean((deviations_N / spread) ** 3))
