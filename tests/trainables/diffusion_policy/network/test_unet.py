from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from trainables.diffusion_policy.network.unet import LARGE, ConditionalUnet1d, Mish


def unet(**changed: Any) -> ConditionalUnet1d:
    torch.manual_seed(0)
    values: dict[str, Any] = {
        "action_dim": 3,
        "global_cond_dim": 5,
        "down_dims": (16, 32, 48),
        "kernel_size": 5,
        "n_groups": 4,
        "diffusion_step_embed_dim": 16,
        "use_film_scale_modulation": True,
    }
    return ConditionalUnet1d(**values | changed)


def inputs(horizon: int = 8, action_dim: int = 3) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    action = torch.randn(4, horizon, action_dim, generator=generator)
    return action, torch.tensor([0, 1, 50, 99]), torch.randn(4, 5, generator=generator)


@pytest.mark.slow
@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"down_dims": (16,)},
        {"down_dims": (16, 32)},
        {"down_dims": (32, 16, 64, 24), "n_groups": 8},
        {"kernel_size": 1},
        {"kernel_size": 3},
        {"use_film_scale_modulation": False},
        {"action_dim": 7},
    ],
)
def test_output_has_the_shape_of_the_actions(changed: dict[str, Any]) -> None:
    horizon = 2 ** len(changed.get("down_dims", (1, 1, 1)))
    action, timesteps, condition = inputs(horizon, changed.get("action_dim", 3))
    assert unet(**changed)(action, timesteps, condition).shape == action.shape


def test_output_depends_on_action_timestep_and_condition() -> None:
    network = unet()
    action, timesteps, condition = inputs()
    base = network(action, timesteps, condition)
    assert not torch.allclose(network(action + 1, timesteps, condition), base)
    assert not torch.allclose(network(action, timesteps + 1, condition), base)
    assert not torch.allclose(network(action, timesteps, condition + 1), base)


def test_samples_do_not_touch_each_other() -> None:
    network = unet()
    action, timesteps, condition = inputs()
    together = network(action, timesteps, condition)
    alone = network(action[1:2], timesteps[1:2], condition[1:2])
    torch.testing.assert_close(together[1:2], alone, rtol=1e-5, atol=1e-6)


def test_every_parameter_gets_a_gradient() -> None:
    network = unet()
    network(*inputs()).square().sum().backward()
    without = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []


@pytest.mark.slow
def test_checkpointed_blocks_give_the_same_numbers() -> None:
    gradients = []
    for enabled in (False, True):
        network = unet()
        network.checkpoint_blocks = enabled
        output = network(*inputs())
        output.square().sum().backward()
        gradients.append([output.detach(), *(p.grad for p in network.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert torch.equal(plain, checkpointed)


def test_mish_on_a_cpu_agrees_with_torch() -> None:
    x = torch.cat((torch.linspace(-30, 30, LARGE), torch.tensor([-1e30, -100.0, 100.0, 1e30])))
    x.requires_grad_()
    ours, theirs = Mish()(x), F.mish(x)
    assert "CpuMish" in ours.grad_fn.name()
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-7)
    weight = torch.randn(x.shape)
    (ours_grad,) = torch.autograd.grad(ours, x, weight)
    (theirs_grad,) = torch.autograd.grad(theirs, x, weight)
    torch.testing.assert_close(ours_grad, theirs_grad, rtol=2e-6, atol=2e-6)
    assert torch.equal(Mish()(x.detach()), ours)


def test_mish_keeps_dtype_and_nan_at_any_size() -> None:
    for count in (4, LARGE):
        assert Mish()(torch.randn(count, dtype=torch.bfloat16)).dtype == torch.bfloat16
        assert Mish()(torch.full((count,), float("nan"))).isnan().all()
        small = torch.randn(count)
        torch.testing.assert_close(Mish()(small), F.mish(small), rtol=2e-6, atol=1e-7)
