"""What a camera's pictures show: nothing at all, the same as before, or less sharply than elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.looks import Looks
from trainables.dataset.doctor.signals.numbers import Spread, spread_of
from trainables.dataset.doctor.wording import counted, episodes_of, in_episodes, leave_out, vectors
from trainables.features import STATE
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import Episode, LeRobotDataset

__all__ = ["picture_findings"]

BLANK_CONTRAST = 3.0
"""Luma that varies by less than 3 of 255 levels over a whole picture is one colour and noise."""
BLACK_BELOW = 16.0
"""Mean luma of black, where a video's limited range begins."""
MOVED = 0.1
STILL_S = 1.0
"""A robot that went through a tenth of its range for a second while the picture stayed the same was not
filmed."""
STILL_PICTURES = 3
"""As many equal pictures in a row: two can be alike by chance where a motion returns."""
BLUR_RATIO = 4.0
BLUR_SIGMAS = 5.0
BLUR_EPISODES = 8
"""An episode is blurred where its sharpness is below a quarter of the camera's usual one, and far outside
what episodes differ by; among fewer than eight nothing says what is usual."""
SIGMA_OF_MAD = 1.4826
"""Standard deviation of a normal distribution over its median absolute deviation."""


def picture_findings(dataset: LeRobotDataset, looks: Looks) -> list[Finding]:
    """Judge what was seen of one camera."""
    blank = looks.contrast < BLANK_CONTRAST
    return [
        *_unreadable(dataset, looks),
        *_blank(dataset, looks, blank),
        *_frozen(dataset, looks, blank),
        *_blurred(dataset, looks, blank),
    ]


def _unreadable(dataset: LeRobotDataset, looks: Looks) -> list[Finding]:
    if not looks.unreadable:
        return []
    episodes = episodes_of(dataset, np.concatenate([piece.rows[:1] for piece in looks.unreadable]))
    first = looks.unreadable[0]
    return [
        Finding(
            check="unreadable_pictures",
            severity="error",
            where=looks.camera,
            problem=f"pictures of {in_episodes(episodes)} cannot be decoded; "
            f"{dataset.name_row(int(first.rows[0]))}: {first.error}",
            why="Every frame is decoded before training; these cannot be.",
            remedy=f"Fetch again, or {leave_out(dataset, episodes, looks.camera)}.",
            episodes=tuple(episodes),
        )
    ]


def _blank(dataset: LeRobotDataset, looks: Looks, blank: NDArray[np.bool_]) -> list[Finding]:
    if not blank.any():
        return []
    rows = looks.rows[blank]
    every = bool(blank.all())
    episodes = episodes_of(dataset, rows)
    black = looks.brightness[blank].mean() < BLACK_BELOW
    return [
        Finding(
            check="blank_pictures",
            severity="error" if every else "warning",
            where=looks.camera,
            problem=f"{'all' if every else f'{len(rows):,}'} of the {len(looks.rows):,} pictures looked at "
            f"are {'black' if black else 'of one colour'}, first {dataset.name_row(int(rows[0]))}; in "
            f"{in_episodes(episodes)}.",
            why="The policy acts on its images: here it learns to act without them"
            + (", and the camera only costs time." if every else "."),
            remedy=f"Check the camera; {leave_out(dataset, episodes, looks.camera)}.",
            episodes=tuple(episodes),
        )
    ]


# -- frozen


