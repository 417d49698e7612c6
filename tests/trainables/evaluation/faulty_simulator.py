"""Simulators that wait, crash and hang, as their environment variables say."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from trainables.environment import Step
from trainables.features import STATE, PolicyFeatures

SLEEP_S = "FAULTY_SLEEP_S"
FOLDER = "FAULTY_FOLDER"
FAULT = "FAULTY_FAULT"
"""``crash``, ``hang`` or ``raise``, at the third step of the episode of seed 12."""
ALWAYS = "FAULTY_ALWAYS"


class Wandering:
    """A point that is moved by every action and by every episode's own drift; it never succeeds."""

    action_shape = (2,)
    max_steps = 30
    fps = 10.0

    def __init__(self, features: PolicyFeatures) -> None:
        self._cameras = [feature.name for feature in features.cameras]

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.seed, self.steps = seed, 0
        self._random = np.random.default_rng(seed)
        self._position = self._random.normal(size=2)
        return self._observation()

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        self.steps += 1
        if self.seed == 12 and self.steps == 3:
            self._fail()
        time.sleep(float(os.environ.get(SLEEP_S, "0")))
        self._position = 0.9 * self._position + 0.1 * action + self._random.normal(size=2)
        seen = self._observation() if observe else None
        return Step(seen, float(self._position.sum()), self.steps >= 20 + self.seed % 7, False)

    def _observation(self) -> dict[str, np.ndarray]:
        shade = np.uint8(abs(int(1e3 * self._position[0])) % 256)
        pictures = {name: np.full((3, 96, 96), shade, np.uint8) for name in self._cameras}
        return {STATE: self._position.astype(np.float32), **pictures}

    def _fail(self) -> None:
        fault = os.environ.get(FAULT)
        folder = os.environ.get(FOLDER)
        if fault is None or folder is None:
            return
        attempts = Path(folder) / "attempts"
        with attempts.open("a") as file:
            file.write(f"{os.getpid()}\n")
        if len(attempts.read_text().split()) > 1 and ALWAYS not in os.environ:
            return
        if fault == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if fault == "hang":
            time.sleep(3600)
        raise RuntimeError("the physics exploded")

    def frame(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


def make_parents_only(features: PolicyFeatures) -> Wandering:
    """An environment that exists in the process of the tests alone."""
    if os.environ["FAULTY_PARENT"] != str(os.getpid()):
        raise RuntimeError("one licence, one process")
    return Wandering(features)


def make_registered(render_mode: str | None = None) -> Any:
    """A gymnasium environment; gymnasium is loaded only for this one."""
    import gymnasium
    from gymnasium import spaces

    class Walk(gymnasium.Env):
        metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
        action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        observation_space = spaces.Dict({"agent_pos": spaces.Box(-1e3, 1e3, (2,), np.float64)})

        def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
            super().reset(seed=seed)
            self.position = self.np_random.uniform(-1, 1, 2)
            return {"agent_pos": self.position}, {}

        def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
            self.position = self.position + action
            return {"agent_pos": self.position}, float(self.position.sum()), False, False, {}

    return Walk()
