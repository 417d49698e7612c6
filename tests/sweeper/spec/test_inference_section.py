"""The section `inference`: which settings are examined on each trained policy, and its faults."""

from __future__ import annotations

from pathlib import Path

import pytest

from sweeper.errors import SpecError
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.sweep import ConfirmSpec, InferenceSpec, SweepSpec
from trainables.diffusion_policy import TRAINABLE

SPACE = """\
name: tuned
trainable: diffusion_policy
config: {dataset.repo_id: builtin/pusht, rollout.env: gym_pusht/PushT-v0}
parameters: {policy.horizon: {values: [8, 16]}}
metric: {name: rollout/success_rate, goal: maximize}
budget: {trials: 4}
inference:
  parameters:
    policy.n_action_steps: {values: [2, 8, 12]}
    policy.sampler: {values: [DDIM, DPM-Solver++]}
  episodes: 64
  limits: {eval/chunk_latency_ms: 50}
"""


@pytest.fixture
def load(tmp_path):
    def load_space(old: str = "name: tuned", new: str = "name: tuned", *overrides: str) -> SweepSpec:
        assert SPACE.count(old) == 1, old
        path: Path = tmp_path / "space.yaml"
        path.write_text(SPACE.replace(old, new))
        return load_spec(path, overrides)

    return load_space


def test_the_section_becomes_settings(load):
    spec = load()
    assert spec.inference == InferenceSpec(
        {"policy.n_action_steps": (2, 8, 12), "policy.sampler": ("DDIM", "DPM-Solver++")},
        "rollout/success_rate",
        "maximize",
        64,
        {"eval/chunk_latency_ms": 50.0},
    )
    assert len(spec.inference.settings()) == 6
    assert SweepSpec.from_dict(spec.to_dict()) == spec


def test_sweeps_of_earlier_versions_have_none(load):
    plain = load().to_dict()
    del plain["inference"]
    assert SweepSpec.from_dict(plain).inference is None


def test_settings_are_compared_by_what_is_named_else_by_the_objective(load):
    assert load("episodes: 64", "metric: rollout/avg_max_reward").inference.metric == "rollout/avg_max_reward"
    metric = "metric: {name: rollout/success_rate, goal: maximize}"
    error = "metric: {name: eval/action_mse, goal: minimize}"
    found = load(
        metric, error, "inference.parameters.policy.n_action_steps=null", "config.policy.n_action_steps=4"
    ).inference
    assert (found.metric, found.goal) == ("eval/action_mse", "minimize")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new", "where", "words"),
    [
        ("policy.n_action_steps:", "optimizer.lr:", "optimizer.lr", "cannot be changed on a trained"),
        ("policy.n_action_steps:", "policy.n_actions:", "parameters.policy.n_actions", "is not a field"),
        ("{values: [2, 8, 12]}", "{min: 1, max: 4}", "policy.n_action_steps", "is not values"),
        ("{values: [2, 8, 12]}", "{values: [2, 2]}", "policy.n_action_steps.values", "2 is listed twice"),
        ("{values: [2, 8, 12]}", "{values: [0]}", "policy.n_action_steps.values", "0 is too small"),
        ("DPM-Solver++", "PNDM", "policy.sampler.values", "not a known value"),
        ("eval/chunk_latency_ms", "eval/latency", "limits.eval/latency", "cannot be limited"),
        ("{eval/chunk_latency_ms: 50}", "{eval/chunk_latency_ms: -1}", "chunk_latency_ms", "is not a limit"),
        ("episodes: 64", "episodes: 1", "episodes", "too small"),
        ("episodes: 64", "metric: train/loss", "metric", "cannot be compared by"),
        ("episodes: 64", "reward_range: [1, 0]", "reward_range", "is not a range"),
        ("{policy.horizon: {values: [8, 16]}}", "{policy.sampler: {values: [DDPM, DDIM]}}", "policy.sampler",
         "also searched by training"),
        ("config: {", "config: {policy.n_action_steps: 8, ", "policy.n_action_steps", "also fixed in config"),
        (", rollout.env: gym_pusht/PushT-v0", "", "inference.metric", "cannot be compared"),
        ("[2, 8, 12]", "[2, 8, 16]", "policy.n_action_steps.values", "16 cannot be used on any policy"),
        ("[2, 8, 12]", "[100]", "policy.n_action_steps.values", "horizon 16 and n_obs_steps 2 allow 15"),
        ("[DDIM, DPM-Solver++]", "[DDIM, Euler]", "policy.sampler.values", "Euler cannot be used on any"),
    ],
)  # fmt: skip
def test_every_fault_says_where_and_what_is_possible(load, old, new, where, words):
    with pytest.raises(SpecError) as caught:
        load(old, new)
    found = [fault for fault in caught.value.faults if where in fault.name]
    assert any(words in fault.problem for fault in found), caught.value
    assert all(fault.remedy and fault.place.rpartition(":")[2].isdigit() for fault in found)


