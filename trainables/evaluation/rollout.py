"""A policy in a simulator: seeded episodes, counted and filmed.

Trials are compared on the same starts: episode ``i`` begins from the environment's seed ``seed + i``, and its
noise comes from a generator keyed by (seed, episode, step). How many environments run at once, in which order
and on how many processes does not change one bit of the result: an inference batch always has the same size,
and an episode always sits in the same row of it.
"""

from __future__ import annotations

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast

import numpy as np
import torch

from trainables.confidence import mean_interval, wilson_interval
from trainables.deployment.control.settings import ControlSettings, Mode
from trainables.deployment.control.timeline import Request, Timeline, skipped_steps
from trainables.environment import Observation, SimulatorError
from trainables.episodes import EpisodeRecord
from trainables.evaluation.stepping.choice import Stepping, Workload, choose_simulators
from trainables.evaluation.stepping.simulator import Play, Played, Start
from trainables.evaluation.stepping.simulators import Simulators
from trainables.features import PolicyFeatures
from trainables.interface import TrainableError

__all__ = [
    "DelayedControl",
    "EpisodeResult",
    "RolloutError",
    "RolloutPolicy",
    "inference_batch",
    "rollout",
    "summarise",
]

CPU_BATCH = 32
GPU_BATCH = 64
"""Rows of an inference batch. Constants, because the last bits of a matrix product may depend on the number
of rows, and contacts in the simulator turn the last bits into another episode. A small policy takes hardly
longer for 32 rows than for 8 on one core, and on a GPU dozens of rows cost what one does."""


TIMED = 9
"""Predictions whose median is the measured latency."""


class RolloutError(TrainableError):
    """A policy gave an action that no simulator can execute."""

    reason = "diverged"


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
        `trainables.deployment.control.controller.ControlledPolicy`.
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


def inference_batch(device: torch.device | str) -> int:
    """Rows of an inference batch on ``device``: the best number of parallel environments, or a multiple."""
    return CPU_BATCH if torch.device(device).type == "cpu" else GPU_BATCH


def rollout(
    policy: RolloutPolicy,
    env_id: str,
    *,
    episode_indices: Iterable[int],
    seed: int,
    parallel: int,
    device: torch.device | str = "cpu",
    max_steps: int | None = None,
    progress: Callable[[str], None] | None = None,
    noise: int = 0,
    control: DelayedControl | None = None,
    stepping: Stepping | None = None,
) -> list[EpisodeResult]:
    """Run ``policy`` in episodes of an environment.

    Args:
        policy: In evaluation mode, on ``device``.
        env_id: What ``make_environment`` accepts.
        episode_indices: Which episodes of the evaluation to run, each once: all of them, or the share of a
            worker. Consecutive numbers fill an inference batch best.
        seed: Episode ``i`` starts from the environment's seed ``seed + i``.
        parallel: Environments that exist at once.
        device: The policy's device.
        max_steps: Control steps per episode; None: the environment's own limit.
        progress: Receives after every chunk of actions how many episodes are finished.
        noise: Number of the run: above 0 the same starts are tried with other noise of the policy.
        control: How chunks are executed; None: the robot waits for each chunk, and no time passes.
        stepping: In how many processes the environments are stepped, which does not change the result; None:
            in this process.

    Returns:
        One result per episode, by index.

    Raises:
        SimulatorError: If the environment cannot be made, has no step limit and ``max_steps`` is None, does
            not give what the policy needs, or fails twice in an episode.
        RolloutError: If an action is not finite.
        ValueError: If ``parallel`` is below 1, an index occurs twice or the policy is in training mode.
    """
    indices = list(episode_indices)
    if parallel < 1:
        raise ValueError(f"parallel is {parallel}: at least one environment is needed")
    if len(set(indices)) != len(indices):
        raise ValueError(f"episode_indices names an episode twice: {indices}")
    if getattr(policy, "training", False):
        raise ValueError("the policy is in training mode: call eval() before a rollout")
    pending = list(indices)
    if not pending:
        return []
    size = inference_batch(device)
    seats = min(parallel, len(indices))
    results: list[EpisodeResult] = []
    workload = Workload(env_id, policy.features, len(indices), seats, max_steps, policy.n_action_steps)
    with choose_simulators(workload, stepping or Stepping()) as simulators:
        limit = _step_limit(env_id, simulators, max_steps)
        conduct = _conduct(control, policy, torch.device(device))
        resting = set(range(seats))
        active: list[_Episode] = []
        while pending or active:
            starting: list[_Episode] = []
            while pending and resting:
                index = _next_index(pending, [*active, *starting], size)
                pending.remove(index)
                seat = _free_seat(resting, [*active, *starting], simulators.processes)
                resting.remove(seat)
                starting.append(
                    _Episode(index, seed, seat, limit, simulators.fps, policy.n_obs_steps, conduct)
                )
            started = simulators.run({episode.seat: Start(episode.seed) for episode in starting})
            for episode in starting:
                episode.begin(started[episode.seat].observations[0])
            active += starting
            _play_chunk(policy, active, simulators, (seed, noise), torch.device(device))
            for episode in [episode for episode in active if episode.over]:
                active.remove(episode)
                resting.add(episode.seat)
                results.append(episode.result())
            if progress is not None:
                progress(f"rollout: {len(results)} of {len(indices)} episodes")
    return sorted(results, key=lambda result: result.record.episode)


