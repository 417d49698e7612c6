"""Which trials are better than which, where several numbers are to be good at once."""

from __future__ import annotations

import random
from functools import cache

import pytest

from sweeper.records.ranking import ranked
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
