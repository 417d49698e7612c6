"""What a training minimises: the loss of a batch, exchangeable without another training loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.training.stream import CROPS, NOISE, TIMESTEPS

__all__ = ["DENOISING", "Denoising", "Objective"]


class Objective(Protocol):
    """What a training minimises.

    Attributes:
        settings: Its fields besides those of the configuration, by dotted name: recorded in every checkpoint,
            and compared when a run continues.
        recordable: Whether a step can be recorded as a CUDA graph: its loss reads no value on the host, and
            takes the crops of a batch (``CROPS``) instead of drawing them.
    """

    settings: Mapping[str, Any]
    recordable: bool

    def prepare(self, policy: DiffusionPolicy) -> None:
        """Change the policy's initial weights in place; not called when a run continues."""
        ...

    def loss_of(self, policy: DiffusionPolicy) -> nn.Module:
        """The loss as a module, whose forward pass DistributedDataParallel synchronises.

        Its forward pass takes the batch and the generator of a `Part` of the stream and gives a scalar. Its
        parameters are the policy's and no others.
        """
        ...


class Denoising:
    """The loss of a Diffusion Policy: predict what noise hides."""

    settings: Mapping[str, Any] = {}
    recordable = True

    def prepare(self, policy: DiffusionPolicy) -> None:
        """Leave the weights as they are."""

    def loss_of(self, policy: DiffusionPolicy) -> nn.Module:
        """The policy's own loss."""
        return _Loss(policy)


class _Loss(nn.Module):
    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> Tensor:
        return self.policy.loss(batch, batch[NOISE], batch[TIMESTEPS], generator, batch.get(CROPS))


DENOISING = Denoising()
