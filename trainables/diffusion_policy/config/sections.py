"""The sections of the configuration, a frozen dataclass each.

Each field has its unit, its legal range and its phase (what must be repeated when it changes). Numbers
that follow from others are properties and are never stored. Standard library only.

Names and defaults are those of the paper (Chi et al., "Diffusion Policy", arXiv 2303.04137) and of LeRobot;
if a default differs from LeRobot's, the field's text says so.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from trainables.interface import Phase

__all__ = [
    "BUILTIN_PUSHT",
    "FLOW",
    "FLOW_SAMPLERS",
    "SAMPLERS",
    "TIMESTEP_SPACINGS",
    "TIME_SAMPLINGS",
    "AugmentConfig",
    "DatasetConfig",
    "EmaConfig",
    "EvalConfig",
    "LrSchedulerConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "RolloutConfig",
    "TrainConfig",
    "sampler_problem",
]

BUILTIN_PUSHT = "builtin/pusht"
"""The ``dataset.repo_id`` of the demonstrations that come with this package."""

NORMALIZATIONS = ("MIN_MAX", "MEAN_STD", "QUANTILES", "IDENTITY")
SAMPLERS = ("DDPM", "DDIM", "DPM-Solver++", "UniPC")
"""Samplers of a diffusion."""
FLOW_SAMPLERS = ("Euler", "Heun")
"""Samplers of a flow; DDIM is Euler's method there."""
FLOW = "flow"
"""The ``policy.prediction_type`` of flow matching."""
TIMESTEP_SPACINGS = ("leading", "trailing", "linspace")
TIME_SAMPLINGS = ("uniform", "logit_normal", "beta")
PRECISIONS = ("fp32", "bf16", "fp16")
EVALUATIONS = ("auto", "beside", "inline")
PATH_OR_HUB = "path or hub id"
"""Unit of a field that takes either."""


def _field(
    kind: str,
    default: Any,
    doc: str,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[Any, ...] | None = None,
    unit: str = "",
    phase: Phase = "train",
    nullable: bool = False,
    word: str = "",
) -> Any:
    metadata = {
        "kind": kind,
        "doc": doc,
        "minimum": minimum,
        "maximum": maximum,
        "choices": choices,
        "unit": unit,
        "phase": phase,
        "nullable": nullable or default is None,
        "word": word,
    }
    return dataclasses.field(default=default, metadata=metadata)


def sampler_problem(prediction_type: str, sampler: str) -> tuple[str, str] | None:
    """Why a sampler cannot sample what is predicted, and what to do; None if it can."""
    flow = prediction_type == FLOW
    possible: tuple[str, ...] = FLOW_SAMPLERS if flow else SAMPLERS
    # DDIM of a flow too, so that one sampler can be named for diffusions and flows.
    if sampler in possible or (flow and sampler == "DDIM"):
        return None
    problem = f"{sampler!r} is not a sampler for policy.prediction_type: {prediction_type}."
    return problem, f"Use one of {', '.join(possible)}."


