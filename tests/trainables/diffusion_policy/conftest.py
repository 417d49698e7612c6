"""A small dataset that a policy can learn, and the smallest configuration that learns it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_policy import small_settings

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

EPISODES = 8
LENGTH = 40


def circle_episode(number: int) -> dict[str, np.ndarray]:
    """An arm that runs round a circle; the action is the next place."""
    angle = number + np.linspace(0, 2 * np.pi, LENGTH + 1)
    place = np.stack([100 * np.cos(angle), 50 * np.sin(angle)], axis=1).astype(np.float32)
    return {"observation.state": place[:-1], "action": place[1:]}


@pytest.fixture(scope="session")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset of states and actions."""
    root = tmp_path_factory.mktemp("data") / "circles"
    features = {
        "observation.state": DatasetFeature("float32", (2,), ["x", "y"]),
        "action": DatasetFeature("float32", (2,), ["x", "y"]),
    }
    with DatasetWriter(root, fps=10, features=features) as writer:
        for number in range(EPISODES):
            writer.add_episode(circle_episode(number), task="Run round.")
    return root


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset with a camera: a bright square that moves, and where it goes next."""
    root = tmp_path_factory.mktemp("data") / "pictures"
    shape = {
        "observation.images.front": DatasetFeature("video", (64, 64, 3), ["height", "width", "channel"]),
        "observation.state": DatasetFeature("float32", (2,)),
        "action": DatasetFeature("float32", (2,)),
    }
    with DatasetWriter(root, fps=10, features=shape) as writer:
        for number in range(3):
            place = np.linspace(0, 40, 17)[:, None] * np.array([1.0, 1.0 - 0.3 * number])
            video = np.zeros((16, 64, 64, 3), np.uint8)
            for frame, (x, y) in zip(video, place.astype(int), strict=False):
                frame[y : y + 16, x : x + 16] = 255
            values = {"observation.state": place[:-1], "action": place[1:]}
            writer.add_episode(
                {"observation.images.front": video, **{k: v.astype(np.float32) for k, v in values.items()}},
                task="Move.",
            )
    return root


@pytest.fixture
def small_config(circles: Path) -> dict[str, Any]:
    """A configuration that trains for a few seconds on one core."""
    return small_settings(circles)
