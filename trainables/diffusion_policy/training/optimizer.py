"""The optimiser of a Diffusion Policy: its parameters and learning rates, and the clipping of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from trainables.diffusion_policy.config.sections import OptimizerConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy

__all__ = ["build_optimizer", "clip_gradients"]

CLIP_EPSILON = 1e-6
"""Added to the norm, as torch.nn.utils.clip_grad_norm_ does."""


def build_optimizer(policy: DiffusionPolicy, settings: OptimizerConfig) -> torch.optim.Optimizer:
    """Create the optimiser of the trained parameters; frozen encoders are left out."""
    kind = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam}[settings.name]
    return kind(
        _parameter_groups(policy, settings),
        lr=settings.lr,
        betas=(settings.betas[0], settings.betas[1]),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def clip_gradients(policy: nn.Module, bound: float, optimizer: torch.optim.Optimizer | None = None) -> Tensor:
    """Scale the gradients to a norm of at most ``bound`` (0: no bound), and return the norm before that.

    Args:
        policy: Its gradients are scaled.
        bound: The largest norm.
        optimizer: A fused optimiser that scales the gradients while it steps, which saves a pass over them;
            None: they are scaled here. It divides and does not multiply, so that the last bit may differ.
    """
    gradients = [parameter.grad for parameter in policy.parameters() if parameter.grad is not None]
    norm = get_total_norm(gradients, foreach=True)
    if bound > 0:
        # An infinite norm would turn every gradient into NaN and hide the culprit.
        finite = torch.where(torch.isfinite(norm), norm, 0.0)
        if optimizer is not None:
            # The name under which a loss scaler leaves its scale for the fused kernels.
            optimizer.grad_scale = ((finite + CLIP_EPSILON) / bound).clamp(min=1.0)  # type: ignore[attr-defined]
            return norm
        factor = (bound / (finite + CLIP_EPSILON)).clamp(max=1.0)
        # On a CPU, where reading a number waits for nothing, no gradient is multiplied by 1.
        if factor.device.type != "cpu" or float(factor) < 1.0:
            torch._foreach_mul_(gradients, factor)
    return norm


def _parameter_groups(policy: DiffusionPolicy, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """The trained parameters: one group, or a second one for the encoders with a separate learning rate."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    multiplier = settings.vision_encoder_lr_multiplier
    encoders = {id(parameter) for parameter in policy.encoder_parameters() if parameter.requires_grad}
    # With 0 the encoders, or their pretrained backbones, are frozen; the rest is trained like the U-Net.
    if not encoders or multiplier in (0.0, 1.0):
        return [{"params": trained}]
    # The U-Net's group first: train/lr is its learning rate.
    return [
        {"params": [parameter for parameter in trained if id(parameter) not in encoders]},
        {
            "params": [parameter for parameter in trained if id(parameter) in encoders],
            "lr": settings.lr * multiplier,
        },
    ]
