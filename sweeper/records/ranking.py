"""The ranking of trials."""

from __future__ import annotations

import bisect
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Protocol

from sweeper.records.status import TrialStatus
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import Objective

__all__ = ["ORDER", "is_better", "ranked", "since_gain", "without_gain"]

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

    With several objectives the trials that no other dominates come first, then those that only these
    dominate, and so on; within such a front the first objective decides.
    """
    trials = list(trials)
    fronts = _fronts([trial for trial in trials if trial.status == TrialStatus.COMPLETED], objectives)
    return sorted(trials, key=lambda trial: _rank_key(trial, objectives, fronts))


def _rank_key(
    trial: TrialState, objectives: Sequence[Objective], fronts: Mapping[int, int]
) -> tuple[float, ...]:
    costs = _costs(trial, objectives)
    front = fronts.get(trial.number, 0)
    # Of trials that were stopped early, the one with more steps was better for longer.
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
    """Number of the front of each trial: 0 if none of the others is better in everything."""
    # Trials with equal values share a front, so that each combination of values is placed once. A hard task
    # may give thousands of trials the same value.
    equal: dict[tuple[float, ...], list[int]] = {}
    for trial in trials:
        equal.setdefault(_costs(trial, objectives), []).append(trial.number)
    # In this order nothing is dominated by what comes later. If no member of a front dominates a trial, then
    # no member of the fronts behind it does: its own is found by bisection (Zhang et al. 2015, ENS-BS).
    fronts: list[_Front] = []
    found: dict[int, int] = {}
    for costs in sorted(equal):
        place = bisect.bisect_left(fronts, True, key=partial(_is_undominated, costs))
        if place == len(fronts):
            fronts.append(_SortedFront() if len(costs) <= 3 else _AnyFront())
        fronts[place].add(costs)
        found.update(dict.fromkeys(equal[costs], place))
    return found


def _is_undominated(costs: tuple[float, ...], front: _Front) -> bool:
    return not front.dominates(costs)


def without_gain(trials: Iterable[TrialState], objectives: Sequence[Objective]) -> int:
    """How many trials have ended since the last gain, as `since_gain` counts them.

    Failed trials do not count: they show nothing about the space.
    """
    ended = [t for t in trials if t.status in (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY)]
    ended.sort(key=lambda trial: (trial.ended or 0.0, trial.number))
    nothing = (math.inf,) * len(objectives)
    return since_gain(
        _costs(trial, objectives) if trial.status == TrialStatus.COMPLETED else nothing for trial in ended
    )


def since_gain(ended: Iterable[tuple[float, ...]]) -> int:
    """How many of the last trials brought no gain: an earlier one is as good in every objective.

    With one objective a gain is a new best value, with several it is a new trial on the Pareto front. Counted
    from the first trial that was completed.

    Args:
        ended: The costs of each trial, in the order in which they ended; infinite if it was stopped early.
    """
    front: list[tuple[float, ...]] = []
    since = 0
    for costs in ended:
        if math.inf in costs or any(all(map(operator.le, member, costs)) for member in front):
            since += bool(front)
        else:
            front.append(costs)
            since = 0
    return since


class _Front(Protocol):
    """Costs of which none dominates another. They are added in ascending order, each once."""

    def dominates(self, costs: tuple[float, ...]) -> bool:
        """Whether a member dominates costs that come later in this order."""

    def add(self, costs: tuple[float, ...]) -> None:
        """Add costs that no member dominates."""


class _SortedFront:
    """A front of up to three objectives.

    The first objective of a member is never worse than that of later costs, and equal costs are not placed
    twice. So a member dominates later costs if it is not worse in the second and the third. Of the members
    only those matter that no other member beats in these two: from the best second to the worst, their third
    improves.
    """

    def __init__(self) -> None:
        self._seconds: list[float] = []
        self._thirds: list[float] = []

    def dominates(self, costs: tuple[float, ...]) -> bool:
        second, third = self._without_first(costs)
        place = bisect.bisect_right(self._seconds, second)
        return place > 0 and self._thirds[place - 1] <= third

    def add(self, costs: tuple[float, ...]) -> None:
        second, third = self._without_first(costs)
        begin = end = bisect.bisect_left(self._seconds, second)
        while end < len(self._thirds) and self._thirds[end] >= third:
            end += 1
        self._seconds[begin:end] = [second]
        self._thirds[begin:end] = [third]

    @staticmethod
    def _without_first(costs: tuple[float, ...]) -> tuple[float, float]:
        second, third = (*costs[1:], 0.0, 0.0)[:2]
        return second, third


class _AnyFront:
    """A front of any number of objectives; it compares with every member."""

    def __init__(self) -> None:
        self._members: list[tuple[float, ...]] = []

    def dominates(self, costs: tuple[float, ...]) -> bool:
        return any(all(map(operator.le, member, costs)) for member in reversed(self._members))

    def add(self, costs: tuple[float, ...]) -> None:
        self._members.append(costs)


def is_better(value: float, than: float | None, goal: str) -> bool:
    """Whether a value is finite and better than another; better than None is every finite one."""
    if not math.isfinite(value):
        return False
    return than is None or (value > than if goal == "maximize" else value < than)
