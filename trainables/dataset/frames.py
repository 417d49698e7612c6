"""Decode every camera once per machine, into a memory map that all processes share.

The frames of a camera at one size are one ``.npy`` file, uint8 (N, C, H, W), in the cache folder. The caller
that asks first builds it, the others wait; it is built beside and renamed when whole. The lock is the
operating system's: it goes when its owner dies, and the caller that waits then builds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import DiskFullError
from trainables.dataset.format.decode import FramePart, decode_part, decoder_version
from trainables.dataset.format.tables import available_cpus
from trainables.dataset.shared_cache import (
    FRAMES,
    PROGRESS_EVERY_S,
    exclusive,
    is_disk_full,
    missing_space,
    note_owner,
    run_parallel,
)
from trainables.files import put_in_place
from trainables.interface import Fault, silent

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset
    from trainables.dataset.sources.find import Source

__all__ = ["FrameArray", "open_frames"]

# Part of every key: count it up when the same frames would be stored differently.
LAYOUT = 2
PART_FRAMES = 1024
MOST_THREADS = 16

Progress = Callable[[str], None]


@dataclass(frozen=True)
class FrameArray:
    """The decoded frames of one camera.

    Attributes:
        path: The file.
        array: uint8 (N, C, H, W), in the file.
        rows: For each row of the opened dataset its place in ``array``, or None if they are the same.
    """

    path: Path
    array: NDArray[np.uint8]
    rows: NDArray[np.int64] | None = None

    def take(self, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Copy the frames of some rows of the opened dataset, (*rows.shape, C, H, W)."""
        places = rows if self.rows is None else self.rows[rows]
        return np.take(self.array, places, axis=0)


def open_frames(
    dataset: LeRobotDataset,
    camera: str,
    size: tuple[int, int] | None,
    cache: Path,
    progress: Progress | None = None,
    *,
    threads: int | None = None,
) -> FrameArray:
    """Open a camera's decoded frames; decode them if they are not in the cache.

    Args:
        dataset: The opened dataset.
        camera: The feature.
        size: (height, width) to keep, bilinear with antialiasing; None: as recorded.
        cache: Folder that every process of this machine shares.
        progress: Told every few seconds how far it is.
        threads: Threads to decode with; None: one per CPU.

    Raises:
        DatasetError: If a frame cannot be decoded; names its episode, camera and file.
        DiskFullError: If the cache's disk has not enough room.
    """
    tell = progress or silent
    parts = dataset.frame_parts(camera)
    recorded = parts[0].shape
    if size is not None and tuple(size) == recorded[1:]:
        size = None
    height, width = size or recorded[1:]
    shape = (recorded[0], height, width)
    folder = cache / FRAMES
    video = any(part.times_s is not None for part in parts)
    recorded_as = dataset.recorded_as(camera)

    if not dataset.is_whole:
        # Frames of the whole dataset serve any choice of its episodes.
        whole_path = _path(folder, dataset.fingerprint, recorded_as, shape, video)
        whole = _open(whole_path, (dataset.frames_on_disk, *shape))
        if whole is not None:
            return FrameArray(whole[0], whole[1], dataset.rows_on_disk)
    identity = dataset.fingerprint if dataset.is_whole else dataset.identity
    path = _path(folder, identity, recorded_as, shape, video)
    wanted = (len(dataset), *shape)
    found = _open(path, wanted)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        waiting = f"{camera}: waiting for another process that decodes it"
        with exclusive(path.with_suffix(".lock"), waiting, tell):
            found = _open(path, wanted)
            if found is None:
                builder = _Builder(dataset, camera, parts, size, wanted, tell)
                builder.build(path, threads or min(available_cpus(), MOST_THREADS))
                found = _open(path, wanted)
    assert found is not None
    return FrameArray(*found)


def _path(folder: Path, identity: str, camera: str, shape: tuple[int, ...], video: bool) -> Path:
    key = json.dumps([LAYOUT, identity, camera, shape, decoder_version(video)])
    plain = re.sub(r"[^\w.-]", "_", camera)[-60:]
    digest = hashlib.sha256(key.encode()).hexdigest()[:24]
    return folder / f"{plain}-{shape[1]}x{shape[2]}-{digest}.npy"


def _name(source: Source) -> str:
    """A dataset as the user named it."""
    return source.repo_id or source.address or str(source.root.absolute())


