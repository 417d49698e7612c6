"""A simulator that sleeps. Its processes load nothing else: no torch."""

from __future__ import annotations

import time

import numpy as np

from trainables.environment import Step
from trainables.features import STATE, PolicyFeatures

__all__ = ["SLEEP_S", "Sleeping"]

SLEEP_S = 0.005
"""How long each step sleeps."""


class Sleeping:
    """A point that approaches the target of each action, slowly."""

    action_shape = (2,)
    max_steps = 300
    fps = 10.0

    def __init__(self, _features: PolicyFeatures) -> None:
        self._position = np.zeros(2)

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        """Start somewhere."""
        self._position = np.random.default_rng(seed).uniform(0, 512, 2)
        return {STATE: self._position.astype(np.float32)}

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        """Sleep, and approach the target."""
        time.sleep(SLEEP_S)
        self._position = 0.9 * self._position + 0.1 * action
        seen = {STATE: self._position.astype(np.float32)} if observe else None
        return Step(seen, float(self._position[0]), False, False)

    def frame(self) -> np.ndarray:
        """A picture without anything to see."""
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        """Nothing to release."""
