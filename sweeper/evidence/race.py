"""A race of finalists: all run on the same new starts, block after block, and the clearly worse ones leave.

It is successive elimination (Even-Dar, Mannor and Mansour 2006) by betting (Waudby-Smith and Ramdas 2024),
and may be stopped after any block and continued with a larger budget without harm to its guarantees:

1. With a probability of at least ``1 - delta`` no best arm ever leaves, even if several are equally good.
2. With a probability of at least ``1 - delta`` the answer is right: the arm that is left is the best, or, if
   the race ended within ``epsilon``, the leader is at most ``epsilon`` worse than the best.

For each pair of arms a fortune is bet on one doing better than the other on the same starts. The fortune
against an arm is the mean of those of its rivals. If the arm is one of the best, none of its rivals is
expected to do better, the fortune is not expected to grow, and it ever reaches ``r / delta`` with a
probability of at most ``delta / r`` (Ville 1939). With ``r`` arms left, an arm leaves at ``r / delta``:
Holm's procedure over the arms. Confidence intervals of all pairs at ``delta / (k (k - 1) / 2)`` have the
same guarantee, and need a tenth more episodes.

The second guarantee: the best arm leaves with a probability of at most ``delta / 2``, because the last two
part at ``2 / delta``. A further fortune for each pair is bet on ``mean(i) > mean(j) - epsilon``. The leader
is within ``epsilon`` if its fortunes against all others have reached ``2 (k - 1) / delta``. That this
happens wrongly to any of the ``k - 1`` other arms has a probability of at most ``delta / 2`` together.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sweeper.evidence.anytime import anytime_interval
from sweeper.evidence.intervals import Bounds, Interval, as_values

__all__ = ["Departure", "Race", "RaceRule", "RaceState", "replay"]

Arm = TypeVar("Arm", bound=Hashable)

BETS: NDArray[np.float64] = np.linspace(0.03, 0.9, 30)
"""Shares of the fortune that are bet; the fortune is spread evenly over them.

