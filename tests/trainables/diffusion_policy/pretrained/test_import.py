"""Checkpoints are read as they were written, in every format and folder layout, without guesses."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoint_files import (
    INPUT_STATE,
    OUTPUT_STATE,
    WEIGHTS,
    change_json,
    change_tensors,
    copy_of,
    lerobot_folder,
    original_payload,
    own_checkpoint,
    to_buffers,
    weights_of,
)
from safetensors.torch import load_file, save_file
from small_policy import small_batch, small_policy

from tests.arrays import read_arrays
from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.find import find_checkpoint
from trainables.diffusion_policy.pretrained.read_config import read_config
from trainables.diffusion_policy.pretrained.weights import policy_from_weights
from trainables.interface import ConfigError


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return small_policy(environment=3)


@pytest.fixture(scope="module")
def written(policy: DiffusionPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_folder(policy, tmp_path_factory.mktemp("lerobot") / "pretrained_model")


@pytest.fixture(scope="module")
def seeing() -> DiffusionPolicy:
    """A policy with cameras: large to write, so few tests have it."""
    return small_policy(cameras=1, environment=3, crop_shape=(36, 40))


@pytest.fixture(scope="module")
def seen(seeing: DiffusionPolicy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return lerobot_folder(seeing, tmp_path_factory.mktemp("lerobot") / "seeing")


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return copy_of(written, tmp_path / "pretrained_model")


def actions(policy: DiffusionPolicy) -> torch.Tensor:
    noise = torch.randn(2, policy.horizon, policy.action_dim, generator=torch.Generator().manual_seed(1))
    return policy.predict_action(small_batch(policy, 2), noise, sampler="DDIM", num_inference_steps=4)


def same_actions(one: DiffusionPolicy, other: DiffusionPolicy, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(actions(one), actions(other), rtol=rtol, atol=1e-3)


def refused(path: Path | str, *words: str, read: Any = lerobot.load) -> str:
    with pytest.raises(ConfigError) as error:
        read(path)
    assert error.value.faults[0].where == "policy.path"
    for word in words:
        assert word in str(error.value)
    return str(error.value)


# The place of a checkpoint


@pytest.mark.slow
def test_a_checkpoint_is_found_from_every_folder_above_it(written: Path, tmp_path: Path) -> None:
    run = tmp_path / "train"
    for step in ("000010", "000020"):
        shutil.copytree(written, run / "checkpoints" / step / "pretrained_model")
    (run / "checkpoints" / "last").symlink_to("000010")
    last = run / "checkpoints" / "last" / "pretrained_model"
    for named in (run, run / "checkpoints", run / "checkpoints" / "last", last):
        assert find_checkpoint(named).resolve() == last.resolve()
    twenty = run / "checkpoints" / "000020"
    for named in (twenty, twenty / "pretrained_model", str(twenty)):
        assert find_checkpoint(named) == twenty / "pretrained_model"


@pytest.mark.slow
def test_without_a_link_the_last_step_is_taken(written: Path, tmp_path: Path) -> None:
    for step in ("000010", "000020"):
        shutil.copytree(written, tmp_path / "checkpoints" / step / "pretrained_model")
    (tmp_path / "checkpoints" / "last").symlink_to("000030")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "000020" / "pretrained_model"


def test_of_a_trial_the_best_comes_before_the_last(policy: DiffusionPolicy, tmp_path: Path) -> None:
    best = own_checkpoint(policy, tmp_path)
    last = copy_of(best, best.with_name("000080"))
    (tmp_path / "config.json").write_text("{}")
    (best.parent / "last.json").write_text(json.dumps({"step": 80, "folder": last.name}))
    for named in (tmp_path, best.parent, best):
        assert find_checkpoint(named) == best
    assert find_checkpoint(last) == last
    (best.parent / "best.json").unlink()
    assert find_checkpoint(tmp_path) == last


@pytest.mark.slow
def test_a_pointer_cannot_lead_out_of_the_folder(
    policy: DiffusionPolicy, written: Path, tmp_path: Path
) -> None:
    own = own_checkpoint(policy, tmp_path / "trial")
    (own.parent / "best.json").write_text(json.dumps({"step": 1, "folder": f"../../{written}"}))
    assert find_checkpoint(tmp_path / "trial") == own


def test_what_is_not_a_checkpoint_is_reported_as_such(tmp_path: Path) -> None:
    refused(tmp_path, "does not contain a checkpoint", read=find_checkpoint)
    refused(tmp_path / "nowhere", "does not exist", "owner/name", read=find_checkpoint)
    (tmp_path / "weights.bin").write_bytes(b"")
    refused(tmp_path / "weights.bin", "is a file", read=find_checkpoint)


@pytest.mark.slow
def test_a_model_of_the_hub_comes_from_its_cache_without_a_network(
    policy: DiffusionPolicy, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    home = tmp_path / "models--owner--policy"
    shutil.copytree(written, home / "snapshots" / "abc")
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("abc")
    same_actions(lerobot.load("owner/policy", cache=tmp_path), policy)
    with pytest.raises(ConfigError, match=r"cannot be fetched from the hub[\s\S]*use a folder"):
        lerobot.load("owner/else", cache=tmp_path)


# The content of a checkpoint


def test_a_checkpoint_is_described(policy: DiffusionPolicy, written: Path) -> None:
    config = read_config(written)
    assert config.format == "lerobot"
    assert config.features == policy.features
    assert config.values["policy.down_dims"] == [16, 32]
    assert config.values["policy.normalization_environment_state"] == "MIN_MAX"
    assert config.values["optimizer.lr"] == 1e-4
    assert config.values["lr_scheduler.warmup_steps"] == 500
    assert config.notes == ()
    read = lerobot.read_checkpoint(written)
    assert list(read.weights) == sorted(policy.state_dict())
    assert set(read.statistics) == {feature.name for feature in policy.features.all()}


@pytest.mark.slow
def test_a_loaded_policy_is_the_policy(seeing: DiffusionPolicy, seen: Path) -> None:
    loaded = lerobot.load(seen)
    assert not loaded.training
    torch.testing.assert_close(actions(loaded), actions(seeing), rtol=0, atol=0)
    assert loaded.config.crop_per == "batch"


def test_actions_come_in_the_configurations_way(policy: DiffusionPolicy, folder: Path) -> None:
    change_json(
        folder / "config.json", lambda c: c.update(noise_scheduler_type="DDIM", num_inference_steps=3)
    )
    loaded = lerobot.load(folder)
    batch, noise = small_batch(policy, 2), torch.zeros(2, policy.horizon, policy.action_dim)
    chunk = loaded.predict_action(batch, noise)
    assert chunk.shape == (2, policy.n_action_steps, policy.action_dim)
    expected = policy.predict_action(batch, noise, sampler="DDIM", num_inference_steps=3)
    torch.testing.assert_close(chunk, expected, rtol=0, atol=0)


@pytest.mark.slow
@torch.no_grad()
def test_images_are_taken_as_bytes_and_as_floats(seen: Path) -> None:
    loaded = lerobot.load(seen)
    batch = small_batch(loaded, 2)
    floats = {name: v.float() / 255 if v.dtype == torch.uint8 else v for name, v in batch.items()}
    noise, steps = torch.zeros(2, loaded.horizon, loaded.action_dim), torch.tensor([3, 7])
    chunks = [
        loaded.predict_action(values, noise, sampler="DDIM", num_inference_steps=2)
        for values in (batch, floats)
    ]
    torch.testing.assert_close(*chunks, rtol=1e-5, atol=1e-3)
    torch.testing.assert_close(loaded.loss(batch, noise, steps), loaded.loss(floats, noise, steps))


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precisions_become_float32(
    policy: DiffusionPolicy, folder: Path, dtype: torch.dtype
) -> None:
    change_tensors(folder / WEIGHTS, lambda weights: {name: v.to(dtype) for name, v in weights.items()})
    loaded = lerobot.load(folder)
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32}
    expected = {name: value.to(dtype).float() for name, value in policy.state_dict().items()}
    torch.testing.assert_close(dict(loaded.state_dict()), expected, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["diffusion.unet.", "diffusion.", ""])
def test_names_that_compiling_left_are_understood(
    policy: DiffusionPolicy, folder: Path, compiled: str
) -> None:
    change_tensors(
        folder / WEIGHTS,
        lambda weights: {n.replace(compiled, f"{compiled}_orig_mod.", 1): v for n, v in weights.items()},
    )
    assert any("_orig_mod" in name for name in weights_of(folder))
    same_actions(lerobot.load(folder), policy)


@pytest.mark.slow
def test_integers_among_the_weights_stay_integers(tmp_path: Path) -> None:
    policy = small_policy(cameras=1, use_group_norm=False)
    loaded = lerobot.load(lerobot_folder(policy, tmp_path / "export"))
    counts = [v for name, v in loaded.state_dict().items() if name.endswith("num_batches_tracked")]
    assert counts
    assert {value.dtype for value in counts} == {torch.int64}
    same_actions(loaded, policy)


@pytest.mark.slow
def test_pretrained_weights_are_not_fetched_to_be_overwritten(
    seeing: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("fetched"))
    named = dataclasses.replace(seeing.config, pretrained_backbone_weights="ResNet18_Weights.IMAGENET1K_V1")
    made = policy_from_weights(named, seeing.features, seeing.statistics(), seeing.state_dict())
    assert made.config.pretrained_backbone_weights == "ResNet18_Weights.IMAGENET1K_V1"


@pytest.mark.slow
def test_steps_of_a_processor_are_found_at_any_position(policy: DiffusionPolicy, folder: Path) -> None:
    def move(content: dict[str, Any]) -> None:
        content["steps"].insert(0, content["steps"].pop())
        content["steps"][0]["state_file"] = "elsewhere.safetensors"

    (folder / INPUT_STATE).rename(folder / "elsewhere.safetensors")
    change_json(folder / "policy_preprocessor.json", move)
    same_actions(lerobot.load(folder), policy)


@pytest.mark.slow
def test_the_processors_take_precedence_over_the_config(policy: DiffusionPolicy, folder: Path) -> None:
    change_json(folder / "config.json", lambda c: c["normalization_mapping"].update(STATE="MEAN_STD"))
    assert "takes precedence over config.json (MEAN_STD)" in " ".join(read_config(folder).notes)
    same_actions(lerobot.load(folder), policy)


def test_environment_state_without_a_mapping_passes_as_it_is(folder: Path) -> None:
    for file in ("policy_preprocessor.json", "policy_postprocessor.json"):
        change_json(
            folder / file,
            lambda c: [s["config"]["norm_map"].pop("ENV") for s in c["steps"] if "norm_map" in s["config"]],
        )
    loaded = lerobot.load(folder)
    value = torch.tensor([[[7.0, -3.0, 1e6]]])
    assert loaded.config.normalization_environment_state == "IDENTITY"
    assert loaded.normalizer.normalize("observation.environment_state", value).equal(value)


def test_deciles_are_used_as_percentiles(policy: DiffusionPolicy, folder: Path) -> None:
    for file in ("policy_preprocessor.json", "policy_postprocessor.json"):
        change_json(
            folder / file,
            lambda c: [
                s["config"]["norm_map"].update(STATE="QUANTILE10")
                for s in c["steps"]
                if "norm_map" in s["config"]
            ],
        )
    low, high = torch.tensor([-3.0, -2.0, -1.0]), torch.tensor([3.0, 4.0, 5.0])
    deciles = {"observation.state.q10": low, "observation.state.q90": high}
    change_tensors(folder / INPUT_STATE, lambda tensors: tensors | deciles)
    loaded = lerobot.load(folder)
    torch.testing.assert_close(loaded.normalizer.normalize("observation.state", low), -torch.ones(3))
    torch.testing.assert_close(loaded.normalizer.normalize("observation.state", high), torch.ones(3))
    assert "QUANTILE10" in " ".join(read_config(folder).notes)


def test_what_is_not_understood_is_noted(folder: Path) -> None:
    change_json(folder / "config.json", lambda c: c.update(brand_new=1, do_mask_loss_for_padding=True))
    change_json(
        folder / "policy_preprocessor.json", lambda c: c["steps"][0]["config"].update(rename_map={"a": "b"})
    )
    notes = " ".join(read_config(folder).notes)
    assert "brand_new" in notes
    assert "do_mask_loss_for_padding" in notes
    assert "renames" in notes


def test_missing_keys_are_the_defaults_of_the_version_that_wrote_the_file(folder: Path) -> None:
    dropped = ("horizon", "n_action_steps", "use_group_norm", "crop_shape", "noise_scheduler_type")
    change_json(folder / "config.json", lambda c: [c.pop(name) for name in dropped])
    values = read_config(folder).values
    assert [values[f"policy.{name}"] for name in dropped] == [16, 8, True, None, "DDPM"]
    change_json(folder / "config.json", lambda c: c.update(gradient_checkpointing=False))
    values = read_config(folder).values
    assert [values[f"policy.{name}"] for name in dropped] == [64, 32, False, None, "DDPM"]
    (folder / "policy_preprocessor.json").unlink()
    newer = (
        "gradient_checkpointing",
        "resize_shape",
        "crop_ratio",
        "compile_model",
        "compile_mode",
        "use_peft",
    )
    change_json(folder / "config.json", lambda c: [c.pop(name) for name in newer])
    assert read_config(folder).values["policy.crop_shape"] == [84, 84]


def test_a_resize_brings_the_crop_that_its_ratio_gives(folder: Path) -> None:
    change_json(folder / "config.json", lambda c: c.update(resize_shape=[30, 37], crop_ratio=0.9))
    assert read_config(folder).values["policy.crop_shape"] == [27, 33]
    change_json(folder / "config.json", lambda c: c.update(resize_shape=[30, 37], crop_ratio=1.0))
    assert read_config(folder).values["policy.crop_shape"] is None
    change_json(folder / "config.json", lambda c: c.update(resize_shape=None, crop_ratio=0.5))
    assert read_config(folder).values["policy.crop_ratio"] == 1.0


# Before 0.4


@pytest.mark.slow
def test_statistics_among_the_weights_are_found(policy: DiffusionPolicy, folder: Path) -> None:
    loaded = lerobot.load(to_buffers(folder))
    assert read_config(folder).format == "lerobot_buffers"
    same_actions(loaded, policy)


@pytest.mark.slow
def test_names_of_buffers_follow_from_the_features(seen: Path, tmp_path: Path) -> None:
    folder, name = copy_of(seen, tmp_path / "old"), "observation.images.cam_high"
    change_json(folder / "config.json", lambda c: c.update(input_features=renamed(c["input_features"], name)))
    for file in (INPUT_STATE, OUTPUT_STATE):
        change_tensors(folder / file, lambda tensors: renamed(tensors, name))
    to_buffers(folder)
    assert "normalize_inputs.buffer_observation_images_cam_high.mean" in weights_of(folder)
    read = lerobot.read_checkpoint(folder)
    assert [camera.name for camera in read.config.features.cameras] == [name]
    assert set(read.statistics[name]) == {"mean", "std"}


def renamed(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {key.replace("observation.images.c0", name): entry for key, entry in entries.items()}


def test_neither_processors_nor_buffers_is_refused(folder: Path) -> None:
    for file in folder.glob("policy_*"):
        file.unlink()
    refused(folder, "neither", "four processor files")


@pytest.mark.slow
@pytest.mark.reference
def test_the_old_form_of_policy_tiny_gives_the_same_numbers(shared: Path, tmp_path: Path) -> None:
    reference = shared / "reference"
    weights = load_file(reference / "policy_tiny" / WEIGHTS) | load_file(
        reference / "oldformat_statistics.safetensors"
    )
    keys = json.loads((reference / "oldformat_keys.json").read_text())
    assert {name: list(value.shape) for name, value in weights.items()} == keys
    save_file(weights, tmp_path / WEIGHTS)
    shutil.copy(reference / "oldformat_config.json", tmp_path / "config.json")
    numbers = read_arrays(reference / "policy_tiny" / "reference.npz")
    raw = {
        name.removeprefix("raw/"): torch.from_numpy(numbers[name])
        for name in numbers
        if name.startswith("raw/")
    }
    raw["observation.image"] = raw.pop("observation.image__uint8")
    loaded = lerobot.load(tmp_path)
    eps, steps = (torch.from_numpy(numbers[f"loss/{name}"]) for name in ("eps", "timesteps"))
    loss = loaded.loss(raw, eps, steps).item()
    assert loss == pytest.approx(float(numbers["loss/eval_mask0"]), rel=2e-6)
    noise = torch.from_numpy(numbers["gen/noise"])
    chunk = loaded.predict_action(raw, noise, sampler="DDIM", num_inference_steps=10)
    np.testing.assert_allclose(chunk, numbers["gen/ddim10/actions_post"], atol=2e-3)


# Our own


@pytest.mark.slow
def test_our_own_checkpoint_has_its_averaged_weights(policy: DiffusionPolicy, tmp_path: Path) -> None:
    folder = own_checkpoint(policy, tmp_path)
    name = "diffusion.unet.final_conv.1.weight"
    trained = policy.state_dict()[name]
    assert lerobot.load(folder).state_dict()[name].equal(trained / 2)
    assert lerobot.load(folder, ema=False).state_dict()[name].equal(trained)
    config = read_config(folder)
    assert config.format == "sweeper"
    assert config.values["policy.down_dims"] == [16, 32]
    assert not {"policy.path", "policy.stats"} & set(config.values)
    same_actions(lerobot.load(folder, ema=False), policy)


# The original code


@pytest.mark.slow
def test_the_original_codes_averaged_weights_are_read(tmp_path: Path) -> None:
    policy = small_policy()
    torch.save(original_payload(policy), tmp_path / "latest.ckpt")
    loaded = lerobot.load(tmp_path / "latest.ckpt")
    same_actions(loaded, policy)
    config = read_config(find_checkpoint(tmp_path / "latest.ckpt"))
    assert config.format == "diffusion_policy"
    assert "averaged" in config.notes[0]
    assert (
        not lerobot.load(tmp_path / "latest.ckpt", ema=False)
        .state_dict()["diffusion.unet.final_conv.1.bias"]
        .any()
    )


@pytest.mark.slow
def test_the_configuration_of_an_original_file_is_read_without_its_weights(tmp_path):
    payload = original_payload(small_policy())
    payload["state_dicts"]["model"]["model.large"] = torch.ones(10_000_000)
    torch.save(payload, tmp_path / "latest.ckpt")
    program = (
        "import sys, psutil, torch; from pathlib import Path; "
        "from trainables.diffusion_policy.pretrained.original_ckpt import *; "
        "used = lambda: psutil.Process().memory_info().rss; file = Path(sys.argv[1]); before = used(); "
        "config = read_original_config(file); between = used(); whole = read_original(file, ema=False); "
        "print(between - before, used() - before)"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "latest.ckpt")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    described, read = map(int, done.stdout.split())
    assert described < 10_000_000
    assert read > 32_000_000, "the weights would not show"


@pytest.mark.slow
def test_the_original_codes_configuration_is_read_without_its_classes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy()
    payload = original_payload(policy)
    with monkeypatch.context() as patch:
        payload["cfg"] = omegaconf_of(payload["cfg"], patch)
        torch.save(payload, tmp_path / "latest.ckpt")
    assert "omegaconf" not in sys.modules
    same_actions(lerobot.load(tmp_path / "latest.ckpt"), policy)


def omegaconf_of(value: Any, patch: pytest.MonkeyPatch) -> Any:
    """OmegaConf's pickled configuration: containers and nodes that refer to each other by ``_content``."""
    kinds = {}
    for path in ("dictconfig.DictConfig", "listconfig.ListConfig", "nodes.AnyNode", "base.ContainerMetadata"):
        module, _, name = f"omegaconf.{path}".rpartition(".")
        kinds[name] = type(name, (), {"__module__": module})
        patch.setitem(sys.modules, module, types.ModuleType(module))
        setattr(sys.modules[module], name, kinds[name])
    patch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))

    def build(item: Any) -> Any:
        kind = {dict: "DictConfig", list: "ListConfig"}.get(type(item), "AnyNode")
        made = kinds[kind]()
        if kind == "AnyNode":
            made._val = item
            return made
        made._metadata = kinds["ContainerMetadata"]()
        made._content = (
            {k: build(v) for k, v in item.items()} if kind == "DictConfig" else [build(v) for v in item]
        )
        return made

    return build(value)


