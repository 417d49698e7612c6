from __future__ import annotations

import sys

import pytest
import torch
from small_policy import generators, small_batch, small_policy

from trainables.diffusion_policy.acceleration import accelerate, networks, shift_chunk
from trainables.diffusion_policy.acceleration.accelerated import AcceleratedPolicy
from trainables.diffusion_policy.acceleration.backends import StepNetwork, UnavailableError
from trainables.diffusion_policy.acceleration.cuda_graph import GraphedChunk
from trainables.diffusion_policy.config.sections import FLOW_SAMPLERS, SAMPLERS
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.interface import ConfigError

RANGE = 200.0
"""Of the actions of small policies."""
ON_CPU = ["steps", "onnx"]


def policy_of_kind(kind: str) -> DiffusionPolicy:
    # An untrained network that predicts noise ends at the clip, where all ways agree.
    changed = {"prediction_type": "sample", "use_film_scale_modulation": kind != "bias only"}
    if kind == "flow":
        return small_policy(**changed | {"prediction_type": "flow"}).eval()
    if kind == "two cameras":
        return small_policy(cameras=2, crop_shape=(32, 36), environment=2, **changed).eval()
    return small_policy(**changed).eval()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("kind", ["state", "bias only", "two cameras", "flow"])
def test_actions_are_those_of_the_plain_loop(backend: str, kind: str) -> None:
    policy = policy_of_kind(kind)
    fast = AcceleratedPolicy(policy, backend, "fp32")
    observation = small_batch(policy, 3)
    for sampler in {"state": SAMPLERS, "flow": (*FLOW_SAMPLERS, "DDIM")}.get(kind, ("DDPM",)):
        for count in (1, 6):
            expected, found = (
                one.predict_action(
                    observation, generator=generators(1, 2, 3), sampler=sampler, num_inference_steps=count
                )
                for one in (policy, fast)
            )
            assert found.shape == expected.shape
            assert float((found - expected).abs().max()) < 1e-5 * RANGE, (sampler, count)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ON_CPU)
def test_a_robots_actions_do_not_depend_on_the_others(backend: str) -> None:
    policy = small_policy().eval()
    fast = AcceleratedPolicy(policy, backend, "fp32")
    batch = small_batch(policy, 4)
    together = fast.predict_action(batch, generator=generators(5, 6, 7, 8), sampler="DDPM")
    alone = fast.predict_action(
        {name: value[2:3] for name, value in batch.items()}, generator=generators(7), sampler="DDPM"
    )
    torch.testing.assert_close(together[2:3], alone, rtol=0, atol=1e-5 * RANGE)


@pytest.mark.slow
def test_accelerate_says_what_it_chose_and_why() -> None:
    policy = small_policy(num_inference_steps=3).eval()
    fast = accelerate(policy)
    assert fast.how.backend in ("onnx", "steps")
    assert "the fastest here (onnx " in fast.how.why
    assert 0 <= fast.how.difference < 1e-5
    asked = accelerate(policy, "steps")
    assert (asked.how.backend, asked.how.why) == ("steps", "as asked")
    assert accelerate(policy, "plain").how.backend == "plain"


@pytest.mark.slow
def test_what_cannot_be_used_is_replaced_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(num_inference_steps=2).eval()
    graph = accelerate(policy, "graph")
    assert graph.how.backend == "steps"
    assert graph.how.why == "not graph: a CUDA graph needs a GPU, and the policy is on cpu"
    lower = accelerate(policy, "onnx", "bf16")
    assert (lower.how.backend, lower.how.precision) == ("steps", "bf16")
    assert "ONNX Runtime is used for fp32 on a CPU, not bf16" in lower.how.why
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    missing = accelerate(policy)
    assert missing.how.backend == "steps"
    assert "onnxruntime is not installed" in missing.how.why
    assert 'pip install "diffusion-policy-sweeper[onnx]"' in missing.how.why


@pytest.mark.slow
def test_a_backend_with_other_actions_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(num_inference_steps=2).eval()
    made = networks.make_network

    def wrong(policy: DiffusionPolicy, backend: str, precision: str) -> StepNetwork:
        network = made(policy, backend, precision)
        return lambda noisy, films: network(noisy, films) + 0.1

    monkeypatch.setattr("trainables.diffusion_policy.acceleration.accelerated.make_network", wrong)
    fast = accelerate(policy, "onnx")
    assert fast.how.backend == "plain"
    assert "not onnx: its actions differ by 0." in fast.how.why
    assert "not steps: its actions differ by 0." in fast.how.why


@pytest.mark.slow
def test_lower_precision_is_close_and_not_the_same() -> None:
    policy = small_policy(num_inference_steps=4).eval()
    fast = accelerate(policy, "steps", "bf16")
    assert fast.how.precision == "bf16"
    assert 1e-5 < fast.how.difference < 0.05


