"""Ends the processes that a private Ray leaves if its driver is killed.

Two agents of Ray continue for a minute after SIGKILL of the driver, and try to report to a server that is
gone. This small process waits beside the driver for its end, which closes a pipe, and ends them:
``python sweeper/machines/reaper.py PID:STARTED ...``.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence

import psutil

__all__ = ["Reaper"]

GRACE_S = 3.0
"""How long they may take to end by themselves."""
LOOK_S = 0.1
END_S = 20.0
SAME_S = 2.0
"""By how much a process's time of birth may seem to move when the clock is set."""


class Reaper:
    """Ends processes after the end of this one, for any reason.

    Args:
        processes: The processes to end; a new process with the number of one of them is left alone.
    """

    def __init__(self, processes: Iterable[psutil.Process]) -> None:
        self._processes = list(processes)
        named = [f"{process.pid}:{process.create_time()!r}" for process in self._processes]
        self._process = subprocess.Popen(
            # Without the current folder: its files must not replace a library.
            [sys.executable, "-P", __file__, *named],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for the driver.
            start_new_session=True,
        )

    def close(self) -> None:
        """End the processes now."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            # It did not even start in this time: the machine is very busy.
            self._process.kill()
            self._process.wait()
            _end(self._processes)


def main(arguments: Sequence[str]) -> None:
    """Wait for the end of standard input, and then end the processes that are named."""
    sys.stdin.buffer.read()
    left = [process for process in map(_found, arguments) if process is not None]
    until = time.monotonic() + GRACE_S
    while any(process.is_running() for process in left) and time.monotonic() < until:
        time.sleep(LOOK_S)
    _end(left)


def _end(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()  # never one that only has the same number: psutil compares when it began


def _found(named: str) -> psutil.Process | None:
    number, _, started = named.partition(":")
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(int(number))
        if abs(process.create_time() - float(started)) < SAME_S:
            return process
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
