"""Decide which frame of a video file belongs to which row of the dataset.

A file with as many frames as its episodes have rows is read in the order of the rows: then nothing depends
on timestamps, which may be a wall clock's or those of another frame rate. Otherwise each row has the frame
that is nearest to its time. No frame belongs to two rows, and the frames of an episode are in the order of
its rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "EXACT_S",
    "FLOAT32_STEPS",
    "Assigned",
    "Stretch",
    "assign_frames",
    "first_frames",
    "nearest_places",
]

EXACT_S = 1e-4
"""A frame this near to its row's time is at that time; LeRobot's default tolerance."""
FLOAT32_STEPS = 4
"""A float32 timestamp may be off by this many of its own steps: after an hour a step is 0.24 ms."""


@dataclass(frozen=True)
class Stretch:
    """The part of a video file that the metadata assigns to an episode.

    Attributes:
        episode: The episode's number in its own files.
        start_s: Time in the file at which it starts.
        length: Rows of the episode.
    """

    episode: int
    start_s: float
    length: int


@dataclass(frozen=True)
class Assigned:
    """The frames of some rows.

    Attributes:
        times_s: Time of each row's frame in the file, (K,); for lost rows the time at which it should be.
        wanted_s: Time in the file at which it should be by the metadata, (K,).
        lost: Rows that have no frame of their own, (K,).
        by_row: Whether the frames were counted, because their times differ from those of the rows.
    """

    times_s: NDArray[np.float64]
    wanted_s: NDArray[np.float64]
    lost: NDArray[np.bool_]
    by_row: bool


def assign_frames(
    frames_s: NDArray[np.float64],
    stretches: Sequence[Stretch],
    episode: NDArray[np.int64],
    place: NDArray[np.int64],
    seconds: NDArray[np.float32],
    *,
    fps: float,
    tolerance_s: float,
) -> Assigned:
    """Find the frames of some rows.

    Args:
        frames_s: Times of the file's frames, ascending, (F,).
        stretches: Every episode of the dataset that has frames in the file.
        episode: Episode of each row, (K,), as ``Stretch.episode``.
        place: Place of each row in its episode, (K,).
        seconds: Timestamp of each row, (K,).
        fps: Frames per second of the dataset.
        tolerance_s: How far a frame may lie from its row's time.
    """
    start_of = {stretch.episode: stretch.start_s for stretch in stretches}
    wanted_s = np.array([start_of[one] for one in episode.tolist()]) + seconds.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        rounding_s = FLOAT32_STEPS * np.spacing(np.abs(seconds)).astype(np.float64)
    first = first_frames(stretches, fps) if len(frames_s) == sum(s.length for s in stretches) else None
    if first is not None:
        times_s = frames_s[np.array([first[one] for one in episode.tolist()], np.int64) + place]
        exact = np.abs(times_s - wanted_s) <= np.maximum(EXACT_S, rounding_s)
        return Assigned(times_s, wanted_s, np.zeros(len(place), bool), not bool(exact.all()))
    nearest = nearest_places(frames_s, wanted_s)
    # Not "further than": a time that is NaN has no frame.
    lost = ~(np.abs(frames_s[nearest] - wanted_s) <= np.maximum(tolerance_s, rounding_s))
    times_used = np.bincount(nearest[~lost], minlength=len(frames_s))
    lost |= times_used[nearest] > 1
    lost |= _out_of_order(nearest, episode, place)
    return Assigned(np.where(lost, wanted_s, frames_s[nearest]), wanted_s, lost, by_row=False)


def first_frames(stretches: Sequence[Stretch], fps: float) -> dict[int, int] | None:
    """For each episode the number of its first frame, if the episodes fill the file one after the other."""
    by_time = sorted(stretches, key=lambda stretch: (stretch.start_s, stretch.episode))
    overlap = any(one.start_s + (one.length - 0.5) / fps > two.start_s for one, two in pairwise(by_time))
    by_number = sorted(stretches, key=lambda stretch: stretch.episode)
    if overlap and by_time != by_number:
        return None  # neither the times nor the numbers tell the order
    first, count = {}, 0
    for stretch in by_time:
        first[stretch.episode] = count
        count += stretch.length
    return first


def _out_of_order(
    frame: NDArray[np.int64], episode: NDArray[np.int64], place: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Rows whose frame does not come after that of the row before in the same episode."""
    order = np.lexsort((place, episode))
    back = (np.diff(frame[order]) <= 0) & (np.diff(episode[order]) == 0)
    found = np.zeros(len(frame), bool)
    found[order[1:]] = back
    return found


def nearest_places(sorted_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each wanted time the place of the nearest of some ascending times."""
    right = np.clip(np.searchsorted(sorted_s, wanted_s), 0, len(sorted_s) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted_s - sorted_s[left] <= sorted_s[right] - wanted_s, left, right)