class Runs:
    """A class that would run something when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (os.mkdir, ("was-run",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(original_payload(small_policy()) | {"pickles": Runs()}, "evil.ckpt")
    refused("evil.ckpt", "cannot be read safely", "posix.mkdir", "docs/checkpoints.md")
    assert not Path("was-run").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"obs_as_global_cond": False}, "obs_as_global_cond"),
        ({"oa_step_convention": False}, "oa_step_convention"),
        ({"_target_": "x.DiffusionUnetHybridImagePolicy"}, "Train them again with this project"),
        ({"horizon": "${horizon}"}, "policy.horizon"),
        ({"obs_dim": 10**30}, "policy.obs_dim"),
        ({"obs_dim": 4}, "normaliser"),
    ],
)
def test_what_the_original_code_does_otherwise_is_refused(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    payload = original_payload(small_policy())
    payload["cfg"]["policy"] |= change
    torch.save(payload, tmp_path / "latest.ckpt")
    refused(tmp_path / "latest.ckpt", said)


def test_a_file_that_is_not_an_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "latest.ckpt").write_bytes(b"\x80\x04nonsense")
    refused(tmp_path / "latest.ckpt", "cannot be read")
    torch.save([1, 2], tmp_path / "latest.ckpt")
    refused(tmp_path / "latest.ckpt", "not a checkpoint of the original code")


# Malicious and damaged files


def test_a_truncated_file_is_refused(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    for size in (len(whole) // 2, 100, 4, 0):
        (folder / WEIGHTS).write_bytes(whole[:size])
        refused(folder, WEIGHTS, "cannot be read")
    (folder / WEIGHTS).unlink()
    refused(folder, WEIGHTS, "is missing")


def test_a_header_that_promises_too_much_is_refused(folder: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [10**12], "data_offsets": [0, 4 * 10**12]}}).encode()
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header)
    refused(folder, "cannot be read")
    (folder / WEIGHTS).write_bytes((2**63 - 1).to_bytes(8, "little") + b"{}")
    refused(folder, "cannot be read")


def test_missing_unexpected_and_misshapen_weights_are_listed(folder: Path) -> None:
    def damage(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        weights["diffusion.unet.extra.weight"] = torch.zeros(1)
        weights["diffusion.unet.final_conv.1.bias"] = torch.zeros(5)
        del weights["diffusion.unet.mid_modules.0.conv1.block.0.bias"]
        return weights

    change_tensors(folder / WEIGHTS, damage)
    refused(
        folder,
        "1 missing: diffusion.unet.mid_modules.0.conv1.block.0.bias",
        "1 unexpected: diffusion.unet.extra.weight",
        "diffusion.unet.final_conv.1.bias is 5, expected 2",
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", "..", "", 7, "a\\b", "sub/file"])
def test_a_state_file_cannot_lead_out_of_the_folder(folder: Path, name: Any) -> None:
    shutil.copy(folder / INPUT_STATE, folder.parent / "outside.safetensors")
    change_json(folder / "policy_preprocessor.json", lambda c: c["steps"][3].update(state_file=name))
    refused(folder, "state_file", "is not a file of the checkpoint's folder")


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"down_dims": [2**40, 2**40]},
        {"down_dims": [8] * 10_000},
        {"spatial_softmax_num_keypoints": 10**15},
        {"kernel_size": 10**9},
        {"num_train_timesteps": 10**9},
        {"horizon": 10**12},
        {"input_features": {"observation.state": {"type": "STATE", "shape": [10**18]}}},
        {"input_features": {"observation.image": {"type": "VISUAL", "shape": [3, 10**9, 10**9]}}},
        {
            "input_features": {
                f"observation.images.{n}": {"type": "VISUAL", "shape": [3, 9, 9]} for n in range(999)
            }
        },
        {"beta_end": float("inf")},
        {"down_dims": "many"},
        {"resize_shape": [1e300, 2]},
        {"input_features": None},
        {"normalization_mapping": [1]},
    ],
)
def test_impossible_sizes_are_refused_before_memory_is_allocated(
    folder: Path, change: dict[str, Any]
) -> None:
    change_json(folder / "config.json", lambda c: c.update(change))
    refused(folder, "config.json")


def test_sizes_that_the_weights_do_not_have_take_no_memory(folder: Path) -> None:
    # Tens of terabytes, if it were built before it is compared.
    change_json(folder / "config.json", lambda c: c.update(down_dims=[800_000, 800_000], n_groups=8))
    refused(folder, "do not fit the configuration")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "cannot be read"),
        ("[]", "is not a JSON object"),
        ("{}", "type is None"),
        ('{"type": "act"}', "only a Diffusion Policy"),
        ('{"type": "diffusion"}', "input_features"),
        ("[" * 100_000, "cannot be read"),
        ('{"input_shapes": {}}', "before 2025"),
        (" " * 9_000_000, "bytes"),
    ],
)
def test_a_file_that_is_not_a_config_is_refused(folder: Path, content: str, said: str) -> None:
    (folder / "config.json").write_text(content)
    refused(folder, "config.json", said)


def test_statistics_that_are_not_numbers_are_refused_with_a_way_out(folder: Path) -> None:
    # A checkpoint that LeRobot began without a dataset has infinite statistics.
    infinite = {"observation.state.min": torch.full((3,), torch.inf)}
    change_tensors(folder / INPUT_STATE, lambda tensors: tensors | infinite)
    refused(folder, "observation.state", "not finite", "policy.stats: dataset")
    assert "observation.state" in lerobot.read_checkpoint(folder).statistics


@pytest.mark.slow
def test_a_constant_dimension_stays_finite(folder: Path) -> None:
    constant = {f"observation.state.{name}": torch.tensor([0.0, 5.0, 0.0]) for name in ("min", "max")}
    change_tensors(folder / INPUT_STATE, lambda tensors: tensors | constant)
    assert actions(lerobot.load(folder)).isfinite().all()


def test_an_epsilon_that_cannot_be_reproduced_is_refused(folder: Path) -> None:
    change_json(folder / "policy_preprocessor.json", lambda c: c["steps"][3]["config"].update(eps=0.1))
    refused(folder, "eps 0.1")


def test_a_processor_without_its_step_is_refused(folder: Path) -> None:
    change_json(folder / "policy_postprocessor.json", lambda c: c["steps"].pop(0))
    refused(folder, "policy_postprocessor.json", "unnormalizer_processor")
    change_json(folder / "policy_postprocessor.json", lambda c: c.update(steps="none"))
    refused(folder, "policy_postprocessor.json", "does not contain a list of steps")
