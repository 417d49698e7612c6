"""What the files of a dataset show by themselves: frame rates, columns, cameras."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.tables import read_numbers
from trainables.dataset.format.video import Video, VideoError, probe_video

__all__ = [
    "PANDAS_INDEX",
    "SAME_RATE",
    "camera_files",
    "data_columns",
    "data_files",
    "described_column",
    "is_picture_column",
    "timestamp_rate",
    "video_rate",
]

PANDAS_INDEX = "__index_level_"
"""Columns with such names hold the row numbers of a pandas frame."""
SAME_RATE = 0.01
"""Two frame rates that differ by less are the same: drivers say 30 and mean 29.97."""
EVEN_STEPS = 0.01
"""Timestamps are evenly spaced if no step differs by more than this share: a wall clock's differ by more."""
FILES_ASKED = 5
"""So many files are asked for the frame rate, evenly chosen; all have to agree."""
ARROW_DTYPES = {"float": "float32", "double": "float64", "halffloat": "float16", "large_string": "string"}


def data_files(root: Path) -> list[Path]:
    """The parquet files below ``data/`` that are not hidden and can be opened."""
    found = []
    for path in sorted((root / "data").rglob("*.parquet")):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            with suppress(pa.ArrowException, OSError):
                pq.read_schema(path)
                found.append(path)
    return found


def camera_files(root: Path, version: str) -> dict[str, list[Path]]:
    """The video files below ``videos/``, or ``video/`` as some sets have it, by camera."""
    found: dict[str, list[Path]] = {}
    for path in sorted(root.glob("videos/*/*/*.mp4")) or sorted(root.glob("video/*/*/*.mp4")):
        camera, chunk = path.parent.parent.name, path.parent.name
        name = camera if version == "v3.0" else chunk
        if not name.startswith(".") and not path.name.startswith("."):
            found.setdefault(name, []).append(path)
    return found


def _some(files: Sequence[Path]) -> list[Path]:
    places = np.unique(np.linspace(0, len(files) - 1, min(len(files), FILES_ASKED)).round().astype(int))
    return [files[int(place)] for place in places]


def timestamp_rate(files: Sequence[Path]) -> tuple[float | None, float | None]:
    """The frame rate that timestamps have.

    Returns:
        The rate if they are evenly spaced, and the one of the usual step; None if there is none.
    """
    steps_s: list[np.ndarray] = []
    for path in _some(files):
        with suppress(DatasetError):
            _, columns = read_numbers(path, ["timestamp", "episode_index"])
            if "timestamp" in columns:
                steps = np.diff(columns["timestamp"])
                if "episode_index" in columns:
                    steps = steps[np.diff(columns["episode_index"]) == 0]
                steps_s.append(steps[steps > 0])  # not at the start of an episode or a recording
    every = np.concatenate(steps_s) if steps_s else np.empty(0)
    if not len(every):
        return None, None
    usual_s = float(np.median(every))
    # After an hour a float32 has steps of a quarter of a millisecond.
    even = bool((np.abs(every - usual_s) <= EVEN_STEPS * usual_s + 5e-4).mean() > 0.99)
    return (1 / usual_s if even else None), 1 / usual_s


def video_rate(cameras: dict[str, list[Path]]) -> float | None:
    """The frame rate of the videos; None if there are none, or they differ."""
    rates = []
    for files in cameras.values():
        for path in _some(files):
            video = probed(path)
            if video is not None and video.frames > 1:
                if video.step_s is None:
                    return None
                rates.append(1 / video.step_s)
    if not rates or max(rates) > min(rates) * (1 + SAME_RATE / 10):
        return None
    return float(np.median(rates))


def probed(path: Path) -> Video | None:
    """What a video contains; None if it cannot be opened."""
    try:
        return probe_video(path)
    except VideoError:
        return None


def data_columns(files: Sequence[Path]) -> Any:
    """The schema of the first data file; an empty one if there is none."""
    return pq.read_schema(files[0]) if files else pa.schema([])


def is_picture_column(kind: Any) -> bool:
    """Whether a column's type is that of pictures."""
    if pa.types.is_struct(kind):
        return {field.name for field in kind} >= {"bytes", "path"}
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def described_column(path: Path, name: str) -> DatasetFeature | None:
    """A feature as a data file shows it; None if it has no fixed shape, or is neither numbers nor text."""
    column = pq.ParquetFile(path).read(columns=[name])[name]
    kind, shape = column.type, []
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        sizes = pc.unique(pc.list_value_length(column)).to_pylist()
        if len(sizes) != 1 or not sizes[0]:
            return None
        shape.append(int(sizes[0]))
        kind, column = kind.value_type, pc.list_flatten(column)
    number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    text = (pa.types.is_string(kind) or pa.types.is_large_string(kind)) and not shape
    if not number and not text:
        return None
    return DatasetFeature(ARROW_DTYPES.get(str(kind), str(kind)), tuple(shape) or (1,))
