"""Why a trial failed: one stable word, a sentence, the end of the traceback, and the path of the whole log.

A trial's folder has it as ``error.json`` for programs and as ``error.txt`` for the user. docs/reliability.md
lists the words, and the reaction to each.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import TrialError
from sweeper.layout import ERROR, ERROR_TEXT, write_synced, write_whole
from sweeper.masking import masked
from sweeper.text import last_line, shortened
from trainables.interface import TrainableError

__all__ = [
    "LIGHTENED",
    "RETRIED",
    "Failure",
    "clear_failure",
    "failure_of",
    "failure_of_actor",
    "failure_of_group",
    "read_failure",
    "tail",
    "write_failure",
]

TRACEBACK_LINES = 40

LONGEST_LINE = 200

RETRIED = ("lost", "timed_out", "hung", "preempted")
"""Reasons that are not the trial's fault: it continues from its last checkpoint."""

LIGHTENED = ("out_of_memory", "out_of_host_memory")
"""Reasons for which a trial is retried with a configuration that takes less memory."""

_UNDERLYING = ("out_of_disk", "out_of_host_memory", "out_of_memory")

_HOST_MEMORY = re.compile(
    r"memory pressure|memory monitor|DefaultCPUAllocator|can't allocate memory|Cannot allocate memory"
    r"|running low on memory",
    re.IGNORECASE,
)

_OVER = re.compile(r"No space left on device|Disk quota exceeded|OutOfDiskError", re.IGNORECASE)

_DEVICE_MEMORY = re.compile(r"CUDA out of memory|CUDA error: out of memory|CUDNN_STATUS_ALLOC_FAILED")

_SHARED_MEMORY = re.compile(
    r"bus error|SIGBUS|unable to (?:open|mmap|write to) (?:shared memory|file </torch_)"
)


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        reason: One stable word of those in docs/reliability.md, or one of the trainable's own.
        message: What went wrong, for a person.
        traceback: The end of the traceback; empty if there is none.
        log: Path of the worker's log.
    """

    reason: str
    message: str
    traceback: str = ""
    log: str = ""


def read_failure(folder: Path) -> Failure | None:
    """Why the trial in ``folder`` failed; None if it is not recorded."""
    try:
        return Failure(**json.loads((folder / ERROR).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_failure(folder: Path, failure: Failure) -> None:
    """Record why the trial failed, unless it is recorded already: the first fault causes the others.

    A full disk must not hide the fault itself: then nothing is written, and no error is raised.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f"{ERROR}.{os.getpid()}.new"
        try:
            write_synced(beside, masked(json.dumps(vars(failure), indent=1)))
            _link(beside, folder / ERROR)
        except FileExistsError:
            return
        finally:
            beside.unlink(missing_ok=True)
        log = f"The worker's log: {failure.log}" if failure.log else ""
        parts = [f"{failure.reason}: {failure.message}", failure.traceback, log]
        write_whole(folder / ERROR_TEXT, masked("\n\n".join(part for part in parts if part)) + "\n")


