"""Training that starts from a checkpoint."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_policy import small_batch, small_policy, small_settings

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT, OptimizerConfig
from trainables.diffusion_policy.lerobot import read_checkpoint
from trainables.diffusion_policy.network import vision
from trainables.diffusion_policy.network.shapes import DERIVED_BUFFER, layer_of
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot
from trainables.diffusion_policy.training.optimizer import build_optimizer, clip_gradients
from trainables.interface import ConfigError, Report, TrainContext

TIMED = ("samples_per_s", "data_wait_fraction", "latency", "action_rate")
ENCODER = "diffusion.rgb_encoder."


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def context(folder: Path, **changes: Any) -> TrainContext:
    return TrainContext(folder=folder, cache=folder.parent / "cache", threads=1, **changes)


def run(config: Mapping[str, Any], folder: Path, **changes: Any) -> list[Report]:
    return list(TRAINABLE.train(config, context(folder, **changes)))


def untimed(report: Report) -> dict[str, float]:
    return {name: x for name, x in report.metrics.items() if not any(word in name for word in TIMED)}


def judged(report: Report) -> dict[str, float]:
    return {name: value for name, value in untimed(report).items() if name.startswith("eval/")}


def snapshot(folder: Path, pointer: str = "last") -> Snapshot:
    found = Checkpoints(folder / "checkpoints").find(pointer)
    assert found is not None
    return checkpoints.read(found)


@pytest.fixture(scope="module")
def trained(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Report]]:
    """A policy that has learnt the circles a little."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("trained") / "learnt"
    config = small_settings(circles) | {"train.steps": 60, "train.eval_every": 60, "optimizer.lr": 3e-3}
    return folder, run(config, folder)


@pytest.fixture
def learnt(
    trained: tuple[Path, list[Report]], small_config: dict[str, Any], tmp_path: Path
) -> tuple[dict[str, Any], list[Report]]:
    """A configuration that continues with a copy of it, in tmp_path / "learnt", and its evaluation."""
    folder, reports = trained
    shutil.copytree(folder, tmp_path / "learnt")
    further = {
        name: value
        for name, value in small_config.items()
        if not name.startswith("policy.") or name == "policy.n_action_steps"
    }
    return further | {"policy.path": str(tmp_path / "learnt")}, reports


@pytest.mark.slow
def test_the_first_evaluation_is_at_the_old_level_and_not_at_zero(
    learnt: tuple[dict[str, Any], list[Report]], small_config: dict[str, Any], tmp_path: Path
) -> None:
    config, before = learnt
    tuned = run(config, tmp_path / "tuned")
    scratch = run(small_config | {"train.eval_at_start": True}, tmp_path / "scratch")

    # The averaged weights were evaluated there, and are the start here.
    assert tuned[0].step == scratch[0].step == 0
    assert judged(tuned[0]) == judged(before[-1])
    assert judged(tuned[0])["eval/action_mse"] < 0.5 * judged(scratch[0])["eval/action_mse"]
    # The average begins as those weights: an evaluation soon after does not fall back.
    later = next(report for report in tuned if report.step == 6)
    assert judged(later)["eval/action_mse"] < 1.2 * judged(before[-1])["eval/action_mse"]


@pytest.mark.slow
def test_the_report_before_the_first_step_has_a_checkpoint_and_the_evaluation_alone(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path
) -> None:
    config, _ = learnt
    reports = run(config, tmp_path / "tuned", objective=("eval/action_mse", "minimize"))
    first = reports[0]

    assert [report.step for report in reports] == [0, 3, 6, 9, 12]
    assert first.checkpoint is not None
    assert first.checkpoint.name == "000000"
    assert set(first.metrics) <= set(TRAINABLE.metrics)
    assert not any(name.startswith("train/") for name in first.metrics)
    errors = {r.step: r.metrics["eval/action_mse"] for r in reports if "eval/action_mse" in r.metrics}
    best = Checkpoints(tmp_path / "tuned" / "checkpoints").find("best")
    assert best is not None
    assert int(best.name) == min(errors, key=lambda step: errors[step])


