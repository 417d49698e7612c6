from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import STATE_DIM, features, generators, small_batch, small_policy, statistics
from torch import Tensor

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import ConfigError

PUSHT_IMAGE = Feature("observation.image", FeatureType.VISUAL, (3, 96, 96))


def vector(name: str, kind: FeatureType, size: int) -> Feature:
    return Feature(name, kind, (size,))


def default_sized(listed: list[Feature], **config: Any) -> DiffusionPolicy:
    """A policy of LeRobot's default size, without memory for its weights."""
    found = PolicyFeatures.of(listed)
    with torch.device("meta"):
        return build_policy(PolicyConfig(**config), found, statistics(found))


def size(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


STATE_2, ACTION_2 = (
    vector("observation.state", FeatureType.STATE, 2),
    vector("action", FeatureType.ACTION, 2),
)
STATE_6, ACTION_6 = (
    vector("observation.state", FeatureType.STATE, 6),
    vector("action", FeatureType.ACTION, 6),
)
TWO_CAMERAS = [
    Feature(f"observation.images.{n}", FeatureType.VISUAL, (3, 240, 320)) for n in ("top", "wrist")
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("listed", "config", "count"),
    [
        ([PUSHT_IMAGE, STATE_2, ACTION_2], {"crop_shape": (84, 84)}, 262_709_026),
        ([PUSHT_IMAGE, STATE_2, ACTION_2], {"horizon": 64, "n_action_steps": 32}, 262_709_026),
        ([*TWO_CAMERAS, STATE_6, ACTION_6], {}, 266_622_758),
        ([*TWO_CAMERAS, STATE_6, ACTION_6], {"use_separate_rgb_encoder_per_camera": True}, 277_819_846),
        ([PUSHT_IMAGE, STATE_2, ACTION_2], {"down_dims": (256, 512, 1024)}, 76_070_434),
        (
            [STATE_2, vector("observation.environment_state", FeatureType.ENV, 16), ACTION_2],
            {},
            248_759_426,
        ),
    ],
)
def test_parameter_counts_are_lerobots(listed: list[Feature], config: dict[str, Any], count: int) -> None:
    assert size(default_sized(listed, **config)) == count


def test_parameters_split_between_unet_and_encoder_as_in_lerobot() -> None:
    policy = default_sized([PUSHT_IMAGE, STATE_2, ACTION_2])
    assert size(policy.diffusion.unet) == 251_511_938
    assert size(policy.diffusion.encoders[0]) == 11_197_088


@pytest.mark.reference
def test_names_and_shapes_at_default_size_are_lerobots(shared: Path) -> None:
    keys = json.loads((shared / "reference" / "policy_default_keys.json").read_text())
    policy = default_sized([PUSHT_IMAGE, STATE_2, ACTION_2], crop_shape=(84, 84))
    assert [name for name, _ in policy.named_parameters()] == keys["parameters"]
    found = {name: [list(value.shape), "torch.float32"] for name, value in policy.state_dict().items()}
    assert found == keys["state_dict"]


@pytest.mark.slow
def test_cameras_are_numbered_in_the_state_dict_when_separate() -> None:
    shared_names = small_policy(cameras=2).state_dict().keys()
    separate = small_policy(cameras=2, use_separate_rgb_encoder_per_camera=True).state_dict().keys()
    assert any(name.startswith("diffusion.rgb_encoder.backbone.0.") for name in shared_names)
    assert {name.split(".")[2] for name in separate if ".rgb_encoder." in name} == {"0", "1"}
    assert {name.split(".")[1] for name in separate} == {"rgb_encoder", "unet"}


ARCHITECTURES: list[Any] = [
    {},
    {"environment": 5},
    {"cameras": 1},
    pytest.param({"cameras": 2}, marks=pytest.mark.slow),
    {"cameras": 2, "use_separate_rgb_encoder_per_camera": True, "crop_shape": (32, 32)},
    {"cameras": 1, "resize_shape": (32, 36), "crop_ratio": 0.9, "environment": 2, "crop_per": "batch"},
    pytest.param({"cameras": 1, "use_group_norm": False, "crop_shape": (32, 32)}, marks=pytest.mark.slow),
    {"n_obs_steps": 3, "use_film_scale_modulation": False, "kernel_size": 3, "down_dims": (16, 24, 32)},
    {"noise_scheduler_type": "DDIM", "beta_schedule": "linear", "prediction_type": "v_prediction"},
    {"prediction_type": "flow"},
]


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_trains_and_predicts(architecture: dict[str, Any]) -> None:
    policy = small_policy(**architecture)
    batch = small_batch(policy, size=3)
    loss = policy.loss(batch, generator=torch.Generator().manual_seed(0))
    loss.backward()
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in policy.parameters())
    chunk = policy.predict_action(batch, generator=torch.Generator().manual_seed(0), num_inference_steps=3)
    assert chunk.shape == (3, 4, 2)
    assert chunk.isfinite().all()
    assert policy.training


