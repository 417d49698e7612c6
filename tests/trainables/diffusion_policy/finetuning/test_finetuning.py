"""Fine-tuning: the values of a checkpoint's config.json, and refusals before a weight is read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from checkpoint_files import header_of
from small_policy import features

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.finetuning.compatibility import (
    feature_faults,
    layers_to_reinitialise,
    match_camera_order,
    rename_for_cameras,
)
from trainables.diffusion_policy.finetuning.resolve import resolve, resolve_faults
from trainables.diffusion_policy.finetuning.starting_point import read_start, remarks
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import ConfigError, Fault

LEROBOT: dict[str, Any] = {
    "type": "diffusion",
    "n_obs_steps": 2,
    "horizon": 8,
    "n_action_steps": 4,
    "down_dims": [16, 32],
    "n_groups": 4,
    "kernel_size": 3,
    "diffusion_step_embed_dim": 16,
    "spatial_softmax_num_keypoints": 4,
    "crop_shape": [32, 32],
    "use_group_norm": False,
    "pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
    "num_inference_steps": 10,
    "vision_backbone": "resnet18",
    "crop_is_random": True,
    "use_separate_rgb_encoder_per_camera": False,
    "use_film_scale_modulation": True,
    "noise_scheduler_type": "DDPM",
    "num_train_timesteps": 100,
    "beta_schedule": "squaredcos_cap_v2",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": True,
    "clip_sample_range": 1.0,
    "do_mask_loss_for_padding": False,
    "normalization_mapping": {"VISUAL": "MEAN_STD", "STATE": "MIN_MAX", "ACTION": "MIN_MAX"},
    "input_features": {
        "observation.images.front": {"type": "VISUAL", "shape": [3, 48, 48]},
        "observation.state": {"type": "STATE", "shape": [3]},
    },
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}
FIXED = {
    "policy.vision_backbone": "resnet34",
    "policy.use_group_norm": True,
    "policy.spatial_softmax_num_keypoints": 8,
    "policy.use_separate_rgb_encoder_per_camera": True,
    "policy.n_obs_steps": 1,
    "policy.down_dims": [32, 64],
    "policy.kernel_size": 5,
    "policy.n_groups": 8,
    "policy.diffusion_step_embed_dim": 32,
    "policy.use_film_scale_modulation": False,
}
FREE = {
    "policy.horizon": 16,
    "policy.n_action_steps": 2,
    "policy.noise_scheduler_type": "DDIM",
    "policy.num_train_timesteps": 50,
    "policy.beta_schedule": "linear",
    "policy.beta_end": 0.03,
    "policy.sampler": "DPM-Solver++",
    "policy.num_inference_steps": 5,
    "policy.crop_shape": [40, 40],
    "policy.prediction_type": "sample",
    "policy.normalization_state": "MEAN_STD",
    "optimizer.lr": 1e-5,
}


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    """A checkpoint whose weights have names and shapes and no numbers: nothing here reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(LEROBOT | changes))
    if "type" not in changes:
        header_of(folder)
    return folder


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "checkpoint")


def config(path: Path, **changes: Any) -> dict[str, Any]:
    return {"dataset.root": "anywhere", "policy.path": str(path), **changes}


def start_of(path: Path) -> PretrainedConfig:
    start = read_start(str(path))
    assert start is not None
    return start


def seen(*cameras: str, state: int = 3, action: int = 2) -> PolicyFeatures:
    listed = [Feature(f"observation.images.{name}", FeatureType.VISUAL, (3, 48, 48)) for name in cameras]
    listed.append(Feature("observation.state", FeatureType.STATE, (state,)))
    return PolicyFeatures.of([*listed, Feature("action", FeatureType.ACTION, (action,))])


def text_of(faults: list[Fault]) -> str:
    return "\n".join(map(str, faults))


# Values from the checkpoint.


def test_what_is_not_named_is_the_checkpoints_and_what_is_named_stays(checkpoint: Path) -> None:
    built = resolve(config(checkpoint, **{"policy.horizon": 16}))

    assert built.policy.down_dims == (16, 32)
    assert built.policy.crop_shape == (32, 32)
    assert built.policy.use_group_norm is False
    assert built.policy.num_inference_steps == 10
    assert built.policy.normalization_environment_state == "IDENTITY"
    assert built.policy.horizon == 16
    assert built.dataset.observations == ("observation.images.front", "observation.state")
    # Its weights come from the checkpoint: fetching others would be useless.
    assert built.policy.pretrained_backbone_weights is None
    # The settings of the training are the new run's.
    assert built.optimizer == DiffusionConfig().optimizer


def test_inherited_values_say_the_same_as_the_configuration_built(checkpoint: Path) -> None:
    flat = config(checkpoint)
    complete = {**flat, **TRAINABLE.inherited(flat)}

    assert resolve_faults(complete) == resolve_faults(flat) == []
    assert resolve(complete) == resolve(flat)
    assert DiffusionConfig.from_flat(complete) == resolve(flat)
    assert complete.keys() <= FIELDS.keys()


