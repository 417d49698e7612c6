"""Say what is wrong with a dataset before anything is trained on it: quick, nothing is decoded.

Metadata and vectors are read as a whole, for that takes a second; of every video the container is opened and
its last packets are looked at, which tells a missing or broken-off file without decoding it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.decode import FramePart, VideoError, probe_video
from trainables.dataset.metadata import listed
from trainables.dataset.tables import available_cpus
from trainables.features import ACTION, STATE
from trainables.interface import Fault

if TYPE_CHECKING:
    from trainables.dataset.lerobot import LeRobotDataset

__all__ = ["dataset_faults"]

PROBES_AT_ONCE = 8
EXCLUDE_AT_MOST = 100


def dataset_faults(dataset: LeRobotDataset, holdout_fraction: float = 0.0) -> list[Fault]:
    """Check an opened dataset: enough episodes, finite numbers, whole videos.

    Args:
        dataset: The opened dataset.
        holdout_fraction: Share of the episodes to be held out.

    Returns:
        Everything that is wrong; empty where nothing is.
    """
    return [
        *_split_faults(dataset, holdout_fraction),
        *_number_faults(dataset),
        *_video_faults(dataset),
    ]


def _split_faults(dataset: LeRobotDataset, holdout_fraction: float) -> list[Fault]:
    count = len(dataset.episodes)
    if holdout_fraction <= 0 or count >= 2:
        return []
    problem = f"{holdout_fraction:g} of {count} episode cannot be held out."
    return [Fault("dataset.holdout_fraction", problem, "Use at least two episodes, or 0 to hold out none.")]


def _number_faults(dataset: LeRobotDataset) -> list[Fault]:
    """Find values that are no numbers: one of them turns all weights into NaN."""
    cameras = {feature.name for feature in dataset.policy_features.cameras}
    faults = []
    for feature in dataset.policy_features.all():
        if feature.name in cameras:
            continue
        values = dataset.vector(feature.name)
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if len(rows):
            row = int(rows[0])
            bad = values[row][~np.isfinite(values[row])][0]
            problem = f"is {bad} in {dataset.name_row(row)}"
            if len(rows) > 1:
                problem += f"; {len(rows):,} such frames in {_holding(dataset, rows)}"
            remedy = f"Repair the dataset, or {_exclude(dataset, rows, feature.name)}."
            faults.append(Fault(feature.name, f"{problem}.", remedy))
    return faults


def _video_faults(dataset: LeRobotDataset) -> list[Fault]:
    faults = []
    for camera in dataset.policy_features.cameras:
        if dataset.features[camera.name].dtype != "video":
            continue
        parts = dataset.frame_parts(camera.name)
        with ThreadPoolExecutor(max_workers=min(PROBES_AT_ONCE, 2 * available_cpus())) as pool:
            probed = list(pool.map(_broken, parts))
        # One fault for each kind of damage, not for each of perhaps thousands of files.
        for kind in sorted({kind for kind, _ in probed if kind}):
            which = [number for number, (found, _) in enumerate(probed) if found == kind]
            rows = np.concatenate([probed[number][1] for number in which])
            several = f"{len(which)} of {len(parts)} videos, first " if len(which) > 1 else ""
            problem = f"the video {kind}; {_holding(dataset, rows)} ({several}{parts[which[0]].path})."
            faults.append(
                Fault(camera.name, problem, f"Fetch again, or {_exclude(dataset, rows, camera.name)}.")
            )
    return faults


def _broken(part: FramePart) -> tuple[str, NDArray[np.int64]]:
    """Say what is wrong with a video file, and which rows of the dataset it costs."""
    assert part.times_s is not None
    try:
        video = probe_video(part.path)
    except VideoError as error:
        return str(error), part.rows
    if (video.height, video.width) != part.shape[1:]:
        height, width = part.shape[1:]
        return f"is {video.height}×{video.width} px, info.json says {height}×{width}", part.rows
    cut = part.times_s > video.last_frame_s + max(part.tolerance_s, 0.5 / part.fps)
    return ("ends too early" if cut.any() else ""), part.rows[cut]


def _holding(dataset: LeRobotDataset, rows: NDArray[np.int64]) -> str:
    indices = _episodes(dataset, rows)
    return f"episode {indices[0]}" if len(indices) == 1 else f"episodes {listed(indices)}"


def _exclude(dataset: LeRobotDataset, rows: NDArray[np.int64], feature: str) -> str:
    """What to do without the episodes of these rows; without the feature, where no episode would be left."""
    if len(_episodes(dataset, rows)) == len(dataset.episodes):
        needed = feature in (STATE, ACTION)
        return "use another dataset" if needed else f"leave {feature} out of dataset.observations"
    return f"set dataset.exclude_episodes: {listed(_episodes(dataset, rows), EXCLUDE_AT_MOST)}"


def _episodes(dataset: LeRobotDataset, rows: NDArray[np.int64]) -> list[int]:
    return sorted({dataset.episode_of(int(row)).index for row in rows})
