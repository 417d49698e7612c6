"""The names of what can compute a chunk, and what a backend has in common with the others.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension, ``F`` numbers of all
modulations of the U-Net.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = ["BACKENDS", "DTYPES", "PRECISIONS", "Backend", "Precision", "StepNetwork", "UnavailableError"]

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
