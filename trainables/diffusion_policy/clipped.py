"""The demonstrated actions that the clip of ``policy.clip_sample`` cuts.

`sweeper check` reads the statistics that the dataset's folder records. With the dataset opened every action
is counted. Nothing else shows that a clip range is too small: the loss falls, but the policy never predicts
the demonstrated actions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from trainables.dataset.format.recorded import recorded_statistics
from trainables.dataset.statistics import vector_statistics
from trainables.diffusion_policy.config.sections import DatasetConfig, PolicyConfig
from trainables.diffusion_policy.network.clipping import ActionReach, extremes_reach, linear_scales
from trainables.features import ACTION
from trainables.interface import expanded, is_url

if TYPE_CHECKING:
    # Loads pyarrow, which `sweeper check` does not load.
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["dataset_reach", "recorded_reach"]

Statistics = Mapping[str, Sequence[float]]


def dataset_reach(
    policy: PolicyConfig, dataset: LeRobotDataset, known: Statistics | None = None
) -> ActionReach | None:
    """The range of the normalised actions of an opened dataset.

    Args:
        policy: The normalisation and the clip.
        dataset: The dataset.
        known: Statistics of another dataset to normalise with; None: those of ``dataset``.

    Returns:
        None if the statistics do not fit, or no dimension varies.
    """
    actions_ND = dataset.vector(ACTION)[dataset.rows_of(None)].astype(np.float64)
    statistics = known or _plain(vector_statistics(actions_ND))
    scales = linear_scales(policy.normalization_action, statistics) or []
    if len(scales) != actions_ND.shape[1]:
        return None
    varying = [(number, scale) for number, scale in enumerate(scales) if scale is not None]
    if not varying:
        return None
    numbers = [number for number, _ in varying]
    offset, scale = (np.array([getattr(each, name) for _, each in varying]) for name in ("offset", "scale"))
    sizes_ND = np.abs((actions_ND[:, numbers] - offset) / scale + varying[0][1].shift)
    largest_D = np.nanmax(sizes_ND, axis=0)
    place = int(largest_D.argmax())
    beyond = float((sizes_ND > policy.clip_sample_range).mean())
    return ActionReach(float(largest_D[place]), numbers[place], "The demonstrated actions", beyond)


def recorded_reach(
    policy: PolicyConfig, config: DatasetConfig, known: Statistics | None = None
) -> ActionReach | None:
    """The range from the statistics that the dataset's folders record, without opening them.

    Args:
        policy: The normalisation and the clip.
        config: The dataset.
        known: As for `dataset_reach`.

    Returns:
        None if the folder is not on this machine or does not record the statistics, or if there are several.
    """
    if not isinstance(config.root, str) or is_url(config.root):
        return None
    recorded = recorded_statistics(expanded(config.root)) or {}
    names = [name for name, ours in (config.features or {}).items() if ours == ACTION]
    found = next((recorded[name] for name in (*names, ACTION) if name in recorded), None)
    if found is None:
        return None
    extremes = _plain(found)
    return extremes_reach(policy.normalization_action, known or extremes, extremes, "The recorded actions")


def _plain(statistics: Mapping[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: values.reshape(-1).tolist() for name, values in statistics.items() if name != "count"}
