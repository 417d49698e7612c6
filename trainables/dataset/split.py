"""Which episodes of a dataset train, and which judge; loads no torch."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.shares import fraction_faults, split_sizes

__all__ = ["Split", "split_episodes"]


@dataclass(frozen=True)
class Split:
    """Which episodes train and which judge.

    Attributes:
        train: Indices of the episodes to learn from, ascending.
        holdout: Indices of the episodes kept back, ascending.
        hash: Identifies the split: a sha256 over the dataset's fingerprint and both lists.
        unused: Indices of the episodes that neither train nor judge, ascending.
    """

    train: tuple[int, ...]
    holdout: tuple[int, ...]
    hash: str
    unused: tuple[int, ...] = ()


def split_episodes(
    dataset: LeRobotDataset, holdout_fraction: float, seed: int, fraction: float = 1.0
) -> Split:
    """Keep back a share of the opened episodes, and train on a share of the others, by the seed alone.

    Each episode draws its lot from the seed and its own index, so that leaving one episode out of the dataset
    hardly changes on which side the others are. The held-out episodes have the first lots and the trained
    ones the last, so that the former do not depend on ``fraction``, and a smaller fraction is a part of a
    larger one.

    Args:
        dataset: The opened dataset.
        holdout_fraction: Share to keep back; above 0 at least one episode is, and at least one is left.
        seed: Seed of the choice.
        fraction: Share of the episodes that are not kept back to train on.

    Raises:
        DatasetError: If there are too few episodes to keep one back, or to train on one.
    """
    indices = [episode.index for episode in dataset.episodes]
    if holdout_fraction > 0 and len(indices) < 2:
        problem = f"{len(indices)} episode cannot be split into training and held-out episodes."
        raise dataset_error("dataset.holdout_fraction", problem, "Use more episodes, or 0.")
    faults = fraction_faults(len(indices), holdout_fraction, fraction)
    if faults:
        raise DatasetError(faults)
    trained, kept_back = split_sizes(len(indices), holdout_fraction, fraction)
    by_lot = sorted(indices, key=lambda index: hashlib.sha256(f"{seed}:{index}".encode()).digest())
    first = len(by_lot) - trained
    holdout, unused, train = (
        tuple(sorted(lots)) for lots in (by_lot[:kept_back], by_lot[kept_back:first], by_lot[first:])
    )
    text = json.dumps([dataset.fingerprint, train, holdout])
    return Split(train, holdout, hashlib.sha256(text.encode()).hexdigest(), unused)
