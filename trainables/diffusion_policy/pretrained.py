"""Find a checkpoint and read what it says of itself: whose format, which configuration, which features.

Read are LeRobot's folders (from 0.4 with processor files, before with statistics among the weights), this
project's own checkpoints, and files of the original code (``.ckpt``). Weights and statistics are read by
:mod:`trainables.diffusion_policy.lerobot`. Standard library only, except where the hub or a ``.ckpt`` file is
asked for.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trainables.diffusion_policy.config import FIELDS
from trainables.diffusion_policy.config_json import (
    InvalidConfigError,
    LerobotConfig,
    read_lerobot_config,
    read_normalization,
)
from trainables.diffusion_policy.processors import NORMALIZER, PREPROCESSOR, RENAMER, find_step
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import ConfigError, Fault

__all__ = ["PretrainedConfig", "find_checkpoint", "path_error", "read_config", "read_json"]

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
HUB_PATTERNS = ["*.json", "*.safetensors"]
HUB_IGNORED = ["*training_state/*", "*optimizer*"]
MOST_JSON_BYTES = 8_000_000
"""A configuration takes a few kilobytes; a file above this is none."""
MOST_LEVELS = 4
"""Folders between a training's output and its checkpoint: ``checkpoints/last/pretrained_model``."""

_SECTIONS = ("policy.", "optimizer.", "lr_scheduler.")
_OF_THE_RUN = {
    "policy.path",
    "policy.stats",
    "policy.reinit_mismatched",
}
"""How a checkpoint of ours came about, which says nothing of what it is."""


@dataclass(frozen=True)
class PretrainedConfig:
    """What a checkpoint says of itself.

    Attributes:
        folder: The checkpoint's folder, or the file of the original code.
        format: ``lerobot``; ``lerobot_buffers`` for LeRobot before 0.4; ``sweeper`` for this project's own;
            ``diffusion_policy`` for the original code.
        values: Its configuration by dotted name: ``policy.*``, and ``optimizer.*`` and ``lr_scheduler.*``
            where it says them.
        features: What the policy sees and does, cameras in the order of its encoders.
        notes: What was taken over differently, or not at all, in a sentence each.
        deciles: Types of features (``STATE``) whose 1st and 99th percentile are the 10th and the 90th.
    """

    folder: Path
    format: str
    values: Mapping[str, Any]
    features: PolicyFeatures
    notes: tuple[str, ...] = ()
    deciles: frozenset[str] = frozenset()


def path_error(problem: str, remedy: str = "") -> ConfigError:
    """An error about ``policy.path``."""
    return ConfigError([Fault("policy.path", problem, remedy)])


def find_checkpoint(path: str | Path, cache: Path | None = None) -> Path:
    """Find the checkpoint that is meant.

    Args:
        path: A checkpoint's folder; a folder that holds it (``checkpoints/000400``, ``checkpoints/last``, a
            training's output, a trial of a sweep; the best before the last where both are known); a ``.ckpt``
            file; or the name of a model on the hub (``owner/name``).
        cache: Folder for what is fetched from the hub; None: Hugging Face's own cache.

    Returns:
        The folder that holds ``config.json``, or the ``.ckpt`` file.

    Raises:
        ConfigError: Where there is no checkpoint, or the hub cannot be reached.
    """
    place = Path(path).expanduser()
    if place.is_file():
        if place.suffix == ".ckpt":
            return place
        raise path_error(f"{place} is a file.", "Name the checkpoint's folder, or a .ckpt file.")
    if place.is_dir():
        found = _in_folder(place, MOST_LEVELS)
        if found is None:
            remedy = (
                "Expected config.json and model.safetensors, or a folder checkpoints/ that leads to them."
            )
            raise path_error(f"{place} holds no checkpoint.", remedy)
        return found
    if isinstance(path, str) and REPO_ID.fullmatch(path):
        fetched = _fetch(path, cache)
        found = _in_folder(fetched, MOST_LEVELS)
        if found is None:
            raise path_error(f"the hub's {path} holds no checkpoint (config.json, model.safetensors).")
        return found
    remedy = "Expected a checkpoint's folder, a .ckpt file, or owner/name on the hub."
    raise path_error(f"{str(path)!r} does not exist.", remedy)


