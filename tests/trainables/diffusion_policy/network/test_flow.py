"""Flow matching: the path, its times in training, and the solvers, beside diffusers' own and exact flows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FlowMatchHeunDiscreteScheduler
from noise_processes import asked_timesteps, noise_process
from small_policy import small_batch, small_policy
from torch import Tensor

from trainables.diffusion_policy.config.sections import FLOW_SAMPLERS, TIME_SAMPLINGS
from trainables.diffusion_policy.network.flow import draw_levels
from trainables.diffusion_policy.network.noise import NoiseProcess, draw_timesteps
from trainables.diffusion_policy.network.sampler_steps import read_steps, run_steps
from trainables.interface import ConfigError

Predict = Callable[[Tensor, float], Tensor]
SPACINGS = ["trailing", "linspace"]
COUNTS = [1, 2, 3, 8, 16, 99, 100]


def flow(**changed: Any) -> NoiseProcess:
    return noise_process(prediction_type="flow", **changed)


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def network(noisy: Tensor, timestep: float) -> Tensor:
    """A network that is not linear and predicts actions beyond the clip."""
    return torch.sin(0.5 * noisy.flip(1) + timestep / 100) + 0.3


def recorded(
    process: NoiseProcess, predict: Predict, start: Tensor, sampler: str, count: int
) -> list[Tensor]:
    """What the actions are before each evaluation of the network, and at the end."""
    states: list[Tensor] = []
    end = process.denoise(
        predict,
        start,
        sampler=sampler,
        num_inference_steps=count,
        watch=lambda noisy, _: states.append(noisy.clone()),
    )
    return [*states, end]


def by_diffusers(scheduler: Any, predict: Predict, start: Tensor) -> list[Tensor]:
    """The same by diffusers' loop."""
    states = [start]
    for timestep in scheduler.timesteps:
        velocity = predict(states[-1], float(timestep))
        states.append(scheduler.step(velocity, timestep, states[-1]).prev_sample)
    return states


# The path


def test_the_path_is_straight_and_the_target_is_its_slope() -> None:
    action, start = noise(5, 8, 2), torch.randn(5, 8, 2)
    timesteps = torch.tensor([0.0, 12.5, 50.0, 99.0, 100.0])
    levels = (timesteps / 100).view(-1, 1, 1)
    torch.testing.assert_close(
        flow().add_noise(action, start, timesteps), (1 - levels) * action + levels * start
    )
    slope = (
        flow().add_noise(action, start, timesteps + 1) - flow().add_noise(action, start, timesteps)
    ) * 100
    torch.testing.assert_close(flow().target(action, start, timesteps), slope, rtol=1e-4, atol=1e-4)
    assert torch.equal(flow().add_noise(action, start, torch.full((5,), 100.0)), start)


@pytest.mark.parametrize(
    ("sampling", "mean", "deviation"),
    [("uniform", 0.5, 0.2887), ("logit_normal", 0.5, 0.2083), ("beta", 0.6, 0.2619)],
)
def test_times_have_their_distributions(sampling: str, mean: float, deviation: float) -> None:
    levels = draw_levels(200_000, sampling, torch.Generator().manual_seed(1))
    assert 0 < levels.min() < levels.max() <= 1
    assert levels.mean().item() == pytest.approx(mean, abs=0.003)
    assert levels.std().item() == pytest.approx(deviation, abs=0.002)


def test_times_follow_from_the_generator_and_are_not_integers() -> None:
    for sampling in TIME_SAMPLINGS:
        drawn = [draw_timesteps(6, 100, sampling, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4)]
        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])
        assert (drawn[0] != drawn[0].round()).any()
    integers = draw_timesteps(6, 100, None, torch.Generator().manual_seed(3))
    assert torch.equal(integers, torch.randint(100, (6,), generator=torch.Generator().manual_seed(3)))


@pytest.mark.slow
def test_the_loss_is_the_mean_squared_error_of_the_velocity_and_the_network_sees_real_times() -> None:
    policy = small_policy(prediction_type="flow")
    batch = small_batch(policy)
    start, timesteps = torch.randn_like(batch["action"]), torch.tensor([0.5, 5.25, 10.75, 20.0])
    action = batch["action"] / 100
    levels = (timesteps / 20).view(-1, 1, 1)
    noisy = (1 - levels) * action + levels * start
    predicted = policy.diffusion.unet(noisy, timesteps, policy.condition(batch))
    expected = (predicted - (start - action)).square().mean()
    torch.testing.assert_close(policy.loss(batch, noise=start, timesteps=timesteps), expected)
    rounded = policy.loss(batch, noise=start, timesteps=timesteps.round())
    assert rounded.item() != pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.slow
