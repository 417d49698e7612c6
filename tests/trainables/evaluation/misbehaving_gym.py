"""A gymnasium environment that does what the environment variable of its fault says."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from faulty_simulator import FAULT, FOLDER
from gymnasium import spaces

from trainables.features import PolicyFeatures


class Misbehaving(gymnasium.Env):
    """A walk of nine steps. It fails in the episode of seed 12, the first time."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    observation_space = spaces.Dict({"agent_pos": spaces.Box(-1e3, 1e3, (2,), np.float64)})

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.seed, self.steps = seed, 0
        self.position = self.np_random.uniform(-1, 1, 2)
        self._fail("reset")
        return {"agent_pos": self.position}, {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        self.position = self.position + action
        if self.steps == 5:
            self._fail("step")
        return {"agent_pos": self.position}, float(self.position.sum()), self.steps == 9, False, {}

    def close(self) -> None:
        with (Path(os.environ[FOLDER]) / "closed").open("a") as file:
            file.write("closed\n")
        fault = os.environ.get(FAULT, "")
        if fault == "raise in close":
            raise RuntimeError("the window is gone")
        if fault == "hang in close":
            time.sleep(3600)

    def _fail(self, where: str) -> None:
        what, _, at = os.environ.get(FAULT, "").partition(" in ")
        if at != where:
            return
        if what == "print":
            print("x" * 1_000_000)
            return
        failed = Path(os.environ[FOLDER]) / "failed"
        if self.seed != 12 or failed.exists():
            return
        failed.touch()
        if what == "hang":
            time.sleep(3600)
        if what == "os._exit":
            os._exit(7)
        sys.exit(7)


def make(_features: PolicyFeatures) -> gymnasium.Env:
    """Make the environment, as ``rollout.env: misbehaving_gym:make`` does."""
    return Misbehaving()
