"""A policy in a simulator: seeded episodes, counted and filmed.

Trials are compared on the same starts: episode ``i`` begins from the environment's seed ``seed + i``, and its
noise comes from a generator keyed by (seed, episode, step). How many environments run at once, in which order
and on how many processes does not change one bit of the result: an inference batch always has the same size,
and an episode always sits in the same row of it.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch

from trainables.confidence import mean_interval, wilson_interval
from trainables.environment import Environment, Observation, SimulatorError
from trainables.episodes import EpisodeRecord
from trainables.evaluation.simulators import make_environment
from trainables.features import PolicyFeatures
from trainables.interface import TrainableError

__all__ = ["EpisodeResult", "RolloutError", "RolloutPolicy", "inference_batch", "rollout", "summarise"]

CPU_BATCH = 32
GPU_BATCH = 64
"""Rows of an inference batch. Constants, because the last bits of a matrix product may depend on the number
of rows, and contacts in the simulator turn the last bits into another episode. A small policy takes hardly
longer for 32 rows than for 8 on one core, and on a GPU dozens of rows cost what one does."""


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
        ``generator[i]``.
        """
        ...


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

    Returns:
        One result per episode, by index.

    Raises:
        SimulatorError: If the environment cannot be made, has no step limit and ``max_steps`` is None, or
            does not give what the policy needs.
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
    size = inference_batch(device)
    results: list[EpisodeResult] = []
    environments: list[Environment] = []
    try:
        for _ in range(min(parallel, len(indices))):
            environments.append(make_environment(env_id, policy.features))  # noqa: PERF401 (closed below)
        limit = _step_limit(env_id, environments, max_steps)
        resting = list(environments)
        active: list[_Episode] = []
        while pending or active:
            while pending and resting:
                index = _next_index(pending, active, size)
                pending.remove(index)
                active.append(_Episode(index, seed, resting.pop(), limit, policy.n_obs_steps))
            _play_chunk(policy, active, (seed, noise), torch.device(device))
            for episode in [episode for episode in active if episode.over]:
                active.remove(episode)
                resting.append(episode.environment)
                results.append(episode.result())
            if progress is not None:
                progress(f"rollout: {len(results)} of {len(indices)} episodes")
    finally:
        for environment in environments:
            environment.close()
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


class _Episode:
    """One running episode: its environment, the last observations, and rewards and actions so far."""

    def __init__(self, index: int, seed: int, environment: Environment, limit: int, n_obs_steps: int) -> None:
        self.index = index
        self.seed = seed + index
        self.environment = environment
        self.over = False
        self._limit = limit
        first = environment.reset(self.seed)
        self.observations: deque[Observation] = deque([first] * n_obs_steps, maxlen=n_obs_steps)
        self._actions: list[np.ndarray] = []
        self._rewards: list[float] = []
        self._chunks_s: list[float] = []
        self._success = False

    @property
    def steps(self) -> int:
        return len(self._actions)

    def execute(self, actions_TA: np.ndarray, predicted_s: float) -> None:
        """Execute one chunk until it or the episode ends; its prediction took ``predicted_s``."""
        self._chunks_s.append(predicted_s)
        remembered = self.observations.maxlen or 1
        for position, action_A in enumerate(actions_TA):
            # The policy sees only the last observations of the chunk; the earlier ones need not be drawn.
            looked_at = position >= len(actions_TA) - remembered
            step = self.environment.step(action_A, observe=looked_at)
            if step.observation is not None:
                self.observations.append(step.observation)
            self._actions.append(action_A)
            self._rewards.append(step.reward)
            self._success = self._success or step.success
            self.over = step.done or self.steps >= self._limit
            if self.over:
                return

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


def _step_limit(env_id: str, environments: Sequence[Environment], max_steps: int | None) -> int:
    limit = max_steps if max_steps is not None or not environments else environments[0].max_steps
    if limit is None and environments:
        raise SimulatorError(f"rollout.max_steps: is null, but {env_id!r} has no limit of its own. Set it.")
    return limit or 0


def _next_index(pending: Sequence[int], active: Sequence[_Episode], size: int) -> int:
    """The first pending episode whose row of the batch is free, so that few batches hold all."""
    taken = Counter(episode.index % size for episode in active)
    return min(pending, key=lambda index: taken[index % size])


def _play_chunk(
    policy: RolloutPolicy, active: Sequence[_Episode], keys: tuple[int, int], device: torch.device
) -> None:
    """Predict a chunk for every active episode and execute it."""
    for rows in _batches(active, inference_batch(device)):
        start_s = time.perf_counter()
        actions_BTA = _predict(policy, rows, keys, device)
        predicted_s = time.perf_counter() - start_s
        for row, episode in rows.items():
            episode.execute(actions_BTA[row], predicted_s)


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
    """Predict one chunk per row; a row without an episode repeats another, and its result is discarded."""
    size = inference_batch(device)
    filler = next(iter(rows.values()))
    episodes = [rows.get(row, filler) for row in range(size)]
    observation = {feature.name: _stack(feature.name, episodes, device) for feature in policy.features.inputs}
    generators = [_noise_generator(keys, episode) for episode in episodes]
    with torch.inference_mode():
        predicted_BTA = policy.predict_action(observation, generator=generators)
    actions_BTA = predicted_BTA.float().cpu().numpy()
    for row, episode in rows.items():
        if not np.isfinite(actions_BTA[row]).all():
            raise RolloutError(
                f"rollout: the policy's actions at step {episode.steps} of episode {episode.index} are not "
                "finite. The training has diverged: lower optimizer.lr, or set optimizer.grad_clip_norm."
            )
    return actions_BTA


def _stack(name: str, episodes: Sequence[_Episode], device: torch.device) -> torch.Tensor:
    seen = episodes[0].observations[0]
    if name not in seen:
        given = ", ".join(sorted(seen)) or "nothing"
        raise SimulatorError(f"rollout.env: the policy needs {name}, but the environment gives {given}.")
    stacked = np.stack([np.stack([observation[name] for observation in e.observations]) for e in episodes])
    return torch.from_numpy(stacked).to(device)


def _noise_generator(keys: tuple[int, int], episode: _Episode) -> torch.Generator:
    """Generator of (seed, episode, step) and, above 0, the number of the run.

    It is on the CPU, so that every device draws the same noise.
    """
    seed, run = keys
    numbers = [seed, episode.index, episode.steps, *([run] if run else [])]
    key = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(key[0]) << 31 | int(key[1]) >> 1)
