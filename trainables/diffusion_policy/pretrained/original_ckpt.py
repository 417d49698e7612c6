"""Files of the original code (``real-stanford/diffusion_policy``, ``.ckpt``), read without running them.

Such a file is a pickle of the configuration (OmegaConf) and of state dicts. torch's restricted reader
(``weights_only``) builds tensors and plain containers and refuses every other class. For the few classes of
OmegaConf it uses stand-ins that keep an object's data and have no behaviour; so neither OmegaConf nor dill is
imported, and a file that contains any other class is refused.

Supported are policies on states (``DiffusionUnetLowdimPolicy``) that take observations as one condition of
the whole U-Net. Policies on images have encoders of robomimic, which differ from LeRobot's.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.config.diffusion_config import FIELDS
from trainables.diffusion_policy.network.normalize import Statistics
from trainables.diffusion_policy.pretrained.inferred import contradictions, infer_config
from trainables.diffusion_policy.pretrained.lerobot_config import InvalidConfigError, check_values
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig, path_error
from trainables.diffusion_policy.pretrained.weights import Pretrained
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import ConfigError

__all__ = ["read_original", "read_original_config"]

_LOWDIM = "DiffusionUnetLowdimPolicy"
_MOST_DEPTH = 32
# The values that a scheduler's settings must have if they are given: diffusers' defaults, which both use.
_SCHEDULER_DEFAULTS = {
    "variance_type": ("fixed_small", None),
    "set_alpha_to_one": (True, None),
    "steps_offset": (0, None),
    "thresholding": (False, None),
    "trained_betas": (None,),
}
_CONVERT = "docs/checkpoints.md shows how to convert such a file on the machine where it was made."


class _Object:
    """An object of the file whose class is not loaded: its data without behaviour."""

    state: Any = None

    def __init__(self, *_arguments: Any) -> None:
        pass

    def __call__(self) -> None:
        return None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _stand_ins() -> list[Any]:
    names = (
        *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
        *(f"omegaconf.base.{name}" for name in ("Metadata", "ContainerMetadata", "SCMode")),
        *(
            f"omegaconf.nodes.{kind}Node"
            for kind in ("Any", "String", "Integer", "Float", "Boolean", "Bytes", "Path", "Enum")
        ),
        *(
            "typing.Any",
            "typing.Union",
            "typing.Optional",
            "collections.defaultdict",
            "dill._dill._load_type",
        ),
        *(f"builtins.{name}" for name in ("dict", "list", "int", "str", "float", "bool", "object")),
    )
    return [(type(name.rpartition(".")[2], (_Object,), {}), name) for name in names]


def read_original_config(file: Path) -> PretrainedConfig:
    """Read the configuration of a ``.ckpt`` file. Its weights stay on the disk.

    Raises:
        ConfigError: If it cannot be read safely, or its policy cannot be built here.
    """
    # Mapped into memory, tensors are read when they are used: here, only those of the normaliser.
    return _describe(file, _payload(file, mapped=True), ema=True).config


def read_original(file: Path, *, ema: bool) -> Pretrained:
    """Read a ``.ckpt`` file.

    Args:
        file: The file.
        ema: Read the averaged weights if there are any.

    Raises:
        ConfigError: If it cannot be read safely, or its policy cannot be built here.
    """
    read = _describe(file, _payload(file, mapped=False), ema=ema)
    weights = {
        _renamed(key): value.float() for key, value in read.tensors.items() if key.startswith("model.")
    }
    return Pretrained(read.config, weights, read.statistics)


class _Described(NamedTuple):
    """A file's configuration, and its tensors under the file's own names."""

    config: PretrainedConfig
    statistics: Statistics
    tensors: Mapping[str, Tensor]


def _describe(file: Path, payload: Mapping[str, Any], *, ema: bool) -> _Described:
    stated, states = _plain(payload.get("cfg")), payload.get("state_dicts")
    if not isinstance(stated, dict) or not isinstance(states, dict):
        raise path_error(f"{file} lacks cfg or state_dicts, which a file of the original code has.", _CONVERT)
    name = "ema_model" if ema and "ema_model" in states else "model"
    tensors = states.get(name)
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise path_error(f"{file} has no state dict {name!r}.")
    try:
        values = _read_values(stated)
        features = _read_features(stated["policy"])
        statistics = {
            STATE: _limits(tensors, "obs", features.state_dim),
            ACTION: _limits(tensors, "action", features.action_dim),
        }
    except InvalidConfigError as error:
        raise path_error(f"{file}: {error}", error.remedy) from error
    notes = [f"the {'averaged weights (EMA)' if name == 'ema_model' else 'weights as trained'} were read."]
    notes.append(f"its observation vector is {STATE} here, {features.state_dim} numbers.")
    # Missing values are the defaults of the original's classes, which are the same in all versions.
    complete = {field: info.default for field, info in FIELDS.items()} | values
    learnt = {_renamed(key): tuple(value.shape) for key, value in tensors.items() if key.startswith("model.")}
    faults = tuple(contradictions(file, complete, features, infer_config(learnt)))
    config = PretrainedConfig(file, "diffusion_policy", values, features, tuple(notes), faults=faults)
    return _Described(config, statistics, tensors)


def _payload(file: Path, *, mapped: bool) -> Mapping[str, Any]:
    try:
        # Files from before PyTorch 1.6 cannot be mapped; they are small.
        mapped = mapped and zipfile.is_zipfile(file)
        with torch.serialization.safe_globals(_stand_ins()):
            payload = torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError as error:
        raise path_error(f"{file} is missing.") from error
    except Exception as error:
        # The restricted reader raises many kinds of errors for unexpected files; each is a refusal.
        raise _refusal(file, error) from error
    if not isinstance(payload, dict):
        raise path_error(
            f"{file} contains a {type(payload).__name__}, not a checkpoint of the original code."
        )
    return payload


def _refusal(file: Path, error: Exception) -> ConfigError:
    # torch's own message ends with the advice to read the file unsafely.
    found = re.search(r"unsupported (?:global|class)[: ]+(?:global )?([\w.]*\w)", str(error), re.IGNORECASE)
    if found is None:
        return path_error(f"{file} cannot be read: it is damaged, or not a file of PyTorch.", _CONVERT)
    return path_error(
        f"{file} cannot be read safely: it contains an object of {found[1]}, and building it would run "
        "code that the file names.",
        _CONVERT,
    )


def _plain(value: Any, depth: int = 0) -> Any:
    """OmegaConf's containers and nodes as plain values."""
    if depth > _MOST_DEPTH:
        return None
    if isinstance(value, _Object):
        state = value.state[0] if isinstance(value.state, tuple) else value.state
        held = state if isinstance(state, dict) else {}
        return _plain(held.get("_content", held.get("_val")), depth + 1)
    if isinstance(value, dict):
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    return value