@dataclass(frozen=True)
class DatasetConfig:
    """The demonstrations to learn from."""

    root: str | tuple[str, ...] | None = _field(
        "texts",
        None,
        "Folder of a LeRobot dataset, here or in a store (s3://, gs://, az://), or several whose features "
        "match; takes precedence over repo_id.",
        phase="data",
    )
    repo_id: str | tuple[str, ...] | None = _field(
        "texts",
        None,
        f"Hub id of a LeRobot dataset, or several; {BUILTIN_PUSHT} is the built-in one.",
        phase="data",
    )
    revision: str | None = _field(
        "str", None, "Branch, tag or commit on the hub, of every repo_id; null: newest.", phase="data"
    )
    episodes: tuple[int | str, ...] | None = _field(
        "ranges", None, "Episodes to use; null: all. 0-99 includes its end, 0:100 does not.", phase="data"
    )
    exclude_episodes: tuple[int | str, ...] = _field("ranges", (), "Episodes to leave out.", phase="data")
    features: Mapping[str, str | Sequence[str]] | None = _field(
        "dict",
        None,
        "Features that have another name in the dataset: {its name: ours}, e.g. {actions: action}; vectors "
        "of several: {ours: [its names]}.",
        phase="data",
    )
    observations: tuple[str, ...] | None = _field(
        "list[str]", None, "Observation features to use; null: every one the dataset has.", phase="data"
    )
    holdout_fraction: float = _field(
        "float",
        0.1,
        "Share of the episodes kept out of training for eval/*.",
        minimum=0.0,
        maximum=0.5,
        phase="data",
    )
    fraction: float = _field(
        "float",
        1.0,
        "Share of the training episodes to train on, chosen by split_seed: a smaller share is a part of a "
        "larger one. The held-out episodes stay the same.",
        minimum=1e-6,
        maximum=1.0,
        phase="data",
    )
    split_seed: int = _field("int", 0, "Seed of the split by episode.", minimum=0, phase="data")
    use_imagenet_stats: bool = _field(
        "bool", True, "Normalise images with ImageNet's mean and std, as LeRobot does.", phase="data"
    )
    tolerance_s: float = _field(
        "float",
        1e-4,
        "Largest distance of a video frame from its timestamp.",
        minimum=0.0,
        unit="s",
        phase="data",
    )


