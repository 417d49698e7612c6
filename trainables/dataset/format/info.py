"""Read meta/info.json: the version, the frame rate, the features, and where the files are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import Template, read_json
from trainables.dataset.format.schema import (
    CHANNELS,
    CHUNK_SIZE,
    DATA_PATH_V2,
    DATA_PATH_V3,
    IMAGE_DTYPES,
    INDEX_FEATURES,
    VERSIONS,
    VIDEO_PATH_V2,
    VIDEO_PATH_V3,
    DatasetFeature,
    says_depth,
)
from trainables.interface import Fault

__all__ = ["Info", "info_faults", "info_from", "read_info", "whole_number"]

SLOWEST_FPS, FASTEST_FPS = 1e-3, 1e5
MAX_NUMBER = 2**40
"""No dataset has as many episodes, frames or pixels; a larger number is damage."""

_CAMERAS = dict.fromkeys(("video_key", "image_key", "camera_key", "camera", "key"), "video_key")
_EPISODE = dict.fromkeys(("episode_index", "episode", "episode_id", "file_index"), "episode_index")
_EPISODE_CHUNK = dict.fromkeys(("episode_chunk", "chunk_index", "chunk", "chunk_id"), "episode_chunk")
_FILE = dict.fromkeys(("file_index", "file", "file_id"), "file_index")
_CHUNK = dict.fromkeys(("chunk_index", "chunk", "chunk_id", "episode_chunk"), "chunk_index")

_PICTURE_WORDS = ("image", "camera", "cam_", "_cam", "rgb", "pixel", "video")
_PICTURE_DTYPES = ("images", "videos", "img", "png", "jpg", "jpeg", "mp4", "rgb", "picture")
_SMALLEST_SIDE = 8
"""An array with shorter sides than this is not taken for a picture by its shape."""


@dataclass(frozen=True)
class Info:
    """What info.json says.

    Attributes:
        path: The file.
        version: ``v3.0``, ``v2.1`` or ``v2.0``.
        fps: Frames per second.
        features: The features that can be read, in order.
        unusable: Why each of the others cannot be, as the end of a sentence.
        suspects: Why features seem to be cameras and are not described as such, as the end of a sentence.
        data: Where the data files are.
        video: Where the videos are.
        chunk: Episodes of a chunk folder (v2.x).
        total_episodes: How many episodes there should be; None if it does not say.
    """

    path: Path
    version: str
    fps: float
    features: Mapping[str, DatasetFeature]
    unusable: Mapping[str, str]
    suspects: Mapping[str, str]
    data: Template
    video: Template
    chunk: int
    total_episodes: int | None

    @property
    def videos(self) -> list[str]:
        """Names of the cameras whose pictures are in videos."""
        return [name for name, feature in self.features.items() if feature.dtype == "video"]


def read_info(path: Path) -> Info:
    """Read info.json.

    Raises:
        DatasetError: If it cannot be read, or lacks what no dataset can do without; has all faults.
    """
    info = read_json(path)
    faults = info_faults(path, info)
    if faults:
        raise DatasetError(list(faults.values()))
    return info_from(path, info)


def info_faults(path: Path, info: Mapping[str, Any]) -> dict[str, Fault]:
    """What is wrong with the keys that no dataset can do without, by key."""
    faults = {}
    version = info.get("codebase_version")
    if _version(version) not in VERSIONS:
        remedy = f"Versions that can be read: {', '.join(VERSIONS)}. LeRobot converts older sets."
        faults["codebase_version"] = Fault(str(path), f"codebase_version is {version!r}.", remedy)
    described = info.get("features")
    if not isinstance(described, dict) or not described:
        remedy = "Expected a mapping of features by name."
        faults["features"] = Fault(str(path), "has no features.", remedy)
    fps = info.get("fps")
    number = isinstance(fps, (int, float)) and not isinstance(fps, bool)
    if not number or not SLOWEST_FPS <= fps <= FASTEST_FPS:  # type: ignore[operator]  # NaN is outside too
        remedy = f"Expected the frames per second, a number from {SLOWEST_FPS:g} to {FASTEST_FPS:,.0f}."
        faults["fps"] = Fault(str(path), f"fps is {fps!r}.", remedy)
    chunk = info.get("chunks_size")
    if chunk is not None and not whole_number(chunk):
        remedy = f"Expected a whole number above 0; LeRobot writes {CHUNK_SIZE}."
        faults["chunks_size"] = Fault(str(path), f"chunks_size is {chunk!r}.", remedy)
    return faults


def info_from(path: Path, info: Mapping[str, Any]) -> Info:
    """What info.json says, of a mapping in which `info_faults` finds nothing."""
    version = _version(info["codebase_version"])
    features: dict[str, DatasetFeature] = {}
    unusable: dict[str, str] = {}
    suspects: dict[str, str] = {}
    for name, value in info["features"].items():
        feature = _feature(value)
        if isinstance(feature, str):
            unusable[name] = feature
            if str(_part(value, "dtype")).lower() in IMAGE_DTYPES:
                suspects[name] = f"is a camera that cannot be used: it {feature}"
            continue
        features[name] = feature
        if _seems_a_camera(name, feature, value):
            suspects[name] = (
                f"has dtype {feature.dtype!r} and shape {list(feature.shape)}: it seems to be a camera, "
                "and cameras have dtype 'video' or 'image'"
            )
    for name, usual in INDEX_FEATURES.items():
        if unusable.pop(name, None) is not None or name not in features:
            features[name] = usual  # every data file has it, whatever info.json lists; or it is derived
    v3 = version == "v3.0"
    return Info(
        path,
        version,
        float(info["fps"]),
        features,
        unusable,
        suspects,
        Template(
            "data_path",
            str(info.get("data_path") or (DATA_PATH_V3 if v3 else DATA_PATH_V2)),
            DATA_PATH_V3 if v3 else DATA_PATH_V2,
            _CHUNK | _FILE if v3 else _EPISODE_CHUNK | _EPISODE,
        ),
        Template(
            "video_path",
            str(info.get("video_path") or (VIDEO_PATH_V3 if v3 else VIDEO_PATH_V2)),
            VIDEO_PATH_V3 if v3 else VIDEO_PATH_V2,
            _CAMERAS | (_CHUNK | _FILE if v3 else _EPISODE_CHUNK | _EPISODE),
        ),
        whole_number(info.get("chunks_size")) or CHUNK_SIZE,
        _total(info.get("total_episodes")),
    )


def _version(value: Any) -> str:
    """A version as LeRobot writes it; it reads ``3.0`` and ``V3.0``, too."""
    plain = str(value).strip().lower()
    return plain if plain.startswith("v") else f"v{plain}"


def whole_number(value: Any) -> int | None:
    """A whole number from 0 on, as JSON and parquet have it; None if it is something else.

    True is not 1, and 1.5 is not cut to 1.
    """
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if not (math.isfinite(value) and 0 <= value < MAX_NUMBER and value == int(value)):
        return None
    return int(value)


def _total(value: Any) -> int | None:
    return whole_number(value)


def _feature(value: Any) -> DatasetFeature | str:
    """A feature as info.json describes it; if it cannot be read, why, as the end of a sentence."""
    if not isinstance(value, Mapping):
        return f"is described as {str(value)[:60]!r}, without dtype and shape"
    dtype, shape = value.get("dtype"), value.get("shape")
    if not isinstance(dtype, str) or not dtype.strip():
        return f"has dtype {dtype!r}" if "dtype" in value else "has no dtype"
    dtype = dtype.strip().lower() if dtype.strip().lower() in IMAGE_DTYPES else dtype.strip()
    if "shape" not in value:
        return "has no shape"
    sizes = [whole_number(size) for size in shape] if isinstance(shape, (list, tuple)) else [None]
    if any(size is None or size == 0 for size in sizes):
        return f"has shape {shape!r}"
    found = tuple(size for size in sizes if size is not None) or (1,)
    if dtype in IMAGE_DTYPES and len(found) != 3:
        return f"has shape {list(found)}, and pictures have (height, width, channels)"
    return DatasetFeature(dtype, found, value.get("names"), is_depth=says_depth(value))


def _part(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, Mapping) else None


def _seems_a_camera(name: str, feature: DatasetFeature, described: Mapping[str, Any]) -> bool:
    """Whether a feature of another dtype is most likely a camera whose description is wrong."""
    if feature.is_camera or feature.is_depth or "depth" in name.lower() or name in INDEX_FEATURES:
        return False
    if feature.dtype.lower() in _PICTURE_DTYPES:
        return True
    if any(isinstance(described.get(key), Mapping) for key in ("info", "video_info")):
        keys = [str(key) for part in ("info", "video_info") for key in described.get(part) or ()]
        if any(key.startswith("video.") for key in keys):
            return True
    shape = feature.shape
    named = any(word in name.lower() for word in _PICTURE_WORDS)
    if len(shape) == 3:
        sides = sorted(shape)[1:]
        picture = (shape[0] in CHANNELS or shape[2] in CHANNELS) and min(sides) >= _SMALLEST_SIDE
        return picture and (named or feature.dtype == "uint8")
    return len(shape) == 2 and named and feature.dtype == "uint8" and min(shape) >= _SMALLEST_SIDE
