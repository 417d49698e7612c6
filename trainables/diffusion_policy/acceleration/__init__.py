"""Faster inference with the same actions: `accelerate` makes a policy that predicts like the plain loop."""

from __future__ import annotations

from trainables.diffusion_policy.acceleration.accelerated import AcceleratedPolicy, Acceleration, accelerate
from trainables.diffusion_policy.acceleration.backends import BACKENDS, PRECISIONS, Backend, Precision
from trainables.diffusion_policy.acceleration.warm_start import shift_chunk

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "AcceleratedPolicy",
    "Acceleration",
    "Backend",
    "Precision",
    "accelerate",
    "shift_chunk",
]
