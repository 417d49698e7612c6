"""What runs here: versions of Python, of Ray and of this package, and a digest of the package's own code.

Nodes of a cluster are compared by it. The version alone does not tell two checkouts apart; the digest does.
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
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper import __version__
from sweeper.machines.cluster import Cluster
from sweeper.masking import masked_command

__all__ = ["GIT", "Identity", "git_state", "identify", "information"]

DIGITS = 12
PACKAGES = ("torch", "torchvision", "diffusers", "optuna", "mlflow", "numpy")

GIT = "SWEEPER_GIT"
"""Variable in which a job is told the commit that it was sent from."""


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
        "command": masked_command(sys.argv),
    }


if __name__ == "__main__":
    print(json.dumps(asdict(identify())))