The best share is about the mean difference divided by the mean square of the differences.
"""

MOST_FURTHER = 10_000
"""A plan for more further episodes than this is not useful."""


class RaceState(StrEnum):
    """How a race stands."""

    RACING = "racing"
    DECIDED = "decided"
    WITHIN_EPSILON = "within epsilon"
    BUDGET_USED = "budget used"


@dataclass(frozen=True)
class RaceRule:
    """When an arm leaves, and when a race ends.

    Attributes:
        budget: Most episodes of an arm, rounded down to whole blocks. A race that used it can continue with
            more.
        block: Episodes of each arm between two decisions.
        delta: Probability of a wrong answer, between 0 and 1.
        epsilon: The race ends if the leader is at most this much worse than any other arm; 0 for never.
        bounds: The least and the largest possible outcome, 0 and 1 for success.
    """

    budget: int = 400
    block: int = 20
    delta: float = 0.05
    epsilon: float = 0.0
    bounds: Bounds = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.bounds
        if not low < high:
            raise ValueError(f"bounds {low} and {high}: expected the smaller one first")
        if not 1 <= self.block <= self.budget:
            raise ValueError(f"block {self.block}: expected 1 to the budget, which is {self.budget}")
        if not 0.0 < self.delta < 1.0:
            raise ValueError(f"delta {self.delta} is not between 0 and 1")
        if not 0.0 <= self.epsilon < high - low:
            raise ValueError(f"epsilon {self.epsilon}: expected 0 to less than the range, {high - low}")


@dataclass(frozen=True)
class Departure(Generic[Arm]):
    """An arm that left a race.

    Attributes:
        arm: Which one.
        episodes: Episodes that each arm had by then.
        rival: The arm that led when it left.
    """

    arm: Arm
    episodes: int
    rival: Arm


class Race(Generic[Arm]):
    """The state of a race. It depends on the arms, the rule and the blocks only; nothing is random."""

    def __init__(self, arms: Sequence[Arm], rule: RaceRule) -> None:
        """Start a race.

        Args:
            arms: At least two different ones. Their order matters for equal means only.
            rule: When an arm leaves, and when the race ends.
        """
        if len(arms) < 2 or len(set(arms)) != len(arms):
            raise ValueError(f"a race needs at least two different arms, not {list(arms)}")
        self.arms: tuple[Arm, ...] = tuple(arms)
        self.rule = rule
        self.departures: list[Departure[Arm]] = []
        self.episodes = 0
        k = len(arms)
        self._left = list(range(k))
        self._outcomes: list[list[float]] = [[] for _ in arms]
        self._sums = np.zeros(k)
        # The first index is the arm that is bet on, the second the one that is bet against.
        self._better = _Fortunes(k)
        self._close = _Fortunes(k) if rule.epsilon else None
        self._most_against = np.full(k, -np.inf)

    @property
    def remaining(self) -> tuple[Arm, ...]:
        """The arms that have not left, the best mean first."""
        return tuple(self.arms[arm] for arm in self._ranking())

    @property
    def leader(self) -> Arm:
        """The remaining arm with the best mean; the earlier one of equals."""
        return self.remaining[0]

    @property
    def state(self) -> RaceState:
        """How the race stands after the last block."""
        if len(self._left) == 1:
            return RaceState.DECIDED
        if self._leader_is_close():
            return RaceState.WITHIN_EPSILON
        if self.episodes + self.rule.block > self.rule.budget:
            return RaceState.BUDGET_USED
        return RaceState.RACING

    @property
    def next_block(self) -> range:
        """Numbers of the episodes that all remaining arms need next; empty if the race has ended."""
        size = self.rule.block if self.state == RaceState.RACING else 0
        return range(self.episodes, self.episodes + size)

    def add_block(self, outcomes: Mapping[Arm, ArrayLike]) -> list[Departure[Arm]]:
        """Add the next block.

        Args:
            outcomes: For each remaining arm the outcomes of the episodes of `next_block`, in their order.
                Those of
                other arms are ignored.

        Returns:
            The arms that leave after this block.

        Raises:
            ValueError: If the race has ended, an arm or an episode is missing, or an outcome is out of
                bounds.
        """
        size = len(self.next_block)
        if not size:
            raise ValueError(f"the race has ended: {self.state}")
        low, high = self.rule.bounds
        block = np.zeros((len(self.arms), size))
        for arm in self._left:
            if self.arms[arm] not in outcomes:
                raise ValueError(f"the block lacks the outcomes of {self.arms[arm]}")
            values = as_values(outcomes[self.arms[arm]], self.rule.bounds)
            if len(values) != size:
                raise ValueError(f"{self.arms[arm]} has {len(values)} outcomes in a block of {size}")
            block[arm] = (values - low) / (high - low)
            self._outcomes[arm] += values.tolist()
        self._bet(block)
        self._sums += block.sum(axis=1)
        self.episodes += size
        return self._part()

    def interval(self, arm: Arm, confidence: float = 0.95) -> Interval:
        """The mean of an arm, valid at any time. It is not adjusted for the choice of the best of several."""
        return anytime_interval(self._outcomes[self.arms.index(arm)], self.rule.bounds, confidence)

    def difference(self, first: Arm, second: Arm, confidence: float = 0.95) -> Interval:
        """The mean of one arm minus that of another on their common starts, valid at any time."""
        a, b = (self._outcomes[self.arms.index(arm)] for arm in (first, second))
        shared = min(len(a), len(b))
        low, high = self.rule.bounds
        differences = np.subtract(a[:shared], b[:shared])
        return anytime_interval(differences, (low - high, high - low), confidence)

    def outcomes(self, arm: Arm) -> tuple[float, ...]:
        """The outcomes of an arm that the race has used."""
        return tuple(self._outcomes[self.arms.index(arm)])

    def further_episodes(self, most: int = MOST_FURTHER) -> int | None:
        """Further episodes of each arm until one is left, if they were like those so far on average.

        This is a plan, not a promise: the observed differences are uncertain, and so is this number.

        Args:
            most: The largest answer.

        Returns:
            0 if one arm is left, None if more than ``most`` are needed, e.g. if two arms are equal so far.
        """
        if len(self._left) == 1:
            return 0
        others = [arm for arm in self._left if arm != self._ranking()[0]]
        bar = np.log(len(self._left) / self.rule.delta)

        def told_apart(further: int) -> bool:
            against = self._better.mean_against(self._left, further / max(1, self.episodes))
            return bool((against[others] >= bar).all())

        if not self.episodes or not told_apart(most):
            return None
        enough, too_few = most, 0
        while enough - too_few > 1:
            middle = (enough + too_few) // 2
            enough, too_few = (middle, too_few) if told_apart(middle) else (enough, middle)
        return enough

    def _ranking(self) -> list[int]:
        return sorted(self._left, key=lambda arm: (-round(float(self._sums[arm]), 9), arm))

    def _bet(self, block: NDArray[np.float64]) -> None:
        left = np.array(self._left)
        differences = block[left][:, None] - block[left][None, :]
        self._better.bet(left, differences)
        self._most_against = np.maximum(self._most_against, self._better.mean_against())
        if self._close is not None:
            low, high = self.rule.bounds
            self._close.bet(left, differences + self.rule.epsilon / (high - low))

    def _part(self) -> list[Departure[Arm]]:
        """Let arms leave, the clearest first: each departure lowers the bar for the next."""
        parted: list[int] = []
        for arm in sorted(self._left, key=lambda arm: -self._most_against[arm]):
            bar = np.log((len(self._left) - len(parted)) / self.rule.delta)
            if len(self._left) - len(parted) < 2 or self._most_against[arm] < bar:
                break
            parted.append(arm)
        self._left = [arm for arm in self._left if arm not in parted]
        departures = [Departure(self.arms[arm], self.episodes, self.leader) for arm in parted]
        self.departures += departures
        return departures

    def _leader_is_close(self) -> bool:
        if self._close is None:
            return False
        leader, *others = self._ranking()
        bar = np.log(2 * (len(self.arms) - 1) / self.rule.delta)
        return bool((self._close.most[leader, others] >= bar).all())


def replay(arms: Sequence[Arm], outcomes: Mapping[Arm, Mapping[int, float]], rule: RaceRule) -> Race[Arm]:
    """The race that a set of records gives: all blocks that are complete, in their order.

    The order in which the records were written does not matter, so a race that was interrupted, or that
    continues with a larger budget, repeats its decisions.

    Args:
        arms: As for `Race`.
        outcomes: For each arm its outcomes by the number of the episode, from 0.
        rule: As for `Race`.
    """
    race = Race(arms, rule)
    while block := race.next_block:
        if any(episode not in outcomes.get(arm, {}) for arm in race.remaining for episode in block):
            break
        race.add_block({arm: [outcomes[arm][episode] for episode in block] for arm in race.remaining})
    return race


class _Fortunes:
    """For each ordered pair of arms a fortune that is bet on the first doing better, spread over `BETS`."""

    def __init__(self, arms: int) -> None:
        self._by_bet = np.zeros((arms, arms, len(BETS)))
        """Logarithms of the fortune of each bet."""
        self.most = np.zeros((arms, arms))
        """Logarithm of the largest value that each fortune ever had."""

    def bet(self, left: NDArray[np.int64], differences: NDArray[np.float64]) -> None:
        """Bet on the differences of a block between the arms that are left, shaped arm, arm, episode."""
        gains = np.log1p(differences[..., None] * BETS).sum(axis=2)
        pairs = np.ix_(left, left)
        self._by_bet[pairs] += gains
        self.most[pairs] = np.maximum(self.most[pairs], _log_mean_exp(self._by_bet[pairs]))

    def mean_against(self, left: Sequence[int] = (), growth: float = 0.0) -> NDArray[np.float64]:
        """Logarithm of the fortune against each arm: the mean over its rivals.

        Args:
            left: Arms whose fortunes against each other go on growing.
            growth: By which share of what they have grown so far.
        """
        by_bet = self._by_bet.copy()
        by_bet[np.ix_(left, left)] *= 1 + growth
        fortunes = _log_mean_exp(by_bet)
        rivals = ~np.eye(len(fortunes), dtype=bool)
        return _log_mean_exp(fortunes.T[rivals].reshape(len(fortunes), -1))


def _log_mean_exp(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logarithm of the mean, over the last axis, of what has these logarithms."""
    largest = logarithms.max(axis=-1, keepdims=True)
    return np.asarray(largest[..., 0] + np.log(np.exp(logarithms - largest).mean(axis=-1)))
