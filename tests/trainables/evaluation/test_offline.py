"""Held-out action error: fixed moments, correct numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows
from trainables.evaluation.offline import OfflineSettings, action_error, choose_windows, chunk_latency

SETTINGS = OfflineSettings(
    windows=10, window_steps=4, samples=2, sampler="DDIM", num_inference_steps=5, seed=0
)
HORIZON = 8


class RampPolicy:
    """Predicts the dataset's ramp, up to an offset; records the arguments of the predictions."""

    n_obs_steps = 2
    n_action_steps = 4

    def __init__(self, offset: float = 0.0, noise: float = 0.0) -> None:
        self.offset = offset
        self.noise = noise
        self.asked: list[tuple[str | None, int | None]] = []

    def predict_horizon(
        self,
        observation: Mapping[str, Tensor],
        *,
        generator: list[torch.Generator],
        sampler: str | None = None,
        num_inference_steps: int | None = None,
    ) -> Tensor:
        self.asked.append((sampler, num_inference_steps))
        first = observation["observation.state"][:, :1, :]
        ramp = first + torch.arange(HORIZON)[None, :, None] + self.offset
        drawn = torch.stack([torch.randn(HORIZON, 1, generator=g) for g in generator])
        return ramp + self.noise * drawn

    def predict_action(
        self, observation: Mapping[str, Tensor], *, generator: list[torch.Generator]
    ) -> Tensor:
        return self.predict_horizon(observation, generator=generator)[:, 1:5]


@pytest.fixture
def windows(tmp_path: Path) -> Windows:
    features = {
        "observation.state": DatasetFeature("float32", (1,)),
        "action": DatasetFeature("float32", (1,)),
    }
    ramp = np.arange(30, dtype=np.float32)[:, None]
    with DatasetWriter(tmp_path / "ramp", fps=10, features=features) as writer:
        for number in range(2):
            writer.add_episode(
                {"observation.state": ramp + 100 * number, "action": ramp + 100 * number}, task="Ramp."
            )
    dataset = open_dataset(str(tmp_path / "ramp"))
    return Windows(dataset, (0, 1), n_obs_steps=2, horizon=HORIZON, drop_n_last_frames=3, frames={})


def measure(policy: Any, heldout: Windows, **changes: Any) -> dict[str, float]:
    settings = OfflineSettings(**{**SETTINGS.__dict__, **changes})
    return action_error(policy, heldout, settings, "cpu")


def test_a_perfect_policy_has_no_error_no_spread_and_no_jerk(windows: Windows) -> None:
    assert measure(RampPolicy(), windows, windows=60) == pytest.approx(
        # The first window of an episode sees its first frame twice, so even this policy is off by one there.
        {"eval/action_mse": 2 / 54, "eval/action_mae": 2 / 54, "eval/action_std": 0.0, "eval/jerk": 0.0}
    )


def test_error_is_in_the_units_of_the_dataset(windows: Windows) -> None:
    measured = measure(RampPolicy(offset=3.0), windows, seed=1)

    assert measured["eval/action_mae"] == pytest.approx(3.0, abs=0.5)
    assert measured["eval/action_mse"] == pytest.approx(9.0, abs=2.0)


def test_the_answer_is_the_same_every_time_and_depends_on_the_seed(windows: Windows) -> None:
    policy = RampPolicy(noise=1.0)

    assert measure(policy, windows) == measure(policy, windows)
    assert measure(policy, windows) != measure(policy, windows, seed=1)
    assert measure(policy, windows)["eval/action_std"] > 0.5


def test_every_trial_is_measured_with_the_same_sampler(windows: Windows) -> None:
    policy = RampPolicy()
    measure(policy, windows)

    assert set(policy.asked) == {("DDIM", 5)}


def test_windows_are_chosen_once_for_a_split_and_never_twice() -> None:
    chosen = choose_windows(1000, SETTINGS)

    assert len(set(chosen)) == 10
    assert np.array_equal(chosen, choose_windows(1000, SETTINGS))
    assert len(choose_windows(4, SETTINGS)) == 4


def test_latency_gives_the_rate_of_actions_it_allows(windows: Windows) -> None:
    measured = chunk_latency(RampPolicy(), windows, "cpu")

    assert measured["eval/action_rate_hz"] == pytest.approx(4 / (measured["eval/chunk_latency_ms"] / 1e3))
