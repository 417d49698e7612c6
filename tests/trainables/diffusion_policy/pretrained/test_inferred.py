"""A config.json that lacks keys or contradicts its weights is found by `check`, before a trial."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import (
    INPUT_STATE,
    OUTPUT_STATE,
    WEIGHTS,
    change_json,
    change_tensors,
    lerobot_folder,
    original_payload,
    to_buffers,
)
from safetensors.torch import load_file
from small_policy import small_policy

from trainables.diffusion_policy import TRAINABLE, lerobot
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.read_config import read_config
from trainables.diffusion_policy.pretrained.tensor_file import read_header, read_numbers
from trainables.interface import ConfigError

CONFIG = "config.json"
CAMERA = "observation.images.c0"


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return small_policy(cameras=1, image=(64, 96), kernel_size=3)


@pytest.fixture(scope="module")
def made(policy: DiffusionPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_folder(policy, tmp_path_factory.mktemp("checkpoint") / "made")


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint whose weights are a link: 45 MB, which few tests change (see `separate`)."""
    folder = shutil.copytree(made, tmp_path / "checkpoint", ignore=shutil.ignore_patterns(WEIGHTS))
    (folder / WEIGHTS).hardlink_to(made / WEIGHTS)
    return folder


def change(folder: Path, **values: Any) -> None:
    change_json(folder / CONFIG, lambda config: config.update(values))


def drop(folder: Path, *names: str) -> None:
    change_json(folder / CONFIG, lambda config: [config.pop(name) for name in names])


def checked(folder: Path, **config: Any) -> str:
    faults = TRAINABLE.faults({"dataset.root": "anywhere", "policy.path": str(folder), **config})
    return "\n".join(map(str, faults))


def noted(folder: Path) -> str:
    return "\n".join(read_config(folder).notes)


@pytest.mark.slow
def test_a_whole_checkpoint_has_neither_notes_nor_faults(folder: Path) -> None:
    config = read_config(folder)
    assert (config.notes, config.faults, config.crop_fault, config.statistics_fault) == ((), (), None, "")


# Missing keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("down_dims", [16, 32]),
        ("kernel_size", 3),
        ("diffusion_step_embed_dim", 16),
        ("use_film_scale_modulation", True),
        ("n_obs_steps", 2),
        ("vision_backbone", "resnet18"),
        ("use_group_norm", True),
        ("spatial_softmax_num_keypoints", 4),
        ("use_separate_rgb_encoder_per_camera", False),
    ],
)
def test_missing_fields_are_inferred_from_the_weights(folder: Path, name: str, value: Any) -> None:
    change(folder, gradient_checkpointing=False)  # a key of a version with other defaults for most of them
    drop(folder, name)
    assert read_config(folder).values[f"policy.{name}"] == value
    assert f"config.json lacks {name}. Taken from the weights: {name} {value!r}." in noted(folder)
    assert checked(folder) == ""


@pytest.mark.slow
def test_defaults_are_listed_with_their_version_and_those_of_others(folder: Path) -> None:
    change(folder, pretrained_revision=None)
    drop(folder, "horizon", "num_train_timesteps")
    assert read_config(folder).values["policy.horizon"] == 64
    for words in (
        "defaults of LeRobot 0.6 are used: horizon 64",
        "LeRobot 0.4: 16",
        "num_train_timesteps 100",
    ):
        assert words in noted(folder)
    assert "The weights do not show them. Set policy.horizon, policy.num_train_timesteps" in noted(folder)
    said = TRAINABLE.remarks({"dataset.root": "anywhere", "policy.path": str(folder)})
    assert any("horizon 64" in line for line in said)


@pytest.mark.slow
def test_the_training_settings_take_precedence_over_the_defaults(folder: Path) -> None:
    drop(folder, "horizon", "beta_schedule")
    stated = {"policy": {"type": "diffusion", "horizon": 32, "beta_schedule": "linear"}}
    (folder / "train_config.json").write_text(json.dumps(stated))
    values = read_config(folder).values
    assert (values["policy.horizon"], values["policy.beta_schedule"]) == (32, "linear")
    assert "Taken from train_config.json: horizon 32, beta_schedule 'linear'." in noted(folder)


@pytest.mark.slow
def test_keys_that_a_version_did_not_write_are_not_missed(folder: Path) -> None:
    newer = ("resize_shape", "crop_ratio", "compile_model", "compile_mode", "use_peft")
    drop(folder, *newer, "pretrained_path")
    assert noted(folder) == ""
    to_buffers(folder)
    assert noted(folder) == ""


@pytest.mark.slow
def test_fields_of_images_are_not_missed_by_a_policy_that_sees_none(tmp_path: Path) -> None:
    blind = lerobot_folder(small_policy(environment=4), tmp_path / "blind")
    drop(blind, "vision_backbone", "crop_shape", "use_group_norm")
    assert noted(blind) == ""