@pytest.mark.slow
def test_the_evaluation_before_the_first_step_can_be_left_out(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path
) -> None:
    config, _ = learnt
    reports = run(config | {"train.eval_at_start": False}, tmp_path / "tuned")

    assert [report.step for report in reports] == [3, 6, 9, 12]


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_resumed_fine_tuning_equals_a_straight_one_though_its_checkpoint_is_gone(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path, stop_after: int
) -> None:
    config, _ = learnt
    config = {**config, "policy.stats": "checkpoint"}
    # As in a sweep: the checkpoint's values are recorded when the sweep starts.
    config = {**config, **TRAINABLE.inherited(config)}
    straight = run(config, tmp_path / "straight")
    early = list(itertools.islice(TRAINABLE.train(config, context(tmp_path / "cut")), stop_after))
    shutil.rmtree(tmp_path / "learnt")
    resumed = run(config, tmp_path / "cut")

    by_step = {report.step: untimed(report) for report in [*early, *resumed]}
    assert by_step == {report.step: untimed(report) for report in straight}
    expected, found = snapshot(tmp_path / "straight"), snapshot(tmp_path / "cut")
    assert expected.optimizer is found.optimizer is None
    for group in ("model", "ema"):
        tensors, others = getattr(expected, group), getattr(found, group)
        assert tensors.keys() == others.keys()
        assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


@pytest.mark.slow
def test_exactly_the_layers_that_do_not_fit_are_reinitialised_and_listed(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path
) -> None:
    config, _ = learnt
    said: list[str] = []
    changed = config | {"policy.n_obs_steps": 1, "policy.reinit_mismatched": True}
    first = next(iter(TRAINABLE.train(changed, context(tmp_path / "tuned", progress=said.append))))

    record = json.loads((tmp_path / "tuned" / "start.json").read_text())
    assert first.artifacts == {"policy/start": tmp_path / "tuned" / "start.json"}
    assert len(record["begun_anew"]) == 8
    assert all(layer.endswith("cond_encoder.1") for layer in record["begun_anew"])
    assert record["left_out"] == []
    assert any(f"8 of {record['layers']} layers are reinitialised" in message for message in said)
    before, began = read_checkpoint(tmp_path / "learnt").weights, snapshot(tmp_path / "tuned").model
    kept = {
        layer_of(name)
        for name, value in began.items()
        if value.shape == before[name].shape and torch.equal(value, before[name])
    }
    everything = {layer_of(name) for name in began}
    assert everything - kept == set(record["begun_anew"])
    assert len(everything) == record["layers"]


@pytest.mark.slow
def test_statistics_are_the_datasets_or_the_checkpoints(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path
) -> None:
    config, _ = learnt
    other = {**config, "dataset.split_seed": 5, "train.steps": 3, "dataset.holdout_fraction": 0.5}
    run(other, tmp_path / "dataset")
    run(other | {"policy.stats": "checkpoint"}, tmp_path / "checkpoint")
    old = read_checkpoint(tmp_path / "learnt").statistics

    def differs(folder: str) -> bool:
        found = snapshot(tmp_path / folder).statistics
        return any(not np.array_equal(found["action"][key], old["action"][key]) for key in ("mean", "std"))

    assert differs("dataset")
    assert not differs("checkpoint")


@pytest.mark.slow
def test_weights_that_are_not_those_of_their_configuration_are_refused(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path
) -> None:
    config, _ = learnt
    for file in (tmp_path / "learnt" / "checkpoints").rglob("*.safetensors"):
        if file.name in ("model.safetensors", "ema.safetensors"):
            tensors = load_file(file)
            tensors["diffusion.unet.final_conv.1.bias"] = torch.zeros(7)
            save_file(tensors, file)

    with pytest.raises(ConfigError, match=r"final_conv\.1\.bias is 7, expected 2"):
        run(config, tmp_path / "tuned")