@pytest.mark.parametrize(
    ("prediction", "steps", "error"),
    [
        pytest.param("sample", 60, 3.0, marks=pytest.mark.slow),
        pytest.param("epsilon", 400, 12.0, marks=pytest.mark.slow),
        pytest.param("v_prediction", 400, 6.0, marks=pytest.mark.slow),
        pytest.param("flow", 400, 9.0, marks=pytest.mark.slow),
    ],
)
def test_one_batch_can_be_learned(prediction: str, steps: int, error: float) -> None:
    policy = small_policy(prediction_type=prediction)
    batch = small_batch(policy, size=4)
    places = torch.tensor([[-60.0, 60.0], [50.0, 30.0], [-40.0, -50.0], [70.0, -20.0]])
    batch["action"] = places[:, None] + torch.linspace(-20, 20, policy.horizon)[None, :, None]
    repeated = {name: value.repeat_interleave(8, dim=0) for name, value in batch.items()}
    optimizer = torch.optim.Adam(policy.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    losses = []
    for _ in range(steps):
        loss = policy.loss(repeated, generator=generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert np.mean(losses[-10:]) < 0.1 * losses[0]
    predicted = policy.predict_horizon(batch, generator=torch.Generator().manual_seed(1))
    assert (predicted - batch["action"]).abs().mean() < error


def test_loss_is_the_mean_squared_error_of_the_noise() -> None:
    policy = small_policy()
    batch = small_batch(policy)
    noise, timesteps = torch.randn_like(batch["action"]), torch.tensor([0, 5, 10, 19])
    action = batch["action"] / 100
    noisy = policy.process.add_noise(action, noise, timesteps)
    predicted = policy.diffusion.unet(noisy, timesteps, policy.condition(batch))
    expected = (predicted - noise).square().mean()
    torch.testing.assert_close(policy.loss(batch, noise=noise, timesteps=timesteps), expected)


@pytest.mark.slow
def test_masked_loss_is_the_mean_over_valid_actions() -> None:
    policy = small_policy(do_mask_loss_for_padding=True)
    batch = small_batch(policy)
    draws = {"noise": torch.randn_like(batch["action"]), "timesteps": torch.tensor([0, 5, 10, 19])}
    plain = small_policy().loss(batch, **draws)
    torch.testing.assert_close(policy.loss(batch, **draws), plain)

    batch["action_is_pad"][:, 5:] = True
    batch["action_is_pad"][0, 1:] = True
    noisy = policy.process.add_noise(batch["action"] / 100, draws["noise"], draws["timesteps"])
    predicted = policy.diffusion.unet(noisy, draws["timesteps"], policy.condition(batch))
    squared = (predicted - draws["noise"]).square()
    expected = squared[~batch["action_is_pad"]].mean()
    torch.testing.assert_close(policy.loss(batch, **draws), expected)


def test_masked_loss_of_nothing_but_padding_is_zero() -> None:
    policy = small_policy(do_mask_loss_for_padding=True)
    batch = small_batch(policy)
    batch["action_is_pad"][:] = True
    assert policy.loss(batch).item() == 0.0


@pytest.mark.slow
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", ["action", "observation.state", "observation.images.c0"])
def test_nan_in_a_batch_reaches_the_loss(masked: bool, name: str) -> None:
    policy = small_policy(cameras=1, image=(32, 32), do_mask_loss_for_padding=masked)
    batch = small_batch(policy)
    batch["observation.images.c0"] = batch["observation.images.c0"].float() / 255
    batch["action_is_pad"][:, -1] = True
    batch[name][2, -1, 0] = float("nan")
    assert policy.loss(batch).isnan()


def test_nan_in_an_observation_reaches_its_actions_and_no_others() -> None:
    policy = small_policy()
    batch = small_batch(policy)
    batch["observation.state"][1, 0, 0] = float("nan")
    chunk = policy.predict_action(batch, num_inference_steps=3)
    assert chunk[1].isnan().all()
    assert chunk[[0, 2, 3]].isfinite().all()


@pytest.mark.slow
def test_randomness_comes_from_the_generator_alone() -> None:
    policy = small_policy(cameras=1, crop_shape=(32, 32))
    batch = small_batch(policy)

    def run(seed: int) -> tuple[float, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        loss = policy.loss(batch, generator=generator).item()
        return loss, policy.predict_action(batch, generator=generator, num_inference_steps=3)

    first, second, other = run(1), run(1), run(2)
    assert first[0] == second[0] != other[0]
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[1], other[1])


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["DDPM", "DDIM", "DPM-Solver++"])
def test_actions_of_a_sample_do_not_depend_on_the_rest_of_the_batch(sampler: str) -> None:
    policy = small_policy().eval()
    batch = small_batch(policy, size=5)
    arguments = {"sampler": sampler, "num_inference_steps": 5}
    together = policy.predict_action(batch, generator=generators(0, 1, 2, 3, 4), **arguments)
    pair = {name: value[[3, 1]] for name, value in batch.items()}
    apart = policy.predict_action(pair, generator=generators(3, 1), **arguments)
    torch.testing.assert_close(apart, together[[3, 1]], rtol=1e-4, atol=1e-3)
    wrong = policy.predict_action(pair, generator=generators(7, 8), **arguments)
    assert (wrong - apart).abs().max() > 0.1


@pytest.mark.slow
def test_chunk_starts_at_the_current_step_of_the_horizon() -> None:
    policy = small_policy(n_obs_steps=3).eval()
    batch = small_batch(policy)
    noise = torch.randn_like(batch["action"])
    arguments = {"noise": noise, "sampler": "DDIM", "num_inference_steps": 3}
    horizon = policy.predict_horizon(batch, **arguments)
    assert torch.equal(policy.predict_action(batch, **arguments), horizon[:, 2:6])
    assert torch.equal(policy.predict_action(batch, **arguments, n_action_steps=6), horizon[:, 2:8])
    with pytest.raises(
        ConfigError, match=r"policy\.n_action_steps: 7 actions cannot be executed\. Use 1 to 6"
    ):
        policy.predict_action(batch, **arguments, n_action_steps=7)


@pytest.mark.slow
def test_prediction_uses_the_configured_sampler_unless_another_is_given() -> None:
    policy = small_policy(sampler="DPM-Solver++", num_inference_steps=7).eval()
    batch = small_batch(policy)
    noise = torch.randn_like(batch["action"])
    configured = policy.predict_action(batch, noise=noise)
    given = policy.predict_action(batch, noise=noise, sampler="DPM-Solver++", num_inference_steps=7)
    other = policy.predict_action(batch, noise=noise, sampler="DDIM")
    assert torch.equal(configured, given)
    assert not torch.allclose(configured, other)


@pytest.mark.slow
def test_actions_come_in_original_units_and_within_the_range_of_the_data() -> None:
    policy = small_policy().eval()
    chunk = policy.predict_action(small_batch(policy, size=32), num_inference_steps=5)
    assert chunk.abs().max() > 20
    assert chunk.abs().max() <= 100 * (1 + 1e-5)


@pytest.mark.slow
def test_condition_joins_state_images_and_environment_state_step_by_step() -> None:
    policy = small_policy(cameras=2, environment=5).eval()
    batch = small_batch(policy)
    condition = policy.condition(batch).view(4, policy.n_obs_steps, -1)
    assert condition.shape[-1] == STATE_DIM + 2 * 8 + 5
    torch.testing.assert_close(condition[..., :STATE_DIM], batch["observation.state"] / 100)
    torch.testing.assert_close(condition[..., -5:], batch["observation.environment_state"] / 100)
    encoder = policy.diffusion.encoders[0]
    for number, camera in enumerate(policy.features.cameras):
        image = batch[camera.name][:, 1].float() / 255
        expected = encoder((image - 0.5) / 0.25)
        start = STATE_DIM + 8 * number
        torch.testing.assert_close(condition[:, 1, start : start + 8], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_separate_encoders_see_their_own_camera() -> None:
    policy = small_policy(cameras=2, use_separate_rgb_encoder_per_camera=True).eval()
    batch = small_batch(policy)
    before = policy.condition(batch).view(4, policy.n_obs_steps, -1)
    with torch.no_grad():
        policy.diffusion.encoders[1].out.bias += 1.0
    after = policy.condition(batch).view(4, policy.n_obs_steps, -1)
    changed = (before != after).any(dim=0).any(dim=0)
    assert not changed[: STATE_DIM + 8].any()
    assert changed[STATE_DIM + 8 :].any()


def numbered_images(policy: DiffusionPolicy, count: int) -> dict[str, Tensor]:
    """Images whose pixels contain their own position: the first channel the row, the second the column."""
    rows, columns = torch.meshgrid(torch.arange(40), torch.arange(48), indexing="ij")
    image = torch.stack((rows, columns, rows)).to(torch.uint8)
    shape = (count, policy.n_obs_steps, 3, 40, 48)
    return {camera.name: image.expand(shape).clone() for camera in policy.features.cameras}


def seen_offsets(policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """The top left corners that the encoder saw in a training loss: (cameras, B, To, 2)."""
    seen = []
    for encoder in policy.diffusion.encoders:
        monkeypatch.setattr(encoder.backbone, "forward", _recording(encoder.backbone.forward, seen))
    batch = small_batch(policy, size=16) | numbered_images(policy, 16)
    policy.loss(batch, generator=torch.Generator().manual_seed(0))
    pixels = torch.cat(seen) * 0.25 + 0.5
    corners = (pixels[:, :2, 0, 0] * 255).round().long()
    return corners.view(len(policy.features.cameras), 16, policy.n_obs_steps, 2)


def _recording(forward: Any, seen: list[Tensor]) -> Any:
    def run(images: Tensor) -> Tensor:
        assert images.shape[-2:] == (32, 36)
        seen.append(images.detach())
        return forward(images)

    return run


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
def test_crops_are_drawn_for_each_sample_and_camera(separate: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = small_policy(cameras=2, crop_shape=(32, 36), use_separate_rgb_encoder_per_camera=separate)
    corners = seen_offsets(policy, monkeypatch)
    assert len(torch.unique(corners[0, :, 0], dim=0)) > 8
    assert not torch.equal(corners[0], corners[1])
    # The steps of a sample share a crop, so that what moves between them is the scene.
    assert torch.equal(corners[:, :, 0], corners[:, :, 1])
    assert corners.amin() >= 0
    assert (corners[..., 0].max(), corners[..., 1].max()) <= (8, 12)


@pytest.mark.slow
@pytest.mark.parametrize("separate", [False, True])
def test_crops_can_be_drawn_once_per_batch_as_lerobot_does(
    separate: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = small_policy(
        cameras=2, crop_shape=(32, 36), crop_per="batch", use_separate_rgb_encoder_per_camera=separate
    )
    corners = seen_offsets(policy, monkeypatch)
    assert len(torch.unique(corners[0].reshape(-1, 2), dim=0)) == 1
    assert torch.equal(corners[0], corners[1]) == (not separate)


@pytest.mark.slow
def test_crops_are_centred_in_evaluation_and_on_request(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy in (
        small_policy(cameras=1, crop_shape=(32, 36)).eval(),
        small_policy(cameras=1, crop_shape=(32, 36), crop_is_random=False),
    ):
        corners = seen_offsets(policy, monkeypatch)
        assert torch.unique(corners.reshape(-1, 2), dim=0).tolist() == [[4, 6]]


@pytest.mark.slow
def test_prediction_is_the_same_in_training_mode() -> None:
    policy = small_policy(cameras=1, crop_shape=(32, 36), use_group_norm=False)
    batch = small_batch(policy)
    noise = torch.randn_like(batch["action"])
    arguments = {"noise": noise, "sampler": "DDIM", "num_inference_steps": 2}
    policy.diffusion.unet.eval()
    buffers = copy.deepcopy(dict(policy.named_buffers()))
    in_training = policy.predict_action(batch, **arguments)
    assert buffers
    assert policy.diffusion.encoders[0].training
    assert not policy.diffusion.unet.training
    for name, value in policy.named_buffers():
        assert torch.equal(value, buffers[name])
    torch.testing.assert_close(policy.eval().predict_action(batch, **arguments), in_training)


@pytest.mark.slow
def test_images_may_be_floats_or_have_their_final_size_already() -> None:
    policy = small_policy(cameras=1, resize_shape=(32, 36)).eval()
    batch = small_batch(policy)
    name = "observation.images.c0"
    whole = policy.condition(batch)
    floats = batch | {name: batch[name].float() / 255}
    torch.testing.assert_close(policy.condition(floats), whole)
    resized = torch.nn.functional.interpolate(
        floats[name].flatten(0, 1), size=(32, 36), mode="bilinear", antialias=True
    )
    done = batch | {name: resized.unflatten(0, (4, 2))}
    torch.testing.assert_close(policy.condition(done), whole, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_number() -> None:
    gradients = []
    for enabled in (False, True):
        policy = small_policy(cameras=1, image=(32, 32))
        policy.set_gradient_checkpointing(enabled)
        loss = policy.loss(small_batch(policy), generator=torch.Generator().manual_seed(0))
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in policy.parameters())])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_compiling_keeps_every_name() -> None:
    policy = small_policy(cameras=2, image=(32, 32), use_separate_rgb_encoder_per_camera=True)
    names, modules = list(policy.state_dict()), [name for name, _ in policy.named_modules()]
    policy.compile_network(backend="eager")
    assert list(policy.state_dict()) == names
    assert [name for name, _ in policy.named_modules()] == modules


@pytest.mark.slow
def test_compiled_network_gives_the_same_loss_and_gradients() -> None:
    results = []
    for compiled in (False, True):
        policy = small_policy()
        if compiled:
            policy.compile_network(backend="aot_eager")
        loss = policy.loss(small_batch(policy), generator=torch.Generator().manual_seed(0))
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in policy.parameters())])
    for plain, same in zip(*results, strict=True):
        torch.testing.assert_close(plain, same, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
# torch.compile looks at the gradient of the encoder's output, which is not a leaf.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")
@pytest.mark.parametrize("use_group_norm", [True, False])
def test_a_checkpointed_network_with_a_camera_can_be_compiled(use_group_norm: bool) -> None:
    results = []
    for enabled in (False, True):
        torch.compiler.reset()
        policy = small_policy(cameras=1, image=(64, 64), use_group_norm=use_group_norm)
        policy.set_gradient_checkpointing(enabled)
        if enabled:
            policy.compile_network(backend="aot_eager")
        loss = policy.loss(small_batch(policy), generator=torch.Generator().manual_seed(0))
        loss.backward()
        results.append([loss.detach(), *(p.grad for p in policy.parameters()), *policy.buffers()])
    for plain, same in zip(*results, strict=True):
        torch.testing.assert_close(plain, same, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_half_precision_arithmetic_still_gives_a_full_precision_loss() -> None:
    policy = small_policy(cameras=1, image=(32, 32))
    batch = small_batch(policy)
    draws = {"noise": torch.randn_like(batch["action"]), "timesteps": torch.tensor([0, 5, 10, 19])}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = policy.loss(batch, **draws)
        chunk = policy.predict_action(batch, num_inference_steps=2)
    assert half.dtype == chunk.dtype == torch.float32
    torch.testing.assert_close(half, policy.loss(batch, **draws), rtol=0.05, atol=0.02)


@pytest.mark.slow
def test_saved_weights_do_not_contain_statistics() -> None:
    policy = small_policy()
    assert all(name.startswith("diffusion.") for name in policy.state_dict())
    assert policy.statistics()["action"]["max"].tolist() == [100.0, 100.0]


@pytest.mark.slow
def test_weights_follow_from_the_seed_alone() -> None:
    first, second, other = (small_policy(cameras=1, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_cameras_of_different_sizes_need_a_common_size() -> None:
    listed = features(cameras=2)
    different = replace(listed.inputs[1], shape=(3, 64, 64))
    mixed = PolicyFeatures((listed.inputs[0], different, *listed.inputs[2:]), listed.action)
    with pytest.raises(ConfigError, match=r"policy\.resize_shape: the cameras differ in size .*c1 64×64"):
        build_policy(PolicyConfig(), mixed, statistics(mixed))


def test_a_crop_larger_than_the_image_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"policy\.crop_shape: 64×64 is larger than the images .*c0 40×48"):
        small_policy(cameras=1, crop_shape=(64, 64))


def test_a_missing_observation_is_named() -> None:
    policy = small_policy(environment=2)
    batch = small_batch(policy)
    del batch["observation.environment_state"]
    with pytest.raises(
        KeyError, match=r"lacks 'observation\.environment_state'; it has action, action_is_pad"
    ):
        policy.loss(batch)


@pytest.mark.slow
def test_numpy_and_wider_numbers_give_what_tensors_give() -> None:
    policy = small_policy(cameras=1, environment=2).eval()
    batch, noise = small_batch(policy), torch.randn(4, policy.horizon, policy.action_dim)
    timesteps = torch.tensor([0, 5, 11, 19])
    wide = {name: v.double() if v.is_floating_point() else v for name, v in batch.items()}
    arrays = {name: value.numpy() for name, value in reversed(batch.items())}

    loss = policy.loss(batch, noise, timesteps)
    assert policy.loss(wide, noise.double(), timesteps.int()) == loss
    assert policy.loss(arrays | {"index": np.arange(4)}, noise.numpy(), timesteps.numpy()) == loss
    actions = policy.predict_action(batch, noise, sampler="DDIM")
    for observation, drawn in ((wide, noise.double()), (arrays, noise.numpy())):
        again = policy.predict_action(observation, drawn, sampler="DDIM")
        torch.testing.assert_close(again, actions, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape", "words"),
    [
        ("observation.state", (4, 3), r"observation\.state has shape \(4, 3\), expected \(B, 2, 3\)"),
        ("observation.state", (4, 3, 3), r"has shape \(4, 3, 3\), expected \(B, 2, 3\)"),
        ("observation.state", (4, 2, 5), r"has shape \(4, 2, 5\), expected \(B, 2, 3\)"),
        ("observation.images.c0", (4, 2, 40, 48, 3), r"c0 has shape .*, expected \(B, 2, 3, H, W\)"),
        ("observation.images.c0", (2, 3, 40, 48), r"c0 has shape .*, expected \(B, 2, 3, H, W\)"),
        ("action", (8, 2), r"action has shape \(8, 2\), expected \(B, 8, 2\)"),
        ("noise", (4, 1, 2), r"the noise has shape \(4, 1, 2\), expected \(4, 8, 2\)"),
    ],
)
def test_values_of_another_shape_are_named(name: str, shape: tuple[int, ...], words: str) -> None:
    policy = small_policy(cameras=1)
    batch = small_batch(policy) | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=words):
        policy.loss(batch, batch.get("noise"))
    if name != "action":
        with pytest.raises(ValueError, match=words):
            policy.predict_action(batch, batch.get("noise"))


@pytest.mark.slow
def test_float_images_that_were_not_divided_by_255_are_refused() -> None:
    policy = small_policy(cameras=1)
    batch = small_batch(policy)
    batch["observation.images.c0"] = batch["observation.images.c0"].float()
    with pytest.raises(ValueError, match=r"c0 has values up to 25\d; give uint8, or floats in \[0, 1\]"):
        policy.predict_action(batch)
