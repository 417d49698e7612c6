"""Flow matching: straight paths from noise to actions, and the solvers that follow them.

Conditional flow matching with a linear path (Lipman et al., "Flow Matching for Generative Modeling",
arXiv 2210.02747), as in rectified flow (Liu et al., "Flow Straight and Fast", arXiv 2209.03003). The level σ
is 1 at the noise and 0 at the action, as in diffusers and in the code of π0:

    noisy = (1 - σ) action + σ noise        velocity = noise - action

The network receives ``σ · num_train_timesteps``, a real number: the range of a diffusion's timesteps, for
which the frequencies of its embedding were chosen.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["clipped_velocity", "draw_levels", "flow_scheduler", "set_levels"]

BETA_EXPONENT = 1 / 1.5
"""Power of a uniform number that is distributed as Beta(1.5, 1)."""
LOWEST_BETA = 0.001
"""π0 draws its levels from here on."""


def draw_levels(
    count: int, sampling: str, generator: torch.Generator | None, device: torch.device | str = "cpu"
) -> Tensor:
    """Draw the levels (count,) of the noise of training samples.

    Args:
        count: How many.
        sampling: ``uniform``; ``logit_normal``, most around the middle (Esser et al., arXiv 2403.03206, with
            location 0 and scale 1); or ``beta``, more near the noise (π0, Black et al., arXiv 2410.24164).
        generator: Draws them; None: torch's global one.
        device: Device of the generator.
    """
    if sampling == "logit_normal":
        return torch.randn(count, generator=generator, device=device).sigmoid()
    drawn = torch.rand(count, generator=generator, device=device)
    if sampling == "beta":
        return LOWEST_BETA + (1 - LOWEST_BETA) * drawn**BETA_EXPONENT
    return 1 - drawn  # with 1, where a denoising begins, and without 0


def flow_scheduler(sampler: str, num_train_timesteps: int) -> Any:
    """The scheduler that diffusers has for a sampler, ``Euler`` or ``Heun``."""
    # One of the modules imports scipy, which takes a second.
    if sampler == "Heun":
        from diffusers.schedulers.scheduling_flow_match_heun_discrete import FlowMatchHeunDiscreteScheduler

        return FlowMatchHeunDiscreteScheduler(num_train_timesteps)
    from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(num_train_timesteps)


def set_levels(scheduler: Any, evaluations: int, spacing: str) -> None:
    """Set the levels of a scheduler from `flow_scheduler`, evenly spaced from 1 on.

    Args:
        scheduler: The scheduler.
        evaluations: The largest number of evaluations of the network. A step of Euler takes one; one of Heun
            takes two, except for the last one.
        spacing: ``trailing``: all steps have the same size (π0, Flux). ``linspace``: the last level before 0
            is that of timestep 1, which is diffusers' default; the last step is short.
    """
    steps = evaluations if scheduler.order == 1 else (evaluations + 1) // 2
    # diffusers spaces the levels from sigma_max to sigma_min, and appends 0.
    scheduler.sigma_min = 1 / steps if spacing == "trailing" else 1 / scheduler.config.num_train_timesteps
    scheduler.set_timesteps(steps)
    scheduler.set_begin_index(0)


def clipped_velocity(velocity_BTA: Tensor, noisy_BTA: Tensor, level: float, bound: float) -> Tensor:
    """The velocity towards the predicted action after that is clipped to ``±bound``."""
    action_BTA = (noisy_BTA - level * velocity_BTA).clamp(-bound, bound)
    return (noisy_BTA - action_BTA) / level
