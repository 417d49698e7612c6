"""This machine: CPUs, GPUs, free disk, and the cache folder that its trials share."""

from __future__ import annotations

import contextlib
import math
import os
import re
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

from sweeper.errors import UserError
from sweeper.gpus import smallest_gpu_gb, visible_gpus
from sweeper.text import is_there

__all__ = [
    "Machine",
    "bf16_among_flags",
    "cache_folder",
    "files_in_use",
    "find_machine",
    "usable_cache",
]


@dataclass(frozen=True)
class Machine:
    """What a machine has for trials.

    Attributes:
        cpus: CPUs that this process may use.
        gpus: GPUs that this process may use.
        gpu_names: What they are, e.g. ``NVIDIA H100 80GB HBM3``.
        disk_gb: Free disk in the folder of the sweep, in GB.
        gpu_memory_gb: Memory of the smallest of them; None if it is not known.
        fast_bf16: Whether the CPU has instructions for bfloat16; None if it is not known.
    """

    cpus: int
    gpus: int
    gpu_names: tuple[str, ...] = ()
    disk_gb: float = math.inf
    gpu_memory_gb: float | None = None
    fast_bf16: bool | None = None


BF16_FLAGS = frozenset({"avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"})
"""Processor flags of instructions for bfloat16, as Linux names them on x86 (the first three) and ARM."""


def find_machine(folder: Path = Path()) -> Machine:
    """Look at this machine: its CPUs, GPUs, and the disk that holds ``folder``. Loads no torch."""
    names = tuple(gpu.name for gpu in visible_gpus())
    free = shutil.disk_usage(_existing(folder)).free / 1e9
    return Machine(_cpus(), len(names), names, free, smallest_gpu_gb(), _has_bf16_instructions())


def _has_bf16_instructions() -> bool | None:
    """Whether Linux lists them for the CPU; None on other systems."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return bf16_among_flags(text)


def bf16_among_flags(cpuinfo: str) -> bool | None:
    """Whether a text like ``/proc/cpuinfo`` lists instructions for bfloat16; None if it lists no flags."""
    flags = re.search(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    return None if flags is None else not BF16_FLAGS.isdisjoint(flags[1].split())


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that exists."""
    path = folder.absolute()
    return next(parent for parent in (path, *path.parents) if is_there(parent))


def _cpus() -> int:
    """CPUs of the affinity mask, or of the container's quota if that is smaller."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cpus = min(cpus, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, so there is no quota to respect
    return cpus


def cache_folder() -> Path:
    """The folder for decoded frames and built-in datasets on a machine: SWEEPER_CACHE, or below ~/.cache."""
    named = os.environ.get("SWEEPER_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "diffusion-policy-sweeper"


def files_in_use(folder: Path) -> set[Path]:
    """The files below a folder that processes of this user have open or mapped into memory."""
    inside = str(folder.resolve()) + os.sep
    found: set[Path] = set()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it ended, or belongs to another user
            paths = [file.path for file in (*process.open_files(), *process.memory_maps())]
            found |= {Path(path) for path in paths if path.startswith(inside)}
    return found


def usable_cache() -> Path:
    """The cache folder, made and found writable: every trial needs it.

    Raises:
        UserError: If nothing can be written there.
    """
    named = os.environ.get("SWEEPER_CACHE")
    where = "The cache" if not named else "SWEEPER_CACHE"
    remedy = "Set SWEEPER_CACHE to a folder on a disk with room."
    try:
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        raise UserError(f"{where}: {cache} cannot be written: {error.strerror}. {remedy}") from error
    except RuntimeError as error:  # `~name` of an account that does not exist here
        raise UserError(f"{where}: there is no home folder for {named or '~'!r}. {remedy}") from error
