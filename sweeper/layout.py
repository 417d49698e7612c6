"""The names of everything in a sweep's folder, and how files in it are written.

``sweeps/<name>/`` holds the sweep, ``sweeps/<name>/trials/<number>/`` one trial. Names that only one room
needs are defined there; those that several rooms need are here.
"""

from __future__ import annotations

from pathlib import Path

__all__ = [
    "DATABASE",
    "DRIVER_LOG",
    "ERROR",
    "ERROR_TEXT",
    "JOURNAL",
    "LOCK",
    "LOG",
    "RAY",
    "RESERVE",
    "SPEC",
    "STATE",
    "STUDY",
    "UNFINISHED",
    "trial_folder",
    "write_whole",
]

SPEC = "spec.yaml"
"""Name of the file in a sweep's folder that has the sweep as it was resolved, and its budget as it is."""

DRIVER_LOG = "ray.log"
"""Name of the file there that has what Ray logs in the driver."""

UNFINISHED = ".new"
"""What the name of a file ends with while it is written; one that has it is worth nothing."""

LOG = "worker.log"
"""What the first worker, its libraries and its children print."""

RAY = "ray"
"""Folder in the sweep's folder for what Ray writes of its own."""

ERROR = "error.json"

ERROR_TEXT = "error.txt"

JOURNAL = "journal.jsonl"
"""Name of the journal in a sweep's folder."""

RESERVE = "journal.reserve"
"""Name of the file beside it that keeps some room on the disk."""

STUDY = "study.db"
"""Name of the study in a sweep's folder."""

LOCK = "study.lock"
"""Held by the process that runs the sweep."""

DATABASE = "mlflow.db"

STATE = "mlflow.json"
"""Name of the file beside the journal that says how far it was sent."""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds it whole, as it was or as it is; one process writes it.

    Raises:
        OSError: Where it cannot be written; it is as it was then.
    """
    beside = path.with_name(f"{path.name}{UNFINISHED}")
    beside.write_text(text)
    beside.replace(path)


def trial_folder(sweep_folder: Path, number: int) -> Path:
    """The folder of a trial."""
    return sweep_folder / "trials" / str(number)
