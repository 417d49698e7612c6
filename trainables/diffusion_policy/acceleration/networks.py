"""The U-Net of one denoising step, computed by PyTorch, by compiled code or by ONNX Runtime.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension, ``F`` numbers of all
modulations of the U-Net.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from trainables.diffusion_policy.acceleration.modulations import film_sizes
from trainables.diffusion_policy.network.policy import DiffusionPolicy

__all__ = [
    "BACKENDS",
    "PRECISIONS",
    "Backend",
    "Precision",
    "StepNetwork",
    "UnavailableError",
    "make_network",
]

Backend = Literal["plain", "steps", "compile", "onnx", "graph"]
BACKENDS: tuple[Backend, ...] = ("plain", "steps", "compile", "onnx", "graph")
"""The policy's own loop; the loop over constants; that with the U-Net compiled; with ONNX Runtime; as one
CUDA graph with the image encoders."""
Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

StepNetwork = Callable[[Tensor, Tensor], Tensor]
"""Predicts (B, T, A) from noisy actions (B, T, A) and modulations (B, F), all float32."""


class UnavailableError(Exception):
    """A backend cannot be used here; says why."""


def make_network(policy: DiffusionPolicy, backend: Backend, precision: Precision) -> StepNetwork:
    """Make the network of one denoising step.

    Args:
        policy: In evaluation mode; its weights must not change afterwards.
        backend: Not ``plain``.
        precision: Of the U-Net's weights and activations.

    Raises:
        UnavailableError: If the backend cannot compute it here.
    """
    if backend == "onnx":
        # ONNX is an extra, and its runtime takes time to load.
        from trainables.diffusion_policy.acceleration.onnx_network import onnx_network

        return onnx_network(policy, precision)
    unet = policy.diffusion.unet
    if precision != "fp32":
        unet = copy.deepcopy(unet).to(DTYPES[precision])
    sizes = film_sizes(unet.blocks())
    dtype = DTYPES[precision]

    def predict(noisy_BTA: Tensor, films_BF: Tensor) -> Tensor:
        films = torch.split(films_BF.to(dtype), sizes, dim=-1)
        return unet.modulated(noisy_BTA.to(dtype), films).float()

    return _compiled(policy, predict) if backend == "compile" else predict


def _compiled(policy: DiffusionPolicy, predict: StepNetwork) -> StepNetwork:
    compiled: StepNetwork = torch.compile(predict, fullgraph=True, dynamic=False)
    sizes = sum(film_sizes(policy.diffusion.unet.blocks()))
    noisy = torch.zeros(1, policy.horizon, policy.action_dim, device=policy.device)
    try:
        with torch.no_grad():
            compiled(noisy, torch.zeros(1, sizes, device=policy.device))
    except Exception as error:  # whatever the compiler raises: no C++ compiler, an unknown GPU, ...
        reason = " ".join(str(error).split())[:200]
        raise UnavailableError(f"torch.compile failed: {type(error).__name__}: {reason}") from error
    return compiled
