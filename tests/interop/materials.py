"""What the comparison is made with: datasets that our writer wrote, and policies that our training made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.open import open_dataset
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE
from trainables.interface import Report, TrainContext
from trainables.pusht import IMAGE, ensure_dataset

KEYPOINTS = [STATE, ENVIRONMENT_STATE]
PICTURES = [IMAGE, STATE]
TINY: Mapping[str, Any] = {
    "policy.down_dims": [32, 64],
    "policy.diffusion_step_embed_dim": 32,
    "policy.n_groups": 4,
    "train.seed": 1,
}
SHORT: Mapping[str, Any] = {
    "train.steps": 12,
    "train.batch_size": 4,
    "train.log_every": 12,
    "train.eval_every": 12,
    "lr_scheduler.warmup_steps": 2,
    "optimizer.lr": 1e-3,
    "eval.windows": 4,
    "dataset.holdout_fraction": 0.2,
}
"""A training of seconds."""
VARIED: Mapping[str, Any] = {
    "dataset.observations": ["observation.images.top", "observation.images.wrist", STATE],
    "policy.resize_shape": [64, 64],
    "policy.use_separate_rgb_encoder_per_camera": True,
}
SWEEP = (
    "name=interop",
    "budget.trials=1",
    "config.train.steps=1600",
    "config.train.eval_every=800",
    "config.rollout.episodes=16",
    "config.rollout.video=never",
    "early_stop.min_steps=800",
    "parameters.policy.horizon.values=[16]",
    "config.policy.n_action_steps=8",
    "parameters.optimizer.lr.min=3e-3",
    "parameters.optimizer.lr.max=4e-3",
    "inference=null",
    "confirm=null",
)
"""The quick sweep with one trial, as it was trained: in a minute it has learnt to push somewhat."""
CONSTANT_STATE, CONSTANT_ACTION = 3, 1
"""The dimensions that never vary in the varied dataset."""
TASKS = ("Move along.", "Move back.")


def copy_pusht(cache: Path, root: Path, observations: list[str], episodes: int) -> Path:
    """Write the first episodes of the built-in Push-T set, pictures encoded anew, with our writer."""
    if root.exists():
        return root
    source = open_dataset(ensure_dataset(cache, images=IMAGE in observations), observations=observations)
    names = [*observations, ACTION]
    features = {name: source.features[name] for name in names}
    with DatasetWriter(root, fps=10, features=features) as writer:
        for episode in source.episodes[:episodes]:
            columns: dict[str, np.ndarray] = {}
            rows = np.arange(episode.start, episode.stop)
            for name in names:
                if source.features[name].is_camera:
                    columns[name] = source.pictures(name, rows).transpose(0, 2, 3, 1)
                else:
                    columns[name] = source.vector(name)[rows]
            writer.add_episode(columns, task=episode.tasks[0])
    return root


def write_varied(root: Path) -> Path:
    """Write a dataset that has what is rare: cameras of two sizes and kinds, constant dimensions, tasks.

    Also several files and chunks, an episode of one frame, integers and booleans.
    """
    if root.exists():
        return root
    features = {
        "observation.images.top": DatasetFeature("video", (48, 64, 3), ["height", "width", "channels"]),
        "observation.images.wrist": DatasetFeature("image", (32, 32, 3), ["height", "width", "channels"]),
        STATE: DatasetFeature("float32", (5,), ["a", "b", "c", "d", "e"]),
        ACTION: DatasetFeature("float32", (3,), ["x", "y", "z"]),
        "observation.gripper": DatasetFeature("int64", (1,)),
        "next.done": DatasetFeature("bool", (1,)),
    }
    random = np.random.default_rng(5)
    with DatasetWriter(root, fps=30, features=features, episodes_per_file=2, files_per_chunk=2) as writer:
        for episode, length in enumerate((40, 33, 1, 27, 50, 38)):
            time = np.linspace(0, 3, length)[:, None] + random.uniform(0, 3)
            state = np.sin(time * np.arange(1, 6)) * np.array([1, 20, 300, 0, 0.1])
            state[:, CONSTANT_STATE] = 7.5
            action = np.cos(time * np.arange(1, 4)) * np.array([2, 0, 90])
            action[:, CONSTANT_ACTION] = -3.25
            columns = {
                "observation.images.top": _pictures(48, 64, length, episode),
                "observation.images.wrist": _pictures(32, 32, length, episode + 3),
                STATE: state.astype(np.float32),
                ACTION: action.astype(np.float32),
                "observation.gripper": random.integers(0, 5, (length, 1)),
                "next.done": np.arange(length)[:, None] == length - 1,
            }
            writer.add_episode(columns, task=TASKS[episode % 2])
    return root


def train(config: Mapping[str, Any], folder: Path, cache: Path) -> tuple[Path, list[Report]]:
    """Train with this project; gives the last checkpoint's folder and the reports."""
    context = TrainContext(folder=folder, cache=cache, threads=1)
    reports = list(TRAINABLE.train(config, context))
    checkpoint = reports[-1].checkpoint
    assert checkpoint is not None, "the last report has a checkpoint"
    return checkpoint, reports


def _pictures(height: int, width: int, length: int, shade: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    frames = np.stack([(x * 3 + shade * 20) % 256, y * 5 % 256, (x + y) % 256], axis=-1).astype(np.uint8)
    walked = np.repeat(frames[None], length, axis=0)
    for frame in range(length):
        left = (2 * frame) % (width - 8)
        walked[frame, 6:14, left : left + 8] = 250 - 3 * shade
    return walked
