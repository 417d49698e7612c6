"""An episode of the copy: which rows of the original it has, and which frames of its videos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.format.episodes import EpisodeRecord

__all__ = ["Clip", "DataRows", "Recording"]


@dataclass(frozen=True)
class Clip:
    """The frames of an episode in a video file.

    Attributes:
        path: The original's file.
        start_s: Time in the file at which the episode starts.
        times_s: Time in the file of each row's frame, (L,); NaN for a row without a frame.
    """

    path: Path
    start_s: float
    times_s: NDArray[np.float64]


@dataclass
class Recording:
    """An episode of the copy.

    Attributes:
        origin: Number of the original's episode.
        rows: Its rows, counted over all data files of the original, (L,).
        frame: Its ``frame_index`` in the copy, (L,).
        record: What the original's metadata say of it.
        first: Place of its first row among those of the original's episode.
        tasks: What is done in it, in words.
        task: ``task_index`` of each row in the copy, (L,).
        clips: Its frames of each camera that has videos.
        whole: Whether it has every row of the original's episode.
    """

    origin: int
    rows: NDArray[np.int64]
    frame: NDArray[np.int64]
    record: EpisodeRecord
    first: int = 0
    tasks: tuple[str, ...] = ()
    task: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    clips: dict[str, Clip] = field(default_factory=dict)
    whole: bool = True

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True)
class DataRows:
    """The rows of all data files, one after the other.

    Attributes:
        paths: The data files.
        starts: First row of each file, and the number of all rows, (F + 1,).
        columns: Timestamps and numbers of every row, float64 (N,); NaN if a file does not have the column.
        everywhere: The columns that every file has.
    """

    paths: Sequence[Path]
    starts: NDArray[np.int64]
    columns: dict[str, NDArray[np.float64]]
    everywhere: frozenset[str]

    def __len__(self) -> int:
        return int(self.starts[-1])

    def file_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The number of each row's file."""
        return np.searchsorted(self.starts, rows, side="right") - 1
