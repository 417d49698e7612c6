"""The completed trials: their intervals, and which of them are not told apart from the best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sweeper.evidence.intervals import mean_interval, success_interval
from sweeper.evidence.leader import Outcome, not_told_apart
from sweeper.evidence.probability_best import best_mean_probabilities, best_rate_probabilities
from sweeper.layout import trial_folder
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import Objective
from sweeper.trial.inference import OUTCOMES, outcome_of
from trainables.episodes import EPISODES, EpisodeRecord, read_episodes, setting_key

__all__ = ["SUCCESS", "Standing", "judging_episodes", "standings"]

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
        told_apart: Whether its episodes are worse than those of the leader by more than chance; None if there
            are no episodes to tell.
        p_best: Probability that it is the best of those with episodes; None if unknown.
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
    """The completed trials in the order of the ranking, judged by the first objective."""
    objective = sweep.objectives[0]
    completed = [trial for trial in sweep.ranking() if trial.status == TrialStatus.COMPLETED]
    records = [judging_episodes(sweep, trial, objective) for trial in completed]
    compared = [at for at in range(len(completed)) if records[at]][:MOST_COMPARED]
    apart: dict[int, bool] = {}
    chances: dict[int, float] = {}
    if len(sweep.objectives) == 1 and compared and compared[0] == 0:
        apart, chances = _compared(records, compared, objective)
    found = []
    for at, trial in enumerate(completed):
        low, high = _interval(trial, records[at], objective)
        told = apart.get(at, True if apart and records[at] else None)
        found.append(
            Standing(
                trial=trial,
                value=trial.final.get(objective.name, math.nan),
                low=low,
                high=high,
                episodes=len(records[at]),
                leads=at == 0,
                told_apart=told,
                p_best=chances.get(at),
            )
        )
    return found


def judging_episodes(sweep: SweepState, trial: TrialState, objective: Objective) -> list[EpisodeRecord]:
    """The episodes behind a trial's value, those of its last evaluation; empty if it is not made of episodes.

    Records that cannot be read count as missing.
    """
    if objective.name not in OUTCOMES:
        return []
    key = setting_key(trial.setting)
    name = f"*-search{f'-{key}' if key else ''}.jsonl"
    files = list((trial_folder(sweep.folder, trial.number) / EPISODES).glob(name))
    if not files:
        return []
    try:
        return read_episodes(max(files, key=lambda file: int(file.name.partition("-")[0])))[1]
    except (OSError, ValueError):
        return []


def _interval(
    trial: TrialState, records: Sequence[EpisodeRecord], objective: Objective
) -> tuple[float | None, float | None]:
    if records and objective.name == SUCCESS:
        found = success_interval(sum(record.success for record in records), len(records))
        return found.low, found.high
    if records:
        bounds = (0.0, 1.0) if all(0 <= outcome_of(one, objective.name) <= 1 for one in records) else None
        found = mean_interval([outcome_of(record, objective.name) for record in records], bounds=bounds)
        if math.isfinite(found.low) and math.isfinite(found.high):
            return found.low, found.high
    return trial.metrics.get(f"{objective.name}_low"), trial.metrics.get(f"{objective.name}_high")


def _compared(
    records: Sequence[Sequence[EpisodeRecord]], compared: Sequence[int], objective: Objective
) -> tuple[dict[int, bool], dict[int, float]]:
    """Whether each compared trial is told apart from the first, and the probability that it is best."""
    sign = 1.0 if objective.goal == "maximize" else -1.0
    starts = {tuple(record.seed for record in records[at]) for at in compared}
    outcomes = [
        np.array([sign * outcome_of(record, objective.name) for record in records[at]]) for at in compared
    ]
    successes = objective.name == SUCCESS and sign > 0
    kind: Outcome = "success" if successes else "value"
    against = not_told_apart(outcomes, kind, paired=len(starts) == 1, leader=0)
    open_ = {0, *against.not_told_apart}
    if successes:
        chances = best_rate_probabilities(
            [int(found.sum()) for found in outcomes], [len(found) for found in outcomes]
        )
    else:
        chances = best_mean_probabilities(outcomes, paired=len(starts) == 1)
    apart = {at: place not in open_ for place, at in enumerate(compared)}
    return apart, dict(zip(compared, chances.tolist(), strict=True))
