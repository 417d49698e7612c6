"""Ends a worker that hangs: one that for long shows no sign of life, but has raised no error either.

A deadlock in a simulator, a decoder or a collective would block its GPUs until the user notices. The process
itself is alive and answers Ray, so it has to notice by itself.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

__all__ = ["Watchdog"]

LOOKS = 20
"""How many times it looks within its patience, at least."""
LONGEST_LOOK_S = 5.0
EXIT_CODE = 1


class Watchdog:
    """A thread that ends this process when nothing has shown life for too long.

    It writes the stacks of all threads to standard error first. A step that holds Python's lock for ever is
    not seen by it, but no longer answers Ray either.

    Args:
        patience_s: How long without a sign of life is too long; None to wait for ever.
        on_hang: Called before the process ends, with what is wrong.
        end: Ends the process.
    """

    def __init__(
        self,
        patience_s: float | None,
        on_hang: Callable[[str], None],
        end: Callable[[int], object] = os._exit,
    ) -> None:
        self._patience_s = patience_s
        self._on_hang = on_hang
        self._end = end
        self._paused = False
        self._last = time.monotonic()
        self._stopped = threading.Event()

    def alive(self) -> None:
        """Show a sign of life."""
        self._last = time.monotonic()

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """While this lasts silence is not a fault: something else limits it."""
        self._paused = True
        try:
            yield
        finally:
            self.alive()  # first: what sees that the pause is over must see this, too
            self._paused = False

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch while this lasts."""
        if self._patience_s is None:
            yield
            return
        self.alive()
        threading.Thread(target=self._watch, args=(self._patience_s,), daemon=True, name="watchdog").start()
        try:
            yield
        finally:
            self._stopped.set()

    def _watch(self, patience_s: float) -> None:
        while not self._stopped.wait(min(patience_s / LOOKS, LONGEST_LOOK_S)):
            if not self._paused and time.monotonic() - self._last > patience_s:
                break
        else:
            return
        try:
            with contextlib.suppress(OSError, ValueError):  # a full disk
                print("No sign of life. What every thread does:", file=sys.stderr, flush=True)
                faulthandler.dump_traceback(sys.stderr)
            self._on_hang(
                f"no step, no report and no word of progress for {_minutes(patience_s)}. The worker's log "
                "shows where. If a step may take that long, raise failures.hang_minutes."
            )
        finally:
            self._end(EXIT_CODE)


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:g} min" if seconds >= 60 else f"{seconds:g} s"
