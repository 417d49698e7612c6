"""Look at a camera's pictures, file after file in threads: four numbers are kept of each, and its histogram.

A sample is spread evenly over the episodes and over the time of each, so that damage of whole episodes, and
of a good part of one, is seen. Frames lie so near to each other in most videos that decoding all of an
episode costs as much as seeking; files are decoded side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.decode import FramePart, decode_part
from trainables.dataset.format.tables import available_cpus
from trainables.dataset.statistics import PIXEL_VALUES, evenly, image_histogram

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["Looks", "Unreadable", "look_at", "sampled_rows"]

SAMPLED_EPISODES = 200
SAMPLED_FRAMES = 2400
"""About so many frames of a camera are looked at: seconds for small pictures, a minute or two for large
ones."""
FEWEST_PER_EPISODE, MOST_PER_EPISODE = 12, 60
"""With 12 frames of an episode a picture that stays the same for a third of it is noticed."""
GRID = 16
"""Two pictures are compared by the means of 16×16 fields: noise averages out, a gripper that moves does
not."""
STILL_LEVELS = 1.5
"""No field of a frozen picture differs by more than this (of 255 levels), however it was compressed."""
LUMA = np.array([0.299, 0.587, 0.114])
MOST_THREADS = 16
TELL_EVERY_S = 0.5

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Unreadable:
    """Pictures of one file that cannot be decoded.

    Attributes:
        rows: The rows that were wanted of that episode, from the first that failed on.
        error: What the decoder says.
    """

    rows: NDArray[np.int64]
    error: str


@dataclass
class Looks:
    """What was seen of one camera; a number per picture, in the order of ``rows``.

    Attributes:
        camera: The feature.
        rows: Rows of the dataset that were looked at, ascending, (K,).
        brightness: Mean luma, 0 to 255, (K,).
        contrast: Standard deviation of the luma, (K,).
        sharpness: Variance of the luma's Laplacian, (K,).
        still: Whether the picture is the same as the one before it in its episode, (K,).
        histogram: Pixel values of all of them per channel, (C, 256).
        unreadable: What could not be decoded.
    """

    camera: str
    rows: NDArray[np.int64]
    brightness: NDArray[np.float32]
    contrast: NDArray[np.float32]
    sharpness: NDArray[np.float32]
    still: NDArray[np.bool_]
    histogram: NDArray[np.int64]
    unreadable: list[Unreadable] = field(default_factory=list)


def sampled_rows(
    dataset: LeRobotDataset, *, every_frame: bool, leave_out: Collection[int] = ()
) -> NDArray[np.int64]:
    """Choose the rows whose pictures are looked at: always the same ones for the same dataset.

    Args:
        dataset: The opened dataset.
        every_frame: Whether all are.
        leave_out: Indices of episodes whose pictures are known to be broken.
    """
    episodes = [episode for episode in dataset.episodes if episode.index not in leave_out and len(episode)]
    if not episodes:
        return np.empty(0, np.int64)
    if every_frame:
        return np.concatenate([np.arange(episode.start, episode.stop) for episode in episodes])
    chosen = evenly(len(episodes), SAMPLED_EPISODES)
    each = min(max(SAMPLED_FRAMES // len(chosen), FEWEST_PER_EPISODE), MOST_PER_EPISODE)
    picked = [episodes[int(number)] for number in chosen]
    return np.concatenate([episode.start + evenly(len(episode), each) for episode in picked])


def look_at(dataset: LeRobotDataset, camera: str, rows: NDArray[np.int64], progress: Progress) -> Looks:
    """Decode the pictures of some rows and measure them.

    Memory is bounded by the pictures that the threads hold at once, besides 21 bytes for each row.

    Args:
        dataset: The opened dataset.
        camera: The feature.
        rows: Rows of the dataset, ascending.
        progress: Told how many have been looked at.
    """
    starts = np.array([episode.start for episode in dataset.episodes])
    pieces = [piece for part in dataset.frame_parts(camera) for piece in _by_episode(part, rows, starts)]
    numbers = np.zeros((len(rows), 3), np.float32)
    still = np.zeros(len(rows), bool)
    seen = np.zeros(len(rows), bool)
    channels = next(f.shape[0] for f in dataset.policy_features.cameras if f.name == camera)
    histogram = np.zeros((channels, PIXEL_VALUES), np.int64)
    unreadable: list[Unreadable] = []
    done = 0
    with ThreadPoolExecutor(max_workers=min(available_cpus(), MOST_THREADS)) as pool:
        waiting = {pool.submit(_look, dataset, piece) for piece in pieces}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=TELL_EVERY_S, return_when=FIRST_COMPLETED)
                for job in finished:
                    found = job.result()
                    places = np.searchsorted(rows, found.rows)
                    numbers[places], still[places], seen[places] = found.numbers, found.still, True
                    histogram += found.histogram
                    unreadable += found.unreadable
                    done += len(found.rows)
                progress(f"{camera}: {done:,} of {len(rows):,} pictures looked at")
        finally:
            for job in waiting:
                job.cancel()
    return Looks(
        camera, rows[seen], numbers[seen, 0], numbers[seen, 1], numbers[seen, 2], still[seen], histogram,
        sorted(unreadable, key=lambda piece: int(piece.rows[0])),
    )  # fmt: skip


def _by_episode(part: FramePart, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> list[FramePart]:
    """The wanted frames of a file, cut where an episode ends: one that cannot be decoded costs no other."""
    first, last = np.searchsorted(rows, [part.rows.min(), part.rows.max() + 1])
    wanted = part.choose(rows[first:last])
    episode = np.searchsorted(starts, wanted.rows, side="right")
    return [wanted.choose(wanted.rows[episode == number]) for number in np.unique(episode)]


@dataclass(frozen=True)
class _Seen:
    rows: NDArray[np.int64]
    numbers: NDArray[np.float32]
    still: NDArray[np.bool_]
    histogram: NDArray[np.int64]
    unreadable: Sequence[Unreadable]


def _look(dataset: LeRobotDataset, piece: FramePart) -> _Seen:
    """Look at the wanted pictures of one episode, in the order of time."""
    rows: list[int] = []
    numbers: list[tuple[float, float, float]] = []
    still: list[bool] = []
    histogram = np.zeros((piece.shape[0], PIXEL_VALUES), np.int64)
    unreadable = []
    anchor: NDArray[np.float32] | None = None
    try:
        for part in piece.split(max(len(piece.rows), 1)):
            for row, picture_CHW in decode_part(part, None, dataset.name_row):
                histogram += image_histogram(picture_CHW[None])
                luma = _luma(picture_CHW)
                rows.append(row)
                numbers.append((float(luma.mean()), float(luma.std()), _sharpness(luma)))
                # Compared with where the stillness began: a slow motion adds up, a frozen picture does not.
                fields = _fields(luma)
                same = anchor is not None and float(np.abs(fields - anchor).max()) < STILL_LEVELS
                still.append(same)
                anchor = anchor if same else fields
    except DatasetError as error:
        missing = piece.rows[~np.isin(piece.rows, rows)]
        unreadable.append(Unreadable(missing, error.faults[0].problem))
    return _Seen(
        np.array(rows, np.int64),
        np.array(numbers, np.float32).reshape(-1, 3),
        np.array(still, bool),
        histogram,
        unreadable,
    )


def _luma(picture_CHW: NDArray[np.uint8]) -> NDArray[np.float32]:
    if picture_CHW.shape[0] != 3:
        return picture_CHW[0].astype(np.float32)
    return np.tensordot(LUMA.astype(np.float32), picture_CHW.astype(np.float32), axes=1)


def _sharpness(luma: NDArray[np.float32]) -> float:
    """Variance of the Laplacian.

    Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy", ICPR 2000.
    """
    if min(luma.shape) < 3:
        return 0.0
    across = luma[1:-1, :-2] + luma[1:-1, 2:] + luma[:-2, 1:-1] + luma[2:, 1:-1]
    return float((across - 4 * luma[1:-1, 1:-1]).var())


def _fields(luma: NDArray[np.float32]) -> NDArray[np.float32]:
    """Means of the fields of a grid laid over the picture, (GRID, GRID) or fewer."""
    height, width = luma.shape
    top = np.unique(np.linspace(0, height, GRID, endpoint=False).astype(int))
    left = np.unique(np.linspace(0, width, GRID, endpoint=False).astype(int))
    sums = np.add.reduceat(np.add.reduceat(luma, top, axis=0), left, axis=1)
    area = np.outer(np.diff([*top, height]), np.diff([*left, width]))
    means: NDArray[np.float32] = (sums / area).astype(np.float32)
    return means
