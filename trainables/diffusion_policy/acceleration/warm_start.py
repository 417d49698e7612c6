"""Warm starts: the next chunk begins from the last one instead of from noise.

Consecutive chunks overlap. Noised to the timestep of a later step, the rest of the last chunk takes the place
of the first denoising steps. This is the idea of Falcon (arXiv 2503.00339) with one fixed timestep instead of
a choice among buffered ones. The actions are close to those of the whole denoising, not equal: measure the
success before relying on it.

Shapes: ``B`` robots, ``T`` action steps of the horizon, ``A`` action dimension.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shift_chunk"]


def shift_chunk(horizon_BTA: Tensor, executed: int) -> Tensor:
    """The part of a horizon that is left after some of its actions, its last action repeated at the end."""
    steps = horizon_BTA.shape[1]
    kept = torch.arange(steps, device=horizon_BTA.device).add(executed).clamp(max=steps - 1)
    return horizon_BTA[:, kept]
