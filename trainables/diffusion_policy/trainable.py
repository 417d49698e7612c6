"""The Diffusion Policy as a trainable: its interface to the sweep service.

Fields, metrics and checks work without torch; modules that need torch or the data are imported on use.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainables.addresses import missing_package
from trainables.diffusion_policy.config.backbones import FIELD, is_path
from trainables.diffusion_policy.config.clashes import flow_remarks, pretrained_remarks
from trainables.diffusion_policy.config.diffusion_config import ALIASES, FIELDS, DiffusionConfig
from trainables.diffusion_policy.config.presets import PRESET_FIELD, preset_values
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.finetuning.resolve import resolve, resolve_faults
from trainables.diffusion_policy.finetuning.starting_point import (
    inherited,
    remarks,
    start_sizes,
    start_statistics,
)
from trainables.diffusion_policy.network.backbone_file import REMEDY, file_problem
from trainables.diffusion_policy.network.clipping import clip_problem, clip_remedy, extremes_reach, is_safe
from trainables.diffusion_policy.network.gpu_need import step_need
from trainables.diffusion_policy.network.shapes import encoder_count, parameter_count
from trainables.diffusion_policy.pretrained.lerobot_config import (
    TARGETS,
    InvalidConfigError,
    read_lerobot_config,
)
from trainables.features import ENVIRONMENT_STATE, STATE
from trainables.interface import (
    CacheEntry,
    ConfigError,
    DerivedNumber,
    EvaluationContext,
    Examination,
    Fault,
    FieldInfo,
    FormatOptions,
    GpuNeed,
    Metric,
    Proposal,
    Repair,
    Report,
    TrainContext,
    is_url,
    silent,
)

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset
    from trainables.diffusion_policy.inference.opened import OpenedPolicy

__all__ = ["TRAINABLE", "DiffusionPolicyTrainable"]

HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""``owner/name``; absolute paths and paths with ``..`` do not match."""

_HELDOUT, _FRACTION = "dataset.holdout_fraction", "dataset.fraction"
_LR_RULE = "optimizer.lr_batch_rule"


def _interval(name: str, doc: str) -> tuple[Metric, ...]:
    """A metric of rollouts, and the ends of its interval."""
    ends = (("low", "lower"), ("high", "upper"))
    return (
        Metric(name, "maximize", "eval", "rollout.env", doc),
        *(
            Metric(f"{name}_{end}", "maximize", "eval", "rollout.env", f"{word} end of its 95 % interval")
            for end, word in ends
        ),
    )


_METRICS = (
    Metric("train/loss", "minimize", "log", doc="denoising loss, mean since the last report"),
    Metric("train/grad_norm", None, "log", doc="gradient norm before clipping, mean since the last report"),
    Metric("train/lr", None, "log", doc="learning rate"),
    Metric("train/samples_per_s", "maximize", "log", doc="samples per second, over all workers"),
    Metric("train/data_wait_fraction", "minimize", "log", doc="share of the time spent waiting for data"),
    Metric("train/gpu_memory_gb", None, "log", doc="largest GPU memory of a worker so far, in GB"),
    Metric("eval/action_mse", "minimize", "eval", _HELDOUT, "held-out squared action error, original units"),
    Metric("eval/action_mae", "minimize", "eval", _HELDOUT, "held-out absolute action error, original units"),
    Metric("eval/action_std", None, "eval", _HELDOUT, "spread of the actions drawn for one observation"),
    Metric("eval/jerk", "minimize", "eval", _HELDOUT, "mean norm of the predicted actions' third difference"),
    Metric("eval/chunk_latency_ms", "minimize", "eval", _HELDOUT, "time to predict one action chunk, in ms"),
    Metric(
        "eval/action_rate_hz", "maximize", "eval", _HELDOUT, "actions per second that this latency allows"
    ),
    *_interval("rollout/success_rate", "share of the episodes that succeed"),
    *_interval("rollout/avg_max_reward", "mean of the episodes' largest reward"),
    *_interval("rollout/avg_sum_reward", "mean of the episodes' summed reward"),
    Metric("rollout/episode_length", "minimize", "eval", "rollout.env", "mean steps of an episode"),
    Metric("trial/step", None, "log", doc="optimiser steps done"),
    Metric("trial/epoch", None, "log", doc="passes over the training samples"),
)

