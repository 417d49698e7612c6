"""The folder of an export: what it may replace, and how it appears."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from trainables.diffusion_policy.formats.errors import FormatError
from trainables.files import put_in_place as name_finished

__all__ = ["check_place", "put_in_place"]


def check_place(folder: Path, *, replace: bool) -> None:
    """Check that an export may be written to a folder.

    Raises:
        FormatError: If something is there that is not an earlier export, or ``replace`` is not set.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise FormatError(f"{folder} is a file. Name a new folder.")
    there = {entry.name for entry in folder.iterdir()}
    other = sorted(there - _exported(folder))
    if other:
        raise FormatError(f"{folder} contains something else ({', '.join(other[:3])}). Name a new folder.")
    if there and not replace:
        raise FormatError(
            f"{folder} already contains an export. Name a new folder, or replace it with --force."
        )


def put_in_place(beside: Path, folder: Path) -> None:
    """Give a finished folder its name; an earlier export of that name is deleted."""
    earlier = folder.with_name(f".{folder.name}.{os.getpid()}.earlier")
    if folder.exists():
        folder.replace(earlier)
    try:
        name_finished(beside, folder)
    except OSError:
        if earlier.exists():
            earlier.replace(folder)
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _exported(folder: Path) -> set[str]:
    """The names that the report of an earlier export lists."""
    try:
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        files = {file["name"] for variant in report["variants"] for file in variant["files"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()
    return files | {"report.json", "README.md", "run.py", "example.npz"}
