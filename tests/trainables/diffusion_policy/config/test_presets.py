"""Named starts: their values hold for fields that are not named, and are those of their source."""

from __future__ import annotations

import pytest

from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig, config_faults
from trainables.diffusion_policy.config.presets import PRESET_FIELD, PRESETS, preset_values
from trainables.diffusion_policy.network.shapes import parameter_count
from trainables.diffusion_policy.pretrained.lerobot_config import POLICY_FIELDS, read_lerobot_config

DATA = {"dataset.root": "somewhere"}


def test_the_field_lists_every_preset() -> None:
    assert FIELDS[PRESET_FIELD].choices == tuple(PRESETS)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_is_a_legal_configuration(preset: str) -> None:
    assert set(PRESETS[preset]) <= set(FIELDS)
    assert config_faults(DATA | PRESETS[preset]) == []
    assert config_faults(DATA | {PRESET_FIELD: preset}) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_every_value_of_a_preset_is_in_the_configuration(preset: str) -> None:
    flat = DiffusionConfig.from_flat(DATA | {PRESET_FIELD: preset}).to_flat()

    assert {name: flat[name] for name in PRESETS[preset]} == dict(PRESETS[preset])


def test_a_named_field_wins_over_the_preset() -> None:
    named = DATA | {PRESET_FIELD: "lerobot-0.6", "policy.horizon": 48, "ema.enabled": True}

    built = DiffusionConfig.from_flat(named)

    assert (built.policy.horizon, built.policy.n_action_steps) == (48, 32)
    assert built.ema.enabled
    assert {"policy.horizon", "ema.enabled"} & set(preset_values(named)) == set()


def test_a_crop_or_a_size_in_pixels_replaces_the_presets_share() -> None:
    named = DATA | {PRESET_FIELD: "paper-image", "policy.crop_shape": [76, 76]}

    assert DiffusionConfig.from_flat(named).policy.crop_size((84, 84)) == (76, 76)
    assert "policy.crop_ratio" not in preset_values(named)


def test_a_preset_and_a_checkpoint_contradict_each_other() -> None:
    faults = config_faults(DATA | {PRESET_FIELD: "small", "policy.path": "checkpoint"})

    assert [fault.where for fault in faults] == [PRESET_FIELD]


def test_lerobots_preset_has_the_values_that_its_newest_files_mean() -> None:
    """A file of LeRobot 0.6 that lacks a key means that version's default."""
    stated = {
        "type": "diffusion",
        "gradient_checkpointing": False,  # by which the version is recognised
        "input_features": {"observation.image": {"type": "VISUAL", "shape": [3, 96, 96]}},
        "output_features": {"action": {"type": "ACTION", "shape": [2]}},
    }
    means = read_lerobot_config(stated).values
    ours = DiffusionConfig.from_flat(DATA | {PRESET_FIELD: "lerobot-0.6"}).to_flat()

    fields = [f"policy.{name}" for name in POLICY_FIELDS]
    assert {name: ours[name] for name in fields} == {name: means[name] for name in fields}


def test_the_papers_networks_have_their_sizes() -> None:
    """Push-T from keypoints: 65.8 million weights in the authors' code."""
    policy = DiffusionConfig.from_flat(DATA | {PRESET_FIELD: "paper-lowdim"}).policy

    weights = parameter_count(policy, action_dim=2, vector_dim=20, cameras=0)
    assert weights / 1e6 == pytest.approx(65.8, abs=0.1)


def test_the_small_network_is_small() -> None:
    policy = DiffusionConfig.from_flat(DATA | {PRESET_FIELD: "small"}).policy

    assert parameter_count(policy, action_dim=7, vector_dim=14, cameras=0) < 8e6
