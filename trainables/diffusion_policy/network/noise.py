"""The diffusion process, or the flow: noise in training, denoising at inference.

The schedules and the samplers are those of diffusers. They receive the same arguments as in LeRobot, so that
a checkpoint means the same there and here; all others keep diffusers' defaults. With the prediction type
``flow`` the process is that of `network.flow`, which LeRobot's diffusion policy does not have.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# Each from its own module: the package's top level looks for all of its optional dependencies.
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from torch import Tensor

from trainables.diffusion_policy.config.sections import FLOW, sampler_problem
from trainables.diffusion_policy.network.flow import (
    clipped_velocity,
    draw_levels,
    flow_scheduler,
    set_levels,
)
from trainables.interface import ConfigError, Fault

__all__ = [
    "SOLVERS",
    "Generators",
    "Known",
    "NoiseProcess",
    "WarmStart",
    "check_skipped",
    "clean_action",
    "draw_timesteps",
    "randn",
]

Generators = torch.Generator | Sequence[torch.Generator] | None
"""One generator for a batch, or one per sample, or None for torch's global one."""

SOLVERS = ("DPM-Solver++", "UniPC")
"""Samplers of second order that expect clean actions here; see `NoiseProcess._scheduler`."""


def randn(shape: tuple[int, ...], generator: Generators, device: torch.device) -> Tensor:
    """Draw standard normal numbers; from a generator per sample, sample i's come from generator i alone.

    Raises:
        ValueError: If there are several generators, but not one per sample.
    """
    if generator is None:
        return torch.randn(shape, device=device)
    if isinstance(generator, torch.Generator):
        return torch.randn(shape, generator=generator, device=generator.device).to(device)
    if len(generator) != shape[0]:
        raise ValueError(
            f"{len(generator)} generators for {shape[0]} samples; give one generator or one per sample"
        )
    drawn = [torch.randn(shape[1:], generator=each, device=each.device) for each in generator]
    return torch.stack(drawn).to(device)


