"""A small environment for the dataset of circles, and one that cannot be started, for ``rollout.env``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from trainables.environment import Observation, SimulatorError, Step
from trainables.features import STATE, PolicyFeatures

__all__ = ["HOLD", "CircleWorld", "broken"]

HOLD = "CIRCLE_WORLD_HOLD"
"""The environment variable that names a file: while it exists, no episode begins."""


class CircleWorld:
    """The arm is where its last action sent it, and should be on the circle."""

    action_shape = (2,)
    max_steps: int | None = 8
    fps = 10.0

    def __init__(self, features: PolicyFeatures) -> None:
        self._place = np.zeros(2, np.float32)

    def reset(self, seed: int) -> Observation:
        held = os.environ.get(HOLD)
        while held and Path(held).exists():
            time.sleep(0.02)
        angle = np.random.default_rng(seed).uniform(0, 2 * np.pi)
        self._place = np.array([100 * np.cos(angle), 50 * np.sin(angle)], np.float32)
        return {STATE: self._place}

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        self._place = np.asarray(action, np.float32)
        off = abs(float(np.hypot(self._place[0] / 100, self._place[1] / 50)) - 1)
        return Step({STATE: self._place} if observe else None, 1 / (1 + off), False, off < 0.01)

    def frame(self) -> np.ndarray:
        return np.zeros((32, 32, 3), np.uint8)

    def close(self) -> None:
        pass


def broken(features: PolicyFeatures) -> CircleWorld:
    """Fail, as a simulator does that is not installed well."""
    raise SimulatorError("the world does not turn")
