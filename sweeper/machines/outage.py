"""Why Ray or Tune cannot continue in this process: a disk that is full, or a private Ray that is gone."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterable
from pathlib import Path

from sweeper.errors import FREE_SPACE
from sweeper.machines.local_ray import gone_process, temporary_folder
from sweeper.text import first_line
from sweeper.trial.failure import failure_of

__all__ = ["full_disk", "outage", "ray_is_gone"]


PROBE_BYTES = 1_100_000
"""More than the reserve of a journal, which a sweep may have given up already."""


def outage(error: BaseException, sweep_folder: Path) -> str:
    """Return why Tune cannot continue after an error, as a sentence; empty if the error has another cause.

    Args:
        error: What Tune raised.
        sweep_folder: The folder of the sweep.
    """
    gone = gone_process()
    if gone:
        return ray_is_gone(gone)
    full = full_disk([sweep_folder, temporary_folder()])
    if not full and failure_of(error, Path()).reason == "out_of_disk":
        full = f"There is no room to write: {first_line(error)}. {FREE_SPACE}"
    return full


def ray_is_gone(name: str) -> str:
    """The message that a process of the private Ray ended unexpectedly."""
    return (
        f"Ray's process {name} was killed or crashed, and with it the Ray of this sweep. Resume the sweep: "
        "that starts Ray again, and trials continue from their last checkpoints."
    )


def full_disk(folders: Iterable[Path]) -> str:
    """Return in which of some folders nothing more can be written, as a sentence; empty if in none.

    It writes a file: a quota can be used up although the disk has space left.
    """
    for folder in folders:
        try:
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(bytes(PROBE_BYTES))
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return f"There is no room left in {folder}: {error.strerror}. {FREE_SPACE}"
    return ""
