"""Fine-tuning: what a run takes from the checkpoint at which it starts, and what it must not change.

Read from the checkpoint's ``config.json`` alone, before any weight is read: schedules, horizon and learning
rate are free; fields that decide the shape of a layer are not, unless the user lets such layers be
reinitialised. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS, DiffusionConfig
from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.finetuning.compatibility import (
    OWN_FIELDS,
    changed_fields,
    differ,
    feature_sizes,
    field_fault,
    frozen_faults,
    image_remarks,
    reinit_remarks,
    shown,
)
from trainables.diffusion_policy.pretrained.action_statistics import action_statistics
from trainables.diffusion_policy.pretrained.find import REPO_ID, find_checkpoint
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig, path_error
from trainables.diffusion_policy.pretrained.read_config import read_config
from trainables.features import PolicyFeatures
from trainables.interface import ConfigError, Fault, is_url

__all__ = [
    "checkpoint_faults",
    "inherited",
    "read_start",
    "remarks",
    "start_faults",
    "start_sizes",
    "start_statistics",
]

LEARNT_FIELDS = {
    "policy.prediction_type": "its network must learn a new kind of prediction",
    "policy.normalization_visual": "its network was trained on images of another scale",
    "policy.normalization_state": "its network was trained on states of another scale",
    "policy.normalization_environment_state": "its network was trained on states of another scale",
    "policy.normalization_action": "its network was trained on actions of another scale",
}
"""Fields that may change with these weights, although that undoes part of the training."""

_read: dict[str, tuple[tuple[int, ...], PretrainedConfig]] = {}
_unreachable: dict[str, ConfigError] = {}


def read_start(path: str) -> PretrainedConfig | None:
    """The configuration of the checkpoint of ``policy.path``; None if the path is not on this machine.

    Of a checkpoint on the hub only the configuration is fetched. Cached while the file does not change:
    a sweep needs it for every combination of its space.

    Raises:
        ConfigError: If the path has no checkpoint, or it cannot be read.
    """
    if is_url(path):
        remedy = "Copy the checkpoint to a folder that all machines see, or name one on the hub."
        raise path_error("is an address in a store, from which checkpoints are not fetched.", remedy)
    if path in _read:
        stamp, start = _read[path]
        if _stamp(start.folder) == stamp:
            return start
    if path in _unreachable:
        raise _unreachable[path]
    on_hub = not _is_there(path)
    if on_hub and not REPO_ID.fullmatch(path):
        return None
    try:
        start = read_config(_hub_config(path) if on_hub else find_checkpoint(path))
    except ConfigError as error:
        if on_hub:
            # Otherwise each further combination would wait for the network again.
            _unreachable[path] = error
        raise
    _read[path] = (_stamp(start.folder), start)
    return start


def _is_there(path: str) -> bool:
    try:
        return Path(path).expanduser().exists()
    except (
        OSError,
        ValueError,
        RuntimeError,
    ):  # not a possible path: too long, a null byte, an unknown ~user
        return False


def _stamp(folder: Path) -> tuple[int, ...]:
    """When the checkpoint's files were written, and their sizes; -1 for one that is not there."""
    names = ("config.json", "model.safetensors", "policy_preprocessor.json", "train_config.json")
    files = [folder] if folder.is_file() else [folder / name for name in names]
    found = []
    for file in files:
        try:
            found += [file.stat().st_mtime_ns, file.stat().st_size]
        except OSError:
            found.append(-1)
    return tuple(found)


