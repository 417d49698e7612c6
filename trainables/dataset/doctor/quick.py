"""What every launch checks: quick, nothing is decoded.

Metadata and vectors are read as a whole, which takes a second. Of every video the header and the last packets
are read, which finds a missing or truncated file, and the frame of every row, without decoding anything.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.videos import VideoParts, open_videos, video_findings
from trainables.dataset.doctor.wording import (
    counted,
    episodes_of,
    exclude,
    in_episodes,
    leave_out,
    sentence,
    vectors,
)
from trainables.dataset.format.assign import EXACT_S, FLOAT32_STEPS
from trainables.interface import Fault, Finding
from trainables.shares import fraction_faults

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["dataset_faults", "quick_findings"]

LISTED_PLACES = 5
"""So many gaps and restarts are named in a sentence."""
GAP_STEPS = 1.5
"""Recorders that keep up are a few per cent off their rate; from half a frame more on, one was dropped."""


def dataset_faults(
    dataset: LeRobotDataset, holdout_fraction: float = 0.0, fraction: float = 1.0
) -> list[Fault]:
    """Check an opened dataset: enough episodes, finite numbers, frames in order, whole videos.

    Args:
        dataset: The opened dataset.
        holdout_fraction: Share of the episodes to be held out.
        fraction: Share of the other episodes to be trained on.

    Returns:
        Everything that keeps it from being trained on; empty if nothing does.
    """
    errors = [found for found in quick_findings(dataset, open_videos(dataset)) if found.severity == "error"]
    faults = [Fault(found.where, found.problem, found.remedy) for found in errors]
    return [*_split_faults(dataset, holdout_fraction, fraction), *faults]


def _split_faults(dataset: LeRobotDataset, holdout_fraction: float, fraction: float) -> list[Fault]:
    count = len(dataset.episodes)
    if holdout_fraction <= 0 or count >= 2:
        return fraction_faults(count, holdout_fraction, fraction)
    problem = f"{holdout_fraction:g} of {count} episode cannot be held out."
    remedy = "Use at least two episodes, or 0 to hold out none."
    chosen = dataset.episodes[0].index if count else 0
    if chosen and not dataset.is_whole:
        remedy += f" dataset.episodes: {chosen} is one episode; the first {chosen} are 0-{chosen - 1}."
    return [Fault("dataset.holdout_fraction", problem, remedy)]


def quick_findings(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Everything that shows without decoding a picture and keeps a dataset from being trained on.

    Args:
        dataset: The opened dataset.
        videos: What ``open_videos`` gives.
    """
    return [
        *_not_finite(dataset),
        *_order(dataset),
        *_timestamps(dataset),
        *video_findings(dataset, videos),
    ]


# -- numbers


def _not_finite(dataset: LeRobotDataset) -> list[Finding]:
    findings = []
    for name in vectors(dataset):
        values = dataset.vector(name)
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if not len(rows):
            continue
        row = int(rows[0])
        bad = values[row][~np.isfinite(values[row])][0]
        episodes = episodes_of(dataset, rows)
        problem = f"is {bad} in {dataset.name_row(row)}"
        if len(rows) > 1:
            problem += f"; {len(rows):,} such frames in {in_episodes(episodes)}"
        findings.append(
            Finding(
                check="not_finite",
                severity="error",
                where=name,
                problem=f"{problem}.",
                why="One such value in a batch turns the loss, and with it every weight, into NaN.",
                remedy=f"Repair the dataset, or {leave_out(dataset, episodes, name)}.",
                episodes=tuple(episodes),
            )
        )
    return findings


# -- time


