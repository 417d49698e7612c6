"""One LeRobot folder, opened: the rows of its chosen episodes, where their pictures are, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.decode import FramePart
from trainables.dataset.format.metadata import EpisodeRecord, Metadata
from trainables.dataset.format.tables import Table, read_table
from trainables.dataset.sources.find import Source
from trainables.features import Feature, PolicyFeatures
from trainables.ranges import compressed

__all__ = ["DatasetFolder"]

# Files up to this size are part of the fingerprint byte by byte, larger ones by some of their blocks.
WHOLE_FILE_B = 8 * 1024 * 1024
WHOLE_VIDEO_B = 256 * 1024
BLOCK_B = 64 * 1024
BLOCKS = 4


class DatasetFolder:
    """The chosen episodes of one folder. Rows count from 0 here, whatever is opened beside it.

    Attributes:
        source: Where it lies.
        metadata: All that its metadata says, with the opened dataset's episode numbers and feature names.
        records: The chosen episodes, by ascending index.

    Raises:
        DatasetError: If the rows of the chosen episodes cannot be read.
    """

    def __init__(
        self,
        source: Source,
        metadata: Metadata,
        records: tuple[EpisodeRecord, ...],
        features: PolicyFeatures,
    ) -> None:
        self.source = source
        self.metadata = metadata
        self.records = records
        self._table = _read_vectors(metadata, records, features) if records else Table()

    def __len__(self) -> int:
        """Count the rows."""
        return self._table.length

    def take(self, name: str) -> np.ndarray:
        """Hand over a feature's values (N, *shape): they are kept by the caller that asks, not here."""
        return self._table.take(self.metadata.recorded(name), self.metadata.features[name])

    @cached_property
    def fingerprint(self) -> str:
        """Identify the folder's content; see ``LeRobotDataset.fingerprint``."""
        digest = hashlib.sha256()
        metadata = self.metadata
        if self.source.repo_id is not None:
            digest.update(f"{self.source.repo_id}@{self.source.revision}".encode())
            return digest.hexdigest()
        for name in metadata.files:
            _digest_file(digest, name, metadata.root / name, WHOLE_FILE_B)
        for name in metadata.data_files(metadata.episodes):
            _digest_file(digest, name, metadata.root / name, WHOLE_FILE_B)
        videos = {v.path for record in metadata.episodes for v in record.videos.values()}
        for name in sorted(videos):
            _digest_file(digest, name, metadata.file(name), WHOLE_VIDEO_B)
        return digest.hexdigest()

    def frame_parts(
        self,
        camera: Feature,
        tolerance_s: float,
        times_s: NDArray[np.float32] | None,
        episodes: Collection[int] | None = None,
    ) -> list[FramePart]:
        """Say where the rows' pictures are, file by file.

        Args:
            camera: The feature.
            tolerance_s: How far a video frame may lie from its time.
            times_s: The time of each row in its episode, (N,); None if the pictures are in no video.
            episodes: Places in ``records`` of the episodes that are asked for; None: all.
        """
        channels, height, width = camera.shape
        if times_s is None:
            places = self._cell_places()
        else:
            places = self._video_places(camera.name, times_s, episodes)
        return [
            FramePart(
                camera=camera.name,
                path=path,
                rows=rows,
                times_s=seconds,
                in_file=in_file,
                shape=(channels, height, width),
                fps=self.metadata.fps,
                tolerance_s=tolerance_s,
                root=self.metadata.root,
                column=self.metadata.recorded(camera.name),
            )
            for path, rows, seconds, in_file in places
        ]

    def _video_places(
        self, camera: str, times_s: NDArray[np.float32], episodes: Collection[int] | None
    ) -> list[_Place]:
        stops = self._stops
        by_file: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
        for number in range(len(self.records)) if episodes is None else sorted(episodes):
            record, stop = self.records[number], int(stops[number])
            rows = np.arange(stop - record.length, stop)
            seconds = times_s[stop - record.length : stop].astype(np.float64)
            place = record.videos[camera]
            by_file.setdefault(place.path, []).append((rows, place.start_s + seconds))
        places: list[_Place] = []
        for path, parts in by_file.items():
            rows = np.concatenate([rows for rows, _ in parts])
            seconds = np.concatenate([seconds for _, seconds in parts])
            order = np.argsort(seconds, kind="stable")
            places.append((self.metadata.file(path), rows[order], seconds[order], None))
        return places

    def _cell_places(self) -> list[_Place]:
        return [(file.path, file.in_dataset, None, file.in_file) for file in self._table.files]

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum([record.length for record in self.records], dtype=np.int64)


_Place = tuple[Path, NDArray[np.int64], NDArray[np.float64] | None, NDArray[np.int64] | None]


def _read_vectors(metadata: Metadata, records: tuple[EpisodeRecord, ...], features: PolicyFeatures) -> Table:
    names = [f.name for f in features.all() if not metadata.features[f.name].is_camera]
    names += [name for name in ("timestamp", "task_index") if name in metadata.features]
    paths = [metadata.root / path for path in metadata.data_files(records)]
    if not paths:
        raise dataset_error(str(metadata.root), "has no data/*/*.parquet.", "Fetch the dataset again.")
    gone = [record for record in records if record.data and not (metadata.root / record.data).exists()]
    if gone:
        episodes = compressed(record.index for record in gone)
        problem = f"the data files of episodes {episodes} are missing; first {gone[0].data}."
        remedy = f"Fetch the dataset again, or set dataset.exclude_episodes: {episodes}."
        raise dataset_error(str(metadata.root), problem, remedy, [record.index for record in gone])
    recorded = {metadata.recorded(name): metadata.features[name] for name in names}
    return read_table(paths, records, recorded, list(recorded))


def _digest_file(digest: hashlib._Hash, name: str, path: Path, whole_b: int) -> None:
    if not path.exists():
        digest.update(f"{name} missing\n".encode())
        return
    size = path.stat().st_size
    digest.update(f"{name} {size}\n".encode())
    with path.open("rb") as file:
        if size <= whole_b:
            digest.update(file.read())
            return
        for number in range(BLOCKS):
            file.seek((size - BLOCK_B) * number // (BLOCKS - 1))
            digest.update(file.read(BLOCK_B))
