"""A small environment of known physics, and policies whose actions can be computed by hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.environment import Step
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

REACH = PolicyFeatures((Feature(STATE, FeatureType.STATE, (2,)),), Feature(ACTION, FeatureType.ACTION, (2,)))
PUSHT_STATE = PolicyFeatures(
    (
        Feature(STATE, FeatureType.STATE, (2,)),
        Feature("observation.environment_state", FeatureType.ENV, (16,)),
    ),
    Feature(ACTION, FeatureType.ACTION, (2,)),
)
PUSHT_ALL = PolicyFeatures(
    (Feature("observation.image", FeatureType.VISUAL, (3, 96, 96)), *PUSHT_STATE.inputs), PUSHT_STATE.action
)


class Reach(gymnasium.Env):
    """A point that jumps to its target; the goal is the origin. The start is random within [-1, 1]²."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012

    def __init__(
        self, render_mode: str | None = None, cameras: tuple[str, ...] = (), success_key: str = "is_success"
    ):
        self.render_mode = render_mode
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.observation_space = spaces.Dict({"agent_pos": spaces.Box(-1.0, 1.0, (2,), np.float64)})
        self._cameras = cameras
        self._success_key = success_key
        self.received: list[np.ndarray] = []

    def _observation(self) -> dict[str, Any]:
        seen: dict[str, Any] = {"agent_pos": self.position.copy()}
        if self._cameras:
            seen["pixels"] = {name: np.full((4, 6, 3), 7, np.uint8) for name in self._cameras}
        return seen

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1, 1, 2)
        return self._observation(), {}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.received.append(np.array(action))
        self.position = np.asarray(action, dtype=np.float64)
        distance = float(np.linalg.norm(self.position))
        solved = distance < 0.1
        return self._observation(), 1.0 - distance, solved, False, {self._success_key: solved}

    def render(self) -> np.ndarray:
        return np.zeros((33, 41, 3), np.uint8)


def make_reach(features: PolicyFeatures) -> gymnasium.Env:
    return Reach()


class Line:
    """A user's adapter: without gymnasium, one number."""

    action_shape = (1,)
    max_steps = 4
    fps = 5.0

    def __init__(self, features: PolicyFeatures) -> None:
        self.position = 0.0

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.position = float(seed)
        return {STATE: np.array([self.position], np.float32)}

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        self.position += float(action[0])
        return Step({STATE: np.array([self.position], np.float32)}, self.position, False, False)

    def frame(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


def make_nonsense(features: PolicyFeatures) -> int:
    return 3


def make_broken(features: PolicyFeatures) -> gymnasium.Env:
    raise RuntimeError("no licence")


class Recorder:
    """A policy whose action is a function of the last observation; it records the observations."""

    def __init__(self, features: PolicyFeatures = REACH, n_obs_steps: int = 2, n_action_steps: int = 3):
        self.features = features
        self.n_obs_steps = n_obs_steps
        self.n_action_steps = n_action_steps
        self.asked: list[Mapping[str, torch.Tensor]] = []

    def answer(
        self, observation: Mapping[str, torch.Tensor], generator: list[torch.Generator]
    ) -> torch.Tensor:
        """Halve the distance to the origin at every step."""
        last = observation[STATE][:, -1]
        return torch.stack([last * 0.5 ** (t + 1) for t in range(self.n_action_steps)], dim=1)

    def predict_action(
        self, observation: Mapping[str, torch.Tensor], *, generator: list[torch.Generator]
    ) -> torch.Tensor:
        self.asked.append(observation)
        return self.answer(observation, generator)


class NoisyNetwork(torch.nn.Module):
    """A random network whose output depends on every input, plus noise: the hardest case to repeat."""

    def __init__(self, features: PolicyFeatures, n_obs_steps: int = 2, n_action_steps: int = 8) -> None:
        super().__init__()
        self.features = features
        self.n_obs_steps = n_obs_steps
        self.n_action_steps = n_action_steps
        inputs = n_obs_steps * sum(int(np.prod(feature.shape)) for feature in features.inputs)
        actions = features.action.shape[0] * n_action_steps
        self.lift = torch.nn.Linear(inputs, 67)
        self.conv = torch.nn.Conv1d(1, 8, 5, padding=2)
        self.norm = torch.nn.GroupNorm(4, 8)
        self.out = torch.nn.Linear(8 * 67, actions)
        weights = torch.Generator().manual_seed(1)
        for parameter in self.parameters():
            torch.nn.init.normal_(parameter, std=0.3, generator=weights)
        self.norm.weight.data.fill_(1.0)
        self.eval()

    def predict_action(
        self, observation: Mapping[str, torch.Tensor], *, generator: list[torch.Generator]
    ) -> torch.Tensor:
        flat = [observation[feature.name].float().flatten(1) / 512 for feature in self.features.inputs]
        hidden = self.norm(self.conv(torch.tanh(self.lift(torch.cat(flat, dim=1)))[:, None]))
        action = self.out(torch.nn.functional.mish(hidden).flatten(1))
        noise = torch.stack([torch.randn(action.shape[1], generator=g) for g in generator]).to(action.device)
        shaped = (action + noise).reshape(len(action), self.n_action_steps, -1)
        return 256 + 150 * torch.tanh(shaped)


def pusht_policy(features: PolicyFeatures, **config: Any) -> DiffusionPolicy:
    """A small policy with random weights for Push-T."""
    statistics = {}
    for feature in (*features.inputs, features.action):
        if feature.name == "observation.image":
            values = {"mean": 0.5, "std": 0.2}
            shape = (3, 1, 1)
        else:
            values = {"min": 0, "max": 512}
            shape = feature.shape
        statistics[feature.name] = {key: np.full(shape, value, np.float32) for key, value in values.items()}
    torch.manual_seed(0)
    chosen: dict[str, Any] = {"horizon": 8, "n_action_steps": 4, "num_inference_steps": 3} | config
    network = PolicyConfig(down_dims=(32, 64), kernel_size=3, **chosen)
    return build_policy(network, features, statistics).eval()
