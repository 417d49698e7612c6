"""The completed trials: their intervals, and which of them are not told apart from the best."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sweeper.certainty.standing import standing_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState

__all__ = ["SUCCESS", "Standing", "standings"]

SUCCESS = "rollout/success_rate"
MOST_COMPARED = 300
"""The best trials, which are compared with the leader. The exact test of rewards takes milliseconds."""


@dataclass(frozen=True)
class Standing:
    """What is known of a completed trial.

    Attributes:
        trial: The trial.
        value: Its value of the first objective.
        low: Lower end of its 95 % interval; None if unknown.
        high: Upper end.
        episodes: Number of episodes behind it; 0 if there are no records.
        leads: Whether it is the first of the ranking.
        told_apart: Whether its episodes are worse than those of the leader by more than chance; None if it
            was not compared.
        p_best: Probability that it is the best of those compared; None likewise.
    """

    trial: TrialState
    value: float
    low: float | None
    high: float | None
    episodes: int
    leads: bool
    told_apart: bool | None
    p_best: float | None


def standings(sweep: SweepState) -> list[Standing]:
    """The completed trials in the order of the ranking, judged by the first objective.

    With several objectives none is told apart: the first of the ranking is not the best in all of them.
    """
    objective, ranking = sweep.objectives[0], sweep.ranking()
    completed = [trial for trial in ranking if trial.status == TrialStatus.COMPLETED]
    found = standing_of(sweep, ranking, MOST_COMPARED)
    single = len(sweep.objectives) == 1
    return [
        Standing(
            trial=trial,
            value=trial.final.get(objective.name, math.nan),
            low=known.low,
            high=known.high,
            episodes=known.episodes,
            leads=at == 0,
            told_apart=not known.may_be_best if single and known.may_be_best is not None else None,
            p_best=known.p_best if single else None,
        )
        for at, (trial, known) in enumerate((trial, found.of(trial.number)) for trial in completed)
    ]
