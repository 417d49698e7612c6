"""Run LeRobot in its own environment and read its answers."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tests.interop.releases import Release

LEROBOT_SIDE = Path(__file__).with_name("lerobot_side.py")
TIMEOUT_S = 3600.0


class LeRobotError(Exception):
    """A command of LeRobot failed; carries the end of what it wrote."""


class LeRobot:
    """LeRobot's commands, one thread each, without the hub.

    Args:
        folder: Folder for the files that are exchanged, and for what the commands print.
        release: The version.
    """

    def __init__(self, folder: Path, release: Release) -> None:
        self.release = release
        if not (release.environment / ".requirements.txt").exists():
            make = f"tests/interop/make_environment.sh {release.version}"
            raise LeRobotError(f"{release.environment} is missing. Make it: {make}")
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._variables = os.environ | {
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "HF_HOME": str(folder / "huggingface"),
            "SDL_VIDEODRIVER": "dummy",
            "TQDM_DISABLE": "1",
        }
        # Ours must not be found there: another Python environment's packages are of other versions.
        self._variables.pop("PYTHONPATH", None)

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of LeRobot's own commands, e.g. ``lerobot-train``; gives what it printed."""
        return self._run(name, [str(self.release.environment / "bin" / name), *arguments])

    def ask(self, command: str, *arguments: str) -> str:
        """Run a command of ``lerobot_side.py``; gives what it printed."""
        python = str(self.release.environment / "bin" / "python")
        return self._run(command, [python, "-P", str(LEROBOT_SIDE), command, *arguments])

    def exchange(
        self, command: str, *arguments: str, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Hand arrays to a command of ``lerobot_side.py`` and read the arrays that it answers."""
        question, answer = self.new_file("npz"), self.new_file("npz")
        np.savez(question, **dict(given))  # type: ignore[arg-type]  # numpy takes its own flags by keyword too
        self.ask(command, *arguments, str(question), str(answer))
        return read_arrays(answer)

    def new_file(self, kind: str) -> Path:
        """Name a file that is not there yet."""
        return self.folder / f"{uuid.uuid4().hex[:12]}.{kind}"

    def _run(self, name: str, command: list[str]) -> str:
        log = self.new_file(f"{name}.log")
        with log.open("w") as file:
            ended = subprocess.run(
                command,
                cwd=self.folder,
                env=self._variables,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=TIMEOUT_S,
                check=False,
            )
        printed = log.read_text(errors="replace")
        if ended.returncode != 0:
            raise LeRobotError(f"{name} ended with {ended.returncode} ({log}):\n{printed[-2000:]}")
        return printed


def read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read the arrays of an .npz file."""
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)
