"""How sure a ranking is: the interval of each trial's objective, and which trials may be the best.

The leader is the first trial of the ranking. The best completed trials are compared with it, episode by
episode on the same starts. Trials without records have no mark. Records are read for the best trials
only, and numpy and scipy are loaded only if there are records.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from sweeper.layout import trial_folder
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import Objective
from trainables.episodes import EPISODES, OUTCOMES, last_episodes, outcome_of

__all__ = ["MOST_COMPARED", "Certainty", "Standing", "interval_of", "reported_interval", "standing_of"]

MOST_COMPARED = 50
"""The best trials of a ranking that are compared with its leader."""

CONFIDENCE = 0.95

Starts = Mapping[tuple[str, int], float]
"""The outcome of each start: an environment and a seed."""


@dataclass(frozen=True)
class Certainty:
    """What the episodes of a trial's last evaluation show.

    Attributes:
        low: Lower end of the objective's 95 % interval; None if unknown.
        high: Upper end.
        may_be_best: Whether the trial is not told apart from the leader; for the leader True, None if it was
            not compared.
        p_value: Of the comparison with the leader, adjusted for the number of trials; None likewise.
        p_best: Probability that it is the best of those compared; None likewise.
        episodes: Number of recorded episodes.
    """

    low: float | None = None
    high: float | None = None
    may_be_best: bool | None = None
    p_value: float | None = None
    p_best: float | None = None
    episodes: int = 0


@dataclass(frozen=True)
class Standing:
    """How sure a ranking is.

    Attributes:
        metric: The first objective.
        trials: What is known of trials, by number; trials of which nothing is known are missing.
        leader: The trial with which others were compared; None if none were.
        not_told_apart: The trials that may be as good as the leader, best first.
        told_apart: The trials that are worse than the leader.
        uncompared: Completed trials that were not compared: too far down, or without records.
    """

    metric: str
    trials: Mapping[int, Certainty] = field(default_factory=dict)
    leader: int | None = None
    not_told_apart: tuple[int, ...] = ()
    told_apart: tuple[int, ...] = ()
    uncompared: int = 0

    def of(self, trial: int) -> Certainty:
        """What is known of a trial."""
        return self.trials.get(trial, Certainty())


def standing_of(sweep: SweepState, ranking: Sequence[TrialState], most: int = MOST_COMPARED) -> Standing:
    """Find out how sure a ranking is.

    Args:
        sweep: The sweep.
        ranking: Its trials, best first.
        most: How many of the best completed trials are compared with the leader.
    """
    objective = sweep.objectives[0]
    found = {trial.number: Certainty(*reported_interval(trial, objective.name)) for trial in ranking}
    completed = [trial for trial in ranking if trial.status == TrialStatus.COMPLETED]
    outcomes = {
        trial.number: starts
        for trial in completed[:most]
        if objective.name in OUTCOMES and (starts := _recorded(sweep, trial, objective.name))
    }
    for number, starts in outcomes.items():
        known, low, high = found[number], found[number].low, found[number].high
        if low is None:
            low, high = interval_of(list(starts.values()), objective.name)
        found[number] = replace(known, low=low, high=high, episodes=len(starts))
    standing = Standing(objective.name, {n: one for n, one in found.items() if one != Certainty()})
    if len(outcomes) < 2 or completed[0].number not in outcomes:
        return standing
    return _compared(standing, objective, outcomes, len(completed))


def reported_interval(trial: TrialState, name: str) -> tuple[float | None, float | None]:
    """The interval that the trial reported with its last value of a metric, or (None, None)."""
    low, high = trial.metrics.get(f"{name}_low"), trial.metrics.get(f"{name}_high")
    value = trial.metrics.get(name, math.nan)
    # Equal rewards have no interval: that of an earlier evaluation does not belong to this value.
    return (low, high) if low is not None and high is not None and low <= value <= high else (None, None)


def interval_of(outcomes: Sequence[float], metric: str) -> tuple[float | None, float | None]:
    """The 95 % interval of the mean of episodes, as trials report it; (None, None) if there is none."""
    from trainables import confidence  # needs numpy

    if metric == "rollout/success_rate":
        return confidence.wilson_interval(sum(outcomes), len(outcomes), CONFIDENCE)
    import numpy as np

    return confidence.mean_interval(np.array(outcomes), CONFIDENCE) or (None, None)


def _recorded(sweep: SweepState, trial: TrialState, metric: str) -> Starts:
    """The outcomes of a trial's last evaluation with its inference setting."""
    read = last_episodes(trial_folder(sweep.folder, trial.number) / EPISODES, "search", trial.setting)
    if read is None:
        return {}
    evaluated, records = read
    return {(evaluated.environment, record.seed): outcome_of(record, metric) for record in records}


def _compared(
    standing: Standing, objective: Objective, outcomes: Mapping[int, Starts], completed: int
) -> Standing:
    from sweeper.evidence.leader import holm

    sign = 1.0 if objective.goal == "maximize" else -1.0
    leader, *others = outcomes
    raw = {number: _p_value(outcomes[leader], outcomes[number], objective.name) for number in others}
    tested = {number: p_value for number, p_value in raw.items() if p_value is not None}
    # The leader was chosen among all completed trials, so all of them count for the adjustment.
    uncompared = completed - 1 - len(tested)
    adjusted = dict(zip(tested, holm([*tested.values(), *[1.0] * uncompared]), strict=False))
    chances = _best(objective, sign, {number: outcomes[number] for number in (leader, *tested)})
    trials = dict(standing.trials)
    for number, chance in chances.items():
        p_value = None if number == leader else float(adjusted[number])
        may = p_value is None or p_value > 1 - CONFIDENCE
        trials[number] = replace(trials[number], may_be_best=may, p_value=p_value, p_best=chance)
    return replace(
        standing,
        trials=trials,
        leader=leader,
        not_told_apart=tuple(number for number in tested if trials[number].may_be_best),
        told_apart=tuple(number for number in tested if not trials[number].may_be_best),
        uncompared=uncompared,
    )


def _p_value(leader: Starts, other: Starts, metric: str) -> float | None:
    """Two-sided p-value of two trials on the starts that both have; None if there are none."""
    from sweeper.evidence.paired import mcnemar_p_value, shared_episodes, sign_flip_p_value

    first, second = shared_episodes(leader, other)
    if not len(first):
        return None
    if metric == "rollout/success_rate":
        return mcnemar_p_value(int((first > second).sum()), int((first < second).sum()))
    return sign_flip_p_value(first - second)


def _best(objective: Objective, sign: float, outcomes: Mapping[int, Starts]) -> dict[int, float]:
    """The probability of each trial that it is the best of them."""
    from sweeper.evidence.probability_best import best_mean_probabilities, best_rate_probabilities

    if objective.name == "rollout/success_rate":
        episodes = [len(starts) for starts in outcomes.values()]
        wins = [sum(starts.values()) for starts in outcomes.values()]
        if sign < 0:
            wins = [count - won for count, won in zip(episodes, wins, strict=True)]
        chances = best_rate_probabilities(wins, episodes)
    else:
        first, *others = outcomes.values()
        paired = all(starts.keys() == first.keys() for starts in others)
        values = [
            [sign * starts[start] for start in (first if paired else starts)] for starts in outcomes.values()
        ]
        chances = best_mean_probabilities(values, paired=paired)
    return dict(zip(outcomes, chances.tolist(), strict=True))
