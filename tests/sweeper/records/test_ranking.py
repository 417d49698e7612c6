"""Which trials are better than which, where several numbers are to be good at once."""

from __future__ import annotations

import math
import random
import time
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sweeper.records.ranking import ranked
from sweeper.records.status import TrialStatus
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import Objective


@pytest.mark.parametrize("many", [1, 2, 3])
def test_the_front_of_a_trial_is_the_longest_way_down_from_one_that_nobody_beats(many: int) -> None:
    generator = random.Random(many)
    objectives = [Objective(str(n), "minimize") for n in range(many)]
    trials = [TrialState(number, {}, {}, 0.0, status="completed") for number in range(40)]
    for trial in trials:
        trial.final = {objective.name: float(generator.randrange(6)) for objective in objectives}

    def beats(one: dict[str, float], other: dict[str, float]) -> bool:
        return one != other and all(one[n] <= other[n] for n in one)

    @cache
    def front(number: int) -> int:
        before = [trial.number for trial in trials if beats(trial.final, trials[number].final)]
        return 1 + max(map(front, before), default=-1)

    fronts = [front(trial.number) for trial in ranked(trials, objectives)]
    assert fronts == sorted(fronts)
    assert max(fronts) > 1


def plain_fronts(costs: list[tuple[float, ...]]) -> list[int]:
    """The front of each trial, found by comparing every trial with all members of a front."""
    fronts: list[list[tuple[float, ...]]] = []
    found = [0] * len(costs)
    for one, number in sorted(zip(costs, range(len(costs)), strict=True)):
        place = 0
        while place < len(fronts) and any(
            all(a <= b for a, b in zip(other, one, strict=True)) and other != one for other in fronts[place]
        ):
            place += 1
        if place == len(fronts):
            fronts.append([])
        fronts[place].append(one)
        found[number] = place
    return found


VALUES = st.one_of(
    st.integers(-3, 3).map(float), st.sampled_from([-0.0, math.inf, -math.inf, math.nan]), st.none()
)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_ranking_is_that_of_comparing_all_pairs(data: st.DataObject) -> None:
    many = data.draw(st.integers(1, 5))
    goals = data.draw(st.lists(st.sampled_from(["minimize", "maximize"]), min_size=many, max_size=many))
    objectives = [Objective(str(n), goal) for n, goal in enumerate(goals)]
    rows = data.draw(st.lists(st.tuples(*[VALUES] * many), max_size=25))
    numbers = data.draw(st.permutations(range(len(rows))))
    trials = []
    for number, row in zip(numbers, rows, strict=True):
        trial = TrialState(number, {}, {}, 0.0, status=TrialStatus.COMPLETED)
        trial.final = {str(n): value for n, value in enumerate(row) if value is not None}
        trials.append(trial)
    trials.append(TrialState(len(rows), {}, {}, 0.0, status=TrialStatus.FAILED))

    def cost(trial: TrialState, objective: Objective) -> float:
        value = trial.final.get(objective.name, math.nan)
        if not math.isfinite(value):
            return math.inf
        return -value if objective.goal == "maximize" else value

    completed = trials[:-1]
    costs = [tuple(cost(trial, objective) for objective in objectives) for trial in completed]
    keys = zip(plain_fronts(costs), costs, [trial.number for trial in completed], strict=True)
    assert [trial.number for trial in ranked(trials, objectives)] == [
        *(number for _, _, number in sorted(keys)),
        len(rows),
    ]


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 2, 3])
def test_the_time_of_a_ranking_does_not_grow_with_the_square_of_its_trials(many: int) -> None:
    objectives = [Objective(str(n), "minimize") for n in range(many)]
    tied = [TrialState(number, {}, {}, 0.0, status=TrialStatus.COMPLETED) for number in range(5000)]
    front = [TrialState(5000 + number, {}, {}, 0.0, status=TrialStatus.COMPLETED) for number in range(5000)]
    for trial in tied:
        trial.final = {objective.name: 0.0 for objective in objectives}
    for number, trial in enumerate(front):
        # One more of the first objective for one less of the second: none of these dominates another.
        trial.final = {"0": float(number), "1": float(-number), "2": math.sin(number)}
    started = time.process_time()
    ranked([*tied, *front], objectives)
    assert time.process_time() - started < 20.0  # half a second; comparing all pairs takes 40 s
