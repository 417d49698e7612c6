"""A policy that predicts what its plain loop predicts, sooner.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.acceleration.backends import (
    DTYPES,
    Backend,
    Precision,
    StepNetwork,
    UnavailableError,
)
from trainables.diffusion_policy.acceleration.cuda_graph import GraphedChunk
from trainables.diffusion_policy.acceleration.modulations import Modulations, StepTable
from trainables.diffusion_policy.acceleration.networks import make_network
from trainables.diffusion_policy.network.noise import Generators, check_skipped, randn
from trainables.diffusion_policy.network.policy import DiffusionPolicy, Values
from trainables.diffusion_policy.network.sampler_steps import run_steps
from trainables.features import ACTION, FeatureType, PolicyFeatures

__all__ = ["AcceleratedPolicy", "Acceleration", "accelerate"]

WARM_UP = 3
LARGEST_DIFFERENCE = {"fp32": 1e-4, "bf16": 0.1, "fp16": 0.05}
"""Of normalised actions, whose range is mostly [-1, 1]: above this a backend is wrong, not rounded."""


@dataclass(frozen=True)
class Acceleration:
    """What computes the chunks of a policy.

    Attributes:
        backend: One of ``BACKENDS``.
        precision: Of the U-Net's weights and activations; ``plain`` is always fp32.
        why: Why this backend, and why another was not used.
        difference: The largest difference to the plain loop when it was tried, of normalised actions.
        warm_up_s: How long it took to make and to try it.
    """

    backend: Backend
    precision: Precision
    why: str
    difference: float
    warm_up_s: float


class AcceleratedPolicy:
    """Predicts with constants instead of schedulers; made by :func:`accelerate`.

    It has the properties of a policy that rollouts and a controller need. The weights must not change.
    """

    training = False

    def __init__(self, policy: DiffusionPolicy, backend: Backend, precision: Precision) -> None:
        self.policy = policy
        self.how = Acceleration(backend, precision, "as asked", 0.0, 0.0)
        self._plain = backend == "plain"
        self._graphed = backend == "graph"
        self._precision: Precision = precision
        if not self._plain:
            self._network: StepNetwork = make_network(
                policy, "steps" if self._graphed else backend, precision
            )
            self._modulations = Modulations(policy)
        self._tables: dict[tuple[str, int, int], StepTable] = {}
        self._graphs: dict[tuple[object, ...], GraphedChunk] = {}

    @property
    def features(self) -> PolicyFeatures:
        """What the policy sees and does."""
        return self.policy.features

    @property
    def n_obs_steps(self) -> int:
        """Observation steps that the policy sees."""
        return self.policy.n_obs_steps

    @property
    def horizon(self) -> int:
        """Action steps that are predicted at once."""
        return self.policy.horizon

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk."""
        return self.policy.n_action_steps

    @property
    def available_actions(self) -> int:
        """Actions of a chunk that lie in the future."""
        return self.policy.available_actions

    @property
    def warm_start_steps(self) -> int:
        """First denoising steps that the rest of the last chunk replaces in an episode."""
        return self.policy.warm_start_steps

    @property
    def action_dim(self) -> int:
        """Numbers per action."""
        return self.policy.action_dim

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.policy.device

    def predict_action(
        self,
        observation: Values,
        noise: Tensor | np.ndarray | None = None,
        generator: Generators = None,
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        n_action_steps: int | None = None,
        *,
        known: Tensor | None = None,
        kept: Tensor | None = None,
        previous: Tensor | None = None,
        skipped_steps: int = 0,
    ) -> Tensor:
        """Predict the next actions to execute; arguments as for `DiffusionPolicy.predict_action`.

        A chunk that continues known actions is predicted by the plain loop.
        """
        if known is not None:
            return self.policy.predict_action(
                observation,
                noise,
                generator,
                sampler,
                num_inference_steps,
                n_action_steps,
                known,
                kept,
                previous=previous,
                skipped_steps=skipped_steps,
            )
        executed = self.policy.executed(n_action_steps)
        horizon_BTA = self.predict_horizon(
            observation,
            noise,
            generator,
            sampler,
            num_inference_steps,
            previous=self.policy.with_past(previous),
            skipped_steps=skipped_steps,
        )
        return horizon_BTA[:, executed]

    @torch.no_grad()
    def predict_horizon(
        self,
        observation: Values,
        noise: Tensor | np.ndarray | None = None,
        generator: Generators = None,
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        *,
        previous: Tensor | None = None,
        skipped_steps: int = 0,
    ) -> Tensor:
        """Predict the whole horizon; arguments and errors as for `DiffusionPolicy.predict_horizon`.

        Several robots are a batch with a generator each: a robot's actions do not depend on the others.

        Args:
            observation: Raw values under LeRobot's names, (B, To, ...).
            noise: (B, T, A) standard normal to start from; drawn if None.
            generator: One, or one per sample.
            sampler: One of ``SAMPLERS``; None: the configuration's.
            num_inference_steps: Denoising steps of a whole denoising; None: the configuration's.
            previous: The last horizon (B, T, A), in original units and shifted to the present
                (`shift_chunk`): a warm start.
            skipped_steps: With ``previous``, the denoising steps that it takes the place of.

        Raises:
            ConfigError: If ``skipped_steps`` leaves no step, or comes without ``previous``.
        """
        config = self.policy.config
        sampler = config.inference_sampler if sampler is None else sampler
        count = num_inference_steps or config.inference_steps
        check_skipped(previous, skipped_steps, count)
        if self._plain:
            return self.policy.predict_horizon(
                observation,
                noise,
                generator,
                sampler,
                count,
                previous=previous,
                skipped_steps=skipped_steps,
            )
        self.policy.check_pixels(observation)
        table = self._table(sampler, count, skipped_steps)
        shape = (self._batch(observation), self.horizon, self.action_dim)
        if noise is None:
            noise = randn(shape, generator, self.device)
        noise_BTA = self.policy.starting_noise(noise, shape)
        draws = [randn(shape, generator, self.device) for step in table.steps if step.draws_noise]
        if previous is not None:
            noise_BTA = self._noised(previous, noise_BTA, table.steps[0].timestep)
        if self._graphed:
            return self._run_graph((sampler, count, skipped_steps), table, observation, noise_BTA, draws)
        return self._run(table, observation, noise_BTA, draws)

    def _run(self, table: StepTable, observation: Values, noise_BTA: Tensor, draws: list[Tensor]) -> Tensor:
        with self.policy.evaluation():
            films_BF = self._modulations.of(self._condition(observation))

        def predict(noisy_BTA: Tensor, number: int) -> Tensor:
            return self._network(noisy_BTA, films_BF + table.step_films[number])

        action_BTA = run_steps(predict, noise_BTA, table.steps, self.policy.process.clip_range, draws)
        return self.policy.normalizer.unnormalize(ACTION, action_BTA)

    def _condition(self, observation: Values) -> Tensor:
        if self._precision == "fp32" or not self.features.cameras:
            return self.policy.condition(observation)
        with torch.autocast(self.device.type, DTYPES[self._precision]):
            return self.policy.condition(observation)

    def _run_graph(
        self,
        key: tuple[object, ...],
        table: StepTable,
        observation: Values,
        noise_BTA: Tensor,
        draws: list[Tensor],
    ) -> Tensor:
        """Replay the graph of this denoising, batch and kind of values; capture it the first time."""
        named = {f.name: torch.as_tensor(observation[f.name]) for f in self.features.inputs}
        key += tuple((tuple(value.shape), value.dtype) for value in named.values())
        if key not in self._graphs:

            def chunk(inputs: Mapping[str, Tensor], noise: Tensor, step_noises: list[Tensor]) -> Tensor:
                return self._run(table, inputs, noise, step_noises)

            self._graphs[key] = GraphedChunk(chunk, named, noise_BTA, draws)
        return self._graphs[key](named, noise_BTA, draws)

    def _noised(self, previous_BTA: Tensor, noise_BTA: Tensor, timestep: float) -> Tensor:
        clean_BTA = self.policy.scaled(previous_BTA, tuple(noise_BTA.shape))
        timesteps_B = torch.full((len(clean_BTA),), timestep, device=self.device)
        return self.policy.process.add_noise(clean_BTA, noise_BTA, timesteps_B)

    def _table(self, sampler: str, count: int, first: int) -> StepTable:
        key = (sampler, count, first)
        if key not in self._tables:
            self._tables[key] = self._modulations.table(sampler, count, first)
        return self._tables[key]

    def _batch(self, observation: Values) -> int:
        name = self.features.inputs[0].name
        if name not in observation:
            raise KeyError(f"the batch lacks {name!r}; it has {', '.join(sorted(observation))}")
        return len(observation[name])


