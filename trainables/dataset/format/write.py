"""Write LeRobot datasets: v3.0, and v2.1 and v2.0 for those who still need them.

A dataset is built in a folder beside the wanted one and renamed when it is complete, so that a folder of the
wanted name is always a whole dataset.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.schema import (
    CHUNK_SIZE,
    CURRENT_VERSION,
    DATA_PATH_V2,
    DATA_PATH_V3,
    INDEX_FEATURES,
    VERSIONS,
    VIDEO_PATH_V2,
    VIDEO_PATH_V3,
    DatasetFeature,
)
from trainables.dataset.format.video import ordinary_priority
from trainables.dataset.statistics import (
    PIXEL_VALUES,
    image_histogram,
    image_statistics,
    vector_statistics,
)
from trainables.files import put_in_place

__all__ = [
    "DATA_FILE_MB",
    "MB",
    "DatasetWriter",
    "episode_row",
    "hub_features",
    "write_metadata_v2",
    "write_metadata_v3",
]

DATA_FILE_MB = 100
VIDEO_FILE_MB = 200
MB = 1024 * 1024

# LeRobot's choices: a key frame every second frame, so that any frame is found by decoding at most two.
KEY_FRAME_EVERY = "2"
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "libsvtav1": {"g": KEY_FRAME_EVERY, "crf": "30"},
    "libx264": {"g": KEY_FRAME_EVERY, "crf": "23"},
}
CODEC_NAMES = {"libsvtav1": "av1", "libx264": "h264"}
PIXEL_FORMAT = "yuv420p"


class DatasetWriter:
    """Writes one dataset, episode by episode.

    Use it as a context manager: leaving it finishes the dataset, leaving it by an error removes it.

        with DatasetWriter(root, fps=10, features=features) as writer:
            writer.add_episode({"observation.state": states, "action": actions}, task="Push the T.")

    Args:
        root: The folder to make; must not exist.
        fps: Frames per second.
        features: The features by name; those of every dataset (``timestamp``, ``index``, ...) are added.
        robot_type: Recorded in info.json.
        version: ``v3.0``, ``v2.1`` or ``v2.0``.
        encoder: ``libsvtav1`` or ``libx264``; None: the first of them that is here.
        episodes_per_file: Start new data and video files after so many episodes; None: when they are large.
        files_per_chunk: Files (v3.0) or episodes (v2.x) in one chunk folder.

    Raises:
        DatasetError: If the folder exists, or a feature or the version cannot be written.
    """

    def __init__(
        self,
        root: Path,
        *,
        fps: int,
        features: Mapping[str, DatasetFeature],
        robot_type: str | None = None,
        version: str = CURRENT_VERSION,
        encoder: str | None = None,
        episodes_per_file: int | None = None,
        files_per_chunk: int = CHUNK_SIZE,
    ) -> None:
        if version not in VERSIONS:
            raise dataset_error(
                "version", f"{version!r} cannot be written.", f"One of {', '.join(VERSIONS)}."
            )
        if root.exists():
            raise dataset_error(str(root), "exists already.", "Remove it, or write to another folder.")
        for name, feature in features.items():
            _check_feature(name, feature)
        self.root = root
        self.fps = fps
        self.features: dict[str, DatasetFeature] = {**features, **INDEX_FEATURES}
        self._version = version
        self._robot_type = robot_type
        self._encoder = encoder or _available_encoder()
        self._episodes_per_file = episodes_per_file if version == "v3.0" else 1
        self._files_per_chunk = files_per_chunk
        root.parent.mkdir(parents=True, exist_ok=True)
        self._building = root.parent / f".{root.name}.building-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._building.mkdir()
        self._episodes: list[_WrittenEpisode] = []
        self._tasks: dict[str, int] = {}
        self._data: _DataFile | None = None
        self._data_files = 0
        self._videos: dict[str, _VideoFile] = {}
        self._video_files = dict.fromkeys(self._video_names(), 0)
        self._frames = 0
        self._finished = False

    def __enter__(self) -> DatasetWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            if not self._finished:
                self.finish()
        else:
            self._discard()

    def add_episode(
        self, columns: Mapping[str, NDArray[np.generic]], task: str | Sequence[str] = "No task."
    ) -> int:
        """Write one episode.

        Args:
            columns: Every feature's frames, (T, *shape); pictures are uint8 (T, H, W, C). Strings are lists.
            task: What is done, in words; or one text per frame where the task changes.

        Returns:
            The episode's index.

        Raises:
            DatasetError: If a feature is missing, unknown, or of another shape or length.
        """
        length = self._check_episode(columns)
        tasks = [task] * length if isinstance(task, str) else list(task)
        if len(tasks) != length:
            raise dataset_error("task", f"{len(tasks)} texts for {length} frames.", "Give one, or one each.")
        episode = _WrittenEpisode(len(self._episodes), length, self._frames, list(dict.fromkeys(tasks)))
        for text in episode.tasks:
            self._tasks.setdefault(text, len(self._tasks))
        indices = self._index_columns(episode, [self._tasks[text] for text in tasks])
        for name in self._video_names():
            self._write_video(name, columns[name], episode)
        self._write_rows({**columns, **indices}, episode)
        episode.measure(self.features, {**columns, **indices})
        self._episodes.append(episode)
        self._frames += length
        return episode.index

    def finish(self) -> Path:
        """Write the metadata and give the folder its name.

        Returns:
            The dataset's folder.

        Raises:
            DatasetError: If no episode was added, or the folder has come into being meanwhile.
        """
        if not self._episodes:
            self._discard()
            raise dataset_error(str(self.root), "no episode was added.", "A dataset has at least one.")
        self._close_files()
        self._write_metadata()
        try:
            put_in_place(self._building, self.root)
        except OSError as error:
            self._discard()
            raise dataset_error(str(self.root), f"cannot be made: {error}.") from error
        self._finished = True
        return self.root

    # -- one episode

    def _check_episode(self, columns: Mapping[str, NDArray[np.generic]]) -> int:
        wanted = [name for name in self.features if name not in INDEX_FEATURES]
        missing = [name for name in wanted if name not in columns]
        unknown = [name for name in columns if name not in wanted]
        if missing or unknown:
            where = f"episode {len(self._episodes)}"
            raise dataset_error(where, f"missing: {missing}, unknown: {unknown}.", f"Expected: {wanted}.")
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) != 1 or 0 in lengths.values():
            problem = f"features of different or no length: {lengths}."
            raise dataset_error(f"episode {len(self._episodes)}", problem, "Give at least one frame each.")
        for name, values in columns.items():
            self._check_shape(name, values)
        return next(iter(lengths.values()))

    def _check_shape(self, name: str, values: NDArray[np.generic]) -> None:
        feature = self.features[name]
        if feature.dtype == "string":
            return
        shape = tuple(values.shape[1:])
        scalars = feature.shape == (1,) and shape == ()
        if shape != feature.shape and not scalars:
            raise dataset_error(name, f"frames of shape {shape}.", f"The feature's shape is {feature.shape}.")
        if feature.is_camera and values.dtype != np.uint8:
            raise dataset_error(name, f"pictures of dtype {values.dtype}.", "Use uint8.")

    def _index_columns(self, episode: _WrittenEpisode, task_index: list[int]) -> dict[str, np.ndarray]:
        frame = np.arange(episode.length)
        return {
            "timestamp": (frame / self.fps).astype(np.float32),
            "frame_index": frame,
            "episode_index": np.full(episode.length, episode.index),
            "index": episode.start + frame,
            "task_index": np.array(task_index),
        }

    def _write_rows(self, columns: Mapping[str, NDArray[np.generic]], episode: _WrittenEpisode) -> None:
        stored = {name: feature for name, feature in self.features.items() if feature.dtype != "video"}
        arrays = [_arrow_column(feature, columns[name]) for name, feature in stored.items()]
        schema = pa.schema(
            [(name, array.type) for name, array in zip(stored, arrays, strict=True)],
            metadata={"huggingface": json.dumps({"info": {"features": hub_features(stored)}})},
        )
        if self._data is not None and self._data.is_full(self._episodes_per_file):
            self._data.close()
            self._data = None
        if self._data is None:
            number = self._data_files
            path = self._path(self._data_template(), self._place(number, episode))
            self._data = _DataFile(number, path, pq.ParquetWriter(path, schema))
            self._data_files += 1
        self._data.writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
        self._data.episodes += 1
        episode.data_file = self._data.number

    def _write_video(self, name: str, frames: NDArray[np.generic], episode: _WrittenEpisode) -> None:
        video = self._videos.get(name)
        if video is not None and video.is_full(self._episodes_per_file):
            video.close()
            video = None
        if video is None:
            number = self._video_files[name]
            path = self._path(self._video_template(), self._place(number, episode) | {"video_key": name})
            height, width, _ = self.features[name].shape
            video = _VideoFile(number, path, self._encoder, self.fps, (height, width))
            self._videos[name] = video
            self._video_files[name] += 1
        start_s = video.frames / self.fps
        video.write(frames)
        episode.videos[name] = (video.number, start_s, video.frames / self.fps)

    # -- files

    def _video_names(self) -> list[str]:
        return [name for name, feature in self.features.items() if feature.dtype == "video"]

    def _data_template(self) -> str:
        return DATA_PATH_V3 if self._version == "v3.0" else DATA_PATH_V2

    def _video_template(self) -> str:
        return VIDEO_PATH_V3 if self._version == "v3.0" else VIDEO_PATH_V2

    def _place(self, file_number: int, episode: _WrittenEpisode) -> dict[str, Any]:
        chunk, file = divmod(file_number, self._files_per_chunk)
        return {
            "chunk_index": chunk,
            "file_index": file,
            "episode_chunk": episode.index // self._files_per_chunk,
            "episode_index": episode.index,
        }

    def _path(self, template: str, place: Mapping[str, Any]) -> Path:
        path = self._building / template.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _close_files(self) -> None:
        if self._data is not None:
            self._data.close()
        for video in self._videos.values():
            video.close()
        self._data = None
        self._videos = {}

    def _discard(self) -> None:
        self._close_files()
        shutil.rmtree(self._building, ignore_errors=True)
        self._finished = True

    # -- metadata

    def _info(self) -> dict[str, Any]:
        chunks = -(-len(self._episodes) // self._files_per_chunk)
        info: dict[str, Any] = {
            "codebase_version": self._version,
            "robot_type": self._robot_type,
            "total_episodes": len(self._episodes),
            "total_frames": self._frames,
            "total_tasks": len(self._tasks),
            "chunks_size": self._files_per_chunk,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self._episodes)}"},
            "data_path": self._data_template(),
            "video_path": self._video_template() if self._video_names() else None,
            "features": {name: self._feature_info(feature) for name, feature in self.features.items()},
        }
        if self._version == "v3.0":
            info |= {"data_files_size_in_mb": DATA_FILE_MB, "video_files_size_in_mb": VIDEO_FILE_MB}
        else:
            videos = len(self._video_names()) * len(self._episodes)
            info |= {"total_videos": videos, "total_chunks": chunks}
        return info

    def _feature_info(self, feature: DatasetFeature) -> dict[str, Any]:
        described = asdict(feature) | {"shape": list(feature.shape)}
        if feature.dtype == "video":
            height, width, channels = feature.shape
            described["info"] = {
                "video.height": height,
                "video.width": width,
                "video.codec": CODEC_NAMES[self._encoder],
                "video.pix_fmt": PIXEL_FORMAT,
                "video.is_depth_map": False,
                "video.fps": self.fps,
                "video.channels": channels,
                "has_audio": False,
            }
        return described

    def _write_metadata(self) -> None:
        tasks = list(self._tasks)
        if self._version == "v3.0":
            rows = [self._episode_row(episode) for episode in self._episodes]
            write_metadata_v3(self._building, self._info(), tasks, rows, self._statistics())
            return
        episodes = [
            {"episode_index": episode.index, "tasks": episode.tasks, "length": episode.length}
            for episode in self._episodes
        ]
        statistics = [episode.statistics(self.features) for episode in self._episodes]
        whole = self._statistics() if self._version == "v2.0" else {}
        write_metadata_v2(self._building, self._info(), tasks, episodes, statistics, whole)

    def _episode_row(self, episode: _WrittenEpisode) -> dict[str, Any]:
        videos = {}
        for name, (number, start_s, stop_s) in episode.videos.items():
            place = self._place(number, episode)
            videos[name] = (place["chunk_index"], place["file_index"], start_s, stop_s)
        data = self._place(episode.data_file, episode)
        return episode_row(
            episode.index,
            episode.tasks,
            episode.start,
            episode.length,
            (data["chunk_index"], data["file_index"]),
            videos,
            episode.statistics(self.features),
        )

    def _statistics(self) -> dict[str, dict[str, np.ndarray]]:
        whole = _WrittenEpisode(-1, self._frames, 0, [])
        for episode in self._episodes:
            whole.absorb(episode)
        return whole.statistics(self.features)


@dataclass
class _WrittenEpisode:
    """What is kept of an episode until the metadata is written: small, no pictures."""

    index: int
    length: int
    start: int
    tasks: list[str]
    data_file: int = 0
    videos: dict[str, tuple[int, float, float]] = field(default_factory=dict)
    vectors: dict[str, list[np.ndarray]] = field(default_factory=dict)
    histograms: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    def measure(
        self, features: Mapping[str, DatasetFeature], columns: Mapping[str, NDArray[np.generic]]
    ) -> None:
        for name, feature in features.items():
            if feature.is_camera:
                self.histograms[name] = image_histogram(np.moveaxis(columns[name], -1, 1))  # type: ignore[arg-type]
            elif feature.dtype != "string":
                self.vectors[name] = [columns[name].reshape(self.length, *feature.shape)]

    def absorb(self, other: _WrittenEpisode) -> None:
        for name, histogram in other.histograms.items():
            none = np.zeros((len(histogram), PIXEL_VALUES), np.int64)
            self.histograms[name] = self.histograms.get(name, none) + histogram
        for name, parts in other.vectors.items():
            self.vectors.setdefault(name, []).extend(parts)

    def statistics(self, features: Mapping[str, DatasetFeature]) -> dict[str, dict[str, np.ndarray]]:
        found = {}
        for name in features:
            if name in self.histograms:
                found[name] = image_statistics(self.histograms[name], self.length)
            elif name in self.vectors:
                found[name] = vector_statistics(np.concatenate(self.vectors[name]))
        return found


@dataclass
class _DataFile:
    number: int
    path: Path
    writer: Any
    episodes: int = 0

    def is_full(self, episodes: int | None) -> bool:
        return _is_full(self.episodes, episodes, self.path.stat().st_size, DATA_FILE_MB)

    def close(self) -> None:
        self.writer.close()


class _VideoFile:
    """An mp4 that episodes are appended to; frame n is shown at n / fps seconds."""

    def __init__(self, number: int, path: Path, encoder: str, fps: int, size: tuple[int, int]) -> None:
        # SVT-AV1 writes a page about itself to the terminal unless it is asked for errors only.
        os.environ.setdefault("SVT_LOG", "1")
        self.number = number
        self.frames = 0
        self.episodes = 0
        self._size_b = 0
        self._time_base = Fraction(1, fps)
        self._container = av.open(str(path), "w")
        self._stream = self._container.add_stream(
            encoder, rate=Fraction(fps), options=dict(ENCODERS[encoder])
        )
        self._stream.height, self._stream.width = size
        self._stream.pix_fmt = PIXEL_FORMAT
        self._stream.time_base = self._time_base
        with ordinary_priority():
            self._stream.codec_context.open()

    def write(self, frames_NHWC: NDArray[np.generic]) -> None:
        for picture in frames_NHWC:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.pts = self.frames
            frame.time_base = self._time_base
            self._mux(self._stream.encode(frame))
            self.frames += 1
        self.episodes += 1

    def is_full(self, episodes: int | None) -> bool:
        return _is_full(self.episodes, episodes, self._size_b, VIDEO_FILE_MB)

    def close(self) -> None:
        self._mux(self._stream.encode())
        self._container.close()

    def _mux(self, packets: Sequence[Any]) -> None:
        self._size_b += sum(packet.size for packet in packets)
        self._container.mux(packets)


def _is_full(episodes: int, most_episodes: int | None, size_b: int, most_mb: int) -> bool:
    if most_episodes is not None:
        return episodes >= most_episodes
    return size_b >= most_mb * MB


def _check_feature(name: str, feature: DatasetFeature) -> None:
    if name in INDEX_FEATURES:
        raise dataset_error(name, "is added by the writer.", "Leave it out.")
    if "/" in name:
        raise dataset_error(name, "a slash in a feature's name.", "Use dots.")
    if not feature.is_camera:
        return
    channels = (3,) if feature.dtype == "video" else (1, 3)
    if len(feature.shape) != 3 or feature.shape[2] not in channels:
        remedy = f"Pictures are (height, width, channels) with {' or '.join(map(str, channels))} channels."
        raise dataset_error(name, f"shape {feature.shape}.", remedy)
    if feature.dtype == "video" and (feature.shape[0] % 2 or feature.shape[1] % 2):
        raise dataset_error(name, f"{feature.shape[:2]} px.", "Video needs an even height and width.")


def _available_encoder() -> str:
    for encoder in ENCODERS:
        try:
            av.codec.Codec(encoder, "w")
        except av.codec.codec.UnknownCodecError:
            continue
        return encoder
    raise dataset_error("video", f"PyAV has none of the encoders {', '.join(ENCODERS)}.", "Use dtype image.")


def _arrow_column(feature: DatasetFeature, values: NDArray[np.generic]) -> Any:
    """Store a feature as LeRobot does: numbers as they are, vectors as lists, pictures as PNG."""
    if feature.dtype == "image":
        pictures = [{"bytes": _png(p), "path": f"frame-{n:06d}.png"} for n, p in enumerate(values)]
        return pa.array(pictures, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    if feature.dtype == "string":
        return pa.array([str(value) for value in values], pa.string())
    numbers = np.ascontiguousarray(values, dtype=feature.dtype)
    array = pa.array(numbers.reshape(-1))
    if feature.shape == (1,):
        return array
    for size in reversed(feature.shape):
        array = pa.FixedSizeListArray.from_arrays(array, size)
    return array


def _png(picture: NDArray[np.generic]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture).save(buffer, "PNG")
    return buffer.getvalue()


def hub_features(features: Mapping[str, DatasetFeature]) -> dict[str, Any]:
    """Describe the columns as the ``datasets`` library does, so that the hub shows pictures as pictures."""
    described: dict[str, Any] = {}
    for name, feature in features.items():
        if feature.dtype == "image":
            described[name] = {"_type": "Image"}
            continue
        value: dict[str, Any] = {"dtype": feature.dtype, "_type": "Value"}
        if feature.shape != (1,):
            for size in reversed(feature.shape):
                value = {"feature": value, "length": size, "_type": "List"}
        described[name] = value
    return described


def episode_row(
    index: int,
    tasks: Sequence[str],
    start: int,
    length: int,
    data: tuple[int, int],
    videos: Mapping[str, tuple[int, int, float, float]],
    statistics: Mapping[str, Mapping[str, np.ndarray]],
) -> dict[str, Any]:
    """Make the row of an episode in the table of v3.0.

    Args:
        index: The episode's number.
        tasks: What is done in it, in words.
        start: Number of its first row in the dataset.
        length: Frames.
        data: Chunk and number of the data file.
        videos: For each camera chunk and number of the video file, and the times at which it starts and ends.
        statistics: Statistics of each feature.
    """
    row: dict[str, Any] = {
        "episode_index": index,
        "tasks": list(tasks),
        "length": length,
        "data/chunk_index": data[0],
        "data/file_index": data[1],
        "dataset_from_index": start,
        "dataset_to_index": start + length,
    }
    for name, (chunk, file, start_s, stop_s) in videos.items():
        row[f"videos/{name}/chunk_index"] = chunk
        row[f"videos/{name}/file_index"] = file
        row[f"videos/{name}/from_timestamp"] = start_s
        row[f"videos/{name}/to_timestamp"] = stop_s
    for name, numbers in _plain(statistics).items():
        row |= {f"stats/{name}/{key}": value for key, value in numbers.items()}
    return row | {"meta/episodes/chunk_index": 0, "meta/episodes/file_index": 0}


def write_metadata_v3(
    folder: Path,
    info: Mapping[str, Any],
    tasks: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    statistics: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write the metadata of v3.0 into a dataset's folder.

    Args:
        folder: The folder.
        info: Content of info.json.
        tasks: The tasks in the order of their numbers.
        rows: What ``episode_row`` gives for each episode.
        statistics: Statistics of each feature over all episodes.
    """
    episodes = folder / "meta" / "episodes" / "chunk-000" / "file-000.parquet"
    episodes.parent.mkdir(parents=True)
    _write_json(folder / "meta" / "info.json", info)
    _write_tasks_table(tasks, folder / "meta" / "tasks.parquet")
    pq.write_table(pa.Table.from_pylist(rows), episodes)
    _write_json(folder / "meta" / "stats.json", _plain(statistics))