@pytest.mark.slow
def test_a_warm_start_takes_the_place_of_the_first_steps() -> None:
    policy = small_policy().eval()
    fast = AcceleratedPolicy(policy, "steps", "fp32")
    observation = small_batch(policy, 2)
    last = fast.predict_horizon(observation, generator=generators(1, 2), num_inference_steps=8)
    asked: list[int] = []
    network = fast._network
    fast._network = lambda noisy, films: (asked.append(1), network(noisy, films))[1]
    ahead = shift_chunk(last, 4)
    found = fast.predict_horizon(
        observation, generator=generators(1, 2), num_inference_steps=8, previous=ahead, skipped_steps=6
    )
    assert len(asked) == 2
    other = fast.predict_horizon(
        observation, generator=generators(1, 2), num_inference_steps=8, previous=-ahead, skipped_steps=6
    )
    assert not torch.allclose(found, other), "the last chunk made no difference"


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("backend", ON_CPU)
def test_a_warm_start_is_that_of_the_plain_loop(backend: str, sampler: str) -> None:
    policy = small_policy(prediction_type="sample").eval()
    observation, previous = small_batch(policy, 2), 40 * torch.randn(2, policy.available_actions, 2)
    found = [
        one.predict_action(
            observation,
            generator=generators(1, 2),
            sampler=sampler,
            num_inference_steps=6,
            previous=previous,
            skipped_steps=4,
        )
        for one in (policy, AcceleratedPolicy(policy, backend, "fp32"))
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-5 * RANGE)
    cold = policy.predict_action(
        observation, generator=generators(1, 2), sampler=sampler, num_inference_steps=6
    )
    assert not torch.allclose(found[0], cold, atol=1e-2 * RANGE), "the last chunk made no difference"


@pytest.mark.slow
def test_the_plain_loop_skips_the_first_steps_of_a_warm_start() -> None:
    policy = small_policy().eval()
    asked: list[int] = []
    policy.diffusion.unet.register_forward_pre_hook(lambda _, inputs: asked.append(int(inputs[1][0])))
    arguments = {"generator": generators(1), "sampler": "DDIM", "num_inference_steps": 5}
    policy.predict_action(small_batch(policy, 1), **arguments)
    whole, previous = asked.copy(), torch.zeros(1, policy.available_actions, 2)
    asked.clear()
    policy.predict_action(small_batch(policy, 1), **arguments, previous=previous, skipped_steps=3)
    assert asked == whole[3:]


def test_a_chunk_is_shifted_by_what_was_executed() -> None:
    horizon = torch.arange(5.0).view(1, 5, 1)
    assert shift_chunk(horizon, 2).flatten().tolist() == [2, 3, 4, 4, 4]


def test_impossible_warm_starts_are_refused() -> None:
    policy = small_policy().eval()
    observation = small_batch(policy, 1)
    last = policy.predict_horizon(observation, num_inference_steps=2)
    for one in (policy, AcceleratedPolicy(policy, "steps", "fp32")):
        with pytest.raises(ConfigError, match=r"2 steps cannot be skipped\. Use 1 to 1 with a previous hor"):
            one.predict_horizon(observation, num_inference_steps=2, previous=last, skipped_steps=2)
        with pytest.raises(ConfigError, match="1 steps cannot be skipped"):
            one.predict_horizon(observation, num_inference_steps=2, skipped_steps=1)
        with pytest.raises(ValueError, match=r"previous horizon has shape \(1, 3, 2\), expected \(1, 8, 2\)"):
            one.predict_horizon(observation, num_inference_steps=2, previous=last[:, :3], skipped_steps=1)


@pytest.mark.slow
def test_values_are_checked_as_by_the_policy() -> None:
    policy = small_policy(cameras=1).eval()
    fast = AcceleratedPolicy(policy, "steps", "fp32")
    observation = small_batch(policy, 1)
    camera = policy.features.cameras[0].name
    with pytest.raises(ValueError, match="give uint8, or floats in"):
        fast.predict_action(observation | {camera: observation[camera].float()})
    with pytest.raises(KeyError, match="the batch lacks"):
        fast.predict_action({})


def test_a_graph_needs_a_gpu() -> None:
    with pytest.raises(UnavailableError, match="needs a GPU"):
        GraphedChunk(lambda observation, noise, draws: noise, {}, torch.zeros(1, 8, 2), [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_gives_the_actions_of_the_plain_loop() -> None:
    policy = small_policy(cameras=1).eval().cuda()
    fast = AcceleratedPolicy(policy, "graph", "fp32")
    for seed in (1, 2):
        observation = small_batch(policy, 2, seed)
        expected, found = (
            one.predict_action(observation, generator=generators(seed, 9), sampler="DDPM")
            for one in (policy, fast)
        )
        assert float((found - expected).abs().max()) < 1e-3 * RANGE


@pytest.mark.slow
def test_compiled_code_gives_the_actions_of_the_plain_loop() -> None:
    policy = small_policy(num_inference_steps=2).eval()
    fast = accelerate(policy, "compile")
    assert fast.how.backend == "compile", fast.how.why
    assert fast.how.difference < 1e-5
