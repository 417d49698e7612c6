"""Configuration of a Diffusion Policy: what is learned from what, how, and how it is judged.

Frozen dataclasses, one per section; the dotted name of a field is ``<section>.<field>``. Each field carries
its unit, its legal range and its phase (what must be done again when it changes). Numbers that follow from
others are properties and are never stored. Standard library only.

Names and defaults are those of the paper (Chi et al., "Diffusion Policy", arXiv 2303.04137) and of LeRobot;
where they differ from LeRobot's default the field says so.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trainables.addresses import address_faults
from trainables.interface import ConfigError, Fault, FieldInfo, Phase, is_url
from trainables.ranges import parse_choice

__all__ = [
    "ALIASES",
    "BUILTIN_PUSHT",
    "FIELDS",
    "DatasetConfig",
    "DiffusionConfig",
    "EmaConfig",
    "EvalConfig",
    "LrSchedulerConfig",
    "OptimizerConfig",
    "PolicyConfig",
    "RolloutConfig",
    "TrainConfig",
    "batch_faults",
    "config_faults",
]

BUILTIN_PUSHT = "builtin/pusht"
"""The ``dataset.repo_id`` of the demonstrations that come with this package."""

NORMALIZATIONS = ("MIN_MAX", "MEAN_STD", "QUANTILES", "IDENTITY")
PRECISIONS = ("fp32", "bf16", "fp16")
PATH_OR_HUB = "path or hub id"
"""Unit of a field that takes either."""
FINAL_CONV_GROUPS = 8
"""Groups of the U-Net's last GroupNorm: fixed in LeRobot and in the original code."""
MIN_CROP_COVERAGE = 0.25
"""A crop that keeps less of the (resized) image than this is taken for a mistake."""


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
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class DatasetConfig:
    """Which demonstrations are learned from."""

    root: str | tuple[str, ...] | None = _field(
        "texts",
        None,
        "Folder of a LeRobot dataset, here or in a store (s3://, gs://, az://), or several whose features "
        "match; wins over repo_id.",
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
        "ranges", None, "Episodes to use; null: all. 0-99 has its end, 0:100 does not.", phase="data"
    )
    exclude_episodes: tuple[int | str, ...] = _field("ranges", (), "Episodes to leave out.", phase="data")
    features: Mapping[str, str] | None = _field(
        "dict",
        None,
        "Features that have another name in the dataset: {its name: ours}, e.g. {actions: action}.",
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
    split_seed: int = _field("int", 0, "Seed of the split by episode.", minimum=0, phase="data")
    use_imagenet_stats: bool = _field(
        "bool", True, "Normalise images with ImageNet's mean and std, as LeRobot does.", phase="data"
    )
    tolerance_s: float = _field(
        "float",
        1e-4,
        "How far a video frame may lie from its timestamp.",
        minimum=0.0,
        unit="s",
        phase="data",
    )


@dataclass(frozen=True)
class PolicyConfig:
    """The network, the diffusion process, the window of time it sees, and the weights it starts from."""

    path: str | None = _field(
        "str",
        None,
        "Checkpoint to fine-tune: LeRobot's, a trial's, a .ckpt file; gives what is not named under policy.",
        unit=PATH_OR_HUB,
        phase="data",
    )
    stats: str = _field(
        "str", "dataset", "Statistics to normalise with: the dataset's, as LeRobot does, or policy.path's.",
        choices=("dataset", "checkpoint"),
    )  # fmt: skip
    reinit_mismatched: bool = _field(
        "bool", False, "Begin layers anew that do not fit policy.path's, in place of refusing."
    )
    n_obs_steps: int = _field(
        "int", 2, "Observation steps that condition the policy.", minimum=1, unit="steps"
    )
    horizon: int = _field("int", 16, "Action steps that are predicted at once.", minimum=1, unit="steps")
    n_action_steps: int = _field(
        "int", 8, "Predicted actions that are executed before the next look.", minimum=1, unit="steps",
        phase="inference",
    )  # fmt: skip
    vision_backbone: str = _field(
        "str", "resnet18", "Image backbone.", choices=("resnet18", "resnet34", "resnet50", "resnet101")
    )
    pretrained_backbone_weights: str | None = _field(
        "str", None, "torchvision weights of the backbone, e.g. ResNet18_Weights.IMAGENET1K_V1."
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
        "int", 100, "Diffusion timesteps in training.", minimum=2, maximum=10_000
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
        "str", "epsilon", "What the U-Net predicts.", choices=("epsilon", "sample", "v_prediction")
    )
    clip_sample: bool = _field("bool", True, "Clip the predicted action while denoising.", phase="inference")
    clip_sample_range: float = _field(
        "float", 1.0, "Bound of that clip, in normalised units.", minimum=1e-3, phase="inference"
    )
    sampler: str | None = _field(
        "str", None, "Sampler at inference; null: as in training.", choices=("DDPM", "DDIM", "DPM-Solver++"),
        phase="inference", nullable=True,
    )  # fmt: skip
    num_inference_steps: int | None = _field(
        "int", None, "Denoising steps at inference; null: num_train_timesteps.", minimum=1, phase="inference"
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
        """Frames at an episode's end where no window starts (LeRobot fixes 7 beside this formula)."""
        return self.available_actions - self.n_action_steps

    @property
    def downsampling(self) -> int:
        """What the horizon must be a multiple of.

        The lowest level keeps its length, yet LeRobot asks for ``2 ** len(down_dims)``, and a checkpoint of
        ours must load there.
        """
        return 2 ** len(self.down_dims)

    @property
    def inference_steps(self) -> int:
        """Denoising steps at inference."""
        return self.num_train_timesteps if self.num_inference_steps is None else self.num_inference_steps

    @property
    def inference_sampler(self) -> str:
        """Sampler at inference."""
        return self.noise_scheduler_type if self.sampler is None else self.sampler

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
    betas: tuple[float, ...] = _field(
        "list[float]", (0.95, 0.999), "Adam's betas.", minimum=0.0, maximum=0.999999
    )
    eps: float = _field("float", 1e-8, "Adam's epsilon.", minimum=1e-16)
    weight_decay: float = _field("float", 1e-6, "Weight decay.", minimum=0.0)
    grad_clip_norm: float = _field("float", 10.0, "Clip the gradient's norm to this; 0: never.", minimum=0.0)
    vision_encoder_lr_multiplier: float = _field(
        "float", 1.0, "Learning rate of the vision encoder, as a multiple of lr; 0: frozen.", minimum=0.0
    )


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
    compile: bool = _field("bool", False, "torch.compile the network.")
    compile_mode: str = _field(
        "str", "default", "Mode of torch.compile.", choices=("default", "reduce-overhead", "max-autotune")
    )
    seed: int = _field("int", 0, "Seed of weights, order, noise and crops.", minimum=0)
    log_every: int = _field("int", 100, "Steps between reports.", minimum=1, unit="steps")
    eval_every: int = _field("int", 5_000, "Steps between evaluations.", minimum=1, unit="steps")
    eval_at_start: bool | None = _field(
        "bool", None, "Evaluate, and keep a checkpoint, before the first step; null: with policy.path."
    )
    checkpoint_every: int | None = _field(
        "int", None, "Steps between checkpoints; null: at every evaluation.", minimum=1, unit="steps"
    )


@dataclass(frozen=True)
class EvalConfig:
    """Held-out action error: the same question to every trial, whatever its horizon or noise schedule."""

    windows: int = _field("int", 256, "Held-out windows (or fewer, where there are fewer).", minimum=1)
    window_steps: int = _field(
        "int", 4, "Actions compared per window, from the current step on.", minimum=1, unit="steps"
    )
    samples: int = _field(
        "int", 2, "Action chunks drawn per window; 2 or more give eval/action_std.", minimum=1
    )
    sampler: str = _field("str", "DDIM", "Sampler of every trial.", choices=("DDPM", "DDIM", "DPM-Solver++"))
    num_inference_steps: int = _field("int", 10, "Denoising steps of every trial.", minimum=1)
    seed: int = _field("int", 0, "Seed of windows and noise.", minimum=0)


@dataclass(frozen=True)
class RolloutConfig:
    """Rollouts in a simulator."""

    env: str | None = _field("str", None, "Gymnasium id, e.g. gym_pusht/PushT-v0; null: no rollouts.")
    episodes: int = _field("int", 50, "Episodes per evaluation.", minimum=1)
    final_episodes: int | None = _field(
        "int", None, "Episodes of the last evaluation; null: as many as episodes.", minimum=1
    )
    parallel: int = _field("int", 32, "Environments stepped at once; does not change the result.", minimum=1)
    seed: int = _field(
        "int", 100_000, "Episode i starts from seed + i: the same starts for every trial.", minimum=0
    )
    max_steps: int | None = _field("int", None, "Steps per episode; null: the environment's own.", minimum=1)
    video: str = _field(
        "str", "final", "Film the last evaluation, every one, or none.", choices=("final", "every", "never")
    )
    video_episodes: int = _field("int", 4, "Episodes in a film, failures first.", minimum=1, maximum=16)


@dataclass(frozen=True)
class DiffusionConfig:
    """Everything a training run needs to know."""

    dataset: DatasetConfig = dataclasses.field(default_factory=DatasetConfig)
    policy: PolicyConfig = dataclasses.field(default_factory=PolicyConfig)
    optimizer: OptimizerConfig = dataclasses.field(default_factory=OptimizerConfig)
    lr_scheduler: LrSchedulerConfig = dataclasses.field(default_factory=LrSchedulerConfig)
    ema: EmaConfig = dataclasses.field(default_factory=EmaConfig)
    train: TrainConfig = dataclasses.field(default_factory=TrainConfig)
    eval: EvalConfig = dataclasses.field(default_factory=EvalConfig)
    rollout: RolloutConfig = dataclasses.field(default_factory=RolloutConfig)

    @property
    def evaluates_at_start(self) -> bool:
        """Whether there is an evaluation before the first step."""
        if self.train.eval_at_start is None:
            return self.policy.path is not None
        return self.train.eval_at_start

    @property
    def freezes_encoder(self) -> bool:
        """Whether the vision encoder keeps the weights that it starts with."""
        return self.optimizer.vision_encoder_lr_multiplier == 0.0

    @staticmethod
    def from_flat(config: Mapping[str, Any], *, reconcile: bool = True) -> DiffusionConfig:
        """Build a configuration from dotted names.

        Args:
            config: Values by dotted name. With ``policy.path``, what is not named under ``policy`` is taken
                from that checkpoint; without, and where it is not on this machine, it has its default.
            reconcile: Whether to look at that checkpoint. Not where ``config`` is complete and was reconciled
                before, as in a checkpoint of ours: what it started from may be gone.

        Raises:
            ConfigError: With every fault of ``config``.
        """
        faults = config_faults(config, reconcile=reconcile)
        if faults:
            raise ConfigError(faults)
        return _build(_completed(config) if reconcile else config)

    def to_flat(self) -> dict[str, Any]:
        """Every field by its dotted name; lists where the dataclasses hold tuples."""
        flat: dict[str, Any] = {}
        for section in dataclasses.fields(self):
            values = getattr(self, section.name)
            for item in dataclasses.fields(values):
                value = getattr(values, item.name)
                flat[f"{section.name}.{item.name}"] = _plain(value)
        return flat


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return dict(value) if isinstance(value, Mapping) else value


_SECTIONS: dict[str, type[Any]] = {
    "dataset": DatasetConfig,
    "policy": PolicyConfig,
    "optimizer": OptimizerConfig,
    "lr_scheduler": LrSchedulerConfig,
    "ema": EmaConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "rollout": RolloutConfig,
}


def _describe(section: str, item: dataclasses.Field[Any]) -> FieldInfo:
    default = list(item.default) if isinstance(item.default, tuple) else item.default
    return FieldInfo(name=f"{section}.{item.name}", default=default, **item.metadata)


FIELDS: Mapping[str, FieldInfo] = {
    info.name: info
    for section, cls in _SECTIONS.items()
    for info in (_describe(section, item) for item in dataclasses.fields(cls))
}
"""Every field by its dotted name."""

ALIASES: Mapping[str, str] = {
    "batch_size": "train.batch_size",
    "steps": "train.steps",
    "seed": "train.seed",
    "policy.optimizer_lr": "optimizer.lr",
    "policy.optimizer_betas": "optimizer.betas",
    "policy.optimizer_eps": "optimizer.eps",
    "policy.optimizer_weight_decay": "optimizer.weight_decay",
    "policy.scheduler_name": "lr_scheduler.name",
    "policy.scheduler_warmup_steps": "lr_scheduler.warmup_steps",
    "policy.gradient_checkpointing": "train.gradient_checkpointing",
    "policy.compile_model": "train.compile",
    "policy.compile_mode": "train.compile_mode",
    "eval.n_episodes": "rollout.episodes",
    "env.type": "rollout.env",
}
"""LeRobot's names, and what they are called here."""


def _build(config: Mapping[str, Any]) -> DiffusionConfig:
    sections: dict[str, dict[str, Any]] = {section: {} for section in _SECTIONS}
    for name, value in config.items():
        section, _, item = name.partition(".")
        kind = FIELDS[name].kind
        if isinstance(value, (list, tuple)):
            value = tuple(int(v) if kind == "list[int]" else v for v in value)
        elif value is not None and kind == "ranges":
            value = (value,)
        elif value is not None and kind == "int":
            value = int(value)
        elif value is not None and kind == "float":
            value = float(value)
        sections[section][item] = value
    return DiffusionConfig(**{section: cls(**sections[section]) for section, cls in _SECTIONS.items()})


def _completed(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration with what it takes from the checkpoint that it starts from.

    Raises:
        ConfigError: Where that checkpoint cannot be read.
    """
    if config.get("policy.path") is None:
        return config
    from trainables.diffusion_policy.finetuning import inherited

    return {**config, **inherited(config)}


def config_faults(config: Mapping[str, Any], workers: int = 1, *, reconcile: bool = True) -> list[Fault]:
    """Everything wrong with a configuration of dotted names: unknown names, values, values that clash.

    Args:
        config: Values by dotted name.
        workers: Processes that share each batch.
        reconcile: As for :meth:`DiffusionConfig.from_flat`.
    """
    faults: list[Fault] = []
    for name, value in config.items():
        if name in FIELDS:
            faults += FIELDS[name].faults(value)
        else:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"Did you mean {near[0]}?" if near else "See docs/configuration.md for every field."
            faults.append(Fault(name, "no field has this name.", hint))
    if faults:
        return faults
    try:
        built = _build(_completed(config) if reconcile else config)
    except ConfigError as error:
        return list(error.faults)
    return [
        *_start_faults(built, reconcile),
        *_dataset_faults(built.dataset),
        *_window_faults(built.policy, built.eval),
        *_network_faults(built.policy),
        *_diffusion_faults(built.policy, built.eval),
        *_image_faults(built.policy),
        *batch_faults(built.train, workers),
        *_training_faults(built),
    ]


def _start_faults(config: DiffusionConfig, reconcile: bool) -> list[Fault]:
    policy = config.policy
    if policy.path is not None:
        if not reconcile:
            return []
        from trainables.diffusion_policy.finetuning import start_faults

        return start_faults(config)
    faults = []
    if policy.stats == "checkpoint":
        remedy = "Set policy.path, or policy.stats: dataset."
        faults.append(Fault("policy.stats", "there is no checkpoint to take them from.", remedy))
    if config.freezes_encoder:
        problem = "0 would freeze an encoder of random weights."
        remedy = "Set policy.path to a checkpoint whose encoder has learnt to see, or use a number above 0."
        faults.append(Fault("optimizer.vision_encoder_lr_multiplier", problem, remedy))
    return faults


def _dataset_faults(dataset: DatasetConfig) -> list[Fault]:
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
            Fault("dataset.repo_id", "is an address, and no name on the hub.", "Name it as dataset.root.")
            for _ in filter(is_url, repo_ids)
        ]
        faults += [
            Fault(
                "dataset.repo_id",
                f"there is no built-in dataset {repo_id!r}.",
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
        faults.append(Fault("dataset.exclude_episodes", problem, "Name each once."))
    faults += [
        Fault("dataset.features", f"{name!r} becomes {target!r}.", "Expected a name such as action.")
        for name, target in (dataset.features or {}).items()
        if not isinstance(target, str) or not target
    ]
    return faults


def _window_faults(policy: PolicyConfig, evaluation: EvalConfig) -> list[Fault]:
    faults = []
    if policy.horizon % policy.downsampling:
        levels = len(policy.down_dims)
        legal = _nearest_multiples(policy.horizon, policy.downsampling)
        faults.append(
            Fault(
                "policy.horizon",
                f"{policy.horizon} is no multiple of {policy.downsampling}, as {levels} levels need.",
                f"Nearest legal values: {legal}; or change the number of policy.down_dims.",
            )
        )
    available = policy.available_actions
    if policy.n_action_steps > available:
        sizes = f"horizon {policy.horizon} and n_obs_steps {policy.n_obs_steps}"
        faults.append(
            Fault(
                "policy.n_action_steps",
                f"{policy.n_action_steps} actions cannot be executed: {sizes} leave {max(available, 0)}.",
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


def _network_faults(policy: PolicyConfig) -> list[Fault]:
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
    return faults


def _diffusion_faults(policy: PolicyConfig, evaluation: EvalConfig) -> list[Fault]:
    faults = []
    counts = {
        "policy.num_inference_steps": policy.inference_steps,
        "eval.num_inference_steps": evaluation.num_inference_steps,
    }
    for name, count in counts.items():
        if count > policy.num_train_timesteps:
            remedy = f"It must be at most policy.num_train_timesteps = {policy.num_train_timesteps}."
            faults.append(Fault(name, f"{count} is too many.", remedy))
    if policy.beta_schedule != "squaredcos_cap_v2" and policy.beta_start >= policy.beta_end:
        remedy = "Noise grows over the timesteps: beta_start must be below beta_end."
        faults.append(
            Fault("policy.beta_start", f"{policy.beta_start} is not below {policy.beta_end}.", remedy)
        )
    return faults


def _image_faults(policy: PolicyConfig) -> list[Fault]:
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
    """What is wrong with cropping an image of (height, width); ``source`` says where that size comes from."""
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


def _training_faults(config: DiffusionConfig) -> list[Fault]:
    faults = []
    train = config.train
    if config.lr_scheduler.warmup_steps >= train.steps:
        warmup = config.lr_scheduler.warmup_steps
        problem = f"{warmup} steps of warmup leave nothing of train.steps = {train.steps}."
        faults.append(Fault("lr_scheduler.warmup_steps", problem, "Make it smaller than train.steps."))
    if len(config.optimizer.betas) != 2:
        faults.append(
            Fault("optimizer.betas", f"{list(config.optimizer.betas)} are not two numbers.", "Use [b1, b2].")
        )
    return faults
