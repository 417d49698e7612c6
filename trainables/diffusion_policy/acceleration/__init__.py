"""Faster inference with the same actions: `accelerate` makes a policy that predicts like the plain loop.

- ``accelerated``: the policy, and the choice of what computes it.
- ``backends``: the names of what can compute it.
- ``modulations``: what does not change during a denoising, computed before it.
- ``networks``: the U-Net of one step: PyTorch or compiled code.
- ``onnx_network``, ``onnx_unet``: the same in ONNX Runtime, and its graph.
- ``cuda_graph``: a chunk in one launch.
- ``warm_start``: the last chunk as the start of the next.
"""

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
