"""Which limit of its budget a sweep has reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_sweeps import LR, sweep

from sweeper.records.limits import limit_reached, nothing_left
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
