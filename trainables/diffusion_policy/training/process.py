"""Settings of this process that a training changes: arithmetic, and memory that has been freed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from trainables.diffusion_policy.config.sections import TrainConfig

__all__ = ["arithmetic", "keep_freed_memory"]

# Names of the parameters in <malloc.h>.
M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_MMAP_THRESHOLD = 32 << 20
"""glibc refuses a larger one."""
KEPT = 512 << 20


def keep_freed_memory() -> bool:
    """Make malloc keep freed memory for the next allocation instead of returning it to the system.

    Every operation on a CPU allocates its result. By default glibc returns blocks of some 100 kB when they
    are freed and requests them again, page by page, for the next operation: 2000 page faults in one training
    step of a small policy, a tenth of its time. At most half a gigabyte of memory stays reserved.

    Returns:
        Whether it took effect; False if the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    accepted = mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD), mallopt(M_TRIM_THRESHOLD, KEPT)
    return all(accepted)


@contextmanager
def arithmetic(settings: TrainConfig, device: torch.device) -> Iterator[None]:
    """Compute as ``train.tf32``, ``train.cudnn_benchmark`` and ``train.flush_denormals`` say.

    The process may train other trials later, so everything is restored afterwards.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark
    if settings.tf32 is not None:
        matmul.allow_tf32 = cudnn.allow_tf32 = settings.tf32
    cudnn.benchmark = settings.cudnn_benchmark
    flushes = settings.flush_denormals and device.type == "cpu" and torch.set_flush_denormal(True)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.benchmark = before
        if flushes:
            torch.set_flush_denormal(False)
