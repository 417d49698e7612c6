"""Cut the ends of episodes in which the robot stands still."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.signals.motion import IDLE_S, STILL_WITHIN
from trainables.dataset.doctor.signals.numbers import spread_of
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.repair.log import RepairLog, in_episodes
from trainables.dataset.repair.recording import Clip, Recording
from trainables.features import ACTION, STATE

__all__ = ["KEPT_S", "trim_idle"]

KEPT_S = 0.5
"""So much of an end without motion is kept: a policy also has to learn to start and to stop."""


def trim_idle(
    metadata: Metadata,
    recordings: Sequence[Recording],
    vectors: Mapping[str, NDArray[np.float32]],
    log: RepairLog,
) -> None:
    """Cut ends of two seconds and more to half a second.

    Args:
        metadata: The dataset's metadata.
        recordings: The episodes; they are changed.
        vectors: State and action of all rows of all files, as far as there are any, (N, D).
        log: Receives what was cut.
    """
    names = [name for name in (STATE, ACTION) if name in vectors]
    if not names:
        return
    used = np.concatenate([recording.rows for recording in recordings])
    away = {name: STILL_WITHIN * spread_of(vectors[name][used]).scale for name in names}
    least, kept = round(IDLE_S * metadata.fps), round(KEPT_S * metadata.fps)
    videos = any(feature.dtype == "video" for feature in metadata.features.values())
    cut: dict[int, tuple[int, int]] = {}
    still: list[int] = []
    fixed: list[int] = []
    for recording in recordings:
        start, end = _still_ends([vectors[name][recording.rows] for name in names], list(away.values()))
        if start == len(recording):
            still.append(recording.origin)
            continue
        before = start - kept if start >= least else 0
        after = end - kept if end >= least else 0
        if not before and not after:
            continue
        if videos and metadata.version != "v3.0":
            fixed.append(recording.origin)
        else:
            _cut(recording, before, len(recording) - after, metadata.fps)
            cut[recording.origin] = (before, after)
    _log(cut, still, fixed, metadata.fps, log)


def _still_ends(
    values: Sequence[NDArray[np.float32]], away: Sequence[NDArray[np.float64]]
) -> tuple[int, int]:
    """Frames at the start and at the end in which nothing leaves its place."""
    ends = []
    for ordered in (slice(None), slice(None, None, -1)):
        still = len(values[0])
        for values_LD, away_D in zip(values, away, strict=True):
            moved = (np.abs(values_LD[ordered] - values_LD[ordered][0]) > away_D).any(axis=1)
            still = min(still, int(moved.argmax()) if moved.any() else len(moved))
        ends.append(still)
    return ends[0], ends[1]


def _cut(recording: Recording, start: int, stop: int, fps: float) -> None:
    recording.rows = recording.rows[start:stop]
    recording.task = recording.task[start:stop]
    recording.frame = recording.frame[start:stop]
    offset = int(recording.frame[0])
    recording.frame = recording.frame - offset
    recording.clips = {
        camera: Clip(clip.path, clip.start_s + offset / fps, clip.times_s[start:stop])
        for camera, clip in recording.clips.items()
    }
    recording.whole = False


def _log(
    cut: Mapping[int, tuple[int, int]],
    still: Sequence[int],
    fixed: Sequence[int],
    fps: float,
    log: RepairLog,
) -> None:
    if cut:
        frames = sum(sum(both) for both in cut.values())
        where = in_episodes(list(cut))
        problem = f"the robot stands still for {IDLE_S:g} s and more at the start or end of {where}."
        done = f"{frames:,} frames ({frames / fps:.1f} s) are cut; {KEPT_S:g} s of each such end are kept."
        log.change("idle_ends", "episodes", problem, done, cut)
    if still:
        problem = f"the robot does not move in {in_episodes(still)}."
        why = "Nothing would be left of the episode."
        log.remains(
            "idle_ends",
            "warning",
            "episodes",
            problem,
            why,
            "Leave it out with dataset.exclude_episodes.",
            still,
        )
    if fixed:
        log.remains(
            "idle_ends",
            "warning",
            "episodes",
            f"the robot stands still at the start or end of {in_episodes(fixed)}.",
            "In v2.x each episode has a video of its own, and videos are not cut.",
            "Convert the dataset to v3.0 with LeRobot, and run the repair again.",
            fixed,
        )
