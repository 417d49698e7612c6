"""The statistics that a policy is normalised with, over some episodes of a dataset.

They need both the dataset and its decoded frames, so they stand above both.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.frames import FrameArray
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.statistics import (
    PIXEL_VALUES,
    Statistics,
    image_histogram,
    image_statistics,
    imagenet_statistics,
    sample_rows,
    vector_statistics,
)
from trainables.features import Feature

__all__ = ["policy_statistics"]


def policy_statistics(
    dataset: LeRobotDataset,
    episodes: Collection[int] | None = None,
    *,
    use_imagenet_stats: bool = False,
    frames: Mapping[str, FrameArray] | None = None,
) -> Statistics:
    """Compute the statistics of a policy's inputs and output over some episodes.

    Args:
        dataset: The opened dataset.
        episodes: Indices of episodes; None: all that were chosen.
        use_imagenet_stats: Give every camera ImageNet's mean and std instead of its own, as LeRobot does.
        frames: The decoded frames of every camera, to count the pixels as the policy sees them; None:
            decode some frames as they were recorded.

    Returns:
        float64 arrays: vectors (D,), exact; cameras (C, 1, 1) in [0, 1], over an evenly spaced sample.

    Raises:
        DatasetError: If an episode was not chosen, or a picture cannot be decoded.
    """
    rows = dataset.rows_of(episodes)
    cameras = {feature.name for feature in dataset.policy_features.cameras}
    found: Statistics = {}
    for feature in dataset.policy_features.all():
        if feature.name not in cameras:
            found[feature.name] = vector_statistics(dataset.vector(feature.name)[rows])
            continue
        decoded = None if frames is None else frames[feature.name]
        found[feature.name] = _camera_statistics(dataset, feature, rows, decoded)
        if use_imagenet_stats and feature.shape[0] == 3:
            found[feature.name] |= imagenet_statistics()
    return found


def _camera_statistics(
    dataset: LeRobotDataset, camera: Feature, rows: NDArray[np.int64], frames: FrameArray | None
) -> dict[str, np.ndarray]:
    sample = sample_rows(rows, math.prod(camera.shape if frames is None else frames.array.shape[1:]))
    if frames is None:
        pictures = (picture for _, picture in dataset.decoded(camera.name, sample, None))
    else:
        pictures = (frames.take(row) for row in sample)
    histogram = np.zeros((camera.shape[0], PIXEL_VALUES), np.int64)
    for picture_CHW in pictures:
        histogram += image_histogram(picture_CHW[None])
    return image_statistics(histogram, len(sample))
