"""A policy in LeRobot's formats: what they can express, what is replaced, and what is refused.

The field sets are those of LeRobot's own configuration classes at the versions named. LeRobot refuses a file
with an unknown key, and reads a missing key as its own version's default, so exactly its keys are
written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from trainables.diffusion_policy.config.sections import OptimizerConfig, PolicyConfig, TrainConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.lerobot_config import NORMALIZATION_FIELDS, POLICY_FIELDS, TARGETS
from trainables.features import STATE, Feature, FeatureType
from trainables.interface import TrainableError

__all__ = ["ExportError", "Expression", "express"]

_ONLY_0_6_1 = {"pretrained_revision", "gradient_checkpointing"}
_SAMPLERS = {"DDPM": "DDPM", "DDIM": "DDIM", "DPM-Solver++": "DDIM", "UniPC": "DDIM"}
_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_ORDER = (
    *("type", "n_obs_steps", "input_features", "output_features", "device", "use_amp", "use_peft"),
    *("push_to_hub", "repo_id", "private", "tags", "license", "pretrained_path", "pretrained_revision"),
    *("horizon", "n_action_steps", "normalization_mapping", "drop_n_last_frames", "vision_backbone"),
    *("resize_shape", "crop_ratio", "crop_shape", "crop_is_random", "pretrained_backbone_weights"),
    *("use_group_norm", "spatial_softmax_num_keypoints", "use_separate_rgb_encoder_per_camera", "down_dims"),
    *("kernel_size", "n_groups", "diffusion_step_embed_dim", "use_film_scale_modulation"),
    *("gradient_checkpointing", "noise_scheduler_type", "num_train_timesteps", "beta_schedule"),
    *("beta_start", "beta_end", "prediction_type", "clip_sample", "clip_sample_range"),
    *("num_inference_steps", "compile_model", "compile_mode", "do_mask_loss_for_padding"),
    *("optimizer_lr", "optimizer_betas", "optimizer_eps", "optimizer_weight_decay"),
    *("scheduler_name", "scheduler_warmup_steps"),
)


class ExportError(TrainableError):
    """A policy cannot be expressed in another system's format, or an export differs from the policy."""

    reason = "config"


@dataclass
class Expression:
    """A policy's description in LeRobot's format.

    Attributes:
        config: The content of ``config.json``, every field of the target in its order.
        notes: What was replaced, in a sentence each.
    """

    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)


def express(policy: DiffusionPolicy, target: str, settings: Mapping[str, Any]) -> Expression:
    """Describe a policy in the format of a version of LeRobot.

    Args:
        policy: The policy.
        target: One of ``TARGETS``.
        settings: Settings of the training, by dotted name; missing ones are LeRobot's defaults.

    Raises:
        ExportError: If the target is unknown or cannot express the policy, with every reason.
    """
    if target not in TARGETS:
        raise ExportError(f"{target!r} is not a known export format. Use one of {', '.join(TARGETS)}.")
    reasons = [*_feature_reasons(policy), *_config_reasons(policy.config)]
    notes: list[str] = []
    pictures = _pictures(policy, reasons, notes)
    if reasons:
        listed = "\n".join(f"  {reason}" for reason in reasons)
        raise ExportError(f"{target} cannot express this policy:\n{listed}")
    config = policy.config
    written: dict[str, Any] = {
        **{name: getattr(config, name) for name in POLICY_FIELDS},
        "type": "diffusion",
        "device": "cpu",
        "use_amp": False,
        "use_peft": False,
        "push_to_hub": False,
        **dict.fromkeys(("repo_id", "private", "tags", "license", "pretrained_path", "pretrained_revision")),
        "normalization_mapping": _normalization(policy, notes),
        "drop_n_last_frames": config.drop_n_last_frames,
        # The weights are in the file: LeRobot would fetch others and then overwrite them.
        "pretrained_backbone_weights": None,
        "down_dims": list(config.down_dims),
        "gradient_checkpointing": False,
        "noise_scheduler_type": _SAMPLERS[config.inference_sampler],
        "compile_model": False,
        "compile_mode": "reduce-overhead",
        **pictures,
        **_training(settings),
    }
    _note_replacements(config, settings, target, notes)
    skipped = set() if target == "lerobot==0.6.1" else _ONLY_0_6_1
    return Expression({name: written[name] for name in _ORDER if name not in skipped}, notes)


