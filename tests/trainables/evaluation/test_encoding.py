"""Observations that are encoded once, however many chunks are drawn for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reach_simulator import Recorder
from small_policy import generators, small_batch, small_policy

from trainables.dataset.windows import ACTION_IS_PAD
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.evaluation.analysis import AnalysisSettings, _draw
from trainables.evaluation.denoising import record_denoising
from trainables.evaluation.encoding import encoded_once
from trainables.evaluation.offline import OfflineSettings, window_errors
from trainables.features import ACTION


@pytest.fixture
def policy() -> DiffusionPolicy:
    return small_policy(cameras=1).eval()


@pytest.fixture
def encoded(policy: DiffusionPolicy) -> list[int]:
    """The pictures of each call of the encoder."""
    pictures: list[int] = []
    (encoder,) = policy.diffusion.encoders
    encoder.register_forward_pre_hook(lambda _, inputs: pictures.append(len(inputs[0])))
    return pictures


def observation(policy: DiffusionPolicy, size: int) -> dict[str, torch.Tensor]:
    batch = small_batch(policy, size)
    return {feature.name: batch[feature.name] for feature in policy.features.inputs}


class Moments:
    """Windows of random observations."""

    def __init__(self, policy: DiffusionPolicy, count: int) -> None:
        self._batch = small_batch(policy, count)

    def __len__(self) -> int:
        return len(self._batch[ACTION])

    def gather(self, numbers: np.ndarray) -> dict[str, torch.Tensor]:
        return {name: value[numbers] for name, value in self._batch.items() if name != ACTION_IS_PAD}


def test_one_chunk_each_has_the_bits_of_the_whole_policy(policy: DiffusionPolicy, encoded: list[int]) -> None:
    batch = observation(policy, 3)
    seen, options = encoded_once(policy, batch)
    assert encoded == [3 * policy.n_obs_steps]
    apart = policy.predict_horizon(seen, generator=generators(1, 2, 3), **options)
    assert len(encoded) == 1
    assert torch.equal(apart, policy.predict_horizon(batch, generator=generators(1, 2, 3)))


def test_several_chunks_of_an_observation_follow_each_other(
    policy: DiffusionPolicy, encoded: list[int]
) -> None:
    batch = observation(policy, 2)
    seen, options = encoded_once(policy, batch, samples=3)
    drawn = policy.predict_horizon(seen, generator=generators(*range(6)), **options)
    assert encoded == [2 * policy.n_obs_steps]
    for row in range(6):
        one = {name: value[row // 3][None] for name, value in batch.items()}
        alone = policy.predict_horizon(one, generator=generators(row))
        torch.testing.assert_close(drawn[row], alone[0], rtol=1e-4, atol=1e-3)


def test_a_policy_that_cannot_encode_apart_is_given_the_observations_themselves() -> None:
    seen, options = encoded_once(Recorder(), {"observation.state": torch.tensor([[1.0], [2.0]])}, samples=2)
    assert options == {}
    assert seen["observation.state"].tolist() == [[1.0], [1.0], [2.0], [2.0]]


def test_the_heldout_error_encodes_each_window_once(policy: DiffusionPolicy, encoded: list[int]) -> None:
    settings = OfflineSettings(
        windows=5, window_steps=4, samples=3, sampler="DDIM", num_inference_steps=2, seed=0
    )
    windows: Any = Moments(policy, 5)
    errors = window_errors(policy, windows, np.arange(5), settings, "cpu")
    assert encoded == [5 * policy.n_obs_steps]
    assert (errors.spread > 0).all()


def test_a_comparison_with_demonstrations_encodes_each_moment_once(
    policy: DiffusionPolicy, encoded: list[int]
) -> None:
    moments = Moments(policy, 4).gather(np.arange(4))
    drawn = _draw(policy, moments, np.arange(4), range(AnalysisSettings().samples), 0, "cpu")
    assert encoded == [4 * policy.n_obs_steps]
    assert drawn.shape[:2] == (4, AnalysisSettings().samples)


def test_a_denoising_encodes_its_observation_once(policy: DiffusionPolicy, encoded: list[int]) -> None:
    denoising = record_denoising(policy, observation(policy, 1), dimensions=["x", "y"], samples=6)
    assert denoising is not None
    assert len(denoising.chunks) == 6
    assert encoded == [policy.n_obs_steps]
