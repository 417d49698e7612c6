"""What the proposal of a space needs to know about a dataset. Its metadata is enough; nothing is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.features import Feature, PolicyFeatures
from trainables.pusht.task import FPS, IMAGE_SIZE_PX, TASK

__all__ = ["DatasetFacts", "facts_of"]

PUSHT = "gym_pusht/PushT-v0"
"""The only simulator that a dataset can be recognised to belong to."""
KEYPOINTS = 16
"""Numbers in Push-T's ``observation.environment_state``."""


@dataclass(frozen=True)
class DatasetFacts:
    """A dataset, as far as a first space depends on it.

    Attributes:
        name: Its folder or its name on the hub.
        version: Of LeRobot's format.
        fps: Frames per second.
        episodes: How many there are.
        frames: How many there are.
        median_steps: Frames of the median episode.
        features: What the policy sees and does.
        simulator: The simulator that it belongs to, as ``rollout.env``; None if none is known.
        longest_steps: Frames of the longest episode.
        shortest_steps: Frames of the shortest episode.
    """

    name: str
    version: str
    fps: float
    episodes: int
    frames: int
    shortest_steps: int
    median_steps: int
    longest_steps: int
    features: PolicyFeatures
    simulator: str | None

    @property
    def cameras(self) -> tuple[Feature, ...]:
        """The image inputs."""
        return self.features.cameras

    def seconds(self, steps: float) -> str:
        """A number of steps as time, e.g. ``1.6 s``."""
        return f"{steps / self.fps:.2g} s"

    def sentences(self) -> Iterator[str]:
        """What was read, in a line each."""
        yield (
            f"{self.name}: LeRobot {self.version}, {_counted(self.episodes, 'episode')}, "
            f"{_counted(self.frames, 'frame')}, {self.fps:g} fps"
        )
        lengths = [self.seconds(n) for n in (self.shortest_steps, self.median_steps, self.longest_steps)]
        if lengths[0] == lengths[2]:
            yield f"episodes of {lengths[0]}"
        else:
            yield f"episodes of {lengths[0]} to {lengths[2]}, half of them at most {lengths[1]}"
        seen = [
            f"{feature.name} {feature.shape[1]}×{feature.shape[2]}"
            if feature in self.cameras
            else f"{feature.name} ({_counted(feature.shape[0], 'number')})"
            for feature in self.features.inputs
        ]
        yield f"sees {', '.join(seen)}; {_counted(self.features.action_dim, 'number')} in an action"


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def facts_of(dataset: LeRobotDataset) -> DatasetFacts:
    """Look at an opened dataset."""
    lengths = np.array([len(episode) for episode in dataset.episodes])
    tasks = {task for episode in dataset.episodes for task in episode.tasks}
    return DatasetFacts(
        name=Path(dataset.sources[0].name).name if dataset.repo_id is None else dataset.repo_id,
        version=dataset.version,
        fps=dataset.fps,
        episodes=len(dataset.episodes),
        frames=len(dataset),
        shortest_steps=int(lengths.min()),
        median_steps=int(np.median(lengths)),
        longest_steps=int(lengths.max()),
        features=dataset.policy_features,
        simulator=PUSHT if _is_pusht(dataset.policy_features, dataset.fps, tasks) else None,
    )


def _is_pusht(features: PolicyFeatures, fps: float, tasks: set[str]) -> bool:
    """Whether demonstrations are of simulated Push-T: by the task's text and by every shape."""
    text = " ".join(tasks).lower()
    named = TASK in tasks or "t-shaped" in text or "pusht" in text.replace("-", "").replace(" ", "")
    pictures = all(camera.shape == (3, *IMAGE_SIZE_PX) for camera in features.cameras)
    shapes = features.action_dim == features.state_dim == 2 and len(features.cameras) <= 1 and pictures
    return named and shapes and fps == FPS and features.environment_state_dim in (0, KEYPOINTS)
