"""One LeRobot folder, opened: the rows of its chosen episodes, where their pictures are, its fingerprint."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.assign import Stretch, assign_frames
from trainables.dataset.format.decode import FramePart
from trainables.dataset.format.metadata import EpisodeRecord, Metadata
from trainables.dataset.format.tables import Table, available_cpus, read_table
from trainables.dataset.format.video import Video, VideoError, probe_video
from trainables.dataset.sources.find import Source
from trainables.features import Feature, PolicyFeatures
from trainables.ranges import compressed

__all__ = ["DatasetFolder"]

# Files up to this size are part of the fingerprint byte by byte, larger ones by some of their blocks.
WHOLE_FILE_B = 8 * 1024 * 1024
WHOLE_VIDEO_B = 256 * 1024
BLOCK_B = 64 * 1024
BLOCKS = 4
PROBES_AT_ONCE = 8


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
        self._videos: dict[Path, Video | str] = {}
        self._stretches_of: dict[str, dict[str, list[Stretch]]] = {}
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
        blank = FramePart(
            camera=camera.name,
            path=self.metadata.root,
            rows=np.empty(0, np.int64),
            times_s=None,
            in_file=None,
            shape=(channels, height, width),
            fps=self.metadata.fps,
            tolerance_s=tolerance_s,
            root=self.metadata.root,
            column=self.metadata.recorded(camera.name),
        )
        if times_s is None:
            files = self._table.files
            return [
                replace(blank, path=file.path, rows=file.in_dataset, in_file=file.in_file) for file in files
            ]
        return self._video_parts(blank, times_s, episodes)

    def _video_parts(
        self, blank: FramePart, times_s: NDArray[np.float32], episodes: Collection[int] | None
    ) -> list[FramePart]:
        stops = self._stops
        by_file: dict[str, list[int]] = {}
        for number in range(len(self.records)) if episodes is None else sorted(episodes):
            by_file.setdefault(self.records[number].videos[blank.camera].path, []).append(number)
        stretches = self._stretches(blank.camera)
        probed = self._probe([self.metadata.file(path) for path in by_file])
        parts = []
        for path, numbers in by_file.items():
            found = probed[self.metadata.file(path)]
            lengths = [self.records[number].length for number in numbers]
            place = np.concatenate([np.arange(length) for length in lengths])
            first = np.repeat(
                [int(stops[number]) - self.records[number].length for number in numbers], lengths
            )
            episode = np.repeat([self.records[number].own for number in numbers], lengths)
            rows = first + place
            part = replace(blank, path=self.metadata.file(path), rows=rows)
            if isinstance(found, str):
                start_s = np.repeat([self.records[n].videos[blank.camera].start_s for n in numbers], lengths)
                wanted_s = start_s + times_s[rows].astype(np.float64)
                part = replace(
                    part, times_s=wanted_s, wanted_s=wanted_s, lost=np.ones(len(rows), bool), error=found
                )
            else:
                assigned = assign_frames(
                    found.times_s, stretches[path], episode, place, times_s[rows],
                    fps=blank.fps, tolerance_s=blank.tolerance_s,
                )  # fmt: skip
                part = replace(
                    part,
                    times_s=assigned.times_s,
                    wanted_s=assigned.wanted_s,
                    lost=assigned.lost,
                    by_row=assigned.by_row,
                    video=found,
                )
            parts.append(part.choose_places(np.argsort(_times(part), kind="stable")))
        return parts

    def _stretches(self, camera: str) -> dict[str, list[Stretch]]:
        """For each video file of a camera the episodes in it, chosen or not."""
        if camera not in self._stretches_of:
            found: dict[str, list[Stretch]] = {}
            for record in self.metadata.episodes:
                if camera in record.videos:
                    place = record.videos[camera]
                    stretch = Stretch(record.own, place.start_s, record.length)
                    found.setdefault(place.path, []).append(stretch)
            self._stretches_of[camera] = found
        return self._stretches_of[camera]

    def _probe(self, paths: Collection[Path]) -> dict[Path, Video | str]:
        """What each video contains, or why it cannot be opened; each is opened once."""
        new = [path for path in dict.fromkeys(paths) if path not in self._videos]
        if len(new) == 1:
            self._videos[new[0]] = _probed(new[0])
        elif new:
            with ThreadPoolExecutor(max_workers=min(PROBES_AT_ONCE, 2 * available_cpus())) as pool:
                self._videos.update(zip(new, pool.map(_probed, new), strict=True))
        return {path: self._videos[path] for path in paths}

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum([record.length for record in self.records], dtype=np.int64)


def _times(part: FramePart) -> NDArray[np.float64]:
    assert part.times_s is not None
    return part.times_s


def _probed(path: Path) -> Video | str:
    try:
        video = probe_video(path)
    except VideoError as error:
        return str(error)
    return video if len(video.times_s) else "has no frames"


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
