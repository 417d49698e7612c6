"""A policy in parts that can be traced: what is exported, and joined again in other runtimes.

Every part maps named tensors to named tensors, and what one part returns the next one receives under the same
name. Scaling and the arithmetic of the sampler are parts of their own, so that the networks alone are
converted to another precision.

Shapes: ``B`` samples, ``To`` observation steps, ``T`` action steps of the horizon, ``A`` action dimension,
``S`` denoising steps, ``E`` size of the timestep's embedding, ``G`` size of the observation condition.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.network.sampler_steps import Mix, SamplerStep, read_steps, run_steps
from trainables.diffusion_policy.network.unet import ConditionalUnet1d
from trainables.features import ACTION, FeatureType

__all__ = [
    "ACTION_CHUNK",
    "CONDITION",
    "HORIZON",
    "NEXT",
    "NOISE",
    "NOISY",
    "STEP",
    "STEP_NOISE",
    "Chunk",
    "Denoising",
    "Encoder",
    "Part",
    "Step",
    "denoising_of",
    "example_observation",
    "policy_parts",
    "step_inputs",
    "step_outputs",
]

NOISE, STEP_NOISE, STEP, CONDITION, NOISY, PREDICTED = (
    "noise", "step_noise", "step", "condition", "noisy", "predicted",
)  # fmt: skip
ACTION_CHUNK, HORIZON = "action", "horizon"
"""The results: the actions to execute, and the whole horizon, in original units."""
NEXT = "next_"
PREPARED = "prepared."
MEMORY = ("earlier", "before_that", "anchor")
"""What solvers of second order remember of earlier steps."""
_TERMS = tuple(field.name for field in fields(Mix))


@dataclass(frozen=True)
class Denoising:
    """The denoising that is exported.

    Attributes:
        sampler: Its name.
        steps: Its steps.
        clip_range: Bound of the clip of clean actions; None: no clip.
    """

    sampler: str
    steps: tuple[SamplerStep, ...]
    clip_range: float | None

    @property
    def draws_noise(self) -> bool:
        """Whether the steps need noise."""
        return any(step.draws_noise for step in self.steps)

    @property
    def memory(self) -> tuple[str, ...]:
        """What a step passes on to the next one, apart from the noisy actions."""
        mixes = [step.following for step in self.steps] + [step.anchor for step in self.steps if step.anchor]
        used = {name for name in MEMORY if any(getattr(mix, name) for mix in mixes)}
        if "before_that" in used:
            used.add("earlier")
        return tuple(name for name in MEMORY if name in used)


def step_inputs(denoising: Denoising) -> list[str]:
    """Inputs of an exported step, in their order."""
    noise = [NOISE] if denoising.draws_noise else []
    return [STEP, NOISY, CONDITION, *denoising.memory, *noise]


def step_outputs(denoising: Denoising) -> list[str]:
    """Results of an exported step, in their order; the actions are meant after the last step."""
    return [*(f"{NEXT}{name}" for name in (NOISY, *denoising.memory)), ACTION_CHUNK, HORIZON]


def denoising_of(policy: DiffusionPolicy) -> Denoising:
    """The denoising of a policy's configuration."""
    sampler = policy.config.inference_sampler
    steps = read_steps(policy.process, sampler, policy.config.inference_steps)
    return Denoising(sampler, steps, policy.process.clip_range)


