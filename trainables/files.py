"""Files that are whole at any moment, after a power cut too."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

__all__ = ["put_in_place", "sync_to_disk", "write_json"]


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole at any moment."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with beside.open("w") as file:
        json.dump(value, file, indent=2, sort_keys=False)
        file.write("\n")
    put_in_place(beside, path)


def put_in_place(beside: Path, path: Path) -> None:
    """Give a finished file or folder its name, once the disk has everything in it.

    Args:
        beside: What was written, on the same file system.
        path: Its name from now on; a file of that name is replaced.
    """
    # A disk may take a name before the content: without the order, a power cut leaves empty files.
    if beside.is_dir():
        for entry in beside.rglob("*"):
            sync_to_disk(entry)
    sync_to_disk(beside)
    beside.replace(path)
    sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for a folder; the files in it are written all the same.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