def _read_values(stated: Mapping[str, Any]) -> dict[str, Any]:
    policy = _mapping(stated, "policy")
    model, scheduler = _mapping(policy, "model"), _mapping(policy, "noise_scheduler")
    _refuse_others(policy, model, scheduler)
    kind = str(scheduler.get("_target_", "DDPMScheduler")).rpartition(".")[2].removesuffix("Scheduler")
    values = {
        "n_obs_steps": policy.get("n_obs_steps"),
        "horizon": policy.get("horizon"),
        "n_action_steps": policy.get("n_action_steps"),
        # The defaults of the original's classes.
        "down_dims": model.get("down_dims", [256, 512, 1024]),
        "kernel_size": model.get("kernel_size", 3),
        "n_groups": model.get("n_groups", 8),
        "diffusion_step_embed_dim": model.get("diffusion_step_embed_dim", 256),
        "use_film_scale_modulation": model.get("cond_predict_scale", False),
        "noise_scheduler_type": kind,
        "num_train_timesteps": scheduler.get("num_train_timesteps", 1000),
        "beta_schedule": scheduler.get("beta_schedule", "linear"),
        "beta_start": scheduler.get("beta_start", 1e-4),
        "beta_end": scheduler.get("beta_end", 0.02),
        "prediction_type": scheduler.get("prediction_type", "epsilon"),
        "clip_sample": scheduler.get("clip_sample", True),
        "clip_sample_range": scheduler.get("clip_sample_range", 1.0),
        "num_inference_steps": policy.get("num_inference_steps"),
        "normalization_state": "MIN_MAX",
        "normalization_action": "MIN_MAX",
    }
    flat = {f"policy.{name}": value for name, value in values.items()}
    check_values(flat)
    return flat