@dataclass(frozen=True)
class Part:
    """A module with names for its tensors.

    Attributes:
        name: What it is, for messages.
        module: Takes the inputs and returns the outputs, in their order.
        inputs: Names and example values. The first dimension is the batch, except that of ``step``.
        outputs: Names of the results.
        has_network: Whether learned weights are in it.
    """

    name: str
    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    has_network: bool = False

    def __call__(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        """Run it on values by name, of which it takes what it needs."""
        results = self.module(*(values[name] for name in self.inputs))
        return dict(zip(self.outputs, results if isinstance(results, tuple) else (results,), strict=True))


def example_observation(policy: DiffusionPolicy, batch: int = 2, seed: int = 0) -> dict[str, Tensor]:
    """Random observations (B, To, ...) in the range of the data; images uint8."""
    generator = torch.Generator().manual_seed(seed)
    observation = {}
    for feature in policy.features.inputs:
        shape = (batch, policy.n_obs_steps, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            observation[feature.name] = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        else:
            spread = torch.rand(shape, generator=generator) * 2 - 1
            scaled = policy.normalizer.unnormalize(feature.name, spread.to(policy.device))
            observation[feature.name] = scaled.cpu()
    return observation


@torch.no_grad()
def policy_parts(policy: DiffusionPolicy, denoising: Denoising) -> dict[str, Part]:
    """The parts of a policy on a CPU, in evaluation mode, in the order in which they run.

    ``prepare`` and ``encode`` run once, ``predict`` and ``update`` at every step, ``finish`` at the end.
    """
    observation = example_observation(policy)
    prepare = Part(
        "preparation of the observations",
        _Prepare(policy),
        observation,
        tuple(f"{PREPARED}{name}" for name in observation),
    )
    prepared = prepare(observation)
    encode = Part(
        "encoder of the observations", _Encode(policy), prepared, (CONDITION,), bool(policy.features.cameras)
    )
    batch = len(next(iter(observation.values())))
    step_1 = torch.zeros(1, dtype=torch.long)

    def actions(*names: str) -> dict[str, Tensor]:
        """Example actions; one tensor under two names would be taken for one input."""
        return {name: torch.zeros(batch, policy.horizon, policy.action_dim) for name in names}

    predict = Part(
        "denoising network",
        _Predict(policy.diffusion.unet, denoising),
        {STEP: step_1, **actions(NOISY), **encode(prepared)},
        (PREDICTED,),
        True,
    )
    received = [NOISY, PREDICTED, *denoising.memory, *([NOISE] if denoising.draws_noise else [])]
    update = Part(
        f"step of the sampler {denoising.sampler}",
        _Update(denoising, received),
        {STEP: step_1, **actions(*received)},
        tuple(f"{NEXT}{name}" for name in (NOISY, *denoising.memory)),
    )
    finish = Part(
        "scaling of the actions", _Finish(policy), actions(f"{NEXT}{NOISY}"), (ACTION_CHUNK, HORIZON)
    )
    return {"prepare": prepare, "encode": encode, "predict": predict, "update": update, "finish": finish}


class Chunk(nn.Module):
    """The whole prediction of a chunk: an unrolled loop over the steps.

    Args:
        policy: In evaluation mode.
        denoising: The denoising.
    """

    numbers: Tensor

    def __init__(self, policy: DiffusionPolicy, denoising: Denoising) -> None:
        super().__init__()
        self.policy = without_unet(policy)
        self.predict = _Predict(policy.diffusion.unet, denoising)
        self.finish = _Finish(policy)
        self._denoising = denoising
        numbers = torch.arange(len(denoising.steps)).unsqueeze(1)
        self.register_buffer("numbers", numbers, persistent=False)

    def forward(
        self, observation: dict[str, Tensor], noise_BTA: Tensor, step_noise_BSTA: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Predict (B, n_action_steps, A) and (B, T, A) in original units.

        Args:
            observation: Raw values (B, To, ...) by name.
            noise_BTA: Standard normal noise to start from.
            step_noise_BSTA: Standard normal noise for every step, if the sampler draws some.
        """
        condition_BG = self.policy.condition(observation)

        def predict(noisy_BTA: Tensor, number: int) -> Tensor:
            return self.predict(self.numbers[number], noisy_BTA, condition_BG)

        noises: Sequence[Tensor] = ()
        if step_noise_BSTA is not None:
            noises = [
                step_noise_BSTA[:, number]
                for number, step in enumerate(self._denoising.steps)
                if step.draws_noise
            ]
        action_BTA = run_steps(predict, noise_BTA, self._denoising.steps, self._denoising.clip_range, noises)
        return self.finish(action_BTA)


def without_unet(policy: DiffusionPolicy) -> DiffusionPolicy:
    """The same policy without the U-Net: an archive keeps all weights of its module, used or not."""
    networks = copy.copy(policy.diffusion)
    networks._modules = {name: part for name, part in networks._modules.items() if name != "unet"}
    lean = copy.copy(policy)
    lean._modules = {**policy._modules, "diffusion": networks}
    return lean


class Encoder(nn.Module):
    """Raw observations in, the condition (B, G) out."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = without_unet(policy)

    def forward(self, observation: dict[str, Tensor]) -> Tensor:
        """Encode raw values (B, To, ...) by name."""
        return self.policy.condition(observation)


class Step(nn.Module):
    """One step of the denoising; takes `step_inputs`, returns `step_outputs`."""

    def __init__(self, parts: Mapping[str, Part], denoising: Denoising) -> None:
        super().__init__()
        self.predict, self.update, self.finish = (
            parts[name].module for name in ("predict", "update", "finish")
        )
        self._inputs = step_inputs(denoising)
        self._received = [name for name in parts["update"].inputs if name not in (STEP, NOISY, PREDICTED)]

    def forward(self, values: list[Tensor]) -> list[Tensor]:
        """Take a step."""
        known = dict(zip(self._inputs, values, strict=True))
        predicted_BTA = self.predict(known[STEP], known[NOISY], known[CONDITION])
        received = [known[name] for name in self._received]
        following = self.update(known[STEP], known[NOISY], predicted_BTA, *received)
        return [*following, *self.finish(following[0])]


class _Prepare(nn.Module):
    """Scale vectors; resize, crop and scale images. Images keep their observation steps: (B, To, C, H, W)."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *observations: Tensor) -> tuple[Tensor, ...]:
        names = [feature.name for feature in self.policy.features.inputs]
        prepared = self.policy.prepare(dict(zip(names, observations, strict=True)))
        cameras = {camera.name for camera in self.policy.features.cameras}
        return tuple(
            value.reshape(-1, self.policy.n_obs_steps, *value.shape[1:]) if name in cameras else value
            for name, value in prepared.items()
        )


class _Encode(nn.Module):
    """The condition (B, G) from scaled values."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, *prepared: Tensor) -> Tensor:
        cameras = {camera.name for camera in self.policy.features.cameras}
        names = [feature.name for feature in self.policy.features.inputs]
        values = {
            name: value.flatten(0, 1) if name in cameras else value
            for name, value in zip(names, prepared, strict=True)
        }
        return self.policy.join(values)


class _StepTable(nn.Module):
    """The embeddings of the sampler's timesteps, which are the same at every prediction."""

    table: Tensor

    def __init__(self, embed: nn.Module, denoising: Denoising) -> None:
        super().__init__()
        timesteps_S = torch.tensor([step.timestep for step in denoising.steps])
        device = next(embed.parameters()).device
        self.register_buffer("table", embed(timesteps_S.to(device)).detach(), persistent=False)

    def forward(self, steps_B: Tensor) -> Tensor:
        return self.table.index_select(0, steps_B)


class _Predict(nn.Module):
    """The U-Net at a numbered step instead of a timestep."""

    def __init__(self, unet: ConditionalUnet1d, denoising: Denoising) -> None:
        super().__init__()
        self.unet = copy.copy(unet)  # with the same weights
        table = _StepTable(unet.diffusion_step_encoder, denoising)
        self.unet._modules = {**unet._modules, "diffusion_step_encoder": table}

    def forward(self, step_1: Tensor, noisy_BTA: Tensor, condition_BG: Tensor) -> Tensor:
        steps_B = step_1.expand(noisy_BTA.shape[0])
        return self.unet(noisy_BTA, steps_B, condition_BG)


class _Update(nn.Module):
    """A step of the sampler: sums with weights that depend on the number of the step."""

    def __init__(self, denoising: Denoising, received: Sequence[str]) -> None:
        super().__init__()
        self._received = tuple(received)
        self._memory = denoising.memory
        self._clip = denoising.clip_range
        self.clean = _Mixes([step.clean for step in denoising.steps])
        self.following = _Mixes([step.following for step in denoising.steps])
        if "anchor" in self._memory:
            self.anchor = _Mixes([step.anchor or Mix() for step in denoising.steps])

    def forward(self, step_1: Tensor, *received: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self._received, received, strict=True))
        clean_BTA = self.clean(step_1, values)
        if self._clip is not None:
            clean_BTA = clean_BTA.clamp(-self._clip, self._clip)
        values["clean"] = clean_BTA
        passed_on = {NOISY: self.following(step_1, values), "earlier": clean_BTA}
        if "before_that" in self._memory:
            passed_on["before_that"] = values["earlier"]
        if "anchor" in self._memory:
            passed_on["anchor"] = self.anchor(step_1, values)
        return tuple(passed_on[name] for name in (NOISY, *self._memory))


class _Mixes(nn.Module):
    """The same sum at every step, with weights of the step; terms that no step uses are left out."""

    weights: Tensor

    def __init__(self, mixes: Sequence[Mix]) -> None:
        super().__init__()
        self.terms = [name for name in _TERMS if any(getattr(mix, name) for mix in mixes)]
        rows = [[getattr(mix, name) for name in self.terms] for mix in mixes]
        self.register_buffer("weights", torch.tensor(rows, dtype=torch.float32), persistent=False)

    def forward(self, step_1: Tensor, values: Mapping[str, Tensor]) -> Tensor:
        weights_1 = self.weights.index_select(0, step_1).unbind(1)
        total = values[self.terms[0]] * weights_1[0]
        for name, weight_1 in zip(self.terms[1:], weights_1[1:], strict=True):
            total = total + values[name] * weight_1
        return total


class _Finish(nn.Module):
    """Scale actions to original units, and cut out those to execute."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.normalizer = policy.normalizer
        self.current = policy.n_obs_steps - 1
        self.count = policy.n_action_steps

    def forward(self, action_BTA: Tensor) -> tuple[Tensor, Tensor]:
        horizon_BTA = self.normalizer.unnormalize(ACTION, action_BTA)
        return horizon_BTA[:, self.current : self.current + self.count], horizon_BTA
