"""The data of a configuration: the dataset, its split, its frames, and whether they fit the policy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.dataset.content import content_digest
from trainables.dataset.doctor.preflight import preflight as dataset_faults
from trainables.dataset.errors import DatasetError
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.open import Sources, open_dataset
from trainables.dataset.sources.find import fetch_source
from trainables.dataset.windows import Split, Windows, split_episodes
from trainables.diffusion_policy.config.clashes import crop_faults
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT, DatasetConfig, PolicyConfig
from trainables.diffusion_policy.finetuning.compatibility import feature_faults
from trainables.diffusion_policy.finetuning.starting_point import checkpoint_faults
from trainables.diffusion_policy.network.backbone_file import ready_file
from trainables.diffusion_policy.pretrained.digest import checkpoint_digest
from trainables.diffusion_policy.pretrained.find import find_checkpoint
from trainables.diffusion_policy.pretrained.read_config import read_config
from trainables.evaluation.simulators import environment_faults
from trainables.features import PolicyFeatures
from trainables.interface import ConfigError, Fault, expanded, is_url, silent
from trainables.pusht import IMAGE, ensure_dataset

if TYPE_CHECKING:
    from trainables.dataset.frames import FrameArray

__all__ = [
    "OpenData",
    "camera_faults",
    "describe",
    "image_sizes",
    "load_dataset",
    "open_data",
    "preflight",
    "split_of",
]

COLOURS = 3
"""Channels of the pictures for LeRobot's encoders, and so for those of this policy."""


@dataclass(frozen=True)
class OpenData:
    """The dataset of a configuration, its split by episode, and the decoded frames of its cameras."""

    config: DiffusionConfig
    dataset: LeRobotDataset
    split: Split
    frames: Mapping[str, FrameArray]

    def training_windows(self) -> Windows:
        """The samples to train on."""
        return self._windows(self.split.train, drop=self.config.policy.drop_n_last_frames)

    def heldout_windows(self) -> Windows | None:
        """The samples of the held-out episodes; None if nothing is held out."""
        if not self.split.holdout:
            return None
        return self._windows(self.split.holdout, drop=self.config.eval.window_steps - 1)

    def _windows(self, episodes: tuple[int, ...], *, drop: int) -> Windows:
        return Windows(
            self.dataset,
            episodes,
            n_obs_steps=self.config.policy.n_obs_steps,
            horizon=self.config.policy.horizon,
            drop_n_last_frames=drop,
            frames=self.frames,
        )


def open_data(config: DiffusionConfig, cache: Path, progress: Callable[[str], None] = silent) -> OpenData:
    """Open the dataset of a configuration, split it, and decode what is not in the cache yet.

    Raises:
        DatasetError: If the dataset cannot be read.
    """
    from trainables.dataset.frames import open_frames

    dataset = load_dataset(config.dataset, cache, progress)
    split = split_of(dataset, config.dataset)
    sizes = image_sizes(config, dataset.policy_features)
    frames = {name: open_frames(dataset, name, size, cache, progress) for name, size in sizes.items()}
    return OpenData(config, dataset, split, frames)


def load_dataset(
    config: DatasetConfig, cache: Path, progress: Callable[[str], None] = silent
) -> LeRobotDataset:
    """Open the dataset that a configuration names; builds the built-in one at its first use.

    Raises:
        DatasetError: If the dataset cannot be read.
    """
    return open_dataset(
        source(config, cache, progress),
        revision=config.revision,
        episodes=config.episodes,
        exclude_episodes=config.exclude_episodes,
        observations=config.observations,
        features=config.features,
        tolerance_s=config.tolerance_s,
        progress=progress,
    )


def split_of(dataset: LeRobotDataset, config: DatasetConfig) -> Split:
    """Which episodes of an opened dataset a configuration trains on, and which it holds out.

    Raises:
        DatasetError: If there are too few episodes.
    """
    return split_episodes(dataset, config.holdout_fraction, config.split_seed, config.fraction)


def source(config: DatasetConfig, cache: Path, progress: Callable[[str], None] = silent) -> Sources:
    """Local folder (a Path), hub id (a str) or folder fetched from a store; or several. A root goes first.

    Raises:
        DatasetError: If the dataset cannot be fetched from its store.
    """
    if config.root is not None:
        roots = [
            fetch_source(root, cache, progress) if is_url(root) else expanded(root)
            for root in _each(config.root)
        ]
        return roots if isinstance(config.root, tuple) else roots[0]
    places = [_place(repo_id, config, cache, progress) for repo_id in _each(config.repo_id or "")]
    return places if isinstance(config.repo_id, tuple) else places[0]


def _each(named: str | tuple[str, ...]) -> tuple[str, ...]:
    return (named,) if isinstance(named, str) else named


def _place(repo_id: str, config: DatasetConfig, cache: Path, progress: Callable[[str], None]) -> Path | str:
    if repo_id != BUILTIN_PUSHT:
        return repo_id
    images = config.observations is None or IMAGE in config.observations
    return ensure_dataset(cache, images=images, progress=progress)