def _refuse_others(policy: Mapping[str, Any], model: Mapping[str, Any], scheduler: Mapping[str, Any]) -> None:
    """Refuse policies that differ from those built here."""
    kind = str(policy.get("_target_", "")).rpartition(".")[2]
    if kind != _LOWDIM:
        raise InvalidConfigError(
            f"its policy is {kind or 'not named'}; of the original code only {_LOWDIM} can be read.",
            "Policies on images have other encoders there. Train them again with this project.",
        )
    if not policy.get("obs_as_global_cond", False) or policy.get("obs_as_local_cond", False):
        raise InvalidConfigError(
            "its observations are not a condition of the whole U-Net (obs_as_global_cond)."
        )
    if not policy.get("oa_step_convention", False) or policy.get("pred_action_steps_only", False):
        raise InvalidConfigError("its actions do not begin at the last observation (oa_step_convention).")
    if str(model.get("_target_", "ConditionalUnet1D")).rpartition(".")[2] != "ConditionalUnet1D":
        raise InvalidConfigError(f"its network is {model['_target_']}, not ConditionalUnet1D.")
    if model.get("local_cond_dim") is not None:
        raise InvalidConfigError("its network has a local condition (local_cond_dim).")
    for name, allowed in _SCHEDULER_DEFAULTS.items():
        if name in scheduler and scheduler[name] not in allowed:
            raise InvalidConfigError(
                f"its noise_scheduler has {name} {scheduler[name]!r}, which is not supported."
            )


def _read_features(policy: Mapping[str, Any]) -> PolicyFeatures:
    sizes = {}
    for name in ("obs_dim", "action_dim"):
        size = policy.get(name)
        if type(size) is not int or not 1 <= size <= 1_000_000:
            raise InvalidConfigError(f"policy.{name} is {size!r}.", "Expected a size.")
        sizes[name] = size
    return PolicyFeatures.of(
        [
            Feature(STATE, FeatureType.STATE, (sizes["obs_dim"],)),
            Feature(ACTION, FeatureType.ACTION, (sizes["action_dim"],)),
        ]
    )


def _limits(tensors: Mapping[str, Tensor], name: str, size: int) -> dict[str, np.ndarray]:
    """The minimum and maximum that scale as its normaliser does: ``x * scale + offset``."""
    found = []
    for part in ("scale", "offset"):
        value = tensors.get(f"normalizer.params_dict.{name}.{part}")
        if value is None or tuple(value.shape) != (size,):
            raise InvalidConfigError(f"its normaliser has no {part} of {size} numbers for {name!r}.")
        found.append(value.numpy().astype(np.float64))
    scale, offset = found
    if not (np.isfinite(scale) & (scale > 0) & np.isfinite(offset)).all():
        raise InvalidConfigError(f"the normaliser of {name!r} is not a scaling (scale {scale.tolist()}).")
    limits = {"min": (-1 - offset) / scale, "max": (1 - offset) / scale}
    return {statistic: value.astype(np.float32) for statistic, value in limits.items()}


def _renamed(name: str) -> str:
    """A parameter's name in LeRobot, where two blocks have other names and resampling has no wrapper."""
    name = name.replace("model.", "diffusion.unet.", 1)
    name = name.replace(".blocks.0.", ".conv1.").replace(".blocks.1.", ".conv2.")
    return re.sub(r"((?:down|up)_modules\.\d+\.2)\.conv\.", r"\1.", name)


def _mapping(holder: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = holder.get(name)
    if not isinstance(value, dict):
        raise InvalidConfigError(f"its configuration has no {name}.")
    return value