def test_a_value_that_some_policies_of_a_large_space_can_use_is_legal(load):
    large = "{policy.horizon: {min: 8, max: 64, step: 8}, optimizer.lr: {min: 1e-5, max: 1e-3, log: true}}"
    found = load(
        "{policy.horizon: {values: [8, 16]}}",
        large,
        "inference.parameters.policy.n_action_steps.values=[2, 63]",
    )
    assert found.inference.parameters["policy.n_action_steps"] == (2, 63)


def test_the_command_line_changes_values_and_limits(load):
    change = "inference.parameters.policy.n_action_steps.values=[1, 4]"
    found = load("episodes: 64", "episodes: 64", change, "inference.limits.eval/chunk_latency_ms=9").inference
    assert found.parameters["policy.n_action_steps"] == (1, 4)
    assert found.limits == {"eval/chunk_latency_ms": 9.0}
    whole = "inference.parameters.policy.sampler={values: [DDPM]}"
    assert load("episodes: 64", "episodes: 9", whole).inference.parameters["policy.sampler"] == ("DDPM",)
    assert (
        load("episodes: 64", "episodes: 9", "inference=null", "config.policy.n_action_steps=4").inference
        is None
    )


def test_too_many_settings_are_a_mistake(load):
    with pytest.raises(SpecError, match="settings are too many"):
        load("[2, 8, 12]", str(list(range(1, 140))))


def test_a_section_without_fields_is_a_fault(load):
    with pytest.raises(SpecError, match="names no field"):
        load("episodes: 64", "episodes: 64", "inference.parameters=null")


def test_without_a_simulator_the_number_of_executed_actions_cannot_be_chosen(load):
    metric = "metric: {name: rollout/success_rate, goal: maximize}"
    with pytest.raises(SpecError, match="the held-out error compares the same actions"):
        load(metric, "metric: {name: eval/action_mse, goal: minimize}")


def test_training_takes_the_largest_number_of_executed_actions_that_the_horizon_holds():
    searched = {"policy.n_action_steps": [2, 8, 12]}
    for horizon, taken in ((8, 2), (12, 8), (16, 12), (64, 12)):
        trained = TRAINABLE.trained_for({"policy.horizon": horizon, "policy.n_obs_steps": 2}, searched)
        assert trained["policy.n_action_steps"] == taken
    assert TRAINABLE.trained_for({"policy.horizon": 4}, {"policy.sampler": ["DDIM"]}) == {"policy.horizon": 4}


def test_a_confirmation_can_be_asked_for_in_the_space(load):
    assert load().confirm is None
    spec = load("episodes: 64", "episodes: 64", "confirm={top: 5, episodes: 200}")
    assert spec.confirm == ConfirmSpec(top=5, episodes=200)
    assert SweepSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(SpecError, match="top"):
        load("episodes: 64", "episodes: 64", "confirm.top=1")


def test_a_confirmation_needs_a_simulator(load):
    metric = "metric: {name: rollout/success_rate, goal: maximize}"
    error = "metric: {name: eval/action_mse, goal: minimize}"
    with pytest.raises(SpecError, match="confirm: needs a simulator"):
        load(metric, error, "inference=null", "config.rollout.env=null", "confirm={top: 5}")
