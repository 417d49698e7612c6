"""LeRobot's own Diffusion Policy on the same inputs, with the same weights, if it is installed.

Both get one batch that is on the device already. LeRobot's is normalised before, as its processors do it;
ours is raw, and is normalised within the time. Each side steps with its own optimiser and clipping; the
average of the weights, which LeRobot does not keep, is left out here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.arithmetic import autocast, tf32
from benchmarks.gpu.cases import Case, NotHereError, Setting, Value, compared
from benchmarks.gpu.clock import median_ms
from benchmarks.gpu.materials import (
    DEFAULT_SIZE,
    TINY_SIZE,
    build,
    config_of,
    observations,
    row_generators,
    training_batch,
)
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.training.optimizer import build_optimizer, clip_gradients
from trainables.features import ACTION, STATE

__all__ = ["cases", "lerobot_policy", "normalized"]

WANTED = "0.6.1"
LOSS_TOLERANCE = 1e-4
ACTION_TOLERANCE = 1e-3
WARMUP, REPEATS = 3, 20
INFERENCE_STEPS = 10
FIELDS = (
    "n_obs_steps",
    "horizon",
    "n_action_steps",
    "crop_shape",
    "use_group_norm",
    "pretrained_backbone_weights",
    "use_separate_rgb_encoder_per_camera",
    "spatial_softmax_num_keypoints",
    "down_dims",
    "n_groups",
    "diffusion_step_embed_dim",
    "num_inference_steps",
)
"""Fields that both configurations have under one name, and whose defaults differ or that the kit sets."""


def cases(setting: Setting) -> Iterator[Case]:
    """The same numbers first, then the times side by side."""
    yield Case("loss, the same noise, fp32", partial(_loss, setting))
    yield Case("actions, DDIM, the same noise, fp32", partial(_actions, setting))
    for precision in ("fp32", "bf16") if setting.quick else ("fp32", "TF32", "bf16"):
        for batch in (4,) if setting.quick else (64, 256):
            yield Case(f"step, batch {batch}, {precision}", partial(_step_times, setting, batch, precision))
    for precision in ("fp32", "bf16"):
        for batch in (1,) if setting.quick else (1, 64):
            name = f"chunk, DDIM {INFERENCE_STEPS}, batch {batch}, {precision}"
            yield Case(name, partial(_chunk_times, setting, batch, precision))


def _pair(setting: Setting) -> tuple[DiffusionPolicy, Any]:
    """Our policy and LeRobot's, with the same weights, in evaluation mode: their crops are centred."""
    config = config_of(setting, TINY_SIZE if setting.quick else DEFAULT_SIZE)
    ours = build(config, setting.device).eval()
    return ours, lerobot_policy(ours).eval()


def lerobot_policy(ours: DiffusionPolicy) -> Any:
    """LeRobot's policy with the settings and weights of ours, on the same device.

    Raises:
        NotHereError: If LeRobot is not installed, or another version is.
    """
    try:
        found = version("lerobot")
    except PackageNotFoundError:
        raise NotHereError("lerobot is not installed") from None
    if found != WANTED:
        raise NotHereError(f"lerobot {found} is installed; the comparison is with {WANTED}")
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig as TheirConfig
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy as TheirPolicy

    inputs = {f.name: PolicyFeature(FeatureType[f.type.name], f.shape) for f in ours.features.inputs}
    theirs = TheirPolicy(
        TheirConfig(
            input_features=inputs,
            output_features={ACTION: PolicyFeature(FeatureType.ACTION, (ours.action_dim,))},
            noise_scheduler_type="DDIM",
            device=str(ours.device),
            **{name: getattr(ours.config, name) for name in FIELDS},
        )
    )
    theirs.load_state_dict(ours.state_dict(), strict=True)
    return theirs.to(ours.device)


