"""An export has LeRobot's format and acts like the policy; otherwise it is not written."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import INPUT_STATE, OUTPUT_STATE, change_tensors, own_checkpoint, weights_of
from safetensors.torch import load_file
from small_policy import features, small_batch, small_policy, statistics

from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.lerobot import write
from trainables.diffusion_policy.network.normalize import Normalizer
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import ExportsCheckpoints

NEW, OLD = "lerobot==0.6.1", "lerobot==0.4.4"


@pytest.fixture
def policy() -> DiffusionPolicy:
    return small_policy(environment=3)


def config_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


def noise_for(policy: DiffusionPolicy) -> torch.Tensor:
    return torch.randn(2, policy.horizon, policy.action_dim, generator=torch.Generator().manual_seed(2))


def same_actions(one: DiffusionPolicy, other: DiffusionPolicy, observation: dict[str, torch.Tensor]) -> None:
    settings = {"noise": noise_for(one), "sampler": "DDIM", "num_inference_steps": 4}
    expected = one.predict_action(observation, **settings)
    torch.testing.assert_close(other.predict_action(observation, **settings), expected, rtol=1e-5, atol=1e-3)


def lerobots_normalized(entry: dict[str, torch.Tensor], mode: str, x: torch.Tensor) -> torch.Tensor:
    """LeRobot's formulas for inputs, written independently."""
    if mode == "MEAN_STD":
        return (x - entry["mean"]) / (entry["std"] + 1e-8)
    low, high = (entry[name] for name in (("min", "max") if mode == "MIN_MAX" else ("q01", "q99")))
    span = torch.where(high == low, torch.tensor(1e-8), high - low)
    return 2 * (x - low) / span - 1


def lerobots_unnormalized(entry: dict[str, torch.Tensor], mode: str, y: torch.Tensor) -> torch.Tensor:
    if mode == "MEAN_STD":
        return y * entry["std"] + entry["mean"]
    low, high = (entry[name] for name in (("min", "max") if mode == "MIN_MAX" else ("q01", "q99")))
    span = torch.where(high == low, torch.tensor(1e-8), high - low)
    return (y + 1) / 2 * span + low


def written_statistics(folder: Path, file: str, feature: str) -> dict[str, torch.Tensor]:
    start = f"{feature}."
    return {n.removeprefix(start): v for n, v in load_file(folder / file).items() if n.startswith(start)}


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("name", ["policy_tiny", "policy_tiny_state"])
def test_json_files_are_lerobots_to_the_byte(shared: Path, tmp_path: Path, name: str) -> None:
    reference, folder = shared / "reference" / name, tmp_path / name
    lerobot.save(lerobot.load(reference), folder)
    files = ("config.json", "policy_preprocessor.json", "policy_postprocessor.json")
    for file in files:
        assert (folder / file).read_bytes() == (reference / file).read_bytes(), file
    again, before = weights_of(folder), weights_of(reference)
    assert list(again) == list(before)
    assert all(again[key].equal(before[key]) for key in before)
    for file in (INPUT_STATE, OUTPUT_STATE):
        theirs = load_file(reference / file)
        ours = load_file(folder / file)
        assert all(value.equal(theirs[key]) for key, value in ours.items())
        assert {key for key in theirs if key.startswith("action.")} - set(ours) == {"action.count"}


@pytest.mark.slow
@pytest.mark.reference
def test_the_settings_of_training_have_exactly_lerobots_fields(
    shared: Path, policy: DiffusionPolicy, tmp_path: Path
) -> None:
    checkpoint = own_checkpoint(policy, tmp_path, **{"optimizer.lr": 3e-4, "optimizer.name": "adam"})
    TRAINABLE.export(checkpoint, tmp_path / "out", OLD)
    theirs = json.loads((shared / "reference/lerobot_checkpoint_tree/train_config.json").read_text())
    ours = json.loads((tmp_path / "out" / "train_config.json").read_text())

    def fields(content: Any, *below: str) -> Any:
        named = isinstance(content, dict) and not {"input_features", "normalization_mapping"} & set(below)
        return {key: fields(value, *below, key) for key, value in content.items()} if named else None

    assert fields(ours) == fields(theirs)
    assert ours["optimizer"] == theirs["optimizer"] | {"lr": 3e-4}
    assert ours["dataset"]["image_transforms"] == theirs["dataset"]["image_transforms"]
    assert ours["policy"] == config_of(tmp_path / "out")
    assert ours["steps"] == 40


