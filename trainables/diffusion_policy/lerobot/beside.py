"""A policy in LeRobot, in a process of LeRobot's own Python, to time both in turns."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainables.diffusion_policy.lerobot.write import save
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.pretrained.lerobot_config import TARGETS
from trainables.interface import TrainableError

__all__ = ["LeRobotError", "LeRobotProcess"]

SCRIPT = Path(__file__).with_name("timing_side.py")


class LeRobotError(TrainableError):
    """LeRobot's process failed; contains the end of what it printed."""

    reason = "lerobot"


class LeRobotProcess:
    """LeRobot with an export of a policy; a context manager.

    Args:
        python: A Python in whose environment LeRobot is installed.
        policy: The policy, with the inference setting that is timed.
        folder: An empty folder for the export.
        observation: What is predicted from, (1, To, ...).
        noise_BTA: The noise to start from.
    """

    def __init__(
        self,
        python: Path,
        policy: DiffusionPolicy,
        folder: Path,
        observation: Mapping[str, Tensor],
        noise_BTA: Tensor,
    ) -> None:
        if not python.is_file():
            raise LeRobotError(f"{python}: there is no such file. Name a Python with LeRobot.")
        self.version = ""
        self._log = folder / "lerobot.log"
        save(policy, folder / "export", TARGETS[-1])
        given = folder / "given.npz"
        arrays = {name: value.cpu().numpy() for name, value in observation.items()}
        np.savez(given, noise=noise_BTA.cpu().numpy(), **arrays)  # type: ignore[arg-type]
        threads = str(torch.get_num_threads())
        # Packages of this Python must not be found there.
        variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), "-P", str(SCRIPT), str(folder / "export"), str(given), threads],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=variables,
            )

    def __enter__(self) -> LeRobotProcess:
        """Wait until it is ready.

        Raises:
            LeRobotError: If it cannot load the policy.
        """
        try:
            self.version = str(self._answer()["version"])
        except LeRobotError:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def predict(self) -> tuple[Tensor, float]:
        """The actions that it executes, (1, n_action_steps, A), and how long their prediction took, in ms.

        Raises:
            LeRobotError: If its process ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write("predict\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # the missing answer says so
        answer = self._answer()
        return torch.tensor(answer["actions"]), float(answer["ms"])

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            printed = self._log.read_text(errors="replace").strip()[-1500:]
            raise LeRobotError(f"LeRobot ended before it answered. It printed:\n{printed}")
        found: dict[str, Any] = json.loads(line)
        return found
