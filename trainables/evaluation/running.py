"""The episodes of a rollout that run: what each has seen and done, and how its chunks are executed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch

from trainables.deployment.control.settings import ControlSettings, Mode
from trainables.deployment.control.timeline import Request, Timeline, skipped_steps
from trainables.environment import Observation, SimulatorError
from trainables.episodes import EpisodeRecord
from trainables.evaluation.stepping.simulator import Play, Played
from trainables.features import PolicyFeatures

__all__ = ["Conduct", "DelayedControl", "EpisodeResult", "RolloutPolicy", "RunningEpisode", "observed"]

TIMED = 9
"""Predictions whose median is the measured latency."""


class RolloutPolicy(Protocol):
    """What a rollout needs from a policy."""

    @property
    def n_obs_steps(self) -> int:
        """Observations that ``predict_action`` takes."""
        ...

    @property
    def n_action_steps(self) -> int:
        """Actions that are executed before the next prediction."""
        ...

    @property
    def features(self) -> PolicyFeatures:
        """What the policy sees and does."""
        ...

    def predict_action(
        self, observation: Mapping[str, torch.Tensor], *, generator: list[torch.Generator]
    ) -> torch.Tensor:
        """Predict actions (B, n_action_steps, A) in the environment's units from observations (B, To, ...).

        Vectors are float32, images uint8 (B, To, C, H, W). Everything random in row ``i`` comes from
        ``generator[i]``. Under a `DelayedControl` it must be a
        `trainables.deployment.control.controller.ControlledPolicy`. A policy with cameras that is a
        `trainables.deployment.control.controller.KeepsEncodings` is given ``condition`` on a CPU, and no
        observation, except when its latency is measured.
        """
        ...


@dataclass(frozen=True)
class DelayedControl:
    """Rollouts under the control and the latency that the robot will have.

    Attributes:
        settings: How chunks are requested and executed.
        latency_ms: How late a chunk arrives, rounded up to whole control steps; ``measured``: as long as a
            prediction for one observation takes on this machine, on which results then depend. An episode
            begins when its first chunk is there.
    """

    settings: ControlSettings
    latency_ms: float | Literal["measured"] = 0.0

    @classmethod
    def named(cls, mode: str, latency_ms: float | Literal["measured"], replan: float) -> DelayedControl:
        """Build it from the fields of a configuration.

        Raises:
            ValueError: If a value is not possible.
        """
        return cls(ControlSettings(mode=cast("Mode", mode), replan=replan), latency_ms)

    @property
    def is_plain(self) -> bool:
        """Whether it changes nothing: the robot waits, and no time passes."""
        return self.settings.mode == "sync" and self.settings.samples == 1 and self.latency_ms == 0


@dataclass(frozen=True)
class EpisodeResult:
    """The result of one episode, and the policy's actions.

    Attributes:
        record: The result.
        actions: The executed actions (length, A), float32: they play the episode again.
    """

    record: EpisodeRecord
    actions: np.ndarray = field(repr=False, compare=False)


class Conduct:
    """How the chunks of all episodes are requested and executed."""

    def __init__(self, control: DelayedControl, policy: RolloutPolicy, device: torch.device) -> None:
        if not hasattr(policy, "available_actions"):
            raise ValueError("rollout.control: the policy cannot predict more actions than it executes")
        self.skipped = skipped_steps(policy)
        self.settings = control.settings
        self.available: int = policy.available_actions
        self._policy = policy
        self._device = device
        self._latency_s = None if control.latency_ms == "measured" else control.latency_ms / 1e3

    def timeline(self) -> Timeline:
        """The timeline of a new episode."""
        return Timeline(self.settings, self._policy.n_action_steps)

    def delay(self, episode: RunningEpisode) -> int:
        """Control steps from a request to its chunk."""
        if self._latency_s is None:
            self._latency_s = _measured_s(self._policy, episode, self._device, self.warm([episode]))
        return math.ceil(round(self._latency_s * episode.fps, 6))

    def warm(self, episodes: Sequence[RunningEpisode | None]) -> dict[str, Any]:
        """What a prediction is given to begin from the last chunk of each episode; None: any actions."""
        if not self.skipped:
            return {}
        rests = [None if episode is None else episode.rest() for episode in episodes]
        shape = next(rest.shape for rest in rests if rest is not None)
        previous_BKA = np.stack([np.zeros(shape, np.float32) if rest is None else rest for rest in rests])
        return {"previous": torch.from_numpy(previous_BKA), "skipped_steps": self.skipped}


class RunningEpisode:
    """One running episode: its seat, the last observations, and rewards and actions so far."""

    def __init__(
        self,
        index: int,
        seed: int,
        seat: int,
        limit: int,
        fps: float,
        n_obs_steps: int,
        conduct: Conduct | None = None,
    ) -> None:
        self.index = index
        self.seed = seed + index
        self.seat = seat
        self.fps = fps
        self.over = False
        self._limit = limit
        self.observations: deque[Observation] = deque(maxlen=n_obs_steps)
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._chunks_s: list[float] = []
        self._success = False
        self.conduct = conduct
        self._timeline = None if conduct is None else conduct.timeline()
        self._delay = 0
        self._planned_TA = np.empty((0, 0))

    @property
    def steps(self) -> int:
        """Actions that were executed."""
        return len(self._actions)

    def request(self) -> Request:
        """Record that a chunk is predicted for the present observation; the first one is waited for."""
        assert self._timeline is not None
        assert self.conduct is not None
        self._delay = self.conduct.delay(self) if self._timeline.has_started else 0
        return self._timeline.request(self._delay)

    @property
    def begins_warm(self) -> bool:
        """Whether the next prediction begins from the last chunk."""
        return (
            self._timeline is not None
            and self.conduct is not None
            and self.conduct.skipped > 0
            and self._timeline.has_started
        )

    def rest(self) -> np.ndarray | None:
        """What the last chunk has from the present on, (K, A); None before the first."""
        return None if self._timeline is None else self._timeline.rest()

    def begin(self, first: Observation) -> None:
        """Take the first observation, which fills the window."""
        self.observations.extend([first] * self._remembered)

    def plan(self, chunks_NTA: np.ndarray, predicted_s: float) -> Play:
        """The actions until the next prediction is needed or the episode ends.

        Args:
            chunks_NTA: The predicted chunk, one or more samples of it.
            predicted_s: Seconds that the prediction took.
        """
        self._chunks_s.append(predicted_s)
        actions_TA = chunks_NTA[0] if self._timeline is None else self._ahead(self._timeline, chunks_NTA)
        # The policy sees only the last observations of the chunk; the earlier ones need not be drawn.
        observe_from = max(0, len(actions_TA) - self._remembered)
        self._planned_TA = actions_TA[: self._limit - self.steps]
        return Play(self._planned_TA, observe_from)

    def take(self, played: Played) -> None:
        """Take what came of the planned actions."""
        self.observations.extend(played.observations)
        self._actions += list(self._planned_TA[: len(played.rewards)])
        self._rewards += played.rewards
        self._success = self._success or played.success
        self.over = played.done or self.steps >= self._limit

    def _ahead(self, timeline: Timeline, chunks_NTA: np.ndarray) -> np.ndarray:
        """The actions planned before until the chunk has arrived, then those that it says."""
        left: int | None = self._delay
        # Without a delay a step must pass before the next request: no observation would be newer.
        may_ask = self._delay > 0
        actions: list[np.ndarray] = []
        while self.steps + len(actions) < self._limit:
            if left == 0:
                timeline.deliver(timeline.choose(chunks_NTA))
                left = None
            if left is None and may_ask and timeline.wants():
                break
            may_ask = True
            actions.append(timeline.advance())
            left = None if left is None else left - 1
        return np.stack(actions)

    @property
    def _remembered(self) -> int:
        return self.observations.maxlen or 1

    def result(self) -> EpisodeResult:
        """The result, once the episode is over."""
        record = EpisodeRecord(
            episode=self.index,
            seed=self.seed,
            success=self._success,
            max_reward=float(np.max(self._rewards)),
            sum_reward=float(np.sum(self._rewards)),
            length=self.steps,
            chunk_ms=1e3 * float(np.mean(self._chunks_s)),
        )
        return EpisodeResult(record, np.stack(self._actions))


def observed(
    features: PolicyFeatures, episodes: Sequence[RunningEpisode], device: torch.device
) -> dict[str, torch.Tensor]:
    """What a policy sees of some episodes, by name, (B, To, ...).

    Raises:
        SimulatorError: If the environment does not give what the policy needs.
    """
    return {feature.name: _stacked(feature.name, episodes, device) for feature in features.inputs}


def _stacked(name: str, episodes: Sequence[RunningEpisode], device: torch.device) -> torch.Tensor:
    seen = episodes[0].observations[0]
    if name not in seen:
        given = ", ".join(sorted(seen)) or "nothing"
        raise SimulatorError(f"rollout.env: the policy needs {name}, but the environment gives {given}.")
    stacked = np.stack([np.stack([observation[name] for observation in e.observations]) for e in episodes])
    return torch.from_numpy(stacked).to(device)


def _measured_s(
    policy: RolloutPolicy, episode: RunningEpisode, device: torch.device, options: Mapping[str, Any]
) -> float:
    """The median time of a prediction for one observation, in seconds."""
    observation = observed(policy.features, [episode], device)
    times_s = []
    for _ in range(TIMED + 1):
        start_s = time.perf_counter()
        with torch.inference_mode():
            cast("Any", policy).predict_action(
                observation, generator=[torch.Generator().manual_seed(0)], **options
            ).cpu()
        times_s.append(time.perf_counter() - start_s)
    return float(np.median(times_s[1:]))
