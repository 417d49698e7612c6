"""Data-parallel training: one sum of the gradients over the ranks per optimiser step."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from trainables.interface import TrainContext

__all__ = ["distributed", "synchronised"]


def distributed(loss: nn.Module, context: TrainContext, passes: int) -> nn.Module:
    """Let the ranks of a worker group average their gradients; a single process needs nothing for it.

    Args:
        loss: The loss of a batch as a module.
        context: Rank, number of ranks and device of this process.
        passes: Backward passes per optimiser step.
    """
    if context.world_size == 1:
        return loss
    on_gpu = context.device.startswith("cuda")
    return DistributedDataParallel(
        loss,
        device_ids=[torch.device(context.device).index] if on_gpu else None,
        # Gradients are parts of the buffers that are sent: they are neither copied nor held twice.
        gradient_as_bucket_view=True,
        # Every step uses the same parameters. Its first step would send the gradients of every pass.
        static_graph=passes == 1,
    )


def synchronised(loss: nn.Module, *, last: bool) -> AbstractContextManager[None]:
    """A context for a forward and a backward pass: only the last of a step sends gradients."""
    if last or not isinstance(loss, DistributedDataParallel):
        return nullcontext()
    return loss.no_sync()
