"""Recognise files that do not contain what their names promise: empty, cut off, or a pointer of Git LFS."""

from __future__ import annotations

from pathlib import Path

__all__ = ["foreign_content", "is_lfs_pointer"]

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
PARQUET = b"PAR1"
APPLE_DOUBLE = b"\0\5\x16\7"
LONGEST_POINTER_B = 1024


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer of Git LFS, which is there instead of a file that was not downloaded."""
    try:
        return path.stat().st_size <= LONGEST_POINTER_B and _head(path).startswith(LFS_POINTER)
    except OSError:
        return False


def foreign_content(path: Path) -> str:
    """Say why a file cannot be what its name promises, as the end of a sentence; empty if it can."""
    try:
        size_b = path.stat().st_size
        head = _head(path)
        if size_b == 0:
            return "is empty (0 bytes): the recording or the copy was cut off"
        if head.startswith(LFS_POINTER):
            return "is a pointer of Git LFS: the file itself was not downloaded"
        if head.startswith(APPLE_DOUBLE):
            return "is a file of macOS (AppleDouble) with attributes of another file"
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page: the download got an answer in HTML instead of the file"
        if not head.strip(b"\0"):
            return "contains only zeros: the disk was full or the copy was cut off"
        if path.suffix == ".parquet" and head.startswith(PARQUET) and _tail(path) != PARQUET:
            return "has no footer: the recorder or the copy was cut off before the file was complete"
    except OSError:
        return ""
    return ""


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-len(PARQUET), 2)
        return file.read()
