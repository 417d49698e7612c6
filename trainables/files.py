"""Files that are complete at any moment, even after a power cut; and digests of large files."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from pathlib import Path
from typing import Any

__all__ = ["add_content", "put_in_place", "refusal", "share_like", "sync_to_disk", "write_json"]

BLOCK_B = 64 * 1024


def add_content(digest: hashlib._Hash, path: Path, size: int, *, whole_b: int, blocks: int) -> None:
    """Add the content of a file to a digest: all of it, or evenly spaced blocks if it is large.

    Args:
        digest: Receives the bytes. The size is not among them: the caller adds it.
        path: The file.
        size: Its size, in bytes.
        whole_b: The largest size, in bytes, of a file that is read as a whole.
        blocks: Number of blocks of 64 KiB of a larger one; at least 2.

    Raises:
        OSError: If the file cannot be read.
    """
    with path.open("rb") as file:
        if size <= whole_b:
            digest.update(file.read())
            return
        for number in range(blocks):
            file.seek((size - BLOCK_B) * number // (blocks - 1))
            digest.update(file.read(BLOCK_B))


def refusal(path: Path) -> str:
    """Why the system refuses to look at a path, as the end of a sentence; empty if it does not."""
    try:
        folder = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        return f"cannot be opened: {error.strerror}"
    except ValueError as error:  # a character that no path has
        return f"is not a path: {error}"
    if folder and not os.access(path, os.R_OK | os.X_OK):
        return f"cannot be opened: {os.strerror(errno.EACCES)}"
    return ""


def share_like(example: Path, *files: Path) -> None:
    """Let files be read by whom ``example`` may be read by, if their file system knows permissions.

    safetensors 0.8 writes files that only their owner may read, whatever the umask is.
    """
    with contextlib.suppress(OSError):
        for file in files:
            file.chmod(stat.S_IMODE(example.stat().st_mode))


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is complete at any moment."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.writing")
    with beside.open("w") as file:
        json.dump(value, file, indent=2, sort_keys=False)
        file.write("\n")
    put_in_place(beside, path)


def put_in_place(beside: Path, path: Path) -> None:
    """Give a finished file or folder its name, after its content has been written to the disk.

    Args:
        beside: The finished file or folder, on the same file system.
        path: Its new name; a file of that name is replaced.
    """
    # A disk may write a name before the content: without this order, a power cut leaves empty files.
    if beside.is_dir():
        for entry in beside.rglob("*"):
            sync_to_disk(entry)
    sync_to_disk(beside)
    beside.replace(path)
    sync_to_disk(path.parent)


def sync_to_disk(path: Path) -> None:
    """Wait until a file, or the names in a folder, are written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems cannot do this for a folder; its files are written nevertheless.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
            raise
    finally:
        os.close(descriptor)
