"""The configuration: every fault reports what is wrong, where, what is allowed and what to do."""

from __future__ import annotations

from typing import Any

import pytest

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.diffusion_config import (
    ALIASES,
    FIELDS,
    DiffusionConfig,
    config_faults,
)
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.shapes import parameter_count
from trainables.interface import ConfigError

DATA = {"dataset.root": "somewhere"}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("policy.horizn", 16, ["no field", "policy.horizon"]),
        ("policy.horizon", 12, ["multiple of 8", "8 and 16"]),
        ("policy.horizon", 4, ["multiple of 8", ": 8"]),
        ("policy.horizon", 16.5, ["16.5", "not an int"]),
        ("policy.horizon", True, ["True", "not an int"]),
        ("policy.horizon", None, ["null"]),
        ("policy.n_action_steps", 16, ["16 actions", "allow 15", "policy.horizon - policy.n_obs_steps + 1"]),
        ("policy.beta_schedule", "cosine", ["cosine", "squaredcos_cap_v2, linear, scaled_linear"]),
        ("policy.down_dims", [512, 100], ["100", "multiples of 8"]),
        ("policy.down_dims", [], ["is empty"]),
        ("policy.down_dims", [64, "wide"], ["element 1", "not an int"]),
        ("policy.kernel_size", 4, ["4 is even", "odd"]),
        ("policy.num_inference_steps", 200, ["200", "at most policy.num_train_timesteps = 100"]),
        ("policy.pretrained_backbone_weights", "ResNet18_Weights.IMAGENET1K_V1", ["GroupNorm"]),
        ("policy.prediction_type", "flow_matching", ["epsilon, sample, v_prediction, flow"]),
        ("policy.sampler", "Euler", ["'Euler' is not a sampler for policy.prediction_type: epsilon", "DDIM"]),
        ("eval.sampler", "Heun", ["'Heun' is not a sampler for policy.prediction_type: epsilon"]),
        ("policy.time_sampling", "beta", ["beta needs policy.prediction_type: flow, not epsilon", "`when:"]),
        ("optimizer.lr", -1.0, ["-1.0", "too small", "at least 0"]),
        ("optimizer.lr", float("nan"), ["nan"]),
        ("optimizer.betas", [0.9], ["two numbers"]),
        ("lr_scheduler.warmup_steps", 20_000, ["warmup", "smaller than train.steps"]),
        ("ema.every", 3, ["20000 steps", "not a multiple of 3", "divisor of train.steps"]),
        ("train.gradient_accumulation_steps", 3, ["split evenly", "multiple of"]),
        ("eval.window_steps", 40, ["40 actions", "15 are predicted"]),
        ("dataset.episodes", [], ["is empty"]),
    ],
)
def test_a_wrong_value_is_named_with_what_is_allowed(name: str, value: Any, words: list[str]) -> None:
    faults = config_faults(DATA | {name: value})

    assert faults
    text = "\n".join(str(fault) for fault in faults)
    assert [word for word in words if word not in text] == []


def test_every_fault_is_found_at_once() -> None:
    wrong = DATA | {"policy.horizon": 12, "policy.kernel_size": 4, "train.gradient_accumulation_steps": 3}

    with pytest.raises(ConfigError) as raised:
        DiffusionConfig.from_flat(wrong)
    named = {fault.where for fault in raised.value.faults}
    assert {"policy.horizon", "policy.kernel_size", "train.batch_size"} <= named


def test_a_missing_dataset_is_named_with_what_to_do() -> None:
    (fault,) = config_faults({})

    assert fault.where == "dataset.root"
    assert "builtin/pusht" in fault.remedy


def test_a_misspelt_builtin_dataset_is_not_looked_for_on_the_hub() -> None:
    (fault,) = config_faults({"dataset.repo_id": "builtin/push"})

    assert (fault.where, fault.remedy) == ("dataset.repo_id", "The only one is builtin/pusht.")
    assert config_faults(DATA | {"dataset.repo_id": "builtin/push"}) == []  # the root takes precedence


def test_a_batch_that_the_workers_cannot_share_evenly_is_refused() -> None:
    (fault,) = config_faults(DATA | {"train.batch_size": 33}, workers=2)
    assert (fault.where, fault.remedy) == ("train.batch_size", "Use a multiple of 2.")
    assert fault.problem == "33 samples cannot be split evenly among 2 workers."

    parts = DATA | {"train.batch_size": 36, "train.gradient_accumulation_steps": 4}
    assert config_faults(parts) == []
    (fault,) = config_faults(parts, workers=2)
    assert fault.remedy == "Use a multiple of 8 = 2 workers × 4 parts."
    assert config_faults(parts, workers=3) == []


