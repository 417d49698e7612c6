"""Values that are legal by themselves and cannot be combined. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trainables.addresses import address_faults
from trainables.diffusion_policy.config.backbones import FIELD, weights_fault
from trainables.diffusion_policy.config.sections import (
    BUILTIN_PUSHT,
    FLOW,
    DatasetConfig,
    EmaConfig,
    EvalConfig,
    LrSchedulerConfig,
    OptimizerConfig,
    PolicyConfig,
    TrainConfig,
    sampler_problem,
)
from trainables.interface import Fault, is_url
from trainables.ranges import parse_choice

__all__ = [
    "batch_faults",
    "crop_faults",
    "dataset_faults",
    "diffusion_faults",
    "flow_remarks",
    "image_faults",
    "network_faults",
    "pretrained_remarks",
    "scratch_faults",
    "training_faults",
    "window_faults",
]

FINAL_CONV_GROUPS = 8
"""Groups of the U-Net's last GroupNorm: fixed in LeRobot and in the original code."""
DIFFUSION_FIELDS = (
    "policy.noise_scheduler_type",
    "policy.beta_schedule",
    "policy.beta_start",
    "policy.beta_end",
)
"""Fields of a diffusion that mean nothing to a flow."""
MIN_CROP_COVERAGE = 0.25
"""A crop that keeps less of the (resized) image than this is refused as a mistake."""


def scratch_faults(policy: PolicyConfig, optimizer: OptimizerConfig) -> list[Fault]:
    """Values that only a policy that starts from a checkpoint can have, or that one cannot have."""
    if policy.path is not None and policy.preset is not None:
        problem = f"{policy.preset} sets fields that the checkpoint of policy.path decides."
        return [Fault("policy.preset", problem, "Remove policy.preset, or policy.path.")]
    if policy.path is not None:
        return []
    faults = []
    if policy.stats == "checkpoint":
        remedy = "Set policy.path, or policy.stats: dataset."
        faults.append(Fault("policy.stats", "'checkpoint' needs policy.path, which is not set.", remedy))
    if optimizer.vision_encoder_lr_multiplier == 0.0 and policy.pretrained_backbone_weights is None:
        problem = "0 would freeze an encoder with random weights."
        remedy = (
            "Set policy.path to a checkpoint with a trained encoder, or policy.pretrained_backbone_weights, "
            "or use a number above 0."
        )
        faults.append(Fault("optimizer.vision_encoder_lr_multiplier", problem, remedy))
    return faults


def dataset_faults(dataset: DatasetConfig) -> list[Fault]:
    """A dataset must be named, in one field, and each episode in one field too."""
    faults = []
    if dataset.root is None and dataset.repo_id is None:
        remedy = f"Set it to a LeRobot folder, or set dataset.repo_id ({BUILTIN_PUSHT} is built in)."
        faults.append(Fault("dataset.root", "no dataset is named.", remedy))
    faults += [
        Fault(f"dataset.{name}", "is an empty list.", "Name a dataset, or several, or use null.")
        for name in ("root", "repo_id")
        if getattr(dataset, name) == ()
    ]
    roots = (dataset.root,) if isinstance(dataset.root, str) else dataset.root or ()
    for root in filter(is_url, roots):
        faults += address_faults("dataset.root", root)
    if dataset.root is None:
        repo_ids = dataset.repo_id if isinstance(dataset.repo_id, tuple) else (dataset.repo_id or "",)
        faults += [
            Fault("dataset.repo_id", "is an address, not a name on the hub.", "Set it as dataset.root.")
            for _ in filter(is_url, repo_ids)
        ]
        faults += [
            Fault(
                "dataset.repo_id",
                f"{repo_id!r} is not a built-in dataset.",
                f"The only one is {BUILTIN_PUSHT}.",
            )
            for repo_id in repo_ids
            if repo_id.startswith("builtin/") and repo_id != BUILTIN_PUSHT
        ]
    if dataset.episodes is not None and not dataset.episodes:
        faults.append(Fault("dataset.episodes", "is empty.", "List at least two episodes, or null for all."))
    both = parse_choice(dataset.episodes or ()).numbers & parse_choice(dataset.exclude_episodes).numbers
    if both:
        problem = f"{sorted(both)} are in dataset.episodes too."
        faults.append(Fault("dataset.exclude_episodes", problem, "List each episode in only one of the two."))
    faults += [
        Fault("dataset.features", f"{name!r} becomes {target!r}.", "Use a name, or a list of names.")
        for name, target in (dataset.features or {}).items()
        if not (target and (isinstance(target, str) or _are_texts(target)))
    ]
    return faults


