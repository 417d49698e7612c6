"""Time and memory of a device that computes beside the program."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import torch

__all__ = ["Peak", "StepClock", "median_ms"]


class StepClock:
    """Marks the end of every step of a training; give it to ``TrainContext.stop_requested``.

    On a GPU a mark is an event in the device's queue, so nothing waits for it.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        self._events: list[torch.cuda.Event] = []
        self._times_s: list[float] = []

    def __call__(self) -> bool:
        """Mark the end of a step; never asks to stop."""
        if self._on_gpu:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._events.append(event)
        else:
            self._times_s.append(time.perf_counter())
        return False

    def steps_ms(self, warmup: int) -> list[float]:
        """How long each step took after the first ones."""
        if not self._on_gpu:
            marks = self._times_s[warmup - 1 :]
            return [(end - start) * 1e3 for start, end in pairwise(marks)]
        torch.cuda.synchronize()
        events = self._events[warmup - 1 :]
        return [start.elapsed_time(end) for start, end in pairwise(events)]


def median_ms(work: Callable[[], object], device: str, *, warmup: int, repeats: int) -> float:
    """Time a piece of work from a device at rest to a device at rest; the median."""

    def timed() -> float:
        start_s = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return (time.perf_counter() - start_s) * 1e3

    for _ in range(warmup):
        timed()
    return statistics.median(timed() for _ in range(repeats))


class Peak:
    """The most memory that tensors took since this was made.

    On a CPU it is the process's largest resident size, which Linux can begin to count again; elsewhere 0.
    """

    def __init__(self, device: str) -> None:
        self._on_gpu = device.startswith("cuda")
        if self._on_gpu:
            torch.cuda.reset_peak_memory_stats()
            return
        marks = Path("/proc/self/clear_refs")
        if marks.exists():
            marks.write_text("5")

    def gb(self) -> float:
        """The peak so far, in gigabytes."""
        if self._on_gpu:
            return torch.cuda.max_memory_allocated() / 1e9
        status = Path("/proc/self/status")
        lines = status.read_text().splitlines() if status.exists() else []
        sizes = [line.split()[1] for line in lines if line.startswith("VmHWM")]
        return int(sizes[0]) * 1024 / 1e9 if sizes else 0.0
