"""What no dataset says of itself is refused where it is read."""

from __future__ import annotations

import pytest

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.metadata import _episode_v3, inside
from trainables.dataset.format.schema import VIDEO_PATH_V3


@pytest.mark.parametrize("path", ["videos/" + "1" * 300 + ".mp4", "videos/a\0b.mp4"])
def test_a_name_that_no_file_can_have_is_refused(path: str) -> None:
    with pytest.raises(DatasetError, match="a path in the metadata is no name of a file"):
        inside(path)


@pytest.mark.parametrize("start", [float("nan"), float("inf"), "-inf"])
def test_an_episode_that_starts_at_no_time_is_refused(start: object) -> None:
    row = {
        "episode_index": 0,
        "length": 5,
        "videos/cam/chunk_index": 0,
        "videos/cam/file_index": 0,
        "videos/cam/from_timestamp": start,
    }
    with pytest.raises(ValueError, match="videos/cam/from_timestamp of an episode is"):
        _episode_v3(row, ["cam"], VIDEO_PATH_V3)