def _order(dataset: LeRobotDataset) -> list[Finding]:
    """Compare ``frame_index`` with the order in which the rows of an episode lie."""
    if "frame_index" not in dataset.features:
        return []
    frame = dataset.column("frame_index")[:, 0].astype(np.int64)
    place = _places(dataset)
    wrong = frame != place
    if not wrong.any():
        return []
    scrambled: list[int] = []
    gapped: list[int] = []
    restarted: dict[int, int] = {}
    for episode in dataset.episodes:
        if wrong[episode.start : episode.stop].any():
            numbers = frame[episode.start : episode.stop]
            if (np.diff(numbers) > 0).all():
                gapped.append(episode.index)
            elif (recordings := _recordings(numbers)) > 1:
                restarted[episode.index] = recordings
            else:
                scrambled.append(episode.index)
    findings = []
    steps = np.diff(frame, prepend=0)
    within = place > 0
    if restarted:
        first = next(iter(restarted))
        starts = np.flatnonzero(within & (steps < 0) & _rows_in(dataset, restarted))
        findings.append(
            Finding(
                check="several_recordings",
                severity="error",
                where="frame_index",
                problem=f"begins again within {in_episodes(list(restarted))}: episode {first} contains "
                f"{restarted[first]} recordings, one after the other; {_places_of(dataset, starts)}.",
                why="Windows are cut along the rows: the policy would learn jumps from the end of one "
                "recording to the start of the next.",
                remedy="Make each recording an episode of its own when converting, or "
                f"{exclude(dataset, list(restarted))}.",
                episodes=tuple(restarted),
            )
        )
    if scrambled:
        findings.append(
            Finding(
                check="frames_out_of_order",
                severity="error",
                where="frame_index",
                problem=f"does not ascend in {in_episodes(scrambled)}, first at "
                f"{dataset.name_row(_first_of(dataset, wrong, scrambled[0]))}.",
                why="Windows are cut along the rows: the policy would learn motions that were never made.",
                remedy=f"Sort the rows of the data files, or {exclude(dataset, scrambled)}.",
                episodes=tuple(scrambled),
            )
        )
    if gapped:
        gaps = np.flatnonzero(np.where(within, steps > 1, frame > 0) & _rows_in(dataset, gapped))
        missing = int(np.where(within, steps - 1, frame)[gaps].sum())
        findings.append(
            Finding(
                check="missing_frames",
                severity="warning",
                where="frame_index",
                problem=f"leaves out {counted(missing, 'frame')} in {in_episodes(gapped)}: "
                f"{_places_of(dataset, gaps, 'before')}.",
                why="A window takes neighbouring rows for neighbouring moments: across the gap the robot "
                "seems to move faster than it did.",
                remedy=sentence(f"{exclude(dataset, gapped)}, or record them again."),
                episodes=tuple(gapped),
            )
        )
    return findings


def _rows_in(dataset: LeRobotDataset, indices: Collection[int]) -> NDArray[np.bool_]:
    """Whether each row is in one of some episodes."""
    inside = [episode.index in indices for episode in dataset.episodes]
    return np.repeat(inside, [len(episode) for episode in dataset.episodes])


def _first_of(dataset: LeRobotDataset, rows: NDArray[np.bool_], index: int) -> int:
    """The first of some rows in an episode."""
    episode = next(episode for episode in dataset.episodes if episode.index == index)
    return episode.start + int(np.flatnonzero(rows[episode.start : episode.stop])[0])


def _places_of(dataset: LeRobotDataset, rows: NDArray[np.int64], word: str = "at") -> str:
    """Name the first of some rows: ``at episode 3, frame 17 and episode 4, frame 2``."""
    named = "; ".join(dataset.name_row(int(row)) for row in rows[:LISTED_PLACES])
    more = f"; ... {len(rows):,} places in all" if len(rows) > LISTED_PLACES else ""
    return f"{word} {named}{more}"


def _recordings(frame: NDArray[np.int64]) -> int:
    """How many recordings the rows of an episode are, by frame numbers that begin again; 1 if they do not."""
    starts = np.flatnonzero(np.diff(frame) < 0) + 1
    runs = np.split(frame, starts)
    whole = all((np.diff(run) > 0).all() and run[0] <= runs[0][0] + 1 for run in runs)
    # Rows in another order, of which each frame is there once, are one recording that was shuffled.
    return len(runs) if whole and len(np.unique(frame)) < len(frame) else 1


