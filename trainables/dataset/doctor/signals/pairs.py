"""Which dimension of the state belongs to which of the action, and how dimensions move within episodes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.wording import dimension_names, vectors
from trainables.features import ACTION, STATE

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["Pair", "is_gripper", "joint_pairs", "ptp_of_episodes"]

_GRIPPER = re.compile(r"grip|finger|claw|jaw|hand_(open|close)|suction|vacuum", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A dimension of the action and the one of the state that it moves.

    Attributes:
        action: Dimension of the action.
        state: Dimension of the state.
        named: Whether their names say so; else they have the same place.
    """

    action: int
    state: int
    named: bool


def joint_pairs(dataset: LeRobotDataset) -> list[Pair]:
    """The dimensions of action and state that belong together: of one name, or of one place."""
    if not {STATE, ACTION} <= set(vectors(dataset)):
        return []
    actions, states = dimension_names(dataset, ACTION), dimension_names(dataset, STATE)
    place = {name: d for d, name in enumerate(states) if not name.isdecimal()}
    named = [Pair(d, place[name], True) for d, name in enumerate(actions) if name in place]
    if (
        len(set(actions)) == len(actions)
        and len(set(states)) == len(states)
        and len(named) > len(actions) / 2
    ):
        return named
    if len(actions) == len(states):
        return [Pair(d, d, False) for d in range(len(actions))]
    return []


def is_gripper(name: str) -> bool:
    """Whether a dimension is a gripper by its name: at its limits by its nature, in a scale of its own."""
    return _GRIPPER.search(name) is not None


def ptp_of_episodes(dataset: LeRobotDataset, name: str) -> NDArray[np.float32]:
    """How far each dimension moves within each episode, (E, D)."""
    values = dataset.vector(name)
    starts = [episode.start for episode in dataset.episodes]
    ptp: NDArray[np.float32] = np.maximum.reduceat(values, starts, axis=0) - np.minimum.reduceat(
        values, starts, axis=0
    )
    return ptp
