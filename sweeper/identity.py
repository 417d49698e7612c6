"""What runs here: versions of Python, of Ray and of this package, and a digest of the package's own code.

Nodes of a cluster are compared by it. The version alone does not tell two checkouts apart; the digest does.
``python -m sweeper.identity`` prints it as JSON.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from sweeper import __version__

__all__ = ["Identity", "identify"]

DIGITS = 12
PACKAGES = ("torch", "torchvision", "diffusers", "optuna", "mlflow", "numpy")


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
    service = Path(__file__).parent
    digest = hashlib.sha256()
    for folder in (service, service.parent / "trainables"):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder.parent)).encode() + b"\0")
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:DIGITS]


if __name__ == "__main__":
    print(json.dumps(asdict(identify())))