@pytest.mark.slow
def test_the_exported_learning_rate_is_the_one_that_was_used(policy: DiffusionPolicy, tmp_path: Path) -> None:
    rule = {"optimizer.lr_batch_rule": "sqrt", "optimizer.lr_batch_reference": 16}
    checkpoint = own_checkpoint(policy, tmp_path, **{"optimizer.lr": 1e-4, "train.batch_size": 64, **rule})
    TRAINABLE.export(checkpoint, tmp_path / "out", OLD)
    assert config_of(tmp_path / "out")["optimizer_lr"] == 2e-4
    written = json.loads((tmp_path / "out" / "train_config.json").read_text())
    assert (written["optimizer"]["lr"], written["batch_size"]) == (2e-4, 64)


@pytest.mark.slow
def test_each_target_has_its_own_fields(policy: DiffusionPolicy, tmp_path: Path) -> None:
    for target in lerobot.TARGETS:
        lerobot.save(policy, tmp_path / target, target)
        same_actions(policy, lerobot.load(tmp_path / target), small_batch(policy, 2))
    old, new = (config_of(tmp_path / target) for target in (OLD, NEW))
    assert set(new) - set(old) == {"gradient_checkpointing", "pretrained_revision"}
    assert set(old) <= set(new)
    assert len(old) == 49


@pytest.mark.slow
def test_what_was_saved_loads_as_it_was(tmp_path: Path) -> None:
    policy = small_policy(cameras=2, environment=3, crop_shape=(36, 40))
    notes = lerobot.save(policy, tmp_path / "out")
    loaded = lerobot.load(tmp_path / "out")
    assert dataclasses.replace(loaded.config, crop_per="sample") == policy.config
    assert loaded.features == policy.features
    same_actions(policy, loaded, small_batch(policy, 2))
    assert "differ by at most" in notes[-1]


def with_constants(mode: str) -> DiffusionPolicy:
    """A policy whose second state and first action never vary."""
    listed = features(environment=3)
    entries = {name: {key: v.copy() for key, v in e.items()} for name, e in statistics(listed).items()}
    for name, place, value in (("observation.state", 1, 7.0), ("action", 0, -3.5)):
        for key in ("min", "max", "q01", "q99", "mean"):
            entries[name][key][place] = value
        entries[name]["std"][place] = 0.0
    modes = {f"normalization_{kind}": mode for kind in ("state", "action", "environment_state")}
    config = dataclasses.replace(small_policy(environment=3).config, **modes)
    return build_policy(config, listed, entries).eval()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["MIN_MAX", "MEAN_STD", "QUANTILES"])
def test_constant_dimensions_are_to_lerobot_what_they_are_here(mode: str, tmp_path: Path) -> None:
    policy, folder = with_constants(mode), tmp_path / "out"
    notes = " ".join(lerobot.save(policy, folder))
    assert "observation.state: dimensions [1] never vary" in notes
    assert "action: dimensions [0] never vary" in notes
    state = torch.tensor([[-50.0, 7.0, 3.0], [120.0, 7.5, -9.0], [0.0, -1e6, 0.0]])
    entry = written_statistics(folder, INPUT_STATE, "observation.state")
    expected = policy.normalizer.normalize("observation.state", state)
    torch.testing.assert_close(lerobots_normalized(entry, mode, state), expected, rtol=1e-6, atol=2e-6)
    predicted = torch.tensor([[0.3, -0.2], [5.0, 1.0], [-5.0, 0.0]])
    entry = written_statistics(folder, OUTPUT_STATE, "action")
    expected = policy.normalizer.unnormalize("action", predicted)
    assert expected[:, 0].eq(-3.5).all()
    torch.testing.assert_close(lerobots_unnormalized(entry, mode, predicted), expected)
    action = torch.tensor([[-3.5, 20.0], [-3.0, 1.0]])
    entry = written_statistics(folder, INPUT_STATE, "action")
    expected = policy.normalizer.normalize("action", action)
    torch.testing.assert_close(lerobots_normalized(entry, mode, action), expected, rtol=1e-6, atol=2e-6)
    loaded = lerobot.load(folder)
    same_actions(
        policy, loaded, small_batch(policy, 2) | {"observation.state": state[:2, None].expand(2, 2, 3)}
    )


