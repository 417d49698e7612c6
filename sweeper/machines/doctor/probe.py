"""What a node of a cluster is like, measured on the node itself. Loads nothing heavy."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.gpus import driver_version
from sweeper.machines.identity import identify
from sweeper.machines.local_ray import temporary_fault
from sweeper.machines.machine import cache_folder, find_machine

__all__ = ["leave_mark", "look", "missing_marks", "now"]

SHM = Path("/dev/shm")
TIMEOUT_S = 5.0


def look(sweeps: str, mlflow: str | None) -> dict[str, Any]:
    """Measure this machine.

    Args:
        sweeps: The folder in which sweeps lie.
        mlflow: MLflow's server, or None.
    """
    machine = find_machine(Path(sweeps))
    cache = cache_folder()
    return {
        "host": socket.gethostname(),
        "time": time.time(),
        "identity": asdict(identify()),
        "cpus": machine.cpus,
        "gpus": list(machine.gpu_names),
        "driver": driver_version(),
        "torch_cuda": _torch_cuda(),
        "sweeps": _folder(Path(sweeps)),
        "cache": _folder(cache),
        "shm_gb": shutil.disk_usage(SHM).total / 1e9 if SHM.is_dir() else None,
        "shm_free_gb": shutil.disk_usage(SHM).free / 1e9 if SHM.is_dir() else None,
        "files": _file_limit(),
        "mlflow": None if mlflow is None else _answer(mlflow),
        "ray_temporary": temporary_fault(),
        "token": os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
    }


def now() -> float:
    """What this machine's clock says, in seconds since 1970."""
    return time.time()


def leave_mark(folder: str) -> tuple[str, str]:
    """Write a file that no other node writes; its name and content, or an empty name and what went wrong."""
    content = uuid.uuid4().hex
    path = Path(folder) / f"{socket.gethostname()}-{content}"
    try:
        path.write_text(content)
    except OSError as error:
        return "", error.strerror or str(error)
    return path.name, content


def missing_marks(folder: str, marks: Mapping[str, str], patience_s: float = TIMEOUT_S) -> list[str]:
    """Which of the files that others wrote cannot be read here; a network file system may need a moment."""
    until = time.monotonic() + patience_s
    while True:
        missing = []
        for name, content in marks.items():
            try:
                if (Path(folder) / name).read_text() != content:
                    missing.append(name)
            except OSError:
                missing.append(name)
        if not missing or time.monotonic() > until:
            return missing
        # Some file systems keep a folder's list of names for seconds; asking for it again renews it.
        with contextlib.suppress(OSError):
            list(Path(folder).iterdir())
        time.sleep(0.5)


def _folder(path: Path) -> dict[str, Any]:
    """The disk of a folder, and its free space."""
    existing = next(place for place in (path, *path.parents) if place.exists())
    usage = shutil.disk_usage(existing)
    return {
        "path": str(path),
        "exists": path.is_dir(),
        "writable": os.access(existing, os.W_OK),
        "free_gb": usage.free / 1e9,
        "total_gb": usage.total / 1e9,
    }


def _file_limit() -> int:
    import resource

    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _answer(address: str) -> str:
    """Empty if MLflow's server answers, else what went wrong."""
    try:
        with urllib.request.urlopen(f"{address.rstrip('/')}/health", timeout=TIMEOUT_S):
            return ""
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        return str(reason)


def _torch_cuda() -> str | None:
    """The CUDA that torch was built for, read without loading it; None for a build without."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return None
    with contextlib.suppress(OSError):
        text = (Path(found.origin).parent / "version.py").read_text()
        match = re.search(r"^cuda\b[^=]*=\s*['\"]([0-9.]+)['\"]", text, re.MULTILINE)
        return None if match is None else match[1]
    return None
