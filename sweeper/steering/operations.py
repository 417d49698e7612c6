"""The operations with which other processes observe and steer a sweep, locally or through a cluster.

Every operation is a function of the sweep's folder that returns plain types. It is called directly on the
machine that has the folder. Other machines call it through the sweep's `sweeper.steering.entrance`.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from sweeper.errors import UserError
from sweeper.layout import DRIVER_LOG, JOURNAL, LOG, trial_folder
from sweeper.records.journal import read_journal
from sweeper.records.status import SweepStatus
from sweeper.records.summary import read_summary
from sweeper.records.sweep_state import SweepState, driver_runs
from sweeper.steering.mailbox import ACTIONS, Action, send
from sweeper.steering.status import status_of

__all__ = ["OPERATIONS", "LocalSweep", "RunningSweep", "alive", "events", "log", "request", "status"]

LARGEST_STRETCH = 1024**2
"""How many bytes of a log or a journal are read at a time."""

Plain = dict[str, Any]


class RunningSweep(Protocol):
    """A sweep that offers `OPERATIONS`."""

    def call(self, operation: str, **arguments: Any) -> Plain:
        """The result of one of `OPERATIONS` for this sweep."""
        ...


@dataclasses.dataclass(frozen=True)
class LocalSweep:
    """A sweep whose folder is on this machine."""

    folder: Path

    def call(self, operation: str, **arguments: Any) -> Plain:
        """The result of one of `OPERATIONS` for this sweep."""
        return OPERATIONS[operation](self.folder, **arguments)


def status(folder: Path) -> Plain:
    """The status of the sweep (`sweeper.steering.status.status_of`)."""
    return status_of(read_summary(folder))


def request(folder: Path, action: Action, trial: int | None = None, changes: Sequence[str] = ()) -> Plain:
    """Send a request to the driver and wait for its answer: ``sweep``, ``action``, ``trial`` and ``text``.

    Raises:
        UserError: If no driver runs the sweep, or the driver refuses.
        SweeperError: If the driver does not answer.
    """
    sweep = read_summary(folder)
    if action not in ACTIONS:
        raise UserError(f"{action!r} is not an action of a sweep. Known: {', '.join(ACTIONS)}.")
    if not sweep.is_alive():
        raise UserError(f"{not_running(sweep)} `sweeper resume {sweep.name}` continues it.")
    answer = send(folder, action, sweep.driver, alive=sweep.is_alive, trial=trial, changes=changes)
    if not answer.done:
        raise UserError(answer.text)
    return {"sweep": sweep.name, "action": action, "trial": trial, "text": answer.text}


def not_running(sweep: SweepState) -> str:
    """The message that a sweep is not running, and why."""
    if sweep.status == SweepStatus.RUNNING:
        return f"{sweep.name} is not running: its driver ended unexpectedly."
    return f"{sweep.name} is not running: it is {sweep.status}. {sweep.message}".rstrip()


def events(folder: Path, offset: int = 0) -> Plain:
    """The journal from byte ``offset``, about a megabyte at most: ``events``, ``offset``, ``folder``."""
    chunk = read_journal(folder / JOURNAL, offset, LARGEST_STRETCH)
    return {"events": chunk.events, "offset": chunk.offset, "folder": str(folder.absolute())}


def alive(_folder: Path, driver: Mapping[str, Any]) -> Plain:
    """Whether a driver, as the journal identifies it, still runs: ``alive``. Cheap: it reads no journal."""
    return {"alive": driver_runs(driver)}


def log(
    folder: Path, trial: int | None = None, offset: int | None = None, lines: int | None = None, rank: int = 0
) -> Plain:
    """A part of a log: ``path``, ``host``, ``text``, ``size``, and ``offset``, the byte after the text.

    Args:
        folder: The sweep's folder.
        trial: The trial whose worker's log is read; None for the driver's log.
        offset: The byte at which to start; None for the last ``lines`` lines.
        lines: How many lines from the end; None for all.
        rank: The rank of the trial's worker.

    Raises:
        UserError: If there is no such log.
    """
    path = _log_of(folder, trial, rank)
    size = path.stat().st_size
    begin = _begin_of_lines(path, size, lines) if offset is None else min(offset, size)
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(LARGEST_STRETCH)
    return {
        "path": str(path.absolute()),
        "host": socket.gethostname(),
        "text": data.decode(errors="replace"),
        "offset": begin + len(data),
        "size": size,
    }


def _log_of(folder: Path, trial: int | None, rank: int) -> Path:
    if trial is None:
        path = folder / DRIVER_LOG
        if not path.is_file():
            raise UserError(f"{folder}: the driver has not written {DRIVER_LOG} yet.")
        return path
    path = trial_folder(folder, trial) / (LOG if rank == 0 else f"worker-{rank}.log")
    if path.is_file():
        return path  # the journal may be long, and the caller that follows a log asks all the time
    found = read_summary(folder).trial(trial)
    why = f"it waits for {found.needs}" if found.needs else f"it is {found.status.replace('_', ' ')}"
    raise UserError(f"Trial {trial} has not written {path} yet: {why}.")


def _begin_of_lines(path: Path, size: int, lines: int | None) -> int:
    """The byte at which the last ``lines`` lines start, within the last ``LARGEST_STRETCH`` bytes."""
    begin = 0 if lines is None else max(0, size - LARGEST_STRETCH)
    if lines is None:
        return begin
    with path.open("rb") as file:
        file.seek(begin)
        data = file.read(size - begin)
    at = len(data) - data.endswith(b"\n")
    for _ in range(lines):
        at = data.rfind(b"\n", 0, max(0, at))
        if at < 0:
            return begin
    return begin + at + 1 if lines else size


OPERATIONS: Mapping[str, Callable[..., Plain]] = {
    "status": status,
    "request": request,
    "events": events,
    "alive": alive,
    "log": log,
}
"""The operations by name. A caller on another machine can call these and nothing else."""
