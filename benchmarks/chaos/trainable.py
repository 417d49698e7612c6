"""A trainable whose series is known beforehand: a walk of whole numbers that no two seeds share.

Every place follows from the one before, so a walk that was resumed from a wrong checkpoint, or with a step
left out or taken twice, goes elsewhere from there on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trainables.interface import Fault, FieldInfo, Metric, Report, TrainContext

__all__ = ["CHILD", "LOSS", "PLACE", "TRAINABLE", "Walk", "release", "straight"]

PLACE, LOSS = "walk/place", "walk/loss"
CHILD = "left-behind-by-a-walk"
"""In the command line of the process that the fault ``child`` leaves behind."""
_FACTOR, _ADDEND, _SIZE = 6364136223846793005, 1442695040888963407, 2**64


def straight(seed: int, steps: int) -> list[dict[str, float]]:
    """What a walk that nobody disturbs reports at steps 1, 2, …: metrics, one mapping for each step."""
    place, found = seed, []
    for _ in range(steps):
        place = _next(place, seed)
        found.append(_metrics(place, seed))
    return found


def _next(place: int, seed: int) -> int:
    return (place * _FACTOR + _ADDEND + seed) % _SIZE


def _metrics(place: int, seed: int) -> dict[str, float]:
    share = (place >> 11) / 2**53  # exact as a float
    return {PLACE: share, LOSS: seed + share / 2}


class Walk:
    """Walks, and writes down where it is every few steps."""

    name = "walk"
    fields: Mapping[str, FieldInfo] = {
        field.name: field
        for field in (
            FieldInfo("seed", "int", 0, minimum=0),
            FieldInfo("train.steps", "int", 40, minimum=1),
            FieldInfo("train.save_every", "int", 5, minimum=1),
            FieldInfo("pause_s", "float", 0.05, minimum=0.0, doc="Sleep in every step."),
            FieldInfo("fault", "str", None, nullable=True, doc="What goes wrong halfway: raise, child."),
            FieldInfo("hold_step", "int", 0, minimum=0, doc="Wait at this step for `release`; 0: never."),
        )
    }
    aliases: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {
        PLACE: Metric(PLACE, "minimize", "log"),
        LOSS: Metric(LOSS, "minimize", "log"),
    }

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:  # noqa: ARG002
        """What is wrong with a configuration."""
        return [fault for name, value in config.items() for fault in self.fields[name].faults(value)]

    def preflight(self, config: Mapping[str, Any], cache: Path, progress: Any = None) -> list[Fault]:  # noqa: ARG002
        """The same: a walk needs nothing."""
        return self.faults(config)

    def describe(self, config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """What identifies the data: there is none."""
        return {"fingerprint": "walk"}

    def disk_gb(self, config: Mapping[str, Any]) -> float:  # noqa: ARG002
        """Next to nothing."""
        return 1e-6

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        """Walk to the end, from the last place that was written down."""
        config = {name: config.get(name, field.default) for name, field in self.fields.items()}
        file = context.folder / "checkpoints" / "place.json"
        state = {"step": 0, "place": config["seed"]}
        if context.resume and file.exists():
            state = json.loads(file.read_text())
        file.parent.mkdir(exist_ok=True)
        while state["step"] < config["train.steps"]:
            state = {"step": state["step"] + 1, "place": _next(state["place"], config["seed"])}
            time.sleep(config["pause_s"])
            if state["step"] == config["train.steps"] // 2:
                _go_wrong(config["fault"])
            if state["step"] == config["hold_step"]:
                _hold(context)
            last = state["step"] == config["train.steps"]
            stopped = context.stop_requested()
            saved = last or stopped or state["step"] % config["train.save_every"] == 0
            if saved:
                _save(file, state)
            checkpoint = file.parent if saved else None
            metrics = _metrics(state["place"], config["seed"])
            yield Report(state["step"], metrics, checkpoint=checkpoint, final=last)
            if stopped:
                return


def release(sweep: Path) -> None:
    """Let the walks of a sweep's folder continue from their `hold_step`."""
    _released(sweep).touch()


def _released(sweep: Path) -> Path:
    return sweep.with_name(f"{sweep.name}.released")


def _hold(context: TrainContext) -> None:
    while not _released(context.folder.parents[1]).exists() and not context.stop_requested():
        time.sleep(0.05)


def _save(file: Path, state: Mapping[str, int]) -> None:
    beside = file.with_suffix(".new")
    with beside.open("w") as opened:
        opened.write(json.dumps(state))
        opened.flush()
        os.fsync(opened.fileno())
    beside.replace(file)


def _go_wrong(fault: str | None) -> None:
    if fault == "raise":
        raise ValueError("the path ends here")
    if fault == "child":
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(900)", CHILD])


TRAINABLE = Walk()
