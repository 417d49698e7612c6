"""The U-Net of one denoising step, computed by PyTorch, by compiled code or by ONNX Runtime.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension, ``F`` numbers of all
modulations of the U-Net.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from trainables.diffusion_policy.acceleration.backends import (
    DTYPES,
    Backend,
    Precision,
    StepNetwork,
    UnavailableError,
)
from trainables.diffusion_policy.acceleration.modulations import film_sizes
from trainables.diffusion_policy.network.policy import DiffusionPolicy

__all__ = ["make_network"]


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
