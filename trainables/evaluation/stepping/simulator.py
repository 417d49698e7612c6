"""One simulator, and what it is ordered to do. A process of simulators loads no more than this and numpy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from trainables.environment import Environment, Observation
from trainables.evaluation.simulators import make_environment
from trainables.features import PolicyFeatures

__all__ = ["Order", "Play", "Played", "Simulator", "Start"]


@dataclass(frozen=True)
class Start:
    """Start the episode that belongs to a seed; answered with one observation."""

    seed: int


@dataclass(frozen=True)
class Play:
    """Execute actions until they are used up or the environment ends the episode.

    Attributes:
        actions: The actions (T, A).
        observe_from: Position of the first action after which the observation is needed.
    """

    actions: np.ndarray
    observe_from: int


Order = Start | Play


@dataclass(frozen=True)
class Played:
    """The answer to an order.

    Attributes:
        observations: What was to be observed, in order.
        rewards: One per executed action.
        success: Whether the task was solved at one of them.
        done: Whether the environment ended the episode.
    """

    observations: list[Observation]
    rewards: list[Any]
    success: bool = False
    done: bool = False


class Simulator:
    """An environment that executes orders.

    Args:
        env_id: What ``make_environment`` accepts.
        features: What the policy sees and does.
        stepped: Called after everything that the environment has completed: being made, a reset, a step.
    """

    def __init__(self, env_id: str, features: PolicyFeatures, stepped: Callable[[], None]) -> None:
        self.environment: Environment = make_environment(env_id, features)
        self._stepped = stepped
        stepped()

    def execute(self, order: Order) -> Played:
        """Execute an order; what the environment raises passes through."""
        if isinstance(order, Start):
            first = self.environment.reset(order.seed)
            self._stepped()
            return Played([first], [])
        observations: list[Observation] = []
        rewards: list[Any] = []
        success = False
        for position, action_A in enumerate(order.actions):
            step = self.environment.step(action_A.copy(), observe=position >= order.observe_from)
            self._stepped()
            if step.observation is not None:
                observations.append(step.observation)
            rewards.append(step.reward)
            success = success or step.success
            if step.done:
                return Played(observations, rewards, success, done=True)
        return Played(observations, rewards, success)
