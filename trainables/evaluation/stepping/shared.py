"""Memory that a process of simulators shares with the process that it works for.

It has no name: it vanishes with the last of both, however they end. The first eight bytes count what the
simulators have completed, by which a hanging one is noticed; behind them each array of an answer has a place.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

__all__ = ["Placed", "SharedReader", "SharedWriter", "anonymous_file"]

_COUNT = struct.Struct("<q")
_LEAST_B = 1 << 20
_ALIGNED_B = 64


@dataclass(frozen=True)
class Placed:
    """Where an array is."""

    offset: int
    shape: tuple[int, ...]
    dtype: str


def anonymous_file() -> int:
    """The descriptor of a new file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("simulators")
    else:
        with tempfile.TemporaryFile() as file:
            fd = os.dup(file.fileno())
    os.ftruncate(fd, _LEAST_B)
    return fd


class SharedWriter:
    """The side of the simulators.

    Args:
        fd: The file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, _LEAST_B)
        self._end = _ALIGNED_B
        self._places: dict[tuple[int, int, str], tuple[int, int]] = {}
        self._count = 0

    def count(self) -> None:
        """Count one more thing completed."""
        self._count += 1
        _COUNT.pack_into(self._map, 0, self._count)

    def put(self, seat: int, position: int, observation: Mapping[str, np.ndarray]) -> dict[str, Placed]:
        """Place an observation, the one of this position in the newest answer of a seat."""
        return {name: self._put((seat, position, name), np.asarray(v)) for name, v in observation.items()}

    def _put(self, key: tuple[int, int, str], array: np.ndarray) -> Placed:
        offset, room = self._places.get(key, (0, -1))
        if array.nbytes > room:
            offset, room = self._end, array.nbytes
            self._end = -(-(offset + room) // _ALIGNED_B) * _ALIGNED_B
            self._places[key] = offset, room
            self._grow()
        target = np.frombuffer(self._map, array.dtype, array.size, offset).reshape(array.shape)
        target[...] = array
        return Placed(offset, array.shape, array.dtype.str)

    def _grow(self) -> None:
        if self._end > len(self._map):
            size = max(self._end, 2 * len(self._map))
            os.ftruncate(self._fd, size)
            # A new map: an array of the old one may still exist.
            self._map = mmap.mmap(self._fd, size)


class SharedReader:
    """The other side.

    Args:
        fd: The file.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._map = mmap.mmap(fd, _LEAST_B)

    @property
    def count(self) -> int:
        """How much the simulators have completed."""
        return int(_COUNT.unpack_from(self._map)[0])

    def get(self, placed: Mapping[str, Placed]) -> dict[str, np.ndarray]:
        """A copy of a placed observation."""
        return {name: self._get(place) for name, place in placed.items()}

    def _get(self, place: Placed) -> np.ndarray:
        dtype = np.dtype(place.dtype)
        size = int(np.prod(place.shape, dtype=np.int64))
        if place.offset + size * dtype.itemsize > len(self._map):
            self._map = mmap.mmap(self._fd, os.fstat(self._fd).st_size)
        return np.frombuffer(self._map, dtype, size, place.offset).reshape(place.shape).copy()

    def close(self) -> None:
        """Release the memory."""
        self._map.close()
        os.close(self._fd)