def summarise(records: Sequence[EpisodeRecord]) -> dict[str, float]:
    """Average episodes into metrics: success rate and rewards with 95 % intervals, length in control steps.

    Raises:
        ValueError: If ``records`` is empty.
    """
    if not records:
        raise ValueError("there are no episodes to average")
    successes = sum(record.success for record in records)
    low, high = wilson_interval(successes, len(records))
    metrics = {
        "rollout/success_rate": successes / len(records),
        "rollout/success_rate_low": low,
        "rollout/success_rate_high": high,
        "rollout/episode_length": float(np.mean([record.length for record in records])),
    }
    for name in ("max_reward", "sum_reward"):
        rewards = np.array([getattr(record, name) for record in records])
        metrics[f"rollout/avg_{name}"] = float(np.mean(rewards))
        interval = mean_interval(rewards)
        if interval is not None:
            metrics[f"rollout/avg_{name}_low"], metrics[f"rollout/avg_{name}_high"] = interval
    return metrics


def _conduct(control: DelayedControl | None, policy: RolloutPolicy, device: torch.device) -> _Conduct | None:
    """How chunks are requested and executed; None if the robot waits for each, which depends on no other."""
    chosen = control or DelayedControl(ControlSettings())
    return None if chosen.is_plain and not skipped_steps(policy) else _Conduct(chosen, policy, device)


class _Conduct:
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

    def delay(self, episode: _Episode) -> int:
        """Control steps from a request to its chunk."""
        if self._latency_s is None:
            self._latency_s = _measured_s(self._policy, episode, self._device, self.warm([episode]))
        return math.ceil(round(self._latency_s * episode.fps, 6))

    def warm(self, episodes: Sequence[_Episode | None]) -> dict[str, Any]:
        """What a prediction is given to begin from the last chunk of each episode; None: any actions."""
        if not self.skipped:
            return {}
        rests = [None if episode is None else episode.rest() for episode in episodes]
        shape = next(rest.shape for rest in rests if rest is not None)
        previous_BKA = np.stack([np.zeros(shape, np.float32) if rest is None else rest for rest in rests])
        return {"previous": torch.from_numpy(previous_BKA), "skipped_steps": self.skipped}


