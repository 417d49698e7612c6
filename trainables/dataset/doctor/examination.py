"""The whole doctor: everything that can be found in a dataset, pictures included.

Vectors are in memory as for training: 4 bytes for each number of state and action, some 40 for each frame's
times and indices, so that ten million frames of a two-armed robot take 1.6 GB. Pictures pass through one by
one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from trainables.dataset.doctor.bookkeeping import (
    bookkeeping_findings,
    image_statistics_findings,
    open_books,
)
from trainables.dataset.doctor.collection import collection_findings
from trainables.dataset.doctor.folder import folder_findings
from trainables.dataset.doctor.looks import look_at, sampled_rows
from trainables.dataset.doctor.pictures import picture_findings
from trainables.dataset.doctor.quick import quick_findings
from trainables.dataset.doctor.signals.following import following_findings
from trainables.dataset.doctor.signals.motion import motion_findings
from trainables.dataset.doctor.signals.numbers import number_findings
from trainables.dataset.doctor.signals.shift import shift_findings
from trainables.dataset.doctor.signals.stretches import stretch_findings
from trainables.dataset.doctor.videos import open_videos
from trainables.dataset.statistics import Statistics, image_statistics
from trainables.interface import Finding, silent

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["Aims", "examine"]


@dataclass(frozen=True)
class Aims:
    """What a policy wants of a dataset.

    Attributes:
        n_obs_steps: Observation steps of a window.
        horizon: Actions of a window.
        drop_n_last_frames: Frames at an episode's end that start no window.
        min_max: Features that are normalised by their extremes.
    """

    n_obs_steps: int
    horizon: int
    drop_n_last_frames: int
    min_max: Collection[str]


@np.errstate(invalid="ignore", over="ignore")  # of numbers that are reported as not finite
def examine(
    dataset: LeRobotDataset,
    aims: Aims,
    progress: Callable[[str], None] = silent,
    *,
    every_frame: bool = False,
) -> tuple[list[Finding], dict[str, int]]:
    """Find everything that is wrong with an opened dataset.

    Args:
        dataset: The opened dataset.
        aims: What it is to be used for.
        progress: Told what is being looked at.
        every_frame: Decode every picture instead of a sample.

    Returns:
        The findings, errors first; and how many pictures of each camera were looked at.
    """
    if dataset.policy_features.cameras:
        progress(f"{len(dataset.episodes):,} episodes: opening the videos")
    videos, books = open_videos(dataset), open_books(dataset)
    findings = [*dataset.notes, *quick_findings(dataset, videos)]
    findings += bookkeeping_findings(dataset, books, videos)
    findings += folder_findings(dataset)
    progress(f"{len(dataset):,} frames: states and actions")
    findings += number_findings(dataset, aims.min_max)
    findings += motion_findings(dataset)
    following = following_findings(dataset)
    findings += following
    findings += stretch_findings(dataset, delayed=any(found.check == "action_lag" for found in following))
    findings += shift_findings(dataset)
    findings += collection_findings(dataset, aims.n_obs_steps, aims.horizon, aims.drop_n_last_frames)
    looked_at: dict[str, int] = {}
    measured: Statistics = {}
    for camera in dataset.policy_features.cameras:
        # What is known to be broken is not decoded, and not reported twice.
        broken = {
            index
            for found in findings
            if found.severity == "error" and found.where in (camera.name, "timestamp")
            for index in found.episodes
        }
        rows = sampled_rows(dataset, every_frame=every_frame, leave_out=broken)
        if not len(rows):
            looked_at[camera.name] = 0
            continue
        looks = look_at(dataset, camera.name, rows, progress)
        looked_at[camera.name] = len(looks.rows)
        if len(looks.rows):
            measured[camera.name] = image_statistics(looks.histogram, len(looks.rows))
        findings += picture_findings(dataset, looks)
    findings += image_statistics_findings(dataset, books, measured)
    order = ("error", "warning", "note")
    return sorted(findings, key=lambda found: order.index(found.severity)), looked_at
