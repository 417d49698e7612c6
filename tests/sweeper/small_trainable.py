"""A trainable of a few lines that the tests of the service train: gradient descent on a parabola."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.interface import Fault, FieldInfo, Metric, Report, TrainableError, TrainContext


class LostMindError(TrainableError):
    reason = "diverged"


class Parabola:
    """Minimises x² from x = 10; learning rates above 1 diverge."""

    name = "parabola"
    fields: Mapping[str, FieldInfo] = {
        field.name: field
        for field in (
            FieldInfo("optimizer.lr", "float", 0.1, minimum=0.0),
            FieldInfo("train.steps", "int", 20, minimum=1),
            FieldInfo("train.log_every", "int", 5, minimum=1),
            FieldInfo("pause_s", "float", 0.0, minimum=0.0, doc="Sleep in every step."),
            FieldInfo("fault", "str", None, nullable=True, doc="What goes wrong, at fault_step."),
            FieldInfo("fault_step", "int", 10),
            FieldInfo("train.save_every", "int", None, nullable=True, doc="Checkpoints; null: at reports."),
            FieldInfo("parts", "int", 1, minimum=1, doc="Passes of a step; 2 fit into memory."),
            FieldInfo(
                "hold_step",
                "int",
                0,
                minimum=0,
                doc="Wait in this step, before its report, for `release`; 0: never.",
            ),
        )
    }
    aliases: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {
        "train/loss": Metric("train/loss", "minimize", "log"),
        "eval/x": Metric("eval/x", None, "log"),
    }

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
        return [fault for name, value in config.items() for fault in self.fields[name].faults(value)]

    def preflight(self, config: Mapping[str, Any], cache: Path, progress: Any = None) -> list[Fault]:
        if config.get("fault") == "preflight":
            return [Fault("fault", "'preflight' is refused.", "Give none.")]
        return self.faults(config)

    def lighter(self, config: Mapping[str, Any], workers: int = 1) -> Mapping[str, Any] | None:
        parts = 2 * config.get("parts", 1)
        return {**config, "parts": parts} if parts <= 8 else None

    def describe(self, config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:
        return {"fingerprint": "parabola"}

    def disk_gb(self, config: Mapping[str, Any]) -> float:
        return 1e9 if config.get("fault") == "large" else 0.001

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        config = {name: config.get(name, field.default) for name, field in self.fields.items()}
        last = context.folder / "checkpoints" / "last.json"
        state = {"step": 0, "x": 10.0}
        if context.resume and last.exists():
            state = json.loads(last.read_text())
        print(f"works in {Path.cwd()}")
        print(f"rank {context.rank} of {context.world_size} trains with {context.threads} threads")
        print(f"OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS')}", file=sys.stderr)
        context.progress("begins")
        steps = config["train.steps"]
        while state["step"] < steps:
            state["step"] += 1
            state["x"] -= config["optimizer.lr"] * 2 * state["x"]
            time.sleep(config["pause_s"])
            if state["step"] == config["fault_step"]:
                _go_wrong(config["fault"], context, config["parts"])
            if state["step"] == config["hold_step"]:
                hold(context)
            deaf = config["fault"] == "deaf" and context.rank == 0
            stopped = _agreed(not deaf and context.stop_requested(), context)
            if state["step"] % config["train.log_every"] == 0 or state["step"] == steps or stopped:
                every = config["train.save_every"] or 1
                saved = state["step"] % every == 0 or state["step"] == steps or stopped
                if context.rank == 0 and saved:
                    last.parent.mkdir(exist_ok=True)
                    last.with_suffix(".new").write_text(json.dumps(state))
                    last.with_suffix(".new").replace(last)
                yield Report(
                    state["step"],
                    {"train/loss": state["x"] ** 2, "eval/x": state["x"]},
                    checkpoint=last.parent if saved else None,
                    final=state["step"] == steps,
                )
            if stopped:
                return


LONGEST_HOLD_S = 500.0


def _released(folder: Path) -> Path:
    """The file, beside the sweep's folder, that the trial of a folder waits for at its `hold_step`."""
    sweep = folder.absolute().parents[1]
    return sweep.with_name(f"{sweep.name}-{folder.name}.released")


def hold(context: TrainContext) -> None:
    """Wait for `release`, or until the trial is to stop: a test then is never too late for a trial."""
    until = time.monotonic() + LONGEST_HOLD_S
    while not _released(context.folder).exists() and not context.stop_requested():
        if time.monotonic() > until:
            raise TimeoutError("the test has not released this trial")
        time.sleep(0.05)


def release(folder: Path) -> None:
    """Let the trial of a folder continue from its `hold_step`, in this attempt and in every later one."""
    _released(folder).touch()


def _agreed(stop: bool, context: TrainContext) -> bool:
    """Whether any rank was told to stop: all must leave at the same step."""
    if context.world_size == 1:
        return stop
    import torch
    import torch.distributed as dist

    flag = torch.tensor(float(stop))
    dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    return bool(flag)


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


def _go_wrong(fault: str | None, context: TrainContext, parts: int) -> None:
    match fault:
        case "raise":
            raise ValueError("the parabola is flat here")
        case "diverge":
            raise LostMindError("the loss is nan at step 10")
        case "die" if not (context.folder / "died").exists():
            (context.folder / "died").touch()
            os.abort()
        case "memory" if parts < 2:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        case "disk":
            raise OSError(errno.ENOSPC, "No space left on device", str(context.folder / "checkpoints"))
        case "hang":
            time.sleep(600)
        case "die_always":
            os.abort()
        case "child":
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", "left-behind"])


TRAINABLE = Parabola()