def test_a_crop_by_ratio_replaces_the_checkpoints_crop_by_size(checkpoint: Path) -> None:
    built = resolve(config(checkpoint, **{"policy.crop_ratio": 0.9}))

    assert built.policy.crop_shape is None
    assert built.policy.crop_size((48, 48)) == (43, 43)


def test_a_link_to_the_last_checkpoint_is_followed_once(tmp_path: Path) -> None:
    tree = tmp_path / "train" / "checkpoints"
    for step, horizon in (("000100", 8), ("000200", 16)):
        write_checkpoint(tree / step / "pretrained_model", horizon=horizon)
    (tree / "last").symlink_to("000200")
    values = TRAINABLE.inherited(config(tree / "last"))

    assert values["policy.path"] == str(tree / "000200" / "pretrained_model")
    assert values["policy.horizon"] == 16


def test_a_checkpoint_is_read_again_when_it_changes(checkpoint: Path) -> None:
    assert resolve(config(checkpoint)).policy.horizon == 8
    assert read_start(str(checkpoint)) is read_start(str(checkpoint))
    shutil.rmtree(checkpoint)
    write_checkpoint(checkpoint, horizon=24)
    assert resolve(config(checkpoint)).policy.horizon == 24


def test_a_path_that_is_not_on_this_machine_is_a_remark_and_refused_only_at_the_launch(
    tmp_path: Path,
) -> None:
    for path in ("my_checkpoint", str(tmp_path / "none"), "x" * 5000, "nul\0byte"):
        flat = {"dataset.root": "anywhere", "policy.path": path}
        assert resolve_faults(flat) == []
        assert "no" in TRAINABLE.remarks(flat)[0]
        assert TRAINABLE.disk_gb(flat) > 0
    faults = TRAINABLE.preflight({"dataset.root": "anywhere", "policy.path": "my_checkpoint"}, tmp_path)
    assert [fault.where for fault in faults] == ["policy.path"]


def test_a_folder_without_a_policy_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    act = write_checkpoint(tmp_path / "act", type="act")

    assert "does not contain a checkpoint" in text_of(resolve_faults(config(tmp_path / "empty")))
    assert "'act'" in text_of(resolve_faults(config(act)))
    with pytest.raises(ConfigError, match="act"):
        resolve(config(act))
    assert TRAINABLE.inherited(config(act)) == {}


# Permitted changes and others.


def test_schedules_and_horizon_are_free(checkpoint: Path) -> None:
    assert resolve_faults(config(checkpoint, **FREE)) == []


