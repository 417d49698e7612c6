"""How findings speak of episodes, dimensions and what to do."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.format.files import listed
from trainables.dataset.format.schema import dimension_texts
from trainables.features import ACTION, STATE
from trainables.ranges import compressed

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = [
    "counted",
    "dimension_names",
    "episodes_of",
    "exclude",
    "in_episodes",
    "leave_out",
    "name_dimensions",
    "named_files",
    "sentence",
    "vectors",
]

NAMED_FILES = 3
"""So many of the affected files are named in a sentence; ``Finding.files`` has all."""


def episodes_of(dataset: LeRobotDataset, rows: NDArray[np.int64]) -> list[int]:
    """Indices of the episodes that hold some rows, ascending."""
    starts = np.array([episode.start for episode in dataset.episodes])
    places = np.unique(np.searchsorted(starts, rows, side="right") - 1)
    return sorted(dataset.episodes[int(place)].index for place in places)


def in_episodes(episodes: Sequence[int]) -> str:
    """``episode 3``, or ``episodes [3, 7]``."""
    return f"episode {episodes[0]}" if len(episodes) == 1 else f"episodes {listed(episodes)}"


def exclude(dataset: LeRobotDataset, episodes: Collection[int]) -> str:
    """The option that leaves out episodes; without an option, where none would be left."""
    if len(episodes) >= len(dataset.episodes):
        return "use another dataset"
    return f"set dataset.exclude_episodes: {compressed(episodes)}"


def leave_out(dataset: LeRobotDataset, episodes: Collection[int], feature: str) -> str:
    """The option that does without these episodes; without the feature, where no episode would be left."""
    if len(episodes) >= len(dataset.episodes) and feature not in (STATE, ACTION):
        others = [one.name for one in dataset.policy_features.inputs if one.name != feature]
        return f"leave {feature} out of dataset.observations ([{', '.join(others)}])"
    return exclude(dataset, episodes)


def counted(number: int, word: str) -> str:
    """``1 frame``, ``1,200 frames``."""
    return f"{number:,} {word}" + ("" if number == 1 else "s")


def named_files(paths: Sequence[Path | str], of: int, what: str = "videos") -> str:
    """The first of some files, and how many there are: ``2 of 9 videos, first a/b, c/d``."""
    shown = ", ".join(str(path) for path in paths[:NAMED_FILES])
    if len(paths) == 1:
        return shown
    return f"{len(paths):,} of {of:,} {what}, first {shown}"


def sentence(text: str) -> str:
    """The same with a capital letter."""
    return text[:1].upper() + text[1:]


def vectors(dataset: LeRobotDataset) -> list[str]:
    """Names of the policy's inputs and output that are no pictures."""
    cameras = {feature.name for feature in dataset.policy_features.cameras}
    # A dataset that was opened partly has an action of no numbers if the files have none.
    every = [feature for feature in dataset.policy_features.all() if feature.shape != (0,)]
    return [feature.name for feature in every if feature.name not in cameras]


def dimension_names(dataset: LeRobotDataset, feature: str) -> list[str]:
    """Names of a vector's dimensions as info.json has them; their numbers if it has none."""
    described = dataset.features[feature]
    size = int(np.prod(described.shape))
    names = dimension_texts(described.names)
    return names if len(names) == size else [str(number) for number in range(size)]


def name_dimensions(dataset: LeRobotDataset, feature: str, dimensions: Sequence[int]) -> str:
    """``dimension 5 (gripper)``, or ``dimensions 2 (z), 5 (gripper)``."""
    names = dimension_names(dataset, feature)
    shown = [str(d) if names[d] == str(d) else f"{d} ({names[d]})" for d in dimensions[:10]]
    more = f", ... {len(dimensions)} in all" if len(dimensions) > len(shown) else ""
    return f"dimension{'' if len(dimensions) == 1 else 's'} {', '.join(shown)}{more}"
