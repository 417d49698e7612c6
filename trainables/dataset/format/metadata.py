"""Read the metadata of LeRobot folders: v3.0 (parquet) and v2.1, v2.0 (JSON lines). No data, no pictures.

What the metadata says of the place of an episode's rows is not kept for v3.0: sets that LeRobot 0.4 converted
carry wrong numbers there, so rows are found by their ``episode_index`` instead.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.schema import (
    CHUNK_SIZE,
    DATA_PATH_V2,
    VERSIONS,
    VIDEO_PATH_V2,
    VIDEO_PATH_V3,
    DatasetFeature,
)

__all__ = [
    "EpisodeRecord",
    "Metadata",
    "VideoPlace",
    "inside",
    "listed",
    "read_metadata",
]

WHAT_A_DATASET_IS = (
    "A LeRobot dataset is a folder with meta/info.json, data/chunk-000/*.parquet and, where it has cameras, "
    "videos/."
)
LISTED_AT_MOST = 10
LONGEST_NAME_B = 255
"""What the file systems in use take for one part of a path."""
MAX_NUMBER = 2**40
"""No dataset has as many episodes or frames; a larger number is damage."""


@dataclass(frozen=True)
class VideoPlace:
    """Where an episode's frames of one camera are.

    Attributes:
        path: The file, relative to the dataset's folder.
        start_s: Time in the file at which the episode starts.
    """

    path: str
    start_s: float


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode as the metadata has it.

    Attributes:
        index: Its number in the opened dataset.
        length: Frames.
        tasks: What is done in it, in words.
        data: Its data file relative to the dataset's folder (v2.x); None in v3.0.
        videos: Where each camera's frames are.
        before: Numbers that the datasets opened before this one take up; 0 for the first, or the only one.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str | None = None
    videos: Mapping[str, VideoPlace] = field(default_factory=dict)
    before: int = 0

    @property
    def own(self) -> int:
        """Its number in its own files."""
        return self.index - self.before


@dataclass(frozen=True)
class Metadata:
    """A dataset's metadata.

    Attributes:
        root: The dataset's folder.
        version: ``v3.0``, ``v2.1`` or ``v2.0``.
        fps: Frames per second.
        features: Every feature of info.json, in order.
        episodes: Every episode, by ascending index.
        tasks: Text of each task by its number.
        files: The metadata files that were read, relative to the folder.
        renamed: For each feature with another name in the files, that name.
        before: As for ``EpisodeRecord``.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, DatasetFeature]
    episodes: tuple[EpisodeRecord, ...]
    tasks: Mapping[int, str]
    files: tuple[str, ...]
    renamed: Mapping[str, str] = field(default_factory=dict)
    before: int = 0

    @property
    def frames(self) -> int:
        """Frames of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def recorded(self, name: str) -> str:
        """What a feature is called in the files."""
        return self.renamed.get(name, name)

    def numbered_from(self, first: int) -> Metadata:
        """The same with ``first`` added to the episodes' numbers."""
        episodes = tuple(replace(e, index=e.own + first, before=first) for e in self.episodes)
        return replace(self, episodes=episodes, before=first)

    def data_files(self, episodes: Iterable[EpisodeRecord]) -> list[str]:
        """List the data files of ``episodes``, relative to the folder; in v3.0 those of the whole dataset."""
        if self.version == "v3.0":
            found = sorted((self.root / "data").rglob("*.parquet"))
            return [path.relative_to(self.root).as_posix() for path in found]
        return [episode.data for episode in episodes if episode.data is not None]

    def file(self, path: str) -> Path:
        """Find a video file; some sets have it under ``video/`` where the metadata says ``videos/``."""
        whole = self.root / path
        if not whole.exists() and path.startswith("videos/"):
            other = self.root / ("video/" + path.removeprefix("videos/"))
            if other.exists():
                return other
        return whole


