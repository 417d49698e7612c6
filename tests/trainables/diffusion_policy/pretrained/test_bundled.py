"""A bundle is a checkpoint wherever one is read, without what only a continued training needs."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from checkpoint_files import lerobot_folder, original_payload, own_checkpoint
from small_policy import small_batch, small_policy

from trainables.deployment.bundle import Contents, is_bundle, open_bundle, write_bundle
from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.finetuning.resolve import resolve_faults
from trainables.diffusion_policy.inference.opened import open_policy
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.interface import BundlesPolicies, ConfigError, EvaluationContext


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))


def bundle_of(checkpoint: Path, folder: Path) -> Path:
    assert isinstance(TRAINABLE, BundlesPolicies)
    file = folder / "policy.zip"
    write_bundle(file, Contents("diffusion_policy", TRAINABLE.policy_files(checkpoint)))
    return file


@pytest.mark.slow
def test_the_policy_of_a_bundle_acts_as_the_one_that_was_packed(tmp_path: Path) -> None:
    checkpoint = own_checkpoint(small_policy(cameras=1), tmp_path)
    bundle = bundle_of(checkpoint, tmp_path)
    assert [path.name for path in open_bundle(bundle).policy.glob("optimizer*")] == []
    batch = small_batch(small_policy(cameras=1))
    actions = []
    for path in (checkpoint, bundle, open_bundle(bundle).folder):
        torch.manual_seed(0)
        actions.append(lerobot.load(path).predict_action(batch))
    assert torch.equal(actions[0], actions[1])
    assert torch.equal(actions[0], actions[2])
    opened = open_policy(bundle, {}, EvaluationContext(tmp_path / "cache"))
    assert opened.step == 40


def test_the_optimiser_is_in_the_checkpoint_and_not_in_its_bundle(tmp_path: Path) -> None:
    checkpoint = own_checkpoint(small_policy(environment=2), tmp_path)
    assert (checkpoint / "optimizer.safetensors").is_file()
    assert set(TRAINABLE.policy_files(checkpoint)) == {
        *("config.json", "state.json", "model.safetensors", "ema.safetensors", "statistics.safetensors"),
    }


@pytest.mark.slow
def test_checkpoints_of_others_can_be_bundled(tmp_path: Path) -> None:
    policy = small_policy(environment=2)
    theirs = bundle_of(lerobot_folder(policy, tmp_path / "theirs"), tmp_path)
    batch = small_batch(policy)
    torch.manual_seed(0)
    expected = policy.predict_action(batch)
    torch.manual_seed(0)
    assert torch.allclose(lerobot.load(theirs).predict_action(batch), expected, atol=1e-3)


@pytest.mark.slow
def test_a_file_of_the_original_code_can_be_bundled(tmp_path: Path) -> None:
    file = tmp_path / "epoch=0100.ckpt"
    torch.save(original_payload(small_policy()), file)
    assert not is_bundle(file), "torch's files are ZIP archives, too"
    assert lerobot.load(bundle_of(file, tmp_path)).horizon == small_policy().horizon


@pytest.mark.slow
def test_training_can_start_from_a_bundle(tmp_path: Path) -> None:
    checkpoint = own_checkpoint(small_policy(environment=2), tmp_path)
    bundle = bundle_of(checkpoint, tmp_path)
    config = {"dataset.root": "somewhere", "policy.path": str(bundle)}
    assert resolve_faults(config) == []
    assert TRAINABLE.inherited(config)["policy.horizon"] == small_policy().horizon
    assert DiffusionConfig.from_flat(config).policy.path == str(bundle)


def test_a_damaged_bundle_is_a_fault_of_its_path(tmp_path: Path) -> None:
    bundle = bundle_of(own_checkpoint(small_policy(environment=2), tmp_path), tmp_path)
    with zipfile.ZipFile(bundle, "a") as archive:
        archive.writestr("policy/added.safetensors", b"")
    with pytest.raises(ConfigError, match=r"policy\.path: .*added since the bundle was made: policy/added"):
        lerobot.load(bundle)