@dataclass(frozen=True)
class PolicyConfig:
    """The network, the diffusion process, the window of time, and the initial weights."""

    path: str | None = _field(
        "str",
        None,
        "Checkpoint to fine-tune: LeRobot's, a trial's, a .ckpt file; sets the policy fields not named.",
        unit=PATH_OR_HUB,
        phase="data",
    )
    preset: str | None = _field(
        "str", None, "A named start: its values hold for fields that are not named (docs/spaces.md).",
        choices=("lerobot-0.6", "paper-image", "paper-lowdim", "small"),
    )  # fmt: skip
    stats: str = _field(
        "str", "dataset", "Statistics to normalise with: the dataset's, as LeRobot does, or policy.path's.",
        choices=("dataset", "checkpoint"),
    )  # fmt: skip
    reinit_mismatched: bool = _field(
        "bool", False, "Reinitialise layers that do not fit policy.path's, instead of refusing."
    )
    n_obs_steps: int = _field(
        "int", 2, "Observation steps that condition the policy.", minimum=1, unit="steps"
    )
    horizon: int = _field("int", 16, "Action steps that are predicted at once.", minimum=1, unit="steps")
    n_action_steps: int = _field(
        "int", 8, "Predicted actions that are executed before the next prediction.", minimum=1, unit="steps",
        phase="inference",
    )  # fmt: skip
    vision_backbone: str = _field(
        "str", "resnet18", "Image backbone.", choices=("resnet18", "resnet34", "resnet50", "resnet101")
    )
    pretrained_backbone_weights: str | None = _field(
        "str",
        None,
        "Weights that the backbone starts from: torchvision's name, e.g. ResNet18_Weights.IMAGENET1K_V1 (in "
        "torch hub's cache, or fetched), or a .pth file.",
    )
    resize_shape: tuple[int, ...] | None = _field(
        "list[int]",
        None,
        "Image size (height, width) after decoding; null: as recorded.",
        minimum=8,
        unit="px",
    )
    crop_shape: tuple[int, ...] | None = _field(
        "list[int]",
        None,
        "Crop (height, width): random in training, centred otherwise.",
        minimum=8,
        unit="px",
    )
    crop_ratio: float = _field(
        "float",
        1.0,
        "Crop as a share of the resized image; only without crop_shape.",
        minimum=0.05,
        maximum=1.0,
    )
    crop_is_random: bool = _field("bool", True, "Crop at random in training.")
    crop_per: str = _field(
        "str", "sample", "Random crop: an offset per sample (the paper) or one per batch (LeRobot).",
        choices=("sample", "batch"),
    )  # fmt: skip
    use_group_norm: bool = _field("bool", True, "GroupNorm instead of BatchNorm in the backbone.")
    spatial_softmax_num_keypoints: int = _field("int", 32, "Keypoints of the spatial softmax.", minimum=1)
    use_separate_rgb_encoder_per_camera: bool = _field("bool", False, "One encoder per camera.")
    down_dims: tuple[int, ...] = _field(
        "list[int]", (512, 1024, 2048), "Channels of the U-Net's levels.", minimum=8
    )
    kernel_size: int = _field("int", 5, "Kernel of the U-Net's convolutions; odd.", minimum=1)
    n_groups: int = _field("int", 8, "Groups of the U-Net's GroupNorm.", minimum=1)
    diffusion_step_embed_dim: int = _field("int", 128, "Size of the timestep's embedding; even.", minimum=4)
    use_film_scale_modulation: bool = _field("bool", True, "FiLM with scale and bias, not bias alone.")
    noise_scheduler_type: str = _field(
        "str", "DDPM", "Diffusion process of training.", choices=("DDPM", "DDIM")
    )
    num_train_timesteps: int = _field(
        "int", 100, "Diffusion timesteps in training.", minimum=1, maximum=10_000
    )
    beta_schedule: str = _field(
        "str",
        "squaredcos_cap_v2",
        "Noise schedule.",
        choices=("squaredcos_cap_v2", "linear", "scaled_linear"),
    )
    beta_start: float = _field("float", 1e-4, "First beta (linear schedules).", minimum=1e-8, maximum=0.999)
    beta_end: float = _field("float", 0.02, "Last beta (linear schedules).", minimum=1e-8, maximum=0.999)
    prediction_type: str = _field(
        "str",
        "epsilon",
        "What the U-Net predicts; flow: the velocity from actions to noise (flow matching).",
        choices=("epsilon", "sample", "v_prediction", FLOW),
    )
    time_sampling: str = _field(
        "str", "uniform", "How the times of flow matching are drawn in training; beta: more noise, as in π0.",
        choices=TIME_SAMPLINGS,
    )  # fmt: skip
    clip_sample: bool = _field("bool", True, "Clip the predicted action while denoising.", phase="inference")
    clip_sample_range: float = _field(
        "float", 1.0, "Bound of that clip, in normalised units.", minimum=1e-3, phase="inference"
    )
    sampler: str | None = _field(
        "str", None, "Sampler at inference; null: as in training, Euler with flow (where DDIM is the same).",
        choices=(*SAMPLERS, *FLOW_SAMPLERS),
        phase="inference", nullable=True,
    )  # fmt: skip
    num_inference_steps: int | None = _field(
        "int", None, "Denoising steps at inference; null: num_train_timesteps.", minimum=1, phase="inference"
    )
    timestep_spacing: str | None = _field(
        "str", None, "Which timesteps a sampler takes; null: leading (DDPM, DDIM), trailing (flow), "
        "linspace (others).",
        choices=TIMESTEP_SPACINGS, phase="inference",
    )  # fmt: skip
    warm_start_steps: int = _field(
        "int", 0, "First denoising steps that the rest of the last chunk replaces; 0: begin from noise.",
        minimum=0, unit="steps", phase="inference",
    )  # fmt: skip
    use_ema: bool = _field(
        "bool", True, "Act with the averaged weights, if the training keeps them.", phase="inference"
    )
    do_mask_loss_for_padding: bool = _field("bool", False, "Leave padded actions out of the loss.")
    normalization_visual: str = _field("str", "MEAN_STD", "Normalisation of images.", choices=NORMALIZATIONS)
    normalization_state: str = _field(
        "str", "MIN_MAX", "Normalisation of observation.state.", choices=NORMALIZATIONS
    )
    normalization_environment_state: str = _field(
        "str", "MIN_MAX", "Normalisation of observation.environment_state (LeRobot: IDENTITY).",
        choices=NORMALIZATIONS,
    )  # fmt: skip
    normalization_action: str = _field("str", "MIN_MAX", "Normalisation of actions.", choices=NORMALIZATIONS)

    @property
    def available_actions(self) -> int:
        """Predicted actions from the current step on: ``horizon - n_obs_steps + 1``."""
        return self.horizon - self.n_obs_steps + 1

    @property
    def drop_n_last_frames(self) -> int:
        """Frames at an episode's end at which no window starts (LeRobot always uses 7)."""
        return self.available_actions - self.n_action_steps

    @property
    def downsampling(self) -> int:
        """What the horizon must be a multiple of.

        The lowest level keeps its length, but LeRobot requires ``2 ** len(down_dims)``, and it must be able
        to load our checkpoints.
        """
        return 2 ** len(self.down_dims)

    @property
    def inference_steps(self) -> int:
        """Denoising steps at inference."""
        return self.num_train_timesteps if self.num_inference_steps is None else self.num_inference_steps

    @property
    def is_flow(self) -> bool:
        """Whether it is trained by flow matching."""
        return self.prediction_type == FLOW

    @property
    def inference_sampler(self) -> str:
        """Sampler at inference."""
        if self.sampler is not None:
            return self.sampler
        return "Euler" if self.is_flow else self.noise_scheduler_type

    @property
    def inference_spacing(self) -> str:
        """How the timesteps of inference are spaced: diffusers' default of the sampler unless it is set."""
        if self.timestep_spacing is not None:
            return self.timestep_spacing
        if self.is_flow:
            return "trailing"
        return "leading" if self.inference_sampler in ("DDPM", "DDIM") else "linspace"

    def crop_size(self, image: tuple[int, int]) -> tuple[int, int] | None:
        """Crop (height, width) of an image (height, width) after resizing; None: the whole image."""
        if self.crop_shape is not None:
            return (self.crop_shape[0], self.crop_shape[1])
        if self.crop_ratio < 1.0:
            return (int(image[0] * self.crop_ratio), int(image[1] * self.crop_ratio))
        return None


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser."""

    name: str = _field("str", "adamw", "Optimiser (LeRobot: adam).", choices=("adamw", "adam"))
    lr: float = _field("float", 1e-4, "Peak learning rate.", minimum=0.0)
    lr_batch_rule: str = _field(
        "str",
        "none",
        "How lr follows train.batch_size; lr is then meant for a batch of lr_batch_reference. sqrt is usual "
        "with Adam.",
        choices=("none", "linear", "sqrt"),
    )
    lr_batch_reference: int = _field(
        "int", 64, "Batch for which lr is meant, with lr_batch_rule.", minimum=1, unit="samples"
    )
    betas: tuple[float, ...] = _field(
        "list[float]", (0.95, 0.999), "Adam's betas.", minimum=0.0, maximum=0.999999
    )
    eps: float = _field("float", 1e-8, "Adam's epsilon.", minimum=1e-16)
    weight_decay: float = _field("float", 1e-6, "Weight decay.", minimum=0.0)
    grad_clip_norm: float = _field("float", 10.0, "Clip the gradient's norm to this; 0: never.", minimum=0.0)
    vision_encoder_lr_multiplier: float = _field(
        "float",
        1.0,
        "Learning rate of the vision encoder, as a multiple of lr; 0: frozen (only the backbone if it has "
        "pretrained_backbone_weights).",
        minimum=0.0,
    )

    def lr_of(self, batch_size: int) -> float:
        """The peak learning rate with a batch of so many samples.

        Linear: Goyal et al., arXiv 1706.02677; sqrt: Krizhevsky, arXiv 1404.5997, and for Adam Malladi et
        al., arXiv 2205.10287.
        """
        ratio = batch_size / self.lr_batch_reference
        return self.lr * {"none": 1.0, "linear": ratio, "sqrt": math.sqrt(ratio)}[self.lr_batch_rule]


@dataclass(frozen=True)
class LrSchedulerConfig:
    """The learning rate over time."""

    name: str = _field("str", "cosine", "Shape after the warmup.", choices=("cosine", "constant", "linear"))
    warmup_steps: int = _field("int", 500, "Steps of linear warmup.", minimum=0, unit="steps")


@dataclass(frozen=True)
class EmaConfig:
    """Exponential moving average of the weights; evaluation and export use it when it is on."""

    enabled: bool = _field("bool", True, "Keep an average of the weights.")
    inv_gamma: float = _field("float", 1.0, "Inverse multiplicative factor of the warmup.", minimum=1e-6)
    power: float = _field("float", 0.75, "Exponent of the warmup.", minimum=0.0, maximum=1.0)
    max_decay: float = _field("float", 0.9999, "Largest decay.", minimum=0.0, maximum=0.999999)
    every: int = _field(
        "int",
        1,
        "Steps between updates of the average; more than 1 saves memory traffic. An update has the decays of "
        "all steps since the last one.",
        minimum=1,
        unit="steps",
    )


@dataclass(frozen=True)
class TrainConfig:
    """The training loop."""

    steps: int = _field("int", 20_000, "Optimiser steps.", minimum=1, unit="steps")
    batch_size: int = _field(
        "int", 64, "Samples per optimiser step, over all workers.", minimum=1, unit="samples"
    )
    gradient_accumulation_steps: int = _field("int", 1, "Backward passes per optimiser step.", minimum=1)
    precision: str = _field("str", "fp32", "Arithmetic of the forward pass.", choices=PRECISIONS)
    gradient_checkpointing: bool = _field("bool", False, "Compute activations again to save memory.")
    compile: bool | Literal["graph"] = _field(
        "bool",
        False,
        "torch.compile the network; graph: record the whole step as a CUDA graph (one GPU, no accumulation, "
        "no fp16; plain steps otherwise).",
        word="graph",
    )
    compile_mode: str = _field(
        "str",
        "default",
        "Mode of torch.compile, if train.compile is true.",
        choices=("default", "reduce-overhead", "max-autotune"),
    )
    tf32: bool | None = _field(
        "bool",
        None,
        "TF32 on a GPU, for float32 convolutions and matrix products; null: as PyTorch does, in convolutions "
        "only.",
    )
    cudnn_benchmark: bool = _field(
        "bool",
        False,
        "Let cuDNN measure which of its convolutions are fastest; repeated runs may then differ.",
    )
    flush_denormals: bool = _field(
        "bool", False, "On a CPU, treat numbers below 1e-38 as 0; they are many times slower."
    )
    seed: int = _field("int", 0, "Seed of weights, order, noise and crops.", minimum=0)
    log_every: int = _field("int", 100, "Steps between reports.", minimum=1, unit="steps")
    eval_every: int = _field("int", 5_000, "Steps between evaluations.", minimum=1, unit="steps")
    eval_at_start: bool | None = _field(
        "bool", None, "Evaluate, and keep a checkpoint, before the first step; null: with policy.path."
    )
    evaluation: str = _field(
        "str",
        "auto",
        "Evaluate in a process beside training, or inline, while training waits; auto: beside if a CPU is "
        "idle. Does not change the result.",
        choices=EVALUATIONS,
    )
    checkpoint_every: int | None = _field(
        "int", None, "Steps between checkpoints; null: at every evaluation.", minimum=1, unit="steps"
    )


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the pictures in training, drawn evenly for each sample; none by default."""

    brightness: float = _field(
        "float", 0.0, "Change of brightness, by a factor within 1 ± this.", minimum=0.0, maximum=1.0
    )
    contrast: float = _field(
        "float", 0.0, "Change of contrast, by a factor within 1 ± this.", minimum=0.0, maximum=1.0
    )
    saturation: float = _field(
        "float", 0.0, "Change of saturation, by a factor within 1 ± this.", minimum=0.0, maximum=1.0
    )
    hue: float = _field(
        "float", 0.0, "Change of hue, by up to ± this share of the colour circle.", minimum=0.0, maximum=0.5
    )
    sharpness: float = _field(
        "float", 0.0, "Change of sharpness, by a factor within 1 ± this.", minimum=0.0, maximum=1.0
    )
    affine_degrees: float = _field(
        "float", 0.0, "Rotation, by up to ± this.", minimum=0.0, maximum=180.0, unit="°"
    )
    affine_translate: float = _field(
        "float", 0.0, "Shift, by up to ± this share of height and width.", minimum=0.0, maximum=0.5
    )
    affine_scale: float = _field("float", 0.0, "Zoom, by a factor within 1 ± this.", minimum=0.0, maximum=0.9)
    blur_sigma: float = _field(
        "float",
        0.0,
        "Gaussian blur with a standard deviation of up to this.",
        minimum=0.0,
        maximum=10.0,
        unit="px",
    )
    erasing: float = _field(
        "float", 0.0, "Probability that a rectangle is made black.", minimum=0.0, maximum=1.0
    )
    erasing_scale: float = _field(
        "float", 0.33, "Largest share of the picture that is made black.", minimum=0.02, maximum=1.0
    )

    @property
    def is_on(self) -> bool:
        """Whether anything is changed."""
        changes = (item.name for item in dataclasses.fields(self) if item.name != "erasing_scale")
        return any(getattr(self, name) for name in changes)


