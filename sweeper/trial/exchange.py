"""What a trial's worker and the driver leave for each other in the trial's folder.

The worker writes reports and progress, the driver writes stop requests. Every report is also sent through
Ray; the file is what remains if the driver does not receive it.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from sweeper.layout import write_whole

__all__ = [
    "ARTIFACTS",
    "ATTEMPT",
    "CHECKPOINT",
    "FINAL",
    "METRICS",
    "POLL_S",
    "PROGRESS",
    "REPORTS",
    "STEP",
    "STOP",
    "TIME",
    "TUNED",
    "ProgressFile",
    "ProgressReader",
    "append_report",
    "metrics_of",
    "numbers_as_sent",
    "own_slot_of",
    "phase_of",
    "progress_of",
    "read_reports",
    "request_stop",
    "slot_of",
]

STEP = "trial/step"
"""Key of a result: optimiser steps done."""
TIME = "wall_time_s"
"""Key of a result: when the worker reported, in seconds since 1970."""
ARTIFACTS = "artifacts"
"""Key of a result: paths of files by name."""
CHECKPOINT = "checkpoint"
"""Key of a result: path of the checkpoint written at this step."""
FINAL = "final"
"""Key of a result: whether the trainable says that this is its last report."""
TUNED = "tuned"
"""Key of the last result: the inference setting that was chosen, as the event of the journal has it, or
``problem``, why none was."""
METRICS = "metrics"
"""Key of a result: the metrics whose names have no slash, which might be names that Tune uses for its own."""
REPORTS = "reports.jsonl"
"""What the first worker reported, written before anybody else hears of it."""
ATTEMPT = "attempt.json"
"""Who trains at the moment: a worker of an attempt that is over must not write beside its successor."""
PROGRESS = "progress.json"
STOP = "stop.request"
POLL_S = 0.5
"""How often a worker looks whether it is to stop, and says how it gets on, at most."""


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """What the trial in ``folder`` reported, as Tune gets it; a line that a crash cut short is left out.

    A worker that began again from a checkpoint repeats what came after it.
    """
    reports = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / REPORTS).read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                if isinstance(report, dict) and STEP in report:
                    reports.append(report)
    return reports


def numbers_as_sent(metrics: Mapping[str, float]) -> dict[str, Any]:
    """The metrics of a report as part of a result; `metrics_of` reads them."""
    numbers = {name: float(value) for name, value in metrics.items()}
    plain = {name: value for name, value in numbers.items() if "/" not in name}
    sent: dict[str, Any] = {name: value for name, value in numbers.items() if name not in plain}
    return {**sent, METRICS: plain} if plain else sent


def metrics_of(result: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a result that the trial reported itself, without everything that Tune adds."""
    plain = result.get(METRICS)
    found = {name: value for name, value in result.items() if "/" in name}
    found |= plain if isinstance(plain, dict) else {}
    metrics = {}
    for name, value in found.items():
        if not isinstance(value, bool):
            with contextlib.suppress(TypeError, ValueError):
                metrics[name] = float(value)
    return metrics


def append_report(path: Path, result: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines, whatever a crash left at its end."""
    line = json.dumps(result).encode() + b"\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)


def request_stop(folder: Path) -> None:
    """Ask the trial in ``folder`` to end after a checkpoint. On a full disk that may not be possible."""
    with contextlib.suppress(OSError):
        (folder / STOP).touch()


def progress_of(folder: Path) -> str:
    """What the trial in ``folder`` last said about itself between reports; empty if it said nothing."""
    try:
        return str(json.loads((folder / PROGRESS).read_text())["message"])
    except (OSError, ValueError, KeyError):
        return ""


class ProgressReader:
    """Reads what running trials say about themselves, and opens a file only if it has changed."""

    def __init__(self) -> None:
        self._read: dict[Path, tuple[tuple[int, ...], str]] = {}

    def __call__(self, folder: Path) -> str:
        """What the trial in ``folder`` last said; empty if it said nothing."""
        try:
            found = (folder / PROGRESS).stat()
        except OSError:
            self.forget(folder)
            return ""
        # The file is always replaced, so another inode is another message, too.
        now = (found.st_ino, found.st_mtime_ns, found.st_size)
        before, message = self._read.get(folder, ((), ""))
        if now != before:
            message = progress_of(folder)
            self._read[folder] = (now, message)
        return message

    def forget(self, folder: Path) -> None:
        """Keep nothing of a trial that has ended."""
        self._read.pop(folder, None)


def own_slot_of(folder: Path, others: Iterable[Path]) -> str:
    """The slot that the trial in ``folder`` has to itself; empty if it has none.

    A trial that was just started again names the slot of its last attempt for a moment, and another trial may
    run there by now.

    Args:
        folder: The trial's folder.
        others: The folders of the other trials that run.
    """
    slot = slot_of(folder)
    return "" if slot in {slot_of(other) for other in others} else slot


def slot_of(folder: Path) -> str:
    """The slot in which the trial in ``folder`` was last started; empty if it has not been."""
    try:
        return str(json.loads((folder / ATTEMPT).read_text())["slot"])
    except (OSError, ValueError, KeyError):
        return ""


def phase_of(message: str) -> str:
    """A message about progress without its numbers: equal for ``decoding 40 %`` and ``decoding 41 %``."""
    return re.sub(r"\d[\d.,]*", "", message)


class ProgressFile:
    """Writes a trainable's messages to a file for the driver.

    Args:
        path: The file.
        on_phase: Called with the first message of each phase.
    """

    def __init__(self, path: Path, on_phase: Callable[[str], object] = str) -> None:
        self._path = path
        self._on_phase = on_phase
        self._next_write = -math.inf
        self._phase = ""

    def __call__(self, message: str) -> None:
        """Write the message; of several in one phase one every moment."""
        now = time.monotonic()
        if phase_of(message) != self._phase:
            self._phase = phase_of(message)
            self._on_phase(message)
            self._next_write = now
        if now >= self._next_write:
            self._next_write = now + POLL_S
            # Not durable: it is replaced twice a second, and deleted when the next attempt starts.
            text = json.dumps({"time": time.time(), "message": message})
            write_whole(self._path, text, durable=False)