@pytest.mark.slow
def test_lerobot_resizes_what_it_is_given_as_we_do(tmp_path: Path) -> None:
    policy = small_policy(cameras=1, image=(40, 48), resize_shape=(30, 36), crop_shape=(27, 32))
    lerobot.save(policy, tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert config["input_features"]["observation.images.c0"]["shape"] == [3, 30, 36]
    assert config["resize_shape"] == [30, 36]
    assert (
        [int(size * config["crop_ratio"]) for size in config["resize_shape"]]
        == config["crop_shape"]
        == [27, 32]
    )
    same_actions(policy, lerobot.load(tmp_path / "out"), small_batch(policy, 2))


@pytest.mark.slow
def test_a_share_without_a_resize_is_written_as_the_crop_it_gives(tmp_path: Path) -> None:
    lerobot.save(small_policy(cameras=1, image=(40, 48), crop_ratio=0.9), tmp_path / "out")
    config = config_of(tmp_path / "out")
    assert (config["crop_shape"], config["crop_ratio"], config["resize_shape"]) == ([36, 43], 1.0, None)


@pytest.mark.slow
def test_what_lerobot_lacks_is_replaced_and_reported(tmp_path: Path) -> None:
    policy = small_policy(environment=3, sampler="DPM-Solver++", num_inference_steps=5, warm_start_steps=2)
    notes = " ".join(lerobot.save(policy, tmp_path / "out", settings={"train.precision": "bf16"}))
    config = config_of(tmp_path / "out")
    assert (config["noise_scheduler_type"], config["num_inference_steps"]) == ("DDIM", 5)
    assert "DPM-Solver++ is replaced with DDIM of 5 steps" in notes
    assert "policy.warm_start_steps 2 is left out, since LeRobot begins every chunk from noise" in notes
    assert "bf16" in notes
    assert "ENV" in notes
    assert config["normalization_mapping"]["ENV"] == "MIN_MAX"


@pytest.mark.slow
def test_environment_state_as_it_is_has_no_entry(tmp_path: Path) -> None:
    policy = small_policy(environment=3, normalization_environment_state="IDENTITY")
    lerobot.save(policy, tmp_path / "out")
    assert set(config_of(tmp_path / "out")["normalization_mapping"]) == {"VISUAL", "STATE", "ACTION"}
    assert lerobot.load(tmp_path / "out").config.normalization_environment_state == "IDENTITY"


def two_sizes() -> DiffusionPolicy:
    policy = small_policy(environment=3)
    cameras = [
        Feature("observation.images.a", FeatureType.VISUAL, (3, 40, 48)),
        Feature("observation.images.b", FeatureType.VISUAL, (3, 40, 40)),
    ]
    policy.features = PolicyFeatures((*cameras, *policy.features.inputs), policy.features.action)
    return policy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: small_policy(environment=3, prediction_type="v_prediction"), "v_prediction"),
        (
            lambda: small_policy(environment=3, prediction_type="flow"),
            "flow; LeRobot's diffusion policy supports",
        ),
        (lambda: small_policy(), "neither an image nor observation.environment_state"),
        (lambda: small_policy(environment=3, horizon=6, n_action_steps=4), "is not a multiple of 4"),
        (lambda: small_policy(environment=3, n_action_steps=8), "silently execute fewer"),
        (lambda: small_policy(cameras=1, resize_shape=(30, 36), crop_shape=(20, 36)), "crop_ratio"),
        (two_sizes, "40×48"),
    ],
    ids=["v_prediction", "flow", "state_only", "horizon", "actions", "crop", "two_sizes"],
)
def test_what_lerobot_cannot_express_is_refused_and_leaves_nothing(
    make: Any, said: str, tmp_path: Path
) -> None:
    with pytest.raises(lerobot.ExportError, match="cannot express this policy") as error:
        lerobot.save(make(), tmp_path / "out")
    assert said in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_a_policy_without_a_state_is_refused(tmp_path: Path) -> None:
    policy = small_policy(environment=3)
    inputs = tuple(feature for feature in policy.features.inputs if feature.type is FeatureType.ENV)
    policy.features = PolicyFeatures(inputs, policy.features.action)
    with pytest.raises(lerobot.ExportError, match=r"does not use observation\.state"):
        lerobot.save(policy, tmp_path / "out")