def _places(dataset: LeRobotDataset) -> NDArray[np.int64]:
    """For each row its place in its episode."""
    lengths = [len(episode) for episode in dataset.episodes]
    starts = [episode.start for episode in dataset.episodes]
    return np.arange(len(dataset)) - np.repeat(starts, lengths)


def _timestamps(dataset: LeRobotDataset) -> list[Finding]:
    """Compare each timestamp with the frame's number divided by the frame rate."""
    if "timestamp" not in dataset.features:
        return []
    times_s = dataset.column("timestamp")[:, 0]
    seconds = times_s.astype(np.float64)
    place = _places(dataset)
    back = np.zeros(len(seconds), bool)
    back[1:] = ~(np.diff(seconds) > 0) & (place[1:] > 0)  # not "<= 0": a time may be NaN
    if back.any():
        rows = np.flatnonzero(back)
        episodes = episodes_of(dataset, rows)
        return [
            Finding(
                check="timestamps",
                severity="warning",
                where="timestamp",
                problem=f"does not increase in {counted(len(rows), 'frame')} of {in_episodes(episodes)}, "
                f"{_places_of(dataset, rows)}.",
                why="Rows are used in the order of their index. If the times are right, that order is wrong. "
                "LeRobot finds pictures by time, and refuses the set.",
                remedy=f"Repair the timestamps (frame_index / fps), or {exclude(dataset, episodes)}.",
                episodes=tuple(episodes),
            )
        ]
    frame = dataset.column("frame_index")[:, 0] if "frame_index" in dataset.features else place
    with np.errstate(invalid="ignore", over="ignore"):
        rounding_s = FLOAT32_STEPS * np.spacing(np.abs(times_s))
        # Not "> tolerance": a time that is NaN is off, too.
        off = ~(np.abs(seconds - frame / dataset.fps) <= np.maximum(EXACT_S, rounding_s))
    if not off.any():
        return []
    rows = np.flatnonzero(off)
    episodes = episodes_of(dataset, rows)
    row = int(rows[0])
    steps_s = np.diff(seconds)[np.diff(place) == 1]
    usual = f"; the usual step is {np.median(steps_s):.4f} s" if len(steps_s) else ""
    return [
        Finding(
            check="timestamps",
            severity="warning",
            where="timestamp",
            problem=f"is {seconds[row]:.4f} s at {dataset.name_row(row)}, and not frame / fps "
            f"as info.json has it (fps {dataset.fps:g}{usual}); in {in_episodes(episodes)}."
            + _gaps(dataset, seconds, place),
            why="Actions are taken to be 1/fps apart: if they are not, the policy learns a wrong speed. "
            "LeRobot refuses the set.",
            remedy=f"Repair the timestamps or fps in info.json, or {exclude(dataset, episodes)}.",
            episodes=tuple(episodes),
        )
    ]


def _gaps(dataset: LeRobotDataset, seconds: NDArray[np.float64], place: NDArray[np.int64]) -> str:
    """Name the steps of the times that are longer than a frame, as a sentence; empty if there are none."""
    steps_s = np.diff(seconds, prepend=0.0)
    # Against the usual step: with a wrong fps every step is "longer than a frame", and none is a gap.
    inside = place > 0
    usual_s = float(np.median(steps_s[inside])) if inside.any() else 1 / dataset.fps
    gaps = np.flatnonzero(inside & (steps_s > GAP_STEPS * usual_s))
    if not len(gaps):
        return ""
    longest = int(gaps[np.argmax(steps_s[gaps])])
    return (
        f" {counted(len(gaps), 'gap')}, the longest of {steps_s[longest]:.2f} s before "
        f"{dataset.name_row(longest)}: {_places_of(dataset, gaps, 'before')}."
    )
