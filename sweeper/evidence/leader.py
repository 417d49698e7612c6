"""Which of many policies the evidence does not tell apart from the best one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeper.evidence.intervals import as_values
from sweeper.evidence.paired import mcnemar_p_value, sign_flip_p_value
from sweeper.evidence.unpaired import barnard_p_value, compare_values

__all__ = ["AgainstLeader", "Outcome", "holm", "not_told_apart"]

Outcome = Literal["success", "value"]
"""What an episode gives: 0 or 1, or any number of which more is better."""


@dataclass(frozen=True)
class AgainstLeader:
    """Comparisons of all policies with the leader.

    Attributes:
        leader: Number of the policy with the largest mean.
        p_values: Of the comparison of each policy with the leader, adjusted for the number of comparisons;
            1 for the
            leader.
        not_told_apart: Numbers of the policies that may be as good as the leader, without the leader.
    """

    leader: int
    p_values: tuple[float, ...]
    not_told_apart: tuple[int, ...]


def not_told_apart(
    outcomes: Sequence[ArrayLike],
    outcome: Outcome,
    *,
    paired: bool,
    confidence: float = 0.95,
    leader: int | None = None,
) -> AgainstLeader:
    """Compare each policy with the leader, and adjust the p-values by Holm's procedure.

    The tests are those of `paired` and `unpaired`. The leader is chosen from the same episodes. This does
    not spoil the answer to the question that is asked: whichever policy leads, the truly best one is told
    apart from it with a probability of about half of ``1 - confidence`` at most, because Bonferroni's bound
    also covers the choice.

    Args:
        outcomes: For each policy one outcome per episode. A policy without episodes is never told apart.
        outcome: ``success`` for outcomes of 0 and 1, ``value`` for others.
        paired: Whether all policies ran on the same starts, in the same order.
        confidence: Probability that the truly best policy is the leader or among those not told apart.
        leader: Number of the leader; by default the policy with the largest mean, the first one of equals.

    Raises:
        ValueError: If there is no policy with episodes, or the numbers of episodes differ and ``paired`` is
            set.
    """
    values = [as_values(found) for found in outcomes]
    means = [float(found.mean()) if len(found) else -np.inf for found in values]
    if leader is None:
        leader = int(np.argmax(means)) if means else 0
    if not values or not len(values[leader]):
        raise ValueError("no policy has episodes")
    others = [number for number in range(len(values)) if number != leader]
    if paired and any(len(values[number]) not in (0, len(values[leader])) for number in others):
        raise ValueError("paired policies need the same episodes: select those that all have")
    raw = [_p_value(values[leader], values[number], outcome, paired) for number in others]
    adjusted = dict(zip(others, holm(raw), strict=True))
    p_values = tuple(float(adjusted.get(number, 1.0)) for number in range(len(values)))
    untold = tuple(number for number in others if p_values[number] > 1 - confidence)
    return AgainstLeader(leader, p_values, untold)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """P-values adjusted for their number by Holm's procedure (1979).

    If those that are at most 5 % are rejected, the probability of any false rejection is at most 5 %.
    """
    found = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    factors = len(found) - np.arange(len(found))
    adjusted = np.empty_like(found)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(found[order] * factors))
    return adjusted


def _p_value(
    leader: NDArray[np.float64], other: NDArray[np.float64], outcome: Outcome, paired: bool
) -> float:
    if not len(other):
        return 1.0
    if outcome == "value":
        return sign_flip_p_value(leader - other) if paired else compare_values(leader, other).p_value
    if paired:
        return mcnemar_p_value(int(np.sum(leader > other)), int(np.sum(leader < other)))
    return barnard_p_value(int(leader.sum()), len(leader), int(other.sum()), len(other))