@pytest.mark.slow
def test_weights_that_are_not_finite_are_refused(
    learnt: tuple[dict[str, Any], list[Report]], tmp_path: Path
) -> None:
    config, _ = learnt
    for file in (tmp_path / "learnt" / "checkpoints").rglob("ema.safetensors"):
        tensors = load_file(file)
        tensors["diffusion.unet.final_conv.1.bias"].fill_(float("nan"))
        save_file(tensors, file)

    with pytest.raises(ConfigError, match=r"final_conv\.1\.bias contains numbers that are not finite"):
        run(config, tmp_path / "tuned")


# The encoder's learning rate.


def settings(multiplier: float) -> OptimizerConfig:
    return OptimizerConfig(lr=1e-3, vision_encoder_lr_multiplier=multiplier)


@pytest.mark.slow
def test_a_slower_encoder_is_a_second_group_and_the_gradient_is_clipped_over_both() -> None:
    policy = small_policy(cameras=1)
    optimizer = build_optimizer(policy, settings(0.1))
    policy.loss(small_batch(policy), generator=torch.Generator().manual_seed(0)).backward()
    whole = clip_gradients(policy, 1e-3)

    assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-4]
    counts = [sum(p.numel() for p in group["params"]) for group in optimizer.param_groups]
    assert sum(counts) == sum(parameter.numel() for parameter in policy.parameters())
    assert counts[1] == sum(parameter.numel() for parameter in policy.encoder_parameters())
    clipped = torch.stack([p.grad.norm() for p in policy.parameters() if p.grad is not None]).norm()
    assert float(whole) > 1e-3
    assert float(clipped) == pytest.approx(1e-3, rel=1e-3)
    assert len(build_optimizer(small_policy(cameras=1), settings(1.0)).param_groups) == 1
    assert len(build_optimizer(small_policy(), settings(0.1)).param_groups) == 1