def _link(beside: Path, path: Path) -> None:
    """Give a file a second name, unless there is one of that name.

    Raises:
        FileExistsError: If there is.
    """
    try:
        os.link(beside, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if path.exists():
            raise FileExistsError(path) from None
        beside.replace(path)


def clear_failure(folder: Path) -> None:
    """Take away what an earlier attempt wrote: this one may not fail."""
    for name in (ERROR, ERROR_TEXT):
        (folder / name).unlink(missing_ok=True)


def failure_of(error: BaseException, log: Path) -> Failure:
    """Sort what a trainable raised by its reason."""
    message = f"{type(error).__name__}: {str(error).strip()}".rstrip(": ")
    reasons = [found for cause in _causes(error) if (found := _reason_of(cause)) is not None]
    # A dataset that cannot be written for want of room is not a bad dataset.
    reason = next((found for found in reasons if found in _UNDERLYING), reasons[0] if reasons else "error")
    if isinstance(error, (TrainableError, TrialError)):
        message = str(error).strip() or message
    if reason == "out_of_disk":
        message = f"{_place(error)}{message}"
    return Failure(reason, message, tail("".join(traceback.format_exception(error))), str(log))


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it was raised from, as often as a chain of errors is long."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__)


def _reason_of(error: BaseException) -> str | None:
    """The reason of one error of a chain; None if it has none."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "out_of_disk"
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return "out_of_host_memory"
    if isinstance(error, (TrainableError, TrialError)):
        return error.reason if error.reason != "error" else None
    if isinstance(error, MemoryError):
        return "out_of_host_memory"
    text = str(error)
    if type(error).__name__ == "OutOfMemoryError" or _DEVICE_MEMORY.search(text):
        return "out_of_memory"
    if isinstance(error, RuntimeError) and _HOST_MEMORY.search(text):
        return "out_of_host_memory"
    if _OVER.search(text) or _SHARED_MEMORY.search(text):
        # Libraries in Rust and C++ (safetensors, torch) replace the disk's error with their own text.
        return "out_of_disk"
    if type(error).__name__ in ("CollectiveTimeoutError", "BroadcastCollectiveTimeoutError"):
        return "timed_out"
    return None


def _place(error: BaseException) -> str:
    """The file that could not be written, if the error names it."""
    names = [cause.filename for cause in _causes(error) if isinstance(cause, OSError) and cause.filename]
    return f"{names[0]}: " if names and str(names[0]) not in str(error) else ""


def failure_of_group(error: BaseException, written: Failure | None, log: Path) -> Failure:
    """Find out why a worker group failed.

    If a rank is gone, the others fail in their collective calls, and what they recorded is a consequence, not
    the reason; unless it has its own reason, which then may have killed the rank.

    Args:
        error: The error of the group's controller.
        written: The failure that a worker recorded, or None.
        log: The log of the first worker.
    """
    if written is not None and written.reason not in ("error", "timed_out"):
        return written
    workers: Mapping[int, Any] = getattr(error, "worker_failures", None) or {}
    for rank, failure in sorted(workers.items()):
        cause = getattr(failure, "health_check_failure", None) or failure
        found = failure_of_actor(cause, f"worker {rank}", log) or _full_disk(cause, log)
        if found is not None:
            return found
    if written is not None:
        return written
    found = _full_disk(error, log)
    if found is not None:
        return found
    text = str(error)
    if "timed out" in text.lower() or "Timeout" in type(getattr(error, "controller_failure", error)).__name__:
        return Failure(
            "timed_out",
            f"its workers could not be started: {last_line(text, 'no message')}",
            tail(text),
            str(log),
        )
    return Failure("lost", f"its workers ended: {last_line(text, 'no message')}", tail(text), str(log))


def _full_disk(error: BaseException, log: Path) -> Failure | None:
    """A failure by a full disk, which a worker cannot write into its trial's folder; None for any other."""
    found = failure_of(error, log)
    return found if found.reason == "out_of_disk" else None


def failure_of_actor(error: BaseException | None, who: str, log: Path) -> Failure | None:
    """Find out why a process of Ray is gone; None if the error is about something else."""
    text = str(error or "")
    kind = type(error).__name__
    end = tail(text)
    if _HOST_MEMORY.search(text) or kind == "OutOfMemoryError":
        return Failure(
            "out_of_host_memory", f"{who} was killed: its machine ran out of memory", end, str(log)
        )
    if getattr(error, "preempted", False):
        return Failure("preempted", f"the machine of {who} was taken back by its provider", end, str(log))
    if "HealthCheckTimeout" in kind or "HangError" in kind:
        return Failure("timed_out", f"{who} did not answer: {last_line(text, 'no message')}", end, str(log))
    if kind in (
        "ActorDiedError",
        "ActorUnavailableError",
        "RayActorError",
        "NodeDiedError",
        "WorkerCrashedError",
    ):
        if "SIGBUS" in text or "signal 7" in text:
            return Failure("out_of_disk", f"{who} was killed by SIGBUS: /dev/shm is full", end, str(log))
        return Failure("lost", f"{who} is gone: {_why_gone(text)}", end, str(log))
    return None


def _why_gone(text: str) -> str:
    """Why a process ended, in the words of Ray if they contain more than that it is gone."""
    found = re.search(r"exit detail: (.*)", text)
    if found is not None and "connection error code" in found.group(1):
        # Ray then lists possible causes, but has no other information.
        return "its process was killed, or crashed, without a message"
    lines = (
        [found.group(1)]
        if found is not None
        else [line.strip() for line in text.splitlines() if line.strip()]
    )
    causes = [line for line in lines if re.search(r"node|killed|exit", line)]
    line = (causes or lines or ["its process ended without a message"])[-1].rstrip(".")
    return shortened(line, LONGEST_LINE)


def tail(text: str) -> str:
    """The last lines of a traceback or a log."""
    return "\n".join(text.rstrip().splitlines()[-TRACEBACK_LINES:])
