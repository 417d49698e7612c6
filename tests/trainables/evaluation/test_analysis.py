"""A policy beside demonstrations: numbers that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.open import open_dataset
from trainables.dataset.windows import Windows
from trainables.evaluation.analysis import AnalysisSettings, Source, compare
from trainables.inspection import Comparison

HORIZON, LENGTH = 8, 30
SETTINGS = AnalysisSettings(moments=60, samples=24, most_s=1e9)


class RampPolicy:
    """Knows the ramps of the dataset, up to an error that a function of step, dimension and noise gives."""

    n_obs_steps = 1
    n_action_steps = 4

    def __init__(self, error: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        self.error = error

    def predict_horizon(
        self, observation: Mapping[str, Tensor], *, generator: list[torch.Generator]
    ) -> Tensor:
        steps = torch.arange(HORIZON)[None, :, None]
        ramp = observation["observation.state"][:, -1:, :] + steps * torch.tensor([1.0, 2.0])
        if self.error is None:
            return ramp
        drawn = torch.stack([torch.randn(1, 1, generator=one) for one in generator])
        return ramp + self.error(steps, drawn)


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> tuple[Source, Windows]:
    """Two episodes: the first action grows by 1 a step, the second by 2."""
    features = {
        "observation.state": DatasetFeature("float32", (2,)),
        "action": DatasetFeature("float32", (2,), ["x", "y"]),
    }
    root = tmp_path_factory.mktemp("data") / "ramps"
    ramp = (np.arange(LENGTH)[:, None] * [1.0, 2.0]).astype(np.float32)
    with DatasetWriter(root, fps=10, features=features) as writer:
        for number in range(2):
            place = ramp + 100 * number
            writer.add_episode({"observation.state": place, "action": place}, task="Ramp.")
    dataset = open_dataset(root)
    found = Windows(dataset, (0, 1), n_obs_steps=1, horizon=HORIZON, drop_n_last_frames=0, frames={})
    return Source(dataset, "ramps", (0, 1), ("x", "y"), "no", "Held out."), found


def measure(policy: Any, windows: tuple[Source, Windows], **changes: Any) -> Comparison:
    settings = AnalysisSettings(**{**SETTINGS.__dict__, **changes})
    return compare(policy, windows[1], windows[0], settings, "cpu", lambda _: None)


@pytest.mark.slow
def test_a_perfect_policy(windows: tuple[Source, Windows]) -> None:
    found = measure(RampPolicy(), windows)
    assert found.mse == found.mae == found.mse_nearest == found.std == 0.0
    assert found.relative_mse == 0.0
    assert found.mse_by_step == (0.0,) * HORIZON
    assert found.modes == {1: 60}
    assert found.jerk == pytest.approx(0.0, abs=1e-4)
    step = 5**0.5
    assert (found.step, found.seam, found.demonstrated_step) == pytest.approx((step, step, step))
    assert (found.moments, found.samples, found.executed_steps) == (60, 24, 4)


@pytest.mark.slow
def test_errors_are_told_apart_by_dimension_and_by_step(windows: tuple[Source, Windows]) -> None:
    found = measure(RampPolicy(lambda step, _: torch.cat([0 * step, step.float()], dim=-1)), windows)
    assert found.mae_by_step == pytest.approx([step / 2 for step in range(HORIZON)])
    assert found.mse_by_step == pytest.approx([step**2 / 2 for step in range(HORIZON)])
    assert found.mae_by_dimension[0] == 0.0
    assert found.mse_by_dimension[0] == 0.0
    # Of the executed steps 0 to 3; near the end of an episode fewer of them are demonstrated.
    weights = np.array([LENGTH - step for step in range(4)])
    expected = np.average(np.arange(4) ** 2, weights=weights)
    assert found.mse_by_dimension[1] == pytest.approx(expected)
    assert found.mse == pytest.approx(expected / 2)
    assert found.relative_mse == pytest.approx(expected / found.action_std_by_dimension[1] ** 2 / 2)


@pytest.mark.slow
def test_spread_and_the_nearest_chunk(windows: tuple[Source, Windows]) -> None:
    found = measure(RampPolicy(lambda step, noise: noise.expand(-1, HORIZON, 2)), windows)
    assert found.std == pytest.approx(1.0, abs=0.05)
    assert np.shape(found.std_by_step) == (HORIZON, 2)
    assert found.mse == pytest.approx(1.0, abs=0.2)
    assert found.mse_nearest < 0.02
    assert found.seam > found.step


@pytest.mark.slow
def test_two_ways_are_two_modes(windows: tuple[Source, Windows]) -> None:
    found = measure(RampPolicy(lambda step, noise: 30 * noise.sign() + noise + 0 * step), windows)
    assert set(found.modes) == {2}
    tiny = measure(RampPolicy(lambda step, noise: 0.1 * noise.sign() + 0 * step), windows)
    assert set(tiny.modes) == {1}


@pytest.mark.slow
def test_jerk_is_that_of_the_actions(windows: tuple[Source, Windows]) -> None:
    jerky = measure(RampPolicy(lambda step, _: torch.cat([(-1.0) ** step, 0 * step], dim=-1)), windows)
    assert jerky.jerk == pytest.approx(8.0, rel=1e-4)
    assert jerky.demonstrated_jerk == pytest.approx(0.0, abs=1e-4)


@pytest.mark.slow
def test_the_worst_moments_are_named(windows: tuple[Source, Windows]) -> None:
    class Wrong(RampPolicy):
        def predict_horizon(self, observation: Any, *, generator: Any) -> Tensor:
            right = super().predict_horizon(observation, generator=generator)
            wrong = (observation["observation.state"][:, -1, 0] == 107.0)[:, None, None]
            return right + 50.0 * wrong

    worst = measure(Wrong(), windows).worst[0]
    assert (worst.episode, worst.frame) == (1, 7)
    assert worst.mse == pytest.approx(2500.0)


@pytest.mark.slow
def test_the_time_bounds_how_many_moments_are_asked_and_the_numbers_are_repeatable(
    windows: tuple[Source, Windows],
) -> None:
    policy = RampPolicy(lambda step, noise: noise + 0 * step)
    assert measure(policy, windows) == measure(policy, windows)
    assert measure(policy, windows) != measure(policy, windows, seed=1)
    short = measure(policy, windows, most_s=0.0)
    assert (short.moments, short.wanted_moments) == (8, 60)


def test_samples_reach_each_other_inside_an_episode_only(windows: tuple[Source, Windows]) -> None:
    numbers = np.array([0, 25, 26, 29, 55, 59])
    assert windows[1].reaches(numbers, 4).tolist() == [True, True, False, False, True, False]
    assert windows[1].rows(numbers).tolist() == numbers.tolist()
