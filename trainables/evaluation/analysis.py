"""One policy beside demonstrations: errors by dimension and step, smoothness, diversity.

`trainables.evaluation.offline` asks every trial the same few questions while it trains; here one policy is
asked as it would act, with its own sampler, at more moments and with more chunks.

Shapes: B moments, S chunks drawn per moment, T horizon, F steps from the current one on, E of them executed,
A action dimension.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.windows import ACTION_IS_PAD, Windows
from trainables.evaluation.encoding import encoded_once
from trainables.evaluation.modes import clusters
from trainables.evaluation.offline import keyed_generator
from trainables.evaluation.rollout import RolloutError
from trainables.features import ACTION
from trainables.inspection import Comparison, TrainedOn, WorstMoment

__all__ = ["AnalysedPolicy", "AnalysisSettings", "Source", "compare"]

BATCH_MOMENTS = 8
WORST = 5
SAME_MODE = 0.05
"""Modes whose centres differ by less than this share of the demonstrated actions' spread are one."""
NEXT_CHUNK = 1_000_000
"""Number of the sample that is drawn for the next chunk: none of the others."""


class AnalysedPolicy(Protocol):
    """What is asked of a policy here."""

    @property
    def n_obs_steps(self) -> int:
        """Observation steps that the policy sees."""

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk that are executed."""

    def predict_horizon(
        self, observation: Mapping[str, Tensor], *, generator: list[torch.Generator]
    ) -> Tensor:
        """Predict (B, T, A) actions in original units from (B, To, ...) observations."""


@dataclass(frozen=True)
class AnalysisSettings:
    """How closely a policy is looked at.

    Attributes:
        moments: Moments at which it is compared with the demonstrations, at most.
        samples: Chunks drawn at each moment.
        seed: Of the moments' choice and of the noise.
        most_s: Seconds after which no further moments are asked for.
    """

    moments: int = 128
    samples: int = 24
    seed: int = 0
    most_s: float = 60.0


@dataclass(frozen=True)
class Source:
    """Where the demonstrations are from.

    Attributes:
        dataset: The opened dataset.
        named: How it was named.
        episodes: The episodes that are used.
        dimensions: Names of the action's dimensions.
        trained_on: Whether the policy was trained on these episodes.
        provenance: The same in words.
    """

    dataset: LeRobotDataset
    named: str
    episodes: tuple[int, ...]
    dimensions: tuple[str, ...]
    trained_on: TrainedOn
    provenance: str


def compare(
    policy: AnalysedPolicy,
    windows: Windows,
    source: Source,
    settings: AnalysisSettings,
    device: str,
    progress: Callable[[str], None],
) -> Comparison:
    """Compare a policy with demonstrations.

    Args:
        policy: In evaluation mode, with its inference setting.
        windows: Moments of the source's episodes; with ``drop_n_last_frames=0``.
        source: Where they are from.
        settings: How closely.
        device: Where the policy computes.
        progress: Told how many moments are done.

    Raises:
        RolloutError: If an action is not finite.
    """
    order = np.random.default_rng([settings.seed, len(windows)]).permutation(len(windows))
    wanted = order[: settings.moments]
    first = policy.n_obs_steps - 1
    predicted, demonstrated, valid, seams = [], [], [], []
    begin_s = time.perf_counter()
    for start in range(0, len(wanted), BATCH_MOMENTS):
        if start and time.perf_counter() - begin_s > settings.most_s:
            break
        numbers = wanted[start : start + BATCH_MOMENTS]
        batch = windows.gather(numbers)
        drawn_BSTA = _draw(policy, batch, numbers, range(settings.samples), settings.seed, device)
        predicted.append(drawn_BSTA[:, :, first:])
        demonstrated.append(batch[ACTION][:, first:].double())
        valid.append(~batch[ACTION_IS_PAD][:, first:])
        seams.append(_seams(policy, windows, numbers, drawn_BSTA[:, 0, first:], settings.seed, device))
        progress(f"comparing with demonstrations: {start + len(numbers)} of {len(wanted)} moments")
    measured = _Measured(
        torch.cat(predicted), torch.cat(demonstrated), torch.cat(valid), policy.n_action_steps
    )
    rows = windows.rows(wanted[: len(measured.predicted)])
    seam = torch.cat(seams)
    return measured.summary(source, rows, len(wanted), seam, settings.seed)


def _draw(
    policy: AnalysedPolicy,
    batch: Mapping[str, Tensor],
    numbers: np.ndarray,
    samples: range,
    seed: int,
    device: str,
) -> Tensor:
    """Draw chunks (B, S, T, A), float64 on the CPU; a chunk depends on its moment and its number alone."""
    seen = {name: value.to(device) for name, value in batch.items() if name not in (ACTION, ACTION_IS_PAD)}
    observation, encoded = encoded_once(policy, seen, len(samples))
    generators = [keyed_generator(seed, int(number), sample) for number in numbers for sample in samples]
    drawn_NTA = policy.predict_horizon(observation, generator=generators, **encoded)
    if not torch.isfinite(drawn_NTA).all():
        raise RolloutError("the policy's actions are not finite: its training has diverged.")
    return drawn_NTA.double().cpu().reshape(len(numbers), len(samples), *drawn_NTA.shape[1:])


def _seams(
    policy: AnalysedPolicy,
    windows: Windows,
    numbers: np.ndarray,
    chunk_BFA: Tensor,
    seed: int,
    device: str,
) -> Tensor:
    """Distance from the last executed action of a chunk to the first of the next one, where there is one."""
    steps = policy.n_action_steps
    inside = windows.reaches(numbers, steps)
    if not inside.any():
        return torch.empty(0, dtype=torch.float64)
    later = numbers[inside] + steps
    batch = windows.gather(later)
    next_BTA = _draw(policy, batch, later, range(NEXT_CHUNK, NEXT_CHUNK + 1), seed, device)[:, 0]
    last_BA = chunk_BFA[torch.from_numpy(inside), steps - 1]
    return (next_BTA[:, policy.n_obs_steps - 1] - last_BA).norm(dim=-1)


@dataclass
class _Measured:
    """Chunks drawn at all moments (B, S, F, A), what was demonstrated (B, F, A), and where it was (B, F)."""

    predicted: Tensor
    demonstrated: Tensor
    valid: Tensor
    executed: int

    def summary(self, source: Source, rows: np.ndarray, wanted: int, seam: Tensor, seed: int) -> Comparison:
        difference_BSFA = self.predicted - self.demonstrated[:, None]
        squared_BFA, absolute_BFA = difference_BSFA.square().mean(1), difference_BSFA.abs().mean(1)
        executed = slice(0, self.executed)
        valid_BE = self.valid[:, executed]
        spread_A = self.demonstrated[:, executed][valid_BE].std(dim=0, correction=0)
        mse_A = squared_BFA[:, executed][valid_BE].mean(0)
        varies_A = spread_A > 0
        moment_B = _masked_mean(squared_BFA[:, executed].mean(-1), valid_BE)
        samples_BS = torch.stack(
            [
                _masked_mean(one_BFA.square().mean(-1)[:, executed], valid_BE)
                for one_BFA in difference_BSFA.unbind(1)
            ],
            dim=1,
        )
        std_BFA = self.predicted.std(dim=1) if self.predicted.shape[1] > 1 else None
        return Comparison(
            dataset=source.named,
            episodes=source.episodes,
            trained_on=source.trained_on,
            provenance=source.provenance,
            moments=len(rows),
            wanted_moments=wanted,
            samples=self.predicted.shape[1],
            dimensions=source.dimensions,
            executed_steps=self.executed,
            mse=float(mse_A.mean()),
            mae=float(absolute_BFA[:, executed][valid_BE].mean()),
            relative_mse=_relative(mse_A[varies_A], spread_A[varies_A]),
            mse_nearest=float(samples_BS.min(dim=1).values.mean()),
            mse_by_dimension=_floats(mse_A),
            mae_by_dimension=_floats(absolute_BFA[:, executed][valid_BE].mean(0)),
            action_std_by_dimension=_floats(spread_A),
            mse_by_step=self._by_step(squared_BFA),
            mae_by_step=self._by_step(absolute_BFA),
            std=0.0 if std_BFA is None else float(std_BFA[:, executed].mean()),
            std_by_step=() if std_BFA is None else tuple(_floats(row) for row in std_BFA.mean(0)),
            modes=self._modes(spread_A, seed),
            jerk=_jerk(self.predicted),
            demonstrated_jerk=_jerk(self.demonstrated[self.valid.all(dim=1)]),
            step=_step(self.predicted[:, :, executed]),
            seam=float(seam.mean()) if len(seam) else None,
            demonstrated_step=_step(self.demonstrated[self.valid.all(dim=1)]),
            worst=_worst(moment_B, rows, source.dataset),
        )

    def _by_step(self, error_BFA: Tensor) -> tuple[float, ...]:
        """Mean error of each step ahead that some episode reaches."""
        reached = int(self.valid.any(dim=0).sum())
        return tuple(float(error_BFA[:, step][self.valid[:, step]].mean()) for step in range(reached))

    def _modes(self, spread_A: Tensor, seed: int) -> dict[int, int]:
        """How many moments have so many modes: clusters of the executed actions, in units of the spread."""
        varies_A = spread_A > 0
        if not bool(varies_A.any()):
            return {1: len(self.predicted)}
        scaled = (self.predicted[:, :, : self.executed, varies_A] / spread_A[varies_A]).flatten(2)
        counts = Counter(
            int(clusters(moment_SD, nearest=SAME_MODE, seed=seed).max()) + 1 for moment_SD in scaled.numpy()
        )
        return dict(sorted(counts.items()))


def _masked_mean(values_BE: Tensor, valid_BE: Tensor) -> Tensor:
    return (values_BE * valid_BE).sum(dim=1) / valid_BE.sum(dim=1).clamp(min=1)


def _relative(mse_A: Tensor, spread_A: Tensor) -> float | None:
    return float((mse_A / spread_A.square()).mean()) if len(mse_A) else None


def _jerk(actions: Tensor) -> float | None:
    """Mean norm of the third difference of (..., F, A); None if there is none."""
    if actions.shape[-2] < 4 or not actions.numel():
        return None
    return float(actions.diff(n=3, dim=-2).norm(dim=-1).mean())


def _step(actions: Tensor) -> float | None:
    if actions.shape[-2] < 2 or not actions.numel():
        return None
    return float(actions.diff(dim=-2).norm(dim=-1).mean())


def _worst(moment_B: Tensor, rows: np.ndarray, dataset: LeRobotDataset) -> tuple[WorstMoment, ...]:
    found = []
    for place in moment_B.argsort(descending=True)[:WORST].tolist():
        episode = dataset.episode_of(int(rows[place]))
        found.append(WorstMoment(episode.index, int(rows[place]) - episode.start, float(moment_B[place])))
    return tuple(found)


def _floats(values_A: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values_A)