def _feature_reasons(policy: DiffusionPolicy) -> list[str]:
    features = policy.features
    reasons = []
    if not any(feature.name == STATE for feature in features.inputs):
        reasons.append(f"it does not use {STATE}, which LeRobot's diffusion policy requires.")
    if not features.cameras and not features.environment_state_dim:
        reasons.append(
            "it uses neither an image nor observation.environment_state, and LeRobot requires one of them."
        )
    sizes = {camera.name: camera.shape[1:] for camera in features.cameras}
    if len(set(sizes.values())) > 1 and policy.config.resize_shape is None:
        listed = ", ".join(f"{name} {height}×{width}" for name, (height, width) in sizes.items())
        reasons.append(f"its cameras differ in size ({listed}), and LeRobot requires equal sizes.")
    return reasons


def _config_reasons(config: PolicyConfig) -> list[str]:
    reasons = []
    if config.prediction_type == "v_prediction":
        reasons.append("policy.prediction_type is v_prediction; LeRobot supports epsilon and sample.")
    if config.is_flow:
        reasons.append(
            "policy.prediction_type is flow; LeRobot's diffusion policy supports epsilon and sample. "
            "What can be exported is a student of this policy: distil it (docs/deployment.md)."
        )
    if config.horizon % config.downsampling:
        reasons.append(
            f"policy.horizon {config.horizon} is not a multiple of {config.downsampling}, as LeRobot "
            f"requires with {len(config.down_dims)} levels."
        )
    if not 1 <= config.n_action_steps <= config.available_actions:
        reasons.append(
            f"policy.n_action_steps {config.n_action_steps} exceeds the {config.available_actions} actions "
            "that are predicted from the current step on; LeRobot would silently execute fewer."
        )
    return reasons


def _pictures(policy: DiffusionPolicy, reasons: list[str], notes: list[str]) -> dict[str, Any]:
    """Features, and how images are resized and cropped.

    LeRobot resizes frames as this project's policy does, so the export contains the resize, and the camera's
    original frames give the same actions. With a resize LeRobot derives the crop from ``crop_ratio``; without
    one it uses only ``crop_shape``.
    """
    config, cameras = policy.config, policy.features.cameras
    resized = None if config.resize_shape is None or not cameras else list(config.resize_shape)
    image = tuple(resized) if resized else (cameras[0].shape[1:] if cameras else None)
    crop = None if image is None else config.crop_size((image[0], image[1]))
    if crop == image:
        crop = None
    ratio = 1.0
    if resized and crop:
        found = _ratio((image[0], image[1]), crop) if image else None
        if found is None:
            reasons.append(
                f"a crop of {crop[0]}×{crop[1]} from images resized to {resized[0]}×{resized[1]}: with a "
                "resize, LeRobot has one crop_ratio for height and width, and none gives this crop."
            )
        ratio = found or 1.0
    if resized and len({camera.shape for camera in cameras}) > 1:
        notes.append(
            "the cameras differ in size: LeRobot stacks their images before it resizes them, so the "
            f"frames must be resized to {resized[0]}×{resized[1]} before LeRobot gets them."
        )
    size = tuple(resized) if resized else None
    return {
        "input_features": {f.name: _feature(f, size) for f in policy.features.inputs},
        "output_features": {policy.features.action.name: _feature(policy.features.action, None)},
        "resize_shape": resized,
        "crop_ratio": ratio,
        "crop_shape": None if crop is None else list(crop),
    }


def _feature(feature: Feature, size: tuple[int, ...] | None) -> dict[str, Any]:
    shape = feature.shape
    if size is not None and feature.type is FeatureType.VISUAL:
        shape = (shape[0], *size)
    return {"type": feature.type.value, "shape": list(shape)}


