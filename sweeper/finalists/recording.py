"""A sweep's journal, opened to record what was found after the search."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from filelock import FileLock, Timeout

from sweeper.errors import UserError
from sweeper.layout import JOURNAL, LOCK
from sweeper.records.events import Event, EventKind
from sweeper.records.journal import Journal
from sweeper.records.sweep_state import SweepState, update_sweep

__all__ = ["Recording", "recording"]


class Recording:
    """Appends events to the journal of a sweep that is not running; made by :func:`recording`."""

    def __init__(self, sweep: SweepState, journal: Journal) -> None:
        self.sweep = sweep
        self._journal = journal

    def append(self, kind: EventKind, **fields: Any) -> Event:
        """Record an event: it is on the disk, and part of the sweep's state, when this returns.

        Raises:
            TrackingError: If the disk does not take it.
        """
        event = self._journal.append(kind, **fields)
        self.sweep.apply(event)
        return event


@contextlib.contextmanager
def recording(sweep: SweepState) -> Iterator[Recording]:
    """Open a sweep's journal to append to it; no other process may do so at the same time.

    Args:
        sweep: The sweep; it is brought up to date.

    Raises:
        UserError: If the sweep runs, or its folder cannot be written.
        TrackingError: If the journal cannot be opened.
    """
    try:
        lock = FileLock(sweep.folder / LOCK, timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(
            f"{sweep.name} is in use by another process: it runs, or its finalists are being examined. Wait "
            f"until that has ended (`sweeper watch {sweep.name}`), or `sweeper stop {sweep.name}`."
        ) from None
    except OSError as error:
        raise UserError(f"{sweep.folder} cannot be written: {error.strerror}.") from error
    try:
        update_sweep(sweep)
        with Journal(sweep.folder / JOURNAL) as journal:
            yield Recording(sweep, journal)
    finally:
        lock.release()
