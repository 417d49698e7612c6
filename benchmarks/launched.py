"""Launch a sweep as a user does, in a folder that is deleted afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

__all__ = ["failed", "start_sweep", "sweep_folder"]

OUTPUT = "output"
SHOWN = 4000
"""So many characters of the output are shown if a sweep fails."""


def start_sweep(folder: Path, space: Mapping[str, Any], *arguments: str) -> subprocess.Popen[bytes]:
    """Run ``sweeper launch`` in a process of its own; its records and its output are in a folder.

    Args:
        folder: Receives the space file, the sweep, its cache and the output.
        space: The content of the space file.
        arguments: Further arguments of the command.
    """
    file = folder / f"{space['name']}.yaml"
    file.write_text(yaml.safe_dump(dict(space), sort_keys=False))
    environment = os.environ | {
        "SWEEPER_SWEEPS": str(folder / "sweeps"),
        "SWEEPER_CACHE": str(folder / "cache"),
        "SWEEPER_REPORT": "off",
    }
    command = [sys.executable, "-m", "sweeper", "launch", str(file), *arguments]
    with (folder / OUTPUT).open("w") as output:
        return subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
        )


def sweep_folder(folder: Path, space: Mapping[str, Any]) -> Path:
    """The folder of a sweep that was started in a folder."""
    return folder / "sweeps" / str(space["name"])


def failed(folder: Path, what: str) -> SystemExit:
    """The end of a benchmark whose sweep failed, with the end of the sweep's output."""
    return SystemExit(f"{what}:\n{(folder / OUTPUT).read_text()[-SHOWN:]}")
