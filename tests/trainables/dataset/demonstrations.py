"""Datasets as a sound recording has them: smooth, varied motions, a textured scene that the arm moves in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

CAMERA = "observation.images.front"
HEIGHT, WIDTH = 32, 48
PICTURE = DatasetFeature("video", (HEIGHT, WIDTH, 3), ["height", "width", "channels"])
NAMES = ["x", "y", "yaw", "gripper"]
FPS = 10

Columns = dict[str, np.ndarray]


def motion(generator: np.random.Generator, length: int) -> np.ndarray:
    """Minimum-jerk moves between places, and a gripper that closes once, (length + 1, 4)."""
    legs = 3
    places = generator.uniform([-1, -1, -0.8, 0], [1, 1, 0.8, 0], (legs + 1, 4))
    ends = np.linspace(0, length, legs + 1)
    frame = np.arange(length + 1)
    leg = np.clip(np.searchsorted(ends, frame, side="right") - 1, 0, legs - 1)
    s = np.clip((frame - ends[leg]) / (ends[leg + 1] - ends[leg]), 0, 1)[:, None]
    smooth = 10 * s**3 - 15 * s**4 + 6 * s**5
    path = places[leg] + smooth * (places[leg + 1] - places[leg])
    path[:, 3] = np.clip((frame - generator.uniform(0.4, 0.7) * length) / 2, 0, 1)
    return path + generator.normal(0, 1e-4, path.shape)


def film(generator: np.random.Generator, ground: np.ndarray, path: np.ndarray) -> np.ndarray:
    """The scene with a bright disc where the arm is, sensor noise included, (T, H, W, 3)."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centre_x, centre_y = (path[:, 0] + 1.3) / 2.6 * WIDTH, (path[:, 1] + 1.3) / 2.6 * HEIGHT
    disc = np.hypot(x - centre_x[:, None, None], y - centre_y[:, None, None]) < 4
    frames = np.where(disc[..., None], [230.0, 120, 60], ground + generator.uniform(-8, 8))
    return (frames + generator.normal(0, 2, frames.shape)).clip(0, 255).astype(np.uint8)


def scene(seed: int = 0) -> np.ndarray:
    """A ground with edges and shades, (H, W, 3)."""
    coarse = np.random.default_rng(seed).uniform(40, 180, (HEIGHT // 4, WIDTH // 4, 3))
    return coarse.repeat(4, axis=0).repeat(4, axis=1)


def record(
    root: Path,
    lengths: Sequence[int] = (40,) * 12,
    *,
    camera: bool = True,
    tasks: Sequence[str] = ("Push.",),
    change: Callable[[int, Columns], Any] | None = None,
    extra: Mapping[str, DatasetFeature] | None = None,
    seed: int = 0,
    **options: Any,
) -> Path:
    """Write a dataset; ``change(episode, columns)`` may spoil each episode before it is written."""
    generator = np.random.default_rng(seed)
    ground = scene(seed)
    features = {
        **({CAMERA: PICTURE} if camera else {}),
        "observation.state": DatasetFeature("float32", (4,), NAMES),
        "action": DatasetFeature("float32", (4,), {"motors": NAMES}),
        **(extra or {}),
    }
    options = {"fps": FPS, "encoder": "libx264", **options}
    with DatasetWriter(root, features=features, **options) as writer:
        for episode, length in enumerate(lengths):
            path = motion(generator, length)
            columns: Columns = {
                "observation.state": path[:-1].astype(np.float32),
                "action": path[1:].astype(np.float32),
            }
            if camera:
                columns[CAMERA] = film(generator, ground, path[:-1])
            if change is not None:
                change(episode, columns)
            writer.add_episode(columns, task=tasks[episode % len(tasks)])
    return root
