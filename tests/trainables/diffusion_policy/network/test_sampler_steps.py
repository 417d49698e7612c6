from __future__ import annotations

import pytest
import torch
from noise_processes import noise_process
from small_policy import generators
from torch import Tensor

from trainables.diffusion_policy.config.sections import SAMPLERS, TIMESTEP_SPACINGS
from trainables.diffusion_policy.network.noise import NoiseProcess, randn
from trainables.diffusion_policy.network.sampler_steps import SamplerStep, read_steps, run_steps
from trainables.interface import ConfigError

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]
SPACINGS = [None, *TIMESTEP_SPACINGS]
STEPS = [1, 2, 5, 16, 100]


def predict(noisy: Tensor, timestep: int) -> Tensor:
    """A network that is not linear, does not enlarge rounding, and predicts actions beyond the clip."""
    return torch.sin(0.5 * noisy.flip(1) + timestep) + 0.3


def both(diffusion: NoiseProcess, sampler: str, count: int) -> tuple[Tensor, Tensor, float]:
    """The result of diffusers, that of the constants, and the size of the numbers on the way."""
    noise = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(0))
    sizes: list[float] = []

    def watched(noisy: Tensor, timestep: int) -> Tensor:
        predicted = predict(noisy, timestep)
        step = next(step for step in steps if step.timestep == timestep)
        sizes.append(float(step.clean.of(noisy=noisy, predicted=predicted).abs().max()))
        sizes.append(float(noisy.abs().max()))
        return predicted

    steps = read_steps(diffusion, sampler, count)
    expected = diffusion.denoise(
        watched, noise, sampler=sampler, num_inference_steps=count, generator=generators(1, 2)
    )
    drawing = generators(1, 2)
    drawn = [randn((2, 8, 3), drawing, noise.device) for step in steps if step.draws_noise]
    asked: list[int] = []

    def numbered(noisy: Tensor, number: int) -> Tensor:
        asked.append(steps[number].timestep)
        return predict(noisy, steps[number].timestep)

    actual = run_steps(numbered, noise, steps, diffusion.clip_range, drawn)
    assert len(asked) == len(sizes) // 2
    return expected, actual, max(sizes)


def assert_equal(diffusion: NoiseProcess, sampler: str, count: int) -> None:
    expected, actual, size = both(diffusion, sampler, count)
    assert expected.isfinite().all()
    # A step that divides by a small share of the signal has large numbers, and their rounding, on the way.
    torch.testing.assert_close(actual, expected, rtol=0, atol=2e-6 * max(size, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("clip", [True, False])
def test_the_steps_give_what_diffusers_gives(
    sampler: str, prediction: str, schedule: str, clip: bool
) -> None:
    for spacing in SPACINGS:
        diffusion = noise_process(
            prediction_type=prediction, beta_schedule=schedule, clip_sample=clip, timestep_spacing=spacing
        )
        for count in STEPS:
            assert_equal(diffusion, sampler, count)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("clip", [True, False])
def test_few_steps_give_what_diffusers_gives(sampler: str, prediction: str, clip: bool) -> None:
    assert_equal(noise_process(prediction_type=prediction, clip_sample=clip), sampler, 7)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_steps_that_begin_later_are_the_rest_of_the_denoising(sampler: str) -> None:
    whole, rest = read_steps(noise_process(), sampler, 8), read_steps(noise_process(), sampler, 8, first=5)
    assert [step.timestep for step in rest] == [step.timestep for step in whole][5:]
    assert rest[0].following.earlier == rest[0].following.anchor == 0.0
    if sampler in ("DDPM", "DDIM"):
        assert rest == whole[5:]
    clean = torch.full((1, 4, 2), 0.25)
    result = run_steps(
        lambda noisy, number: clean, clean, _predicting_actions(sampler, 5), None, [0 * clean] * 8
    )
    torch.testing.assert_close(result, clean)


def _predicting_actions(sampler: str, first: int) -> tuple[SamplerStep, ...]:
    return read_steps(noise_process(prediction_type="sample"), sampler, 8, first)


def test_reading_steps_leaves_the_process_as_it_was() -> None:
    diffusion, untouched = noise_process(clip_sample_range=0.5), noise_process(clip_sample_range=0.5)
    noise = torch.randn(1, 8, 2, generator=torch.Generator().manual_seed(1))
    for sampler in SAMPLERS:
        read_steps(diffusion, sampler, 6)
        expected, actual = (
            one.denoise(
                predict,
                noise,
                sampler=sampler,
                num_inference_steps=6,
                generator=torch.Generator().manual_seed(2),
            )
            for one in (untouched, diffusion)
        )
        assert torch.equal(actual, expected)


def test_only_ddpm_draws_noise_and_not_at_timestep_0() -> None:
    for sampler in SAMPLERS:
        steps = read_steps(noise_process(), sampler, 10)
        drawing = [step.timestep for step in steps if step.draws_noise]
        expected = [step.timestep for step in steps if step.timestep > 0]
        assert drawing == (expected if sampler == "DDPM" else [])


def test_impossible_steps_are_refused() -> None:
    with pytest.raises(ConfigError, match="101 denoising steps"):
        read_steps(noise_process(), "DDIM", 101)
    with pytest.raises(ValueError, match="step 10 does not exist; the steps are 0 to 9"):
        read_steps(noise_process(), "DDIM", 10, first=10)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_loop_can_be_exported_without_its_scheduler(sampler: str) -> None:
    steps = read_steps(noise_process(), sampler, 4)
    noise = torch.randn(2, 8, 3)
    step_noises = [torch.randn(2, 8, 3) for step in steps if step.draws_noise]

    class Loop(torch.nn.Module):
        def forward(self, noise: Tensor, step_noises: list[Tensor]) -> Tensor:
            return run_steps(
                lambda noisy, number: predict(noisy, steps[number].timestep), noise, steps, 1.0, step_noises
            )

    exported = torch.export.export(Loop(), (noise, step_noises))
    torch.testing.assert_close(exported.module()(noise, step_noises), Loop()(noise, step_noises))
