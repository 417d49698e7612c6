"""What of the network does not change during a denoising, computed before it.

The U-Net sees the timestep and the observations through one linear layer of each residual block. A linear
layer of two parts is the sum of two linear layers: the part of the timesteps is computed once for a sampler,
that of the observations once for a chunk, and a step only adds them.

Shapes: ``B`` samples, ``S`` denoising steps, ``E`` size of the timestep's embedding, ``G`` size of the
observation condition, ``F`` numbers of all modulations of the U-Net.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.network.sampler_steps import SamplerStep, read_steps
from trainables.diffusion_policy.network.unet import FilmResidualBlock

__all__ = ["Modulations", "StepTable", "film_sizes"]


@dataclass(frozen=True)
class StepTable:
    """A denoising as constants.

    Attributes:
        steps: Its steps.
        step_films: The timestep's part of the modulations of each step, (S, F).
    """

    steps: tuple[SamplerStep, ...]
    step_films: Tensor


class Modulations:
    """The linear layers of all blocks of a policy's U-Net as one, in float32.

    Args:
        policy: The policy, whose weights must not change afterwards.
    """

    @torch.no_grad()
    def __init__(self, policy: DiffusionPolicy) -> None:
        self._process = policy.process
        self._embed = policy.diffusion.unet.diffusion_step_encoder
        layers = [_linear(block) for block in policy.diffusion.unet.blocks()]
        weight_FK = torch.cat([layer.weight for layer in layers]).detach().float()
        self._bias_F = torch.cat([layer.bias for layer in layers]).detach().float()
        self._embed_dim = weight_FK.shape[1] - policy.diffusion.unet.global_cond_dim
        self._step_weight_EF = weight_FK[:, : self._embed_dim].T.contiguous()
        self._condition_weight_GF = weight_FK[:, self._embed_dim :].T.contiguous()

    @torch.no_grad()
    def table(self, sampler: str, num_inference_steps: int, first: int = 0) -> StepTable:
        """Compute the steps of a sampler; arguments and errors as for `read_steps`."""
        steps = read_steps(self._process, sampler, num_inference_steps, first)
        timesteps_S = torch.tensor([step.timestep for step in steps], device=self._bias_F.device)
        embedding_SE = self._embed(timesteps_S)
        return StepTable(steps, F.mish(embedding_SE) @ self._step_weight_EF)

    def of(self, condition_BG: Tensor) -> Tensor:
        """The observations' part of the modulations, (B, F)."""
        return torch.addmm(self._bias_F, F.mish(condition_BG.float()), self._condition_weight_GF)


def film_sizes(blocks: list[FilmResidualBlock]) -> list[int]:
    """How many of the F numbers belong to each block."""
    return [_linear(block).out_features for block in blocks]


def _linear(block: FilmResidualBlock) -> nn.Linear:
    layer = block.cond_encoder[1]
    assert isinstance(layer, nn.Linear)
    return layer
