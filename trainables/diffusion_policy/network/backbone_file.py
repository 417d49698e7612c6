"""The file with the pretrained weights of an image backbone: found, checked, or fetched.

It is a path that the configuration names, or torchvision's file in the cache of torch hub. A name that ends
in a digest, as torchvision's do (``resnet18-f37072fd.pth``), is compared with the content. Standard library
only.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

from trainables.diffusion_policy.config.backbones import FIELD, is_path, weights_file
from trainables.files import put_in_place
from trainables.interface import ConfigError, Fault, silent

__all__ = ["REMEDY", "SITE", "file_problem", "place_of", "ready_file", "weights_error"]

SITE = "https://download.pytorch.org/models"
"""Where torchvision's files are fetched from."""
DIGEST = re.compile(r"-([0-9a-f]{8,64})\.pth?$")
"""The beginning of a file's SHA-256 digest in its name."""
TIMEOUT_S = 30.0
REMEDY = (
    "Copy the file to that place on every machine that trains, or set the field to the path of a copy that "
    "all of them see."
)


def place_of(backbone: str, named: str) -> Path:
    """Where the weights of a legal name are expected: the path itself, or the file in torch hub's cache."""
    if is_path(named):
        return Path(named).expanduser()
    name = weights_file(backbone, named)
    assert name is not None, f"{named!r} names no weights of {backbone}"
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache"))
    home = Path(os.environ.get("TORCH_HOME", cache / "torch"))
    return home.expanduser() / "hub" / "checkpoints" / name


def file_problem(backbone: str, named: str) -> str | None:
    """Why the weights of a legal name cannot be loaded here without a network; None if they can."""
    place = place_of(backbone, named)
    if not place.is_file():
        where = "" if is_path(named) else f" ({named}; the folder is torch hub's cache, under TORCH_HOME)"
        return f"{place}{where} does not exist on this machine ({socket.gethostname()})."
    return _digest_problem(place)


def ready_file(backbone: str, named: str, progress: Callable[[str], None] = silent) -> Path:
    """The file with the weights of a legal name; torchvision's are fetched if they are missing.

    Raises:
        ConfigError: If it is missing and cannot be fetched, or its content is not what its name says.
    """
    place = place_of(backbone, named)
    if not is_path(named) and not place.is_file():
        progress(f"fetching {place.name} to {place.parent}")
        _fetch(place, f"{file_problem(backbone, named)}")
    problem = file_problem(backbone, named)
    if problem is not None:
        raise weights_error(problem, REMEDY)
    return place


def weights_error(problem: str, remedy: str) -> ConfigError:
    """An error of the field."""
    return ConfigError([Fault(FIELD, problem, remedy)])


def _fetch(place: Path, missing: str) -> None:
    from urllib.request import urlopen  # with its TLS it takes longer to load than all of a check

    url = f"{SITE}/{place.name}"
    beside = place.with_name(f".{place.name}.{os.getpid()}.writing")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with urlopen(url, timeout=TIMEOUT_S) as answer, beside.open("wb") as file:
            shutil.copyfileobj(answer, file)
        problem = _digest_problem(beside, place.name)
        if problem is not None:
            raise weights_error(f"{url}: {problem}", "Fetch it again, or copy it by hand.")
        put_in_place(beside, place)
    except OSError as error:
        reason = str(getattr(error, "reason", error)).rstrip(".")
        raise weights_error(f"{missing} It cannot be fetched from {url}: {reason}.", REMEDY) from error
    finally:
        beside.unlink(missing_ok=True)


def _digest_problem(file: Path, name: str | None = None) -> str | None:
    """Whether a file's content contradicts the digest in its name, or in the name that it is to have."""
    expected = DIGEST.search(name or file.name)
    if expected is None:
        return None
    stat = file.stat()
    found = _digest(file, stat.st_mtime_ns, stat.st_size)
    if found.startswith(expected[1]):
        return None
    return (
        f"{file} is damaged or another file: its SHA-256 digest begins with {found[: len(expected[1])]}, and "
        f"its name says {expected[1]}."
    )


@functools.lru_cache(maxsize=16)
def _digest(file: Path, _mtime_ns: int, _size: int) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
