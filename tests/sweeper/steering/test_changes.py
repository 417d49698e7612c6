"""Changes to a sweep that has started."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from small_sweeps import BETA_END, DIMS, HORIZON, LR, SCHEDULE, sweep

from sweeper.errors import SpecError
from sweeper.spec.sweep import BudgetSpec, SweepSpec
from sweeper.steering.changes import budget_words, changed_budget, changed_sweep
from trainables import registry

BUDGET = BudgetSpec(trials=8, hours=2.0)


@pytest.mark.parametrize(
    ("changes", "budget"),
    [
        (["trials=+20"], BudgetSpec(28, 2.0)),
        (["trials=-3", "hours=+0.5"], BudgetSpec(5, 2.5)),
        (["budget.trials=20", "hours=null"], BudgetSpec(20)),
        (["gpu_hours=7", "max_failed=3"], BudgetSpec(8, 2.0, 7.0, 3)),
        (["stagnation=20"], BudgetSpec(8, 2.0, stagnation=20)),
    ],
)
def test_a_budget_can_be_set_raised_and_lowered(changes: list[str], budget: BudgetSpec) -> None:
    assert changed_budget(BUDGET, changes) == budget


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("trials=0", "is too small"),
        ("trials=-8", "is too small"),
        ("trials=many", "'many' is not"),
        ("trails=9", "Did you mean trials?"),
        ("gpu_hours=+2", "has no limit of gpu hours"),
        ("trials", "is not an override"),
        ("trials=", "has no value"),
    ],
)
def test_an_invalid_budget_is_refused(change: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        changed_budget(BUDGET, [change])


def test_a_budget_change_is_described_in_words() -> None:
    assert budget_words(BUDGET, BudgetSpec(28, None)) == "trials 8 → 28, hours 2 → no limit"
    assert budget_words(BUDGET, BUDGET) == ""


@pytest.fixture
def started(tmp_path: Path) -> SweepSpec:
    return sweep(tmp_path, LR, HORIZON, SCHEDULE, BETA_END, DIMS, trials=8)


def changed(started: SweepSpec, *changes: str) -> SweepSpec:
    return changed_sweep(started, changes, registry.load("diffusion_policy"))


def test_budget_resources_and_bounds_of_ranges_may_change(started: SweepSpec) -> None:
    now = changed(
        started,
        "budget.trials=+2",
        "resources.max_concurrent=2",
        "resources.cpu_per_worker=auto",
        "parameters.optimizer.lr.max=3e-3",
        "parameters.policy.horizon.max=64",
    )
    assert now.budget.trials == 10
    assert (now.resources.max_concurrent, now.resources.cpu_per_worker) == (2, "auto")
    bounds = {parameter.name: (parameter.low, parameter.high) for parameter in now.space.parameters}
    assert bounds["optimizer.lr"] == (1e-5, 3e-3)
    assert bounds["policy.horizon"] == (8, 64)
    assert bounds["policy.beta_end"] == (0.01, 0.05)
    assert now.space.parameters[3].when == BETA_END.when


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("config.train.steps=5", "cannot be changed in a sweep that has started"),
        ("name=other", "cannot be changed in a sweep that has started"),
        ("parameters.policy.beta_schedule.values=[linear]", "policy.beta_schedule is a choice"),
        ("parameters.policy.beta_schedule={values: [linear]}", "policy.beta_schedule is a choice"),
        ("parameters.policy.beta_schedule=null", "a searched field cannot be fixed"),
        ("parameters.optimizer.lr=1e-4", "a searched field cannot be fixed"),
        ("parameters.optimizer.lr={values: [1e-4]}", "values cannot be changed"),
        ("parameters.optimizer.lr={min: 1e-6, max: 1e-3, log: false}", "log cannot be changed"),
        ("parameters.optimizer.lr={low: 1e-6}", "low is not a setting of a parameter"),
        ("parameters.optimizer.lr={min: 1}", "its min 1 is above its max"),
        ("parameters.optimizer.eps={min: 1e-9, max: 1e-7}", "optimizer.eps is not searched by this sweep"),
        ("parameters.policy.optimizer_lr.max=0", "has no logarithm"),
        ("parameters.lr={min: 1e-6}", "Did you mean optimizer.lr?"),
        ("parameters.policy.beta_schedule.max=1", "is a choice"),
        ("parameters.optimizer.lr.log=false", "log cannot be changed"),
        ("parameters.optimizer.lr.min=0", "has no logarithm"),
        ("parameters.optimizer.lr.min=1", "its min 1 is above its max"),
        ("parameters.optimizer.ls.max=1", "Did you mean optimizer.lr?"),
        ("parameters.policy.horizon.max=16.5", "16.5 is not an int"),
        ("resources.workers=0", "is too small"),
        ("resources.gpus=1", "is not a resource"),
    ],
)
def test_other_changes_are_refused(started: SweepSpec, change: str, words: str) -> None:
    with pytest.raises(SpecError, match=re.escape(words)):
        changed(started, change)


@pytest.mark.parametrize("name", ["optimizer.lr", "policy.optimizer_lr"])
def test_a_range_may_be_written_whole(started: SweepSpec, name: str) -> None:
    now = changed(started, f"parameters.{name}={{min: 1e-6, max: 2e-3, log: true}}")
    assert now.space.parameters[0] == dataclasses.replace(LR, low=1e-6, high=2e-3)
    same = "parameters.policy.beta_schedule={values: [squaredcos_cap_v2, linear]}"
    assert (
        changed(started, same, "parameters.policy.horizon={max: 64, log: false}").space.parameters[1].high
        == 64
    )


@pytest.mark.parametrize("change", ["values=[linear]", "max=1", "min=1", "log=true"])
def test_a_choice_is_not_told_to_change_its_bounds(started: SweepSpec, change: str) -> None:
    with pytest.raises(SpecError) as caught:
        changed(started, f"parameters.policy.beta_schedule.{change}")
    assert [fault.remedy for fault in caught.value.faults] == [
        "For other changes launch a new sweep under another name."
    ]


def test_all_faults_are_reported_at_once(started: SweepSpec) -> None:
    with pytest.raises(SpecError) as caught:
        changed(started, "budget.trials=0", "config.train.steps=5")
    assert len(caught.value.faults) == 2
