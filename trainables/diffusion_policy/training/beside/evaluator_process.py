"""The process that evaluates beside training, as training sees it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.training.beside.evaluator import setup_message
from trainables.interface import TrainContext

__all__ = ["EvaluatorLostError", "EvaluatorProcess"]

PROGRAM = "trainables.diffusion_policy.training.beside.evaluator"
END_S = 2.0
"""Seconds that the process has to end after its input has."""


class EvaluatorLostError(Exception):
    """The evaluating process ended, or raised an error.

    Attributes:
        again: Whether another process may do better.
    """

    def __init__(self, problem: str, *, again: bool = True) -> None:
        super().__init__(problem)
        self.again = again


class EvaluatorProcess:
    """A process that evaluates checkpoints, with low priority. What it prints goes where this one prints."""

    def __init__(self, config: DiffusionConfig, context: TrainContext) -> None:
        self._progress = context.progress
        answers, theirs = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", PROGRAM, str(theirs)],
                stdin=subprocess.PIPE,
                pass_fds=(theirs,),
                # It imports what this process can import.
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(place or str(Path.cwd()) for place in sys.path)},
                text=True,
            )
        except BaseException:
            os.close(answers)
            raise
        finally:
            os.close(theirs)
        self._answers: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(answers,), daemon=True, name="evaluator")
        self._reader.start()
        self._write(setup_message(config, context))

    def order(self, step: int, checkpoint: Path) -> None:
        """Ask for an evaluation."""
        self._write({"step": step, "checkpoint": str(checkpoint.absolute())})

    def answer(self, step: int, *, wait: bool) -> dict[str, Any] | None:
        """The result of the evaluation of a step, or None if there is none yet; progress is passed on.

        Raises:
            EvaluatorLostError: If the process ended or raised an error.
        """
        while True:
            try:
                message = self._answers.get(block=wait)
            except queue.Empty:
                return None
            if message is None:
                raise EvaluatorLostError(f"the evaluating process ended with status {self._child.wait()}")
            if "error" in message:
                raise EvaluatorLostError(str(message["error"]), again=bool(message["again"]))
            if "progress" in message:
                self._progress(str(message["progress"]))
            elif message["step"] == step:
                return message

    def close(self) -> None:
        """End the process, and what it has started."""
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._child.stdin.close()
        try:
            self._child.wait(END_S)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self._reader.join(END_S)

    def _write(self, message: Mapping[str, Any]) -> None:
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the missing answer says so
            self._child.stdin.write(json.dumps(message) + "\n")
            self._child.stdin.flush()

    def _read(self, answers: int) -> None:
        with os.fdopen(answers) as lines:
            for line in lines:
                try:
                    self._answers.put(json.loads(line))
                except ValueError:
                    break  # it was killed while it wrote
        self._answers.put(None)