@pytest.mark.slow
def test_a_missing_crop_is_the_whole_image_if_the_weights_are_for_it(folder: Path) -> None:
    to_buffers(folder)
    drop(folder, "resize_shape", "crop_ratio", "compile_model", "compile_mode", "use_peft", "crop_shape")
    # The default of that time, 84×84, has 3×3 cells, and the image 2×3.
    assert read_config(folder).values["policy.crop_shape"] is None
    assert checked(folder) == ""


@pytest.mark.slow
def test_a_missing_normalisation_is_inferred_from_the_buffers(folder: Path, tmp_path: Path) -> None:
    old = to_buffers(
        lerobot_folder(small_policy(environment=4, normalization_action="MEAN_STD"), tmp_path / "old")
    )
    drop(old, "normalization_mapping")
    assert read_config(old).values["policy.normalization_action"] == "MEAN_STD"
    assert "policy.normalization_action MEAN_STD" in noted(old)


def test_without_weights_a_note_reports_that_they_were_not_read(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    drop(folder, "kernel_size")
    assert "defaults of LeRobot 0.4 are used: kernel_size 5" in noted(folder)
    assert "weights were not read" in noted(folder)


@pytest.mark.slow
@pytest.mark.parametrize("asked", [8, 100])
def test_more_actions_than_there_are_is_what_lerobot_executes(folder: Path, asked: int) -> None:
    change(folder, n_action_steps=asked)
    assert checked(folder) == ""
    assert "LeRobot executes 7" in noted(folder)
    assert lerobot.load(folder).config.n_action_steps == 7


# Contradictions


@pytest.mark.slow
@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"n_obs_steps": 1}, "n_obs_steps: 1, but its weights are those of n_obs_steps: 2"),
        ({"down_dims": [16, 32, 64]}, "down_dims: [16, 32]"),
        ({"down_dims": [32, 32]}, "down_dims: [16, 32]"),
        ({"kernel_size": 5}, "kernel_size: 3"),
        ({"diffusion_step_embed_dim": 32}, "diffusion_step_embed_dim: 16"),
        ({"use_film_scale_modulation": False}, "use_film_scale_modulation: true"),
        ({"vision_backbone": "resnet34"}, "vision_backbone: resnet18"),
        ({"use_group_norm": False}, "use_group_norm: true"),
        ({"spatial_softmax_num_keypoints": 8}, "spatial_softmax_num_keypoints: 4"),
        ({"use_separate_rgb_encoder_per_camera": True}, "use_separate_rgb_encoder_per_camera: false"),
        ({"crop_shape": [32, 32]}, "32×32 pixels (crop_shape: [32, 32]), which make 1×1 cells"),
        ({"resize_shape": [96, 96], "crop_ratio": 1.0}, "are for 2×3 cells (pool.pos_grid)"),
    ],
)
@pytest.mark.parametrize("allowed", [False, True])
def test_a_contradiction_is_found_before_a_trial(
    folder: Path, values: dict[str, Any], said: str, allowed: bool
) -> None:
    change(folder, **values)
    text = checked(folder, **{"policy.reinit_mismatched": allowed})
    assert said in text
    assert "policy.path" in text
    with pytest.raises(ConfigError) as caught:
        lerobot.load(folder)
    assert said in str(caught.value)


def features(config: dict[str, Any], **shapes: list[int] | None) -> None:
    for name, shape in shapes.items():
        key = {"state": "observation.state", "camera": CAMERA, "second": "observation.images.c1"}.get(
            name, name
        )
        group = config["output_features" if name == "action" else "input_features"]
        if shape is None:
            del group[key]
        else:
            kind = {"state": "STATE", "action": "ACTION"}.get(name, "VISUAL")
            group[key] = {"type": kind, "shape": shape}


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"action": [7]}, "has actions of 7 numbers, but its weights have 2"),
        ({"state": [4]}, "of 12 numbers each (4 of state, 8 of images), but its weights take 22 in total"),
        ({"camera": None}, "lists no cameras, but its weights have 1 image encoder"),
        ({"second": [3, 64, 96]}, "of 19 numbers each"),
        ({"camera": [3, 200, 200]}, "are for 2×3 cells"),
    ],
)
def test_features_that_the_weights_do_not_have_are_found(
    folder: Path, shapes: dict[str, Any], said: str
) -> None:
    change_json(folder / CONFIG, lambda config: features(config, **shapes))
    assert said in checked(folder)


