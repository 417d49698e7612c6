"""Repair info.json: the version, the frame rate, and the features as the files have them."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import read_json
from trainables.dataset.format.info import FASTEST_FPS, SLOWEST_FPS, Info, read_info, whole_number
from trainables.dataset.format.schema import (
    CHANNELS,
    CHUNK_SIZE,
    IMAGE_DTYPES,
    INDEX_FEATURES,
    VERSIONS,
    DatasetFeature,
    dimension_texts,
)
from trainables.dataset.repair.evidence import (
    PANDAS_INDEX,
    SAME_RATE,
    camera_files,
    data_columns,
    data_files,
    described_column,
    is_picture_column,
    probed,
    timestamp_rate,
    video_rate,
)
from trainables.dataset.repair.log import RepairLog

__all__ = ["Described", "describe"]

INFO = "meta/info.json"
JITTER = 0.25
"""Up to this share the usual step of uneven timestamps may differ from 1 / fps: a wall clock's do, while
another frame rate differs by more."""


@dataclass(frozen=True)
class Described:
    """A repaired info.json.

    Attributes:
        raw: Its content; numbers that follow from the data are still those of the original.
        info: The same as it is read.
        keep_times: Whether timestamps are kept because it is not certain which frame rate is right.
    """

    raw: dict[str, Any]
    info: Info
    keep_times: bool


def describe(root: Path, log: RepairLog) -> Described:
    """Read and repair info.json.

    Raises:
        DatasetError: If it cannot be read, or the rest cannot be without what it lacks.
    """
    raw = read_json(root / INFO)
    raw["codebase_version"] = _version(root, raw.get("codebase_version"), log)
    chunk = whole_number(raw.get("chunks_size"))
    if not chunk:
        if "chunks_size" in raw:
            log.change("info", INFO, f"chunks_size is {raw['chunks_size']!r}.", f"Set to {CHUNK_SIZE}.")
        raw["chunks_size"] = CHUNK_SIZE
    keep_times = _mend_fps(root, raw, log)
    if (root / "video").is_dir() and not (root / "videos").is_dir():
        log.change(
            "template", "video", "the videos are in video/.", "They are in videos/, as LeRobot has them."
        )
    if isinstance(raw.get("features"), dict):
        _Features(root, raw, log).mend()
    return Described(raw, _as_info(root, raw), keep_times)


def _as_info(root: Path, raw: Mapping[str, Any]) -> Info:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "info.json")
        path.write_text(json.dumps(raw), encoding="utf-8")
        try:
            return replace(read_info(path), path=root / INFO)
        except DatasetError as error:
            where = str(root / INFO)
            raise DatasetError([f.__class__(where, f.problem, f.remedy) for f in error.faults]) from error


def _version(root: Path, said: Any, log: RepairLog) -> Any:
    """The version that the files of the metadata have, if only one is possible."""
    v3 = any((root / "meta" / "episodes").rglob("*.parquet"))
    v2 = (root / "meta" / "episodes.jsonl").is_file()
    if v3 == v2:
        return said
    per_episode = (root / "meta" / "episodes_stats.jsonl").is_file()
    true = "v3.0" if v3 else "v2.1" if per_episode or said not in VERSIONS else "v2.0"
    if said == true or (v2 and said in ("v2.0", "v2.1")):
        return said
    log.change(
        "version", INFO, f"codebase_version is {said!r}, the files are those of {true}.", f"Set to {true}."
    )
    return true


# -- the frame rate


def _mend_fps(root: Path, raw: dict[str, Any], log: RepairLog) -> bool:
    """Set the frame rate right if the files agree on it; returns whether timestamps are to be kept."""
    said = raw.get("fps")
    even, usual = timestamp_rate(data_files(root))
    video = video_rate(camera_files(root, str(raw["codebase_version"])))
    fps = _valid_fps(said)
    agreed = even if video is None else video if even is None or _same(even, video) else None
    if fps is None:
        if agreed is not None:
            raw["fps"] = _plain(agreed)
            sources = (
                "the timestamps"
                if video is None
                else "the timestamps and the videos"
                if even
                else "the videos"
            )
            log.change("fps", INFO, f"fps is {said!r}.", f"Set to {raw['fps']:g}, as {sources} have it.")
        return False
    raw["fps"] = _plain(fps)
    if said != raw["fps"] or isinstance(said, str):
        log.change("fps", INFO, f"fps is {said!r}.", f"Set to {raw['fps']:g}.")
    if usual is None or _same(usual, fps) or (video is not None and _same(video, fps)):
        return False
    if video is not None and even is not None and _same(even, video):
        raw["fps"] = _plain(video)
        problem = f"fps is {fps:g}; the timestamps and the videos have {video:.4g}."
        log.change("fps", INFO, problem, f"Set to {raw['fps']:g}.")
        return False
    if even is None and abs(usual / fps - 1) <= JITTER:
        return False
    log.remains(
        "timestamps",
        "warning",
        "timestamp",
        f"the usual step is 1/{usual:.4g} s, and info.json has fps {fps:g}.",
        "Either of them may be right, and nothing else tells the frame rate.",
        "Set fps in meta/info.json to the rate at which the robot was recorded, and run the repair again.",
    )
    return True


def _valid_fps(value: Any) -> float | None:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if SLOWEST_FPS <= value <= FASTEST_FPS else None


def _plain(fps: float) -> int | float:
    """A frame rate as LeRobot writes it: a whole number if it is one."""
    near = round(fps)
    return near if near and math.isclose(fps, near, rel_tol=1e-4) else fps


def _same(one: float, two: float) -> bool:
    return abs(one / two - 1) <= SAME_RATE


# -- the features


class _Features:
    """The features of info.json beside the columns and videos that there are."""

    def __init__(self, root: Path, raw: dict[str, Any], log: RepairLog) -> None:
        self._features: dict[str, Any] = raw["features"]
        self._log = log
        files = data_files(root)
        self._columns = data_columns(files)
        self._first = files[0] if files else None
        self._cameras = camera_files(root, str(raw["codebase_version"]))

    def mend(self) -> None:
        for name in list(self._features):
            if name in INDEX_FEATURES:
                continue
            if name in self._cameras and name not in self._columns.names:
                self._mend_video(name)
            elif name in self._columns.names:
                self._mend_column(name)
            elif self._first is not None:
                self._mend_absent(name)
        self._add_unlisted()
        self._add_standard()

    def _value(self, name: str) -> dict[str, Any]:
        if not isinstance(self._features[name], dict):
            self._features[name] = {"dtype": None, "shape": None, "names": None}
        value: dict[str, Any] = self._features[name]
        return value

    def _mend_video(self, name: str) -> None:
        value = self._value(name)
        if value.get("dtype") != "video":
            problem = f"{name} has dtype {value.get('dtype')!r}, and its pictures are in videos."
            self._log.change("features", INFO, problem, "The dtype is 'video'.")
            value["dtype"] = "video"
        video = next((found for path in self._cameras[name] if (found := probed(path))), None)
        if video is None:
            return
        shape = _shape(value)
        size = (video.height, video.width)
        if len(shape) == 3 and size in (shape[:2], shape[1:]) and set(shape) & set(CHANNELS):
            return
        channels = next((size for size in shape if size in CHANNELS), 3)
        problem = f"{name} has shape {value.get('shape')!r}, its videos have {size[0]}×{size[1]} px."
        value["shape"], value["names"] = [*size, channels], ["height", "width", "channels"]
        self._log.change("features", INFO, problem, f"The shape is {value['shape']}.")

    def _mend_column(self, name: str) -> None:
        assert self._first is not None
        value = self._value(name)
        if is_picture_column(self._columns.field(name).type):
            if value.get("dtype") not in IMAGE_DTYPES or value.get("dtype") == "video":
                problem = f"{name} has dtype {value.get('dtype')!r}, and its pictures are in the data files."
                self._log.change("features", INFO, problem, "The dtype is 'image'.")
                value["dtype"] = "image"
            return
        found = described_column(self._first, name)
        shape = _shape(value)
        if found is None or value.get("dtype") in IMAGE_DTYPES:
            self._log.remains(
                "unused_features",
                "warning",
                INFO,
                f"{name} (dtype {value.get('dtype')!r}) has no fixed shape in the data files.",
                "What it should be is not known. It is copied as it is; LeRobot may refuse it.",
                "Delete the column and the feature if nothing needs it.",
            )
            return
        if isinstance(value.get("dtype"), str) and math.prod(shape) == math.prod(found.shape) and shape:
            return
        problem = f"{name} is described with dtype {value.get('dtype')!r} and shape {value.get('shape')!r}."
        self._describe(name, found)
        self._log.change(
            "features", INFO, problem, f"As in the data files: {found.dtype} {list(found.shape)}."
        )

    def _describe(self, name: str, found: DatasetFeature) -> None:
        value = self._value(name)
        dtype = value.get("dtype")
        value["dtype"] = dtype if isinstance(dtype, str) and dtype.strip() else found.dtype
        value["shape"] = list(found.shape)
        if len(dimension_texts(value.get("names"))) != math.prod(found.shape):
            value["names"] = None

    def _mend_absent(self, name: str) -> None:
        value = self._value(name)
        if value.get("dtype") in IMAGE_DTYPES:
            self._log.remains(
                "absent_features",
                "error",
                name,
                "there is neither a video nor a column of it.",
                "The pictures are lost, or were not downloaded.",
                "Fetch the videos, or delete the feature from meta/info.json if there are none.",
            )
            return
        problem = f"{name} is described, and no data file has it."
        del self._features[name]
        self._log.change("absent_features", INFO, problem, "The feature is removed.")

    def _add_unlisted(self) -> None:
        for name in self._columns.names:
            if name in self._features or name in INDEX_FEATURES:
                continue
            if name.startswith(PANDAS_INDEX):
                self._log.change(
                    "unlisted_columns", "data", f"the column {name} is pandas' own.", "Left out."
                )
                continue
            assert self._first is not None
            found = described_column(self._first, name)
            if found is None:
                self._log.remains(
                    "unlisted_columns",
                    "warning",
                    "data",
                    f"the column {name} ({self._columns.field(name).type}) is not in info.json.",
                    "How to describe it is not known. It is copied as it is; LeRobot may refuse the set.",
                    "Delete the column, or describe it in meta/info.json.",
                )
                continue
            self._features[name] = {"dtype": found.dtype, "shape": list(found.shape), "names": None}
            done = f"Described as {found.dtype} {list(found.shape)}."
            self._log.change("unlisted_columns", INFO, f"the column {name} is not described.", done)

    def _add_standard(self) -> None:
        added = []
        for name, feature in INDEX_FEATURES.items():
            described = self._features.get(name)
            if not isinstance(described, dict) or not described.get("dtype") or not _shape(described):
                self._features[name] = {"dtype": feature.dtype, "shape": [1], "names": None}
                added.append(name)
        if added:
            problem = f"{', '.join(added)} {'is' if len(added) == 1 else 'are'} not described."
            self._log.change("features", INFO, problem, "Described as LeRobot does.")


def _shape(value: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of a feature; empty if it is not one."""
    shape = value.get("shape")
    sizes = [whole_number(size) for size in shape] if isinstance(shape, (list, tuple)) else []
    return tuple(size for size in sizes if size) if all(sizes) else ()
