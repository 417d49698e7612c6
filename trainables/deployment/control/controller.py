"""The control loop of a policy on a robot: an observation in and an action out, once per tick.

Shapes: ``To`` observation steps, ``K`` actions of a chunk that lie in the future, ``A`` action dimension,
``N`` samples.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from trainables.deployment.control.safety import Safety
from trainables.deployment.control.settings import ControlSettings
from trainables.deployment.control.timeline import Request, Timeline, skipped_steps
from trainables.features import STATE, PolicyFeatures

__all__ = ["ControlStatistics", "ControlledPolicy", "Controller", "KeepsEncodings", "request_seed"]

REMEMBERED = 10
"""Latest predictions whose largest latency is the expected one."""
Observation = Mapping[str, np.ndarray]


class ControlledPolicy(Protocol):
    """What the loop needs from a policy."""

    @property
    def n_obs_steps(self) -> int:
        """Observations that ``predict_action`` takes."""
        ...

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are meant to be executed."""
        ...

    @property
    def available_actions(self) -> int:
        """Actions of a chunk that lie in the future, K."""
        ...

    @property
    def features(self) -> PolicyFeatures:
        """What the policy sees and does."""
        ...

    def predict_action(
        self,
        observation: Any,
        *,
        generator: Any,
        n_action_steps: int | None = None,
        known: torch.Tensor | None = None,
        kept: torch.Tensor | None = None,
    ) -> Any:
        """Predict actions (B, n_action_steps, A) from observations (B, To, ...).

        Args:
            observation: By name; vectors are float32, images uint8.
            generator: One per row, or one.
            n_action_steps: Actions to predict; None: the policy's own number.
            known: (B, K, A): actions that the chunk must continue, for mode ``rtc`` only.
            kept: (K,) or (B, K): the weight of each of them.
        """
        ...


@runtime_checkable
class KeepsEncodings(Protocol):
    """A policy that encodes each observation once.

    Its ``predict_action`` and, if it has one, ``predict_horizon`` take ``condition=`` (B, G): the encodings
    of the observation steps, flattened. No observation is given with it.
    """

    def encode(self, observation: Any) -> torch.Tensor:
        """Encode observations (B, S, ...) of S steps: (B, S, D)."""
        ...


@dataclass(frozen=True)
class ControlStatistics:
    """What happened since the last reset.

    Attributes:
        ticks: Actions that were given out.
        predictions: Chunks that were predicted.
        late_ticks: Ticks at which no action of a chunk was ready, or it was stretched; in mode ``sync`` the
            ticks that passed while the robot waited.
        dropped: Actions that were dropped because their time had passed.
        limited: Actions that a limit has changed.
        latency_ms: The mean latency of a prediction, NaN without one.
        largest_latency_ms: The largest.
    """

    ticks: int
    predictions: int
    late_ticks: int
    dropped: int
    limited: int
    latency_ms: float
    largest_latency_ms: float


