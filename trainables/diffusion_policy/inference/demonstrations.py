"""The demonstrations that a policy is compared with: which episodes, and whether it was trained on them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.dataset.content import content_digest
from trainables.dataset.doctor.wording import dimension_names
from trainables.dataset.errors import DatasetError
from trainables.dataset.frames import open_frames
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.windows import Windows
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.config.sections import DatasetConfig
from trainables.diffusion_policy.data import image_sizes, load_dataset, split_of
from trainables.evaluation.analysis import Source
from trainables.features import ACTION, FeatureType, PolicyFeatures
from trainables.inspection import TrainedOn
from trainables.interface import ConfigError, EvaluationContext, Fault

__all__ = ["Training", "open_demonstrations"]

MOST_FRAMES = 20_000
"""Images that are decoded for a comparison: of larger datasets that are new some episodes are used."""
_SELECTION = ("episodes", "exclude_episodes", "observations")


@dataclass(frozen=True)
class Training:
    """What is known of a policy's training.

    Attributes:
        dataset: Its dataset, and how that was split; None if the checkpoint does not say.
        content: Digest of the dataset's content; empty if the checkpoint does not say.
        start: The checkpoint that it started from; None if it started from none.
        changed: Values that the caller gave in place of those of the training.
    """

    dataset: DatasetConfig | None = None
    content: str = ""
    start: str | None = None
    changed: Mapping[str, Any] = field(default_factory=dict)


def open_demonstrations(
    config: DiffusionConfig, features: PolicyFeatures, training: Training, context: EvaluationContext
) -> tuple[Source, Windows]:
    """Open the dataset of a configuration, and choose the episodes that the policy was not trained on.

    Args:
        config: Names the dataset.
        features: What the policy sees and does.
        training: What is known of its training.
        context: Where the frames are kept.

    Raises:
        ConfigError: If no dataset is named, or its features are not the policy's.
        DatasetError: If the dataset cannot be read.
    """
    named = config.dataset.root or config.dataset.repo_id
    if named is None:
        problem = "no dataset is named, and the checkpoint names none."
        raise ConfigError([Fault("dataset.root", problem, "Name one, to compare with demonstrations.")])
    shown = ", ".join(named) if isinstance(named, tuple) else named
    same = _training_dataset(config, training, context)
    if same is not None:
        dataset, (episodes, trained_on, provenance) = same, _held_out(same, training)
    else:
        dataset = load_dataset(_whole(config, features, training), context.cache, context.progress)
        trained_on, provenance = _foreign(training)
        dataset, note = _fewer(dataset, config, features, training, context)
        episodes = tuple(episode.index for episode in dataset.episodes)
        provenance += note
    faults = _feature_faults(shown, config, features, dataset.policy_features)
    if faults:
        raise ConfigError(faults)
    sizes = image_sizes(config, dataset.policy_features)
    frames = {
        name: open_frames(dataset, name, size, context.cache, context.progress)
        for name, size in sizes.items()
    }
    windows = Windows(
        dataset,
        episodes,
        n_obs_steps=config.policy.n_obs_steps,
        horizon=config.policy.horizon,
        drop_n_last_frames=0,
        frames=frames,
    )
    dimensions = tuple(dimension_names(dataset, ACTION))
    return Source(dataset, shown, episodes, dimensions, trained_on, provenance), windows


def _training_dataset(
    config: DiffusionConfig, training: Training, context: EvaluationContext
) -> LeRobotDataset | None:
    """The dataset, opened as in the training, if its content is that of the training."""
    if training.dataset is None:
        return None
    moved = {name: getattr(config.dataset, name) for name in ("root", "repo_id", "revision")}
    try:
        dataset = load_dataset(
            dataclasses.replace(training.dataset, **moved), context.cache, context.progress
        )
    except DatasetError:
        if all(getattr(training.dataset, name) == value for name, value in moved.items()):
            raise
        return None  # another dataset, for which the training's choice of episodes means nothing
    return dataset if not training.content or content_digest(dataset) == training.content else None


def _held_out(dataset: LeRobotDataset, training: Training) -> tuple[tuple[int, ...], TrainedOn, str]:
    """The episodes that the training did not see, or all if it saw all."""
    assert training.dataset is not None
    split = split_of(dataset, training.dataset)
    # Without held-out episodes those that dataset.fraction left out judge, if there are any.
    episodes = split.holdout or split.unused
    if not episodes:
        words = "The policy was trained on all of these episodes (dataset.holdout_fraction: 0): its errors "
        words += "on new episodes are larger."
        return tuple(episode.index for episode in dataset.episodes), "yes", words
    if training.start is not None:
        words = f"Held out of the training, which started from {training.start}: whether that checkpoint "
        return episodes, "unknown", words + "was trained on them is not known."
    if not training.content:
        words = "Held out of the training, if the dataset is still the one of the training."
        return episodes, "unknown", words
    return episodes, "no", "Held out of the training."


def _foreign(training: Training) -> tuple[TrainedOn, str]:
    if training.content:
        words = "All episodes of a dataset that is not the one of the training (its content differs). "
        return "unknown", words + "Whether it contains episodes of the training is not known."
    words = (
        "The checkpoint does not say which episodes it was trained on. If these are among them, the errors "
    )
    return "unknown", words + "on new episodes are larger."


def _whole(config: DiffusionConfig, features: PolicyFeatures, training: Training) -> DatasetConfig:
    """A dataset that is not the training's, with every episode and what the policy sees."""
    default = DatasetConfig(observations=tuple(feature.name for feature in features.inputs))
    free = [name for name in _SELECTION if f"dataset.{name}" not in training.changed]
    return dataclasses.replace(config.dataset, **{name: getattr(default, name) for name in free})


def _fewer(
    dataset: LeRobotDataset,
    config: DiffusionConfig,
    features: PolicyFeatures,
    training: Training,
    context: EvaluationContext,
) -> tuple[LeRobotDataset, str]:
    """Some episodes of a dataset that would take long to decode, and a note that says so."""
    if not features.cameras or len(dataset) <= MOST_FRAMES:
        return dataset, ""
    order = [episode.index for episode in dataset.episodes]
    random.Random(config.eval.seed).shuffle(order)
    chosen: list[int] = []
    frames = 0
    lengths = {episode.index: len(episode) for episode in dataset.episodes}
    for index in order:
        if chosen and frames + lengths[index] > MOST_FRAMES:
            break
        chosen.append(index)
        frames += lengths[index]
    settings = dataclasses.replace(_whole(config, features, training), episodes=tuple(sorted(chosen)))
    note = f" {len(chosen):,} of its {len(order):,} episodes, chosen at random."
    return load_dataset(settings, context.cache, context.progress), note


def _feature_faults(
    named: str, config: DiffusionConfig, wanted: PolicyFeatures, found: PolicyFeatures
) -> list[Fault]:
    """How a dataset's features differ from those of the policy."""
    has = {feature.name: feature for feature in found.all()}
    faults = []
    for feature in wanted.all():
        other = has.get(feature.name)
        resized = feature.type is FeatureType.VISUAL and config.policy.resize_shape is not None
        if other is None:
            given = ", ".join(sorted(has))
            remedy = f"It has {given}. dataset.features gives features other names."
            faults.append(Fault("dataset.root", f"{named} lacks {feature.name}.", remedy))
        elif other.shape != feature.shape and not (resized and other.shape[0] == feature.shape[0]):
            problem = f"{named} has {feature.name} of {other.shape}, and the policy's is {feature.shape}."
            faults.append(Fault("dataset.root", problem, "Name a dataset of the same robot."))
    return faults