OPTIMIZER = "optimizer.safetensors"
"""File of a checkpoint with the optimiser's moments: as large as its weights and their average."""

EVALUATING = "evaluating.json"
"""File that names the checkpoint that an evaluation beside training was running for."""

ORIGINAL = "latest.ckpt"
"""Name of a file of the original code in a folder, by which it is found there."""

_N_ACTION_STEPS = "policy.n_action_steps"
_UNKNOWN_IMAGE = (224, 224)
_BYTES_KEPT = 8  # weights and their average, in float32
_BYTES_TRAINED = 8  # Adam's two moments
_CHECKPOINTS = 3  # last and best, and a new one, which is complete before an old one is deleted
_CHECKPOINTS_BESIDE = 2  # that of the evaluation beside training, and the one reported before it
_BYTES_HELD = 16  # in training: a weight, its gradient, and Adam's two moments, in float32
_BYTES_AVERAGE = 4
_GB_EXTRAS = 0.01  # videos, logs, configuration
_GB_LIBRARIES = 1.5  # of a GPU, in a process: CUDA's context, its libraries' workspaces, an evaluation
_ACTIVATIONS = 2.0  # what the allocator holds, as a multiple of what the backward pass needs


class DiffusionPolicyTrainable:
    """A Diffusion Policy trained on a LeRobot dataset and evaluated by held-out error and rollouts."""

    name = "diffusion_policy"
    fields: Mapping[str, FieldInfo] = FIELDS
    aliases: Mapping[str, str] = ALIASES
    metrics: Mapping[str, Metric] = {metric.name: metric for metric in _METRICS}
    export_targets: Sequence[str] = TARGETS
    formats: Sequence[str] = ("onnx", "torch")
    preset_field: str = PRESET_FIELD
    places: Sequence[str] = ("dataset.root", "dataset.repo_id", "dataset.revision", "policy.path")

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
        """Check one whole configuration, field by field and across fields.

        Reads no data. Of the checkpoint of ``policy.path``, it reads ``config.json``.
        """
        return resolve_faults(config, workers)

    def resolved(self, config: Mapping[str, Any]) -> DiffusionConfig:
        """Complete a configuration from the checkpoint of ``policy.path``, check it and build it.

        Raises:
            ConfigError: With every fault of the configuration.
        """
        return resolve(config)

    def preflight(
        self, config: Mapping[str, Any], cache: Path, progress: Callable[[str], None] = silent
    ) -> list[Fault]:
        """Check a configuration against its dataset and environment. Writes only to the cache."""
        from trainables.diffusion_policy.data import preflight

        return self.faults(config) or preflight(self.resolved(config), cache, progress)

    def describe(self, config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:
        """Identify the data of a configuration and the checkpoint that it starts from."""
        from trainables.diffusion_policy.data import describe

        return describe(self.resolved(config), cache)

    def dataset_config(self, root_or_repo_id: str) -> Mapping[str, Any]:
        """The configuration fields that name a dataset; a text like a hub id that is not a folder is one."""
        is_hub_id = HUB_ID.fullmatch(root_or_repo_id) and not Path(root_or_repo_id).is_dir()
        return {"dataset.repo_id" if is_hub_id else "dataset.root": root_or_repo_id}

    def examine(
        self,
        config: Mapping[str, Any],
        cache: Path,
        progress: Callable[[str], None] = silent,
        *,
        every_frame: bool = False,
    ) -> Examination:
        """Examine the dataset of a configuration as thoroughly as possible, pictures included.

        Raises:
            ConfigError: If the configuration itself is wrong.
            DatasetError: If it names episodes or features that the dataset does not have.
        """
        from trainables.diffusion_policy.examine import examine

        return examine(resolve(config), cache, progress, every_frame=every_frame)

    def portray(
        self,
        config: Mapping[str, Any],
        folder: Path,
        cache: Path,
        progress: Callable[[str], None] = silent,
    ) -> Mapping[str, Any]:
        """Describe the dataset of a configuration as JSON values; draws pictures of it into ``folder``.

        With ``augment.*`` also how training changes some of them.

        Raises:
            ConfigError: If the configuration itself is wrong.
            DatasetError: If the dataset cannot be opened.
        """
        from trainables.dataset.portrait import portray
        from trainables.diffusion_policy.data import load_dataset

        built = resolve(config)
        dataset = load_dataset(built.dataset, cache, progress)
        portrait = portray(dataset, folder, progress)
        if built.augment.is_on:
            from trainables.diffusion_policy.training.augmentation.sheet import draw_changes

            portrait["pictures"] += map(str, draw_changes(dataset, built, folder, progress))
        return portrait

    def repair(
        self,
        root: Path,
        to: Path | None,
        progress: Callable[[str], None] = silent,
        *,
        trim_idle: bool = False,
        hard_links: bool = False,
    ) -> Repair:
        """Write a copy of a dataset in which everything is repaired that has a certain repair.

        Raises:
            DatasetError: If ``root`` is not the folder of a dataset, or ``to`` cannot be made there.
        """
        from trainables.dataset.repair.repair import repair

        return repair(root, to, progress, trim_idle=trim_idle, hard_links=hard_links)

    def cached(self, cache: Path) -> list[CacheEntry]:
        """List the decoded frames, the datasets, and the unpacked bundles in a cache folder."""
        from trainables.dataset.shared_cache import cache_entries
        from trainables.deployment.bundle import bundle_entries

        return [*cache_entries(cache), *bundle_entries(cache)]

    def disk_gb(self, config: Mapping[str, Any]) -> float:
        """Estimate how much disk one trial's folder takes, in gigabytes.

        The dataset is not opened, so the sizes of its features are assumed to be those of the checkpoint of
        ``policy.path``, or else those of a common arm; they are small compared with the U-Net's.
        """
        built = self.resolved(config)
        kept, trained = _weights(built)
        checkpoints = _CHECKPOINTS
        if built.train.evaluation != "inline" and built.train.checkpoint_every is not None:
            # Without checkpoints in between, the evaluated one is the last, and the one before is its last.
            checkpoints += _CHECKPOINTS_BESIDE
        # The best one has no moments of the optimiser, unless it is the last one too.
        moments = (checkpoints - 1) * trained * _BYTES_TRAINED
        return (checkpoints * kept * _BYTES_KEPT + moments) / 1e9 + _GB_EXTRAS

    def slim(self, checkpoint: Path) -> None:
        """Delete the optimiser's state and later checkpoints without a report: a continuation needs them."""
        (checkpoint / OPTIMIZER).unlink(missing_ok=True)
        _drop_unreported(checkpoint)

    def policy_files(self, checkpoint: Path) -> Mapping[str, Path]:
        """The files of a checkpoint, in any format that can be read, without the optimiser's state.

        Raises:
            ConfigError: If there is no checkpoint.
        """
        from trainables.diffusion_policy.pretrained.find import find_checkpoint

        found = find_checkpoint(str(checkpoint))
        if found.is_file():
            return {ORIGINAL: found}
        return {
            path.name: path
            for path in sorted(found.iterdir())
            if path.suffix in (".json", ".safetensors") and path.name != OPTIMIZER
        }

    def slim_gb(self, config: Mapping[str, Any], checkpoints: int) -> float:
        """Estimate a trial folder's disk space with this number of slim checkpoints, in gigabytes."""
        kept, _ = _weights(self.resolved(config))
        return checkpoints * kept * _BYTES_KEPT / 1e9 + _GB_EXTRAS

    def preset(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values that the preset of a configuration sets, for fields that it does not name."""
        return preset_values(config)

    def propose(
        self, config: Mapping[str, Any], cache: Path | None, progress: Callable[[str], None] = silent
    ) -> Proposal:
        """Propose a space for a dataset, or around the settings of a training.

        Raises:
            DatasetError: If the dataset cannot be opened.
        """
        from trainables.diffusion_policy.proposals.propose import propose

        if cache is None:
            return propose(config, None)
        from trainables.diffusion_policy.data import load_dataset
        from trainables.diffusion_policy.proposals.dataset_facts import facts_of

        named = {name: value for name, value in config.items() if name.startswith("dataset.")}
        return propose(config, facts_of(load_dataset(resolve(named).dataset, cache, progress)))

    def read_policy(self, stated: Mapping[str, Any]) -> tuple[Mapping[str, Any], Sequence[str]]:
        """Read a LeRobot ``config.json``, with the defaults of its version for missing keys."""
        try:
            read = read_lerobot_config(stated)
        except InvalidConfigError:
            return {}, ()
        return read.values, read.notes

    def inherited(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Values that the checkpoint of ``policy.path`` decides; empty if it cannot be read."""
        if config.get("policy.path") is None:
            return {}
        try:
            return inherited(config)
        except ConfigError:
            return {}  # which `faults` reports

    def remarks(self, config: Mapping[str, Any], cache: Path | None = None) -> list[str]:
        """Warnings about the checkpoint, the clip of actions, fields without effect, and the dataset.

        The dataset is read if there is a cache; otherwise only the package for its store is checked.
        """
        said = [] if cache is not None else _missing_packages(config.get("dataset.root"))
        if self.faults(config):
            return said
        built = self.resolved(config)
        said += [
            *_graph_remark(built),
            *flow_remarks(built.policy, config),
            *pretrained_remarks(built.policy, built.dataset),
            *_backbone_remark(built),
        ]
        if cache is None:
            return [
                *said,
                *remarks(built),
                *_clip_remark(built, None),
                *_fraction_remark(built),
                *_augment_remark(built, blind=not _may_see(built)),
            ]
        from trainables.dataset.doctor.preflight import warnings_of
        from trainables.diffusion_policy.data import load_dataset

        dataset = load_dataset(built.dataset, cache)
        return [
            *said,
            *remarks(built, dataset.policy_features),
            *_clip_remark(built, dataset),
            *_augment_remark(built, blind=not dataset.policy_features.cameras),
            *warnings_of(dataset),
        ]

    def derived(self, config: Mapping[str, Any]) -> list[DerivedNumber]:
        """The learning rate for the batch size, and the episodes of a share, as far as they are recorded."""
        built = self.resolved(config)
        found = []
        if _LR_RULE in config:
            found.append(DerivedNumber("learning rate", built.learning_rate, f"by {_LR_RULE}"))
        if _FRACTION in config:
            # Needs numpy, which a check does not need in all other cases.
            from trainables.diffusion_policy.fraction import training_episodes

            counts = training_episodes(built.dataset)
            if counts is not None:
                words = f"of {counts[1]:,} training episodes"
                found.append(DerivedNumber("trained on", counts[0], words))
        return found

    def memory_gb(self, config: Mapping[str, Any]) -> float:
        """The least memory that each process holds on its device while it trains, in gigabytes.

        The U-Net's weights, gradients, the optimiser's two moments and the average, in float32. Encoders,
        which may be frozen, are left out, and the features are assumed to be minimal. Activations come on
        top, and dominate if the batch is large.
        """
        built = self.resolved(config)
        weights = parameter_count(built.policy, action_dim=1, vector_dim=1, cameras=0)
        return weights * (_BYTES_HELD + (_BYTES_AVERAGE if built.ema.enabled else 0)) / 1e9

    def gpu_need(self, config: Mapping[str, Any]) -> GpuNeed:
        """Estimate what a training process needs of a GPU, by the sizes of the network and of the batch.

        Sizes of features are assumed as for `disk_gb`. No GPU has confirmed the estimate.
        """
        built = self.resolved(config)
        sizes, image = _sizes(built), _encoded_image(built.policy)
        needed = step_need(
            built.policy,
            batch_size=built.train.batch_size,
            passes=built.train.gradient_accumulation_steps,
            image=image or _UNKNOWN_IMAGE,
            **sizes,
        )
        held = needed.weights * (_BYTES_HELD + (_BYTES_AVERAGE if built.ema.enabled else 0)) / 1e9
        memory_gb = held + _ACTIVATIONS * needed.activations_gb + _GB_LIBRARIES
        alone = ""
        if built.train.compile:
            alone = "train.compile leaves few launches that another trial could hide"
        elif built.rollout.env is not None and built.rollout.latency_ms == "measured":
            alone = "rollout.latency_ms is measured"
        elif sizes["cameras"] and image is None:
            alone = "the size of the images is known only from the dataset"
        return GpuNeed(memory_gb, needed.busy, alone)

    def lighter(self, config: Mapping[str, Any], workers: int = 1) -> Mapping[str, Any] | None:
        """The same training in twice as many passes of half the size; None if a pass cannot be halved."""
        batch_size, parts = (
            config.get(name, FIELDS[name].default)
            for name in ("train.batch_size", "train.gradient_accumulation_steps")
        )
        if batch_size % (2 * parts * workers):
            return None
        return {**config, "train.gradient_accumulation_steps": 2 * parts}

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        """Train with ``config``; yields a report at every logging step and at every evaluation.

        Raises:
            ConfigError: If the configuration is wrong in itself or for its dataset.
            DatasetError: If the dataset cannot be read.
            DivergedError: If the loss or a gradient is no longer finite, or the loss explodes.
            OutOfMemoryError: If the device's memory does not suffice.
        """
        from trainables.diffusion_policy.training.train import train

        return train(self.resolved(config), context)

    def open_policy(
        self, checkpoint: Path, config: Mapping[str, Any], context: EvaluationContext
    ) -> OpenedPolicy:
        """Load the policy of a checkpoint, to evaluate it with any inference setting.

        Raises:
            ConfigError: If the checkpoint cannot be read, or the policy does not fit the environment.
        """
        from trainables.diffusion_policy.inference.opened import open_policy

        return open_policy(checkpoint, config, context)

    def trained_for(
        self, config: Mapping[str, Any], searched: Mapping[str, Sequence[Any]]
    ) -> Mapping[str, Any]:
        """Train with the largest ``policy.n_action_steps`` that is searched and that the horizon holds.

        The number decides how many frames at the end of an episode start no training window: the only way in
        which an inference field has a part in the training.
        """
        horizon, n_obs_steps = (
            config.get(name, FIELDS[name].default) for name in ("policy.horizon", "policy.n_obs_steps")
        )
        possible = [
            value for value in searched.get(_N_ACTION_STEPS, ()) if value <= horizon - n_obs_steps + 1
        ]
        return {**config, _N_ACTION_STEPS: max(possible)} if possible else config

    def export(
        self,
        checkpoint: Path,
        folder: Path,
        target: str,
        *,
        ema: bool = True,
        setting: Mapping[str, Any] | None = None,
        replace: bool = False,
        progress: Callable[[str], None] = silent,
    ) -> list[str]:
        """Write a checkpoint in the format of a version of LeRobot, read it back and compare its actions.

        Raises:
            ConfigError: If the checkpoint cannot be read.
            ExportError: If LeRobot cannot express it, or ``folder`` contains something else.
        """
        from trainables.diffusion_policy.lerobot.export import export

        return export(
            checkpoint, folder, target, ema=ema, setting=setting or {}, replace=replace, progress=progress
        )

    def export_format(
        self, checkpoint: Path, folder: Path, wanted: FormatOptions, context: EvaluationContext
    ) -> Mapping[str, Any]:
        """Write a policy for ONNX Runtime or torch.export, with a report, and compare it with the policy.

        Raises:
            ConfigError: If the checkpoint or the setting cannot be used.
            FormatError: If the policy cannot be exported, or an action differs too much.
        """
        from trainables.diffusion_policy.inference.exported import export_format

        return export_format(checkpoint, folder, wanted, context)


def _weights(built: DiffusionConfig) -> tuple[int, int]:
    """Number of a policy's weights, and number of its trained ones; features as for `disk_gb`."""
    sizes = _sizes(built)
    kept = parameter_count(built.policy, **sizes)
    return kept, kept - encoder_count(built.policy, sizes["cameras"]) if built.freezes_encoder else kept


def _sizes(built: DiffusionConfig) -> dict[str, int]:
    """Sizes of a policy's features before the dataset is opened: of its checkpoint, or of a common arm."""
    observations = built.dataset.observations
    cameras = 1 if observations is None else len(set(observations) - {STATE, ENVIRONMENT_STATE})
    sizes = {"action_dim": 6, "vector_dim": 12, "cameras": cameras}
    if built.policy.path is not None:
        sizes |= start_sizes(built.policy.path)
    return sizes


def _encoded_image(policy: PolicyConfig) -> tuple[int, int] | None:
    """(height, width) of the images that the encoders get; None if only the dataset has it."""
    if policy.resize_shape is None:
        return None if policy.crop_shape is None else (policy.crop_shape[0], policy.crop_shape[1])
    size = (policy.resize_shape[0], policy.resize_shape[1])
    return policy.crop_size(size) or size


def _drop_unreported(checkpoint: Path) -> None:
    """Delete the checkpoints after one whose run has ended, if an evaluation beside training was running.

    Their reports never came, so nothing else refers to them.
    """
    pointer = checkpoint.parent / EVALUATING
    try:
        first = int(json.loads(pointer.read_text())["step"])
    except (OSError, ValueError, KeyError):
        return
    for entry in checkpoint.parent.iterdir():
        if entry.name.isdigit() and int(entry.name) >= max(first, int(checkpoint.name) + 1):
            shutil.rmtree(entry, ignore_errors=True)
    pointer.unlink(missing_ok=True)


def _graph_remark(built: DiffusionConfig) -> list[str]:
    """A warning if steps cannot be recorded as a CUDA graph whatever the machine."""
    clashes = []
    if built.train.gradient_accumulation_steps > 1:
        clashes.append("train.gradient_accumulation_steps above 1")
    if built.train.precision == "fp16":
        clashes.append("train.precision: fp16")
    if built.train.compile != "graph" or not clashes:
        return []
    return [f"train.compile: graph has no effect with {' and '.join(clashes)}."]


def _may_see(config: DiffusionConfig) -> bool:
    """Whether the policy may get pictures, as far as is known before the dataset is opened."""
    observations = config.dataset.observations
    return observations is None or bool(set(observations) - {STATE, ENVIRONMENT_STATE})


def _backbone_remark(config: DiffusionConfig) -> list[str]:
    """The file with the pretrained weights of the backbone, if it is missing on this machine or wrong."""
    policy, named = config.policy, config.policy.pretrained_backbone_weights
    if named is None or policy.path is not None or not _may_see(config):
        return []
    problem = file_problem(policy.vision_backbone, named)
    if problem is None:
        return []
    way = "" if is_path(named) else " A launch fetches it, and so does each other machine at its first trial."
    return [f"{FIELD}: {problem}{way} {REMEDY}"]


def _clip_remark(config: DiffusionConfig, dataset: LeRobotDataset | None) -> list[str]:
    """A warning if the clip of predicted actions cuts demonstrated ones."""
    policy = config.policy
    foreign = policy.stats == "checkpoint"
    if not policy.clip_sample or (is_safe(policy) and not foreign):
        return []
    # Needs numpy, which a check does not need in all other cases.
    from trainables.diffusion_policy.clipped import dataset_reach, recorded_reach

    start = start_statistics(config)
    known = start if foreign else None
    if dataset is None:
        reach = recorded_reach(policy, config.dataset, known)
    else:
        reach = dataset_reach(policy, dataset, known)
    if reach is None and start:
        source = "The actions in the checkpoint's statistics"
        reach = extremes_reach(policy.normalization_action, start, start, source)
    problem = clip_problem(policy, reach)
    return [] if problem is None else [f"policy.clip_sample_range: {problem} {clip_remedy(reach)}"]


def _fraction_remark(config: DiffusionConfig) -> list[str]:
    """A warning if a share of the episodes is none; a dataset that is opened is refused for it."""
    if config.dataset.fraction == 1.0:
        return []
    from trainables.diffusion_policy.fraction import fraction_problems

    return [f"{fault.where}: {fault.problem} {fault.remedy}" for fault in fraction_problems(config.dataset)]


def _augment_remark(config: DiffusionConfig, *, blind: bool) -> list[str]:
    """A warning if pictures are to be changed and the policy sees none."""
    if not (blind and config.augment.is_on):
        return []
    return ["augment.*: the policy sees no pictures, so that nothing is changed. Remove these fields."]


def _missing_packages(root: Any) -> list[str]:
    """The packages to install before the addresses of ``dataset.root`` can be read."""
    roots = root if isinstance(root, (list, tuple)) else [root]
    addresses = [text for text in roots if isinstance(text, str) and is_url(text)]
    if not addresses:
        return []
    packages = dict.fromkeys(package for text in addresses if (package := missing_package(text)))
    return [
        f"dataset.root: this machine lacks the package {package}, which trials need on their machines "
        f"(pip install {package}; on a cluster: setup_node.sh --with {package})."
        for package in packages
    ]


TRAINABLE = DiffusionPolicyTrainable()