class Controller:
    """Runs a policy on one robot.

    Call :meth:`step` once per tick, at the control rate of the demonstrations, with the newest observation,
    and send the action that it returns to the robot. Close it at the end, or use it as a context manager.

    Args:
        policy: A `DiffusionPolicy` in evaluation mode, or another with the same methods.
        settings: How chunks are requested and executed.
        rate_hz: Ticks per second.
        seed: Of the noise; equal observations and times give equal actions.
        safety: Limits of actions.
        hold: The action that holds the robot, from an observation, for ``late: hold``. By default the state,
            if it has as many numbers as an action.
        clock: Seconds, monotonic.

    Raises:
        ValueError: If ``late: hold`` needs an action that is not known, or a value is not possible.
    """

    def __init__(
        self,
        policy: ControlledPolicy,
        settings: ControlSettings | None = None,
        *,
        rate_hz: float,
        seed: int = 0,
        safety: Safety | None = None,
        hold: Callable[[Observation], np.ndarray] | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        if not rate_hz > 0:
            raise ValueError(f"rate_hz is {rate_hz}; it must be above 0")
        if getattr(policy, "training", False):
            raise ValueError("the policy is in training mode: call eval() first")
        self.settings = settings or ControlSettings()
        self._policy = policy
        self._rate_hz = rate_hz
        self._seed = seed
        self._safety = safety or Safety()
        self._hold = hold or (_state_holder(policy) if self.settings.late == "hold" else None)
        self._clock = clock
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._inputs = tuple(feature.name for feature in policy.features.inputs)
        self.reset()

    def __enter__(self) -> Controller:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def reset(self, at: np.ndarray | None = None) -> None:
        """Forget the observations and actions of the last episode; the noise begins again from the seed.

        Args:
            at: (A,) the action that would leave the robot where it is, e.g. its joint positions if actions
                are positions. With it the limit of change holds for the first action too.

        Raises:
            ValueError: If it has the wrong shape, or is not finite.
        """
        stands_A = None if at is None else _standing(at, self._policy)
        self._finish()
        self._future: Future[np.ndarray] | None = None
        self._history: deque[_Seen] = deque(maxlen=self._policy.n_obs_steps)
        self._timeline = Timeline(self.settings, self._policy.n_action_steps)
        self._latencies_s: list[float] = []
        self._before_A: np.ndarray | None = stands_A
        self._ticks = self._limited = self._waited_ticks = 0

    def step(self, observation: Observation) -> np.ndarray:
        """Take one observation and return the action (A,) to execute now, float32, in original units.

        Args:
            observation: One time step under LeRobot's names: vectors (D,), images uint8 (C, H, W). Other
                entries are ignored.

        Raises:
            KeyError: If an observation is missing.
            ValueError: If an observation has the wrong shape.
            ControlError: If the action is not finite.
        """
        self._remember(observation)
        if self._future is not None and self._future.done():
            self._receive()
        if self._timeline.wants():
            self._predict()
        held_A = None if self._hold is None else self._hold(observation)
        wanted_A = self._timeline.advance(held_A)
        action_A = self._safety.checked(wanted_A, self._before_A)
        self._limited += not np.array_equal(action_A, wanted_A)
        self._before_A = action_A
        self._ticks += 1
        return action_A

    @property
    def statistics(self) -> ControlStatistics:
        """What happened since the last reset."""
        latencies = self._latencies_s
        return ControlStatistics(
            ticks=self._ticks,
            predictions=self._timeline.predictions,
            late_ticks=self._timeline.late_ticks + self._waited_ticks,
            dropped=self._timeline.dropped,
            limited=self._limited,
            latency_ms=1e3 * float(np.mean(latencies)) if latencies else math.nan,
            largest_latency_ms=1e3 * max(latencies, default=math.nan),
        )

    def close(self) -> None:
        """End the thread that predicts."""
        self._finish()
        self._worker.shutdown(wait=True)

    def _finish(self) -> None:
        future = getattr(self, "_future", None)
        if future is not None:
            future.cancel()
            if not future.cancelled():
                future.exception()  # waits until it has ended; its result is not used any more

    def _remember(self, observation: Observation) -> None:
        missing = [name for name in self._inputs if name not in observation]
        if missing:
            given = ", ".join(sorted(observation)) or "nothing"
            raise KeyError(f"the observation lacks {', '.join(missing)}; it has {given}")
        seen = _Seen({name: np.array(observation[name]) for name in self._inputs})
        first = not self._history
        self._history.append(seen)
        while first and len(self._history) < self._policy.n_obs_steps:
            self._history.append(seen)

    def _predict(self) -> None:
        """Request a chunk; wait for it if the robot has nothing else to do."""
        waits = self.settings.mode == "sync" or not self._timeline.has_started
        previous_KA = self._timeline.rest() if skipped_steps(self._policy) else None
        request = self._timeline.request(self._expected_delay())
        number = self._timeline.predictions
        self._future = self._worker.submit(self._predicted, list(self._history), request, number, previous_KA)
        if waits:
            moves = self._timeline.has_started
            self._receive()
            self._waited_ticks += int(self._latencies_s[-1] * self._rate_hz) if moves else 0

    def _receive(self) -> None:
        assert self._future is not None
        chunks_NKA = self._future.result()
        self._future = None
        self._timeline.deliver(self._timeline.choose(chunks_NKA))

    def _expected_delay(self) -> int:
        """Ticks that the next prediction will take: as the slowest of the latest ones."""
        if not self._latencies_s:
            return 1
        return math.ceil(max(self._latencies_s[-REMEMBERED:]) * self._rate_hz)

    def _predicted(
        self, history: list[_Seen], request: Request, number: int, previous_KA: np.ndarray | None
    ) -> np.ndarray:
        """Predict the chunks (N, K, A) of a request; runs on the other thread."""
        start_s = self._clock()
        policy, count = self._policy, self.settings.samples
        generators = [
            torch.Generator().manual_seed(request_seed(self._seed, number, sample)) for sample in range(count)
        ]
        options: dict[str, Any] = {"n_action_steps": policy.available_actions}
        if request.known is not None and request.kept is not None:
            options["known"] = torch.from_numpy(request.known).expand(count, -1, -1)
            options["kept"] = torch.from_numpy(request.kept)
        if previous_KA is not None:
            options["previous"] = torch.from_numpy(previous_KA).expand(count, -1, -1)
            options["skipped_steps"] = skipped_steps(policy)
        with torch.inference_mode():
            if isinstance(policy, KeepsEncodings):
                options["condition"] = self._condition(history).expand(count, -1)
                observation = {}
            else:
                observation = {
                    name: torch.from_numpy(np.stack([seen.values[name] for seen in history])[None]).expand(
                        count, *([-1] * (1 + history[0].values[name].ndim))
                    )
                    for name in self._inputs
                }
            predicted: Any = policy.predict_action(observation, generator=generators, **options)
        chunks_NKA = predicted.float().cpu().numpy() if isinstance(predicted, torch.Tensor) else predicted
        self._latencies_s.append(self._clock() - start_s)
        return np.asarray(chunks_NKA)

    def _condition(self, history: list[_Seen]) -> torch.Tensor:
        """The condition (1, G): each observation is encoded once, however often it is used."""
        assert isinstance(self._policy, KeepsEncodings)
        for seen in history:
            if seen.encoding is None:
                one = {name: torch.from_numpy(value[None, None]) for name, value in seen.values.items()}
                seen.encoding = self._policy.encode(one)
        return torch.cat([seen.encoding for seen in history if seen.encoding is not None], dim=1).flatten(1)


@dataclass
class _Seen:
    """An observation, and its encoding once there is one."""

    values: dict[str, np.ndarray]
    encoding: torch.Tensor | None = None


def request_seed(seed: int, prediction: int, sample: int) -> int:
    """The seed of the noise of one sample of one prediction."""
    key = np.random.SeedSequence([seed, prediction, sample]).generate_state(2, np.uint32)
    return int(key[0]) << 31 | int(key[1]) >> 1


def _standing(at: np.ndarray, policy: ControlledPolicy) -> np.ndarray:
    found_A = np.asarray(at, dtype=np.float32)
    wanted = (policy.features.action_dim,)
    if found_A.shape != wanted or not np.isfinite(found_A).all():
        raise ValueError(f"at is {np.asarray(at).tolist()}; it must be a finite action {wanted}")
    return found_A


def _state_holder(policy: ControlledPolicy) -> Callable[[Observation], np.ndarray]:
    features = policy.features
    state = next((feature for feature in features.inputs if feature.name == STATE), None)
    if state is None or state.shape != (features.action_dim,):
        shape = "no state" if state is None else f"a state of {state.shape}"
        raise ValueError(
            f"late: hold needs an action that holds the robot. The policy sees {shape} and acts with "
            f"({features.action_dim},), so the state is not one: pass hold=..., or use late: repeat."
        )
    return lambda observation: np.asarray(observation[STATE], dtype=np.float32)