def _are_texts(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(isinstance(text, str) and text for text in value)


def window_faults(policy: PolicyConfig, evaluation: EvalConfig) -> list[Fault]:
    """The horizon must fit the U-Net, and contain the actions that are executed and compared."""
    faults = []
    if policy.horizon % policy.downsampling:
        levels = len(policy.down_dims)
        legal = _nearest_multiples(policy.horizon, policy.downsampling)
        faults.append(
            Fault(
                "policy.horizon",
                f"{policy.horizon} is not a multiple of {policy.downsampling}, as {levels} levels need.",
                f"Nearest legal values: {legal}; or change the number of policy.down_dims.",
            )
        )
    available = policy.available_actions
    if policy.n_action_steps > available:
        sizes = f"horizon {policy.horizon} and n_obs_steps {policy.n_obs_steps}"
        faults.append(
            Fault(
                "policy.n_action_steps",
                f"{policy.n_action_steps} actions cannot be executed: {sizes} allow {max(available, 0)}.",
                "Keep `policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1`.",
            )
        )
    if evaluation.window_steps > available:
        faults.append(
            Fault(
                "eval.window_steps",
                f"{evaluation.window_steps} actions cannot be compared: {max(available, 0)} are predicted "
                "from the current step on.",
                "Lower it to the smallest horizon - n_obs_steps + 1 of the space.",
            )
        )
    return faults


def _nearest_multiples(value: int, base: int) -> str:
    below, above = value // base * base, -(-value // base) * base
    return f"{below} and {above}" if below else str(above)


def network_faults(policy: PolicyConfig) -> list[Fault]:
    """The sizes of the U-Net must fit its convolutions and its normalisation."""
    faults = []
    if not policy.down_dims:
        faults.append(Fault("policy.down_dims", "is empty.", "List the channels of at least one level."))
    faults += [
        Fault(
            "policy.down_dims",
            f"{width} channels cannot be split into policy.n_groups = {policy.n_groups} groups.",
            f"Use multiples of {policy.n_groups}.",
        )
        for width in policy.down_dims
        if width % policy.n_groups
    ]
    if policy.down_dims and policy.down_dims[0] % FINAL_CONV_GROUPS:
        remedy = f"The last GroupNorm has {FINAL_CONV_GROUPS} groups: use a multiple of {FINAL_CONV_GROUPS}."
        faults.append(
            Fault("policy.down_dims", f"the first level has {policy.down_dims[0]} channels.", remedy)
        )
    if policy.kernel_size % 2 == 0:
        remedy = "Use an odd number, so that the convolution keeps the length."
        faults.append(Fault("policy.kernel_size", f"{policy.kernel_size} is even.", remedy))
    if policy.diffusion_step_embed_dim % 2:
        faults.append(
            Fault(
                "policy.diffusion_step_embed_dim",
                f"{policy.diffusion_step_embed_dim} is odd.",
                "Use an even number.",
            )
        )
    if policy.use_group_norm and policy.pretrained_backbone_weights is not None:
        faults.append(
            Fault(
                "policy.use_group_norm",
                "GroupNorm cannot take pretrained weights, which were trained with BatchNorm.",
                "Set policy.use_group_norm: false, or policy.pretrained_backbone_weights: null.",
            )
        )
    if policy.pretrained_backbone_weights is not None:
        fault = weights_fault(policy.vision_backbone, policy.pretrained_backbone_weights)
        faults += [] if fault is None else [fault]
    return faults


def diffusion_faults(policy: PolicyConfig, evaluation: EvalConfig) -> list[Fault]:
    """Denoising takes at most as many steps as training has timesteps, and noise must grow."""
    faults = []
    faults += _sampler_faults(policy, evaluation)
    counts = {
        "policy.num_inference_steps": policy.inference_steps,
        "eval.num_inference_steps": evaluation.num_inference_steps,
    }
    for name, count in counts.items():
        if count > policy.num_train_timesteps:
            remedy = f"It must be at most policy.num_train_timesteps = {policy.num_train_timesteps}."
            faults.append(Fault(name, f"{count} is too many.", remedy))
    if policy.warm_start_steps >= policy.inference_steps:
        problem = f"{policy.warm_start_steps} of {policy.inference_steps} denoising steps cannot be skipped."
        remedy = f"Use at most {policy.inference_steps - 1}, or more policy.num_inference_steps."
        faults.append(Fault("policy.warm_start_steps", problem, remedy))
    solver = not policy.is_flow and policy.inference_sampler not in ("DDPM", "DDIM")
    if solver and policy.inference_spacing == "leading":
        # diffusers divides the process into one part more than there are steps.
        most = policy.num_train_timesteps - 1
        if policy.inference_steps > most:
            problem = f"{policy.inference_steps} is too many for {policy.sampler} with leading timesteps."
            remedy = f"Use at most {most}, or set policy.timestep_spacing to trailing or linspace."
            faults.append(Fault("policy.num_inference_steps", problem, remedy))
    schedule = policy.beta_schedule != "squaredcos_cap_v2" and not policy.is_flow
    if schedule and policy.beta_start >= policy.beta_end:
        remedy = "Noise grows over the timesteps: beta_start must be below beta_end."
        faults.append(
            Fault("policy.beta_start", f"{policy.beta_start} is not below {policy.beta_end}.", remedy)
        )
    return faults


def _sampler_faults(policy: PolicyConfig, evaluation: EvalConfig) -> list[Fault]:
    """Diffusions and flows have separate samplers and training times."""
    faults = []
    for name, sampler in (("policy.sampler", policy.inference_sampler), ("eval.sampler", evaluation.sampler)):
        found = sampler_problem(policy.prediction_type, sampler)
        if found is not None:
            faults.append(Fault(name, *found))
    if policy.is_flow and policy.timestep_spacing == "leading":
        problem = "leading begins below the noise, and a flow must begin at it."
        faults.append(Fault("policy.timestep_spacing", problem, "Use trailing, linspace or null."))
    if not policy.is_flow and policy.time_sampling != "uniform":
        problem = (
            f"{policy.time_sampling} needs policy.prediction_type: {FLOW}, not {policy.prediction_type}."
        )
        remedy = f"Remove it, or search it with `when: policy.prediction_type == '{FLOW}'`."
        faults.append(Fault("policy.time_sampling", problem, remedy))
    return faults


def flow_remarks(policy: PolicyConfig, named: Mapping[str, Any]) -> list[str]:
    """Fields that a configuration names and that flow matching does not use.

    Args:
        policy: The completed policy.
        named: The configuration's values by dotted name.
    """
    if not policy.is_flow:
        return []
    defaults = PolicyConfig()
    return [
        f"{name}: {named[name]} has no effect with policy.prediction_type: {FLOW}. Remove it, or search it "
        f"with `when: policy.prediction_type != '{FLOW}'`."
        for name in DIFFUSION_FIELDS
        if name in named and named[name] != getattr(defaults, name.removeprefix("policy."))
    ]


def pretrained_remarks(policy: PolicyConfig, dataset: DatasetConfig) -> list[str]:
    """Images that a pretrained backbone gets on another scale than that of its training."""
    if policy.pretrained_backbone_weights is None:
        return []
    wrong = []
    if not dataset.use_imagenet_stats:
        wrong.append("dataset.use_imagenet_stats: false")
    if policy.normalization_visual != "MEAN_STD":
        wrong.append(f"policy.normalization_visual: {policy.normalization_visual}")
    if not wrong:
        return []
    return [
        f"{FIELD}: the weights were trained on images with ImageNet's mean and std, and "
        f"{' and '.join(wrong)} gives the encoder others."
    ]


def image_faults(policy: PolicyConfig) -> list[Fault]:
    """Images have two sizes, and the crop must fit into the resized one."""
    faults = []
    for name in ("resize_shape", "crop_shape"):
        shape: Sequence[int] | None = getattr(policy, name)
        if shape is not None and len(shape) != 2:
            faults.append(
                Fault(f"policy.{name}", f"{list(shape)} has {len(shape)} numbers.", "Use [height, width].")
            )
    if faults or policy.resize_shape is None:
        return faults
    height, width = policy.resize_shape
    return crop_faults(policy, (height, width), "policy.resize_shape")


def crop_faults(policy: PolicyConfig, image: tuple[int, int], source: str) -> list[Fault]:
    """What is wrong with cropping an image of (height, width); ``source`` describes the size in messages."""
    crop = policy.crop_size(image)
    if crop is None:
        return []
    size = f"{image[0]}×{image[1]} ({source})"
    if crop[0] > image[0] or crop[1] > image[1]:
        remedy = "The crop must fit into the image."
        return [Fault("policy.crop_shape", f"{crop[0]}×{crop[1]} is larger than the image, {size}.", remedy)]
    coverage = crop[0] * crop[1] / (image[0] * image[1])
    if coverage < MIN_CROP_COVERAGE:
        problem = f"{crop[0]}×{crop[1]} keeps {coverage:.1%} of the image, {size}."
        remedy = f"Set policy.resize_shape first, so that the crop keeps at least {MIN_CROP_COVERAGE:.0%}."
        return [Fault("policy.crop_shape", problem, remedy)]
    return []


def batch_faults(train: TrainConfig, workers: int) -> list[Fault]:
    """Every worker takes the same share of a batch, in equal parts."""
    parts = train.gradient_accumulation_steps
    if train.batch_size % (workers * parts) == 0:
        return []
    if workers == 1:
        remedy = f"Use a multiple of train.gradient_accumulation_steps = {parts}."
        return [Fault("train.batch_size", f"{train.batch_size} cannot be split evenly.", remedy)]
    problem = f"{train.batch_size} samples cannot be split evenly among {workers} workers"
    remedy = f"Use a multiple of {workers * parts}"
    if parts > 1:
        problem += f" in {parts} parts each (train.gradient_accumulation_steps)"
        remedy += f" = {workers} workers × {parts} parts"
    return [Fault("train.batch_size", f"{problem}.", f"{remedy}.")]


def training_faults(
    train: TrainConfig, optimizer: OptimizerConfig, lr_scheduler: LrSchedulerConfig, ema: EmaConfig
) -> list[Fault]:
    """The warmup must end before the training does, Adam has two betas, and the average must be updated."""
    faults = []
    warmup = lr_scheduler.warmup_steps
    if warmup >= train.steps:
        problem = f"{warmup} steps of warmup leave no step of train.steps = {train.steps}."
        faults.append(Fault("lr_scheduler.warmup_steps", problem, "Make it smaller than train.steps."))
    if len(optimizer.betas) != 2:
        faults.append(
            Fault("optimizer.betas", f"{list(optimizer.betas)} are not two numbers.", "Use [b1, b2].")
        )
    if ema.enabled and train.steps % ema.every:
        problem = f"{train.steps} steps (train.steps) are not a multiple of {ema.every}."
        remedy = "Use a divisor of train.steps, so that the final average has the last step."
        faults.append(Fault("ema.every", problem, remedy))
    return faults
