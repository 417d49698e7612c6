"""The steps of the samplers as constants, so that denoising needs no scheduler.

Every step of every sampler mixes few tensors with fixed weights. The weights are read off diffusers'
schedulers: a step is linear in its inputs except for the clip of the clean action, so its result for basis
vectors are its weights.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from trainables.diffusion_policy.network.noise import SOLVERS, NoiseProcess, clean_action

__all__ = ["Mix", "SamplerStep", "read_steps", "run_steps"]


@dataclass(frozen=True)
class Mix:
    """Weights of a sum of tensors.

    Attributes:
        noisy: Weight of the noisy action that the step starts from.
        predicted: Of the network's prediction.
        clean: Of the clean action that the prediction stands for, clipped.
        earlier: Of the clean action of the step before.
        before_that: Of the clean action two steps before.
        anchor: Of the anchor that the step before left: UniPC's corrected sample, or what Heun's second
            evaluation adds the rest of its step to.
        noise: Of new noise.
    """

    noisy: float = 0.0
    predicted: float = 0.0
    clean: float = 0.0
    earlier: float = 0.0
    before_that: float = 0.0
    anchor: float = 0.0
    noise: float = 0.0

    def of(self, **tensors: Tensor | None) -> Tensor:
        """The weighted sum; terms of weight 0 are not looked at."""
        total: Tensor | None = None
        for name, tensor in tensors.items():
            weight: float = getattr(self, name)
            if weight == 0.0:
                continue
            assert tensor is not None, f"the step needs {name}, and there is none yet"
            total = tensor * weight if total is None else torch.add(total, tensor, alpha=weight)
        assert total is not None, "all weights are 0"
        return total


@dataclass(frozen=True)
class SamplerStep:
    """One denoising step.

    Attributes:
        timestep: The timestep that the network is evaluated at.
        clean: The clean action before the clip, from ``noisy`` and ``predicted``.
        following: The noisy action of the next step; the result after the last step.
        anchor: The anchor for the next step; None if it needs none.
    """

    timestep: float
    clean: Mix
    following: Mix
    anchor: Mix | None = None

    @property
    def draws_noise(self) -> bool:
        """Whether the step adds new noise."""
        return self.following.noise != 0.0


def read_steps(
    process: NoiseProcess, sampler: str, num_inference_steps: int, first: int = 0
) -> tuple[SamplerStep, ...]:
    """Read the steps of a sampler off its scheduler.

    Args:
        process: Whose schedule, prediction type and spacing of timesteps hold.
        sampler: One of ``SAMPLERS``, or of ``FLOW_SAMPLERS`` for a flow.
        num_inference_steps: Denoising steps of the whole denoising.
        first: The step to begin with. The solvers of second order begin there without a history. A step of
            Heun is two evaluations: with the number of a second one, the step after it is the first.

    Raises:
        ConfigError: If the sampler is unknown or the number of steps is not possible.
        ValueError: If there is no step with this number.
    """
    scheduler = copy.deepcopy(process.scheduler(sampler, num_inference_steps))
    timesteps = scheduler.timesteps.tolist()
    if not 0 <= first < len(timesteps):
        raise ValueError(f"step {first} does not exist; the steps are 0 to {len(timesteps) - 1}")
    if process.is_flow:
        # Of Heun's evaluations, those with even numbers begin a step; Euler's are steps.
        first += (first % 2) * (scheduler.order - 1)
        scheduler.set_begin_index(first)
        return _flow_steps(scheduler, timesteps[first:], process.num_train_timesteps)
    timesteps = timesteps[first:]
    if sampler in SOLVERS:
        scheduler.set_begin_index(first)
        return _solver_steps(scheduler, timesteps, process.prediction_type)
    return tuple(_single_step(scheduler, timestep, process.prediction_type) for timestep in timesteps)


def run_steps(
    predict: Callable[[Tensor, int], Tensor],
    noise_BTA: Tensor,
    steps: Sequence[SamplerStep],
    clip_range: float | None,
    step_noises: Sequence[Tensor] = (),
) -> Tensor:
    """Turn noise into actions, as `NoiseProcess.denoise` does, with steps from `read_steps`.

    It is a loop over constants without a decision about values, so it can be traced and exported.

    Args:
        predict: The network, given noisy actions (B, T, A) and the number of the step, from 0 on.
        noise_BTA: Standard normal noise.
        steps: The steps.
        clip_range: Bound of the clip of clean actions (`NoiseProcess.clip_range`); None: no clip.
        step_noises: Standard normal noise (B, T, A) for each step that draws some, in their order.

    Returns:
        Actions (B, T, A) in normalised units.
    """
    noises = iter(step_noises)
    noisy_BTA = noise_BTA
    earlier_BTA: Tensor | None = None
    before_that_BTA: Tensor | None = None
    anchor_BTA: Tensor | None = None
    for number, step in enumerate(steps):
        predicted_BTA = predict(noisy_BTA, number)
        clean_BTA = step.clean.of(noisy=noisy_BTA, predicted=predicted_BTA)
        if clip_range is not None:
            clean_BTA = clean_BTA.clamp(-clip_range, clip_range)
        inputs = {
            "noisy": noisy_BTA,
            "predicted": predicted_BTA,
            "clean": clean_BTA,
            "earlier": earlier_BTA,
            "before_that": before_that_BTA,
            "anchor": anchor_BTA,
            "noise": next(noises) if step.draws_noise else None,
        }
        noisy_BTA = step.following.of(**inputs)
        anchor_BTA = None if step.anchor is None else step.anchor.of(**inputs)
        earlier_BTA, before_that_BTA = clean_BTA, earlier_BTA
    return noisy_BTA


_NAMES = tuple(field.name for field in fields(Mix))


def _basis(name: str) -> Tensor:
    """The basis vector of a term, (terms, 1): a batch of numbers to the schedulers."""
    vector = torch.zeros(len(_NAMES), 1, dtype=torch.float64)
    vector[_NAMES.index(name)] = 1
    return vector


def _weights(result: Tensor) -> Mix:
    return Mix(**dict(zip(_NAMES, result.flatten().tolist(), strict=True)))


def _clean(scheduler: Any, timestep: int, prediction_type: str) -> Mix:
    share = scheduler.alphas_cumprod[timestep]
    return _weights(clean_action(prediction_type, _basis("noisy"), _basis("predicted"), share))


def _single_step(scheduler: Any, timestep: int, prediction_type: str) -> SamplerStep:
    """A step of DDPM or DDIM, which depend on nothing earlier."""
    generator = torch.Generator()

    def step(predicted: Tensor, noisy: Tensor, bound: float, kind: str) -> Tensor:
        """Step with clean actions clipped to ±bound, and always the same noise."""
        scheduler.register_to_config(clip_sample=True, clip_sample_range=bound, prediction_type=kind)
        noise = {"generator": generator.manual_seed(0)} if is_random else {}
        result: Tensor = scheduler.step(predicted, timestep, noisy, **noise).prev_sample
        return result

    is_random = not hasattr(scheduler, "final_alpha_cumprod")
    zero, one = torch.zeros(1, 1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64)
    # Clipped to 0, the clean action drops out of the result; what is left is noise alone for zeros.
    nothing = step(zero, zero, 0.0, "sample")
    drawn = torch.randn(1, 1, generator=generator.manual_seed(0), dtype=torch.float64)
    clean = step(one, zero, 1.0, "sample") - step(one, zero, 0.0, "sample")
    rest = [
        step(predicted, noisy, 0.0, prediction_type) - nothing
        for predicted, noisy in ((zero, one), (one, zero))
    ]
    following = Mix(
        noisy=rest[0].item(),
        predicted=rest[1].item(),
        clean=clean.item(),
        noise=(nothing / drawn).item(),
    )
    return SamplerStep(timestep, _clean(scheduler, timestep, prediction_type), following)


def _solver_steps(scheduler: Any, timesteps: Sequence[int], prediction_type: str) -> tuple[SamplerStep, ...]:
    """The steps of a solver, which remembers clean actions; here they are replaced by basis vectors."""
    steps = []
    for number, timestep in enumerate(timesteps):
        history = [_basis("before_that") if number > 1 else None, _basis("earlier") if number else None]
        scheduler.model_outputs = history
        anchored = getattr(scheduler, "last_sample", None) is not None
        if anchored:
            scheduler.last_sample = _basis("anchor")
        following = scheduler.step(_basis("clean"), timestep, _basis("noisy")).prev_sample
        left = getattr(scheduler, "last_sample", None)
        is_last = number + 1 == len(timesteps)
        steps.append(
            SamplerStep(
                timestep,
                _clean(scheduler, timestep, prediction_type),
                _weights(following),
                None if left is None or is_last else _weights(left),
            )
        )
    return tuple(steps)


def _flow_steps(
    scheduler: Any, timesteps: Sequence[float], num_train_timesteps: int
) -> tuple[SamplerStep, ...]:
    """The evaluations of Euler's or Heun's method, with the velocity towards the clipped action."""
    steps = []
    for number, timestep in enumerate(timesteps):
        level = timestep / num_train_timesteps
        velocity = (_basis("noisy") - _basis("clean")) / level
        if not getattr(scheduler, "state_in_first_order", True):
            # The scheduler remembers where the step began and its first velocity; the anchor has both.
            scheduler.sample, scheduler.prev_derivative = _basis("anchor"), torch.zeros_like(velocity)
        following = scheduler.step(velocity, timestep, _basis("noisy")).prev_sample
        anchor = None
        if not getattr(scheduler, "state_in_first_order", True) and number + 1 < len(timesteps):
            anchor = _weights(_basis("noisy") + 0.5 * scheduler.dt * velocity)
        clean = Mix(noisy=1.0, predicted=-level)
        steps.append(SamplerStep(timestep, clean, _weights(following), anchor))
    return tuple(steps)
