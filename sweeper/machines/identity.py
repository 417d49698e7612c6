"""What runs here: versions of Python, of Ray and of this package, and a digest of the package's own code.

Nodes of a cluster are compared by it. The version alone does not distinguish two checkouts; the digest does.
``python -m sweeper.machines.identity`` prints it as JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.machines.cluster import Cluster
from sweeper.masking import masked_command

__all__ = [
    "FIELDS",
    "GIT",
    "SEARCHED",
    "DataChange",
    "Identity",
    "as_typed",
    "data_changes",
    "data_of_all",
    "data_of_trial",
    "git_state",
    "identify",
    "information",
]

DIGITS = 12
PACKAGES = ("torch", "torchvision", "diffusers", "optuna", "mlflow", "numpy")

GIT = "SWEEPER_GIT"
"""Environment variable with the commit from which a job was sent."""


@dataclass(frozen=True)
class Identity:
    """What a process runs.

    Attributes:
        python: Version of Python, to the patch level.
        ray: Version of Ray.
        package: Version of this package.
        code: Digest of the code of this package and of the trainables that come with it.
        packages: Versions of what trials compute with, by name.
    """

    python: str
    ray: str
    package: str
    code: str
    packages: dict[str, str]


def identify() -> Identity:
    """Say what runs here; reads the package's files, and loads nothing."""
    return Identity(
        platform.python_version(),
        _version("ray"),
        __version__,
        _digest(),
        {name: _version(name) for name in PACKAGES},
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "missing"


def _digest() -> str:
    service = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in (service, service.parent / "trainables"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder.parent)).encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGITS]


def git_state() -> dict[str, Any]:
    """Commit of the folder that the sweep is launched from, and whether it has changes; empty without git.

    On a cluster that is the folder of the caller that sent the job, who says so in SWEEPER_GIT.
    """
    with contextlib.suppress(ValueError):
        sent = json.loads(os.environ.get(GIT, ""))
        if isinstance(sent, dict):
            return {name: sent[name] for name in ("commit", "dirty") if name in sent}

    def ask(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def as_typed(words: Sequence[str]) -> list[str]:
    """A command line that begins with ``sweeper`` if this package was run as a module.

    ``python -m sweeper`` and ``python -m sweeper.cli`` put the path of their file in front.
    """
    package = Path(__file__).resolve().parents[1]
    modules = (package / "__main__.py", package / "cli.py")
    module = bool(words) and Path(words[0]).resolve() in modules
    return ["sweeper", *words[1:]] if module else list(words)


def information(data: Mapping[str, Any], cluster: Cluster) -> dict[str, Any]:
    """What a sweep was run with."""
    packages = ("diffusion-policy-sweeper", "ray", "torch", "diffusers", "optuna", "mlflow", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "versions": versions,
        "git": git_state(),
        "data": dict(data),
        "cluster": str(cluster),
        "command": masked_command(as_typed(sys.argv)),
    }


@dataclass(frozen=True)
class DataChange:
    """How the data of a sweep differ from what its trials were trained on.

    Attributes:
        same: Whether they have the same content, though in another place or in other files.
        what: ``dataset`` or ``checkpoint``.
        before: What it was, for a message.
        now: What it is.
    """

    same: bool
    what: str
    before: str
    now: str


SEARCHED, FIELDS = "searched", "fields"
"""In a description of data: one entry for each combination of the searched fields, and their values in it."""


def data_of_all(data: Mapping[str, Any]) -> dict[str, Any]:
    """What holds for the data of every trial, of a description as `information` has it under ``data``."""
    entries = _entries(data)
    if not entries:
        return dict(data)
    first = {name: value for name, value in entries[0].items() if name != FIELDS}
    return {
        name: value
        for name, value in first.items()
        if all(name in entry and entry[name] == value for entry in entries)
    }


def data_of_trial(data: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """The data of a trial: what holds for its values of the searched fields, else what holds for all."""
    for entry in _entries(data):
        if all(config.get(name) == value for name, value in entry.get(FIELDS, {}).items()):
            return {name: value for name, value in entry.items() if name != FIELDS}
    return data_of_all(data)


def _entries(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The descriptions of the combinations of the fields that are searched; none if no field is."""
    searched = data.get(SEARCHED)
    return [one for one in searched if isinstance(one, Mapping)] if isinstance(searched, list) else []


BUILT_IN = "builtin/"
"""What the names of datasets begin with that the program makes itself."""


def data_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[DataChange]:
    """Compare two descriptions of a sweep's data, as `information` has them under ``data``.

    Data that a space searches are described one by one. Those that both descriptions have are compared.
    """
    then = _by_fields(before)
    return [
        change
        for fields, entry in _by_fields(now).items()
        if fields in then
        for change in (_dataset_change(then[fields], entry), _checkpoint_change(then[fields], entry))
        if change is not None
    ]


def _by_fields(data: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Each description by the values of the fields that are searched; one without a name if none is."""
    if not isinstance(data.get(SEARCHED), list):
        return {"": data}
    entries = _entries(data)
    return {json.dumps(entry.get(FIELDS), sort_keys=True, default=str): entry for entry in entries}


def _dataset_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> DataChange | None:
    key = "content" if before.get("content") and now.get("content") else "fingerprint"
    if not before.get(key) or not now.get(key):
        return None  # unknown: an older version, or a trainable that does not say
    names = {str(entry.get("dataset")) for entry in (before, now)}
    if key == "fingerprint" and len(names) == 1 and names.pop().startswith(BUILT_IN):
        return None  # its files are made on each machine, and differ with the versions of the libraries
    same = before[key] == now[key]
    places = [(entry.get("dataset"), entry.get("fingerprint")) for entry in (before, now)]
    if same and places[0] == places[1]:
        return None
    return DataChange(same, "dataset", _dataset_words(before), _dataset_words(now))


def _dataset_words(data: Mapping[str, Any]) -> str:
    named = data.get("dataset")
    place = ", ".join(map(str, named)) if isinstance(named, list) else str(named or "its data")
    revision = f" at revision {data['revision']}" if isinstance(data.get("revision"), str) else ""
    sizes = [f"{data[name]:,} {name}" for name in ("episodes", "frames") if isinstance(data.get(name), int)]
    known = ", ".join([*sizes, f"fingerprint {str(data.get('fingerprint'))[:DIGITS]}"])
    return f"{place}{revision} ({known})"


def _checkpoint_change(before: Mapping[str, Any], now: Mapping[str, Any]) -> DataChange | None:
    contents = [entry.get("checkpoint_content") for entry in (before, now)]
    if not all(contents):
        return None
    paths = [entry.get("checkpoint") for entry in (before, now)]
    if contents[0] == contents[1] and paths[0] == paths[1]:
        return None
    words = [
        f"{path} (content {str(content)[:DIGITS]})" for path, content in zip(paths, contents, strict=True)
    ]
    return DataChange(contents[0] == contents[1], "checkpoint", *words)


if __name__ == "__main__":
    print(json.dumps(asdict(identify())))
