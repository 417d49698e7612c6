"""Starts and ends the processes that feed the trackers beside MLflow."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from sweeper.layout import JOURNAL
from sweeper.records.journal import read_journal
from sweeper.text import counted
from sweeper.tracking.also.feed import read_position

__all__ = ["Feeders", "missing_events"]


def missing_events(folder: Path, tracker: str) -> int:
    """How many events of a journal a tracker does not have."""
    return len(read_journal(folder / JOURNAL).events) - int(read_position(folder, tracker).get("events", 0))


class Feeders:
    """The processes that feed the trackers of a sweep. They end by themselves if this process dies.

    Args:
        folder: The sweep's folder.
        trackers: The names of the trackers.
    """

    def __init__(self, folder: Path, trackers: Sequence[str]) -> None:
        self._folder = folder
        self._trackers = trackers
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start them; what they print goes to ``TRACKER.log`` in the sweep's folder."""
        for tracker in self._trackers:
            # An OSError: the disk is full or no process can be started. The sweep continues without.
            with contextlib.suppress(OSError), (self._folder / f"{tracker}.log").open("ab") as log:
                self._processes[tracker] = subprocess.Popen(
                    [sys.executable, "-m", "sweeper.tracking.also", str(self._folder.absolute()), tracker],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )

    @property
    def problem(self) -> str:
        """Which tracker is not fed any more, in a line; empty if each one is."""
        gone = [name for name, process in self._processes.items() if process.poll() is not None]
        return f"{gone[0]} is not fed any more: see {self._folder / gone[0]}.log" if gone else ""

    def close(self, deadline_s: float) -> list[str]:
        """Have them pass the rest and end; returns what trackers are still missing, in a sentence each.

        One that is slower continues after this process, and ends by itself.
        """
        until = time.monotonic() + deadline_s
        for process in self._processes.values():
            if process.stdin is not None:
                with contextlib.suppress(OSError):
                    process.stdin.close()
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))
        missing = {name: missing_events(self._folder, name) for name in self._trackers}
        return [
            f"{name} is missing {counted(count, 'event')} (see {self._folder / name}.log). "
            "`sweeper sync` passes them on."
            for name, count in missing.items()
            if count
        ]