def read_metadata(root: Path, where: str = "dataset.root") -> Metadata:
    """Read a dataset's metadata.

    Args:
        root: The dataset's folder.
        where: Name of the field that names the folder, for the error's text.

    Raises:
        DatasetError: If the folder is no LeRobot dataset, or one of an unknown version, or broken.
    """
    if not root.is_dir():
        raise dataset_error(where, f"{str(root)!r} is no folder.", WHAT_A_DATASET_IS)
    info_path = root / "meta" / "info.json"
    if not info_path.is_file():
        raise dataset_error(where, f"{str(root)!r} has no meta/info.json.", WHAT_A_DATASET_IS)
    info = _read_json(info_path)
    version = info.get("codebase_version")
    if version not in VERSIONS:
        remedy = f"Versions that can be read: {', '.join(VERSIONS)}. LeRobot converts older sets."
        raise dataset_error(str(info_path), f"codebase_version is {version!r}.", remedy)
    fps = info.get("fps")
    if not isinstance(fps, (int, float)) or fps <= 0:
        raise dataset_error(str(info_path), f"fps is {fps!r}.", "Expected a number above 0.")
    features = _features(info_path, info.get("features"))
    reader = _read_v3 if version == "v3.0" else _read_v2
    try:
        episodes, tasks, files = reader(root, info, features)
        _check_episodes(episodes)
    except (
        ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError, pa.ArrowException
    ) as error:  # fmt: skip
        detail = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise dataset_error(str(root / "meta"), f"cannot be read as {version}: {detail}.") from error
    return Metadata(
        root=root,
        version=version,
        fps=float(fps),
        features=features,
        episodes=tuple(sorted(episodes, key=lambda episode: episode.index)),
        tasks=tasks,
        files=("meta/info.json", *files),
    )


def _check_episodes(episodes: Sequence[EpisodeRecord]) -> None:
    """Refuse what no dataset can mean: the same episode twice, a number or a length that cannot be."""
    indices = [episode.index for episode in episodes]
    twice = sorted(index for index, times in Counter(indices).items() if times > 1)
    if twice:
        raise ValueError(f"episodes {listed(twice)} are there more than once")
    for episode in episodes:
        if not 0 <= episode.index < MAX_NUMBER or not 0 <= episode.length < MAX_NUMBER:
            raise ValueError(f"an episode has number {episode.index} and {episode.length} frames")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise dataset_error(str(path), f"cannot be read: {error}.") from error
    if not isinstance(value, dict):
        raise dataset_error(str(path), "is no JSON object.")
    return value


def _features(path: Path, described: Any) -> dict[str, DatasetFeature]:
    if not isinstance(described, dict) or not described:
        raise dataset_error(str(path), "has no features.", "Expected a mapping of features by name.")
    features = {}
    for name, value in described.items():
        try:
            shape = tuple(int(size) for size in value["shape"]) or (1,)
            feature = DatasetFeature(str(value["dtype"]), shape, value.get("names"))
        except (ArithmeticError, KeyError, TypeError, ValueError, AttributeError) as error:
            raise dataset_error(
                str(path), f"feature {name!r} is {value!r}.", "It needs dtype, shape."
            ) from error
        if feature.is_camera and len(shape) != 3:
            remedy = "Pictures are (height, width, channels)."
            raise dataset_error(str(path), f"feature {name!r} has shape {list(shape)}.", remedy)
        features[name] = feature
    return features


# -- v3.0


