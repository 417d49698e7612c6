"""Open a LeRobot dataset: v3.0, v2.1 or v2.0, a folder or a dataset of the hub.

An opened dataset is a table of rows, one per frame of the chosen episodes, counted from 0 whatever was left
out. Vectors are in memory; pictures are decoded on request, or once and for all by ``frames.open_frames``.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.decode import FramePart, decode_part
from trainables.dataset.doctor import dataset_faults
from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.metadata import (
    EpisodeRecord,
    Metadata,
    feature_faults,
    listed,
    policy_features,
    read_metadata,
    select_episodes,
    selection_faults,
)
from trainables.dataset.schema import DatasetFeature
from trainables.dataset.source import Source, fetch_files, find_source
from trainables.dataset.statistics import (
    PIXEL_VALUES,
    Statistics,
    image_histogram,
    image_statistics,
    imagenet_statistics,
    sample_rows,
    vector_statistics,
)
from trainables.dataset.tables import Table, read_table
from trainables.features import Feature, PolicyFeatures
from trainables.interface import Fault

if TYPE_CHECKING:
    from trainables.dataset.frames import FrameArray

__all__ = ["DatasetError", "DatasetFeature", "Episode", "LeRobotDataset", "open_dataset", "preflight"]

# Files up to this size are part of the fingerprint byte by byte, larger ones by some of their blocks.
WHOLE_FILE_B = 8 * 1024 * 1024
WHOLE_VIDEO_B = 256 * 1024
BLOCK_B = 64 * 1024
BLOCKS = 4

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Episode:
    """An episode of an opened dataset.

    Attributes:
        index: Its number in the dataset on disk.
        start: Its first row in the opened dataset.
        stop: The row after its last.
        tasks: What is done in it, in words.
    """

    index: int
    start: int
    stop: int
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return self.stop - self.start


class LeRobotDataset:
    """The chosen episodes of a dataset, with the features that a policy uses. Made by ``open_dataset``.

    Attributes:
        root: The folder.
        repo_id: The hub's name, or None for a folder.
        revision: The hub's commit, or None for a folder.
        version: ``v3.0``, ``v2.1`` or ``v2.0``.
        fps: Frames per second.
        features: Every feature of info.json.
        policy_features: The chosen inputs and the action; image shapes (C, H, W) as recorded.
        episodes: The chosen episodes, by ascending index.
        tolerance_s: How far a video frame may lie from its timestamp.
    """

    def __init__(
        self,
        source: Source,
        metadata: Metadata,
        records: tuple[EpisodeRecord, ...],
        features: PolicyFeatures,
        table: Table,
        tolerance_s: float,
    ) -> None:
        self.root = metadata.root
        self.repo_id = source.repo_id
        self.revision = source.revision
        self.version = metadata.version
        self.fps = metadata.fps
        self.features = metadata.features
        self.policy_features = features
        self.tolerance_s = tolerance_s
        stops = np.cumsum([record.length for record in records]).tolist()
        self.episodes = tuple(
            Episode(record.index, stop - record.length, stop, record.tasks)
            for record, stop in zip(records, stops, strict=True)
        )
        self._metadata = metadata
        self._records = records
        self._table = table
        self._columns: dict[str, np.ndarray] = dict(table.columns)
        self._starts = np.array([episode.start for episode in self.episodes])

    def __len__(self) -> int:
        """Count the frames."""
        return self._table.length

    @property
    def is_whole(self) -> bool:
        """Whether every episode of the dataset was chosen."""
        return len(self.episodes) == len(self._metadata.episodes)

    @property
    def frames_on_disk(self) -> int:
        """Frames of the whole dataset, chosen or not."""
        return sum(record.length for record in self._metadata.episodes)

    @cached_property
    def rows_on_disk(self) -> NDArray[np.int64]:
        """For each opened row its number were the whole dataset opened."""
        records = self._metadata.episodes
        stops = np.cumsum([record.length for record in records]).tolist()
        first = {record.index: stop - record.length for record, stop in zip(records, stops, strict=True)}
        return np.concatenate([first[e.index] + np.arange(len(e)) for e in self.episodes])

    def column(self, name: str) -> np.ndarray:
        """Give a feature's values (N, *shape), read once; floats of any width become float32.

        Raises:
            DatasetError: Where there is no such feature, or it is a camera.
        """
        if name not in self._columns:
            if name not in self.features:
                raise dataset_error(
                    name, "no feature has this name.", f"There are: {', '.join(self.features)}."
                )
            if self.features[name].is_camera:
                raise dataset_error(name, "is a camera.", "Use pictures() or frames.open_frames().")
            self._columns[name] = self._table.read(name, self.features[name])
        return self._columns[name]

    def vector(self, name: str) -> NDArray[np.float32]:
        """Give a feature's values as float32 (N, D), contiguous."""
        values = self.column(name)
        if values.dtype != np.float32:
            self._columns[name] = values = np.ascontiguousarray(values, dtype=np.float32)
        return values

    def episode_of(self, row: int) -> Episode:
        """Find the episode that a row belongs to."""
        return self.episodes[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def name_row(self, row: int) -> str:
        """Name a row as a person would look for it: ``episode 3, frame 17``."""
        episode = self.episode_of(row)
        return f"episode {episode.index}, frame {row - episode.start}"

    def task(self, row: int) -> str:
        """Say in words what is done at a row; empty where the dataset does not say."""
        if "task_index" in self.features:
            number = int(self.column("task_index")[row, 0])
            if number in self._metadata.tasks:
                return self._metadata.tasks[number]
        return next(iter(self.episode_of(row).tasks), "")

    @cached_property
    def fingerprint(self) -> str:
        """Identify the dataset on disk: the same on every machine, another when its content changes.

        A sha256 over the hub's name and commit, or over the metadata, the data, and the sizes and some blocks
        of the videos. It does not depend on which episodes and features were chosen.
        """
        digest = hashlib.sha256()
        if self.repo_id is not None:
            digest.update(f"{self.repo_id}@{self.revision}".encode())
            return digest.hexdigest()
        for name in self._metadata.files:
            _digest_file(digest, name, self.root / name, WHOLE_FILE_B)
        for name in self._metadata.data_files(self._metadata.episodes):
            _digest_file(digest, name, self.root / name, WHOLE_FILE_B)
        videos = {v.path for record in self._metadata.episodes for v in record.videos.values()}
        for name in sorted(videos):
            _digest_file(digest, name, self._metadata.file(name), WHOLE_VIDEO_B)
        return digest.hexdigest()

    @property
    def identity(self) -> str:
        """Identify the opened rows: the fingerprint and which episodes were chosen."""
        chosen = [episode.index for episode in self.episodes]
        return hashlib.sha256(json.dumps([self.fingerprint, chosen]).encode()).hexdigest()

    # -- pictures

    def frame_parts(self, camera: str) -> list[FramePart]:
        """Say where each row's picture of ``camera`` is, file by file."""
        feature = next((f for f in self.policy_features.cameras if f.name == camera), None)
        if feature is None:
            cameras = [f.name for f in self.policy_features.cameras]
            raise dataset_error(camera, "is no camera that was chosen.", f"Chosen: {', '.join(cameras)}.")
        channels, height, width = feature.shape
        places = self._video_places(camera) if self.features[camera].dtype == "video" else self._cell_places()
        return [
            FramePart(
                camera=camera,
                path=path,
                rows=rows,
                times_s=times_s,
                in_file=in_file,
                shape=(channels, height, width),
                fps=self.fps,
                tolerance_s=self.tolerance_s,
                root=self.root,
            )
            for path, rows, times_s, in_file in places
        ]

    def _video_places(self, camera: str) -> list[tuple[Path, NDArray[np.int64], NDArray[np.float64], None]]:
        timestamp = self.column("timestamp")[:, 0].astype(np.float64)
        by_file: dict[str, list[tuple[NDArray[np.int64], NDArray[np.float64]]]] = {}
        for episode, record in zip(self.episodes, self._records, strict=True):
            place = record.videos[camera]
            rows = np.arange(episode.start, episode.stop)
            by_file.setdefault(place.path, []).append((rows, place.start_s + timestamp[rows]))
        places = []
        for path, parts in by_file.items():
            rows = np.concatenate([rows for rows, _ in parts])
            times_s = np.concatenate([times_s for _, times_s in parts])
            order = np.argsort(times_s, kind="stable")
            places.append((self._metadata.file(path), rows[order], times_s[order], None))
        return places

    def _cell_places(self) -> list[tuple[Path, NDArray[np.int64], None, NDArray[np.int64]]]:
        return [(file.path, file.in_dataset, None, file.in_file) for file in self._table.files]

    def pictures(
        self, camera: str, rows: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Decode the pictures of some rows, (K, C, H, W).

        Args:
            camera: The feature.
            rows: Rows of the opened dataset, in any order, repeated or not.
            size: Wanted (height, width); None: as recorded.

        Raises:
            DatasetError: Where a picture cannot be decoded.
        """
        needed, where = np.unique(rows, return_inverse=True)
        found = dict(self._decode(camera, needed, size))
        return np.stack([found[int(row)] for row in needed])[where]

    def _decode(
        self, camera: str, rows: NDArray[np.int64], size: tuple[int, int] | None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decode pictures one by one, file by file."""
        for part in self.frame_parts(camera):
            chosen = part.choose(rows)
            for piece in chosen.split(max(len(chosen.rows), 1)):
                yield from decode_part(piece, size, self.name_row)

    def window(self, index: int, n_obs_steps: int, horizon: int) -> dict[str, np.ndarray]:
        """Cut the window at a row, as LeRobot does: the edge frame is repeated where it leaves the episode.

        Returns:
            Each observation (n_obs_steps, *shape), cameras as uint8 (n_obs_steps, C, H, W); ``action``
            (horizon, A), from the first observation's step on; ``action_is_pad`` (horizon,).
        """
        episode = self.episode_of(index)
        observed = np.clip(index + np.arange(1 - n_obs_steps, 1), episode.start, episode.stop - 1)
        asked = index + np.arange(1 - n_obs_steps, 1 - n_obs_steps + horizon)
        acted = np.clip(asked, episode.start, episode.stop - 1)
        cameras = {feature.name for feature in self.policy_features.cameras}
        window: dict[str, np.ndarray] = {}
        for feature in self.policy_features.inputs:
            if feature.name in cameras:
                window[feature.name] = self.pictures(feature.name, observed)
            else:
                window[feature.name] = self.vector(feature.name)[observed]
        window["action"] = self.vector("action")[acted]
        window["action_is_pad"] = asked != acted
        return window

    # -- statistics

    def statistics(
        self,
        episodes: Collection[int] | None = None,
        *,
        use_imagenet_stats: bool = False,
        frames: Mapping[str, FrameArray] | None = None,
    ) -> Statistics:
        """Compute the statistics of the policy's inputs and output over some episodes.

        Args:
            episodes: Indices of episodes; None: all that were chosen.
            use_imagenet_stats: Give every camera ImageNet's mean and std instead of its own, as LeRobot does.
            frames: The decoded frames of every camera, to count the pixels as the policy sees them; None:
                decode some frames as they were recorded.

        Returns:
            float64 arrays: vectors (D,), exact; cameras (C, 1, 1) in [0, 1], over an evenly spaced sample.

        Raises:
            DatasetError: Where an episode was not chosen, or a picture cannot be decoded.
        """
        rows = self.rows_of(episodes)
        cameras = {feature.name for feature in self.policy_features.cameras}
        found: Statistics = {}
        for feature in self.policy_features.all():
            if feature.name not in cameras:
                found[feature.name] = vector_statistics(self.vector(feature.name)[rows])
                continue
            decoded = None if frames is None else frames[feature.name]
            found[feature.name] = self._camera_statistics(feature, rows, decoded)
            if use_imagenet_stats and feature.shape[0] == 3:
                found[feature.name] |= imagenet_statistics()
        return found

    def _camera_statistics(
        self, camera: Feature, rows: NDArray[np.int64], frames: FrameArray | None
    ) -> dict[str, np.ndarray]:
        sample = sample_rows(rows, math.prod(camera.shape if frames is None else frames.array.shape[1:]))
        if frames is None:
            pictures = (picture for _, picture in self._decode(camera.name, sample, None))
        else:
            pictures = (frames.take(row) for row in sample)
        histogram = np.zeros((camera.shape[0], PIXEL_VALUES), np.int64)
        for picture_CHW in pictures:
            histogram += image_histogram(picture_CHW[None])
        return image_statistics(histogram, len(sample))

    def rows_of(self, episodes: Collection[int] | None) -> NDArray[np.int64]:
        """List the rows of some episodes, by their indices; None: every row.

        Raises:
            DatasetError: Where an episode was not chosen or does not exist.
        """
        if episodes is None:
            return np.arange(len(self))
        by_index = {episode.index: episode for episode in self.episodes}
        missing = sorted(set(episodes) - set(by_index))
        if missing:
            raise dataset_error("episodes", f"{missing} are not among the {len(by_index)} opened ones.")
        chosen = [by_index[index] for index in sorted(episodes)]
        return np.concatenate([np.arange(e.start, e.stop) for e in chosen] or [np.arange(0)])


def open_dataset(
    root_or_repo_id: str | Path,
    *,
    revision: str | None = None,
    episodes: Collection[int] | None = None,
    exclude_episodes: Collection[int] = (),
    observations: Collection[str] | None = None,
    cache: Path | None = None,
    tolerance_s: float = 1e-4,
    progress: Progress | None = None,
) -> LeRobotDataset:
    """Open a dataset: read its metadata and its vectors, decode nothing.

    Args:
        root_or_repo_id: A ``Path`` is a folder. A text is a folder where there is one, else a hub name.
        revision: Branch, tag or commit on the hub; None: the newest.
        episodes: Indices of the episodes to use; None: all.
        exclude_episodes: Indices of episodes to leave out.
        observations: Names of the observations to use; None: every one a diffusion policy can use.
        cache: Folder for what is fetched from the hub; None: Hugging Face's own cache.
        tolerance_s: How far a video frame may lie from its timestamp.
        progress: Told before something slow.

    Raises:
        DatasetError: With everything that is wrong with the folder, the choice or the features.
    """
    source = find_source(root_or_repo_id, revision=revision, cache=cache, progress=progress)
    metadata = read_metadata(source.root, source.field)
    faults = selection_faults(metadata, episodes, exclude_episodes) + feature_faults(metadata, observations)
    if faults:
        raise DatasetError(faults)
    metadata = fetch_files(
        source,
        metadata,
        episodes=episodes,
        exclude_episodes=exclude_episodes,
        observations=observations,
        cache=cache,
        progress=progress,
    )
    records = select_episodes(metadata, episodes, exclude_episodes)
    features = policy_features(metadata, observations)
    table = _read_vectors(metadata, records, features)
    return LeRobotDataset(source, metadata, records, features, table, tolerance_s)


def preflight(
    root_or_repo_id: str | Path,
    *,
    revision: str | None = None,
    episodes: Collection[int] | None = None,
    exclude_episodes: Collection[int] = (),
    observations: Collection[str] | None = None,
    holdout_fraction: float = 0.0,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Fault]:
    """Check a dataset as training would use it, before anything is trained: quick, nothing is decoded.

    A hub dataset is fetched: training needs the files anyway, and only they can be checked.

    Args:
        root_or_repo_id: As for ``open_dataset``.
        revision: As for ``open_dataset``.
        episodes: As for ``open_dataset``.
        exclude_episodes: As for ``open_dataset``.
        observations: As for ``open_dataset``.
        holdout_fraction: Share of the episodes to be held out.
        cache: As for ``open_dataset``.
        progress: Told before something slow.

    Returns:
        Everything that is wrong; empty where nothing is.
    """
    try:
        dataset = open_dataset(
            root_or_repo_id,
            revision=revision,
            episodes=episodes,
            exclude_episodes=exclude_episodes,
            observations=observations,
            cache=cache,
            progress=progress,
        )
    except DatasetError as error:
        return list(error.faults)
    return dataset_faults(dataset, holdout_fraction)


def _read_vectors(metadata: Metadata, records: tuple[EpisodeRecord, ...], features: PolicyFeatures) -> Table:
    names = [f.name for f in features.all() if not metadata.features[f.name].is_camera]
    names += [name for name in ("timestamp", "task_index") if name in metadata.features]
    paths = [metadata.root / path for path in metadata.data_files(records)]
    if not paths:
        raise dataset_error(str(metadata.root), "has no data/*/*.parquet.", "Fetch the dataset again.")
    gone = [record for record in records if record.data and not (metadata.root / record.data).exists()]
    if gone:
        episodes = listed([record.index for record in gone])
        problem = f"the data files of episodes {episodes} are missing; first {gone[0].data}."
        remedy = f"Fetch the dataset again, or set dataset.exclude_episodes: {episodes}."
        raise dataset_error(str(metadata.root), problem, remedy)
    return read_table(paths, records, metadata.features, names)


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