def accelerate(
    policy: DiffusionPolicy,
    backend: Backend | Literal["auto"] = "auto",
    precision: Precision = "fp32",
    batch: int = 1,
) -> AcceleratedPolicy:
    """Make a policy that predicts what ``policy`` predicts, sooner.

    Every backend is tried on ``batch`` random observations, which warms it up, and compared with the plain
    loop. A backend that cannot be used here, or whose actions differ, is replaced by the next one.

    Args:
        policy: In evaluation mode. Its weights must not change afterwards.
        backend: One of ``BACKENDS``; ``auto``: a CUDA graph on a GPU, and on a CPU the faster one of ONNX
            Runtime and the loop over constants.
        precision: Of the U-Net's weights and activations. Lower ones change the actions slightly.
        batch: Samples per prediction that will be asked for; others work too, without a warm-up.

    Returns:
        The policy; its ``how`` says what was chosen, and why.
    """
    preferred: list[Backend] = [backend] if backend != "auto" else []
    if backend == "auto":
        preferred = ["graph"] if policy.device.type == "cuda" else ["onnx"]
    order: list[Backend] = [*preferred, *(("steps",) if "steps" not in preferred else ()), "plain"]
    reasons: list[str] = []
    tried: list[tuple[float, AcceleratedPolicy]] = []
    for one in dict.fromkeys(order):
        if one == "plain" and tried:
            break
        start_s = time.perf_counter()
        try:
            made = AcceleratedPolicy(policy, one, precision if one != "plain" else "fp32")
            difference, chunk_s = _try(made, batch)
        except UnavailableError as error:
            reasons.append(f"not {one}: {error}")
            continue
        if not difference <= LARGEST_DIFFERENCE[precision]:
            reasons.append(f"not {one}: its actions differ by {difference:.2g} from the plain loop's")
            continue
        words = "; ".join(reasons)
        made.how = Acceleration(
            one, made.how.precision, words or "as asked", difference, time.perf_counter() - start_s
        )
        tried.append((chunk_s, made))
        if backend != "auto" or one == "graph":
            break
    return _fastest(tried) if backend == "auto" else tried[0][1]