def _read_v3(
    root: Path, info: Mapping[str, Any], features: Mapping[str, DatasetFeature]
) -> tuple[list[EpisodeRecord], dict[int, str], list[str]]:
    files = sorted((root / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise ValueError("there is no meta/episodes/*/*.parquet")
    cameras = [name for name, feature in features.items() if feature.dtype == "video"]
    template = info.get("video_path") or VIDEO_PATH_V3
    rows = [row for path in files for row in _episode_rows(path, cameras)]
    episodes = [_episode_v3(row, cameras, template) for row in rows]
    tasks_file = root / "meta" / "tasks.parquet"
    tasks = _tasks_v3(tasks_file)
    named = [path.relative_to(root).as_posix() for path in [*files, tasks_file] if path.exists()]
    return episodes, tasks, named


def _episode_rows(path: Path, cameras: Sequence[str]) -> list[dict[str, Any]]:
    columns = ["episode_index", "tasks", "length"]
    for camera in cameras:
        columns += [f"videos/{camera}/{item}" for item in ("chunk_index", "file_index", "from_timestamp")]
    # The columns of statistics, ten for each feature, are most of the file: they are not read.
    file = pq.ParquetFile(path)
    there = set(file.schema_arrow.names)
    rows: list[dict[str, Any]] = file.read(columns=[name for name in columns if name in there]).to_pylist()
    return rows


def _episode_v3(row: Mapping[str, Any], cameras: Sequence[str], template: str) -> EpisodeRecord:
    videos = {}
    for camera in cameras:
        place = {
            "video_key": camera,
            "chunk_index": int(row[f"videos/{camera}/chunk_index"]),
            "file_index": int(row[f"videos/{camera}/file_index"]),
        }
        start_s = float(row[f"videos/{camera}/from_timestamp"])
        if not math.isfinite(start_s):
            raise ValueError(f"videos/{camera}/from_timestamp of an episode is {start_s}")
        videos[camera] = VideoPlace(inside(template.format(**place)), start_s)
    tasks = tuple(row.get("tasks") or ())
    return EpisodeRecord(int(row["episode_index"]), int(row["length"]), tasks, None, videos)


def _tasks_v3(path: Path) -> dict[int, str]:
    if not path.exists():
        return {}
    table = pq.ParquetFile(path).read()  # read_table would import pandas
    texts = [name for name in table.column_names if name != "task_index"]
    if not texts:
        return {}
    named = (
        "task" if "task" in texts else texts[0]
    )  # the text is the frame's index, so its column has no name
    pairs = zip(table["task_index"].to_pylist(), table[named].to_pylist(), strict=True)
    return {int(number): str(text) for number, text in pairs}


# -- v2.1 and v2.0


def _read_v2(
    root: Path, info: Mapping[str, Any], features: Mapping[str, DatasetFeature]
) -> tuple[list[EpisodeRecord], dict[int, str], list[str]]:
    cameras = [name for name, feature in features.items() if feature.dtype == "video"]
    data_path = info.get("data_path") or DATA_PATH_V2
    video_path = info.get("video_path") or VIDEO_PATH_V2
    chunk = int(info.get("chunks_size") or CHUNK_SIZE)
    episodes = []
    for row in _read_lines(root / "meta" / "episodes.jsonl"):
        index = int(row["episode_index"])
        place = {"episode_index": index, "episode_chunk": index // chunk}
        videos = {
            camera: VideoPlace(inside(video_path.format(**place, video_key=camera)), 0.0)
            for camera in cameras
        }
        data = inside(data_path.format(**place))
        episodes.append(EpisodeRecord(index, int(row["length"]), tuple(row.get("tasks") or ()), data, videos))
    tasks_file = root / "meta" / "tasks.jsonl"
    rows = _read_lines(tasks_file) if tasks_file.exists() else []
    tasks = {int(row["task_index"]): str(row["task"]) for row in rows}
    return episodes, tasks, ["meta/episodes.jsonl", *(["meta/tasks.jsonl"] if tasks else [])]


def _read_lines(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise ValueError(f"{path.name}, line {number}: {error}") from error
    return rows


def inside(path: str, said_by: str = "the metadata") -> str:
    """Check that a path from a dataset's metadata, or from a listing, stays in the dataset's folder.

    Links are not followed: the hub's cache is made of links that leave the folder, and rightly so.

    Raises:
        DatasetError: If it is absolute or climbs out, or no file system would take it.
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    if "\0" in path or any(len(part.encode("utf-8", "replace")) > LONGEST_NAME_B for part in parts.parts):
        raise dataset_error(f"{path[:80]!r}...", f"a path in {said_by} is no name of a file.", "Repair it.")
    if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts[0] if parts.parts else ""):
        raise dataset_error(repr(path), f"a path in {said_by} leaves the dataset's folder.", "Repair it.")
    return parts.as_posix()


def listed(numbers: Sequence[object], most: int = LISTED_AT_MOST) -> str:
    """Name at most a few of many: ``[1, 2, 3, ... 120 in all]``."""
    shown = ", ".join(str(number) for number in numbers[:most])
    more = f", ... {len(numbers)} in all" if len(numbers) > most else ""
    return f"[{shown}{more}]"
