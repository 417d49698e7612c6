"""Whether a machine has a processor and memory to spare for an evaluation beside training."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil
import torch

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.interface import TrainContext

__all__ = ["CpuMeter", "why_inline"]

IDLE_CPUS = 0.8
"""Idle CPUs that an evaluation needs so that training keeps its own; an estimate."""
SHORT_S = 5.0
"""An evaluation that takes less is not worth a process, which loads torch first and stays in memory."""
SHORTEST_S = 1.0
"""Seconds that the CPUs are measured for, at least."""
MEMORY_B = 2_000_000_000
"""Free memory of the machine that is asked for: the process takes about half of it."""


def why_inline(
    config: DiffusionConfig,
    context: TrainContext,
    inline_s: float | None,
    meter: CpuMeter,
    *,
    is_beside: bool,
) -> str:
    """Say why the next evaluation is not to run beside training; empty if it is.

    Args:
        config: The run's configuration.
        context: Device and number of processes of the run.
        inline_s: Seconds that an evaluation took that training waited for; None if there was none yet.
        meter: Measures the CPUs while training computes and no evaluation runs.
        is_beside: Whether the last one ran beside training.
    """
    wanted = config.train.evaluation
    if wanted == "inline":
        return "train.evaluation is inline"
    if context.world_size > 1:
        return f"the {context.world_size} workers of the trial share the episodes"
    if wanted == "beside":
        return ""
    if config.rollout.env is not None and config.rollout.latency_ms == "measured":
        return "rollout.latency_ms is measured, so rollouts depend on what else the machine does"
    if inline_s is None and not is_beside:
        return "the first one is timed"
    if inline_s is not None and inline_s < SHORT_S:
        return f"one takes {inline_s:.1f} s, less than {SHORT_S:g} s"
    idle = meter.idle()
    if is_beside:
        # It holds its memory already, and if the evaluations follow each other the meter sees nothing.
        return "" if idle is None else _busy(idle)
    return _busy(idle or 0.0) or _full(context)


def _busy(idle: float) -> str:
    if idle >= IDLE_CPUS:
        return ""
    return f"{idle:.1f} CPUs were idle during training, less than {IDLE_CPUS:g}"


def _full(context: TrainContext) -> str:
    free = psutil.virtual_memory().available
    if free < MEMORY_B:
        return f"{free / 1e9:.1f} GB of memory are free, less than {MEMORY_B / 1e9:g} GB"
    device = torch.device(context.device)
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        needed = torch.cuda.max_memory_reserved(device)
        if free < needed:
            taken = f"training has taken ({needed / 1e9:.1f} GB)"
            return f"{free / 1e9:.1f} GB of the GPU are free, less than {taken}"
    return ""


class CpuMeter:
    """Measures how many of the CPUs that this process may use were idle since it was restarted."""

    def __init__(self, quota: Path = Path("/sys/fs/cgroup")) -> None:
        self._quota = quota
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self._since = self._counters()

    def idle(self) -> float | None:
        """Idle CPUs on average; None if the time was too short to tell."""
        then, now = self._since, self._counters()
        elapsed_s = now[0] - then[0]
        if elapsed_s < SHORTEST_S:
            return None
        idle = (now[1] - then[1]) / elapsed_s
        limit = self._limit()
        if limit is not None:
            idle = min(idle, limit - (now[2] - then[2]) / elapsed_s)
        return max(0.0, idle)

    def _counters(self) -> tuple[float, float, float]:
        """Clock, idle CPU-seconds, and CPU-seconds used by the container."""
        times = psutil.cpu_times(percpu=True)
        usable = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(times))
        idle = sum(times[cpu].idle for cpu in usable if cpu < len(times))
        return time.monotonic(), idle, self._used_s()

    def _limit(self) -> float | None:
        """CPUs that the container may use, if it is limited (cgroup v2)."""
        try:
            quota, period = (self._quota / "cpu.max").read_text().split()
            return None if quota == "max" else int(quota) / int(period)
        except (OSError, ValueError):
            return None

    def _used_s(self) -> float:
        try:
            lines = (self._quota / "cpu.stat").read_text().split()
            return int(lines[lines.index("usage_usec") + 1]) / 1e6
        except (OSError, ValueError, IndexError):
            return 0.0
