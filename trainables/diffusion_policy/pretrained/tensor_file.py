"""Names, shapes and small tensors of a safetensors file. Standard library only.

`sweeper check` compares a checkpoint's weights with its configuration by their shapes, which the file's
header lists, without torch and without reading the weights.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["TensorEntry", "TensorFileError", "read_header", "read_numbers"]

MOST_HEADER_BYTES = 16_000_000
"""A policy's header takes some 60 kB."""
MOST_NUMBERS = 1_000_000
_LENGTH = struct.Struct("<Q")
_FORMATS = {"F64": "d", "F32": "f", "F16": "e", "I64": "q", "I32": "i"}
_SIZES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4}
_GIT_LFS = b"version https://git-lfs"


class TensorFileError(ValueError):
    """A damaged file of weights, or another kind of file; the message continues after the file's name."""

    def __init__(self, problem: str, remedy: str = "Copy the file again.") -> None:
        self.remedy = remedy
        super().__init__(problem)


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file.

    Attributes:
        dtype: As in the file, e.g. ``F32``.
        shape: Its sizes; empty for a single number.
        start: Where it starts in the file, in bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    start: int


def read_header(file: Path) -> dict[str, TensorEntry]:
    """List the tensors of a file by name.

    Raises:
        FileNotFoundError: If the file does not exist.
        TensorFileError: If it is not a safetensors file, or only a part of one.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            start = opened.read(max(_LENGTH.size, len(_GIT_LFS)))
            if start.startswith(_GIT_LFS):
                raise TensorFileError("is a pointer of Git LFS, not the weights", "Run `git lfs pull`.")
            if len(start) < _LENGTH.size:
                raise TensorFileError(f"has {size} bytes, which is not a file of weights")
            (length,) = _LENGTH.unpack(start[: _LENGTH.size])
            if length > min(size - _LENGTH.size, MOST_HEADER_BYTES):
                raise TensorFileError("is not a safetensors file, or only a part of one")
            opened.seek(_LENGTH.size)
            header = json.loads(opened.read(length))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise TensorFileError(f"cannot be read: {error.strerror}", "") from error
    except (ValueError, RecursionError) as error:
        if isinstance(error, TensorFileError):
            raise
        raise TensorFileError("is not a safetensors file: its header is not JSON") from error
    return _entries(header, _LENGTH.size + length, size)


def _entries(header: Any, begin: int, size: int) -> dict[str, TensorEntry]:
    try:
        listed = {name: entry for name, entry in header.items() if name != "__metadata__"}
        entries = {
            name: TensorEntry(
                str(entry["dtype"]), _shape(entry["shape"]), begin + int(entry["data_offsets"][0])
            )
            for name, entry in listed.items()
        }
        end = begin + max((int(entry["data_offsets"][1]) for entry in listed.values()), default=0)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        raise TensorFileError("is not a safetensors file: its header lists no tensors") from error
    if end > size:
        raise TensorFileError(f"has {size:,} bytes of {end:,}: it is only a part")
    return entries


def _shape(stated: Any) -> tuple[int, ...]:
    if not isinstance(stated, list) or not all(type(size) is int and size >= 0 for size in stated):
        raise ValueError(stated)
    return tuple(stated)


def read_numbers(file: Path, entries: Mapping[str, TensorEntry], name: str) -> list[float] | None:
    """Read a small tensor as a flat list of numbers; None if it is missing, large, or of another type.

    Raises:
        TensorFileError: If the file ends before the tensor's end.
    """
    entry = entries.get(name)
    if entry is None or entry.dtype not in _SIZES or math.prod(entry.shape) > MOST_NUMBERS:
        return None
    count = math.prod(entry.shape)
    wanted = count * _SIZES[entry.dtype]
    try:
        with file.open("rb") as opened:
            opened.seek(entry.start)
            content = opened.read(wanted)
    except OSError as error:
        raise TensorFileError(f"cannot be read: {error.strerror}", "") from error
    if len(content) < wanted:
        raise TensorFileError(f"ends before {name}: it is only a part")
    if entry.dtype == "BF16":
        # The upper half of a float32.
        content = b"".join(b"\0\0" + content[place : place + 2] for place in range(0, wanted, 2))
        return list(struct.unpack(f"<{count}f", content))
    return list(struct.unpack(f"<{count}{_FORMATS[entry.dtype]}", content))
