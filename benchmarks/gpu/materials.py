"""What the kit trains on and with: a small dataset, configurations, policies and observations."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.cases import Setting
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import Report, TrainContext

__all__ = [
    "CAMERA",
    "DEFAULT_SIZE",
    "SMALL_SIZE",
    "TINY_SIZE",
    "build",
    "config_of",
    "dataset_folder",
    "observations",
    "sizes",
    "train",
    "training_batch",
]

CAMERA = "observation.image"
IMAGE_PX = 96
EPISODES, LENGTH = 8, 60

DEFAULT_SIZE: dict[str, Any] = {"policy.crop_shape": [84, 84]}
"""LeRobot's default network behind one camera of 96×96 px, as for Push-T: 262.7 million parameters."""
SMALL_SIZE: dict[str, Any] = DEFAULT_SIZE | {"policy.down_dims": [128, 256, 512]}
TINY_SIZE: dict[str, Any] = {
    "policy.crop_shape": [64, 64],
    "policy.down_dims": [16, 32],
    "policy.n_groups": 4,
    "policy.diffusion_step_embed_dim": 16,
    "policy.spatial_softmax_num_keypoints": 4,
}


def sizes(setting: Setting) -> dict[str, dict[str, Any]]:
    """The networks that are measured, by what they are called."""
    if setting.quick:
        return {"tiny": TINY_SIZE}
    return {"262.7 M": DEFAULT_SIZE, "small U-Net": SMALL_SIZE}


def dataset_folder(folder: Path) -> Path:
    """A LeRobot dataset with a camera: a bright square that runs round, and where it goes next."""
    root = folder / "dataset"
    if root.exists():
        return root
    features = {
        CAMERA: DatasetFeature("video", (IMAGE_PX, IMAGE_PX, 3), ["height", "width", "channel"]),
        STATE: DatasetFeature("float32", (2,), ["x", "y"]),
        ACTION: DatasetFeature("float32", (2,), ["x", "y"]),
    }
    with DatasetWriter(root, fps=10, features=features) as writer:
        for number in range(EPISODES):
            angle = number + np.linspace(0, 2 * np.pi, LENGTH + 1)
            place = (48 + 36 * np.stack([np.cos(angle), np.sin(angle)], axis=1)).astype(np.float32)
            pictures = np.stack([_picture(x, y) for x, y in place[:-1]])
            writer.add_episode({CAMERA: pictures, STATE: place[:-1], ACTION: place[1:]}, task="Run round.")
    return root


def _picture(x: float, y: float) -> np.ndarray:
    picture = np.full((IMAGE_PX, IMAGE_PX, 3), 40, dtype=np.uint8)
    picture[int(y) - 8 : int(y) + 8, int(x) - 8 : int(x) + 8] = (230, 200, 60)
    return picture


def config_of(setting: Setting, *changes: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration that trains on the kit's dataset with random crops, without held-out episodes."""
    config: dict[str, Any] = {
        "dataset.root": str(dataset_folder(setting.folder)),
        "dataset.holdout_fraction": 0.0,
        "policy.horizon": 16,
        "policy.n_action_steps": 8,
        "policy.sampler": "DDIM",
        "policy.num_inference_steps": 10,
        "lr_scheduler.warmup_steps": 2,
        "rollout.video": "never",
    }
    for change in changes:
        config |= change
    return config


def never() -> bool:
    """Do not stop."""
    return False


def _refuse_plain_steps(message: str) -> None:
    """Fail if steps are plain that should be a CUDA graph."""
    if "without a CUDA graph" in message:
        raise RuntimeError(message)


def train(
    config: Mapping[str, Any],
    setting: Setting,
    name: str,
    *,
    device: str | None = None,
    stop_requested: Callable[[], bool] = never,
    reports: int | None = None,
) -> list[Report]:
    """Train as a trial does.

    Args:
        config: Values by dotted name.
        setting: Where the kit runs.
        name: Of the trial's folder; a run in a folder that has a checkpoint continues from it.
        device: Another device than the setting's.
        stop_requested: Called at the end of every step.
        reports: End after so many reports, as a process that is killed does.
    """
    context = TrainContext(
        folder=setting.folder / "trials" / name,
        cache=setting.folder / "cache",
        device=device or setting.device,
        stop_requested=stop_requested,
        progress=_refuse_plain_steps,
    )
    running = TRAINABLE.train(config, context)
    try:
        return list(islice(running, reports))
    finally:
        running.close()  # type: ignore[attr-defined]  # it is a generator


def build(config: Mapping[str, Any], device: str, *, camera: bool = True) -> DiffusionPolicy:
    """A policy with the random weights of seed 0."""
    torch.manual_seed(0)
    inputs = [Feature(STATE, FeatureType.STATE, (2,))]
    if camera:
        inputs.insert(0, Feature(CAMERA, FeatureType.VISUAL, (3, IMAGE_PX, IMAGE_PX)))
    features = PolicyFeatures(tuple(inputs), Feature(ACTION, FeatureType.ACTION, (2,)))
    vector = {"min": np.zeros(2), "max": np.full(2, 96.0), "mean": np.full(2, 48.0), "std": np.full(2, 25.0)}
    picture = {"mean": np.full((3, 1, 1), 0.5), "std": np.full((3, 1, 1), 0.25)}
    statistics: dict[str, dict[str, np.ndarray]] = {STATE: vector, ACTION: vector, CAMERA: picture}
    return build_policy(DiffusionConfig.from_flat(config).policy, features, statistics).to(device)


def observations(policy: DiffusionPolicy, size: int, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Random observations (B, To, ...) in raw units, the same on every device."""
    generator = torch.Generator().manual_seed(seed)
    values: dict[str, Tensor] = {}
    for feature in policy.features.inputs:
        shape = (size, policy.n_obs_steps, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            values[feature.name] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        else:
            values[feature.name] = 96 * torch.rand(shape, generator=generator)
    return {name: value.to(device) for name, value in values.items()}


def training_batch(policy: DiffusionPolicy, size: int, device: str, seed: int = 0) -> dict[str, Tensor]:
    """Random observations and actions, with the noise, the timesteps and the crops of a step."""
    generator = torch.Generator().manual_seed(seed + 1)
    action_shape = (size, policy.horizon, policy.action_dim)
    drawn = {
        ACTION: 96 * torch.rand(action_shape, generator=generator),
        "noise": torch.randn(action_shape, generator=generator),
        "timesteps": torch.randint(policy.process.num_train_timesteps, (size,), generator=generator),
    }
    return observations(policy, size, device, seed) | {name: x.to(device) for name, x in drawn.items()}


def row_generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """A generator per sample, on the CPU, as rollouts use them."""
    return [torch.Generator().manual_seed(seed) for seed in seeds]