def normalized(policy: DiffusionPolicy, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A batch as LeRobot's processors hand it to its policy."""
    scaled = {
        name: policy.normalizer.normalize(name, batch[name])
        for name in (*(feature.name for feature in policy.features.inputs), ACTION)
        if name in batch
    }
    if ACTION in scaled:
        scaled["action_is_pad"] = torch.zeros(
            scaled[ACTION].shape[:2], dtype=torch.bool, device=policy.device
        )
    return scaled


def _loss(setting: Setting) -> Mapping[str, Value]:
    ours, theirs = _pair(setting)
    batch = training_batch(ours, 4 if setting.quick else 64, setting.device)
    with tf32(False), torch.no_grad():
        torch.manual_seed(0)
        their_loss, _ = theirs.forward(normalized(ours, batch))
        # LeRobot draws both itself, on the device and in this order.
        torch.manual_seed(0)
        noise = torch.randn(batch[ACTION].shape, device=setting.device)
        timesteps = torch.randint(0, 100, (len(noise),), device=setting.device)
        our_loss = ours.loss(batch, noise=noise, timesteps=timesteps)
    return compared(abs(float(our_loss / their_loss) - 1), LOSS_TOLERANCE, of="relative")


def _actions(setting: Setting) -> Mapping[str, Value]:
    ours, theirs = _pair(setting)
    seen = observations(ours, 4 if setting.quick else 64, setting.device)
    shape = (len(seen[STATE]), ours.horizon, ours.action_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(setting.device)
    with tf32(False):
        expected = theirs.predict_action_chunk(normalized(ours, seen), noise=noise.clone())
        found = ours.normalizer.normalize(ACTION, ours.predict_action(seen, noise=noise))
    difference = float((found - expected).abs().max()) / 2
    return compared(difference, ACTION_TOLERANCE, of="largest, as a share of the actions' range")


def _step_times(setting: Setting, batch_size: int, precision: str) -> Mapping[str, Value]:
    ours, theirs = _pair(setting)
    ours.train()
    theirs.train()
    batch = training_batch(ours, batch_size, setting.device)
    scaled = normalized(ours, batch)
    settings = DiffusionConfig().optimizer
    our_optimizer = build_optimizer(ours, settings)
    their_optimizer = theirs.config.get_optimizer_preset().build(theirs.get_optim_params())
    crops = torch.Generator().manual_seed(0)

    def step(
        optimizer: torch.optim.Optimizer, loss: Callable[[], Tensor], clip: Callable[[], object]
    ) -> None:
        optimizer.zero_grad(set_to_none=True)
        with autocast(precision, setting.device):
            value = loss()
        value.backward()
        clip()
        optimizer.step()

    def our_step() -> None:
        step(
            our_optimizer,
            lambda: ours.loss(batch, batch["noise"], batch["timesteps"], crops),
            lambda: clip_gradients(ours, settings.grad_clip_norm),
        )

    def their_step() -> None:
        step(
            their_optimizer,
            lambda: theirs.forward(scaled)[0],
            lambda: torch.nn.utils.clip_grad_norm_(theirs.parameters(), settings.grad_clip_norm),
        )

    with tf32(precision == "TF32"):
        return _side_by_side(setting, our_step, their_step)


def _chunk_times(setting: Setting, batch_size: int, precision: str) -> Mapping[str, Value]:
    ours, theirs = _pair(setting)
    seen = observations(ours, batch_size, setting.device)
    scaled = normalized(ours, seen)
    with tf32(False), autocast(precision, setting.device):
        return _side_by_side(
            setting,
            lambda: ours.predict_action(
                seen, generator=row_generators(range(batch_size)), sampler="DDIM"
            ).cpu(),
            lambda: theirs.predict_action_chunk(scaled).cpu(),
        )


def _side_by_side(
    setting: Setting, ours: Callable[[], object], theirs: Callable[[], object]
) -> Mapping[str, Value]:
    warmup, repeats = (1, 3) if setting.quick else (WARMUP, REPEATS)
    times = [median_ms(work, setting.device, warmup=warmup, repeats=repeats) for work in (ours, theirs)]
    return {"ours, ms": times[0], "LeRobot, ms": times[1], "LeRobot / ours": times[1] / times[0]}
