"""The names of everything in a sweep's folder, and how files in it are written.

``sweeps/<name>/`` holds the sweep, ``sweeps/<name>/trials/<number>/`` one trial. Names that only one room
needs are defined there; those that several rooms need are here.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = [
    "ALERTS",
    "DATABASE",
    "DRIVER_LOG",
    "EARLIER",
    "ERROR",
    "ERROR_TEXT",
    "INDEX",
    "JOURNAL",
    "LOCK",
    "LOG",
    "RAY",
    "REPORT",
    "RESERVE",
    "SPEC",
    "STATE",
    "STUDY",
    "SWEEPS",
    "TRIALS",
    "UNFINISHED",
    "moved_path",
    "trial_folder",
    "write_synced",
    "write_whole",
]

SWEEPS = Path("sweeps")
"""The folder of all sweeps, relative to the working directory, unless the user names another."""

SPEC = "spec.yaml"
"""Name of the file in a sweep's folder with the resolved sweep, and its present budget."""

DRIVER_LOG = "ray.log"
"""Name of the file there with Ray's log of the driver."""

UNFINISHED = ".new"
"""Ending of a file's name while it is written; such a file is not complete."""

LOG = "worker.log"
"""Name of the file in a trial's folder with the output of the first worker, its libraries and children."""

RAY = "ray"
"""Folder in the sweep's folder for Ray's own files."""

ERROR = "error.json"

ERROR_TEXT = "error.txt"

JOURNAL = "journal.jsonl"
"""Name of the journal in a sweep's folder."""

INDEX = "journal.index"
"""Name of the file beside it from which readers get the state of a large sweep; may be deleted."""

RESERVE = "journal.reserve"
"""Name of the file beside it that reserves some space on the disk."""

ALERTS = "alerts.jsonl"
"""Name of the file in a sweep's folder that records which alerts were delivered."""

EARLIER = "earlier.json"
"""Name of the file in a sweep's folder with what it takes from earlier sweeps (``search.from``)."""

REPORT = "report.html"
"""Name of the report in a sweep's folder."""

STUDY = "study.db"
"""Name of the study in a sweep's folder."""

LOCK = "study.lock"
"""Held by the process that runs the sweep."""

DATABASE = "mlflow.db"

TRIALS = "trials"
"""Name of the folder in a sweep's folder that contains a folder for each trial."""

STATE = "mlflow.json"
"""Name of the file beside the journal that records how much of it was uploaded."""


def write_whole(path: Path, text: str, *, durable: bool = True) -> None:
    """Write a file so that a reader finds either the complete old or the complete new content.

    Only one process may write it.

    Args:
        path: The file.
        text: Its content.
        durable: Whether this holds after a power cut, too. That takes some milliseconds, on a busy disk a
            hundred; files that are useless after a restart of the machine do not need it.

    Raises:
        OSError: If it cannot be written; it is unchanged then.
    """
    beside = path.with_name(f"{path.name}{UNFINISHED}")
    if durable:
        write_synced(beside, text)
    else:
        beside.write_text(text)
    beside.replace(path)
    if durable:
        _sync_folder(path.parent)


def write_synced(path: Path, text: str) -> None:
    """Write a file and wait until its content is on the disk: if renamed before, it may be empty later."""
    with path.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for a folder. The file is written nevertheless.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def trial_folder(sweep_folder: Path, number: int) -> Path:
    """The folder of a trial."""
    return sweep_folder / TRIALS / str(number)


def moved_path(path: str, home: str, sweep_folder: Path) -> str:
    """Return the present path of a recorded file of a trial, whose sweep may have been moved or renamed.

    Args:
        path: The file as it was recorded.
        home: The folder of the sweep when it was recorded; absolute, or relative to an unknown folder.
        sweep_folder: The folder of the sweep now.

    Returns:
        The path below ``sweep_folder``, absolute; ``path`` itself if it was not in the trials of the sweep.
    """
    before, marker, inside = path.rpartition(f"{home}/{TRIALS}/")
    if not marker or (before and not before.endswith("/")):
        return path
    return str(sweep_folder.absolute() / TRIALS / inside)
