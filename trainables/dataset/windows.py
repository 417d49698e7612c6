"""Cut a dataset into training samples: which frames start one, in which order, and what each holds.

Torch is loaded only for samples: the process that launches a sweep needs no more than the split.

Shapes: B samples, To observation steps, T horizon, A action dimension, D feature, (C, H, W) picture.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.frames import FrameArray
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.features import ACTION
from trainables.shares import fraction_faults, split_sizes

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ACTION_IS_PAD", "Split", "Windows", "split_episodes"]

ACTION_IS_PAD = "action_is_pad"


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


class Windows:
    """The training samples of some episodes, gathered in batches.

    A sample is a frame in ``[start, stop - drop_n_last_frames)`` of its episode. It holds the ``n_obs_steps``
    frames up to that frame and ``horizon`` actions from the first of them on; where a window leaves the
    episode, the edge frame is repeated.

    Args:
        dataset: The opened dataset.
        episodes: Indices of the episodes to use.
        n_obs_steps: Observation steps (To).
        horizon: Actions (T).
        drop_n_last_frames: Frames at each episode's end that start no sample.
        frames: The decoded frames of every camera.

    Attributes:
        empty_episodes: Indices of the episodes that are too short to give a sample.

    Raises:
        DatasetError: If no episode gives a sample, or the frames of a camera are missing.
    """

    def __init__(
        self,
        dataset: LeRobotDataset,
        episodes: Collection[int],
        *,
        n_obs_steps: int,
        horizon: int,
        drop_n_last_frames: int,
        frames: Mapping[str, FrameArray],
    ) -> None:
        self.n_obs_steps = n_obs_steps
        self.horizon = horizon
        self._observed = np.arange(1 - n_obs_steps, 1)
        self._acted = np.arange(1 - n_obs_steps, 1 - n_obs_steps + horizon)
        chosen = [episode for episode in dataset.episodes if episode.index in set(episodes)]
        lengths = [max(len(episode) - max(drop_n_last_frames, 0), 0) for episode in chosen]
        self.empty_episodes = tuple(
            episode.index for episode, length in zip(chosen, lengths, strict=True) if length == 0
        )
        if not sum(lengths):
            longest = max((len(episode) for episode in chosen), default=0)
            none = f"none of the {len(chosen)} episodes gives a training sample"
            why = f"the longest has {longest} frames, the last {drop_n_last_frames} of each start none"
            remedy = "Use longer episodes, or a smaller policy.horizon or larger policy.n_action_steps."
            raise dataset_error("dataset", f"{none}: {why}.", remedy)
        self._start = np.repeat([episode.start for episode in chosen], lengths)
        self._last = np.repeat([episode.stop - 1 for episode in chosen], lengths)
        self._row = np.concatenate(
            [episode.start + np.arange(length) for episode, length in zip(chosen, lengths, strict=True)]
        )
        cameras = [feature.name for feature in dataset.policy_features.cameras]
        missing = [name for name in cameras if name not in frames]
        if missing:
            raise dataset_error("frames", f"the frames of {missing} were not opened.", "Use open_frames.")
        import torch

        self._frames = {name: frames[name] for name in cameras}
        self._vectors = {
            feature.name: torch.from_numpy(dataset.vector(feature.name))
            for feature in dataset.policy_features.all()
            if feature.name not in cameras
        }

    def __len__(self) -> int:
        """Count the samples."""
        return len(self._row)

    def rows(self, sample_numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The dataset's rows at which samples start, (B,)."""
        found: NDArray[np.int64] = self._row[sample_numbers]
        return found

    def reaches(self, sample_numbers: NDArray[np.int64], steps: int) -> NDArray[np.bool_]:
        """Whether the sample so many numbers later is so many steps later in the same episode, (B,)."""
        later = np.minimum(sample_numbers + steps, len(self) - 1)
        same: NDArray[np.bool_] = self._last[later] == self._last[sample_numbers]
        return same & (self._row[later] - self._row[sample_numbers] == steps)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """Shuffle the sample numbers: always the same permutation for the same seed, epoch and count.

        Drawn from the raw bits of PCG64, whose stream numpy guarantees, unlike that of ``permutation``.
        """
        bits = np.random.PCG64(np.random.SeedSequence([seed, epoch]))
        return np.argsort(bits.random_raw(len(self)), kind="stable")

    def gather(self, sample_numbers: NDArray[np.int64]) -> dict[str, Tensor]:
        """Collect a batch.

        Args:
            sample_numbers: Which samples, (B,), each below ``len(self)``.

        Returns:
            Each vector observation (B, To, D) float32, each camera (B, To, C, H, W) uint8, ``action``
            (B, T, A) float32, ``action_is_pad`` (B, T) bool: True where the action lies outside the episode.
        """
        import torch

        row_B1 = self._row[sample_numbers][:, None]
        start_B1 = self._start[sample_numbers][:, None]
        last_B1 = self._last[sample_numbers][:, None]
        observed_BTo = np.clip(row_B1 + self._observed, start_B1, last_B1)
        asked_BT = row_B1 + self._acted
        acted_BT = np.clip(asked_BT, start_B1, last_B1)
        batch: dict[str, Tensor] = {}
        for name, frames in self._frames.items():
            batch[name] = torch.from_numpy(frames.take(observed_BTo))
        for name, values in self._vectors.items():
            batch[name] = values[torch.from_numpy(acted_BT if name == ACTION else observed_BTo)]
        batch[ACTION_IS_PAD] = torch.from_numpy(asked_BT != acted_BT)
        return batch