def read_config(folder: Path) -> PretrainedConfig:
    """Read a checkpoint's configuration, as :func:`find_checkpoint` found it.

    Raises:
        ConfigError: Where it is missing, damaged, of another policy, or not one that can be built here.
    """
    if folder.is_file():
        from trainables.diffusion_policy.lerobot.original import read_original_config

        return read_original_config(folder)
    stated = read_json(folder / "config.json")
    if isinstance(stated.get("config"), dict) and "features" in stated:
        return _read_own(folder, stated)
    before_0_4 = not (folder / PREPROCESSOR).exists()
    try:
        read = read_lerobot_config(stated, before_0_4=before_0_4)
    except InvalidConfigError as error:
        raise path_error(f"{folder / 'config.json'}: {error}", error.remedy) from error
    if not before_0_4:
        read = _with_processors(folder, read)
    notes = [*read.notes, *(_decile_note(kind) for kind in sorted(read.deciles))]
    kind = "lerobot_buffers" if before_0_4 else "lerobot"
    return PretrainedConfig(folder, kind, read.values, read.features, tuple(notes), read.deciles)


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        ConfigError: Where it is missing, not JSON, no object, or larger than any configuration.
    """

    def fail(problem: str, cause: Exception | None = None) -> NoReturn:
        raise path_error(f"{file} {problem}.") from cause

    try:
        if file.stat().st_size > MOST_JSON_BYTES:
            fail(f"has more than {MOST_JSON_BYTES:,} bytes, which no checkpoint's has")
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fail("is missing", error)
    except (OSError, ValueError, RecursionError) as error:
        fail(f"cannot be read ({error})", error)
    if not isinstance(value, dict):
        fail("holds no JSON object")
    return value


def _in_folder(folder: Path, levels: int) -> Path | None:
    """The checkpoint that a folder is or leads to."""
    config = folder / "config.json"
    if config.is_file() and (folder / "model.safetensors").is_file():
        return folder
    if levels:
        for inside in _leads(folder):
            if inside.suffix == ".ckpt" and inside.is_file():
                return inside
            found = _in_folder(inside, levels - 1) if inside.is_dir() else None
            if found is not None:
                return found
    # Without weights it is none, yet the reader can say so better than "nothing is here".
    return folder if config.is_file() and not (folder / "checkpoints").is_dir() else None


def _leads(folder: Path) -> list[Path]:
    """Where a checkpoint may lie inside a folder, the likeliest first."""
    numbered = sorted(
        (entry for entry in folder.iterdir() if entry.name.isdigit()), key=lambda entry: -int(entry.name)
    )
    pointed = [name for pointer in ("best", "last") if (name := _pointed(folder / f"{pointer}.json"))]
    return [
        *(folder / name for name in pointed),
        folder / "pretrained_model",
        folder / "last",
        *numbered,
        folder / "latest.ckpt",
        folder / "checkpoints",
    ]


def _pointed(pointer: Path) -> str | None:
    """The folder's name in a pointer of this project; None where there is none."""
    try:
        return Path(str(json.loads(pointer.read_text(encoding="utf-8"))["folder"])).name or None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _fetch(repo_id: str, cache: Path | None) -> Path:
    # Slow to import, and not needed for folders.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    try:
        folder = snapshot_download(
            repo_id, allow_patterns=HUB_PATTERNS, ignore_patterns=HUB_IGNORED, cache_dir=cache
        )
    except GatedRepoError as error:
        remedy = "Ask for access on its page, and log in with `hf auth login`."
        raise path_error(f"{repo_id} asks for a permission you lack.", remedy) from error
    except RepositoryNotFoundError as error:
        remedy = "Check the spelling; a private model needs `hf auth login`. There is no such folder either."
        raise path_error(f"the hub has no model {repo_id!r}.", remedy) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        # Without a network and without a cached copy the client raises one of several kinds of OSError.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "There is no such folder either. Without a network, name a folder that has the checkpoint."
        problem = f"{repo_id} cannot be fetched from the hub: {reason.removeprefix('Got: ')}"
        raise path_error(problem, remedy) from error
    return Path(folder)


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
        features = PolicyFeatures.of(
            Feature(str(item["name"]), FeatureType(item["type"]), tuple(int(n) for n in item["shape"]))
            for item in stated["features"]
        )
    except (KeyError, TypeError, ValueError) as error:
        raise path_error(f"{config}: its features cannot be read ({error}).") from error
    return PretrainedConfig(folder, "sweeper", values, features, notes)