def test_how_times_are_drawn_changes_the_loss() -> None:
    losses = set()
    for sampling in TIME_SAMPLINGS:
        policy = small_policy(prediction_type="flow", time_sampling=sampling)
        losses.add(policy.loss(small_batch(policy), generator=torch.Generator().manual_seed(0)).item())
    assert len(losses) == len(TIME_SAMPLINGS)


# The solvers


@pytest.mark.slow
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", COUNTS)
def test_euler_is_that_of_diffusers_step_by_step(spacing: str, count: int) -> None:
    start = noise(2, 8, 3)
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=100)
    if spacing == "trailing":
        # As Flux's pipeline calls it.
        scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / count, count).tolist())
    else:
        scheduler.set_timesteps(count)
    expected = by_diffusers(scheduler, network, start)
    found = recorded(flow(clip_sample=False, timestep_spacing=spacing), network, start, "Euler", count)
    assert len(found) == len(expected) == count + 1
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_heun_is_that_of_diffusers_step_by_step(steps: int) -> None:
    start = noise(2, 8, 3)
    scheduler = FlowMatchHeunDiscreteScheduler(num_train_timesteps=100)
    scheduler.set_timesteps(steps)
    expected = by_diffusers(scheduler, network, start)
    process = flow(clip_sample=False, timestep_spacing="linspace")
    found = recorded(process, network, start, "Heun", 2 * steps - 1)
    assert len(found) == len(expected) == 2 * steps
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_equal_steps_are_the_default_and_heun_counts_evaluations() -> None:
    assert asked_timesteps(flow(), "Euler", 4) == [100, 75, 50, 25]
    assert asked_timesteps(flow(), "Heun", 4) == asked_timesteps(flow(), "Heun", 3) == [100, 50, 50]
    assert asked_timesteps(flow(), "Heun", 1) == asked_timesteps(flow(), "Euler", 1) == [100]
    for count in COUNTS:
        assert count - 1 <= len(asked_timesteps(flow(), "Heun", count)) <= count
    linspace = flow(timestep_spacing="linspace")
    assert asked_timesteps(linspace, "Euler", 4) == pytest.approx([100, 67, 34, 1], rel=1e-6)


def test_ddim_of_a_flow_is_euler_to_the_bit() -> None:
    start = noise(2, 8, 3)
    results = [recorded(flow(), network, start, sampler, 6)[-1] for sampler in ("DDIM", "Euler")]
    assert torch.equal(*results)