def test_what_must_be_learnt_again_is_reported_before_training(checkpoint: Path) -> None:
    said = remarks(resolve(config(checkpoint, **FREE)))

    assert [line.partition(":")[0] for line in said] == [
        "policy.prediction_type",
        "policy.normalization_state",
    ]
    assert "epsilon" in said[0]
    assert "sample" in said[0]
    assert remarks(resolve(config(checkpoint))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_a_field_that_the_weights_fix_is_refused_with_both_values(checkpoint: Path, name: str) -> None:
    faults = resolve_faults(config(checkpoint, **{name: FIXED[name]}))
    had = getattr(resolve(config(checkpoint)).policy, name.removeprefix("policy."))

    assert [fault.where for fault in faults] == [name]
    for value in (had, FIXED[name]):
        shown = list(value) if isinstance(value, tuple) else value
        assert str(shown).lower() in faults[0].problem.lower()
    assert f"Leave {name} out" in faults[0].remedy
    assert "policy.reinit_mismatched: true" in faults[0].remedy


@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_the_same_is_allowed_if_layers_may_be_reinitialised_and_they_are_listed(
    checkpoint: Path, name: str
) -> None:
    flat = config(checkpoint, **{name: FIXED[name], "policy.reinit_mismatched": True})

    assert resolve_faults(flat) == []
    said = [line for line in TRAINABLE.remarks(flat) if line.startswith("policy.reinit_mismatched")]
    assert len(said) == 1
    assert name in said[0]
    assert "are reinitialised" in said[0]


def test_the_encoders_settings_are_free_if_the_checkpoint_uses_no_images(tmp_path: Path) -> None:
    inputs = {"observation.state": {"type": "STATE", "shape": [3]}}
    blind = write_checkpoint(tmp_path / "blind", input_features=inputs, crop_shape=None)

    assert resolve_faults(config(blind, **{"policy.spatial_softmax_num_keypoints": 8})) == []
    said = TRAINABLE.remarks(config(blind, **{"optimizer.vision_encoder_lr_multiplier": 0.1}))
    assert "no vision encoder" in "\n".join(said)


def test_without_a_checkpoint_there_is_nothing_to_freeze_and_no_statistics_to_take() -> None:
    flat = {
        "dataset.root": "anywhere",
        "policy.stats": "checkpoint",
        "optimizer.vision_encoder_lr_multiplier": 0,
    }

    wrong = {"policy.stats", "optimizer.vision_encoder_lr_multiplier"}
    assert {fault.where for fault in resolve_faults(flat)} == wrong


def test_reinitialised_layers_cannot_be_frozen(checkpoint: Path) -> None:
    flat = config(
        checkpoint,
        **{
            "policy.spatial_softmax_num_keypoints": 8,
            "policy.reinit_mismatched": True,
            "optimizer.vision_encoder_lr_multiplier": 0,
        },
    )

    faults = resolve_faults(flat)
    assert [fault.where for fault in faults] == ["optimizer.vision_encoder_lr_multiplier"]
    assert "pool.nets" in faults[0].problem


def test_the_size_on_the_disk_is_the_checkpoints_and_less_with_a_frozen_encoder(checkpoint: Path) -> None:
    small = TRAINABLE.disk_gb(config(checkpoint))
    frozen = TRAINABLE.disk_gb(config(checkpoint, **{"optimizer.vision_encoder_lr_multiplier": 0}))

    assert small < 0.1 * TRAINABLE.disk_gb({"dataset.root": "anywhere"})
    # Adam keeps two numbers for each of the encoder's 11 million weights, in two of three checkpoints.
    assert small - frozen == pytest.approx(2 * 8 * 11.18e6 / 1e9, rel=0.01)


# The dataset's features.


def test_features_that_fit_are_no_fault(checkpoint: Path) -> None:
    built = resolve(config(checkpoint, **{"policy.stats": "checkpoint"}))

    assert feature_faults(built, start_of(checkpoint), seen("front")) == []


@pytest.mark.parametrize(
    ("found", "where", "words"),
    [
        (
            seen("top"),
            "dataset.observations",
            "dataset.features: {observation.images.top: observation.images.front}",
        ),
        (seen("front", "wrist"), "dataset.observations", "Leave out observation.images.wrist"),
        (seen(), "dataset.observations", "The dataset needs observation.images.front"),
        (seen("front", state=7), "observation.state", "the checkpoint has 3 numbers, but the dataset has 7"),
        (seen("front", action=7), "action", "the checkpoint has 2 numbers, but the dataset has 7"),
    ],
    ids=["renamed", "added", "removed", "state", "action"],
)
def test_features_that_differ_are_explained(
    checkpoint: Path, found: PolicyFeatures, where: str, words: str
) -> None:
    start = start_of(checkpoint)
    faults = feature_faults(resolve(config(checkpoint)), start, found)

    assert [fault.where for fault in faults] == [where]
    assert words in text_of(faults)
    assert "policy.reinit_mismatched: true" in faults[0].remedy
    reinitialised = resolve(config(checkpoint, **{"policy.reinit_mismatched": True}))
    assert feature_faults(reinitialised, start, found) == []
    if where != "dataset.observations" or len(found.cameras) != 1:
        assert layers_to_reinitialise(reinitialised.policy, start, found)


def test_new_actions_reach_only_the_layers_at_the_ends(checkpoint: Path) -> None:
    built = resolve(config(checkpoint, **{"policy.reinit_mismatched": True}))
    reinitialised = layers_to_reinitialise(built.policy, start_of(checkpoint), seen("front", action=7))

    assert [name.removeprefix("diffusion.unet.") for name in reinitialised] == [
        "down_modules.0.0.conv1.block.0",
        "down_modules.0.0.residual_conv",
        "final_conv.1",
    ]


def test_statistics_of_unknown_features_cannot_be_taken(checkpoint: Path) -> None:
    changes = {"policy.reinit_mismatched": True, "policy.stats": "checkpoint"}
    built = resolve(config(checkpoint, **changes))
    faults = feature_faults(built, start_of(checkpoint), seen("front", "wrist", state=7))

    assert [fault.where for fault in faults] == ["policy.stats"]
    assert "observation.images.wrist" in faults[0].problem
    assert "observation.state" in faults[0].problem


def test_cameras_have_the_order_of_the_checkpoint() -> None:
    found = match_camera_order(seen("side", "wrist", "front"), seen("front", "wrist"))

    assert [camera.name.rpartition(".")[2] for camera in found.cameras] == ["front", "wrist", "side"]
    assert found.inputs[-1].name == "observation.state"


def test_a_camera_keeps_its_own_encoder() -> None:
    separate = PolicyConfig(use_separate_rgb_encoder_per_camera=True)
    tensors = {"diffusion.rgb_encoder.0.out": "front", "diffusion.rgb_encoder.1.out": "wrist", "unet": "net"}
    moved = rename_for_cameras(tensors, separate, seen("front", "wrist"), seen("wrist", "side"))

    assert moved == {"diffusion.rgb_encoder.0.out": "wrist", "unet": "net"}
    assert rename_for_cameras(tensors, PolicyConfig(), features(), features()) == tensors
