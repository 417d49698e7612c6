"""Confidence intervals of measured rates."""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

__all__ = ["wilson_interval"]


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Bound a success probability by Wilson's score interval.

    Unlike the normal approximation it stays within [0, 1] and is honest near 0 and 1, where rollouts of a
    young policy are.

    Args:
        successes: Successful trials, 0 to ``n``.
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
