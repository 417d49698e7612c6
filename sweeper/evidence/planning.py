"""How many episodes a difference needs, and which difference episodes can show. Standard library only.

All formulas are the usual normal approximations for a two-sided test. A result is a plan, not a promise: it
is rounded to a whole episode, and an exact test needs a few episodes more.
"""

from __future__ import annotations

import math
from statistics import NormalDist

__all__ = [
    "detectable_difference",
    "episodes_needed",
    "further_episodes",
    "paired_detectable_difference",
    "paired_episodes_needed",
]


def episodes_needed(
    difference: float, rate: float = 0.5, *, power: float = 0.8, confidence: float = 0.95
) -> int:
    """Episodes per policy that show a difference of two success rates on different starts.

    ``n = 2 p (1 - p) (z_confidence + z_power)² / difference²`` (Fleiss, Levin and Paik 2003, chapter 4,
    with one variance for both policies). A difference of 20 points at a rate near 0.5 needs 98.

    Args:
        difference: Between two success rates; above 0, at most 1.
        rate: Mean of the two success rates. 0.5 needs most episodes.
        power: Probability that the test finds the difference.
        confidence: Of the two-sided test.
    """
    _check("difference", difference, 0.0, 1.0)
    _check("rate", rate, 0.0, 1.0)
    z = _z(1 / 2 + confidence / 2) + _z(power)
    return max(1, round(2 * rate * (1 - rate) * z * z / difference**2))


def detectable_difference(
    episodes: int, rate: float = 0.5, *, power: float = 0.8, confidence: float = 0.95
) -> float:
    """The smallest difference of two success rates that episodes on different starts show.

    The formula of `episodes_needed`, solved for the difference. 50 episodes per policy show 0.28; 1 if they
    are too few for any difference.
    """
    if episodes < 1:
        return 1.0
    _check("rate", rate, 0.0, 1.0)
    z = _z(1 / 2 + confidence / 2) + _z(power)
    return min(1.0, z * math.sqrt(2 * rate * (1 - rate) / episodes))


def paired_episodes_needed(
    difference: float, discordance: float, *, power: float = 0.8, confidence: float = 0.95
) -> int:
    """Pairs that show a difference of two success rates on the same starts by McNemar's test.

    ``n = (z_confidence √ψ + z_power √(ψ - difference²))² / difference²`` with the discordance ψ (Connor
    1987).

    Args:
        difference: Between the two success rates; above 0.
        discordance: Share of starts on which exactly one of the two succeeds; at least the difference.
        power: Probability that the test finds the difference.
        confidence: Of the two-sided test.
    """
    _check("discordance", discordance, 0.0, 1.0)
    _check("difference", difference, 0.0, discordance)
    return _pairs_needed(difference, discordance, power, confidence)


def paired_detectable_difference(
    episodes: int, discordance: float, *, power: float = 0.8, confidence: float = 0.95
) -> float:
    """The smallest difference of two success rates that pairs show, at most the discordance.

    The formula of `paired_episodes_needed`, solved for the difference.
    """
    _check("discordance", discordance, 0.0, 1.0)
    if episodes < 1:
        return discordance
    # n d² = (a + b √(1 - d² / ψ))² ψ is solved by squaring: a quadratic equation in √(1 - d² / ψ).
    a, b = _z(1 / 2 + confidence / 2), _z(power)
    root = (
        (math.sqrt(episodes * (episodes + b * b - a * a)) - a * b) / (episodes + b * b)
        if episodes > a * a
        else 0.0
    )
    return min(discordance, math.sqrt(discordance * max(0.0, 1 - root * root)))


def further_episodes(
    episodes: int,
    difference: float,
    variance: float,
    *,
    paired: bool = True,
    power: float = 0.8,
    confidence: float = 0.95,
) -> int | None:
    """Further episodes per policy that would tell two apart if the observed difference were the true one.

    The observed difference is uncertain, and so is this number.

    Args:
        episodes: Episodes per policy (or pairs) so far.
        difference: Observed difference of the means.
        variance: Variance of a paired difference, or the sum of the variances of both policies.
        paired: Whether both policies run on the same starts.
        power: Probability that the test then finds the difference.
        confidence: Of the two-sided test.

    Returns:
        None if no difference was observed.
    """
    if difference == 0:
        return None
    if paired:
        needed = _pairs_needed(abs(difference), variance + difference**2, power, confidence)
    else:
        z = _z(1 / 2 + confidence / 2) + _z(power)
        needed = round(variance * z * z / difference**2)
    # An exact test cannot reject with fewer: all of them in one direction have this probability.
    fewest = math.ceil(math.log2(2 / (1 - confidence)))
    return max(0, max(needed, fewest) - episodes)


def _pairs_needed(difference: float, mean_square: float, power: float, confidence: float) -> int:
    """Pairs needed; under the null hypothesis the variance of a difference is its mean square."""
    reach = _z(1 / 2 + confidence / 2) * math.sqrt(mean_square)
    reach += _z(power) * math.sqrt(max(0.0, mean_square - difference**2))
    return max(1, round((reach / difference) ** 2))


def _z(probability: float) -> float:
    if not 0.0 < probability < 1.0:
        raise ValueError(f"power and confidence are between 0 and 1, not {probability}")
    return NormalDist().inv_cdf(probability)


def _check(name: str, value: float, low: float, high: float) -> None:
    if not low < value <= high:
        raise ValueError(f"{name} {value}: expected above {low}, at most {high}")