def draw_timesteps(
    count: int,
    num_train_timesteps: int,
    time_sampling: str | None,
    generator: torch.Generator | None,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Draw the timesteps (count,) of training samples.

    Args:
        count: How many.
        num_train_timesteps: Timesteps of the process.
        time_sampling: How a flow draws them, as real numbers up to ``num_train_timesteps``; None: integers
            below that, each as likely, for a diffusion.
        generator: Draws them; None: torch's global one.
        device: Device of the generator.
    """
    if time_sampling is None:
        return torch.randint(num_train_timesteps, (count,), generator=generator, device=device)
    return num_train_timesteps * draw_levels(count, time_sampling, generator, device)


@dataclass(frozen=True)
class Known:
    """Actions that a denoising continues.

    Attributes:
        actions: The actions (B, T, A), in normalised units.
        kept: The weight (T,) or (B, T) of each, from 0 (free) to 1 (the result has it).
    """

    actions: Tensor
    kept: Tensor

    def mixed(self, free_BTA: Tensor, known_BTA: Tensor) -> Tensor:
        """Free and known values, by weight."""
        return torch.lerp(free_BTA, known_BTA, self.kept[..., None].to(free_BTA.dtype))


@dataclass(frozen=True)
class WarmStart:
    """Actions that a denoising begins from, noised to the timestep of a later step.

    Attributes:
        actions: The actions (B, T, A), in normalised units.
        skipped_steps: The first denoising steps, which they take the place of; at least 1.
    """

    actions: Tensor
    skipped_steps: int


class NoiseProcess:
    """Adds noise to actions in training, and turns noise into actions.

    Args:
        noise_scheduler_type: ``DDPM`` or ``DDIM``; both add the same noise.
        num_train_timesteps: Timesteps of the process.
        beta_schedule: ``linear``, ``scaled_linear`` or ``squaredcos_cap_v2``.
        beta_start: First beta (linear schedules).
        beta_end: Last beta (linear schedules).
        prediction_type: What the network predicts: ``epsilon``, ``sample``, ``v_prediction`` or ``flow``. A
            flow has no betas and no ``noise_scheduler_type``.
        clip_sample: Whether the predicted action is clipped while denoising.
        clip_sample_range: Bound of that clip.
        timestep_spacing: Which timesteps the samplers take: ``leading``, ``trailing`` or ``linspace`` (Lin et
            al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", arXiv 2305.08891); None:
            diffusers' default of each sampler, and equal steps for a flow.
        time_sampling: How a flow draws the times of training; see `draw_levels`.
    """

    def __init__(
        self,
        *,
        noise_scheduler_type: str,
        num_train_timesteps: int,
        beta_schedule: str,
        beta_start: float,
        beta_end: float,
        prediction_type: str,
        clip_sample: bool,
        clip_sample_range: float,
        timestep_spacing: str | None = None,
        time_sampling: str = "uniform",
    ) -> None:
        self.num_train_timesteps = num_train_timesteps
        self.prediction_type = prediction_type
        self.is_flow = prediction_type == FLOW
        self._flow_spacing = timestep_spacing or "trailing"
        self._time_sampling = time_sampling if self.is_flow else None
        self.clip_range = clip_sample_range if clip_sample else None
        self._betas = {
            "num_train_timesteps": num_train_timesteps,
            "beta_schedule": beta_schedule,
            "beta_start": beta_start,
            "beta_end": beta_end,
        }
        self._prediction = {
            "prediction_type": prediction_type,
            "clip_sample": clip_sample,
            "clip_sample_range": clip_sample_range,
        }
        self._spacing = {} if timestep_spacing is None else {"timestep_spacing": timestep_spacing}
        # Adding noise moves a scheduler's tables to the device. The samplers' tables stay on the CPU, so that
        # reading one number does not wait for the device. Hence training has a separate scheduler.
        self._training = None if self.is_flow else self._build(noise_scheduler_type)
        self._samplers: dict[str, Any] = {}

    def draw_timesteps(self, count: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """Draw the timesteps (count,) of training samples; see the function of this name."""
        return draw_timesteps(count, self.num_train_timesteps, self._time_sampling, generator, device)

    def add_noise(self, action_BTA: Tensor, noise_BTA: Tensor, timesteps_B: Tensor) -> Tensor:
        """Mix clean actions and noise for the given timesteps (B,)."""
        if self._training is None:
            levels_B11 = (timesteps_B / self.num_train_timesteps).view(-1, 1, 1)
            return torch.lerp(action_BTA, noise_BTA, levels_B11.to(noise_BTA.dtype))
        mixed: Tensor = self._training.add_noise(action_BTA, noise_BTA, timesteps_B)
        return mixed

    def target(self, action_BTA: Tensor, noise_BTA: Tensor, timesteps_B: Tensor) -> Tensor:
        """The target of the network's prediction."""
        if self.prediction_type == "epsilon":
            return noise_BTA
        if self.prediction_type == "sample":
            return action_BTA
        if self._training is None:
            return noise_BTA - action_BTA
        velocity: Tensor = self._training.get_velocity(action_BTA, noise_BTA, timesteps_B)
        return velocity

    def denoise(
        self,
        predict: Callable[[Tensor, float], Tensor],
        noise_BTA: Tensor,
        *,
        sampler: str,
        num_inference_steps: int,
        generator: Generators = None,
        watch: Callable[[Tensor, float], None] | None = None,
        known: Known | None = None,
        warm: WarmStart | None = None,
    ) -> Tensor:
        """Turn noise into actions.

        Args:
            predict: The network, given noisy actions (B, T, A) and the timestep that they are at: an integer
                for a diffusion, a real number for a flow.
            noise_BTA: Standard normal noise.
            sampler: One of ``SAMPLERS``, of ``FLOW_SAMPLERS`` for a flow. DDPM draws noise at every step, the
                others none. DDIM of a flow is Euler's method.
            num_inference_steps: The largest number of evaluations of the network.
            generator: Draws the noise of the steps.
            watch: Receives the noisy actions (B, T, A), in normalised units, and their timestep before each
                step.
            known: Actions in normalised units that the result continues. Before each step they are mixed in
                with the noise of that timestep, as RePaint does (Lugmayr et al., arXiv 2201.09865, without
                its resampling), and with the noise that the denoising starts from, so that nothing more is
                drawn.
            warm: Actions in normalised units to begin from.

        Returns:
            Actions (B, T, A) in normalised units, float32.

        Raises:
            ConfigError: If the sampler is unknown or the number of steps is not possible.
        """
        scheduler = self.scheduler(sampler, num_inference_steps)
        per_step = {} if sampler != "DDPM" or generator is None else {"generator": _for_diffusers(generator)}
        sample_BTA, timesteps = noise_BTA, scheduler.timesteps.tolist()
        if warm is not None:
            check_skipped(warm.actions, warm.skipped_steps, len(timesteps))
            timesteps = timesteps[warm.skipped_steps :]
            if sampler in SOLVERS:
                scheduler.set_begin_index(warm.skipped_steps)
            timesteps_B = torch.full((len(noise_BTA),), timesteps[0], device=noise_BTA.device)
            sample_BTA = self.add_noise(warm.actions, noise_BTA, timesteps_B)
        for timestep in timesteps:
            if known is not None:
                timesteps_B = torch.full((len(noise_BTA),), timestep, device=noise_BTA.device)
                sample_BTA = known.mixed(sample_BTA, self.add_noise(known.actions, noise_BTA, timesteps_B))
            if watch is not None:
                watch(sample_BTA, timestep)
            predicted_BTA = predict(sample_BTA, timestep).float()
            if sampler in SOLVERS:
                predicted_BTA = self._clipped_action(predicted_BTA, sample_BTA, timestep, scheduler)
            elif self.is_flow and self.clip_range is not None:
                level = timestep / self.num_train_timesteps
                predicted_BTA = clipped_velocity(predicted_BTA, sample_BTA, level, self.clip_range)
            sample_BTA = scheduler.step(predicted_BTA, timestep, sample_BTA, **per_step).prev_sample
        return sample_BTA if known is None else known.mixed(sample_BTA, known.actions)

    def scheduler(self, sampler: str, num_inference_steps: int) -> Any:
        """The scheduler of a sampler with its timesteps; the next call for the same sampler changes them.

        Raises:
            ConfigError: If the sampler is unknown or the number of steps is not possible.
        """
        self._check(sampler, num_inference_steps)
        if self.is_flow and sampler == "DDIM":
            # With a straight path, a step of DDIM and one of Euler are the same.
            sampler = "Euler"
        if sampler not in self._samplers:
            self._samplers[sampler] = self._build(sampler)
        scheduler = self._samplers[sampler]
        if self.is_flow:
            set_levels(scheduler, num_inference_steps, self._flow_spacing)
            return scheduler
        if sampler not in SOLVERS:
            scheduler.set_timesteps(num_inference_steps)
            return scheduler
        with warnings.catch_warnings():
            # diffusers turns a tensor into an array in a way that makes numpy 2 warn.
            warnings.filterwarnings("ignore", message="__array__ implementation", category=DeprecationWarning)
            # Evenly spaced and rounded, a timestep can come twice, and a solver divides by the distance of
            # two: its result would be NaN. At most one of as many steps as the process has is too many.
            for steps in (num_inference_steps, num_inference_steps - 1):
                scheduler.set_timesteps(steps)
                if len(scheduler.timesteps.unique()) == len(scheduler.timesteps):
                    return scheduler
        raise AssertionError(f"{sampler}: the timesteps of {num_inference_steps} steps are not distinct")

    def _check(self, sampler: str, num_inference_steps: int) -> None:
        found = sampler_problem(self.prediction_type, sampler)
        if found is not None:
            raise ConfigError([Fault("policy.sampler", *found)])
        if not 1 <= num_inference_steps <= self.num_train_timesteps:
            remedy = f"Use 1 to {self.num_train_timesteps} (policy.num_train_timesteps)."
            problem = f"{num_inference_steps} denoising steps are not possible."
            raise ConfigError([Fault("policy.num_inference_steps", problem, remedy)])

    def _build(self, kind: str) -> Any:
        with torch.device("cpu"):
            return self._scheduler(kind)

    def _scheduler(self, kind: str) -> Any:
        if self.is_flow:
            return flow_scheduler(kind, self.num_train_timesteps)
        if kind == "DDPM":
            return DDPMScheduler(**self._betas, **self._prediction, **self._spacing)
        if kind == "DDIM":
            return DDIMScheduler(**self._betas, **self._prediction, **self._spacing)
        # These schedulers cannot clip, and without a clip the first step of the cosine schedule multiplies an
        # error of the noise by thousands. So they are configured for clean actions, which are
        # clipped before. Their modules import scipy, which takes a second; no other sampler needs it.
        if kind == "UniPC":
            from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler

            return UniPCMultistepScheduler(**self._betas, prediction_type="sample", **self._spacing)
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler

        return DPMSolverMultistepScheduler(**self._betas, prediction_type="sample", **self._spacing)

    def _clipped_action(
        self, predicted_BTA: Tensor, sample_BTA: Tensor, timestep: int, scheduler: Any
    ) -> Tensor:
        share = scheduler.alphas_cumprod[timestep]
        action_BTA = clean_action(self.prediction_type, sample_BTA, predicted_BTA, share)
        return action_BTA if self.clip_range is None else action_BTA.clamp(-self.clip_range, self.clip_range)


def check_skipped(previous: Tensor | None, skipped_steps: int, steps: int) -> None:
    """Check a warm start.

    Args:
        previous: The actions to begin from; None for noise.
        skipped_steps: The first denoising steps, which they take the place of.
        steps: All denoising steps.

    Raises:
        ConfigError: If no step is left, or there are skipped steps without actions to begin from.
    """
    if (previous is None) != (skipped_steps == 0) or not 0 <= skipped_steps < steps:
        remedy = f"Use 1 to {steps - 1} with a previous horizon, and 0 without one."
        raise ConfigError([Fault("skipped_steps", f"{skipped_steps} steps cannot be skipped.", remedy)])


def clean_action(prediction_type: str, noisy: Tensor, predicted: Tensor, share: Tensor) -> Tensor:
    """The clean action that a prediction stands for.

    Args:
        prediction_type: What the network predicts: ``epsilon``, ``sample`` or ``v_prediction``.
        noisy: The noisy action.
        predicted: The prediction, of the same shape.
        share: The share of the clean action's variance at the timestep (``alphas_cumprod``).
    """
    signal, sigma = share**0.5, (1 - share) ** 0.5
    if prediction_type == "epsilon":
        return (noisy - sigma * predicted) / signal
    if prediction_type == "v_prediction":
        return signal * noisy - sigma * predicted
    return predicted


def _for_diffusers(generator: torch.Generator | Sequence[torch.Generator]) -> Any:
    return generator if isinstance(generator, torch.Generator) else list(generator)
