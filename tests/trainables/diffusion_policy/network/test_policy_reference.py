"""Against numbers that LeRobot 0.4.4 computed for the same weights and the same batch; see shared/reference.

An independent implementation differs by rounding, so most tolerances are a few units in the seventh digit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.optimization import get_scheduler
from diffusers.schedulers import scheduling_ddpm
from noise_processes import alphas_cumprod, asked_timesteps
from torch import Tensor

from tests.arrays import read_arrays
from trainables.diffusion_policy import lerobot
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy

pytestmark = pytest.mark.reference


@dataclass(frozen=True)
class Reference:
    config: dict[str, Any]
    policy: DiffusionPolicy
    numbers: Mapping[str, Any]

    def __getitem__(self, name: str) -> Tensor:
        return torch.from_numpy(np.asarray(self.numbers[name]))

    def observation(self, prefix: str = "raw") -> dict[str, Tensor]:
        names = [name for name in self.numbers if name.startswith(f"{prefix}/observation.")]
        return {name.removeprefix(f"{prefix}/").removesuffix("__uint8"): self[name] for name in names}

    @property
    def batch(self) -> dict[str, Tensor]:
        return self.observation() | {"action": self["raw/action"], "action_is_pad": self["raw/action_is_pad"]}


def load_reference(folder: Path) -> Reference:
    config = json.loads((folder / "config.json").read_text())
    return Reference(config, lerobot.load(folder), read_arrays(folder / "reference.npz"))


@pytest.fixture(scope="module", params=["policy_tiny", "policy_tiny_state"])
def folder(request: pytest.FixtureRequest, shared: Path) -> Path:
    return shared / "reference" / request.param


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Reference:
    torch.set_num_threads(1)
    return load_reference(folder)


@pytest.fixture
def reference(loaded: Reference) -> Reference:
    """The policy in evaluation mode, without gradients; tests that change weights load their own."""
    loaded.policy.eval().zero_grad()
    return loaded


@pytest.fixture
def with_images(reference: Reference) -> Reference:
    if not reference.policy.features.cameras:
        pytest.skip("a policy without cameras has no such stage")
    return reference


def same(actual: Tensor, expected: Tensor, *, rtol: float = 1e-5, atol: float = 2e-6) -> None:
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, check_dtype=False)


def loss_of(reference: Reference, step: int | None = None) -> Tensor:
    eps, timesteps = reference["loss/eps"], reference["loss/timesteps"]
    if step is not None:
        eps, timesteps = reference["steps/eps"][step], reference["steps/timesteps"][step]
    return reference.policy.loss(reference.batch, noise=eps, timesteps=timesteps)


@pytest.mark.slow
def test_names_and_shapes_are_lerobots(folder: Path, reference: Reference) -> None:
    keys = json.loads((folder / "keys.json").read_text())
    assert [name for name, _ in reference.policy.named_parameters()] == keys["parameters"]
    shapes = {name: list(value.shape) for name, value in reference.policy.state_dict().items()}
    assert shapes == {name: shape for name, (shape, _) in keys["state_dict"].items()}
    assert sum(p.numel() for p in reference.policy.parameters()) == keys["n_params"]


@pytest.mark.slow
def test_stage_normalised_batch(reference: Reference) -> None:
    batch = reference.batch
    names = [name for name in batch if name != "action_is_pad"]
    assert len(names) == 3
    for name in names:
        normalized = reference.policy.normalizer.normalize(name, batch[name])
        same(normalized, reference[f"norm/{name}"], rtol=1e-6, atol=1e-6)


def test_stage_crop(with_images: Reference) -> None:
    policy = with_images.policy
    images = policy.camera_images(policy.features.cameras[0], with_images.batch)
    assert images.shape[-2:] == (84, 84)
    same(images.mean(dim=(-2, -1)), with_images["enc/cropped_mean"])


@pytest.mark.slow
def test_stages_of_the_encoder(with_images: Reference) -> None:
    policy = with_images.policy
    encoder = policy.diffusion.encoders[0]
    with torch.no_grad():
        images = policy.camera_images(policy.features.cameras[0], with_images.batch)
        # Ten convolutions and more, whose sums processors add in different orders; the values reach 6.
        same(encoder.backbone(images), with_images["enc/backbone"], atol=5e-5)
        same(encoder.pool(with_images["enc/backbone"]), with_images["enc/keypoints"])
        same(encoder(images), with_images["enc/feature"])


@pytest.mark.slow
def test_stage_global_condition(reference: Reference) -> None:
    with torch.no_grad():
        same(reference.policy.condition(reference.batch), reference["global_cond"])


def test_stage_step_embedding(reference: Reference) -> None:
    encoder = reference.policy.diffusion.unet.diffusion_step_encoder
    with torch.no_grad():
        same(encoder[0](reference["step_embed/t"]), reference["step_embed/sin"])
        same(encoder(reference["step_embed/t"]), reference["step_embed/out"])


def test_stage_noise_schedule(reference: Reference) -> None:
    same(alphas_cumprod(reference.policy.process), reference["alphas_cumprod"], rtol=1e-6, atol=0)


def test_stage_noisy_actions(reference: Reference) -> None:
    noisy = reference.policy.process.add_noise(
        reference["norm/action"], reference["loss/eps"], reference["loss/timesteps"]
    )
    same(noisy, reference["loss/noisy"], atol=1e-6)


def test_stage_unet(reference: Reference) -> None:
    with torch.no_grad():
        predicted = reference.policy.diffusion.unet(
            reference["loss/noisy"], reference["loss/timesteps"], reference["global_cond"]
        )
    same(predicted, reference["loss/unet_out"])


@pytest.mark.slow
def test_stage_loss(reference: Reference) -> None:
    same(loss_of(reference), reference["loss/eval_mask0"], rtol=2e-6)


@pytest.mark.slow
def test_masked_loss_divides_by_the_valid_actions(reference: Reference) -> None:
    # 0.4.4 divides by all actions; the sum over the valid ones is the same.
    valid = reference["raw/action_is_pad"].logical_not()
    assert 0 < valid.sum() < valid.numel()
    masked = PolicyConfig(**{**reference.policy.config.__dict__, "do_mask_loss_for_padding": True})
    plain, reference.policy.config = reference.policy.config, masked
    try:
        loss = loss_of(reference)
    finally:
        reference.policy.config = plain
    same(loss * valid.sum() / valid.numel(), reference["loss/eval_mask1"], rtol=2e-6)


@pytest.mark.slow
def test_stage_gradients(reference: Reference) -> None:
    loss_of(reference).backward()
    gradients = {name: p.grad for name, p in reference.policy.named_parameters() if p.grad is not None}
    assert list(gradients) == reference.numbers["grad/names"].tolist()
    # Recorded in single precision, which for the largest tensors is 1e-4 away from the true norm.
    norms = torch.stack([gradient.norm() for gradient in gradients.values()])
    same(norms, reference["grad/norms"])
    same(norms.norm(), reference["grad/global_norm"])
    full = [name for name in reference.numbers if name.startswith("grad/full/")]
    assert len(full) >= 3
    for name in full:
        same(gradients[name.removeprefix("grad/full/")], reference[name])


@pytest.mark.slow
def test_training_loss_with_one_crop_per_batch(with_images: Reference) -> None:
    policy = with_images.policy.train()
    loss = policy.loss(
        with_images.batch,
        noise=with_images["loss_train/eps"],
        timesteps=with_images["loss_train/timesteps"],
        crop_offsets=with_images["loss_train/crop_ij"].expand(4, 1, 2),
    )
    same(loss, with_images["loss_train/loss"], rtol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "run", ["ddim10", "ddim7", "ddpm10", pytest.param("ddpm100", marks=pytest.mark.slow)]
)
def test_samples(reference: Reference, run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sampler, count = run[:4].upper(), int(run[4:])
    asked = asked_timesteps(reference.policy.process, sampler, count)
    assert asked == reference[f"gen/{run}/timesteps"].tolist()
    if sampler == "DDPM":
        noise = iter(reference[f"gen/{run}/step_noise"])
        monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *_, **__: next(noise))
    arguments = {"noise": reference["gen/noise"], "sampler": sampler, "num_inference_steps": count}
    horizon = reference.policy.predict_horizon(reference.observation(), **arguments)
    expected = reference[f"gen/{run}/sample"]
    same(reference.policy.normalizer.normalize("action", horizon), expected, atol=2e-5)
    chunk = horizon[:, 1:9]
    same(reference.policy.normalizer.normalize("action", chunk), reference[f"gen/{run}/actions"], atol=2e-5)
    same(chunk, reference[f"gen/{run}/actions_post"], atol=2e-3)


@pytest.mark.slow
def test_chunks_are_the_executed_part_of_the_horizon(reference: Reference) -> None:
    arguments = {"noise": reference["gen/noise"], "sampler": "DDIM", "num_inference_steps": 10}
    chunk = reference.policy.predict_action(reference.observation(), **arguments)
    same(chunk, reference["gen/ddim10/actions_post"], atol=2e-3)


@pytest.mark.slow
def test_twenty_control_steps(reference: Reference) -> None:
    observed = reference.observation("select/obs")
    n_obs, n_action = reference.policy.n_obs_steps, reference.policy.n_action_steps
    chunks, executed = 0, []
    queue: list[Tensor] = []
    for step in range(20):
        rows = [max(0, step - back) for back in reversed(range(n_obs))]
        if not queue:
            window = {name: value[rows].unsqueeze(0) for name, value in observed.items()}
            chunk = reference.policy.predict_action(
                window, noise=reference["select/noise"][chunks], sampler="DDIM", num_inference_steps=10
            )
            queue = list(chunk[0])
            chunks += 1
            assert len(queue) == n_action
        executed.append(queue.pop(0))
    assert chunks == reference["select/n_chunks"]
    same(torch.stack(executed), reference["select/actions_post"].squeeze(1), atol=2e-3)


@pytest.mark.slow
def test_six_optimiser_steps(folder: Path) -> None:
    reference = load_reference(folder)
    parameters = dict(reference.policy.named_parameters())
    settings = reference.config
    optimizer = torch.optim.Adam(
        parameters.values(),
        lr=settings["optimizer_lr"],
        betas=tuple(settings["optimizer_betas"]),
        eps=settings["optimizer_eps"],
        weight_decay=settings["optimizer_weight_decay"],
    )
    schedule = get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=10)
    for step in range(6):
        lr = optimizer.param_groups[0]["lr"]
        loss = loss_of(reference, step)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), 10.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        assert math.isclose(lr, reference.numbers["steps/lr"][step], rel_tol=1e-9)
        # Adam gives a gradient that is nothing but rounding the same step as any other, so two runs part:
        # slowly in the loss, sooner in the norm.
        same(loss.double(), reference["steps/loss"][step], rtol=2e-6 if step < 3 else 1e-4)
        same(norm.double(), reference["steps/grad_norm"][step], rtol=2e-6 if step < 2 else 2e-3)
    after = [name for name in reference.numbers if name.startswith("steps/after/")]
    assert len(after) == 3
    for name in after:
        same(parameters[name.removeprefix("steps/after/")], reference[name], atol=2e-6)
