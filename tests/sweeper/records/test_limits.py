"""Which limit of its budget a sweep has reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweeps import LR, SUCCESS, sweep

from sweeper.records.limits import limit_reached, nothing_left, stagnation_reached
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import BudgetSpec


def state(folder: Path, *statuses: str) -> SweepState:
    """A sweep that ran an hour with two GPUs a trial; each trial ran half an hour."""
    found = SweepState(folder, spec=sweep(folder, LR).to_dict(), heard=7200.0)
    found.info = {"resources": {"workers": 2, "gpu_per_worker": 1.0}}
    found._ran_s = 3600.0
    for number, status in enumerate(statuses):
        trial = TrialState(number, {}, {}, started=0.0, status=status, reason="data", message="no rows")
        trial.ended, trial._ran_s = float(number), 1800.0
        found.trials[number] = trial
    return found


@pytest.mark.parametrize(
    ("budget", "name"),
    [
        (BudgetSpec(trials=3), None),
        (BudgetSpec(trials=2), "trials"),
        (BudgetSpec(trials=3, hours=1), "hours"),
        (BudgetSpec(trials=3, hours=1.1), None),
        (BudgetSpec(trials=3, gpu_hours=2), "gpu_hours"),
        (BudgetSpec(trials=3, gpu_hours=2.1), None),
        (BudgetSpec(trials=3, max_failed=1), "max_failed"),
        (BudgetSpec(trials=3, max_failed=0), "max_failed"),
        (BudgetSpec(trials=3, max_failed=2), None),
    ],
)
def test_each_limit_is_found_where_it_is_and_not_before(
    tmp_path: Path, budget: BudgetSpec, name: str | None
) -> None:
    found = state(tmp_path, "completed", "failed")
    left = nothing_left(budget, found)
    assert (None if left is None else left.name) == name
    reached = limit_reached(budget, found)
    # Trials that run continue when the number of trials is reached.
    assert (None if reached is None else reached.name) == (None if name == "trials" else name)


def test_a_sweep_without_failures_has_not_reached_a_limit_of_none(tmp_path: Path) -> None:
    assert nothing_left(BudgetSpec(trials=3, max_failed=0), state(tmp_path, "completed")) is None


def ended(folder: Path, *rates: float | None, objectives: tuple[str, ...] = (SUCCESS,)) -> SweepState:
    """A sweep of trials that ended one after the other, with these values; None: stopped early."""
    found = SweepState(
        folder, spec=sweep(folder, LR, objectives=dict.fromkeys(objectives, "maximize")).to_dict()
    )
    for number, rate in enumerate(rates):
        status = TrialStatus.STOPPED_EARLY if rate is None else TrialStatus.COMPLETED
        trial = TrialState(number, {}, {}, started=0.0, status=status, ended=float(number))
        # Of a trial that was stopped early the value is known, but not at the end of the training.
        trial.final = {SUCCESS: 0.99 if rate is None else rate}
        found.trials[number] = trial
    return found


@pytest.mark.parametrize(
    ("rates", "since"),
    [
        ((), 0),
        ((None, None, None), 0),  # there is nothing yet that could be improved
        ((0.1, 0.2, 0.3), 0),
        ((0.3, 0.2, 0.1), 2),
        ((0.3, 0.3), 1),  # as good is not better
        ((0.3, None, 0.2, None), 3),
        ((0.3, 0.2, 0.1, 0.4, 0.1), 1),
    ],
)
def test_stagnation_counts_the_trials_since_the_last_gain(
    tmp_path: Path, rates: tuple[float | None, ...], since: int
) -> None:
    found = ended(tmp_path, *rates)
    assert stagnation_reached(BudgetSpec(trials=99, stagnation=since + 1), found) is None
    reached = stagnation_reached(BudgetSpec(trials=99, stagnation=max(1, since)), found)
    assert (reached is not None) == (since > 0)
    assert stagnation_reached(BudgetSpec(trials=99), found) is None


def test_the_order_in_which_trials_ended_counts_and_failed_ones_do_not(tmp_path: Path) -> None:
    found = ended(tmp_path, 0.3, 0.2, 0.1)
    found.trials[0].ended = 9.0  # the best one ended last
    assert stagnation_reached(BudgetSpec(trials=99, stagnation=1), found) is None
    found.trials[0].ended, found.trials[1].status = 0.0, TrialStatus.FAILED
    assert stagnation_reached(BudgetSpec(trials=99, stagnation=2), found) is None


def test_with_several_objectives_a_gain_is_a_trial_on_the_pareto_front(tmp_path: Path) -> None:
    found = ended(tmp_path, 0.3, 0.2, 0.1, objectives=(SUCCESS, "speed"))
    for number, speed in enumerate((1.0, 1.0, 2.0)):
        found.trials[number].final["speed"] = speed
    assert stagnation_reached(BudgetSpec(trials=99, stagnation=1), found) is None
    found.trials[2].final["speed"] = 0.5
    reached = stagnation_reached(BudgetSpec(trials=99, stagnation=2), found)
    assert reached is not None
    assert (
        reached.message
        == "budget.stagnation: none of the last 2 trials is on the Pareto front of the others."
    )


def test_a_sweep_without_gains_has_nothing_left_if_no_trial_waits_to_be_continued(tmp_path: Path) -> None:
    found = ended(tmp_path, 0.3, 0.2, 0.1)
    budget = BudgetSpec(trials=99, stagnation=2)
    left = nothing_left(budget, found)
    assert left is not None
    assert left.message == "budget.stagnation: none of the last 2 trials is better than trial 0."
    assert limit_reached(budget, found) is None  # running trials continue
    found.trials[3] = TrialState(3, {}, {}, started=3.0, status=TrialStatus.INTERRUPTED)
    assert nothing_left(budget, found) is None