@pytest.mark.slow
@pytest.mark.parametrize("use_group_norm", [True, False], ids=["GroupNorm", "BatchNorm"])
def test_a_frozen_encoder_costs_no_gradients_no_moments_and_stays(use_group_norm: bool) -> None:
    policy = small_policy(cameras=1, use_group_norm=use_group_norm)
    policy.freeze_encoders()
    policy.train()
    batch = small_batch(policy)
    optimizer = build_optimizer(policy, settings(0.0))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    # Nothing of the encoder is kept for a backward pass, though crops stay random.
    assert not policy.condition(batch).requires_grad
    policy.loss(batch, generator=torch.Generator().manual_seed(0)).backward()
    optimizer.step()
    policy.eval()
    policy.train()

    assert all(parameter.grad is None for parameter in policy.encoder_parameters())
    moments = checkpoints.optimizer_tensors(policy, optimizer)
    assert moments
    assert not any(name.startswith(ENCODER) for name in moments)
    changed = {name for name, value in policy.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert not any(name.startswith(ENCODER) for name in changed)
    assert policy.training
    assert not any(module.training for encoder in policy.diffusion.encoders for module in encoder.modules())


@pytest.mark.slow
def test_encoders_are_frozen_or_slowed_and_resume_as_they_were(
    pictures: Path, small_config: dict[str, Any], tmp_path: Path
) -> None:
    images = {
        **small_config,
        "dataset.root": str(pictures),
        "dataset.holdout_fraction": 0.34,
        "policy.spatial_softmax_num_keypoints": 4,
        "train.batch_size": 4,
        "train.steps": 2,
        "train.eval_every": 2,
        "train.log_every": 1,
        "lr_scheduler.warmup_steps": 1,
        "eval.windows": 4,
    }
    run(images, tmp_path / "learnt")
    before = read_checkpoint(tmp_path / "learnt").weights
    further = {name: value for name, value in images.items() if not name.startswith("policy.")}
    further |= {"policy.path": str(tmp_path / "learnt"), "train.eval_at_start": False}

    frozen = "optimizer.vision_encoder_lr_multiplier"
    run(further | {frozen: 0.0}, tmp_path / "frozen")
    kept = snapshot(tmp_path / "frozen")
    assert [
        n for n in kept.model if n.startswith(ENCODER) and not torch.equal(kept.model[n], before[n])
    ] == []
    every_step = further | {frozen: 0.0, "train.checkpoint_every": 1}
    list(itertools.islice(TRAINABLE.train(every_step, context(tmp_path / "begun")), 1))
    moments = snapshot(tmp_path / "begun").optimizer
    assert moments
    assert not any(name.startswith(ENCODER) for name in moments)
    assert any(not torch.equal(kept.model[name], before[name]) for name in kept.model)

    slowed = further | {frozen: 0.01, "train.checkpoint_every": 1}
    straight = run(slowed, tmp_path / "slowed")
    list(itertools.islice(TRAINABLE.train(slowed, context(tmp_path / "cut")), 1))
    resumed = run(slowed, tmp_path / "cut")
    assert untimed(resumed[-1]) == untimed(straight[-1])
    whole, cut = snapshot(tmp_path / "slowed"), snapshot(tmp_path / "cut")
    assert [name for name in whole.model if not torch.equal(whole.model[name], cut.model[name])] == []

    def moved(model: Mapping[str, torch.Tensor], *, encoder: bool) -> float:
        names = [n for n in model if n.startswith(ENCODER) == encoder and not n.endswith(DERIVED_BUFFER)]
        return max(float((model[name] - before[name]).abs().max()) for name in names)

    # Adam's steps are about as long as the learning rate, whatever the gradient.
    assert 0 < moved(whole.model, encoder=True) < 0.1 * moved(whole.model, encoder=False)


@pytest.mark.slow
def test_on_the_other_half_of_push_t_the_first_rollouts_are_those_of_the_old_policy(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("gym_pusht")
    halves = {
        **{name: value for name, value in small_config.items() if name != "dataset.root"},
        "dataset.repo_id": BUILTIN_PUSHT,
        "dataset.observations": ["observation.state", "observation.environment_state"],
        "optimizer.lr": 5e-3,
        "lr_scheduler.warmup_steps": 10,
        "train.batch_size": 64,
        "rollout.env": "gym_pusht/PushT-v0",
        "rollout.episodes": 6,
        "rollout.max_steps": 60,
        "rollout.video": "never",
    }
    steps = {"train.steps": 150, "train.eval_every": 150, "train.log_every": 150}
    old = run(halves | steps | {"dataset.episodes": "0-99"}, tmp_path / "learnt")[-1]
    other = halves | {"dataset.episodes": "100-199", "train.steps": 12}
    path = {"policy.path": str(tmp_path / "learnt")}
    same = next(iter(TRAINABLE.train(other | path | {"policy.stats": "checkpoint"}, context(tmp_path / "a"))))
    new = next(iter(TRAINABLE.train(other | path, context(tmp_path / "b"))))
    scratch = next(iter(TRAINABLE.train(other | {"train.eval_at_start": True}, context(tmp_path / "c"))))

    # The same starts and the same noise: with its own statistics the policy does what it did.
    for name in ("rollout/avg_max_reward", "rollout/avg_sum_reward", "rollout/episode_length"):
        assert same.metrics[name] == old.metrics[name]
    for first in (same, new):
        assert first.step == 0
        assert first.metrics["eval/action_mse"] < 2 * old.metrics["eval/action_mse"]
        assert first.metrics["eval/action_mse"] < 0.5 * scratch.metrics["eval/action_mse"]


@pytest.mark.slow
def test_pretrained_weights_of_the_backbone_are_not_fetched_if_the_checkpoint_has_them(
    pictures: Path, small_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        **small_config,
        "dataset.root": str(pictures),
        "dataset.holdout_fraction": 0.34,
        "policy.spatial_softmax_num_keypoints": 4,
        "policy.use_group_norm": False,
        "train.batch_size": 4,
        "train.steps": 1,
        "lr_scheduler.warmup_steps": 0,
        "eval.windows": 4,
    }
    run(config, tmp_path / "learnt")
    asked: list[str] = []
    monkeypatch.setattr(vision, "ready_file", lambda backbone, named: asked.append(named))
    named = {"policy.path": str(tmp_path / "learnt"), "train.eval_at_start": False}
    named["policy.pretrained_backbone_weights"] = "ResNet18_Weights.IMAGENET1K_V1"
    run({**config, **named}, tmp_path / "tuned")

    assert asked == []