class _Episode:
    """One running episode: its seat, the last observations, and rewards and actions so far."""

    def __init__(
        self,
        index: int,
        seed: int,
        seat: int,
        limit: int,
        fps: float,
        n_obs_steps: int,
        conduct: _Conduct | None = None,
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


def _step_limit(env_id: str, simulators: Simulators, max_steps: int | None) -> int:
    limit = simulators.max_steps if max_steps is None else max_steps
    if limit is None:
        raise SimulatorError(f"rollout.max_steps: is null, but {env_id!r} has no limit of its own. Set it.")
    return limit


def _free_seat(resting: set[int], busy: Sequence[_Episode], processes: int) -> int:
    """A free seat in the process with the fewest running episodes."""
    load = Counter(episode.seat % processes for episode in busy)
    return min(resting, key=lambda seat: (load[seat % processes], seat))


def _next_index(pending: Sequence[int], active: Sequence[_Episode], size: int) -> int:
    """The first pending episode whose row of the batch is free, so that few batches hold all."""
    taken = Counter(episode.index % size for episode in active)
    return min(pending, key=lambda index: taken[index % size])


def _play_chunk(
    policy: RolloutPolicy,
    active: Sequence[_Episode],
    simulators: Simulators,
    keys: tuple[int, int],
    device: torch.device,
) -> None:
    """Predict a chunk for every active episode and execute it."""
    plans: dict[int, Play] = {}
    # The first chunk of an episode takes more denoising steps than those that begin from the last one.
    apart = [[one for one in active if one.begins_warm is warm] for warm in (False, True)]
    for rows in [rows for alike in apart for rows in _batches(alike, inference_batch(device))]:
        start_s = time.perf_counter()
        chunks_BNTA = _predict(policy, rows, keys, device)
        predicted_s = time.perf_counter() - start_s
        for row, episode in rows.items():
            plans[episode.seat] = episode.plan(chunks_BNTA[row], predicted_s)
    played = simulators.run(plans)
    for episode in active:
        episode.take(played[episode.seat])


def _batches(active: Sequence[_Episode], size: int) -> list[dict[int, _Episode]]:
    """Give every episode the row ``index % size`` of a batch, in as few batches as that allows."""
    batches: list[dict[int, _Episode]] = []
    for episode in active:
        row = episode.index % size
        free = next((batch for batch in batches if row not in batch), None)
        if free is None:
            free = {}
            batches.append(free)
        free[row] = episode
    return batches


def _predict(
    policy: RolloutPolicy, rows: Mapping[int, _Episode], keys: tuple[int, int], device: torch.device
) -> np.ndarray:
    """Predict a chunk per row, (B, N, T, A) with N samples of each.

    A row without an episode repeats another, and its result is discarded.
    """
    size = inference_batch(device)
    filler = next(iter(rows.values()))
    episodes = [rows.get(row, filler) for row in range(size)]
    observation = {feature.name: _stack(feature.name, episodes, device) for feature in policy.features.inputs}
    options = _options(rows, size, filler.conduct)
    samples = 1 if filler.conduct is None else filler.conduct.settings.samples
    chunks = []
    for sample in range(samples):
        generators = [_noise_generator(keys, episode, sample) for episode in episodes]
        with torch.inference_mode():
            predicted_BTA = cast("Any", policy).predict_action(observation, generator=generators, **options)
        chunks.append(predicted_BTA.float().cpu().numpy())
    chunks_BNTA = np.stack(chunks, axis=1)
    for row, episode in rows.items():
        if not np.isfinite(chunks_BNTA[row]).all():
            raise RolloutError(
                f"rollout: the policy's actions at step {episode.steps} of episode {episode.index} are not "
                "finite. The training has diverged: lower optimizer.lr, or set optimizer.grad_clip_norm."
            )
    return chunks_BNTA


def _options(rows: Mapping[int, _Episode], size: int, conduct: _Conduct | None) -> dict[str, Any]:
    """What a prediction is given under control: how many actions, and which ones it must continue."""
    if conduct is None:
        return {}
    requests = {row: episode.request() for row, episode in rows.items()}
    options: dict[str, Any] = {"n_action_steps": conduct.available}
    if next(iter(rows.values())).begins_warm:
        options |= conduct.warm([rows.get(row) for row in range(size)])
    given = next((request.known for request in requests.values() if request.known is not None), None)
    if given is not None:
        known_BKA = np.zeros((size, *given.shape), dtype=np.float32)
        kept_BK = np.zeros((size, len(given)), dtype=np.float32)
        for row, request in requests.items():
            if request.known is not None and request.kept is not None:
                known_BKA[row], kept_BK[row] = request.known, request.kept
        options |= {"known": torch.from_numpy(known_BKA), "kept": torch.from_numpy(kept_BK)}
    return options


def _measured_s(
    policy: RolloutPolicy, episode: _Episode, device: torch.device, options: Mapping[str, Any]
) -> float:
    """The median time of a prediction for one observation, in seconds."""
    observation = {
        feature.name: _stack(feature.name, [episode], device) for feature in policy.features.inputs
    }
    times_s = []
    for _ in range(TIMED + 1):
        start_s = time.perf_counter()
        with torch.inference_mode():
            cast("Any", policy).predict_action(
                observation, generator=[torch.Generator().manual_seed(0)], **options
            ).cpu()
        times_s.append(time.perf_counter() - start_s)
    return float(np.median(times_s[1:]))


def _stack(name: str, episodes: Sequence[_Episode], device: torch.device) -> torch.Tensor:
    seen = episodes[0].observations[0]
    if name not in seen:
        given = ", ".join(sorted(seen)) or "nothing"
        raise SimulatorError(f"rollout.env: the policy needs {name}, but the environment gives {given}.")
    stacked = np.stack([np.stack([observation[name] for observation in e.observations]) for e in episodes])
    return torch.from_numpy(stacked).to(device)


def _noise_generator(keys: tuple[int, int], episode: _Episode, sample: int = 0) -> torch.Generator:
    """Generator of (seed, episode, step) and, above 0, the number of the run and of the sample.

    It is on the CPU, so that every device draws the same noise.
    """
    seed, run = keys
    numbers = [seed, episode.index, episode.steps, *([run] if run or sample else [])]
    numbers += [sample] if sample else []
    key = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(key[0]) << 31 | int(key[1]) >> 1)
