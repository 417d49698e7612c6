"""Small files of a sweep's folder that other processes read while they are written, and their names."""

from __future__ import annotations

from pathlib import Path

__all__ = ["DRIVER_LOG", "SPEC", "UNFINISHED", "write_whole"]

SPEC = "spec.yaml"
"""Name of the file in a sweep's folder that has the sweep as it was resolved, and its budget as it is."""
DRIVER_LOG = "ray.log"
"""Name of the file there that has what Ray logs in the driver."""

UNFINISHED = ".new"
"""What the name of a file ends with while it is written; one that has it is worth nothing."""


def write_whole(path: Path, text: str) -> None:
    """Write a file so that whoever reads it finds it whole, as it was or as it is; one process writes it.

    Raises:
        OSError: Where it cannot be written; it is as it was then.
    """
    beside = path.with_name(f"{path.name}{UNFINISHED}")
    beside.write_text(text)
    beside.replace(path)