def test_a_run_with_a_crop_of_its_own_may_start_from_a_wrong_one(folder: Path) -> None:
    change(folder, crop_shape=[32, 32])
    assert checked(folder, **{"policy.crop_shape": [60, 90]}) == ""


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
def test_encoders_per_camera_are_counted(tmp_path: Path, separate: bool) -> None:
    two = small_policy(cameras=2, image=(40, 40), use_separate_rgb_encoder_per_camera=separate)
    folder = lerobot_folder(two, tmp_path / "two")
    assert checked(folder) == ""
    change(folder, use_separate_rgb_encoder_per_camera=not separate)
    assert f"use_separate_rgb_encoder_per_camera: {str(separate).lower()}" in checked(folder)
    if separate:
        change_json(folder / CONFIG, lambda config: features(config, camera=None))
        assert "lists 1 camera, but its weights have 2 image encoders" in checked(folder)


@pytest.mark.slow
def test_buffers_that_contradict_the_normalisation_are_found(tmp_path: Path) -> None:
    old = to_buffers(lerobot_folder(small_policy(environment=4), tmp_path / "old"))
    change_json(old / CONFIG, lambda config: config["normalization_mapping"].update(ACTION="MEAN_STD"))
    assert (
        "normalization_action: MEAN_STD, but its weights are those of normalization_action: MIN_MAX"
        in checked(old)
    )


@pytest.mark.slow
def test_a_file_of_the_original_code_is_compared_with_its_weights(tmp_path: Path) -> None:
    payload = original_payload(small_policy())
    torch.save(payload, tmp_path / "latest.ckpt")
    assert checked(tmp_path / "latest.ckpt") == ""
    payload["cfg"]["policy"]["n_obs_steps"] = 1
    torch.save(payload, tmp_path / "edited.ckpt")
    assert "n_obs_steps: 1, but its weights are those of n_obs_steps: 2" in checked(tmp_path / "edited.ckpt")


def test_weights_that_lack_a_layer_are_found(folder: Path) -> None:
    lost = "diffusion.unet.mid_modules.0.conv1.block.0.bias"
    change_tensors(folder / WEIGHTS, lambda weights: {n: v for n, v in weights.items() if n != lost})
    assert f"1 missing: {lost}" in checked(folder)


# Damage


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1000])


def separate(file: Path) -> Path:
    """Replace a link to a file of all tests by a copy."""
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content)
    return file


@pytest.mark.slow
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda file: file.write_bytes(b""), "has 0 bytes"),
        (cut, "it is only a part"),
        (lambda file: file.write_text("version https://git-lfs.github.com/spec/v1\n"), "git lfs pull"),
        (lambda file: file.write_text("<html>" * 100), "not a safetensors file"),
        (lambda file: file.write_bytes(b"\x04" + b"\0" * 7 + b"[[1]"), "its header is not JSON"),
        (lambda file: file.unlink(), "is missing"),
    ],
)
def test_damaged_weights_are_found(folder: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(separate(folder / WEIGHTS))
    assert said in checked(folder)
    with pytest.raises(ConfigError):
        lerobot.load(folder)


@pytest.mark.slow
def test_the_checkpoint_is_read_again_when_its_weights_change(folder: Path) -> None:
    assert checked(folder) == ""
    cut(separate(folder / WEIGHTS))
    assert "only a part" in checked(folder)


# Statistics


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["policy_*", INPUT_STATE, OUTPUT_STATE])
def test_statistics_are_needed_only_by_a_run_that_takes_them(folder: Path, lost: str) -> None:
    for file in folder.glob(lost):
        file.unlink()
    assert checked(folder) == ""
    read = lerobot.read_checkpoint(folder, statistics=False)
    assert set(read.weights) == set(load_file(folder / WEIGHTS))
    text = checked(folder, **{"policy.stats": "checkpoint"})
    assert "policy.stats: the checkpoint has no statistics" in text
    assert "Set policy.stats: dataset." in text
    said = "\n".join(TRAINABLE.remarks({"dataset.root": "anywhere", "policy.path": str(folder)}))
    assert "The dataset's statistics are used" in said
    with pytest.raises(ConfigError):
        lerobot.load(folder)


# The file of weights


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_small_tensors_are_read_as_torch_reads_them(tmp_path: Path, dtype: torch.dtype) -> None:
    from safetensors.torch import save_file

    values = torch.tensor([[-1.0, 0.5], [3.25, 1e-3]], dtype=dtype)
    save_file({"other": torch.zeros(3), "grid": values}, tmp_path / WEIGHTS)
    entries = read_header(tmp_path / WEIGHTS)
    assert entries["grid"].shape == (2, 2)
    assert read_numbers(tmp_path / WEIGHTS, entries, "grid") == values.double().reshape(-1).tolist()
    assert read_numbers(tmp_path / WEIGHTS, entries, "missing") is None


@pytest.mark.reference
def test_checkpoints_of_lerobot_have_no_faults(shared: Path, tmp_path: Path) -> None:
    for name in ("policy_tiny", "policy_tiny_state"):
        config = read_config(shared / "reference" / name)
        assert (config.notes, config.faults, config.crop_fault, config.statistics_fault) == ((), (), None, "")