def test_an_unknown_target_is_refused_with_those_there_are(policy: DiffusionPolicy, tmp_path: Path) -> None:
    with pytest.raises(lerobot.ExportError, match=r"lerobot==0\.1 .*lerobot==0\.4\.4, lerobot==0\.6\.1"):
        lerobot.save(policy, tmp_path / "out", "lerobot==0.1 ")


@pytest.mark.slow
def test_an_export_that_is_not_the_policy_does_not_stay(
    policy: DiffusionPolicy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = write._write

    def damaged(folder: Path, *arguments: Any) -> list[str]:
        notes = whole(folder, *arguments)
        change_tensors(
            folder / OUTPUT_STATE, lambda tensors: tensors | {"action.max": tensors["action.max"] * 1.01}
        )
        return notes

    monkeypatch.setattr(write, "_write", damaged)
    with pytest.raises(lerobot.ExportError, match="gives other actions"):
        lerobot.save(policy, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_weights_that_are_not_numbers_are_not_exported(policy: DiffusionPolicy, tmp_path: Path) -> None:
    with torch.no_grad():
        policy.diffusion.unet.final_conv[1].weight.fill_(torch.nan)
    with pytest.raises(lerobot.ExportError, match="other actions"):
        lerobot.save(policy, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_existing_files_are_not_lost(policy: DiffusionPolicy, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    lerobot.save(policy, folder)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    with pytest.raises(lerobot.ExportError, match="--force"):
        lerobot.save(policy, folder)
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before
    lerobot.save(policy, folder, NEW, replace=True)
    assert "pretrained_revision" in config_of(folder)
    (folder / "thesis.tex").write_text("all of it")
    with pytest.raises(lerobot.ExportError, match=r"something else \(thesis\.tex\)"):
        lerobot.save(policy, folder, replace=True)
    with pytest.raises(lerobot.ExportError, match="is a file"):
        lerobot.save(policy, folder / "thesis.tex", replace=True)
    assert {entry.name for entry in tmp_path.iterdir()} == {"out"}


@pytest.mark.slow
def test_a_checkpoints_averaged_weights_are_exported(policy: DiffusionPolicy, tmp_path: Path) -> None:
    assert isinstance(TRAINABLE, ExportsCheckpoints)
    checkpoint = own_checkpoint(policy, tmp_path, **{"optimizer.lr": 3e-4})
    name = "diffusion.unet.final_conv.1.weight"
    trained = policy.state_dict()[name]
    said: list[str] = []
    notes = TRAINABLE.export(checkpoint, tmp_path / "averaged", OLD, progress=said.append)
    assert "the averaged weights (EMA) were written." in notes
    assert len(said) == 2
    assert weights_of(tmp_path / "averaged")[name].equal(trained / 2)
    assert config_of(tmp_path / "averaged")["optimizer_lr"] == 3e-4
    notes = TRAINABLE.export(checkpoint, tmp_path / "trained", NEW, ema=False)
    assert "not averaged" in notes[0]
    assert weights_of(tmp_path / "trained")[name].equal(trained)
    assert not (tmp_path / "trained" / "train_config.json").exists()


@pytest.mark.slow
def test_statistics_are_written_as_they_are_used(policy: DiffusionPolicy, tmp_path: Path) -> None:
    lerobot.save(policy, tmp_path / "out")
    read = lerobot.read_checkpoint(tmp_path / "out")
    modes = policy.normalizer.modes
    again = Normalizer(read.config.features, read.statistics, modes)
    x = torch.linspace(-300, 300, 6).reshape(2, 3)
    assert again.normalize("observation.state", x).equal(policy.normalizer.normalize("observation.state", x))
    for name, entry in policy.statistics().items():
        for key, value in entry.items():
            np.testing.assert_array_equal(read.statistics[name][key], np.float32(value))