@dataclass(frozen=True)
class EvalConfig:
    """Held-out action error: the same measurement for every trial, whatever its horizon or noise schedule."""

    windows: int = _field("int", 256, "Held-out windows, or all if there are fewer.", minimum=1)
    window_steps: int = _field(
        "int", 4, "Actions compared per window, from the current step on.", minimum=1, unit="steps"
    )
    samples: int = _field(
        "int", 2, "Action chunks drawn per window; 2 or more give eval/action_std.", minimum=1
    )
    sampler: str = _field(
        "str", "DDIM", "Sampler of every trial; with flow, DDIM is Euler's method.",
        choices=(*SAMPLERS, *FLOW_SAMPLERS),
    )  # fmt: skip
    num_inference_steps: int = _field("int", 10, "Denoising steps of every trial.", minimum=1)
    seed: int = _field("int", 0, "Seed of windows and noise.", minimum=0)
    denoising_picture: bool = _field(
        "bool", True, "Draw at the last evaluation how noise becomes actions (denoising/picture)."
    )


@dataclass(frozen=True)
class RolloutConfig:
    """Rollouts in a simulator."""

    env: str | None = _field("str", None, "Gymnasium id, e.g. gym_pusht/PushT-v0; null: no rollouts.")
    episodes: int = _field("int", 50, "Episodes per evaluation.", minimum=1)
    final_episodes: int | None = _field(
        "int", None, "Episodes of the last evaluation; null: as many as episodes.", minimum=1
    )
    parallel: int = _field("int", 32, "Environments stepped at once; does not change the result.", minimum=1)
    processes: int | Literal["auto"] = _field(
        "int",
        "auto",
        "Processes that step them; 1: the policy's own; auto: by a measurement. Does not change the result.",
        minimum=1,
        word="auto",
    )
    timeout_s: float = _field(
        "float",
        300.0,
        "How long a reset or a step in a process of its own may take before the episode is retried.",
        minimum=1,
        unit="s",
    )
    seed: int = _field(
        "int", 100_000, "Episode i starts from seed + i: the same starts for every trial.", minimum=0
    )
    max_steps: int | None = _field("int", None, "Steps per episode; null: the environment's own.", minimum=1)
    control: str = _field(
        "str",
        "sync",
        "How chunks are executed: the robot waits for each (sync), predicts ahead (async), averages them "
        "(ensemble), or continues the last one (rtc).",
        choices=("sync", "async", "ensemble", "rtc"),
    )
    latency_ms: float | Literal["measured"] = _field(
        "float",
        0.0,
        "How late a chunk arrives; measured: as long as a prediction takes on this machine.",
        minimum=0,
        unit="ms",
        word="measured",
    )
    replan: float = _field(
        "float",
        0.5,
        "Share of n_action_steps that is left when the next chunk is requested (async, rtc).",
        minimum=0,
        maximum=1,
    )
    video: str = _field(
        "str", "final", "Film the last evaluation, every one, or none.", choices=("final", "every", "never")
    )
    video_episodes: int = _field("int", 4, "Episodes in a film, failures first.", minimum=1, maximum=16)
