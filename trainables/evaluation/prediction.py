"""The chunks of the episodes that run, predicted together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch

from trainables.deployment.control.controller import KeepsEncodings
from trainables.evaluation.running import Conduct, RolloutPolicy, RunningEpisode, observed
from trainables.features import PolicyFeatures
from trainables.interface import TrainableError

__all__ = ["ENCODED_BATCH", "RolloutError", "inference_batch", "predict_chunks", "shared_batches"]

CPU_BATCH = 32
GPU_BATCH = 64
"""Rows of an inference batch. Constants, because the last bits of a matrix product may depend on the number
of rows, and contacts in the simulator turn the last bits into another episode. A small policy takes hardly
longer for 32 rows than for 8 on one core, and on a GPU dozens of rows cost what one does."""

ENCODED_BATCH = 4
"""Rows whose pictures a CPU encodes at once. Each picture costs it nearly the same, also in a row without an
episode: those of 4 rows take a fifth longer per picture than those of 32 (ResNet-18, two observation steps,
two cores), so the pictures of one episode take a sixth of the time. A constant for the same reason."""


class RolloutError(TrainableError):
    """A policy gave an action that no simulator can execute."""

    reason = "diverged"


def inference_batch(device: torch.device | str) -> int:
    """Rows of an inference batch on ``device``: the best number of parallel environments, or a multiple."""
    return CPU_BATCH if torch.device(device).type == "cpu" else GPU_BATCH


def shared_batches(active: Sequence[RunningEpisode], size: int) -> list[dict[int, RunningEpisode]]:
    """Give every episode the row ``index % size`` of a batch, in as few batches as that allows."""
    batches: list[dict[int, RunningEpisode]] = []
    for episode in active:
        row = episode.index % size
        free = next((batch for batch in batches if row not in batch), None)
        if free is None:
            free = {}
            batches.append(free)
        free[row] = episode
    return batches


def predict_chunks(
    policy: RolloutPolicy, rows: Mapping[int, RunningEpisode], keys: tuple[int, int], device: torch.device
) -> np.ndarray:
    """Predict a chunk per row, (B, N, T, A) with N samples of each.

    The result of a row without an episode is to be discarded.

    Raises:
        RolloutError: If an action is not finite.
        SimulatorError: If the environment does not give what the policy needs.
    """
    size = inference_batch(device)
    filler = next(iter(rows.values()))
    episodes = [rows.get(row, filler) for row in range(size)]
    options = _options(rows, size, filler.conduct)
    if device.type == "cpu" and policy.features.cameras and isinstance(policy, KeepsEncodings):
        observation: dict[str, torch.Tensor] = {}
        options["condition"] = _condition(policy, policy.features, rows, size)
    else:
        observation = observed(policy.features, episodes, device)
    samples = 1 if filler.conduct is None else filler.conduct.settings.samples
    chunks = []
    for sample in range(samples):
        generators = [_noise_generator(keys, episode, sample) for episode in episodes]
        with torch.inference_mode():
            predicted_BTA = cast("Any", policy).predict_action(observation, generator=generators, **options)
        chunks.append(predicted_BTA.float().cpu().numpy())
    chunks_BNTA = np.stack(chunks, axis=1)
    for row, episode in rows.items():
        if not np.isfinite(chunks_BNTA[row]).all():
            raise RolloutError(
                f"rollout: the policy's actions at step {episode.steps} of episode {episode.index} are not "
                "finite. The training has diverged: lower optimizer.lr, or set optimizer.grad_clip_norm."
            )
    return chunks_BNTA


def _condition(
    policy: KeepsEncodings, features: PolicyFeatures, rows: Mapping[int, RunningEpisode], size: int
) -> torch.Tensor:
    """The observations that have an episode, encoded (B, G); the other rows are 0."""
    encoded: dict[int, torch.Tensor] = {}
    for few in shared_batches(list(rows.values()), ENCODED_BATCH):
        filler = next(iter(few.values()))
        episodes = [few.get(row, filler) for row in range(ENCODED_BATCH)]
        with torch.inference_mode():
            encoded_BG = policy.encode(observed(features, episodes, torch.device("cpu"))).flatten(1)
        encoded |= {episode.index: encoded_BG[row] for row, episode in few.items()}
    condition_BG = torch.zeros(size, len(next(iter(encoded.values()))))
    for row, episode in rows.items():
        condition_BG[row] = encoded[episode.index]
    return condition_BG


def _options(rows: Mapping[int, RunningEpisode], size: int, conduct: Conduct | None) -> dict[str, Any]:
    """What a prediction is given under control: how many actions, and which ones it must continue."""
    if conduct is None:
        return {}
    requests = {row: episode.request() for row, episode in rows.items()}
    options: dict[str, Any] = {"n_action_steps": conduct.available}
    if next(iter(rows.values())).begins_warm:
        options |= conduct.warm([rows.get(row) for row in range(size)])
    given = next((request.known for request in requests.values() if request.known is not None), None)
    if given is not None:
        known_BKA = np.zeros((size, *given.shape), dtype=np.float32)
        kept_BK = np.zeros((size, len(given)), dtype=np.float32)
        for row, request in requests.items():
            if request.known is not None and request.kept is not None:
                known_BKA[row], kept_BK[row] = request.known, request.kept
        options |= {"known": torch.from_numpy(known_BKA), "kept": torch.from_numpy(kept_BK)}
    return options


def _noise_generator(keys: tuple[int, int], episode: RunningEpisode, sample: int = 0) -> torch.Generator:
    """Generator of (seed, episode, step) and, above 0, the number of the run and of the sample.

    It is on the CPU, so that every device draws the same noise.
    """
    seed, run = keys
    numbers = [seed, episode.index, episode.steps, *([run] if run or sample else [])]
    numbers += [sample] if sample else []
    key = np.random.SeedSequence(numbers).generate_state(2, np.uint32)
    return torch.Generator().manual_seed(int(key[0]) << 31 | int(key[1]) >> 1)
