"""Named starts of a configuration (``policy.preset``): values for the fields that it does not name.

- ``lerobot-0.6``: the defaults of LeRobot 0.6.1 (``DiffusionConfig``, its optimiser and its scheduler).
- ``paper-image``, ``paper-lowdim``: the CNN-based Diffusion Policy of Chi et al. (arXiv 2303.04137, tables of
  hyperparameters in the appendix) with the details of the authors' code, real-stanford/diffusion_policy:
  ``train_diffusion_unet_hybrid_workspace.yaml`` and ``train_diffusion_unet_lowdim_workspace.yaml``.
- ``small``: a network of few weights and few denoising steps, for a CPU or few demonstrations.

They set policy, optimiser, learning rate and average, not the length of the training. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS", "PRESET_FIELD", "preset_values"]

PRESET_FIELD = "policy.preset"

_COMMON: Mapping[str, Any] = {
    "policy.n_obs_steps": 2,
    "policy.kernel_size": 5,
    "policy.n_groups": 8,
    "policy.use_film_scale_modulation": True,
    "policy.noise_scheduler_type": "DDPM",
    "policy.num_train_timesteps": 100,
    "policy.beta_schedule": "squaredcos_cap_v2",
    "policy.prediction_type": "epsilon",
    "policy.clip_sample": True,
    "policy.do_mask_loss_for_padding": False,
    "optimizer.lr": 1e-4,
    "optimizer.betas": [0.95, 0.999],
    "optimizer.eps": 1e-8,
    "optimizer.weight_decay": 1e-6,
    "lr_scheduler.name": "cosine",
    "lr_scheduler.warmup_steps": 500,
}
"""What LeRobot took over from the paper and all presets share."""
_AVERAGE: Mapping[str, Any] = {
    "ema.enabled": True,
    "ema.inv_gamma": 1.0,
    "ema.power": 0.75,
    "ema.max_decay": 0.9999,
}
_PAPER: Mapping[str, Any] = {
    **_COMMON,
    **_AVERAGE,
    "policy.horizon": 16,
    "policy.n_action_steps": 8,
    "policy.num_inference_steps": 100,
    "optimizer.name": "adamw",
}
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "lerobot-0.6": {
        **_COMMON,
        "policy.horizon": 64,
        "policy.n_action_steps": 32,
        "policy.vision_backbone": "resnet18",
        "policy.pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1",
        "policy.use_group_norm": False,
        "policy.spatial_softmax_num_keypoints": 32,
        "policy.use_separate_rgb_encoder_per_camera": True,
        "policy.crop_is_random": True,
        "policy.crop_per": "batch",
        "policy.down_dims": [512, 1024, 2048],
        "policy.diffusion_step_embed_dim": 128,
        "policy.normalization_environment_state": "IDENTITY",
        "optimizer.name": "adam",
        "optimizer.grad_clip_norm": 10.0,
        "ema.enabled": False,
    },
    "paper-image": {
        **_PAPER,
        "policy.vision_backbone": "resnet18",
        "policy.pretrained_backbone_weights": None,
        "policy.use_group_norm": True,
        "policy.spatial_softmax_num_keypoints": 32,
        "policy.use_separate_rgb_encoder_per_camera": True,
        "policy.crop_ratio": 0.875,  # Push-T: 84 of 96 pixels
        "policy.crop_is_random": True,
        "policy.crop_per": "sample",
        "policy.down_dims": [512, 1024, 2048],
        "policy.diffusion_step_embed_dim": 128,
    },
    "paper-lowdim": {
        **_PAPER,
        "policy.down_dims": [256, 512, 1024],
        "policy.diffusion_step_embed_dim": 256,
    },
    "small": {
        **_COMMON,
        **_AVERAGE,
        "policy.horizon": 16,
        "policy.n_action_steps": 8,
        "policy.down_dims": [64, 128, 256],
        "policy.diffusion_step_embed_dim": 64,
        "policy.spatial_softmax_num_keypoints": 16,
        "policy.sampler": "DDIM",
        "policy.num_inference_steps": 10,
        "optimizer.name": "adamw",
    },
}
"""The values of each preset by dotted name."""


def preset_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that the preset of a configuration sets, without fields that the configuration names."""
    if config.get("policy.path") is not None:
        return {}  # which `clashes` reports
    values = dict(PRESETS.get(str(config.get(PRESET_FIELD)), {}))
    if "policy.crop_shape" in config or "policy.resize_shape" in config:
        values.pop("policy.crop_ratio", None)  # a share of another size
    return {name: value for name, value in values.items() if name not in config}
