"""How far the value that chose a policy exceeds the value that confirms it.

The best of many noisy values is too good: its luck was chosen along with it. Of 32 equal policies with a
success rate of 0.5, the best of 50 episodes each shows 0.65.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from sweeper.evidence.intervals import Interval
from sweeper.evidence.unpaired import compare_successes, compare_values

__all__ = ["Shrinkage", "expected_best_of_equals", "shrinkage_of_successes", "shrinkage_of_values", "shrunk"]


@dataclass(frozen=True)
class Shrinkage:
    """The value of a policy in the search and in the confirmation.

    Attributes:
        search: The value that the search chose by.
        confirmed: The value on fresh starts.
        interval: Of the drop ``search - confirmed``.
    """

    search: float
    confirmed: float
    interval: Interval

    @property
    def drop(self) -> float:
        """By how much the search value was too good; negative if the confirmed value is better."""
        return self.search - self.confirmed


def shrinkage_of_successes(
    search: tuple[int, int], confirmed: tuple[int, int], confidence: float = 0.95
) -> Shrinkage:
    """The drop of a success rate, with Newcombe's interval.

    Args:
        search: Successes and episodes of the search.
        confirmed: Successes and episodes of the confirmation, on other starts.
        confidence: Of the interval, between 0 and 1, exclusive.
    """
    found = compare_successes(*search, *confirmed, confidence)
    return Shrinkage(found.a, found.b, found.interval)


def shrinkage_of_values(search: ArrayLike, confirmed: ArrayLike, confidence: float = 0.95) -> Shrinkage:
    """The drop of a mean, e.g. of rewards, with Welch's interval.

    Args:
        search: One value per episode of the search.
        confirmed: One value per episode of the confirmation, on other starts.
        confidence: Of the interval, between 0 and 1, exclusive.
    """
    found = compare_values(search, confirmed, confidence)
    return Shrinkage(found.a, found.b, found.interval)


def expected_best_of_equals(policies: int, episodes: int, rate: float) -> float:
    """The success rate that the best of equal policies is expected to show by chance.

    Args:
        policies: Number of policies, at least 1.
        episodes: Independent episodes of each, at least 1.
        rate: The true success rate of all.
    """
    if policies < 1 or episodes < 1 or not 0.0 <= rate <= 1.0:
        raise ValueError(f"{policies} policies, {episodes} episodes, rate {rate}: expected 1, 1, and 0 to 1")
    # The largest count exceeds s unless none does.
    below = special.bdtr(np.arange(episodes), episodes, rate)
    return float(np.sum(1 - below**policies)) / episodes


def shrunk(values: Sequence[float] | ArrayLike, errors: ArrayLike) -> NDArray[np.float64]:
    """Search values moved towards their mean: what a confirmation is expected to show.

    The empirical Bayes estimate of Efron and Morris (1975): the spread of the values beyond their noise is
    the spread of the policies. Values that differ no more than noise explains move almost to their mean.

    Args:
        values: One value per policy, of all policies that the best was chosen from.
        errors: Their standard errors, above 0.
    """
    found, noise = np.asarray(values, dtype=np.float64), np.asarray(errors, dtype=np.float64) ** 2
    if len(found) < 4:
        # The estimate needs at least four values to be better than the values themselves.
        return found
    weights = 1 / noise
    centre = float(np.average(found, weights=weights))
    freedom = len(found) - 1
    excess = float(weights @ (found - centre) ** 2) - freedom
    spread = max(0.0, excess / float(weights.sum() - (weights**2).sum() / weights.sum()))
    # With few values the noise is overestimated a little less: (k - 3) / (k - 1).
    kept = 1 - (freedom - 2) / freedom * noise / (noise + spread)
    return np.asarray(centre + kept * (found - centre))
