"""Training by flow matching: it learns, resumes, and its times follow from seed and step alone."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from training_runs import context, run, tensors_of, untimed

from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows, split_episodes
from trainables.diffusion_policy import TRAINABLE, lerobot
from trainables.diffusion_policy.training.checkpoint import Checkpoints
from trainables.diffusion_policy.training.stream import NOISE, TIMESTEPS, BatchStream


@pytest.fixture
def flow_config(small_config: dict[str, Any]) -> dict[str, Any]:
    return small_config | {"policy.prediction_type": "flow", "policy.sampler": "Euler"}


@pytest.mark.slow
@pytest.mark.parametrize("sampling", ["uniform", "beta"])
def test_flow_matching_learns_to_predict_the_next_places(
    flow_config: dict[str, Any], tmp_path: Path, sampling: str
) -> None:
    changed = {"policy.time_sampling": sampling, "optimizer.lr": 3e-3, "eval.num_inference_steps": 8}
    steps = {"train.steps": 300, "train.eval_every": 300, "train.log_every": 50, "train.eval_at_start": True}
    reports = run(flow_config | changed | steps, tmp_path)

    untrained, trained = (report.metrics["eval/action_mae"] for report in (reports[0], reports[-1]))
    # Standing still is off by the 15 units of a step; guessing anywhere by about 80.
    assert untrained > 40
    assert trained < 20
    assert reports[-1].metrics["train/loss"] < 0.5 * reports[1].metrics["train/loss"]


@pytest.mark.slow
def test_a_flow_resumes_bit_for_bit(flow_config: dict[str, Any], tmp_path: Path) -> None:
    config = flow_config | {"policy.time_sampling": "logit_normal", "policy.sampler": "Heun"}
    straight = run(config, tmp_path / "straight")
    early = list(itertools.islice(TRAINABLE.train(config, context(tmp_path / "cut")), 2))
    resumed = run(config, tmp_path / "cut")

    assert [untimed(report) for report in (*early, *resumed)][-1] == untimed(straight[-1])
    whole, cut = tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "cut")
    assert all(torch.equal(cut[name], value) for name, value in whole.items())


@pytest.mark.slow
def test_a_loaded_flow_is_the_trained_one(flow_config: dict[str, Any], tmp_path: Path) -> None:
    run(flow_config | {"policy.time_sampling": "beta"}, tmp_path)
    last = Checkpoints(tmp_path / "checkpoints").find("last")
    assert last is not None
    policy = lerobot.load(last)
    assert (policy.config.prediction_type, policy.config.time_sampling) == ("flow", "beta")
    assert (policy.config.inference_sampler, policy.config.inference_spacing) == ("Euler", "trailing")


def test_the_times_of_a_step_are_those_of_any_number_of_workers(circles: Path) -> None:
    dataset = open_dataset(circles)
    windows = Windows(
        dataset,
        split_episodes(dataset, 0.25, 0).train,
        n_obs_steps=2,
        horizon=8,
        drop_n_last_frames=3,
        frames={},
    )

    def batches(rank: int, world_size: int, **changes: Any) -> dict[str, torch.Tensor]:
        settings: dict[str, Any] = {"num_train_timesteps": 20, "seed": 3, "device": torch.device("cpu")}
        stream = BatchStream(windows, 8, rank=rank, world_size=world_size, **settings | changes)
        try:
            return stream.batch(5).values
        finally:
            stream.close()

    whole = batches(0, 1, time_sampling="beta")
    assert whole[TIMESTEPS].is_floating_point()
    assert 0 < whole[TIMESTEPS].min() < whole[TIMESTEPS].max() <= 20
    halves = [batches(rank, 2, time_sampling="beta")[TIMESTEPS] for rank in (0, 1)]
    assert torch.equal(torch.cat(halves), whole[TIMESTEPS])
    assert not torch.equal(batches(0, 1, time_sampling="beta", seed=4)[TIMESTEPS], whole[TIMESTEPS])
    # The noise does not depend on how times are drawn.
    diffusion = batches(0, 1)
    assert torch.equal(diffusion[NOISE], whole[NOISE])
    assert not diffusion[TIMESTEPS].is_floating_point()
