"""The demonstrations that come with this package, and the LeRobot dataset made of them.

The package contains a table of a few hundred kilobytes: the state and the action of every frame.
Keypoints and images follow from it, so the dataset is built on the machine that first needs it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.shared_cache import DATASETS
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE
from trainables.files import put_in_place
from trainables.interface import TrainableError, silent
from trainables.pusht.geometry import KEYPOINTS, to_world
from trainables.pusht.task import FPS, IMAGE, IMAGE_SIZE_PX, TASK

__all__ = ["Demonstrations", "DemonstrationsError", "ensure_dataset", "load_demonstrations"]

TABLE = "demonstrations.npz"
LAYOUT = 1
"""Increased when the dataset that is made of the same table changes, so that caches are rebuilt."""


class DemonstrationsError(TrainableError):
    """The shipped table is missing or damaged."""

    reason = "data"


@dataclass(frozen=True)
class Demonstrations:
    """Successful episodes, one after the other. ``E`` episodes, ``N`` frames of all of them.

    Attributes:
        seeds: gym-pusht's seed of each episode (E,).
        starts: Reset state of each episode (E, 5): agent x, y and block x, y, angle as gym-pusht takes them.
        lengths: Frames of each episode (E,).
        agents: Agent position (N, 2), float32, px, before the action.
        blocks: Block pose (N, 3), float32, px and rad, before the action.
        actions: Target position (N, 2), float32, px.
        rewards: Reward of the action (N,), float32.
    """

    seeds: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    agents: np.ndarray
    blocks: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray

    def __len__(self) -> int:
        return len(self.lengths)

    def rows(self, episode: int) -> slice:
        """Frames of one episode."""
        stop = int(self.lengths[: episode + 1].sum())
        return slice(stop - int(self.lengths[episode]), stop)

    def keypoints(self, rows: slice) -> np.ndarray:
        """The T's keypoints x0, y0, x1, ... (n, 16), float32, px, in gym-pusht's order."""
        poses = self.blocks[rows].astype(np.float64)
        return to_world(poses[:, None], KEYPOINTS).reshape(len(poses), -1).astype(np.float32)

    def save(self, path: Path) -> None:
        """Write the table; the file is either complete or absent."""
        unfinished = path.with_name(f".{path.name}.unfinished")
        with unfinished.open("wb") as file:
            np.savez_compressed(file, **{item.name: getattr(self, item.name) for item in fields(self)})
        put_in_place(unfinished, path)


@lru_cache(maxsize=1)
def load_demonstrations() -> Demonstrations:
    """Read the shipped table.

    Raises:
        DemonstrationsError: If it is missing or damaged.
    """
    table = files("trainables.pusht") / TABLE
    try:
        with table.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Demonstrations(**{item.name: arrays[item.name] for item in fields(Demonstrations)})
    except (OSError, ValueError, KeyError) as error:
        raise DemonstrationsError(
            f"The table of the built-in demonstrations, {table}, cannot be read: {error}. Install this "
            "package again. In a checkout, `python -m tools.pusht_expert.generate` makes the table."
        ) from error


def ensure_dataset(cache: Path, images: bool, progress: Callable[[str], None] | None = None) -> Path:
    """Build the LeRobot dataset of the demonstrations, unless an earlier call already has.

    Args:
        cache: Folder that every process of a machine may share; the first caller builds it for all.
        images: Whether the dataset has a camera, ``observation.image``; drawing it takes a minute.
        progress: Called with a message while the dataset is built.

    Returns:
        The dataset's folder, complete.

    Raises:
        DemonstrationsError: If the shipped table cannot be read.
    """
    kind = "images" if images else "states"
    root = Path(cache) / DATASETS / f"builtin-pusht-{kind}-{_table_hash()}"
    if root.is_dir():
        return root
    root.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(root.with_name(f".{root.name}.lock")):
        if not root.is_dir():
            _build(root, images, progress or silent)
    return root


@lru_cache(maxsize=1)
def _table_hash() -> str:
    digest = hashlib.sha256(f"layout {LAYOUT}\n".encode())
    for item in fields(Demonstrations):
        digest.update(getattr(load_demonstrations(), item.name).tobytes())
    return digest.hexdigest()[:12]


def _build(root: Path, images: bool, progress: Callable[[str], None]) -> None:
    demonstrations = load_demonstrations()
    camera = _Camera() if images else None
    with DatasetWriter(root, fps=FPS, features=_features(images)) as writer:
        for episode in range(len(demonstrations)):
            rows = demonstrations.rows(episode)
            columns = _columns(demonstrations, rows)
            if camera is not None:
                columns[IMAGE] = camera.film(demonstrations.agents[rows], demonstrations.blocks[rows])
            writer.add_episode(columns, task=TASK)
            progress(f"built-in Push-T dataset: episode {episode + 1} of {len(demonstrations)}")


def _columns(demonstrations: Demonstrations, rows: slice) -> dict[str, np.ndarray]:
    last = np.zeros((rows.stop - rows.start, 1), dtype=bool)
    last[-1] = True
    return {
        STATE: demonstrations.agents[rows],
        ENVIRONMENT_STATE: demonstrations.keypoints(rows),
        ACTION: demonstrations.actions[rows],
        "next.reward": demonstrations.rewards[rows][:, None],
        "next.done": last,
        # Every episode ends with the step that solves the task.
        "next.success": last.copy(),
    }


def _features(images: bool) -> Mapping[str, Any]:
    place = {"motors": ["x", "y"]}
    keypoints = {"keypoints": [f"{axis}{number}" for number in range(len(KEYPOINTS)) for axis in "xy"]}
    camera = {IMAGE: DatasetFeature("video", (*IMAGE_SIZE_PX, 3), ["height", "width", "channel"])}
    return {
        **(camera if images else {}),
        STATE: DatasetFeature("float32", (2,), place),
        ENVIRONMENT_STATE: DatasetFeature("float32", (16,), keypoints),
        ACTION: DatasetFeature("float32", (2,), place),
        "next.reward": DatasetFeature("float32", (1,)),
        "next.done": DatasetFeature("bool", (1,)),
        "next.success": DatasetFeature("bool", (1,)),
    }


class _Camera:
    """Draws frames of the table as gym-pusht draws them."""

    def __init__(self) -> None:
        from trainables.pusht.environment import PushTSimulator

        self._simulator = PushTSimulator(IMAGE_SIZE_PX)
        self._simulator.reset(seed=0)

    def film(self, agents: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Images (T, H, W, 3), uint8. Nothing is simulated again: they show the table's states."""
        frames = []
        for agent, block in zip(agents, blocks, strict=True):
            self._simulator.place(agent, block)
            frames.append(self._simulator.image())
        return np.stack(frames)
