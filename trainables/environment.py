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
        max_steps: The task's limit of steps per episode, or None if it has none.
        fps: Control steps per second of simulated time.
    """

    action_shape: tuple[int, ...]
    max_steps: int | None
    fps: float

    def reset(self, seed: int) -> Observation:
        """Start the episode that belongs to ``seed``."""
        ...

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        """Execute one action (A,); with ``observe=False`` the observation is not needed."""
        ...

    def frame(self) -> np.ndarray:
        """Picture of the current state for a film, uint8 (H, W, 3)."""
        ...

    def close(self) -> None:
        """Release the simulator's resources."""
        ...


class Step(NamedTuple):
    """The result of one control step.

    Attributes:
        observation: What the policy sees next, or None if it was not requested.
        reward: Reward of the step.
        done: Whether the episode is over by the environment's own rule (its step limit not counted).
        success: Whether the task is solved.
    """

    observation: Observation | None
    reward: float
    done: bool
    success: bool


class SimulatorError(TrainableError):
    """A simulator cannot be created, or does not follow the protocol."""

    reason = "environment"