def write_metadata_v2(
    folder: Path,
    info: Mapping[str, Any],
    tasks: Sequence[str],
    episodes: Sequence[Mapping[str, Any]],
    statistics: Sequence[Mapping[str, Mapping[str, np.ndarray]]],
    whole: Mapping[str, Mapping[str, np.ndarray]],
) -> None:
    """Write the metadata of v2.1 or v2.0 into a dataset's folder.

    Args:
        folder: The folder.
        info: Content of info.json, which says which of the versions it is.
        tasks: The tasks in the order of their numbers.
        episodes: Number, tasks and length of each episode.
        statistics: For each episode the statistics of each feature; written for v2.1.
        whole: Those over all episodes; written for v2.0.
    """
    meta = folder / "meta"
    meta.mkdir(parents=True)
    _write_json(meta / "info.json", info)
    numbered = [{"task_index": number, "task": text} for number, text in enumerate(tasks)]
    _write_lines(meta / "tasks.jsonl", numbered)
    _write_lines(meta / "episodes.jsonl", episodes)
    if info["codebase_version"] == "v2.0":
        _write_json(meta / "stats.json", _plain(whole, leave_out=("count",)))
        return
    lines = [
        {"episode_index": episode["episode_index"], "stats": _plain(numbers)}
        for episode, numbers in zip(episodes, statistics, strict=True)
    ]
    _write_lines(meta / "episodes_stats.jsonl", lines)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=4), encoding="utf-8")


