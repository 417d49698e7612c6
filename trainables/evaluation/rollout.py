"""A policy in a simulator: seeded episodes, counted and filmed.

Trials are compared on the same starts: episode ``i`` begins from the environment's seed ``seed + i``, and its
noise comes from a generator keyed by (seed, episode, step). How many environments run at once, in which order
and on how many processes does not change one bit of the result: an inference batch always has the same size,
and an episode always sits in the same row of it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from trainables.confidence import mean_interval, wilson_interval
from trainables.deployment.control.settings import ControlSettings
from trainables.deployment.control.timeline import skipped_steps
from trainables.environment import SimulatorError
from trainables.episodes import EpisodeRecord
from trainables.evaluation.prediction import (
    ENCODED_BATCH,
    RolloutError,
    inference_batch,
    predict_chunks,
    shared_batches,
)
from trainables.evaluation.running import (
    Conduct,
    DelayedControl,
    EpisodeResult,
    RolloutPolicy,
    RunningEpisode,
)
from trainables.evaluation.stepping.choice import Stepping, Workload, choose_simulators
from trainables.evaluation.stepping.simulator import Play, Start
from trainables.evaluation.stepping.simulators import Simulators

__all__ = ["DelayedControl", "EpisodeResult", "RolloutError", "RolloutPolicy", "rollout", "summarise"]


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
        active: list[RunningEpisode] = []
        while pending or active:
            starting: list[RunningEpisode] = []
            while pending and resting:
                index = _next_index(pending, [*active, *starting], size)
                pending.remove(index)
                seat = _free_seat(resting, [*active, *starting], simulators.processes)
                resting.remove(seat)
                starting.append(
                    RunningEpisode(index, seed, seat, limit, simulators.fps, policy.n_obs_steps, conduct)
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


def _conduct(control: DelayedControl | None, policy: RolloutPolicy, device: torch.device) -> Conduct | None:
    """How chunks are requested and executed; None if the robot waits for each, which depends on no other."""
    chosen = control or DelayedControl(ControlSettings())
    return None if chosen.is_plain and not skipped_steps(policy) else Conduct(chosen, policy, device)


def _step_limit(env_id: str, simulators: Simulators, max_steps: int | None) -> int:
    limit = simulators.max_steps if max_steps is None else max_steps
    if limit is None:
        raise SimulatorError(f"rollout.max_steps: is null, but {env_id!r} has no limit of its own. Set it.")
    return limit


def _free_seat(resting: set[int], busy: Sequence[RunningEpisode], processes: int) -> int:
    """A free seat in the process with the fewest running episodes."""
    load = Counter(episode.seat % processes for episode in busy)
    return min(resting, key=lambda seat: (load[seat % processes], seat))


def _next_index(pending: Sequence[int], active: Sequence[RunningEpisode], size: int) -> int:
    """The first pending episode whose row of the batch is free, so that few batches hold all.

    Among those, one whose place among the pictures that are encoded together is free.
    """
    rows = Counter(episode.index % size for episode in active)
    places = Counter(episode.index % ENCODED_BATCH for episode in active)
    return min(pending, key=lambda index: (rows[index % size], places[index % ENCODED_BATCH]))


def _play_chunk(
    policy: RolloutPolicy,
    active: Sequence[RunningEpisode],
    simulators: Simulators,
    keys: tuple[int, int],
    device: torch.device,
) -> None:
    """Predict a chunk for every active episode and execute it."""
    plans: dict[int, Play] = {}
    # The first chunk of an episode takes more denoising steps than those that begin from the last one.
    apart = [[one for one in active if one.begins_warm is warm] for warm in (False, True)]
    for rows in [rows for alike in apart for rows in shared_batches(alike, inference_batch(device))]:
        start_s = time.perf_counter()
        chunks_BNTA = predict_chunks(policy, rows, keys, device)
        predicted_s = time.perf_counter() - start_s
        for row, episode in rows.items():
            plans[episode.seat] = episode.plan(chunks_BNTA[row], predicted_s)
    played = simulators.run(plans)
    for episode in active:
        episode.take(played[episode.seat])
