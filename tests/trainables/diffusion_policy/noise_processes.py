"""Properties of a noise process, measured on the process itself."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainables.diffusion_policy.network.noise import NoiseProcess


def noise_process(**changed: Any) -> NoiseProcess:
    """A noise process with LeRobot's defaults, changed as named."""
    values: dict[str, Any] = {
        "noise_scheduler_type": "DDPM",
        "num_train_timesteps": 100,
        "beta_schedule": "squaredcos_cap_v2",
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "prediction_type": "epsilon",
        "clip_sample": True,
        "clip_sample_range": 1.0,
    }
    return NoiseProcess(**values | changed)


def alphas_cumprod(process: NoiseProcess) -> Tensor:
    """Share of the clean action's variance that is left at each timestep."""
    timesteps = torch.arange(process.num_train_timesteps)
    clean = torch.ones(len(timesteps), 1, 1)
    return process.add_noise(clean, torch.zeros_like(clean), timesteps).flatten().square()


def asked_timesteps(process: NoiseProcess, sampler: str, num_inference_steps: int) -> list[float]:
    """The timesteps at which a sampler evaluates the network, in order."""
    asked: list[float] = []

    def predict(noisy: Tensor, timestep: float) -> Tensor:
        asked.append(timestep)
        return 0.5 * noisy

    process.denoise(predict, torch.zeros(1, 4, 1), sampler=sampler, num_inference_steps=num_inference_steps)
    return asked
