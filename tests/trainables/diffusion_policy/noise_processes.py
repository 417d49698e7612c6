"""Properties of a noise process, measured on the process itself."""

from __future__ import annotations

import torch
from torch import Tensor

from trainables.diffusion_policy.network.noise import NoiseProcess


def alphas_cumprod(process: NoiseProcess) -> Tensor:
    """Share of the clean action's variance that is left at each timestep."""
    timesteps = torch.arange(process.num_train_timesteps)
    clean = torch.ones(len(timesteps), 1, 1)
    return process.add_noise(clean, torch.zeros_like(clean), timesteps).flatten().square()


def asked_timesteps(process: NoiseProcess, sampler: str, num_inference_steps: int) -> list[int]:
    """The timesteps at which a sampler evaluates the network, in order."""
    asked = []

    def predict(noisy: Tensor, timestep: int) -> Tensor:
        asked.append(timestep)
        return 0.5 * noisy

    process.denoise(predict, torch.zeros(1, 4, 1), sampler=sampler, num_inference_steps=num_inference_steps)
    return asked
