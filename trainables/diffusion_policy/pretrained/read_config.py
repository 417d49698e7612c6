"""Read a checkpoint's description: its format, its configuration, its features.

Supported are LeRobot's folders (from 0.4 with processor files, before with statistics among the weights),
this project's own checkpoints, and files of the original code (``.ckpt``). Weights and statistics are read by
:mod:`trainables.diffusion_policy.lerobot`. Standard library only, except for the hub or a ``.ckpt`` file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS
from trainables.diffusion_policy.pretrained.inferred import (
    InferredConfig,
    contradictions,
    crop_contradiction,
    infer_from_file,
)
from trainables.diffusion_policy.pretrained.lerobot_config import (
    InvalidConfigError,
    LerobotConfig,
    read_lerobot_config,
    read_normalization,
)
from trainables.diffusion_policy.pretrained.lerobot_processors import (
    NORMALIZER,
    POSTPROCESSOR,
    PREPROCESSOR,
    RENAMER,
    UNNORMALIZER,
    find_step,
    state_file,
)
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig, path_error, read_json
from trainables.diffusion_policy.pretrained.tensor_file import TensorFileError
from trainables.features import PolicyFeatures
from trainables.interface import ConfigError, Fault

__all__ = ["read_config"]

WEIGHTS = "model.safetensors"
_SECTIONS = ("policy.", "optimizer.", "lr_scheduler.")
_OF_THE_RUN = {
    "policy.path",
    "policy.stats",
    "policy.reinit_mismatched",
}
"""Fields on the origin of our own checkpoints, which do not describe the policy."""


def read_config(folder: Path) -> PretrainedConfig:
    """Read a checkpoint's configuration, as :func:`find_checkpoint` found it.

    Raises:
        ConfigError: If it is missing, damaged, of another policy, or not one that can be built here.
    """
    if folder.is_file():
        from trainables.diffusion_policy.pretrained.original_ckpt import read_original_config

        return read_original_config(folder)
    stated = read_json(folder / "config.json")
    inferred, damage = _infer(folder)
    if isinstance(stated.get("config"), dict) and "features" in stated:
        return _compared(_read_own(folder, stated), inferred, damage)
    before_0_4 = not (folder / PREPROCESSOR).exists()
    training = _training_policy(folder)
    try:
        read = read_lerobot_config(stated, before_0_4=before_0_4, inferred=inferred, training=training)
    except InvalidConfigError as error:
        raise path_error(f"{folder / 'config.json'}: {error}", error.remedy) from error
    if not before_0_4:
        read = _with_processors(folder, read)
    notes = [*read.notes, *(_decile_note(kind) for kind in sorted(read.deciles))]
    kind = "lerobot_buffers" if before_0_4 else "lerobot"
    config = PretrainedConfig(folder, kind, read.values, read.features, tuple(notes), read.deciles)
    lacking = _lacking_statistics(folder, before_0_4, inferred)
    return _compared(dataclasses.replace(config, statistics_fault=lacking), inferred, damage)


def _infer(folder: Path) -> tuple[InferredConfig | None, Fault | None]:
    """The configuration that the weights show, or their damage; neither if they were not downloaded yet."""
    file = folder / WEIGHTS
    try:
        return infer_from_file(file), None
    except FileNotFoundError:
        return None, None
    except TensorFileError as error:
        return None, Fault("policy.path", f"{file} cannot be read: it {error}.", error.remedy)


def _compared(
    config: PretrainedConfig, inferred: InferredConfig | None, damage: Fault | None
) -> PretrainedConfig:
    """The configuration with the faults that a comparison with its weights finds."""
    if inferred is None:
        return dataclasses.replace(config, faults=() if damage is None else (damage,))
    file = config.folder / "config.json"
    if config.format != "lerobot_buffers":
        # LeRobot does not use the statistics that a migration left among the weights.
        inferred = dataclasses.replace(inferred, modes={})
    # An older version of this project wrote fewer fields.
    values = {name: info.default for name, info in FIELDS.items()} | dict(config.values)
    faults = contradictions(file, values, config.features, inferred)
    crop_fault = None if faults else crop_contradiction(file, values, config.features, inferred)
    return dataclasses.replace(config, faults=tuple(faults), crop_fault=crop_fault)


def _training_policy(folder: Path) -> Mapping[str, Any]:
    """The policy's section of LeRobot's ``train_config.json``; empty if there is none."""
    try:
        policy = read_json(folder / "train_config.json").get("policy")
    except ConfigError:
        return {}
    return policy if isinstance(policy, dict) and policy.get("type") == "diffusion" else {}


def _lacking_statistics(folder: Path, before_0_4: bool, inferred: InferredConfig | None) -> str:
    """Why a checkpoint of LeRobot has no statistics; empty if it has them or its files are missing here."""
    if inferred is None:
        return ""
    if before_0_4:
        return (
            "" if inferred.has_statistics else f"has neither {PREPROCESSOR} nor statistics among its weights"
        )
    for name, registered in ((PREPROCESSOR, NORMALIZER), (POSTPROCESSOR, UNNORMALIZER)):
        try:
            step = find_step(read_json(folder / name), registered)
            if step is not None and step.get("state_file") is not None:
                file = state_file(folder, step)
                if not file.is_file():
                    return f"lacks {file.name}, which {name} names"
        except ConfigError:
            return f"has no {name} that can be read"
        except ValueError as error:
            return f"has a {name} that cannot be used: {error}"
    return ""


def _with_processors(folder: Path, read: LerobotConfig) -> LerobotConfig:
    """Replace the fields that LeRobot reads from the processors."""
    file = folder / PREPROCESSOR
    try:
        content = read_json(file)
        normalizer, renamer = find_step(content, NORMALIZER), find_step(content, RENAMER)
        mapping = {} if normalizer is None else normalizer.get("config", {}).get("norm_map")
        modes, deciles = read_normalization(mapping)
    except InvalidConfigError as error:
        raise path_error(f"{file}: {error}", error.remedy) from error
    except ValueError as error:
        raise path_error(f"{file}: {error}.") from error
    notes = [
        f"{name} is {mode} according to {PREPROCESSOR}, which takes precedence over config.json "
        f"({read.values[name]})."
        for name, mode in modes.items()
        if mode != read.values[name]
    ]
    renames = None if renamer is None else renamer.get("config", {}).get("rename_map")
    if renames:
        problem = f"LeRobot renames observations before this policy ({renames})"
        notes.append(f"{problem}. Here the dataset must have the policy's names.")
    return LerobotConfig(read.values | modes, read.features, deciles, [*read.notes, *notes])


def _decile_note(kind: str) -> str:
    return (
        f"{kind} is normalised by its 10th and 90th percentile (QUANTILE10). QUANTILES with "
        "these percentiles is used. Statistics of a new dataset would be the 1st and 99th percentile."
    )


def _read_own(folder: Path, stated: Mapping[str, Any]) -> PretrainedConfig:
    """The configuration of one of this project's own checkpoints."""
    config = folder / "config.json"
    wanted = {
        name: value
        for name, value in stated["config"].items()
        if name.startswith(_SECTIONS) and name not in _OF_THE_RUN
    }
    values = {name: value for name, value in wanted.items() if name in FIELDS}
    notes = tuple(f"{name} is unknown here and was ignored." for name in wanted if name not in FIELDS)
    faults = [str(fault) for name, value in values.items() for fault in FIELDS[name].faults(value)]
    if faults:
        raise path_error(f"{config}: {' '.join(faults)}")
    try:
        features = PolicyFeatures.from_json(stated["features"])
    except (KeyError, TypeError, ValueError) as error:
        raise path_error(f"{config}: its features cannot be read ({error}).") from error
    return PretrainedConfig(folder, "sweeper", values, features, notes)
