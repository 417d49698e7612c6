"""Which trials are better than which."""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial

from sweeper.records.status import TrialStatus
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import Objective

__all__ = ["ORDER", "is_better", "ranked"]

ORDER = (
    TrialStatus.COMPLETED,
    TrialStatus.RUNNING,
    TrialStatus.STOPPED_EARLY,
    TrialStatus.INTERRUPTED,
    TrialStatus.FAILED,
)
"""States in the order in which the ranking shows them."""


def ranked(trials: Iterable[TrialState], objectives: Sequence[Objective]) -> list[TrialState]:
    """The trials, best first: completed ones by their final value, then the others by state.

    With several objectives the trials that no other beats in everything come first, then those that only
    they beat, and so on; within such a front the first objective decides.
    """
    trials = list(trials)
    fronts = _fronts([trial for trial in trials if trial.status == TrialStatus.COMPLETED], objectives)
    return sorted(trials, key=lambda trial: _rank_key(trial, objectives, fronts))


def _rank_key(
    trial: TrialState, objectives: Sequence[Objective], fronts: Mapping[int, int]
) -> tuple[float, ...]:
    costs = _costs(trial, objectives)
    front = fronts.get(trial.number, 0)
    # Of trials that were cut short, one that came further was better for longer.
    progress = 0 if trial.status == TrialStatus.COMPLETED else -trial.step
    state = ORDER.index(trial.status) if trial.status in ORDER else len(ORDER)
    return (state, front, progress, *costs, trial.number)


def _costs(trial: TrialState, objectives: Sequence[Objective]) -> tuple[float, ...]:
    """The final objective values turned so that less is better; infinite if there is none."""
    costs = []
    for objective in objectives:
        value = trial.final.get(objective.name, math.nan)
        cost = -value if objective.goal == "maximize" else value
        costs.append(cost if math.isfinite(cost) else math.inf)
    return tuple(costs)


def _fronts(trials: Sequence[TrialState], objectives: Sequence[Objective]) -> dict[int, int]:
    """Number of the front of each trial: 0 where none of the others is better in everything."""
    # In this order nothing is dominated by what comes later; and what nobody of a front dominates, nobody
    # of the fronts behind it does: its own is found by bisection (Zhang et al. 2015, ENS-BS).
    fronts: list[list[tuple[float, ...]]] = []
    found: dict[int, int] = {}
    for costs, number in sorted((_costs(trial, objectives), trial.number) for trial in trials):
        front = bisect.bisect_left(fronts, True, key=partial(_is_undominated, costs))
        if front == len(fronts):
            fronts.append([])
        fronts[front].append(costs)
        found[number] = front
    return found


def _is_undominated(costs: Sequence[float], others: Iterable[Sequence[float]]) -> bool:
    return not any(_dominates(other, costs) for other in others)


def _dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and tuple(one) != tuple(other)


def is_better(value: float, than: float | None, goal: str) -> bool:
    """Whether a value is finite and better than another; better than None is every finite one."""
    if not math.isfinite(value):
        return False
    return than is None or (value > than if goal == "maximize" else value < than)