def test_a_diffusion_step_of_ddim_on_a_straight_path_is_a_step_of_euler() -> None:
    # Why the two names mean the same: x' = (1 - s') x0 + s' eps with x0 and eps from the velocity.
    noisy, velocity, level, following = noise(2, 3), torch.randn(2, 3), 0.7, 0.4
    action, start = noisy - level * velocity, noisy + (1 - level) * velocity
    ddim = (1 - following) * action + following * start
    torch.testing.assert_close(ddim, noisy + (following - level) * velocity)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_one_step_is_enough_for_a_network_that_knows_the_action(sampler: str) -> None:
    action, start = torch.rand(4, 8, 2) * 1.8 - 0.9, noise(4, 8, 2)
    for count in COUNTS:
        found = recorded(flow(), lambda noisy, t: start - action, start, sampler, count)[-1]
        torch.testing.assert_close(found, action, rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
def test_predicted_actions_of_a_flow_are_clipped_to_the_range(sampler: str) -> None:
    action, start = torch.full((2, 8, 2), 1.7), noise(2, 8, 2)
    for clip, expected in (({"clip_sample_range": 1.5}, 1.5), ({"clip_sample": False}, 1.7)):
        found = recorded(flow(**clip), lambda noisy, t: start - action, start, sampler, 9)[-1]
        torch.testing.assert_close(found, torch.full_like(action, expected), rtol=0, atol=1e-5)
    inside = recorded(flow(), lambda noisy, t: start - 0.5, start, sampler, 9)
    free = recorded(flow(clip_sample=False), lambda noisy, t: start - 0.5, start, sampler, 9)
    for clipped, plain in zip(inside, free, strict=True):
        torch.testing.assert_close(clipped, plain, rtol=0, atol=1e-5)


def test_few_steps_come_near_the_exact_flow_and_many_of_heun_nearer_for_the_same_evaluations() -> None:
    mean, spread = 0.3, 0.25

    def velocity(noisy: Tensor, timestep: float) -> Tensor:
        """The exact velocity if actions are normal with this mean and spread."""
        level = timestep / 100
        variance = ((1 - level) * spread) ** 2 + level**2
        away = (noisy - (1 - level) * mean) / variance
        return level * away - (mean + (1 - level) * spread**2 * away)

    start = noise(500, 4, 1)
    exact = mean + spread * start  # where the exact flow takes each noise

    def error(sampler: str, count: int) -> float:
        found = recorded(flow(clip_sample=False), velocity, start, sampler, count)[-1]
        return float((found - exact).abs().mean())

    euler = [error("Euler", count) for count in (1, 3, 9, 33)]
    assert euler == sorted(euler, reverse=True)
    assert euler[0] == pytest.approx(float((exact - mean).abs().mean()), rel=1e-3)  # one step: the mean
    assert euler[2] < 0.25 * euler[0]
    # Heun's last step is one of Euler and longer than Euler's own: it is better with many evaluations only.
    assert error("Heun", 9) > euler[2]
    assert error("Heun", 33) < 0.5 * euler[3]


def test_nan_from_the_network_reaches_the_actions_of_a_flow() -> None:
    for sampler in FLOW_SAMPLERS:
        found = flow().denoise(
            lambda x, t: x.index_fill(0, torch.tensor([1]), float("nan")),
            noise(3, 4, 2),
            sampler=sampler,
            num_inference_steps=5,
        )
        assert found[1].isnan().all()
        assert found[[0, 2]].isfinite().all()


@pytest.mark.parametrize(
    ("prediction", "sampler", "words"),
    [
        ("flow", "DDPM", r"'DDPM' is not a sampler for policy.prediction_type: flow. Use one of Euler, Heun"),
        ("flow", "UniPC", r"'UniPC' is not a sampler for policy.prediction_type: flow"),
        ("epsilon", "Heun", r"'Heun' is not a sampler for policy.prediction_type: epsilon. Use one of DDPM"),
    ],
)
def test_samplers_of_the_other_kind_are_refused(prediction: str, sampler: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        noise_process(prediction_type=prediction).denoise(
            network, noise(1, 4, 1), sampler=sampler, num_inference_steps=4
        )
    with pytest.raises(ConfigError, match="101 denoising steps"):
        flow().scheduler("Euler", 101)


# The solvers as constants


@pytest.mark.slow
@pytest.mark.parametrize("sampler", FLOW_SAMPLERS)
@pytest.mark.parametrize("clip", [True, False])
def test_the_constants_give_what_the_schedulers_give(sampler: str, clip: bool) -> None:
    for spacing in SPACINGS:
        process = flow(clip_sample=clip, timestep_spacing=spacing)
        for count in COUNTS:
            start = noise(2, 8, 3)
            steps = read_steps(process, sampler, count)
            asked: list[float] = []

            def numbered(noisy: Tensor, number: int) -> Tensor:
                asked.append(steps[number].timestep)  # noqa: B023
                return network(noisy, steps[number].timestep)  # noqa: B023

            found = run_steps(numbered, start, steps, process.clip_range)
            assert asked == asked_timesteps(process, sampler, count)
            expected = recorded(process, network, start, sampler, count)[-1]
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_heuns_second_evaluation_is_the_only_one_that_uses_an_anchor() -> None:
    steps = read_steps(flow(), "Heun", 7)
    assert [step.following.anchor != 0 for step in steps] == [False, True, False, True, False, True, False]
    assert [step.anchor is not None for step in steps] == [True, False, True, False, True, False, False]
    assert not any(step.draws_noise for step in steps)


def test_constants_that_begin_later_are_the_rest_of_the_denoising() -> None:
    assert read_steps(flow(), "Euler", 8, first=5) == read_steps(flow(), "Euler", 8)[5:]
    whole = read_steps(flow(), "Heun", 9)
    assert read_steps(flow(), "Heun", 9, first=4) == whole[4:]
    assert read_steps(flow(), "Heun", 9, first=3) == whole[4:], "a second evaluation begins no step"
