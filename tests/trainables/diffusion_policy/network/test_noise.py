from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from noise_processes import alphas_cumprod, asked_timesteps, noise_process
from small_policy import generators
from torch import Tensor

from trainables.diffusion_policy.config.sections import SAMPLERS, TIMESTEP_SPACINGS
from trainables.diffusion_policy.network.noise import NoiseProcess, randn
from trainables.interface import ConfigError

PREDICTIONS = ["epsilon", "sample", "v_prediction"]
SCHEDULES = ["linear", "scaled_linear", "squaredcos_cap_v2"]


def perfect(diffusion: NoiseProcess, action: Tensor) -> Callable[[Tensor, int], Tensor]:
    """A network that knows the clean action."""

    def predict(noisy: Tensor, timestep: int) -> Tensor:
        share = alphas_cumprod(diffusion)[timestep]
        noise = (noisy - share.sqrt() * action) / (1 - share).sqrt()
        return diffusion.target(action, noise, torch.full((len(action),), timestep))

    return predict


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_noise_schedules_have_their_formulas(schedule: str) -> None:
    actual = alphas_cumprod(noise_process(beta_schedule=schedule)).double()
    grid = torch.linspace(0, 1, 100, dtype=torch.float64)
    if schedule == "squaredcos_cap_v2":
        edges = ((torch.arange(101, dtype=torch.float64) / 100 + 0.008) / 1.008 * torch.pi / 2).cos() ** 2
        betas = (1 - edges[1:] / edges[:-1]).clamp(max=0.999)
    elif schedule == "linear":
        betas = 1e-4 + grid * (0.02 - 1e-4)
    else:
        betas = (1e-4**0.5 + grid * (0.02**0.5 - 1e-4**0.5)) ** 2
    torch.testing.assert_close(actual, torch.cumprod(1 - betas, dim=0), rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("kind", ["DDPM", "DDIM"])
def test_noise_is_added_and_targets_are_what_the_names_say(kind: str) -> None:
    action, noise, timesteps = torch.randn(5, 8, 2), torch.randn(5, 8, 2), torch.tensor([0, 7, 50, 98, 99])
    for prediction in PREDICTIONS:
        diffusion = noise_process(noise_scheduler_type=kind, prediction_type=prediction)
        share = alphas_cumprod(diffusion)[timesteps].view(-1, 1, 1)
        noisy = diffusion.add_noise(action, noise, timesteps)
        torch.testing.assert_close(noisy, share.sqrt() * action + (1 - share).sqrt() * noise)
        expected = {
            "epsilon": noise,
            "sample": action,
            "v_prediction": share.sqrt() * noise - (1 - share).sqrt() * action,
        }[prediction]
        torch.testing.assert_close(diffusion.target(action, noise, timesteps), expected)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_perfect_network_gives_the_clean_action_whatever_it_predicts(
    sampler: str, prediction: str, schedule: str
) -> None:
    action = torch.rand(4, 8, 2) * 1.8 - 0.9
    diffusion = noise_process(prediction_type=prediction, beta_schedule=schedule)
    for count in (10, 100):
        noise = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
        arguments = {"sampler": sampler, "num_inference_steps": count, "generator": torch.Generator()}
        denoised = diffusion.denoise(perfect(diffusion, action), noise, **arguments)
        torch.testing.assert_close(denoised, action, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_predicted_actions_are_clipped_to_the_range(sampler: str, prediction: str) -> None:
    action = torch.full((2, 8, 2), 1.7)
    for clip, expected in (({"clip_sample_range": 1.5}, 1.5), ({"clip_sample": False}, 1.7)):
        diffusion = noise_process(prediction_type=prediction, **clip)
        denoised = diffusion.denoise(
            perfect(diffusion, action),
            torch.randn(2, 8, 2),
            sampler=sampler,
            num_inference_steps=10,
            generator=torch.Generator(),
        )
        torch.testing.assert_close(denoised, torch.full_like(action, expected), rtol=0, atol=5e-3)


def test_dpm_solver_survives_an_imperfect_network_on_the_cosine_schedule() -> None:
    # At its noisiest step the schedule keeps a share of 2e-9 of the action: an error of 0.01 in the noise is
    # one of 200 in the action unless it is clipped.
    action = torch.rand(4, 8, 2) * 1.8 - 0.9
    diffusion = noise_process()
    exact = perfect(diffusion, action)
    noise = torch.randn(4, 8, 2, generator=torch.Generator().manual_seed(0))
    denoised = diffusion.denoise(
        lambda x, t: exact(x, t) + 0.01, noise, sampler="DPM-Solver++", num_inference_steps=10
    )
    assert (denoised - action).abs().max() < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("spacing", [None, *TIMESTEP_SPACINGS])
@pytest.mark.parametrize("timesteps", [2, 20, 100])
def test_every_number_of_steps_gives_finite_actions(timesteps: int, spacing: str | None) -> None:
    diffusion = noise_process(num_train_timesteps=timesteps, timestep_spacing=spacing)
    for sampler in SAMPLERS:
        for count in {1, 2, timesteps // 3 or 1, timesteps - 1, timesteps}:
            if spacing == "leading" and sampler in ("DPM-Solver++", "UniPC") and count == timesteps:
                continue  # which the configuration refuses
            asked = asked_timesteps(diffusion, sampler, count)
            assert 1 <= len(asked) <= count
            assert asked == sorted(set(asked), reverse=True)
            denoised = diffusion.denoise(
                lambda x, _: 0.5 * x, torch.randn(2, 4, 1), sampler=sampler, num_inference_steps=count
            )
            assert denoised.isfinite().all(), (sampler, count)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_trailing_timesteps_begin_at_pure_noise_with_few_steps(sampler: str) -> None:
    # Lin et al. (arXiv 2305.08891), table 2; "leading" begins at 75 of 99 with four steps.
    trailing = asked_timesteps(noise_process(timestep_spacing="trailing"), sampler, 4)
    assert trailing == [99, 74, 49, 24]
    leading = asked_timesteps(noise_process(timestep_spacing="leading"), sampler, 4)
    assert leading[0] < 99


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nan_from_the_network_reaches_the_actions(sampler: str) -> None:
    denoised = noise_process().denoise(
        lambda x, t: x.index_fill(0, torch.tensor([1]), float("nan")),
        torch.randn(3, 4, 2),
        sampler=sampler,
        num_inference_steps=5,
    )
    assert denoised[1].isnan().all()
    assert denoised[[0, 2]].isfinite().all()


@pytest.mark.slow
def test_only_ddpm_draws_noise_while_denoising() -> None:
    start = torch.randn(2, 8, 2)
    for sampler in SAMPLERS:
        runs = [
            noise_process().denoise(
                lambda x, _: 0.3 * x,
                start,
                sampler=sampler,
                num_inference_steps=10,
                generator=torch.Generator().manual_seed(seed),
            )
            for seed in (1, 1, 2)
        ]
        assert torch.equal(runs[0], runs[1])
        assert torch.equal(runs[0], runs[2]) == (sampler != "DDPM")


def test_a_sample_depends_on_its_own_generator_alone() -> None:
    def denoise(*seeds: int) -> Tensor:
        each = generators(*seeds)
        start = randn((len(seeds), 8, 2), each, torch.device("cpu"))
        return noise_process().denoise(
            lambda x, _: 0.3 * x, start, sampler="DDPM", num_inference_steps=10, generator=each
        )

    together, others, alone = denoise(1, 2, 3), denoise(9, 2, 8), denoise(2)
    assert torch.equal(together[1], others[1])
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(together[0], others[0])


def test_generators_must_be_one_or_one_per_sample() -> None:
    with pytest.raises(ValueError, match="2 generators for 3 samples"):
        randn((3, 8, 2), generators(0, 1), torch.device("cpu"))


@pytest.mark.parametrize(
    ("sampler", "count"), [("DDIM", 0), ("DDIM", 101), ("DPM-Solver++", 101), ("Euler", 10)]
)
def test_what_a_sampler_cannot_do_is_a_fault_of_the_configuration(sampler: str, count: int) -> None:
    with pytest.raises(ConfigError, match=r"policy\.(sampler|num_inference_steps): '?(Euler|0|101)"):
        noise_process().denoise(
            lambda x, _: x, torch.randn(1, 4, 1), sampler=sampler, num_inference_steps=count
        )


@pytest.mark.slow
def test_importing_the_policy_leaves_the_heavy_packages_alone() -> None:
    heavy = "{'scipy', 'scipy.stats', 'transformers', 'accelerate', 'peft', 'ray', 'mlflow', 'optuna'}"
    code = (
        f"import sys, trainables.diffusion_policy.network.policy; print(sorted({heavy} & sys.modules.keys()))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
