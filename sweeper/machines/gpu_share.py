"""How many trials share each GPU of this machine if ``resources.gpu_per_worker`` is ``auto``.

A step of a small network takes as long as launching its kernels, and leaves most of a GPU idle. Trials share
one if their memory fits, and if the work of their steps fits into the time that one spends on launching. Both
are estimates of the trainable, from the sizes of network and batch.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from sweeper.machines.machine import Machine
from sweeper.spec.sweep import ResourceSpec, SweepSpec, legal_draws
from sweeper.text import counted, describe_size
from trainables.interface import EstimatesGpuNeed, GpuNeed, Trainable

__all__ = ["GpuShare", "gpu_share", "mps_is_running"]

MOST = 4
"""Most trials on a GPU: each has a process with CUDA's context, and they disturb each other."""
USABLE = 0.9
"""Share of a GPU's memory that trials may need together."""
CPUS = 2
"""CPUs of a trial that shares a GPU: one launches, the other gathers batches and evaluates."""
DRAWS = 100
"""Random configurations of a space, of which the one that needs most counts."""
LATENCIES = ("eval/chunk_latency_ms", "eval/action_rate_hz")
"""By convention the metrics of how long a prediction takes: another trial on the same GPU changes them."""
MPS = "nvidia-cuda-mps-control"
MPS_PIPES = "/tmp/nvidia-mps"


@dataclass(frozen=True)
class GpuShare:
    """How many trials share a GPU, and why.

    Attributes:
        trials: Trials on each GPU.
        why: The reason, for a person.
        mps: Whether NVIDIA's MPS runs here, with which their kernels run at the same time.
    """

    trials: int
    why: str
    mps: bool = False

    def of(self, resources: ResourceSpec) -> ResourceSpec:
        """The resources with the share of a GPU instead of ``auto``."""
        if self.trials == 1:
            return resources
        return dataclasses.replace(resources, gpu_per_worker=1 / self.trials)


def gpu_share(spec: SweepSpec, trainable: Trainable, machine: Machine) -> GpuShare:
    """Say how many trials of a sweep share a GPU of this machine; 1 unless it is settled by ``auto``."""
    if spec.resources.gpu_per_worker != "auto" or machine.gpus < 1:
        return GpuShare(1, "")
    memory_gb = machine.gpu_memory_gb
    reason = _needs_all(spec, trainable, memory_gb)
    needs = [] if reason else list(_needs(spec, trainable))
    reason = reason or next((need.alone for need in needs if need.alone), "")
    if reason or not needs or memory_gb is None:
        return GpuShare(1, f"one trial on each GPU: {reason or 'no drawn configuration is legal'}")
    needed_gb, busy = max(need.memory_gb for need in needs), max(need.busy for need in needs)
    takes = f"about {describe_size(needed_gb)} of its {describe_size(memory_gb)}"
    works = f"about {max(busy, 0.01):.0%} of the time"
    cpus = CPUS if spec.resources.cpu_per_worker == "auto" else spec.resources.cpu_per_worker
    at_once = _at_once(spec)
    limits = {
        f"a trial needs {takes}": USABLE * memory_gb / needed_gb,
        f"a trial keeps it busy for {works}": 1 / max(busy, 0.01),
        f"a trial needs {counted(cpus, 'CPU')} of {machine.cpus:g}": machine.cpus / cpus / machine.gpus,
        f"{counted(at_once, 'trial')} at once, on {counted(machine.gpus, 'GPU')}": math.ceil(
            at_once / machine.gpus
        ),
        f"at most {MOST} share one": MOST,
    }
    limit, most = min(limits.items(), key=lambda one: math.floor(one[1]))
    if most < 2:
        return GpuShare(1, f"one trial on each GPU: {limit}")
    trials = math.floor(most)
    why = f"{trials} trials share a GPU: each needs {takes} and keeps it busy for {works}; {limit}"
    return GpuShare(trials, why, mps_is_running())


def _needs_all(spec: SweepSpec, trainable: Trainable, memory_gb: float | None) -> str:
    """Why a trial needs a GPU alone, whatever its configuration; empty if it may share one."""
    if spec.resources.workers > 1:
        return "NCCL refuses two workers on one"
    if not isinstance(trainable, EstimatesGpuNeed):
        return f"{trainable.name} does not estimate what it needs"
    if memory_gb is None:
        return "its memory is not known"
    judged = [objective.name for objective in spec.objectives]
    judged += [] if spec.inference is None else [spec.inference.metric, *spec.inference.limits]
    timed = [name for name in judged if name in LATENCIES]
    return f"the sweep compares {timed[0]}" if timed else ""


def _needs(spec: SweepSpec, trainable: Trainable) -> Iterator[GpuNeed]:
    """What random legal configurations need."""
    assert isinstance(trainable, EstimatesGpuNeed)
    for config in legal_draws(spec, trainable, random.Random(0), DRAWS):
        yield trainable.gpu_need(config)


def _at_once(spec: SweepSpec) -> int:
    """The most trials that may run at once."""
    wanted = spec.resources.max_concurrent
    return spec.budget.trials if wanted == "auto" else min(wanted, spec.budget.trials)


def mps_is_running() -> bool:
    """Whether NVIDIA's MPS runs on this machine, or outside this container with its pipes in here."""
    pipes = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", MPS_PIPES))
    if (pipes / "control").exists():
        return True
    with contextlib.suppress(psutil.Error):
        return any(process.info["name"] == MPS for process in psutil.process_iter(["name"]))
    return False
