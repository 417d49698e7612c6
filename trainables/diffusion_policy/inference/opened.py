"""A checkpoint opened for evaluation with any inference setting.

Shapes: B windows, T horizon, A action dimension.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainables.dataset.frames import open_frames
from trainables.dataset.windows import Windows, split_episodes
from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig, build, field_faults
from trainables.diffusion_policy.data import image_sizes, load_dataset
from trainables.diffusion_policy.network.inference_settings import setting_faults, setting_of, with_setting
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.pretrained_config import read_json
from trainables.diffusion_policy.pretrained.read import policy_of, read_checkpoint
from trainables.episodes import EpisodeRecord, Purpose, first_seed
from trainables.evaluation import video
from trainables.evaluation.offline import OfflineSettings, choose_windows, window_errors
from trainables.evaluation.rollout import rollout, summarise
from trainables.evaluation.simulators import environment_faults
from trainables.features import FeatureType, PolicyFeatures
from trainables.interface import ConfigError, EvaluationContext, Fault

__all__ = ["OpenedPolicy", "open_policy"]

WARM_UP = 3
FEWEST_RUNS = 5
SPEED_RUNS, SPEED_S = 20, 2.0
"""What a comparison of many settings can afford."""
_OURS = ("dataset", "eval", "rollout")
"""Sections that describe the evaluation of a policy: the caller may change them."""


def open_policy(checkpoint: Path, config: Mapping[str, Any], context: EvaluationContext) -> OpenedPolicy:
    """Open a checkpoint in any supported format.

    Args:
        checkpoint: What `trainables.diffusion_policy.pretrained.find.find_checkpoint` takes.
        config: Values of ``dataset.*``, ``eval.*`` and ``rollout.*`` that replace the training's.
        context: Folders and device of the evaluation.

    Raises:
        ConfigError: If the checkpoint cannot be read, a value is not legal, or the policy does not fit the
            environment.
    """
    foreign = [name for name in config if name in FIELDS and name.partition(".")[0] not in _OURS]
    faults = field_faults(config) + [
        Fault(name, "belongs to the training.", f"Only {', '.join(f'{s}.*' for s in _OURS)} can be changed.")
        for name in foreign
    ]
    if faults:
        raise ConfigError(faults)
    if context.threads > 0:
        torch.set_num_threads(context.threads)
    context.progress(f"reading {checkpoint}")
    read = read_checkpoint(checkpoint)
    stored: Mapping[str, Any] = read.config.values
    step = 0
    if read.config.format == "sweeper":
        found = read_json(read.config.folder / "config.json")["config"]
        stored = {name: value for name, value in found.items() if name in FIELDS}
        step = int(read_json(read.config.folder / "state.json")["step"])
    policy = policy_of(read).to(context.device)
    whole = dataclasses.replace(build({**stored, **config}), policy=policy.config)
    opened = OpenedPolicy(whole, policy, read.config.folder, step, context)
    if opened.environment is not None:
        faults = environment_faults(opened.environment, policy.features, whole.rollout.max_steps)
        if faults:
            raise ConfigError(faults)
    return opened


class OpenedPolicy:
    """A trained policy with everything that its evaluation needs; built by :func:`open_policy`.

    Args:
        config: The configuration of the training, with the caller's changes.
        policy: The policy as trained, in evaluation mode, on the context's device.
        folder: The checkpoint.
        step: Optimiser steps.
        context: Folders and device of the evaluation.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        policy: DiffusionPolicy,
        folder: Path,
        step: int,
        context: EvaluationContext,
    ) -> None:
        self.config = config
        self.step = step
        self.trained_setting: Mapping[str, Any] = setting_of(policy.config)
        self.environment = config.rollout.env
        self._folder = folder
        self._context = context
        self._weights = {True: policy}
        self._settings: dict[str, DiffusionPolicy] = {}
        self._speeds: dict[tuple[str, int, str], float] = {}

    @property
    def features(self) -> PolicyFeatures:
        """What the policy sees and does."""
        return self._weights[True].features

    @property
    def windows(self) -> int:
        """Number of held-out moments for :meth:`action_errors`; 0 if no dataset is named."""
        return 0 if self._heldout is None else min(self.config.eval.windows, len(self._heldout))

    def setting_faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        """List the faults of an inference setting for this policy; empty if it is legal."""
        return setting_faults(self.config.policy, setting)

    def policy(self, setting: Mapping[str, Any]) -> DiffusionPolicy:
        """The policy with an inference setting, in evaluation mode.

        Raises:
            ConfigError: If the setting is not possible.
        """
        faults = self.setting_faults(setting)
        if faults:
            raise ConfigError(faults)
        key = json.dumps(dict(setting), sort_keys=True)
        if key not in self._settings:
            average = bool({**self.trained_setting, **setting}["policy.use_ema"])
            if average not in self._weights:
                raw = policy_of(read_checkpoint(self._folder, ema=average))
                self._weights[average] = raw.to(self._context.device)
            self._settings[key] = with_setting(self._weights[average], setting)
        return self._settings[key]

    def rollout(
        self,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
        *,
        film: Path | None = None,
        film_episodes: int = 4,
    ) -> list[EpisodeRecord]:
        """Roll out numbered episodes of a purpose; see :class:`trainables.interface.OpenPolicy`.

        Raises:
            ConfigError: If no environment is named, or the setting is not possible.
            SimulatorError: If the simulator fails.
            RolloutError: If an action is not finite.
        """
        if self.environment is None:
            raise ConfigError([Fault("rollout.env", "no environment is named.", "Name one for the rollout.")])
        policy = self.policy(setting)
        settings = self.config.rollout
        results = rollout(
            policy,
            self.environment,
            episode_indices=episodes,
            seed=first_seed(settings.seed, purpose),
            parallel=settings.parallel,
            device=self._context.device,
            max_steps=settings.max_steps,
            progress=self._context.progress,
        )
        if film is not None:
            video.film_episodes(results, self.environment, policy.features, film, episodes=film_episodes)
        return [result.record for result in results]

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> dict[str, float]:
        """Average episodes into metrics; see :func:`trainables.evaluation.rollout.summarise`."""
        return summarise(records)

    def action_errors(self, setting: Mapping[str, Any], windows: Sequence[int]) -> list[float]:
        """The mean squared error of the next actions at numbered held-out moments.

        Raises:
            ConfigError: If no dataset is named, nothing is held out, or the setting is not possible.
            DatasetError: If the dataset cannot be read.
        """
        heldout = self._heldout
        if heldout is None:
            remedy = "Name dataset.root, and keep dataset.holdout_fraction above 0."
            raise ConfigError(
                [Fault("dataset.root", "there are no held-out episodes for a comparison.", remedy)]
            )
        policy = self.policy(setting)
        offline = OfflineSettings(
            windows=self.config.eval.windows,
            window_steps=self.config.eval.window_steps,
            samples=self.config.eval.samples,
            sampler=policy.config.inference_sampler,
            num_inference_steps=policy.config.inference_steps,
            seed=self.config.eval.seed,
        )
        chosen = choose_windows(len(heldout), offline)[np.asarray(windows, dtype=np.int64)]
        errors = window_errors(policy, heldout, chosen, offline, self._context.device)
        return [float(error) for error in errors.squared]

    def speed(self, setting: Mapping[str, Any]) -> dict[str, float]:
        """The median latency of a chunk and the rate of actions; see `trainables.interface.OpenPolicy`.

        Settings whose predictions cost the same are timed once.

        Raises:
            ConfigError: If the setting is not possible.
        """
        policy = self.policy(setting)
        config = policy.config
        cost = (config.inference_sampler, config.inference_steps, config.inference_spacing)
        if cost not in self._speeds:
            self._speeds[cost] = statistics.median(self.latency_ms(setting, SPEED_RUNS, SPEED_S))
        latency_ms = self._speeds[cost]
        return {
            "eval/chunk_latency_ms": latency_ms,
            "eval/action_rate_hz": 1e3 * policy.n_action_steps / latency_ms,
        }

    def latency_ms(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> list[float]:
        """Time the prediction of one action chunk at batch size 1; see `trainables.interface.OpenPolicy`.

        Raises:
            ConfigError: If the setting is not possible.
        """
        policy = self.policy(setting)
        observation = self._any_observation()
        times_ms: list[float] = []
        begin_s = time.perf_counter()
        for run in range(-WARM_UP, runs):
            if len(times_ms) >= FEWEST_RUNS and time.perf_counter() - begin_s > most_s:
                break
            generator = [torch.Generator().manual_seed(run + WARM_UP)]
            start_s = time.perf_counter()
            # The copy back waits for the device, as sending the actions to the robot does.
            policy.predict_action(observation, generator=generator).cpu()
            if run >= 0:
                times_ms.append(1e3 * (time.perf_counter() - start_s))
        return times_ms

    def _any_observation(self) -> dict[str, torch.Tensor]:
        """One observation (1, To, ...): the time of a prediction does not depend on the values."""
        steps = self.config.policy.n_obs_steps
        rng = np.random.default_rng(0)
        values = {}
        for feature in self.features.inputs:
            shape = (1, steps, *feature.shape)
            if feature.type is FeatureType.VISUAL:
                value = rng.integers(256, size=shape, dtype=np.uint8)
            else:
                value = rng.standard_normal(shape).astype(np.float32)
            values[feature.name] = torch.from_numpy(value).to(self._context.device)
        return values

    @cached_property
    def _heldout(self) -> Windows | None:
        """The held-out windows; the same moments for every setting."""
        config = self.config
        if config.dataset.root is None and config.dataset.repo_id is None:
            return None
        dataset = load_dataset(config.dataset, self._context.cache, self._context.progress)
        split = split_episodes(dataset, config.dataset.holdout_fraction, config.dataset.split_seed)
        if not split.holdout:
            return None
        frames = {
            name: open_frames(dataset, name, size, self._context.cache, self._context.progress)
            for name, size in image_sizes(config, dataset.policy_features).items()
        }
        return Windows(
            dataset,
            split.holdout,
            n_obs_steps=config.policy.n_obs_steps,
            horizon=config.policy.horizon,
            drop_n_last_frames=config.policy.available_actions - 1,
            frames=frames,
        )
