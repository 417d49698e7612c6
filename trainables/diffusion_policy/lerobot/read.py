"""Read a checkpoint: weights under LeRobot's names, statistics as the normaliser wants them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainables.diffusion_policy import checkpoint as own
from trainables.diffusion_policy.config import PolicyConfig
from trainables.diffusion_policy.config_json import NORMALIZATION_FIELDS
from trainables.diffusion_policy.normalize import NEEDED, Statistics
from trainables.diffusion_policy.policy import DiffusionPolicy, build_policy
from trainables.diffusion_policy.pretrained import (
    PretrainedConfig,
    find_checkpoint,
    path_error,
    read_config,
    read_json,
)

__all__ = ["Pretrained", "load", "read_checkpoint"]

_COMPILED = "._orig_mod"
_NORMALIZER = "normalizer_processor"
_UNNORMALIZER = "unnormalizer_processor"


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint's content.

    Attributes:
        config: What it says of itself.
        weights: float32 on the CPU, under the names of ``DiffusionPolicy.state_dict()``.
        statistics: What its observations and actions are normalised with, for :class:`Normalizer`.
    """

    config: PretrainedConfig
    weights: dict[str, Tensor]
    statistics: Statistics

    @property
    def policy_config(self) -> PolicyConfig:
        """The policy's configuration; crops as LeRobot draws them where LeRobot wrote the checkpoint."""
        stated: dict[str, Any] = {
            name.removeprefix("policy."): tuple(value) if isinstance(value, list) else value
            for name, value in self.config.values.items()
            if name.startswith("policy.")
        }
        fields = {field.name for field in dataclasses.fields(PolicyConfig)}
        if self.config.format.startswith("lerobot"):
            stated.setdefault("crop_per", "batch")
        return PolicyConfig(**{name: value for name, value in stated.items() if name in fields})


def load(
    path: str | Path, *, ema: bool = True, device: str | torch.device = "cpu", cache: Path | None = None
) -> DiffusionPolicy:
    """Load a policy, ready to predict.

    Args:
        path: What :func:`find_checkpoint` takes.
        ema: Use the averaged weights where the checkpoint has them.
        device: Where the policy is put.
        cache: Folder for what is fetched from the hub; None: Hugging Face's own cache.

    Returns:
        The policy in evaluation mode. Its ``predict_action`` and ``loss`` take raw values.

    Raises:
        ConfigError: Where there is no checkpoint, it is damaged, or its weights do not fit its configuration.
    """
    read = read_checkpoint(path, cache, ema=ema)
    policy = build_policy(read.policy_config, read.config.features, read.statistics)
    _fill(policy, read)
    return policy.to(device).eval()


def read_checkpoint(path: str | Path, cache: Path | None = None, *, ema: bool = True) -> Pretrained:
    """Read a checkpoint's configuration, weights and statistics.

    Args:
        path: What :func:`find_checkpoint` takes.
        cache: Folder for what is fetched from the hub; None: Hugging Face's own cache.
        ema: Take the averaged weights where the checkpoint has them.

    Raises:
        ConfigError: Where there is no checkpoint, or it is damaged.
    """
    config = read_config(find_checkpoint(path, cache))
    if config.format == "sweeper":
        return _read_own(config, ema)
    tensors = _tensors(config.folder / "model.safetensors")
    weights = {
        name.replace(_COMPILED, ""): value.float() if value.is_floating_point() else value
        for name, value in tensors.items()
        if name.startswith("diffusion.")
    }
    return Pretrained(config, weights, _processor_statistics(config))


def _fill(policy: DiffusionPolicy, read: Pretrained) -> None:
    try:
        own.load_weights(policy, read.weights)
    except own.CheckpointError as error:
        raise path_error(f"{read.config.folder}: {error}") from error


def _read_own(config: PretrainedConfig, ema: bool) -> Pretrained:
    folder = config.folder
    weights = _tensors(folder / "model.safetensors")
    if ema and (folder / "ema.safetensors").exists():
        averaged = _tensors(folder / "ema.safetensors")
        weights |= {name: value for name, value in averaged.items() if name in weights}
    flat = {name: value.numpy() for name, value in _tensors(folder / "statistics.safetensors").items()}
    return Pretrained(config, weights, own._unflatten(flat))


def _tensors(file: Path) -> dict[str, Tensor]:
    """A file's tensors. Its header is checked against its length before anything is allocated."""
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
    except FileNotFoundError as error:
        raise path_error(f"{file} is missing.") from error
    except (OSError, SafetensorError) as error:
        raise path_error(f"{file} cannot be read: {error}.") from error


def _processor_statistics(config: PretrainedConfig) -> Statistics:
    """Statistics of LeRobot's processors: inputs from before the policy, actions from after it."""
    before = _statistics(config.folder, "policy_preprocessor.json", _NORMALIZER)
    after = _statistics(config.folder, "policy_postprocessor.json", _UNNORMALIZER)
    found: dict[str, Mapping[str, np.ndarray]] = {}
    for feature in config.features.all():
        source = after if feature == config.features.action else before
        mode = config.values[NORMALIZATION_FIELDS[feature.type]]
        if NEEDED[mode]:
            found[feature.name] = source.get(feature.name, {})
    return found


def _statistics(folder: Path, name: str, registered: str) -> dict[str, dict[str, np.ndarray]]:
    step = next(
        (step for step in read_json(folder / name)["steps"] if step.get("registry_name") == registered), None
    )
    if step is None:
        raise path_error(f"{folder / name} has no step {registered}.")
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for joined, value in _tensors(_beside(folder, step.get("state_file"))).items():
        feature, _, statistic = joined.rpartition(".")
        statistics.setdefault(feature, {})[statistic] = value.numpy()
    return statistics


def _beside(folder: Path, name: Any) -> Path:
    if not isinstance(name, str) or not name or Path(name).name != name:
        raise path_error(f"{folder}: the state_file {name!r} is no file of this folder.")
    return folder / name
