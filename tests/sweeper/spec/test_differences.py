"""What makes a sweep another one, in words."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import BETA_END, DIMS, ERROR, LR, SCHEDULE, SUCCESS, choice, sweep

from sweeper.spec.differences import differences
from sweeper.spec.sweep import BudgetSpec, EarlyStopSpec, Objective, SearchSpec

STOP = EarlyStopSpec("asha", SUCCESS, "maximize", 10, 3, 100)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"trainable": "a:b"}, ["trainable was diffusion_policy and is now a:b"]),
        (
            {"config": {"train.seed": 1}},
            ["config.train.seed was null and is now 1", "config.train.steps was 100 and is now null"],
        ),
        (
            {"parameters": (dataclasses.replace(LR, high=1e-2), SCHEDULE, BETA_END)},
            [
                "parameters.optimizer.lr was {min: 1e-05, max: 0.001, log: true} and is now "
                "{min: 1e-05, max: 0.01, log: true}"
            ],
        ),
        ({"parameters": (LR, SCHEDULE)}, ["policy.beta_end is no longer searched"]),
        ({"parameters": (LR, SCHEDULE, BETA_END, DIMS)}, ["policy.down_dims is searched now"]),
        (
            {"parameters": (LR, choice(SCHEDULE.name, "linear"), BETA_END)},
            [
                "parameters.policy.beta_schedule was {values: [squaredcos_cap_v2, linear]} and is now "
                "{values: [linear]}"
            ],
        ),
        ({"parameters": (SCHEDULE, LR, BETA_END)}, ["the parameters have another order"]),
        (
            {"constraints": ("policy.horizon > 8",)},
            [
                "the constraint `policy.horizon > 4` is missing",
                "the constraint `policy.horizon > 8` is new",
            ],
        ),
        (
            {"objectives": (Objective(ERROR, "minimize"),)},
            ["metric was rollout/success_rate (maximize) and is now eval/action_mse (minimize)"],
        ),
        (
            {"early_stop": dataclasses.replace(STOP, min_steps=20)},
            ["early_stop.min_steps was 10 and is now 20"],
        ),
        (
            {"early_stop": None},
            [
                "early_stop was {method: asha, metric: rollout/success_rate, goal: maximize, min_steps: 10, "
                "reduction: 3, max_steps: 100} and is now null"
            ],
        ),
        ({"budget": BudgetSpec(trials=99), "search": SearchSpec(seed=3)}, []),
        ({"search": SearchSpec(from_sweeps=("old",))}, ["search.from was [] and is now [old]"]),
    ],
)
def test_each_difference_is_named(tmp_path: Path, changes: dict[str, Any], words: list[str]):
    parameters = changes.pop("parameters", (LR, SCHEDULE, BETA_END))
    constraints = changes.pop("constraints", ("policy.horizon > 4",))
    before = sweep(tmp_path, LR, SCHEDULE, BETA_END, constraints=("policy.horizon > 4",), early_stop=STOP)
    now = sweep(tmp_path, *parameters, constraints=constraints, early_stop=STOP)
    now = dataclasses.replace(now, **changes)
    assert differences(before.to_dict(), now.to_dict()) == words
