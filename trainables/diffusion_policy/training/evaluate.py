"""Evaluation during training: held-out action error and seeded rollouts."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch.distributed as dist

from trainables.dataset.windows import Windows
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.config.sections import EvalConfig, RolloutConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.episodes import EPISODES, EpisodeFile, Evaluated
from trainables.evaluation.denoising import record_denoising
from trainables.evaluation.offline import OfflineSettings, action_error, chunk_latency
from trainables.evaluation.rollout import DelayedControl, rollout, summarise
from trainables.evaluation.stepping.choice import Stepping
from trainables.evaluation.video import film_episodes
from trainables.features import ACTION
from trainables.interface import TrainContext

__all__ = ["evaluate"]

DENOISING_S = 20.0
"""Seconds after which the denoising is not drawn: on a CPU a large policy would take minutes."""


def evaluate(
    policy: DiffusionPolicy,
    heldout: Windows | None,
    config: DiffusionConfig,
    context: TrainContext,
    step: int,
    *,
    timed: bool = True,
) -> tuple[dict[str, float], dict[str, Path]]:
    """Measure the held-out action error (rank 0) and roll out (every rank its share).

    Args:
        policy: In evaluation mode, with the weights to evaluate.
        heldout: Windows of the held-out episodes; None if nothing is held out.
        config: Says what to measure.
        context: Folders, rank and device of this process.
        step: Optimiser steps done.
        timed: Whether to time a chunk: not beside training, which would slow it down.

    Returns:
        Metrics, and files worth keeping.
    """
    metrics: dict[str, float] = {}
    artifacts: dict[str, Path] = {}
    if heldout is not None and context.rank == 0:
        progress = partial(context.progress, f"step {step}: held-out action error")
        metrics |= action_error(policy, heldout, _offline_settings(config.eval), context.device, progress)
        if timed:
            metrics |= chunk_latency(policy, heldout, context.device)
        if step == config.train.steps and config.eval.denoising_picture:
            artifacts |= _denoising(policy, heldout, config.eval, context, step)
    if config.rollout.env is not None:
        rollout_metrics, rollout_artifacts = _rollouts(
            policy, config.rollout, context, step, final=step == config.train.steps
        )
        metrics |= rollout_metrics
        artifacts |= rollout_artifacts
    return metrics, artifacts


def _offline_settings(settings: EvalConfig) -> OfflineSettings:
    return OfflineSettings(
        windows=settings.windows,
        window_steps=settings.window_steps,
        samples=settings.samples,
        sampler=settings.sampler,
        num_inference_steps=settings.num_inference_steps,
        seed=settings.seed,
    )


def _denoising(
    policy: DiffusionPolicy, heldout: Windows, settings: EvalConfig, context: TrainContext, step: int
) -> dict[str, Path]:
    """Draw the denoising of one held-out observation, if it takes seconds and the actions are finite."""
    batch = heldout.gather(np.array([len(heldout) // 2]))
    demonstrated = batch.pop(ACTION)[0].numpy()
    denoising = record_denoising(
        policy,
        {name: value.to(context.device) for name, value in batch.items()},
        dimensions=[str(number) for number in range(policy.action_dim)],
        seed=settings.seed,
        sampler=settings.sampler,
        num_inference_steps=settings.num_inference_steps,
        demonstrated=demonstrated,
        most_s=DENOISING_S,
    )
    if denoising is None or not denoising.is_finite:
        return {}
    # matplotlib, which nothing else in training needs, takes a second to load.
    from trainables.evaluation.denoising_picture import draw_picture

    path = context.folder / "denoising" / f"{step:06d}.png"
    draw_picture(denoising, path)
    return {"denoising/picture": path}


def _rollouts(
    policy: DiffusionPolicy, settings: RolloutConfig, context: TrainContext, step: int, *, final: bool
) -> tuple[dict[str, float], dict[str, Path]]:
    """Roll out on every rank its share of the episodes; rank 0 films."""
    env = cast(str, settings.env)
    episodes = settings.final_episodes if final and settings.final_episodes else settings.episodes
    share = range(
        episodes * context.rank // context.world_size, episodes * (context.rank + 1) // context.world_size
    )
    results = rollout(
        policy,
        env,
        episode_indices=share,
        seed=settings.seed,
        parallel=settings.parallel,
        device=context.device,
        max_steps=settings.max_steps,
        control=DelayedControl.named(settings.control, settings.latency_ms, settings.replan),
        stepping=Stepping(settings.processes, context.threads, settings.timeout_s),
        progress=lambda message: context.progress(f"step {step}: {message}"),
    )
    if context.world_size > 1:
        gathered: list[Any] = [None] * context.world_size
        dist.all_gather_object(gathered, results)
        results = [result for part in gathered for result in part]
    records = [result.record for result in results]
    artifacts: dict[str, Path] = {}
    if context.rank == 0:
        # Written whole: a run that is resumed before this step evaluates it again, with the same result.
        file = EpisodeFile(context.folder / EPISODES, Evaluated("search", step, {}, env))
        artifacts["rollout/episodes"] = file.write(records)
    if context.rank == 0 and (settings.video == "every" or (settings.video == "final" and final)):
        context.progress(f"step {step}: filming")
        path = context.folder / "rollouts" / f"{step:06d}.mp4"
        film = film_episodes(results, env, policy.features, path, episodes=settings.video_episodes)
        if film is not None:
            artifacts["rollout/video"] = film
    return summarise(records), artifacts
