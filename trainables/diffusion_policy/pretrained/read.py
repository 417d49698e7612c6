"""Read a checkpoint: weights under LeRobot's names, statistics in the normaliser's form."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from trainables.diffusion_policy.network.clipping import clip_problem, clip_remedy, extremes_reach
from trainables.diffusion_policy.network.normalize import EPSILON, NEEDED, NormalizationError, Statistics
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.find import find_checkpoint
from trainables.diffusion_policy.pretrained.lerobot_config import NORMALIZATION_FIELDS
from trainables.diffusion_policy.pretrained.lerobot_processors import (
    NORMALIZER,
    POSTPROCESSOR,
    PREPROCESSOR,
    UNNORMALIZER,
    find_step,
    state_file,
)
from trainables.diffusion_policy.pretrained.original_ckpt import read_original
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig, path_error, read_json
from trainables.diffusion_policy.pretrained.read_config import read_config
from trainables.diffusion_policy.pretrained.weights import Pretrained, WeightsError, policy_from_weights
from trainables.features import Feature, FeatureType
from trainables.interface import ConfigError

__all__ = ["load", "load_notes", "policy_of", "read_checkpoint"]

WEIGHTS = "model.safetensors"
KNOWN_STATISTICS = {"min", "max", "mean", "std", "q01", "q10", "q50", "q90", "q99"}
log = logging.getLogger(__name__)

_COMPILED = "_orig_mod."
_INPUT_BUFFERS = "normalize_inputs.buffer_"
_TARGET_BUFFERS = "normalize_targets.buffer_"
_OUTPUT_BUFFERS = "unnormalize_outputs.buffer_"
_BUFFERS = (_INPUT_BUFFERS, _TARGET_BUFFERS, _OUTPUT_BUFFERS)


def load(
    path: str | Path, *, ema: bool = True, device: str | torch.device = "cpu", cache: Path | None = None
) -> DiffusionPolicy:
    """Load a policy, ready to predict.

    Args:
        path: A checkpoint's folder, or whatever else
            :func:`trainables.diffusion_policy.pretrained.find.find_checkpoint` takes.
        ema: Use the averaged weights if the checkpoint has them (this project's own, the original code's).
        device: Device of the policy.
        cache: Folder for downloads from the hub; None: Hugging Face's own cache.

    Returns:
        The policy in evaluation mode. ``policy.predict_action`` takes raw observations under LeRobot's names,
        (B, To, D) and images (B, To, C, H, W) as uint8 or as floats in [0, 1], and gives actions
        (B, n_action_steps, A) in original units; ``policy.loss`` takes the same with ``action`` (B, T, A).

    Raises:
        ConfigError: If the checkpoint is missing or damaged, or its weights or its statistics do not fit
            its configuration.
    """
    return policy_of(read_checkpoint(path, cache, ema=ema)).to(device)


def policy_of(read: Pretrained) -> DiffusionPolicy:
    """A checkpoint's policy, in evaluation mode; it takes over the checkpoint's tensors.

    Raises:
        ConfigError: If weights or statistics do not fit the configuration.
    """
    config = read.config
    for note in load_notes(read):
        log.warning("%s: %s", config.folder, note)
    try:
        policy = policy_from_weights(read.policy_config, config.features, read.statistics, read.weights)
    except WeightsError as error:
        contradicted = [*config.faults, *([config.crop_fault] if config.crop_fault else [])]
        raise ConfigError([*contradicted, *path_error(f"{config.folder}: {error}").faults]) from error
    except NormalizationError as error:
        remedy = "Fine-tuning can use the dataset's statistics instead: policy.stats: dataset."
        raise path_error(f"{config.folder}: its statistics cannot be used: {error}.", remedy) from error
    return policy.eval()


def load_notes(read: Pretrained) -> list[str]:
    """Notes and warnings about a checkpoint before its policy is used, in a sentence or two each."""
    policy = read.policy_config
    found = read.statistics.get(read.config.features.action.name, {})
    plain = {
        name: np.asarray(values).reshape(-1).tolist() for name, values in found.items() if name != "count"
    }
    source = "The actions in the checkpoint's statistics"
    reach = extremes_reach(policy.normalization_action, plain, plain, source)
    problem = clip_problem(policy, reach)
    clip = [] if problem is None else [f"policy.clip_sample_range: {problem} {clip_remedy(reach)}"]
    return [*read.config.notes, *clip]


def read_checkpoint(
    path: str | Path, cache: Path | None = None, *, ema: bool = True, statistics: bool = True
) -> Pretrained:
    """Read a checkpoint's configuration, weights and statistics.

    Args:
        path: What :func:`trainables.diffusion_policy.pretrained.find.find_checkpoint` takes.
        cache: Folder for downloads from the hub; None: Hugging Face's own cache.
        ema: Read the averaged weights if the checkpoint has them.
        statistics: Read the statistics. A run that uses the dataset's does not need them.

    Raises:
        ConfigError: If the checkpoint is missing or damaged.
    """
    place = find_checkpoint(path, cache)
    if place.is_file():
        return read_original(place, ema=ema)
    config = read_config(place)
    readers: dict[str, Callable[[PretrainedConfig], Pretrained]] = {
        "sweeper": lambda config: _read_own(config, ema),
        "lerobot": _read_with_processors,
        "lerobot_buffers": _read_with_buffers,
    }
    if not statistics and config.format != "sweeper":
        return Pretrained(config, _weights(config), {})
    return readers[config.format](config)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file, floats as float32.

    The format's header is checked against the file's length, so no more memory is allocated than it needs.

    Raises:
        ConfigError: If it is missing or damaged.
    """
    try:
        with safe_open(file, framework="pt") as opened:
            return {name: _single(opened.get_tensor(name)) for name in opened.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise path_error(f"{file} is missing.") from error
    except (OSError, SafetensorError) as error:
        raise path_error(f"{file} cannot be read: {str(error).rstrip('.')}.") from error


def _single(value: Tensor) -> Tensor:
    # Copied: safetensors returns a view of the file, and the process would crash if another one shortened
    # the file.
    return value.to(torch.float32 if value.is_floating_point() else value.dtype, copy=True)


def _read_own(config: PretrainedConfig, ema: bool) -> Pretrained:
    folder = config.folder
    weights = read_tensors(folder / WEIGHTS)
    if ema and (folder / "ema.safetensors").exists():
        averaged = read_tensors(folder / "ema.safetensors")
        weights |= {name: value for name, value in averaged.items() if name in weights}
    return Pretrained(config, weights, _sorted_out(read_tensors(folder / "statistics.safetensors"), "/"))


def _read_with_processors(config: PretrainedConfig) -> Pretrained:
    """LeRobot from 0.4 on. It ignores statistics among the weights, which a migration leaves."""
    weights = _weights(config)
    before = _processor_statistics(config.folder, PREPROCESSOR, NORMALIZER)
    after = _processor_statistics(config.folder, POSTPROCESSOR, UNNORMALIZER)
    # The predicted actions matter; the statistics of the preprocessor's actions are for training only.
    action = config.features.action
    found = {feature.name: before.get(feature.name, {}) for feature in config.features.inputs}
    found[action.name] = after.get(action.name, {})
    return Pretrained(config, weights, _usable(config, found))


def _weights(config: PretrainedConfig) -> dict[str, Tensor]:
    """The weights of LeRobot's file, without statistics."""
    tensors = _renamed(read_tensors(config.folder / WEIGHTS))
    return {name: value for name, value in tensors.items() if not name.startswith(_BUFFERS)}


def _read_with_buffers(config: PretrainedConfig) -> Pretrained:
    """LeRobot before 0.4, which kept statistics among the weights."""
    tensors = _renamed(read_tensors(config.folder / WEIGHTS))
    weights = {name: value for name, value in tensors.items() if not name.startswith(_BUFFERS)}
    if len(weights) == len(tensors):
        raise path_error(
            f"{config.folder} has neither {PREPROCESSOR} nor statistics among its weights.",
            "Copy the whole folder: config.json, model.safetensors and the four processor files.",
        )
    found = {}
    for feature in config.features.all():
        kind = _OUTPUT_BUFFERS if feature.type is FeatureType.ACTION else _INPUT_BUFFERS
        # From the feature's name to the buffer's: the way back is ambiguous, since both dots and underscores
        # become underscores.
        start = f"{kind}{feature.name.replace('.', '_')}."
        found[feature.name] = {
            name.removeprefix(start): value.numpy()
            for name, value in tensors.items()
            if name.startswith(start)
        }
    return Pretrained(config, weights, _usable(config, found))


def _renamed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A name without the part that torch.compile adds."""
    return {name.replace(_COMPILED, ""): value for name, value in tensors.items()}


def _processor_statistics(folder: Path, file: str, registered: str) -> dict[str, dict[str, np.ndarray]]:
    try:
        step = find_step(read_json(folder / file), registered)
        if step is None:
            raise ValueError(f"it has no step {registered}")
        epsilon = step.get("config", {}).get("eps", EPSILON)
        if epsilon != EPSILON:
            raise ValueError(f"{registered} has eps {epsilon!r}; only {EPSILON} can be reproduced")
        # A step without statistics has no file: LeRobot changes nothing then.
        tensors = {} if step.get("state_file") is None else read_tensors(state_file(folder, step))
    except ValueError as error:
        raise path_error(f"{folder / file}: {error}.") from error
    return _sorted_out(tensors, ".")


def _sorted_out(tensors: Mapping[str, Tensor], separator: str) -> dict[str, dict[str, np.ndarray]]:
    """``{"<feature><separator><statistic>": tensor}`` as a mapping of mappings."""
    statistics: dict[str, dict[str, np.ndarray]] = {}
    for joined, value in tensors.items():
        feature, _, statistic = joined.rpartition(separator)
        if statistic in KNOWN_STATISTICS:
            statistics.setdefault(feature, {})[statistic] = value.numpy()
    return statistics


def _usable(config: PretrainedConfig, found: Mapping[str, Mapping[str, np.ndarray]]) -> Statistics:
    """Statistics with the names and shapes of this project's normaliser."""
    usable = {}
    for feature in config.features.all():
        entry = {name: _shaped(value, feature) for name, value in found[feature.name].items()}
        field = NORMALIZATION_FIELDS[feature.type]
        if feature.type.value in config.deciles and {"q10", "q90"} <= set(entry):
            entry |= {"q01": entry["q10"], "q99": entry["q90"]}
        if entry or NEEDED[config.values[field]]:
            usable[feature.name] = entry
    return usable


def _shaped(value: np.ndarray, feature: Feature) -> np.ndarray:
    """Newer versions of LeRobot take statistics of images without the dimensions of height and width."""
    if feature.type is FeatureType.VISUAL and value.ndim == 1:
        return value.reshape(-1, 1, 1)
    return value
