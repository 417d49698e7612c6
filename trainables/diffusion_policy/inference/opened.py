"""A checkpoint opened for evaluation with any inference setting.

Shapes: B windows, T horizon, A action dimension.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from trainables.dataset.errors import DatasetError
from trainables.dataset.frames import open_frames
from trainables.dataset.windows import Windows, split_episodes
from trainables.diffusion_policy.acceleration import (
    BACKENDS,
    PRECISIONS,
    AcceleratedPolicy,
    Backend,
    Precision,
    accelerate,
)
from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig, build, field_faults
from trainables.diffusion_policy.data import image_sizes, load_dataset
from trainables.diffusion_policy.inference.bench import COMPARED, Observations, bench, checked
from trainables.diffusion_policy.inference.demonstrations import Training, open_demonstrations
from trainables.diffusion_policy.network.inference_settings import setting_faults, setting_of, with_setting
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.pretrained_config import read_json
from trainables.diffusion_policy.pretrained.read import policy_of, read_checkpoint
from trainables.episodes import EpisodeRecord, Purpose, first_seed
from trainables.evaluation import video
from trainables.evaluation.analysis import AnalysisSettings, Source, compare
from trainables.evaluation.denoising import record_denoising
from trainables.evaluation.offline import OfflineSettings, choose_windows, window_errors
from trainables.evaluation.rollout import DelayedControl, EpisodeResult, RolloutError, rollout, summarise
from trainables.evaluation.simulators import environment_faults, make_environment, release
from trainables.evaluation.stepping.choice import Stepping
from trainables.features import ACTION, FeatureType, PolicyFeatures
from trainables.inspection import BenchRow, Comparison, DenoisingPicture, Latency
from trainables.interface import ConfigError, EvaluationContext, Fault, ServeOptions, silent

if TYPE_CHECKING:
    from trainables.deployment.server.running import RunningServer

__all__ = ["WARM_START", "OpenedPolicy", "open_policy"]

WARM_START = "policy.warm_start_steps"
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
    step, training = 0, Training(changed=config)
    if read.config.format == "sweeper":
        found = read_json(read.config.folder / "config.json")["config"]
        stored = {name: value for name, value in found.items() if name in FIELDS}
        state = read_json(read.config.folder / "state.json")
        step = int(state["step"])
        as_trained = build(stored)
        content = str(state.get("progress", {}).get("data", ""))
        training = Training(as_trained.dataset, content, as_trained.policy.path, config)
    if config.get("dataset.repo_id") is not None:
        stored = {**stored, "dataset.root": None}  # the folder of the training would win
    policy = policy_of(read).to(context.device)
    whole = dataclasses.replace(build({**stored, **config}), policy=policy.config)
    opened = OpenedPolicy(whole, policy, read.config.folder, step, context, training)
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
        training: What is known of its training.
    """

    def __init__(
        self,
        config: DiffusionConfig,
        policy: DiffusionPolicy,
        folder: Path,
        step: int,
        context: EvaluationContext,
        training: Training | None = None,
    ) -> None:
        self.config = config
        self.step = step
        self.trained_setting: Mapping[str, Any] = setting_of(policy.config)
        self.environment = config.rollout.env
        self._folder = folder
        self._context = context
        self._training = training or Training()
        self._weights = {True: policy}
        self._settings: dict[str, DiffusionPolicy] = {}
        self._speeds: dict[tuple[str, int, str, int], float] = {}

    @property
    def features(self) -> PolicyFeatures:
        """What the policy sees and does."""
        return self._weights[True].features

    @property
    def windows(self) -> int:
        """Number of held-out moments for :meth:`action_errors`; 0 if no dataset is named."""
        return 0 if self._heldout is None else min(self.config.eval.windows, len(self._heldout))

    @property
    def heldout(self) -> Windows | None:
        """The held-out moments; None if no dataset is named, or nothing is held out.

        Raises:
            DatasetError: If the dataset cannot be read.
        """
        return self._heldout

    def moments(self, fewest: int = 1) -> tuple[np.ndarray, str]:
        """The numbers of all held-out moments in random order, the same in every call.

        Args:
            fewest: With fewer moments than this, there are none.

        Returns:
            The numbers, and what they are in words; without any, why there are none.
        """
        none = np.empty(0, np.int64)
        try:
            windows = self._heldout
        except (ConfigError, DatasetError) as error:
            return none, f"the dataset cannot be opened: {error}"
        if windows is None:
            return none, "no dataset with held-out episodes is named"
        if len(windows) < fewest:
            return none, f"the held-out episodes have {len(windows)} moments, and {fewest} are needed"
        named = self.config.dataset.root or self.config.dataset.repo_id
        shown = ", ".join(named) if isinstance(named, tuple) else named
        return np.random.default_rng(0).permutation(len(windows)), f"held-out episodes of {shown}"

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
        results = self._results(setting, purpose, episodes)
        if film is not None:
            assert self.environment is not None
            video.film_episodes(results, self.environment, self.features, film, episodes=film_episodes)
        return [result.record for result in results]

    backends: Sequence[str] = BACKENDS
    precisions: Sequence[str] = PRECISIONS

    def accelerated(
        self,
        setting: Mapping[str, Any],
        backend: Backend | Literal["auto"] = "auto",
        precision: Precision = "fp32",
    ) -> AcceleratedPolicy:
        """The policy with an inference setting, computed faster; see `acceleration.accelerate`.

        Raises:
            ConfigError: If the setting is not possible.
        """
        return accelerate(self.policy(setting), backend, precision)

    def bench(
        self,
        settings: Sequence[Mapping[str, Any]],
        backends: Sequence[str],
        precision: str,
        runs: int,
        lerobot: Path | None = None,
    ) -> list[BenchRow]:
        """Time ways to compute chunks; see `trainables.interface.BenchmarksPolicies`.

        Raises:
            ConfigError: If a setting, a backend or the precision is not possible.
            LeRobotError: If LeRobot cannot take the policy.
        """
        policies = [(setting, self.policy(setting)) for setting in settings]
        return bench(
            policies, self._bench_observations(), backends, precision, runs, lerobot, self._context.progress
        )

    def _bench_observations(self) -> Observations:
        """Held-out moments if there are any, else a random observation."""
        numbers, words = self.moments()
        if self._heldout is None or not len(numbers):
            return Observations(self._any_observation(), f"a random observation, because {words}")
        batch = self._heldout.gather(numbers[:COMPARED])
        values = {
            feature.name: batch[feature.name].to(self._context.device) for feature in self.features.inputs
        }
        return Observations(values, f"{len(numbers[:COMPARED])} moments of {words}")

    def rollout_with(
        self,
        backend: str,
        precision: str,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
    ) -> list[EpisodeRecord]:
        """Roll out episodes with a backend; see `trainables.interface.BenchmarksPolicies`.

        Raises:
            ConfigError: If no environment is named, or the setting is not possible.
            SimulatorError: If the simulator fails.
            RolloutError: If an action is not finite.
        """
        made = accelerate(self.policy(setting), *checked(backend, precision))
        return [result.record for result in self._results(setting, purpose, episodes, policy=made)]

    def _results(
        self,
        setting: Mapping[str, Any],
        purpose: Purpose,
        episodes: Sequence[int],
        noise: int = 0,
        policy: AcceleratedPolicy | None = None,
    ) -> list[EpisodeResult]:
        if self.environment is None:
            raise ConfigError([Fault("rollout.env", "no environment is named.", "Name one for the rollout.")])
        settings = self.config.rollout
        return rollout(
            self.policy(setting) if policy is None else policy,
            self.environment,
            episode_indices=episodes,
            seed=first_seed(settings.seed, purpose),
            parallel=settings.parallel,
            device=self._context.device,
            max_steps=settings.max_steps,
            control=DelayedControl.named(settings.control, settings.latency_ms, settings.replan),
            progress=self._context.progress,
            noise=noise,
            stepping=Stepping(settings.processes, self._context.threads, settings.timeout_s),
        )

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
        if policy.warm_start_steps:
            problem = "makes no difference at single moments, which have no last chunk."
            raise ConfigError([Fault(WARM_START, problem, "Compare it in episodes: name a simulator.")])
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
        sampler, steps, spacing = config.inference_sampler, config.inference_steps, config.inference_spacing
        cost = (sampler, steps, spacing, config.warm_start_steps)
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
        warm = _warm(policy)
        times_ms: list[float] = []
        begin_s = time.perf_counter()
        for run in range(-WARM_UP, runs):
            if len(times_ms) >= FEWEST_RUNS and time.perf_counter() - begin_s > most_s:
                break
            generator = [torch.Generator().manual_seed(run + WARM_UP)]
            start_s = time.perf_counter()
            # The copy back waits for the device, as sending the actions to the robot does.
            policy.predict_action(observation, generator=generator, **warm).cpu()
            if run >= 0:
                times_ms.append(1e3 * (time.perf_counter() - start_s))
        return times_ms

    def check_demonstrations(self) -> bool:
        """Open the dataset, if one is named; see `trainables.interface.InspectablePolicy`.

        Raises:
            ConfigError: If its features are not the policy's.
            DatasetError: If it cannot be read.
        """
        if self.config.dataset.root is None and self.config.dataset.repo_id is None:
            return False
        return bool(self._demonstrations)

    def compare(self, setting: Mapping[str, Any], settings: AnalysisSettings | None = None) -> Comparison:
        """Compare with demonstrations; see `trainables.interface.InspectablePolicy`.

        Args:
            setting: The inference setting.
            settings: How closely; None: as `sweeper eval` does.

        Raises:
            ConfigError: If no dataset is named, or its features are not the policy's.
            DatasetError: If it cannot be read.
        """
        policy = self.policy(setting)
        source, windows = self._demonstrations
        closely = settings or AnalysisSettings(seed=self.config.eval.seed)
        return compare(policy, windows, source, closely, self._context.device, self._context.progress)

    def latency(self, setting: Mapping[str, Any], runs: int = 50, most_s: float = 10.0) -> Latency:
        """Time predictions, and say what computed them; see `trainables.interface.InspectablePolicy`."""
        times_ms = self.latency_ms(setting, runs, most_s)
        device = torch.device(self._context.device)
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
        steps = self.policy(setting).n_action_steps
        return Latency(tuple(times_ms), name, torch.get_num_threads(), steps)

    def draw_denoising(
        self, setting: Mapping[str, Any], picture: Path, film: Path | None = None
    ) -> DenoisingPicture | None:
        """Draw how noise becomes action chunks; see `trainables.interface.InspectablePolicy`.

        Raises:
            ConfigError: If the dataset's features are not the policy's.
            DatasetError: If the dataset cannot be read.
            SimulatorError: If the simulator fails.
            RolloutError: If an action is not finite.
        """
        # matplotlib, which nothing else here needs, takes a second to load.
        from trainables.evaluation.denoising_picture import draw_picture, film_denoising

        policy = self.policy(setting)
        if self.check_demonstrations():
            observation, demonstrated, words, dimensions = self._demonstrated()
        elif self.environment is not None:
            observation, words = self._first_observation(), f"the start of an episode in {self.environment}"
            demonstrated, dimensions = None, tuple(str(number) for number in range(policy.action_dim))
        else:
            return None
        denoising = record_denoising(
            policy, observation, dimensions=dimensions, seed=self.config.eval.seed, demonstrated=demonstrated
        )
        assert denoising is not None
        if not denoising.is_finite:
            raise RolloutError("the policy's actions are not finite: its training has diverged.")
        self._context.progress("drawing the denoising")
        timesteps = draw_picture(denoising, picture)
        if film is not None:
            film_denoising(denoising, film)
        return DenoisingPicture(picture, film, len(denoising.chunks), timesteps, words)

    def serve(
        self, setting: Mapping[str, Any], options: ServeOptions, report: Callable[[str], object] = silent
    ) -> RunningServer:
        """Serve the policy in another thread; see `trainables.interface.ServablePolicy`.

        Raises:
            ConfigError: If the setting or an option is not possible, or a package is missing.
            ServeError: If the port cannot be used.
        """
        # websockets, msgpack and prometheus_client are an extra.
        from trainables.deployment.server.running import start_server

        policy = self.policy(setting)
        if policy.warm_start_steps:
            problem = f"is {policy.warm_start_steps}, but a server begins each chunk from noise."
            remedy = f"Serve it without: --setting {WARM_START}=0. A Controller begins from the last chunk."
            raise ConfigError([Fault(WARM_START, problem, remedy)])
        description = {"step": self.step, "setting": {**self.trained_setting, **setting}}
        return start_server(policy, options, description, report)

    def repeat(
        self, setting: Mapping[str, Any], purpose: Purpose, episodes: Sequence[int], run: int
    ) -> list[EpisodeRecord]:
        """Roll out episodes again with other noise; see `trainables.interface.InspectablePolicy`.

        Raises:
            ConfigError: If no environment is named, or the setting is not possible.
            SimulatorError: If the simulator fails.
            RolloutError: If an action is not finite.
        """
        return [result.record for result in self._results(setting, purpose, episodes, noise=run)]

    def _demonstrated(
        self,
    ) -> tuple[dict[str, torch.Tensor], np.ndarray, str, tuple[str, ...]]:
        """An observation of a demonstration, what was demonstrated there, and where that is."""
        source, windows = self._demonstrations
        # The middle of the longest episode that is compared: there the robot moves.
        chosen = set(source.episodes)
        episode = max((one for one in source.dataset.episodes if one.index in chosen), key=len)
        middle = episode.start + len(episode) // 2
        number = int(np.flatnonzero(windows.rows(np.arange(len(windows))) == middle)[0])
        batch = windows.gather(np.array([number]))
        demonstrated = batch[ACTION][0].numpy()
        observation = {
            feature.name: batch[feature.name].to(self._context.device) for feature in self.features.inputs
        }
        words = f"frame {middle - episode.start} of episode {episode.index} of {source.named}"
        return observation, demonstrated, words, source.dimensions

    def _first_observation(self) -> dict[str, torch.Tensor]:
        """The observation of an episode's start, as a rollout gives it to the policy."""
        assert self.environment is not None
        environment = make_environment(self.environment, self.features)
        try:
            seen = environment.reset(first_seed(self.config.rollout.seed, "look"))
        finally:
            release(environment)
        steps = self.config.policy.n_obs_steps
        return {
            feature.name: torch.from_numpy(np.stack([seen[feature.name]] * steps)[None]).to(
                self._context.device
            )
            for feature in self.features.inputs
        }

    @cached_property
    def _demonstrations(self) -> tuple[Source, Windows]:
        return open_demonstrations(self.config, self.features, self._training, self._context)

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
            drop_n_last_frames=config.eval.window_steps - 1,
            frames=frames,
        )


def _warm(policy: DiffusionPolicy) -> dict[str, Any]:
    """What a prediction is given to begin from a last chunk; its values do not change the time."""
    if not policy.warm_start_steps:
        return {}
    shape = (1, policy.available_actions, policy.action_dim)
    return {"previous": torch.zeros(shape), "skipped_steps": policy.warm_start_steps}
