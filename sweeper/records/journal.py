"""The journal of a sweep: everything that happened, one JSON object per line, in order.

An event is written to the journal before any other part receives it, and all other records (the tracking
server, the table on the terminal, the ranking) are made from it. So a tracking server may be unavailable for
hours without losing anything, and the user can read in a text editor what a sweep did.

Lines are only ever appended, by one process. A line that a crash cut short is ignored when the journal is
read. Numbers that JSON does not have are texts: ``"NaN"``, ``"Infinity"``, ``"-Infinity"``; ``float()`` reads
them back.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from types import TracebackType
from typing import Any

from sweeper.errors import FREE_SPACE, TrackingError
from sweeper.layout import RESERVE
from sweeper.masking import masked
from sweeper.records.events import Event, EventKind

__all__ = ["Chunk", "Journal", "events_in", "line_of_event", "read_journal", "read_lines"]

RESERVE_BYTES = 1_000_000
"""Space that a journal releases when its disk is full: enough to record how everything ended."""

_DECODE = json.JSONDecoder().raw_decode


class Journal:
    """Appends events to a journal; safe to call from several threads of the one process that writes it.

    A file beside it reserves some space. When the disk is full, that space is released, so that a sweep can
    end in order.

    Args:
        path: The file; created if it is missing, with its folder.

    Attributes:
        problem: What is wrong with the disk, in one line, so that the sweep should end; otherwise empty.

    Raises:
        TrackingError: If the file cannot be opened, or the disk is already full.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.problem = ""
        self._reserve = path.with_name(RESERVE)
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            size = os.fstat(self._file).st_size
            self._torn = size > 0 and os.pread(self._file, 1, size - 1) != b"\n"
            self._keep_room()
        except OSError as error:
            raise self._error(error) from error

    def append(self, kind: EventKind, *, durable: bool = True, **fields: Any) -> Event:
        """Write one event, without passwords and tokens, and return it in the form in which it is read.

        Args:
            kind: The kind of event.
            durable: Whether to wait until it is on the disk. Reports are many and do not need it.
            **fields: The fields of the event; paths become texts, tuples lists, numpy numbers numbers.

        Raises:
            TrackingError: If it cannot be written.
        """
        event = {"event": str(kind), "time": round(time.time(), 3), **fields}
        line = masked(json.dumps(_plain(event), ensure_ascii=False, allow_nan=False))
        with self._lock:
            # A line that was cut short, by a crash or a full disk, is ended here, so that the next is whole.
            try:
                self._write(line.encode(), durable)
            except OSError as error:
                if not self._give_up_room(error):
                    raise self._error(error) from error
                try:
                    self._write(line.encode(), durable)
                except OSError as again:
                    raise self._error(again) from again
        return json.loads(line)

    def _write(self, line: bytes, durable: bool) -> None:
        data = (b"\n" if self._torn else b"") + line + b"\n"
        whole, self._torn = os.fstat(self._file).st_size, True
        written = os.write(self._file, data)
        if written < len(data):
            # A reader ignores half a line, but there is no reason to keep it.
            os.ftruncate(self._file, whole)
            raise OSError(errno.ENOSPC, f"only {written} of {len(data)} bytes could be written")
        if durable:
            os.fsync(self._file)
        self._torn = False

    def _keep_room(self) -> None:
        """Reserve the space that is needed when the disk is full."""
        with self._reserve.open("wb") as file:
            file.write(bytes(RESERVE_BYTES))
            os.fsync(file.fileno())

    def _give_up_room(self, error: OSError) -> bool:
        """Release the reserved space on a full disk; returns whether there was any."""
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._reserve.exists():
            return False
        self._reserve.unlink(missing_ok=True)
        self.problem = f"There is no room left in {self.path.parent}: {error.strerror}. {FREE_SPACE}"
        return True

    def close(self) -> None:
        """Close the file; may be called twice."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
                self._reserve.unlink(missing_ok=True)

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _error(self, error: OSError) -> TrackingError:
        return TrackingError(
            f"{self.path}: the journal cannot be written: {error}. "
            "Free some disk space or repair the folder, then resume the sweep."
        )


@dataclass(frozen=True)
class Chunk:
    """A chunk of a journal.

    Attributes:
        events: The events, in order.
        offset: Byte at which the next chunk begins.
    """

    events: list[Event]
    offset: int


def read_journal(path: Path, offset: int = 0, max_bytes: int | None = None) -> Chunk:
    """Read the events from byte ``offset`` on; a last line without its end is left for the next call.

    Args:
        path: The file; one that does not exist has no events.
        offset: Byte at which to begin; 0, or the ``offset`` of an earlier chunk.
        max_bytes: Read about this much, and at least one event if there is one; None for everything.
    """
    lines = read_lines(path, offset, max_bytes)
    return Chunk(events_in(lines), offset + len(lines))


def read_lines(path: Path, offset: int = 0, max_bytes: int | None = None) -> bytes:
    """Read the complete lines from byte ``offset`` on; arguments as for `read_journal`."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(-1 if max_bytes is None else max_bytes)
            if max_bytes is not None and b"\n" not in data:
                data += file.readline()
    except FileNotFoundError:
        return b""
    return data[: data.rfind(b"\n") + 1]


def events_in(lines: bytes) -> list[Event]:
    """Return the events in some lines; a line that is not an event was cut short by a crash."""
    return [event for line in lines.splitlines() if (event := _parse(line)) is not None]


def line_of_event(path: Path, index: int) -> int:
    """The line, counted from 1, of the event with this index, counted from 0; 0 if there is none."""
    seen = -1
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        seen += _parse(line) is not None
        if seen == index:
            return number
    return 0


def _parse(line: bytes) -> Event | None:
    try:
        event = _decoded(line)
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) and "event" in event and "time" in event else None


def _decoded(line: bytes) -> Any:
    # Almost all lines are UTF-8 without spaces around. Decoding them directly saves a quarter of the time.
    try:
        text = line.decode()
        event, end = _DECODE(text)
        if end == len(text):
            return event
    except ValueError:
        pass
    return json.loads(line)


def _plain(value: Any) -> Any:
    """Convert a value to one that JSON can represent."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "item"):
        return _plain(value.item())
    return str(value)