def preflight(config: DiffusionConfig, cache: Path, progress: Callable[[str], None] = silent) -> list[Fault]:
    """Check a configuration against its dataset and its environment, without decoding frames."""
    faults = _start_faults(config, cache, progress)
    if faults:
        return faults
    dataset = config.dataset
    try:
        found = source(dataset, cache, progress)
    except DatasetError as error:
        return list(error.faults)
    faults = dataset_faults(
        found,
        revision=dataset.revision,
        episodes=dataset.episodes,
        exclude_episodes=dataset.exclude_episodes,
        observations=dataset.observations,
        features=dataset.features,
        holdout_fraction=dataset.holdout_fraction,
        fraction=dataset.fraction,
        tolerance_s=dataset.tolerance_s,
        progress=progress,
    )
    if faults:
        return faults
    features = load_dataset(dataset, cache).policy_features
    faults = camera_faults(config, features) + _backbone_faults(config.policy, features, progress)
    rollout = config.rollout
    if rollout.env is not None:
        filmed = rollout.video != "never"
        faults += environment_faults(rollout.env, features, rollout.max_steps, filmed=filmed)
    return faults


def _start_faults(config: DiffusionConfig, cache: Path, progress: Callable[[str], None]) -> list[Fault]:
    """Why the checkpoint of ``policy.path`` cannot be fine-tuned on this dataset; fetches it from the hub."""
    path, dataset = config.policy.path, config.dataset
    if path is None:
        return []
    try:
        progress(f"reading the checkpoint {path}")
        start = read_config(find_checkpoint(path))
        faults = checkpoint_faults(config, start)
        if faults:
            return faults
        built_in = dataset.root is None and BUILTIN_PUSHT in _each(dataset.repo_id or "")
        # All features of the dataset, to report differences; but the images of the built-in one are costly.
        whole = dataset if built_in else dataclasses.replace(dataset, observations=None)
        found = load_dataset(whole, cache, progress).policy_features
    except DatasetError:
        return []  # which the dataset's own check explains
    except ConfigError as error:
        return list(error.faults)
    asked = dataset.observations
    inputs = [feature for feature in found.inputs if asked is None or feature.name in asked]
    return feature_faults(config, start, PolicyFeatures(tuple(inputs), found.action))


def _backbone_faults(
    policy: PolicyConfig, features: PolicyFeatures, progress: Callable[[str], None]
) -> list[Fault]:
    """Why the backbone's pretrained weights cannot be loaded here; fetches them if they are missing."""
    named = policy.pretrained_backbone_weights
    # With a checkpoint the backbone's weights are its own, unless its layers do not fit.
    if named is None or policy.path is not None or not features.cameras:
        return []
    try:
        ready_file(policy.vision_backbone, named, progress)
    except ConfigError as error:
        return list(error.faults)
    return []


def describe(config: DiffusionConfig, cache: Path) -> Mapping[str, Any]:
    """Identify the data of a configuration and the checkpoint that it starts from."""
    dataset = load_dataset(config.dataset, cache)
    split = split_of(dataset, config.dataset)
    named = config.dataset.root or config.dataset.repo_id
    revisions = [source.revision for source in dataset.sources]
    return {
        "dataset": list(named) if isinstance(named, tuple) else named,
        "revision": dataset.revision if len(dataset.sources) == 1 else revisions,
        "fingerprint": dataset.fingerprint,
        "content": content_digest(dataset),
        "episodes": len(dataset.episodes),
        "frames": len(dataset),
        "fps": dataset.fps,
        "train_episodes": len(split.train),
        "holdout_episodes": len(split.holdout),
        "split_hash": split.hash,
        **_described_start(config.policy.path),
    }


def _described_start(path: str | None) -> dict[str, str]:
    """Identify the checkpoint that a configuration starts from."""
    if path is None:
        return {}
    return {"checkpoint": path, "checkpoint_content": checkpoint_digest(find_checkpoint(path))}


def image_sizes(config: DiffusionConfig, features: PolicyFeatures) -> dict[str, tuple[int, int]]:
    """Size (height, width) at which each camera's frames are stored."""
    shape = config.policy.resize_shape
    resized = None if shape is None else (shape[0], shape[1])
    return {camera.name: resized or (camera.shape[1], camera.shape[2]) for camera in features.cameras}


def camera_faults(config: DiffusionConfig, features: PolicyFeatures) -> list[Fault]:
    """Why the policy cannot use the cameras' pictures: their channels, sizes, or the crop."""
    faults: list[Fault] = []
    for camera in features.cameras:
        if camera.shape[0] != COLOURS:
            others = [one.name for one in features.inputs if one.name != camera.name]
            channels = f"{camera.shape[0]} channel{'' if camera.shape[0] == 1 else 's'}"
            faults.append(
                Fault(
                    "dataset.observations",
                    f"{camera.name} has {channels}, but the policy's encoders take pictures with {COLOURS}.",
                    f"Convert it to RGB, or leave it out: dataset.observations: [{', '.join(others)}].",
                )
            )
    sizes = image_sizes(config, features)
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
        remedy = "Set policy.resize_shape: [height, width] to resize every camera to one size."
        faults.append(Fault("policy.resize_shape", f"the cameras differ in size ({listed}).", remedy))
    for name, size in sizes.items():
        faults += crop_faults(config.policy, size, name)
    return faults