def _fastest(tried: list[tuple[float, AcceleratedPolicy]]) -> AcceleratedPolicy:
    best = min(tried, key=lambda one: one[0])[1]
    times = ", ".join(f"{one.how.backend} {1e3 * chunk_s:.3g} ms" for chunk_s, one in tried)
    missing = tried[-1][1].how.why
    why = f"the fastest here ({times})" + ("" if missing == "as asked" else f"; {missing}")
    how = best.how
    best.how = Acceleration(how.backend, how.precision, why, how.difference, how.warm_up_s)
    return best


def _try(made: AcceleratedPolicy, batch: int) -> tuple[float, float]:
    """Predict some chunks; the largest difference to the plain loop, and the time of the fastest chunk."""
    policy = made.policy
    observation = _any_observation(policy, batch)
    noise = torch.randn(batch, policy.horizon, policy.action_dim, generator=torch.Generator().manual_seed(0))

    def chunk(predict: Callable[..., Tensor]) -> Tensor:
        generators = [torch.Generator().manual_seed(number) for number in range(batch)]
        return policy.normalizer.normalize(ACTION, predict(observation, noise, generators).cpu())

    expected = chunk(policy.predict_horizon)
    times_s = []
    for _ in range(WARM_UP):
        start_s = time.perf_counter()
        found = chunk(made.predict_horizon)
        times_s.append(time.perf_counter() - start_s)
    return float((found - expected).abs().max()), min(times_s)


def _any_observation(policy: DiffusionPolicy, batch: int) -> dict[str, Tensor]:
    """Random observations (B, To, ...) near the mean of the training's data."""
    rng = np.random.default_rng(0)
    values = {}
    for feature in policy.features.inputs:
        shape = (batch, policy.n_obs_steps, *feature.shape)
        if feature.type is FeatureType.VISUAL:
            value = rng.integers(256, size=shape, dtype=np.uint8)
        else:
            known = policy.statistics().get(feature.name, {})
            low, high = (np.asarray(known.get(name, default)) for name, default in (("min", -1), ("max", 1)))
            value = (low + (high - low) * rng.random(shape)).astype(np.float32)
        values[feature.name] = torch.from_numpy(value).to(policy.device)
    return values
