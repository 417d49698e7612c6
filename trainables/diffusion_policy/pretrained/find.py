"""Find the checkpoint of a path, a trial's folder or a hub name."""

from __future__ import annotations

import json
import re
from pathlib import Path

from trainables.deployment.bundle import BundleError, is_bundle, open_bundle
from trainables.diffusion_policy.pretrained.pretrained_config import path_error
from trainables.interface import expanded

__all__ = ["find_checkpoint"]

HUB_PATTERNS = ["*.json", "*.safetensors"]
HUB_IGNORED = ["*training_state/*", "*optimizer*"]
MOST_LEVELS = 4
"""Folders between a training's output and its checkpoint: ``checkpoints/last/pretrained_model``."""


def find_checkpoint(path: str | Path, cache: Path | None = None) -> Path:
    """Find the checkpoint of a path or a hub name.

    Args:
        path: A checkpoint's folder; a folder that contains it (``checkpoints/000400``, ``checkpoints/last``,
            a training's output, a trial of a sweep; the best before the last if both are known); a ``.ckpt``
            file; a bundle, packed or unpacked; or the name of a model on the hub (``owner/name``).
        cache: Folder for downloads from the hub; None: Hugging Face's own cache.

    Returns:
        The folder of ``config.json``, or the ``.ckpt`` file.

    Raises:
        ConfigError: If no checkpoint is found, or the hub cannot be reached.
    """
    place = expanded(path)
    if is_bundle(place):
        try:
            return find_checkpoint(open_bundle(place).policy)
        except BundleError as error:
            raise path_error(str(error)) from error
    if place.is_file():
        if place.suffix == ".ckpt":
            return place
        raise path_error(f"{place} is a file.", "Name the checkpoint's folder, a .ckpt file, or a bundle.")
    if place.is_dir():
        found = _in_folder(place, MOST_LEVELS)
        if found is None:
            remedy = (
                "Expected config.json and model.safetensors, or a folder checkpoints/ that contains them."
            )
            raise path_error(f"{place} does not contain a checkpoint.", remedy)
        return found
    if isinstance(path, str) and REPO_ID.fullmatch(path):
        fetched = _fetch(path, cache)
        found = _in_folder(fetched, MOST_LEVELS)
        if found is None:
            raise path_error(
                f"{path} on the hub does not contain a checkpoint (config.json, model.safetensors)."
            )
        return found
    remedy = "Use a checkpoint's folder, a .ckpt file, a bundle, or owner/name on the hub."
    raise path_error(f"{str(path)!r} does not exist.", remedy)


def _in_folder(folder: Path, levels: int) -> Path | None:
    """The checkpoint that a folder is, or that it contains or points to."""
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
    # Without weights it is incomplete, which the reader reports better than "does not contain a checkpoint".
    return folder if config.is_file() and not (folder / "checkpoints").is_dir() else None


def _leads(folder: Path) -> list[Path]:
    """Where a checkpoint may be inside a folder, the likeliest first."""
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
    """The folder's name in a pointer of this project; None if there is none."""
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
        remedy = "Request access on its page, and log in with `hf auth login`."
        raise path_error(f"access to {repo_id} is restricted.", remedy) from error
    except RepositoryNotFoundError as error:
        remedy = "Check the spelling; no such folder exists either. A private model needs `hf auth login`."
        raise path_error(f"the hub has no model {repo_id!r}.", remedy) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        # Without a network and without a cached copy the client raises one of several kinds of OSError.
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        remedy = "No such folder exists either. Without a network, use a folder with the checkpoint."
        problem = f"{repo_id} cannot be fetched from the hub: {reason.removeprefix('Got: ')}"
        raise path_error(problem, remedy) from error
    return Path(folder)


REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")
