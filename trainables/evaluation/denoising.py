"""The denoising of action chunks for one observation, recorded step by step.

Shapes: S chunks, T horizon, A action dimension; K timesteps, from noise to the last before the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainables.evaluation.encoding import encoded_once
from trainables.evaluation.offline import keyed_generator

__all__ = ["DenoisedPolicy", "Denoising", "record_denoising"]


class DenoisedPolicy(Protocol):
    """What is asked of a policy here."""

    @property
    def n_obs_steps(self) -> int:
        """Observation steps that the policy sees."""

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are executed."""

    def predict_horizon(
        self,
        observation: Mapping[str, Tensor],
        *,
        generator: list[torch.Generator],
        sampler: str | None = None,
        num_inference_steps: int | None = None,
        watch: Callable[[Tensor, float], None] | None = None,
    ) -> Tensor:
        """Predict (B, T, A) actions in original units from (B, To, ...) observations."""


@dataclass(frozen=True)
class Denoising:
    """How chunks came about.

    Attributes:
        noisy: (K, S, T, A) the chunks before each denoising step, in original units.
        timesteps: (K,) the timestep of each: an integer of a diffusion, a real number of a flow.
        chunks: (S, T, A) the result.
        current: Place of the current step in the horizon.
        executed: Actions from there on that are executed.
        dimensions: Names of the action's dimensions.
        demonstrated: (T, A) what was demonstrated; None if nothing was.
    """

    noisy: NDArray[np.float64]
    timesteps: tuple[float, ...]
    chunks: NDArray[np.float64]
    current: int
    executed: int
    dimensions: tuple[str, ...]
    demonstrated: NDArray[np.float64] | None = None

    @property
    def is_finite(self) -> bool:
        """Whether all of it can be drawn."""
        return bool(np.isfinite(self.noisy).all() and np.isfinite(self.chunks).all())


class _OutOfTimeError(Exception):
    """The denoising takes too long."""


def record_denoising(
    policy: DenoisedPolicy,
    observation: Mapping[str, Tensor],
    *,
    dimensions: Sequence[str],
    samples: int = 8,
    seed: int = 0,
    sampler: str | None = None,
    num_inference_steps: int | None = None,
    demonstrated: NDArray[np.floating] | None = None,
    most_s: float | None = None,
) -> Denoising | None:
    """Draw chunks for one observation and keep what they were at every step.

    Args:
        policy: In evaluation mode.
        observation: (1, To, ...), where the policy computes.
        dimensions: Names of the action's dimensions.
        samples: Chunks to draw.
        seed: Of the noise.
        sampler: None: the policy's.
        num_inference_steps: None: the policy's.
        demonstrated: (T, A) what was demonstrated.
        most_s: Seconds after which it is given up; None: never.

    Returns:
        None if the time was used up.
    """
    kept: list[tuple[float, NDArray[np.float64]]] = []
    begin_s = time.perf_counter()

    def watch(noisy_BTA: Tensor, timestep: float) -> None:
        if most_s is not None and kept and time.perf_counter() - begin_s > most_s:
            raise _OutOfTimeError
        kept.append((timestep, noisy_BTA.detach().double().cpu().numpy()))

    repeated, encoded = encoded_once(policy, observation, samples)
    try:
        chunks_STA = policy.predict_horizon(
            repeated,
            generator=[keyed_generator(seed, 0, sample) for sample in range(samples)],
            sampler=sampler,
            num_inference_steps=num_inference_steps,
            watch=watch,
            **encoded,
        )
    except _OutOfTimeError:
        return None
    return Denoising(
        noisy=np.stack([noisy for _, noisy in kept]),
        timesteps=tuple(timestep for timestep, _ in kept),
        chunks=chunks_STA.double().cpu().numpy(),
        current=policy.n_obs_steps - 1,
        executed=policy.n_action_steps,
        dimensions=tuple(dimensions),
        demonstrated=None if demonstrated is None else np.asarray(demonstrated, dtype=np.float64),
    )
