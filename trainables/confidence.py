"""Confidence intervals of measured rates and means."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

import numpy as np

__all__ = ["mean_interval", "wilson_interval"]

RESAMPLES = 2_000


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


def mean_interval(
    values: np.ndarray, confidence: float = 0.95, *, seed: int = 0
) -> tuple[float, float] | None:
    """Bound the mean of the values' distribution by the BCa bootstrap.

    Efron, "Better bootstrap confidence intervals", JASA 1987. It follows skew, as in rewards of episodes,
    and stays within the values' range. With few values it is too narrow: of 10 skewed values
    it covers the mean in about nine cases of ten.

    Args:
        values: (n,) independent measurements.
        confidence: Probability that the interval is to cover the mean, between 0 and 1 (exclusive).
        seed: Of the resamples: the same values always have the same interval.

    Returns:
        Lower and upper bound; None for fewer than two values or for equal values, since their resamples are
        all equal and show nothing about the mean's uncertainty.

    Raises:
        ValueError: If ``confidence`` is out of range.
    """
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    values_N = np.asarray(values, dtype=np.float64)
    n = len(values_N)
    if n < 2 or np.ptp(values_N) == 0:
        return None
    chosen_RN = np.random.default_rng([seed, n]).integers(n, size=(RESAMPLES, n))
    means_R = np.sort(values_N[chosen_RN].mean(axis=1))
    mean = values_N.mean()
    normal = NormalDist()
    # Ties count half, so that values of a lattice (0 and 1) show no false bias.
    below = (np.sum(means_R < mean) + 0.5 * np.sum(means_R == mean)) / RESAMPLES
    bias = normal.inv_cdf(min(max(below, 0.5 / RESAMPLES), 1 - 0.5 / RESAMPLES))
    left_out_N = mean - (values_N.sum() - values_N) / (n - 1)
    acceleration = np.sum(left_out_N**3) / (6 * np.sum(left_out_N**2) ** 1.5)
    bounds = []
    for share in ((1 - confidence) / 2, (1 + confidence) / 2):
        z = bias + normal.inv_cdf(share)
        shifted = normal.cdf(bias + z / (1 - acceleration * z))
        bounds.append(float(np.quantile(means_R, shifted)))
    return (bounds[0], bounds[1])