def _open(path: Path, shape: tuple[int, ...]) -> tuple[Path, NDArray[np.uint8]] | None:
    try:
        array = np.asarray(np.load(path, mmap_mode="r"))
    except FileNotFoundError:
        return None
    except ValueError:
        return None  # damaged from outside: it is rebuilt
    if array.shape != shape or array.dtype != np.uint8:
        return None
    return path, array


class _Builder:
    """Decodes the frames of one camera into a file. The caller holds its lock."""

    def __init__(
        self,
        dataset: LeRobotDataset,
        camera: str,
        parts: list[FramePart],
        size: tuple[int, int] | None,
        shape: tuple[int, ...],
        tell: Progress,
    ) -> None:
        self._dataset = dataset
        self._camera = camera
        self._pieces = [piece for part in parts for piece in part.split(PART_FRAMES)]
        self._size = size
        self._shape = shape
        self._tell = tell
        self._frame_b = int(np.prod(shape[1:]))
        self._done = 0
        self._told_s, self._told = time.monotonic(), 0
        self._counting = threading.Lock()
        self._failed = threading.Event()

    def build(self, path: Path, threads: int) -> None:
        # Whatever lies here was left by a builder that died: the lock is ours.
        for left in path.parent.glob(f"{path.stem}.building-*"):
            left.unlink(missing_ok=True)
        self._check_disk(path.parent)
        building = path.with_name(f"{path.stem}.building-{os.getpid()}")
        try:
            self._write(building, threads)
            put_in_place(building, path)
            note_owner(path, [_name(source) for source in self._dataset.sources])
        finally:
            building.unlink(missing_ok=True)

    def _check_disk(self, folder: Path) -> None:
        needed_b = self._shape[0] * self._frame_b
        free_b = missing_space(folder, needed_b)
        if free_b is not None:
            raise self._disk_full(folder, f"only {free_b / 1e9:.2f} GB are free")

    def _disk_full(self, folder: Path, detail: str) -> DiskFullError:
        count, _, height, width = self._shape
        needed_gb = count * self._frame_b / 1e9
        size = f"{count:,} frames of {self._camera} at {height}×{width} px"
        problem = f"{size} take {needed_gb:.2f} GB, and {detail}."
        remedy = "Use another cache folder, a smaller policy.resize_shape, or fewer dataset.episodes."
        return DiskFullError([Fault(str(folder), problem, remedy)])

    def _write(self, building: Path, threads: int) -> None:
        with building.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, _header(self._shape))
            start_b = file.tell()
            file.truncate(start_b + self._shape[0] * self._frame_b)
            file.flush()
            self._decode_all(file.fileno(), start_b, threads, building.parent)

    def _decode_all(self, file: int, start_b: int, threads: int, folder: Path) -> None:
        tasks = [partial(self._decode, piece, file, start_b) for piece in self._pieces]
        try:
            run_parallel(tasks, threads, self._failed, self._tell_progress)
        except OSError as error:
            if not is_disk_full(error):
                raise
            raise self._disk_full(folder, f"writing them failed ({error.strerror})") from error
        self._tell(f"{self._camera}: {self._shape[0]:,} of {self._shape[0]:,} frames")

    def _decode(self, piece: FramePart, file: int, start_b: int) -> None:
        for row, picture_CHW in decode_part(piece, self._size, self._dataset.name_row):
            if self._failed.is_set():
                return
            _write_at(file, np.ascontiguousarray(picture_CHW).data.cast("B"), start_b + row * self._frame_b)
            with self._counting:
                self._done += 1

    def _tell_progress(self) -> None:
        # Only if there was progress: a decoder that reported without it would never be known to hang.
        moved = self._told < self._done < self._shape[0]
        if moved and time.monotonic() - self._told_s >= PROGRESS_EVERY_S:
            self._told_s, self._told = time.monotonic(), self._done
            self._tell(f"{self._camera}: {self._done:,} of {self._shape[0]:,} frames")


def _write_at(file: int, data: memoryview, start_b: int) -> None:
    """Write, rather than map: a full disk is an error here, in a map it would kill the process."""
    while data:
        written_b = os.pwrite(file, data, start_b)
        data, start_b = data[written_b:], start_b + written_b


def _header(shape: tuple[int, ...]) -> dict[str, object]:
    return {"descr": "|u1", "fortran_order": False, "shape": shape}