def _write_lines(path: Path, records: Sequence[Any]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def _write_tasks_table(tasks: Sequence[str], path: Path) -> None:
    """Write the tasks as the pandas frame that LeRobot reads: the texts are its index."""
    index = "__index_level_0__"
    described = {
        "index_columns": [index],
        "column_indexes": [_pandas_column(None, None, "unicode", "object")],
        "columns": [
            _pandas_column("task_index", "task_index", "int64", "int64"),
            _pandas_column(None, index, "unicode", "object"),
        ],
    }
    schema = pa.schema(
        [("task_index", pa.int64()), (index, pa.string())], metadata={"pandas": json.dumps(described)}
    )
    pq.write_table(pa.Table.from_arrays([list(range(len(tasks))), list(tasks)], schema=schema), path)


def _pandas_column(name: str | None, field_name: str | None, kind: str, dtype: str) -> dict[str, Any]:
    types = {"pandas_type": kind, "numpy_type": dtype, "metadata": None}
    return {"name": name, "field_name": field_name, **types}


def _plain(
    statistics: Mapping[str, Mapping[str, np.ndarray]], leave_out: Sequence[str] = ()
) -> dict[str, dict[str, Any]]:
    return {
        name: {key: value.tolist() for key, value in numbers.items() if key not in leave_out}
        for name, numbers in statistics.items()
    }