def test_a_crop_that_keeps_little_of_the_image_is_refused() -> None:
    narrow = DATA | {"policy.resize_shape": [480, 640], "policy.crop_shape": [84, 84]}

    (fault,) = config_faults(narrow)
    assert "2.3%" in fault.problem


def test_the_defaults_are_legal_and_survive_a_round_trip() -> None:
    config = DiffusionConfig.from_flat(DATA)

    assert DiffusionConfig.from_flat(config.to_flat()) == config
    assert config.to_flat().keys() == FIELDS.keys()


def test_derived_numbers_follow_from_the_fields() -> None:
    policy = PolicyConfig(n_obs_steps=2, horizon=16, n_action_steps=8)

    assert policy.available_actions == 15
    assert policy.drop_n_last_frames == 7
    assert PolicyConfig(n_obs_steps=2, horizon=64, n_action_steps=32).drop_n_last_frames == 31


def test_every_alias_leads_to_a_field_and_hides_none() -> None:
    assert set(ALIASES.values()) <= FIELDS.keys()
    assert set(ALIASES) & FIELDS.keys() == set()


@pytest.mark.parametrize(
    ("policy", "sizes", "expected"),
    [
        (PolicyConfig(), (2, 2, 1), 262_709_026),
        (PolicyConfig(), (6, 6, 2), 266_622_758),
        (PolicyConfig(use_separate_rgb_encoder_per_camera=True), (6, 6, 2), 277_819_846),
        (PolicyConfig(down_dims=(256, 512, 1024)), (2, 2, 1), 76_070_434),
        (PolicyConfig(), (2, 18, 0), 248_759_426),
    ],
)
def test_parameters_are_counted_as_lerobot_has_them(
    policy: PolicyConfig, sizes: tuple[int, int, int], expected: int
) -> None:
    action, vector, cameras = sizes
    assert parameter_count(policy, action_dim=action, vector_dim=vector, cameras=cameras) == expected


@pytest.mark.parametrize(
    ("name", "word"),
    [("rollout.latency_ms", "measured"), ("rollout.processes", "auto"), ("train.compile", "graph")],
)
def test_a_field_may_have_a_word_beside_its_numbers(name: str, word: str) -> None:
    field = FIELDS[name]
    assert field.faults(word) == []
    flat = {"dataset.repo_id": "builtin/pusht", name: word}
    assert DiffusionConfig.from_flat(flat).to_flat()[name] == word
    (fault,) = field.faults("fast")
    assert f", or {word}" in fault.remedy


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (
            "policy.sampler",
            "DDPM",
            "'DDPM' is not a sampler for policy.prediction_type: flow. Use one of Euler, Heun.",
        ),
        ("policy.sampler", "UniPC", "'UniPC' is not a sampler"),
        ("eval.sampler", "DPM-Solver++", "'DPM-Solver++' is not a sampler"),
        ("policy.timestep_spacing", "leading", "leading begins below the noise"),
        ("policy.num_inference_steps", 101, "101 is too many"),
    ],
)
def test_what_a_flow_cannot_have_is_a_fault(name: str, value: Any, words: str) -> None:
    flow = DATA | {"policy.prediction_type": "flow"}
    assert config_faults(flow) == []
    faults = config_faults(flow | {name: value})
    assert [fault.where for fault in faults] == [name]
    assert words in str(faults[0])


def test_a_flow_has_its_own_sampler_and_takes_that_of_a_mixed_space() -> None:
    flow = DATA | {"policy.prediction_type": "flow"}
    policy = DiffusionConfig.from_flat(flow).policy
    assert (policy.inference_sampler, policy.inference_spacing) == ("Euler", "trailing")
    # The same lines serve epsilon and flow.
    mixed = {"policy.sampler": "DDIM", "policy.num_inference_steps": 8, "policy.timestep_spacing": "trailing"}
    for prediction in ("epsilon", "flow"):
        assert config_faults(DATA | mixed | {"policy.prediction_type": prediction}) == []
    for sampling in ("uniform", "logit_normal", "beta"):
        assert config_faults(flow | {"policy.time_sampling": sampling}) == []
    # What only a diffusion has is not compared either.
    assert config_faults(flow | {"policy.beta_schedule": "linear", "policy.beta_start": 0.5}) == []


def test_fields_without_effect_on_a_flow_are_reported() -> None:
    flow = DATA | {"policy.prediction_type": "flow"}
    named = {"policy.beta_schedule": "linear", "policy.beta_end": 0.05, "policy.noise_scheduler_type": "DDPM"}
    remarks = TRAINABLE.remarks(flow | named)
    assert [remark.split(":")[0] for remark in remarks] == ["policy.beta_schedule", "policy.beta_end"]
    assert "linear has no effect with policy.prediction_type: flow" in remarks[0]
    assert "`when: policy.prediction_type != 'flow'`" in remarks[0]
    assert TRAINABLE.remarks(DATA | named) == []
