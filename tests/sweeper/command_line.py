"""The command line in tests: a command run in this process, and a console whose output can be read."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.cli import main

USERS_SETTINGS = (
    "CUDA_VISIBLE_DEVICES",
    "FORCE_COLOR",
    "MLFLOW_TRACKING_URI",
    "RAY_ADDRESS",
    "SWEEPER_SWEEPS",
)
"""Environment variables of the person who runs the tests, which would change what a command does."""


def ended(*arguments: str) -> int:
    """Run a command; returns its exit code."""
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    return caught.value.code or 0


def plain_console(width: int = 100, *, terminal: bool = False) -> Console:
    """A console without colours that stores its output."""
    return Console(
        file=io.StringIO(),
        width=width,
        height=40,
        force_terminal=terminal,
        color_system=None,
        highlight=False,
    )


def printed(console: Console) -> str:
    """What was written to a console of `plain_console`."""
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def run_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run commands in a folder, 100 columns wide, with their own cache and without the user's settings."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("SWEEPER_CACHE", str(folder / "cache"))
    # As in an activated environment: messages then say `sweeper`.
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    for name in USERS_SETTINGS:
        monkeypatch.delenv(name, raising=False)
