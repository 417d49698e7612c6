"""Find a checkpoint and read what it says of itself: whose format, which configuration, which features.

Read are LeRobot's folders (from 0.4 with processor files, before with statistics among the weights), this
project's own checkpoints, and files of the original code (``.ckpt``). Weights and statistics are read by
:mod:`trainables.diffusion_policy.lerobot`. Standard library only, except where the hub or a ``.ckpt`` file is
asked for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS
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
from trainables.diffusion_policy.pretrained.told_by_weights import (
    ToldByWeights,
    contradictions,
    crop_contradiction,
    read_told,
)
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
"""How a checkpoint of ours came about, which says nothing of what it is."""


def read_config(folder: Path) -> PretrainedConfig:
    """Read a checkpoint's configuration, as :func:`find_checkpoint` found it.

    Raises:
        ConfigError: If it is missing, damaged, of another policy, or not one that can be built here.
    """
    if folder.is_file():
        from trainables.diffusion_policy.pretrained.original_ckpt import read_original_config

        return read_original_config(folder)
    stated = read_json(folder / "config.json")
    told, damage = _told(folder)
    if isinstance(stated.get("config"), dict) and "features" in stated:
        return _compared(_read_own(folder, stated), told, damage)
    before_0_4 = not (folder / PREPROCESSOR).exists()
    training = _training_policy(folder)
    try:
        read = read_lerobot_config(stated, before_0_4=before_0_4, told=told, training=training)
    except InvalidConfigError as error:
        raise path_error(f"{folder / 'config.json'}: {error}", error.remedy) from error
    if not before_0_4:
        read = _with_processors(folder, read)
    notes = [*read.notes, *(_decile_note(kind) for kind in sorted(read.deciles))]
    kind = "lerobot_buffers" if before_0_4 else "lerobot"
    config = PretrainedConfig(folder, kind, read.values, read.features, tuple(notes), read.deciles)
    lacking = _lacking_statistics(folder, before_0_4, told)
    return _compared(dataclasses.replace(config, statistics_fault=lacking), told, damage)


def _told(folder: Path) -> tuple[ToldByWeights | None, Fault | None]:
    """What the weights tell, and how they are damaged; neither if they were not downloaded yet."""
    file = folder / WEIGHTS
    try:
        return read_told(file), None
    except FileNotFoundError:
        return None, None
    except TensorFileError as error:
        return None, Fault("policy.path", f"{file} cannot be read: it {error}.", error.remedy)


def _compared(config: PretrainedConfig, told: ToldByWeights | None, damage: Fault | None) -> PretrainedConfig:
    """The configuration with the faults that a comparison with its weights finds."""
    if told is None:
        return dataclasses.replace(config, faults=() if damage is None else (damage,))
    file = config.folder / "config.json"
    if config.format != "lerobot_buffers":
        # What a migration left among the weights is not what LeRobot normalises with.
        told = dataclasses.replace(told, modes={})
    # An older version of this project wrote fewer fields.
    values = {name: info.default for name, info in FIELDS.items()} | dict(config.values)
    faults = contradictions(file, values, config.features, told)
    crop_fault = None if faults else crop_contradiction(file, values, config.features, told)
    return dataclasses.replace(config, faults=tuple(faults), crop_fault=crop_fault)


def _training_policy(folder: Path) -> Mapping[str, Any]:
    """The policy's section of LeRobot's ``train_config.json``; empty if there is none."""
    try:
        policy = read_json(folder / "train_config.json").get("policy")
    except ConfigError:
        return {}
    return policy if isinstance(policy, dict) and policy.get("type") == "diffusion" else {}


def _lacking_statistics(folder: Path, before_0_4: bool, told: ToldByWeights | None) -> str:
    """Why a checkpoint of LeRobot has no statistics; empty if it has them or its files are not here."""
    if told is None:
        return ""
    if before_0_4:
        return "" if told.has_statistics else f"has neither {PREPROCESSOR} nor statistics among its weights"
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
    """Take over from the processors what LeRobot would take from there."""
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
        f"{name} is {mode}, as {PREPROCESSOR} says; config.json says {read.values[name]}."
        for name, mode in modes.items()
        if mode != read.values[name]
    ]
    renames = None if renamer is None else renamer.get("config", {}).get("rename_map")
    if renames:
        problem = f"LeRobot renames observations before this policy ({renames})"
        notes.append(f"{problem}; here they have the names that the policy knows.")
    return LerobotConfig(read.values | modes, read.features, deciles, [*read.notes, *notes])


def _decile_note(kind: str) -> str:
    return (
        f"{kind} is normalised by its 10th and 90th percentile (QUANTILE10): taken over as QUANTILES, with "
        "those in place of the 1st and 99th. Statistics of a new dataset would be the 1st and 99th."
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
    notes = tuple(f"{name} is not known here and was ignored." for name in wanted if name not in FIELDS)
    faults = [str(fault) for name, value in values.items() for fault in FIELDS[name].faults(value)]
    if faults:
        raise path_error(f"{config}: {' '.join(faults)}")
    try:
        features = PolicyFeatures.from_json(stated["features"])
    except (KeyError, TypeError, ValueError) as error:
        raise path_error(f"{config}: its features cannot be read ({error}).") from error
    return PretrainedConfig(folder, "sweeper", values, features, notes)
