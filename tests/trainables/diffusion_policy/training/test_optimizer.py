"""Clipping: equal to PyTorch's own, whether or not the fused optimiser does it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_policy import small_policy
from torch.nn.utils import clip_grad_norm_

from trainables.diffusion_policy.config.sections import OptimizerConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.training.optimizer import build_optimizer, clip_gradients


def with_gradients(scale: float) -> DiffusionPolicy:
    policy = small_policy()
    generator = torch.Generator().manual_seed(0)
    for parameter in policy.parameters():
        parameter.grad = scale * torch.randn(parameter.shape, generator=generator)
    return policy


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("bound", [0.5, 1.0])
def test_gradients_are_clipped_bit_for_bit_as_pytorch_does(scale: float, bound: float) -> None:
    ours, plain = with_gradients(scale), with_gradients(scale)

    norm, expected = clip_gradients(ours, bound), clip_grad_norm_(plain.parameters(), bound)

    assert torch.equal(norm, expected)
    for one, other in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


@pytest.mark.slow
@pytest.mark.parametrize("bound", [0.1, 0.0, math.inf])
@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_a_fused_step_that_clips_equals_clipping_and_stepping(name: str, bound: float) -> None:
    settings = OptimizerConfig(name=name, lr=1e-2, eps=1e-3)
    separate, folded = with_gradients(1.0), with_gradients(1.0)
    optimizers = [build_optimizer(policy, settings) for policy in (separate, folded)]
    before = copy.deepcopy(separate.state_dict())

    for _ in range(3):
        norms = [clip_gradients(separate, bound), clip_gradients(folded, bound, optimizers[1])]
        assert torch.equal(*norms)
        for optimizer in optimizers:
            optimizer.step()
        for policy in (separate, folded):
            for number, parameter in enumerate(policy.parameters()):
                parameter.grad.copy_(parameter.detach() * (number + 1))

    for (key, one), other in zip(separate.state_dict().items(), folded.state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
        assert bound == 0 or not torch.equal(one, before[key])


def test_a_gradient_that_is_not_finite_is_not_spread_over_all() -> None:
    policy = with_gradients(1.0)
    first, *others = policy.parameters()
    first.grad[:] = math.inf
    optimizer = build_optimizer(policy, OptimizerConfig())

    assert not torch.isfinite(clip_gradients(policy, 1.0, optimizer))
    assert float(optimizer.grad_scale) == 1.0
    assert not torch.isfinite(clip_gradients(policy, 1.0))
    assert all(torch.isfinite(parameter.grad).all() for parameter in others)
