"""Held-out action error: the same measurement for every trial.

The denoising loss cannot compare trials, since it depends on the noise schedule, the prediction type and the
horizon. Here every policy sees the same held-out moments, denoises with one fixed sampler and fixed noise,
and is evaluated on the same few actions from that moment on, in the dataset's own units.

Shapes: B windows, T horizon, W compared steps, S samples per window, A action dimension.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.dataset.windows import Windows
from trainables.evaluation.encoding import encoded_once
from trainables.features import ACTION

__all__ = [
    "OfflineSettings",
    "SamplingPolicy",
    "WindowErrors",
    "action_error",
    "choose_windows",
    "chunk_latency",
    "keyed_generator",
    "window_errors",
]

BATCH = 64
"""Windows that are denoised at once: fixed, so that the numbers do not depend on anything else."""
LATENCY_REPEATS = 3


class SamplingPolicy(Protocol):
    """What the measurement needs from a policy."""

    @property
    def n_obs_steps(self) -> int:
        """Observation steps that the policy sees."""

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk."""

    def predict_horizon(
        self,
        observation: Mapping[str, Tensor],
        *,
        generator: list[torch.Generator],
        sampler: str | None = None,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        """Predict (B, T, A) actions in original units from (B, To, ...) observations."""

    def predict_action(
        self, observation: Mapping[str, Tensor], *, generator: list[torch.Generator]
    ) -> Tensor:
        """Predict a (B, n_action_steps, A) chunk in original units, as on the robot."""


@dataclass(frozen=True)
class OfflineSettings:
    """Settings of the measurement of the held-out error.

    Attributes:
        windows: The largest number of held-out windows to use.
        window_steps: Actions compared per window, from the current step on.
        samples: Chunks drawn per window.
        sampler: Sampler of every trial.
        num_inference_steps: Denoising steps of every trial.
        seed: Seed of the windows' choice and of the noise.
    """

    windows: int
    window_steps: int
    samples: int
    sampler: str
    num_inference_steps: int
    seed: int


def choose_windows(available: int, settings: OfflineSettings) -> np.ndarray:
    """Sample numbers of the windows to use: the same for every trial on the same split."""
    order = np.random.default_rng([settings.seed, available]).permutation(available)
    return np.sort(order[: settings.windows])


def action_error(
    policy: SamplingPolicy,
    windows: Windows,
    settings: OfflineSettings,
    device: str,
    progress: Callable[[], None] | None = None,
) -> dict[str, float]:
    """Measure the held-out action error, the spread of the samples and their smoothness.

    Args:
        policy: The policy, in evaluation mode.
        windows: The held-out windows; they must drop the last ``window_steps - 1`` frames of each episode, so
            that every trial is measured at the same moments.
        settings: Settings of the measurement.
        device: The policy's device.
        progress: Called after every batch.

    Returns:
        ``eval/action_mse`` and ``eval/action_mae`` (means over windows, samples, steps and dimensions,
        original units), ``eval/action_std`` (spread over samples; only with two or more) and ``eval/jerk``
        (mean norm of the third difference per step; only for predictions of four steps or more).
    """
    chosen = choose_windows(len(windows), settings)
    errors = window_errors(policy, windows, chosen, settings, device, progress)
    measured = {
        "eval/action_mse": errors.squared,
        "eval/action_mae": errors.absolute,
        "eval/action_std": errors.spread,
        "eval/jerk": errors.jerk,
    }
    return {name: float(values.double().mean()) for name, values in measured.items() if len(values)}


@dataclass(frozen=True)
class WindowErrors:
    """What was measured at each of B moments, (B,) each; empty if it cannot be measured.

    Attributes:
        squared: Mean squared error over samples, steps and dimensions.
        absolute: Mean absolute error.
        spread: Standard deviation over the samples.
        jerk: Mean norm of the third difference per step.
    """

    squared: Tensor
    absolute: Tensor
    spread: Tensor
    jerk: Tensor


def window_errors(
    policy: SamplingPolicy,
    windows: Windows,
    chosen: np.ndarray,
    settings: OfflineSettings,
    device: str,
    progress: Callable[[], None] | None = None,
) -> WindowErrors:
    """Measure the values that :func:`action_error` averages, for each of the chosen windows (B,)."""
    squared, absolute, spread, jerk = [], [], [], []
    for start in range(0, len(chosen), BATCH):
        numbers = chosen[start : start + BATCH]
        batch = {name: value.to(device) for name, value in windows.gather(numbers).items()}
        target_B1WA = batch.pop(ACTION)[:, None, _window(policy, settings)]
        predicted_BSTA = _draw(policy, batch, numbers, settings)
        window_BSWA = predicted_BSTA[:, :, _window(policy, settings)].float()
        difference = window_BSWA - target_B1WA
        squared.append(difference.square().mean(dim=(1, 2, 3)).cpu())
        absolute.append(difference.abs().mean(dim=(1, 2, 3)).cpu())
        if settings.samples > 1:
            spread.append(window_BSWA.std(dim=1).mean(dim=(1, 2)).cpu())
        if predicted_BSTA.shape[2] > 3:
            jerk.append(predicted_BSTA.float().diff(n=3, dim=2).norm(dim=-1).mean(dim=(1, 2)).cpu())
        if progress is not None:
            progress()
    parts = (torch.cat(values) if values else torch.empty(0) for values in (squared, absolute, spread, jerk))
    return WindowErrors(*parts)


def chunk_latency(policy: SamplingPolicy, windows: Windows, device: str) -> dict[str, float]:
    """Time one action chunk at batch size 1, with the policy's own sampler, as on the robot.

    Returns:
        ``eval/chunk_latency_ms`` (median) and ``eval/action_rate_hz``, the actions per second it allows.
    """
    batch = {name: value.to(device) for name, value in windows.gather(np.array([0])).items()}
    seconds = []
    for repeat in range(LATENCY_REPEATS + 1):
        generator = [keyed_generator(0, repeat, 0)]
        start_s = time.perf_counter()
        # The copy back waits for the device, as sending the actions to the robot does.
        policy.predict_action(batch, generator=generator).cpu()
        seconds.append(time.perf_counter() - start_s)
    latency_s = statistics.median(seconds[1:])
    return {
        "eval/chunk_latency_ms": latency_s * 1e3,
        "eval/action_rate_hz": policy.n_action_steps / latency_s,
    }


def _window(policy: SamplingPolicy, settings: OfflineSettings) -> slice:
    current = policy.n_obs_steps - 1
    return slice(current, current + settings.window_steps)


def _draw(
    policy: SamplingPolicy, batch: Mapping[str, Tensor], numbers: np.ndarray, settings: OfflineSettings
) -> Tensor:
    observation, encoded = encoded_once(policy, batch)
    samples = []
    for sample in range(settings.samples):
        generators = [keyed_generator(settings.seed, int(number), sample) for number in numbers]
        samples.append(
            policy.predict_horizon(
                observation,
                generator=generators,
                sampler=settings.sampler,
                num_inference_steps=settings.num_inference_steps,
                **encoded,
            )
        )
    return torch.stack(samples, dim=1)


def keyed_generator(seed: int, number: int, sample: int) -> torch.Generator:
    """The generator of a sample at a window: its noise depends on these numbers alone."""
    state = np.random.SeedSequence([seed, number, sample]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))
