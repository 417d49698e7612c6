"""Files that are written whole and synced to the disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

__all__ = ["sync_to_disk", "write_json"]


def sync_to_disk(path: Path) -> None:
    """Wait until the disk has a file, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is whole at any moment."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with beside.open("w") as file:
        json.dump(value, file, indent=2, sort_keys=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