def _ratio(image: tuple[int, int], crop: tuple[int, int]) -> float | None:
    """A share of the image whose height and width, rounded down, are the crop's; None if there is none."""
    lowest = max(part / whole for part, whole in zip(crop, image, strict=True))
    highest = min((part + 1) / whole for part, whole in zip(crop, image, strict=True))
    for ratio in (lowest, (lowest + highest) / 2):
        if 0 < ratio < 1 and tuple(int(whole * ratio) for whole in image) == crop:
            return ratio
    return None


def _normalization(policy: DiffusionPolicy, notes: list[str]) -> dict[str, str]:
    modes = policy.normalizer.modes
    mapping = {kind.value: modes[kind] for kind in NORMALIZATION_FIELDS if kind is not FeatureType.ENV}
    environment = modes[FeatureType.ENV]
    if policy.features.environment_state_dim and environment != "IDENTITY":
        mapping["ENV"] = environment
        notes.append(
            f"observation.environment_state is normalised by {environment}: written as ENV in the "
            "mapping, which LeRobot uses, although it has no such entry by default."
        )
    return mapping


def _training(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "optimizer_lr": _learning_rate(settings),
        "optimizer_betas": list(settings.get("optimizer.betas", (0.95, 0.999))),
        "optimizer_eps": settings.get("optimizer.eps", 1e-8),
        "optimizer_weight_decay": settings.get("optimizer.weight_decay", 1e-6),
        "scheduler_name": _SCHEDULERS[settings.get("lr_scheduler.name", "cosine")],
        "scheduler_warmup_steps": settings.get("lr_scheduler.warmup_steps", 500),
    }


def _learning_rate(settings: Mapping[str, Any]) -> float:
    """The learning rate that was used: LeRobot has no rule for the batch size."""
    given = {
        item.name: settings[f"optimizer.{item.name}"]
        for item in dataclasses.fields(OptimizerConfig)
        if f"optimizer.{item.name}" in settings
    }
    return OptimizerConfig(**given).lr_of(settings.get("train.batch_size", TrainConfig.batch_size))


def _note_replacements(
    config: PolicyConfig, settings: Mapping[str, Any], target: str, notes: list[str]
) -> None:
    ours, theirs = config.inference_sampler, _SAMPLERS[config.inference_sampler]
    if ours != theirs:
        notes.append(
            f"the sampler {ours} is replaced with {theirs} of {config.inference_steps} steps, since "
            f"LeRobot has no {ours}: the actions differ slightly from those that were evaluated."
        )
    elif ours != config.noise_scheduler_type:
        notes.append(
            f"noise_scheduler_type is {theirs}, the sampler; it was trained with "
            f"{config.noise_scheduler_type}, which adds the same noise."
        )
    if ours == theirs and config.inference_spacing != "leading":
        notes.append(
            f"policy.timestep_spacing {config.inference_spacing} is replaced with leading, since LeRobot has "
            "no other: the actions differ from those that were evaluated, most with few steps."
        )
    if config.warm_start_steps:
        notes.append(
            f"policy.warm_start_steps {config.warm_start_steps} is left out, since LeRobot begins every "
            "chunk from noise: the actions differ from those that were evaluated, and take more steps."
        )
    if config.pretrained_backbone_weights is not None:
        notes.append(
            "pretrained_backbone_weights is null: the encoder's weights are in the file, and LeRobot would "
            f"fetch {config.pretrained_backbone_weights} only to overwrite them."
        )
    crops = config.crop_is_random and (config.crop_shape is not None or config.crop_ratio < 1)
    if crops and config.crop_per == "sample":
        notes.append("if it is trained further in LeRobot, crops are drawn once per batch, not per sample.")
    if config.do_mask_loss_for_padding and target == "lerobot==0.4.4":
        notes.append("if it is trained further in LeRobot 0.4.4, the masked loss is divided by all actions.")
    if settings.get("train.precision", "fp32") != "fp32":
        notes.append(f"it was trained in {settings['train.precision']}; the weights are float32.")