def _frozen(dataset: LeRobotDataset, looks: Looks, blank: NDArray[np.bool_]) -> list[Finding]:
    if STATE not in vectors(dataset):
        return []
    spread = spread_of(dataset.vector(STATE))
    found: list[tuple[int, int, int]] = []  # episode, first row, last row
    for episode, places in _episodes_seen(dataset, looks):
        stretches = [
            (first, last)
            for first, last in _runs(looks.still[places] & ~blank[places])
            if last - first + 1 >= STILL_PICTURES
        ]
        for first, last in stretches:
            start, stop = int(looks.rows[places[first]]), int(looks.rows[places[last]])
            if stop - start >= STILL_S * dataset.fps and _moved(dataset, start, stop, spread) > MOVED:
                found.append((episode.index, start, stop))
    if not found:
        return []
    episodes = sorted({index for index, _, _ in found})
    _, start, stop = max(found, key=lambda stretch: stretch[2] - stretch[1])
    seen = sum(1 for _ in _episodes_seen(dataset, looks))
    seconds = (stop - start) / dataset.fps
    remedy = leave_out(dataset, episodes, looks.camera)
    return [
        Finding(
            check="frozen_pictures",
            severity="warning",
            where=looks.camera,
            problem=f"the picture stays the same while the robot moves in {in_episodes(episodes)} "
            f"({len(episodes):,} of {counted(seen, 'episode')} looked at); longest from "
            f"{dataset.name_row(start)} on, for {seconds:.1f} s.",
            why="Different motions with the same picture teach the policy that pictures do not matter.",
            remedy=f"Check the camera's connection, and {remedy}.",
            episodes=tuple(episodes),
        )
    ]


def _episodes_seen(dataset: LeRobotDataset, looks: Looks) -> Iterator[tuple[Episode, NDArray[np.int64]]]:
    """Each episode of which pictures were seen, with their places among the looks."""
    for episode in dataset.episodes:
        first, stop = np.searchsorted(looks.rows, [episode.start, episode.stop])
        if stop > first:
            yield episode, np.arange(first, stop)


def _runs(still: NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Stretches of equal pictures: the place of the first of them and of the last."""
    edges = np.diff(np.concatenate([[0], still.astype(np.int8), [0]]))
    # The picture before the first that is still is the one it equals.
    firsts, stops = np.flatnonzero(edges == 1) - 1, np.flatnonzero(edges == -1)
    return [(max(int(first), 0), int(stop) - 1) for first, stop in zip(firsts, stops, strict=True)]


def _moved(dataset: LeRobotDataset, start: int, stop: int, spread: Spread) -> float:
    """How far the state went between two rows, as a share of its usual range."""
    values = dataset.vector(STATE)[start : stop + 1]
    return float((np.ptp(values, axis=0) / spread.scale).max())


# -- blurred


def _blurred(dataset: LeRobotDataset, looks: Looks, blank: NDArray[np.bool_]) -> list[Finding]:
    """Episodes that are far less sharp than the camera's others; single frames blur in any quick motion."""
    indices, sharpness = [], []
    for episode, places in _episodes_seen(dataset, looks):
        clear = places[~blank[places]]
        if len(clear):
            indices.append(episode.index)
            sharpness.append(float(np.median(looks.sharpness[clear])))
    if len(indices) < BLUR_EPISODES:
        return []
    logs = np.log(np.maximum(sharpness, 1e-6))
    usual = np.median(logs)
    sigma = SIGMA_OF_MAD * np.median(np.abs(logs - usual))
    blurred = usual - logs > max(np.log(BLUR_RATIO), BLUR_SIGMAS * sigma)
    if not blurred.any():
        return []
    episodes = [index for index, found in zip(indices, blurred, strict=True) if found]
    worst = float(np.exp(usual - logs.min()))
    remedy = leave_out(dataset, episodes, looks.camera)
    return [
        Finding(
            check="blurred_pictures",
            severity="warning",
            where=looks.camera,
            problem=f"the pictures of {in_episodes(episodes)} are blurred: their edges are up to {worst:.0f} "
            f"times weaker than this camera's usually are ({counted(len(indices), 'episode')} looked at).",
            why="The policy cannot place what it cannot see sharply, and at run time the camera is in focus.",
            remedy=f"Look at them (`sweeper data show`), and {remedy}.",
            episodes=tuple(episodes),
        )
    ]