def _hub_config(repo_id: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(hf_hub_download(repo_id, "config.json")).parent
    except (HfHubHTTPError, OSError, ValueError):
        # Its configuration may be in a folder inside, or missing, which this reports better.
        return find_checkpoint(repo_id)


def inherited(config: Mapping[str, Any]) -> dict[str, Any]:
    """The values that a configuration takes from its ``policy.path``, by dotted name.

    The fields of ``policy`` that ``config`` does not name, the checkpoint's observations if
    ``dataset.observations`` is not named, and ``policy.path`` itself, with pointers such as ``last``
    followed, since they may change later.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    path = config.get("policy.path")
    start = None if path is None else read_start(str(path))
    if path is None or start is None:
        return {}
    values = {
        name: value
        for name, value in start.values.items()
        if name.startswith("policy.") and name in FIELDS and name not in OWN_FIELDS and name not in config
    }
    if "policy.crop_ratio" in config and "policy.crop_shape" in values:
        # A crop of fixed size would take precedence over the requested one.
        values["policy.crop_shape"] = None
    if "dataset.observations" not in config:
        values["dataset.observations"] = [feature.name for feature in start.features.inputs]
    if _is_there(path):
        values["policy.path"] = str(_settled(start.folder))
    return values


def _settled(folder: Path) -> Path:
    """The absolute folder, LeRobot's link ``last`` followed."""
    folder = folder.absolute()
    return folder.resolve() if "last" in folder.parts else folder


def start_faults(config: DiffusionConfig) -> list[Fault]:
    """Fields that a completed configuration changes although the checkpoint's weights fix them.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    start = read_start(str(config.policy.path))
    if start is None:
        return []
    faults = checkpoint_faults(config, start)
    if faults:
        return faults
    if not config.policy.reinit_mismatched:
        return [field_fault(name, config.policy, start) for name in changed_fields(config.policy, start)]
    return frozen_faults(config, start, start.features)


def checkpoint_faults(config: DiffusionConfig, start: PretrainedConfig) -> list[Fault]:
    """What is wrong with a checkpoint itself: contradictions to its own weights, and missing parts.

    Args:
        config: The completed configuration.
        start: The checkpoint.
    """
    faults = list(start.faults)
    folder = start.folder
    if not faults and _is_there(str(config.policy.path)) and folder.is_dir():
        weights = folder / "model.safetensors"
        if not weights.is_file():
            remedy = "Copy the whole folder: config.json, model.safetensors and the processor files."
            faults.append(Fault("policy.path", f"{weights} is missing.", remedy))
    if start.crop_fault is not None and not _crops_otherwise(config.policy, start):
        faults.append(start.crop_fault)
    if start.statistics_fault and config.policy.stats == "checkpoint":
        problem = f"the checkpoint has no statistics: {folder} {start.statistics_fault}."
        faults.append(Fault("policy.stats", problem, "Set policy.stats: dataset."))
    return faults


def _crops_otherwise(policy: PolicyConfig, start: PretrainedConfig) -> bool:
    """Whether the run sets the size of the encoders' input."""
    names = ("resize_shape", "crop_shape", "crop_ratio")
    return any(differ(getattr(policy, name), start.values.get(f"policy.{name}", None)) for name in names)


def start_sizes(path: str) -> dict[str, int]:
    """Sizes of what a checkpoint's policy sees and does, as `tensor_shapes` takes them; empty if unknown.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    start = read_start(path)
    return {} if start is None else feature_sizes(start.features)


def start_statistics(config: DiffusionConfig) -> dict[str, list[float]]:
    """The checkpoint's statistics of the action; empty if they are unknown here.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    start = None if config.policy.path is None else read_start(config.policy.path)
    return {} if start is None else action_statistics(start)


def remarks(config: DiffusionConfig, found: PolicyFeatures | None = None) -> list[str]:
    """Warnings about a legal completed configuration before it is trained.

    Args:
        config: The completed configuration.
        found: The dataset's features; None if they are unknown: then they are assumed to fit.

    Raises:
        ConfigError: If the checkpoint cannot be read.
    """
    policy = config.policy
    if policy.path is None:
        return []
    start = read_start(policy.path)
    if start is None:
        problem = f"policy.path: {policy.path} does not exist on this machine"
        return [f"{problem}, so the fields that it decides are unknown here, and conflicts are not checked."]
    said = [f"policy.path: {note}" for note in start.notes]
    if start.statistics_fault:
        said.append(
            f"policy.path: the checkpoint {start.statistics_fault}. The dataset's statistics are used, which "
            "are correct only if it was trained on the same data."
        )
    values = config.to_flat()
    said += [
        f"{name}: the checkpoint has {shown(start.values[name])}; with {shown(values[name])} {consequence}."
        for name, consequence in LEARNT_FIELDS.items()
        if name in start.values and differ(values[name], start.values[name])
    ]
    multiplier = config.optimizer.vision_encoder_lr_multiplier
    if multiplier != 1.0 and not start.features.cameras:
        field = "optimizer.vision_encoder_lr_multiplier"
        said.append(f"{field}: {multiplier:g} has no effect: the checkpoint has no vision encoder.")
    if found is not None:
        said += image_remarks(policy, start, found)
    if policy.reinit_mismatched:
        said += reinit_remarks(policy, start, found or start.features)
    return said
