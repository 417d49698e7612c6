"""What a step needs of a GPU is estimated from sizes alone, and agrees with what PyTorch counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small_policy import ACTION_DIM, STATE_DIM, small_batch, small_policy
from torch.utils.flop_counter import FlopCounterMode

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.gpu_need import StepNeed, step_need
from trainables.diffusion_policy.trainable import TRAINABLE

BATCH = 4
NETWORKS: list[dict[str, Any]] = [
    {"down_dims": (32, 64), "horizon": 16},
    {"down_dims": (32, 64, 128), "horizon": 16, "environment": 16},
    {"cameras": 1, "image": (64, 64), "crop_shape": (56, 56)},
    {"cameras": 2, "image": (64, 64), "crop_shape": (56, 56), "use_separate_rgb_encoder_per_camera": True},
]


def estimate(changes: dict[str, Any], batch_size: int = BATCH, passes: int = 1) -> StepNeed:
    policy = small_policy(**changes).config
    return step_need(
        policy,
        batch_size=batch_size,
        passes=passes,
        action_dim=ACTION_DIM,
        vector_dim=STATE_DIM + changes.get("environment", 0),
        cameras=changes.get("cameras", 0),
        image=changes.get("crop_shape", (0, 0)),
    )


@pytest.mark.slow
@pytest.mark.parametrize("changes", NETWORKS)
def test_operations_are_those_that_pytorch_counts(changes: dict[str, Any]) -> None:
    policy = small_policy(**changes).train()
    with FlopCounterMode(display=False) as counted:
        policy.loss(small_batch(policy, BATCH), generator=torch.Generator().manual_seed(0)).backward()
    # The first layers need no gradient of their inputs, which the estimate counts.
    assert estimate(changes).operations == pytest.approx(counted.get_total_flops(), rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("changes", NETWORKS)
def test_activations_are_about_what_the_backward_pass_keeps(changes: dict[str, Any]) -> None:
    policy = small_policy(**changes).train()
    mine = {parameter.data_ptr() for parameter in policy.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        policy.loss(small_batch(policy, BATCH), generator=torch.Generator().manual_seed(0)).backward()
    # The trainable reserves twice the estimate.
    assert 0.7 < estimate(changes).activations_gb * 1e9 / sum(kept.values()) < 2.0


@pytest.mark.slow
def test_the_weights_are_nearly_all_of_a_policy() -> None:
    policy = small_policy(cameras=1, image=(64, 64), crop_shape=(56, 56))
    count = sum(parameter.numel() for parameter in policy.parameters())
    assert 0.98 * count < estimate(NETWORKS[2]).weights <= count


@pytest.mark.slow
def test_a_gpu_is_busier_with_a_larger_network_and_a_larger_batch() -> None:
    small = estimate({"down_dims": (32, 64)}, batch_size=64)
    wider = estimate({"down_dims": (256, 512)}, batch_size=64)
    larger = estimate({"down_dims": (256, 512)}, batch_size=1024)
    assert 0 < small.busy < wider.busy < larger.busy <= 1
    # The same batch in two passes is launched twice, and keeps half of it at once.
    halved = estimate({"down_dims": (256, 512)}, batch_size=1024, passes=2)
    assert halved.activations_gb == pytest.approx(larger.activations_gb / 2)
    assert halved.busy <= larger.busy


def test_the_network_of_the_paper_fills_a_gpu() -> None:
    found = step_need(
        PolicyConfig(),
        batch_size=64,
        passes=1,
        action_dim=2,
        vector_dim=2,
        cameras=1,
        image=(84, 84),
    )
    assert found.busy == 1
    assert 250e6 < found.weights < 270e6
    # 0.68 TFLOP in a step, by hand: 1.19 GFLOP of the encoder and 2.34 of the U-Net forward for a sample.
    assert found.operations == pytest.approx(0.677e12, rel=0.1)


DATA = {"dataset.repo_id": "builtin/pusht"}
STATES: dict[str, Any] = DATA | {
    "dataset.observations": ["observation.state"],
    "policy.down_dims": [32, 64],
}


def test_small_policies_may_share_a_gpu_and_need_more_than_their_weights() -> None:
    need = TRAINABLE.gpu_need(STATES)
    assert need.alone == ""
    assert need.busy < 0.2
    assert 1.5 < need.memory_gb < 2.0
    assert TRAINABLE.gpu_need(STATES | {"train.batch_size": 1024}).memory_gb > need.memory_gb
    assert TRAINABLE.gpu_need(STATES).memory_gb > TRAINABLE.memory_gb(STATES)


@pytest.mark.parametrize(
    ("changes", "alone"),
    [
        ({"train.compile": True}, "train.compile"),
        ({"train.compile": "graph"}, "train.compile"),
        ({"rollout.env": "gym_pusht/PushT-v0", "rollout.latency_ms": "measured"}, "rollout.latency_ms"),
        ({"rollout.env": "gym_pusht/PushT-v0", "rollout.latency_ms": 40.0}, ""),
        ({"dataset.observations": None}, "known only from the dataset"),
        ({"dataset.observations": None, "policy.crop_shape": [84, 84]}, ""),
        ({"dataset.observations": None, "policy.resize_shape": [96, 96]}, ""),
    ],
)
def test_some_trials_need_a_gpu_alone(changes: dict[str, Any], alone: str) -> None:
    found = TRAINABLE.gpu_need(STATES | changes).alone
    assert (alone in found) if alone else found == ""
