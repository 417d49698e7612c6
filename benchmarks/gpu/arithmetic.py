"""Arithmetic that is not an option of the trainable: TF32, channels-last weights, order of summation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook

from trainables.diffusion_policy.network.vision import RgbEncoder

__all__ = ["PRECISIONS", "another_arithmetic", "autocast", "channels_last", "tf32", "train_precision"]

PRECISIONS = ("fp32", "TF32", "bf16", "fp16")
"""fp32 has TF32 switched off everywhere; PyTorch's own default has it on in convolutions."""


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow TF32 in matrix products and convolutions, or in neither."""
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def train_precision(precision: str) -> str:
    """The value of ``train.precision``; TF32 is fp32 for the trainable."""
    return "fp32" if precision == "TF32" else precision


def autocast(precision: str, device: str) -> AbstractContextManager[object]:
    """The arithmetic of inference, for which the trainable has no option."""
    kind = torch.device(device).type
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)
    return nullcontext() if dtype is None else torch.autocast(kind, dtype=dtype)


@contextmanager
def channels_last(wanted: bool) -> Iterator[None]:
    """Give image encoders that are built meanwhile weights in channels-last order.

    The trainable has no option for it. The encoder is turned when it becomes part of a network, so that its
    average and the optimiser's state have the same order.
    """

    def turn(_parent: nn.Module, _name: str, child: nn.Module | None) -> None:
        if isinstance(child, RgbEncoder):
            child.to(memory_format=torch.channels_last)

    handle = register_module_module_registration_hook(turn) if wanted else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


@contextmanager
def another_arithmetic(device: str) -> Iterator[None]:
    """On a CPU: without oneDNN, whose kernels round otherwise, so that a comparison compares something."""
    before = torch.backends.mkldnn.enabled
    torch.backends.mkldnn.enabled = before and device != "cpu"
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled = before
