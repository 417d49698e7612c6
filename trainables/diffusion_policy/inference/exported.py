"""Export an opened policy to other runtimes: with moments of its dataset, and episodes in its simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from trainables.confidence import mean_interval
from trainables.diffusion_policy.formats.errors import FormatError
from trainables.diffusion_policy.formats.parts import example_observation
from trainables.diffusion_policy.formats.place import check_place
from trainables.diffusion_policy.formats.running import ExportedPolicy
from trainables.diffusion_policy.formats.write import FORMATS, Material, write_format
from trainables.diffusion_policy.inference.opened import WARM_START, OpenedPolicy, open_policy
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.episodes import EpisodeRecord, first_seed
from trainables.evaluation.offline import OfflineSettings, SamplingPolicy, window_errors
from trainables.evaluation.rollout import RolloutPolicy, rollout
from trainables.evaluation.stepping.choice import Stepping
from trainables.interface import EvaluationContext, FormatOptions

__all__ = ["export_format"]

COMPARED, JUDGED = 32, 128
"""Moments for parity and calibration, and other ones for the action error."""
FEWEST = 2
RANDOM = 8
SAMPLES = 2


def export_format(
    checkpoint: Path, folder: Path, wanted: FormatOptions, context: EvaluationContext
) -> dict[str, Any]:
    """Export a checkpoint; see `trainables.interface.ExportsFormats`.

    Raises:
        ConfigError: If the checkpoint or the setting cannot be used.
        FormatError: If the policy cannot be exported, or differs too much.
    """
    assert wanted.format in FORMATS, wanted.format
    check_place(folder, replace=wanted.replace)
    opened = open_policy(checkpoint, wanted.config, dataclasses.replace(context, device="cpu"))
    _check_episodes(opened, wanted)
    setting = {**wanted.setting, **({} if wanted.ema else {"policy.use_ema": False})}
    # An export has no last chunk, so it is compared with the policy that begins from noise.
    warm_steps = opened.policy(setting).warm_start_steps
    setting |= {WARM_START: 0} if warm_steps else {}
    policy = opened.policy(setting).eval()
    numbers, source = opened.moments(FEWEST)
    windows = opened.heldout if len(numbers) else None
    compared = min(COMPARED, len(numbers) // 2)
    if windows is None:
        observations, source = example_observation(policy, RANDOM), f"random observations, because {source}"
    else:
        source = f"{compared} moments of {source}"
        batch = windows.gather(numbers[:compared])
        observations = {feature.name: batch[feature.name] for feature in policy.features.inputs}
    material = Material(
        observations,
        source,
        windows is not None,
        _Judge(opened, policy, numbers[compared:][:JUDGED], wanted.episodes or 0, context),
        {
            "checkpoint": str(checkpoint),
            "step": opened.step,
            "setting": {**opened.trained_setting, **setting},
        },
        [f"{WARM_START} {warm_steps} is left out: every chunk begins from noise."] if warm_steps else [],
    )
    return write_format(policy, folder, wanted, material, context.progress)


def _check_episodes(opened: OpenedPolicy, wanted: FormatOptions) -> None:
    others = [precision for precision in wanted.precisions if precision != "fp32"]
    if wanted.episodes and opened.environment is None:
        raise FormatError("--episodes: the training names no simulator. Name one: --env ID.")
    if wanted.episodes and not others:
        raise FormatError("--episodes: only fp16 and int8 are played. Name one: --precision int8.")
    if others and wanted.episodes is None and opened.environment is not None:
        raise FormatError(
            f"--precision {others[0]} changes the actions, and the policy has a simulator. Say with "
            "--episodes N how many episodes are played to measure the loss; 0 for none."
        )


class _Judge:
    """Measures what a variant costs beside the policy: the same moments, the same starts, the same noise."""

    def __init__(
        self,
        opened: OpenedPolicy,
        policy: DiffusionPolicy,
        numbers: np.ndarray,
        episodes: int,
        context: EvaluationContext,
    ) -> None:
        self._opened = opened
        self._policy = policy
        self._numbers = np.sort(numbers)
        self._episodes = episodes
        self._context = context

    def action_error(self, exported: ExportedPolicy) -> Mapping[str, Any] | None:
        """The squared action errors at held-out moments; None if there are none."""
        if not len(self._numbers):
            return None
        mine, theirs = self._own_errors.numpy(), self._errors(exported).numpy()
        mean, reference = float(theirs.mean()), float(mine.mean())
        interval = mean_interval(theirs - mine)
        return {
            "mean_squared": mean,
            "policy_mean_squared": reference,
            "difference": mean - reference,
            "interval": interval,
            "moments": len(mine),
            "words": f"squared action error {mean:.4g} against {reference:.4g} of the policy at {len(mine)} "
            f"held-out moments ({_signed(mean - reference)}{_within(interval)}).",
        }

    def episodes(self, exported: ExportedPolicy) -> Mapping[str, Any] | None:
        """Episodes from the same starts; None if none were asked for."""
        if not self._episodes:
            return None
        mine, theirs = self._own_episodes, self._play(exported)
        return _compared(mine, theirs)

    @cached_property
    def _own_errors(self) -> Tensor:
        return self._errors(self._policy)

    @cached_property
    def _own_episodes(self) -> list[EpisodeRecord]:
        return self._play(self._policy)

    def _errors(self, policy: SamplingPolicy) -> Tensor:
        heldout, config = self._opened.heldout, self._opened.config.eval
        assert heldout is not None
        settings = OfflineSettings(
            windows=len(self._numbers),
            window_steps=config.window_steps,
            samples=SAMPLES,
            sampler=self._policy.config.inference_sampler,
            num_inference_steps=self._policy.config.inference_steps,
            seed=config.seed,
        )
        return window_errors(policy, heldout, self._numbers, settings, "cpu").squared

    def _play(self, policy: RolloutPolicy) -> list[EpisodeRecord]:
        settings = self._opened.config.rollout
        assert self._opened.environment is not None
        results = rollout(
            policy,
            self._opened.environment,
            episode_indices=range(self._episodes),
            seed=first_seed(settings.seed, "look"),
            parallel=settings.parallel,
            max_steps=settings.max_steps,
            progress=self._context.progress,
            stepping=Stepping(settings.processes, self._context.threads, settings.timeout_s),
        )
        return [result.record for result in results]


def _compared(mine: list[EpisodeRecord], theirs: list[EpisodeRecord]) -> dict[str, Any]:
    found: dict[str, Any] = {"episodes": len(mine)}
    words = []
    for name, title in (("success", "success"), ("max_reward", "largest reward")):
        ours = np.array([float(getattr(record, name)) for record in mine])
        others = np.array([float(getattr(record, name)) for record in theirs])
        difference = float((others - ours).mean())
        interval = mean_interval(others - ours)
        found[name] = {
            "mean": float(others.mean()),
            "policy_mean": float(ours.mean()),
            "difference": difference,
            "interval": interval,
        }
        words.append(
            f"{title} {others.mean():.3f} against {ours.mean():.3f} of the policy "
            f"({_signed(difference)}{_within(interval)})"
        )
    starts = f"in {len(mine)} episodes from the same starts with the same noise"
    return {**found, "words": f"{', '.join(words)}, {starts}."}


def _signed(value: float) -> str:
    return f"{value:+.3g}"


def _within(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f", 95 % interval {interval[0]:+.3g} to {interval[1]:+.3g}"
