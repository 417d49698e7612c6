"""What lies between the trials of a sweep: from the end of one to the first step of the next.

``python -m benchmarks.overhead [--trials N] [--space KEY=VALUE ...] [--json FILE]``; one to three minutes.
A real sweep (Ray, Tune, Optuna, MLflow) runs short trials one after the other. Their trainable imports torch
and trains nothing to speak of, so that nearly all of the time and of the processor's work is overhead. The
time is that of the trials' own clocks; the work is that of the launched command and every process below it,
looked at ten times a second. Medians leave out the first trials, which start the processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import re
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.launched import failed, start_sweep, sweep_folder
from trainables.interface import Fault, FieldInfo, Metric, Report, TrainContext

STEPS, PAUSE_S = "train.steps", "pause_s"
FIRST_STEP, LOSS = "clock/first_step_s", "train/loss"
LOOK_S = 0.1
STARTING = 2
"""Gaps at the beginning that are not counted: processes may still be starting."""


class Instant:
    """Steps of a linear layer, and the time of the first one."""

    name = "instant"
    fields: Mapping[str, FieldInfo] = {
        field.name: field
        for field in (
            FieldInfo("seed", "int", 0, minimum=0),
            FieldInfo(STEPS, "int", 2, minimum=1),
            # The reports of a trial do not come all at once.
            FieldInfo(PAUSE_S, "float", 0.5, minimum=0.0, doc="Sleep between the steps."),
        )
    }
    aliases: Mapping[str, str] = {}
    metrics: Mapping[str, Metric] = {
        LOSS: Metric(LOSS, "minimize", "log"),
        FIRST_STEP: Metric(FIRST_STEP, None, "log"),
    }

    def faults(self, config: Mapping[str, Any], workers: int = 1) -> list[Fault]:  # noqa: ARG002
        """What is wrong with a configuration."""
        return [fault for name, value in config.items() for fault in self.fields[name].faults(value)]

    def preflight(self, config: Mapping[str, Any], cache: Path, progress: Any = None) -> list[Fault]:  # noqa: ARG002
        """The same: it needs nothing."""
        return self.faults(config)

    def describe(self, config: Mapping[str, Any], cache: Path) -> Mapping[str, Any]:  # noqa: ARG002
        """What identifies the data: there is none."""
        return {"fingerprint": "none"}

    def disk_gb(self, config: Mapping[str, Any]) -> float:  # noqa: ARG002
        """Nothing."""
        return 0.0

    def train(self, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
        """Train, and report every step."""
        import torch

        config = {name: config.get(name, field.default) for name, field in self.fields.items()}
        torch.manual_seed(config["seed"])
        layer = torch.nn.Linear(4, 1)
        first = 0.0
        for step in range(1, config[STEPS] + 1):
            if first:
                time.sleep(config[PAUSE_S])
            first = first or time.time()
            loss = layer(torch.ones(4)).square().mean()
            loss.backward()
            context.stop_requested()
            yield Report(step, {LOSS: loss.item(), FIRST_STEP: first}, final=step == config[STEPS])


TRAINABLE = Instant()


class Meter:
    """Watches a process and everything below it: work of the processor, and memory by kind of process.

    Args:
        process: The process.
    """

    def __init__(self, process: int) -> None:
        self._root = psutil.Process(process)
        self._work: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self.course: list[tuple[float, float]] = []
        self.memory_mb: dict[str, float] = {}
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._ended.set()
        self._thread.join()

    def at(self, moment: float) -> float:
        """CPU seconds that had been spent at a time, interpolated."""
        earlier = [point for point in self.course if point[0] <= moment]
        later = [point for point in self.course if point[0] > moment]
        if not earlier or not later:
            return (earlier or later)[-1 if earlier else 0][1]
        (start, low), (end, high) = earlier[-1], later[0]
        return low + (high - low) * (moment - start) / (end - start)

    def _watch(self) -> None:
        look = 0
        while not self._ended.wait(LOOK_S):
            look += 1
            try:
                found = [self._root, *self._root.children(recursive=True)]
            except psutil.Error:
                return
            for process in found:
                try:
                    times = process.cpu_times()
                    self._work[process.pid, process.create_time()] = times.user + times.system
                    if look % 10 == 0:
                        self._weigh(process)
                except psutil.Error:
                    continue  # it has just ended
            self.course.append((time.time(), sum(self._work.values())))

    def _weigh(self, process: psutil.Process) -> None:
        words = process.cmdline()
        kind = re.sub(r"[^\w:.]+", " ", Path(words[0]).name if words else process.name()).strip()
        if "ray::" not in kind:
            return
        # Proportional: what processes share is counted once.
        held = process.memory_full_info().pss / 1e6
        self.memory_mb[kind] = max(self.memory_mb.get(kind, 0.0), held)


def run(trials: int, changes: Sequence[str]) -> dict[str, float]:
    """Run a sweep, and measure between its trials."""
    with tempfile.TemporaryDirectory(prefix="overhead-") as temporary:
        folder = Path(temporary)
        space = _space(trials)
        launched = time.time()
        process = start_sweep(folder, space, *changes)
        meter = Meter(process.pid)
        code = process.wait()
        ended = time.time()
        meter.close()
        if code:
            raise failed(folder, "the sweep failed")
        return _figures(sweep_folder(folder, space), launched, ended, meter)


def _space(trials: int) -> dict[str, Any]:
    return {
        "name": "instant",
        "trainable": "benchmarks.overhead:TRAINABLE",
        "parameters": {"seed": {"values": list(range(trials))}},
        "metric": {"name": LOSS, "goal": "minimize"},
        "search": {"method": "grid"},
        "budget": {"trials": trials},
        "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1, "max_concurrent": 1},
    }


def _figures(sweep: Path, launched: float, ended: float, meter: Meter) -> dict[str, float]:
    runs = []
    for file in sweep.glob("trials/*/reports.jsonl"):
        reports = [json.loads(line) for line in file.read_text().splitlines()]
        runs.append((reports[0][FIRST_STEP], reports[0]["wall_time_s"], reports[-1]["wall_time_s"]))
    runs.sort()
    gaps = [
        {
            "to the first step, s": later[0] - earlier[2],
            "to the first step, CPU s": meter.at(later[0]) - meter.at(earlier[2]),
            "to the first report, s": later[1] - earlier[2],
            "from first step to first step, CPU s": meter.at(later[0]) - meter.at(earlier[0]),
        }
        for earlier, later in itertools.pairwise(runs)
    ][STARTING:]
    found = {
        f"from the end of a trial {name}" if name.startswith("to") else name: statistics.median(
            gap[name] for gap in gaps
        )
        for name in gaps[0]
    }
    found |= {
        "from launch to the first step, s": runs[0][0] - launched,
        "from launch to the first step, CPU s": meter.at(runs[0][0]),
        "the longest gap to the first step, s": max(gap["to the first step, s"] for gap in gaps),
        "the whole sweep, s": ended - launched,
        "the whole sweep, CPU s": meter.course[-1][1],
    }
    return found | {f"memory of {kind}, MB": held for kind, held in sorted(meter.memory_mb.items())}


def main() -> None:
    """Run it, show a table, and write JSON if asked to."""
    from benchmarks import machine

    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--trials", type=int, default=12, help="trials of the sweep, one after the other")
    parser.add_argument("--space", nargs="*", default=[], metavar="KEY=VALUE", help="changes of the space")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    if arguments.trials < STARTING + 2:
        parser.error(f"--trials is {arguments.trials}: at least {STARTING + 2} are needed.")
    console = Console()
    about = machine.describe() | machine.versions("ray", "optuna", "mlflow")
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    results = run(arguments.trials, arguments.space)
    table = Table(title=f"between {arguments.trials} trials that do nothing", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    for name, value in results.items():
        table.add_row(name, f"{value:,.2f}")
    console.print(table)
    if arguments.json is not None:
        everything = {"machine": about, "trials": arguments.trials, "changes": arguments.space} | {
            "between trials": results
        }
        arguments.json.write_text(json.dumps(everything, indent=2) + "\n")


if __name__ == "__main__":
    main()
