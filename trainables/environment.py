"""The protocol of a simulator: what a rollout needs from an environment."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from trainables.interface import TrainableError

__all__ = ["FIELD", "IMAGE", "Environment", "Observation", "SimulatorError", "Step"]

Observation = Mapping[str, np.ndarray]
"""One time step under LeRobot's names: vectors float32 (D,), images uint8 (C, H, W)."""
IMAGE = "observation.image"
"""LeRobot's name of a single camera."""
FIELD = "rollout.env"


@runtime_checkable
class Environment(Protocol):
    """One simulator. The same seed and the same actions must give the same episode.

    Attributes:
        action_shape: Shape of an action.
        max_steps: Steps per episode that the task is meant to have, or None if it has no limit.
        fps: Control steps per second of simulated time.
    """

    action_shape: tuple[int, ...]
    max_steps: int | None
    fps: float

    def reset(self, seed: int) -> Observation:
        """Start the episode that belongs to ``seed``."""
        ...

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        """Execute one action (A,); ``observe=False`` says that nobody will look at the observation."""
        ...

    def frame(self) -> np.ndarray:
        """Picture of the current state for a person, uint8 (H, W, 3)."""
        ...

    def close(self) -> None:
        """Release what the simulator holds."""
        ...


class Step(NamedTuple):
    """What one control step gave.

    Attributes:
        observation: What the policy sees next, or None if it was not asked for.
        reward: Reward of the step.
        done: Whether the episode is over by the environment's own rule (its step limit not counted).
        success: Whether the task is solved.
    """

    observation: Observation | None
    reward: float
    done: bool
    success: bool


class SimulatorError(TrainableError):
    """A simulator cannot be made, or does not behave."""

    reason = "environment"
