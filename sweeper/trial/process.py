"""A worker process between two trials: it becomes as it was before its first one, or it is not used again.

A new process imports Python, torch and Ray, which takes several seconds of a processor. A process that takes
the next trial saves them, and must not carry anything over. What a library or a trainable can change in a
process is put back here; what cannot be put back (a thread or a child that still runs, memory of a GPU that
is still held) is a reason to end the process.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psutil

from sweeper.trial.system_metrics import system_metrics

__all__ = ["begin", "left_trial", "loading", "vacate"]

SETTLE_S = 3.0
"""How long threads and children of a trial that has ended may take to end, too."""
LOOK_S = 0.02
HELD_BYTES = 256 * 2**20
"""More than this of a GPU's memory is not what libraries keep for themselves."""
HARMLESS = ("tqdm_monitor",)
"""Names of threads that libraries start once for the life of a process."""
SWITCHES = (
    "backends.cudnn.enabled",
    "backends.cudnn.benchmark",
    "backends.cudnn.deterministic",
    "backends.cudnn.allow_tf32",
    "backends.cuda.matmul.allow_tf32",
    "backends.cuda.matmul.allow_bf16_reduced_precision_reduction",
    "backends.cuda.matmul.allow_fp16_reduced_precision_reduction",
    "backends.mkldnn.enabled",
)
"""Attributes of torch that a trainable may set."""
PAIRS = (
    ("get_default_dtype", "set_default_dtype"),
    ("get_float32_matmul_precision", "set_float32_matmul_precision"),
    ("get_deterministic_debug_mode", "set_deterministic_debug_mode"),
    ("is_anomaly_enabled", "autograd.set_detect_anomaly"),
)
"""Functions of torch that read a setting, and those that write it."""


@dataclass(frozen=True)
class _Condition:
    """What a process was like before its first trial."""

    environment: dict[str, str]
    folder: str
    path: list[str]
    threads: set[int | None]
    children: set[int]
    filters: list[Any]
    torch: dict[str, Any]
    torch_threads: int


_before: list[_Condition] = []
_leaving = threading.Event()


def begin() -> None:
    """Call this before a trial does anything: the first call remembers what the process is like."""
    _leaving.clear()
    if not _before:
        _before.append(_condition())
    system_metrics()  # the first report tells of the time since now


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Do not collect garbage while large modules load: torch's alone are looked through dozens of times.

    Afterwards everything that exists is left out of collections, which are short then. Only the first call
    in a process has this effect: later there may be remains of an earlier trial, which are to be collected.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            gc.freeze()
        if enabled:
            gc.enable()


def left_trial() -> bool:
    """Whether the trial that this process trains has been stopped, so that it is to leave it at once."""
    return _leaving.is_set()


def vacate(training_ended: Callable[[], bool], patience_s: float) -> str:
    """End what is left of the trial, and put the process back; why it cannot be used again, or nothing.

    Runs in the process beside the thread that trains.

    Args:
        training_ended: Whether that thread has ended.
        patience_s: How long the training may take to leave if it still runs.
    """
    if not _before:
        return "no trial began in it"
    before = _before[0]
    _leaving.set()
    if not _waits_for(training_ended, patience_s):
        return f"its trial did not leave within {patience_s:g} s"
    _close_process_group()
    os.environ.clear()
    os.environ.update(before.environment)
    os.chdir(before.folder)
    sys.path[:] = before.path
    warnings.filters[:] = before.filters  # type: ignore[index]
    # As in a new process: from the system. A trial that is to be repeated seeds what it draws from.
    random.seed()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()
    gc.collect()
    return _restore_torch(before) or _leftovers(before)


def _condition() -> _Condition:
    torch = sys.modules.get("torch")
    return _Condition(
        environment=dict(os.environ),
        folder=os.getcwd(),  # noqa: PTH109
        path=[*sys.path],
        # The thread that asks is that of the first trial.
        threads={thread.ident for thread in threading.enumerate()} - {threading.get_ident()},
        children=_children(),
        filters=[*warnings.filters],
        torch={} if torch is None else {name: read() for name, read, _ in _settings(torch)},
        torch_threads=0 if torch is None else torch.get_num_threads(),
    )


def _settings(torch: Any) -> list[tuple[str, Callable[[], Any], Callable[[Any], Any]]]:
    """Every setting of torch that is put back: its name, and what reads and writes it."""
    found = [(read, _member(torch, read), _member(torch, write)) for read, write in PAIRS]
    for name in SWITCHES:
        place, _, attribute = name.rpartition(".")
        owner = _member(torch, place)
        read = functools.partial(getattr, owner, attribute)
        found.append((name, read, functools.partial(setattr, owner, attribute)))
    return found


def _member(owner: Any, path: str) -> Any:
    for name in path.split("."):
        owner = getattr(owner, name)
    return owner


def _restore_torch(before: _Condition) -> str:
    """Put torch back; why that is not possible, or nothing."""
    torch = sys.modules.get("torch")
    if torch is None:
        return ""
    if not before.torch:
        return "torch was loaded by a trial"
    for name, read, write in _settings(torch):
        try:
            if read() != before.torch[name]:
                write(before.torch[name])
        except Exception as error:  # torch refuses to mix its old and new settings of precision
            return f"torch's setting {name} cannot be put back: {error}"
    # Each thread reads its own number, so that it cannot be compared: it is written for all that follow.
    torch.set_num_threads(before.torch_threads)
    torch.set_default_device(None)
    torch.seed()
    if "torch._dynamo" in sys.modules:
        sys.modules["torch._dynamo"].reset()
    return _empty_gpu(torch)


def _empty_gpu(torch: Any) -> str:
    if not torch.cuda.is_available() or not torch.cuda.is_initialized():
        return ""
    torch.cuda.synchronize()
    with contextlib.suppress(AttributeError):
        torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    return "" if held <= HELD_BYTES else f"{held / 1e9:.1f} GB of the GPU's memory are still held"


def _leftovers(before: _Condition) -> str:
    """What still runs of the trial, as a reason; empty if nothing does."""
    left: list[str] = []

    def settled() -> bool:
        threads = [
            thread.name
            for thread in threading.enumerate()
            if thread.ident not in before.threads | {threading.get_ident()} and thread.name not in HARMLESS
        ]
        children = [f"process {child}" for child in _children() - before.children]
        left[:] = [*threads, *children]
        return not left

    if not _waits_for(settled, SETTLE_S):
        return f"still running: {', '.join(left)}"
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
    return ""


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def _waits_for(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > until:
            return False
        time.sleep(LOOK_S)
    return True


def _close_process_group() -> None:
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()
