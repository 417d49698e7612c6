"""The optimiser of a Diffusion Policy: its parameters and learning rates, and the clipping of gradients."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from trainables.diffusion_policy.config.sections import OptimizerConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy

__all__ = ["build_optimizer", "clip_gradients"]


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


def clip_gradients(policy: nn.Module, bound: float) -> Tensor:
    """Scale the gradients to a norm of at most ``bound`` (0: no bound), and return the norm before that."""
    parameters = [parameter for parameter in policy.parameters() if parameter.grad is not None]
    norm = get_total_norm([cast(Tensor, parameter.grad) for parameter in parameters])
    if bound > 0:
        # An infinite norm would turn every gradient into NaN and hide the culprit.
        clip_grads_with_norm_(parameters, bound, torch.where(torch.isfinite(norm), norm, 0.0))
    return norm


def _parameter_groups(policy: DiffusionPolicy, settings: OptimizerConfig) -> list[dict[str, Any]]:
    """The trained parameters: one group, or a second one for the encoders with a separate learning rate."""
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    multiplier = settings.vision_encoder_lr_multiplier
    encoders = {id(parameter) for parameter in policy.encoder_parameters() if parameter.requires_grad}
    if not encoders or multiplier == 1.0:
        return [{"params": trained}]
    # The U-Net's group first: train/lr is its learning rate.
    return [
        {"params": [parameter for parameter in trained if id(parameter) not in encoders]},
        {
            "params": [parameter for parameter in trained if id(parameter) in encoders],
            "lr": settings.lr * multiplier,
        },
    ]
