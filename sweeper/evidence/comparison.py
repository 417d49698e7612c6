"""The result of comparing two policies."""

from __future__ import annotations

from dataclasses import dataclass

from sweeper.evidence.intervals import Interval
from sweeper.evidence.planning import further_episodes

__all__ = ["Comparison"]


@dataclass(frozen=True)
class Comparison:
    """What the episodes of two policies, A and B, say about their difference.

    The interval and the p-value come from different methods, each the better one for its purpose. Near the
    limit one may exclude equality and the other not: the p-value decides.

    Attributes:
        a: Mean of A.
        b: Mean of B.
        interval: Of the difference A - B.
        p_value: Two-sided, for no difference.
        test: How the p-value was computed, e.g. ``McNemar, exact``.
        a_is_better: Probability that the true mean of A is the larger one, half of the probability of a tie
            included.
        episodes: Episodes of A and of B; of pairs the number is the same.
        paired: Whether both ran on the same starts.
        variance: Variance of a paired difference, or the sum of the variances of A and B.
        only_a: Pairs in which only A succeeded; None if not paired or not of successes.
        only_b: Pairs in which only B succeeded.
    """

    a: float
    b: float
    interval: Interval
    p_value: float
    test: str
    a_is_better: float
    episodes: tuple[int, int]
    paired: bool
    variance: float
    only_a: int | None = None
    only_b: int | None = None

    @property
    def difference(self) -> float:
        """Mean of A minus mean of B."""
        return self.a - self.b

    def further_episodes(self, power: float = 0.8) -> int | None:
        """Further episodes of each that would tell them apart if the observed difference were the true one.

        Returns:
            0 if they are told apart already, None if no difference was observed.
        """
        confidence = self.interval.confidence
        if self.p_value <= 1 - confidence:
            return 0
        # An open comparison needs at least one episode more, whatever the approximate formula gives.
        further = further_episodes(
            min(self.episodes),
            self.difference,
            self.variance,
            paired=self.paired,
            power=power,
            confidence=confidence,
        )
        return further if further is None else max(1, further)
