"""Evaluation of a checkpoint, and the process that does it beside training.

The process reads JSON lines from its standard input: first what it evaluates with, then the checkpoints to
evaluate. It writes its answers to the descriptor that its argument names, one JSON object a line. Its input
ends when the training does, however that ends, and then it ends at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

import psutil
import torch

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig, build
from trainables.diffusion_policy.data import open_data
from trainables.diffusion_policy.pretrained.weights import policy_from_weights
from trainables.diffusion_policy.training.checkpoint import read_policy
from trainables.diffusion_policy.training.evaluate import evaluate
from trainables.diffusion_policy.training.process import arithmetic, keep_freed_memory
from trainables.interface import TrainableError, TrainContext

__all__ = ["CheckpointEvaluator", "prepare_process", "setup_message"]

NICE = 10
"""How much the process gives way to others: training takes what it needs first."""
ORPHAN_S = 1.0
"""How often the process looks whether its parent still lives, in case something else holds its input open."""


def prepare_process(config: DiffusionConfig, context: TrainContext, closing: contextlib.ExitStack) -> None:
    """Set up torch as training does: results depend on its threads and arithmetic in the last bits."""
    device = torch.device(context.device)
    if context.threads > 0:
        torch.set_num_threads(context.threads)
    closing.enter_context(arithmetic(config.train, device))
    if device.type == "cpu":
        keep_freed_memory()


class CheckpointEvaluator:
    """Evaluates checkpoints of a run as the run itself would, with the same result.

    Args:
        config: The run's configuration.
        context: Folders, device and threads of its first process.
    """

    def __init__(self, config: DiffusionConfig, context: TrainContext) -> None:
        self._config = config
        self._context = context
        self._heldout = open_data(config, context.cache, context.progress).heldout_windows()

    def evaluate(self, folder: Path, step: int) -> tuple[dict[str, float], dict[str, Path]]:
        """Measure what an evaluation measures, except times.

        Args:
            folder: The checkpoint.
            step: Its step.

        Returns:
            Metrics, and files worth keeping.
        """
        config = self._config
        averaged = config.ema.enabled and config.policy.use_ema
        stored = read_policy(folder, averaged=averaged)
        policy = policy_from_weights(config.policy, stored.features, stored.statistics, stored.weights)
        policy.to(self._context.device)
        if config.train.compile is True:
            policy.compile_network(config.train.compile_mode)
        policy.eval()
        with torch.no_grad():
            return evaluate(policy, self._heldout, config, self._context, step, timed=False)


def setup_message(config: DiffusionConfig, context: TrainContext) -> dict[str, Any]:
    """The first line that the process reads."""
    return {
        "config": config.to_flat(),
        "folder": str(context.folder),
        "cache": str(context.cache),
        "device": context.device,
        "threads": context.threads,
    }


def _serve(lines: Callable[[], str], answer: Callable[[Mapping[str, Any]], None]) -> None:
    """Evaluate what is asked for; an error is an answer as well."""
    try:
        setup = json.loads(lines())
        context = TrainContext(
            folder=Path(setup["folder"]),
            cache=Path(setup["cache"]),
            device=setup["device"],
            threads=setup["threads"],
            progress=lambda message: answer({"progress": message}),
        )
        config = build(setup["config"])
        prepare_process(config, context, contextlib.ExitStack())
        evaluator = CheckpointEvaluator(config, context)
        while True:
            order = json.loads(lines())
            since_s = time.perf_counter()
            metrics, artifacts = evaluator.evaluate(Path(order["checkpoint"]), int(order["step"]))
            answer(
                {
                    "step": order["step"],
                    "metrics": {name: float(value) for name, value in metrics.items()},
                    "artifacts": {name: str(path) for name, path in artifacts.items()},
                    "took_s": time.perf_counter() - since_s,
                }
            )
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        # What the trainable raises on purpose would be raised again.
        again = not isinstance(error, TrainableError)
        answer({"error": text, "again": again})


def _follow_input(lines: queue.SimpleQueue[str], parent: int) -> None:
    """Pass on the lines of the standard input; end the process when it ends."""

    def end_with_parent() -> None:
        while os.getppid() == parent:
            time.sleep(ORPHAN_S)
        _end()

    threading.Thread(target=end_with_parent, daemon=True).start()
    for line in sys.stdin:
        lines.put(line)
    _end()


def _end() -> None:
    """End this process and what it has started, such as simulators, without waiting for anything."""
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    os._exit(0)


def main() -> None:
    """Serve the process that started this one, until it closes the input."""
    parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the training, which then ends this
    os.nice(NICE)
    os.set_inheritable(int(sys.argv[1]), False)
    output: TextIO = os.fdopen(int(sys.argv[1]), "w", buffering=1)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    threading.Thread(target=_follow_input, args=(lines, parent), daemon=True).start()

    def answer(message: Mapping[str, Any]) -> None:
        output.write(json.dumps(message) + "\n")

    _serve(lines.get, answer)
    output.flush()


if __name__ == "__main__":
    main()
