"""The names and shapes of LeRobot's dataset folders, shared by what reads them and what writes them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainables.features import ENVIRONMENT_STATE, Feature, FeatureType

__all__ = [
    "CHANNELS",
    "CHUNK_SIZE",
    "CURRENT_VERSION",
    "DATA_PATH_V2",
    "DATA_PATH_V3",
    "EPISODES_PATH_V3",
    "IMAGE_DTYPES",
    "INDEX_FEATURES",
    "VERSIONS",
    "VIDEO_PATH_V2",
    "VIDEO_PATH_V3",
    "DatasetFeature",
    "plain_dimensions",
    "policy_feature",
    "says_depth",
]

CURRENT_VERSION = "v3.0"
VERSIONS = ("v3.0", "v2.1", "v2.0")
"""Versions that can be read and written, newest first."""

CHUNK_SIZE = 1000
"""At most so many files (v3.0) or episodes (v2.x) in one chunk folder, unless info.json says otherwise."""

DATA_PATH_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
DATA_PATH_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
EPISODES_PATH_V3 = "meta/episodes/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH_V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"

IMAGE_DTYPES = ("video", "image")
CHANNELS = (1, 3, 4)
"""How many channels a picture can have: tells (C, H, W) from (H, W, C) where the names do not."""


@dataclass(frozen=True)
class DatasetFeature:
    """One feature as info.json describes it.

    Attributes:
        dtype: A numpy dtype, ``image``, ``video`` or ``string``.
        shape: Shape of one frame; (H, W, C) for images and videos.
        names: Names of the dimensions, as info.json has them: a list, a mapping of lists, or None.
        is_depth: Whether info.json says that the pictures are depth maps.
    """

    dtype: str
    shape: tuple[int, ...]
    names: Any = None
    is_depth: bool = False

    @property
    def is_camera(self) -> bool:
        """Whether the frames are pictures."""
        return self.dtype in IMAGE_DTYPES


_DEPTH_FLAGS = {"is_depth_map", "is_depth", "depth_map"}
_PIXEL_FORMATS = {"pix_fmt", "pixel_format"}


def says_depth(described: Any) -> bool:
    """Whether a feature's description has a flag of a depth map, or a pixel format of one, at any level.

    LeRobot writes the flag into ``info``, older recorders into ``video_info`` or beside ``dtype``; its name
    may begin with ``video.``.
    """
    if isinstance(described, (list, tuple)):
        return any(says_depth(value) for value in described)
    if not isinstance(described, Mapping):
        return False
    for key, value in described.items():
        name = str(key).rpartition(".")[2].lower()
        if name in _DEPTH_FLAGS and (value in (True, 1) or str(value).lower() in ("true", "yes", "1")):
            return True
        if name in _PIXEL_FORMATS and re.fullmatch(DEPTH_FORMAT, str(value).lower()):
            return True
        if says_depth(value):
            return True
    return False


DEPTH_FORMAT = r"(gr[ae]y|ya?|z)(9|1[0-6]|f?32|f16)(le|be)?"
"""Names of grey pixels with more than 8 bits: FFmpeg's (``gray12le``), and those of drivers (``z16``)."""

INDEX_FEATURES: Mapping[str, DatasetFeature] = {
    "timestamp": DatasetFeature("float32", (1,)),
    "frame_index": DatasetFeature("int64", (1,)),
    "episode_index": DatasetFeature("int64", (1,)),
    "index": DatasetFeature("int64", (1,)),
    "task_index": DatasetFeature("int64", (1,)),
}
"""Features that every dataset has and that say where a frame is, not what it shows."""


def policy_feature(name: str, feature: DatasetFeature) -> Feature | None:
    """Say what a dataset's feature is to a policy, by LeRobot's rules; None: nothing.

    Cameras are recognised by their dtype, whatever their name; everything else by its name.
    """
    if feature.is_camera:
        return Feature(name, FeatureType.VISUAL, _channels_first(feature))
    if name == ENVIRONMENT_STATE:
        return Feature(name, FeatureType.ENV, _as_vector(feature.shape))
    if name.startswith("observation"):
        return Feature(name, FeatureType.STATE, _as_vector(feature.shape))
    if name.startswith("action"):
        return Feature(name, FeatureType.ACTION, _as_vector(feature.shape))
    return None


def _as_vector(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without its sizes of 1: (3, 1) is a vector of 3 numbers."""
    return tuple(size for size in shape if size != 1) or (1,)


def _channels_first(feature: DatasetFeature) -> tuple[int, ...]:
    """Shape of a camera's frames as (C, H, W), whichever way round info.json has them."""
    first, second, third = feature.shape
    names = feature.names
    if isinstance(names, list) and len(names) == 3:
        recorded_first = str(names[0]).startswith("channel")
    else:
        recorded_first = first in CHANNELS and third not in CHANNELS
    return (first, second, third) if recorded_first else (third, first, second)


def plain_dimensions(names: Any) -> list[str]:
    """The names of a vector's dimensions without what versions of LeRobot add: ``main_``, ``.pos``."""
    texts = [text.strip().lower() for text in dimension_texts(names)]
    return [re.sub(r"^main_|[._](?:pos|position)$", "", text) for text in texts]


def dimension_texts(names: Any) -> list[str]:
    """The names of a vector's dimensions, however info.json nests them."""
    if isinstance(names, str):
        return [names]
    if isinstance(names, Mapping):
        names = list(names.values())
    if not isinstance(names, (list, tuple)):
        return []
    return [text for value in names for text in dimension_texts(value)]
