"""Whether the trials of a sweep can fit into this machine's memory, before any of them is started."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from sweeper.errors import ResourceError
from sweeper.machines.machine import ask_gpus
from sweeper.spec.sweep import SettledResources
from sweeper.text import describe_size
from trainables.interface import EstimatesMemory, Trainable

__all__ = ["check_memory"]

PROCESS_GB = 0.6
"""What a Python process with torch and Ray holds before it trains anything."""


def check_memory(
    trainable: Trainable, config: Mapping[str, Any], resources: SettledResources, console: Console
) -> None:
    """Refuse a sweep of which not one trial fits into memory; warn where not all that run at once do.

    Nothing is said for a trainable that knows nothing of its memory, nor where a GPU does not say its size.

    Args:
        trainable: What is trained.
        config: A configuration of the space.
        resources: What a trial gets on this machine.
        console: Where a warning goes.

    Raises:
        ResourceError: Where there is no room for a single trial.
    """
    if not isinstance(trainable, EstimatesMemory):
        return
    held_gb = trainable.memory_gb(config)
    if resources.gpu_per_worker:
        there_gb, where = _gpu_gb(), "GPU memory"
        on_each = math.floor(1 / resources.gpu_per_worker + 1e-9)
        one_gb, all_gb = held_gb, min(on_each, resources.at_once) * held_gb
    else:
        there_gb, where = _host_gb(), "memory"
        one_gb = resources.workers * (held_gb + PROCESS_GB)
        all_gb = resources.at_once * one_gb
    if there_gb is None:
        return
    free = f"of {where}, and {describe_size(there_gb)} are there"
    if one_gb > there_gb:
        raise ResourceError(
            f"resources: a trial needs at least {describe_size(one_gb)} {free}. "
            "Take a smaller policy, or a larger machine."
        )
    if all_gb > there_gb:
        console.print(
            f"! Trials that share it need at least {describe_size(all_gb)} {free}. "
            "Lower resources.max_concurrent.",
            style="yellow",
        )


def _host_gb() -> float | None:
    """Memory that this machine, or the container that this runs in, has for new processes."""
    free = float(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, max(0, limit - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or one without a limit
    return free / 1e9


def _gpu_gb() -> float | None:
    """Memory of the smallest GPU here, as nvidia-smi tells it; None where it tells nothing."""
    try:
        return min(map(float, ask_gpus("memory.total"))) * 1024**2 / 1e9
    except ValueError:  # there is none, or it says `[N/A]`
        return None
