"""Measure how long ``results``, ``status`` and ``list`` take for large sweeps, and their memory.

``python -m benchmarks.reading [--folder DIR] [--json FILE]`` writes one sweep of 5,000 trials and 50 sweeps
of 100 trials through the journal, and then runs each command as a process. Every trial makes 40 reports of
twelve metrics, and the first 100 of a sweep have records of episodes. Each command is measured three times:
first without an index, so that the whole journal is read; then with the index that the first run wrote; then
after a running trial has made another report.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from sweeper.layout import INDEX, JOURNAL
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.sweep import SweepSpec
from trainables import registry
from trainables.episodes import EPISODES, EpisodeFile, EpisodeRecord, Evaluated

TRIALS, REPORTS = 5000, 40
SWEEPS, TRIALS_OF_EACH = 50, 100
STEPS_BETWEEN = 500
RECORDED, EPISODES_OF_EACH = 100, 50
"""Trials with records of their last evaluation: more than are read; and the episodes of each."""
METRICS = (
    "train/loss",
    "train/lr",
    "train/grad_norm",
    "train/samples_per_s",
    "eval/action_mse",
    "eval/action_mse_first",
    "rollout/avg_sum_reward",
    "rollout/avg_max_reward",
    "system/cpu",
    "system/memory_gb",
    "system/gpu_memory_gb",
)
SUCCESS = "rollout/success_rate"


def run(folder: Path) -> list[dict[str, Any]]:
    """Write the sweeps and measure the commands; one row for each measurement."""
    large, many = folder / "large", folder / "many"
    write_sweep(large, "hard", TRIALS)
    for number in range(SWEEPS):
        write_sweep(many, f"sweep-{number:02}", TRIALS_OF_EACH)
    commands = {
        f"results, {TRIALS:,} trials": (large, ["results", "hard", "--sweeps", str(large)]),
        f"results --json, {TRIALS:,} trials": (large, ["results", "hard", "--json", "--sweeps", str(large)]),
        f"status, {TRIALS:,} trials": (large, ["status", "hard", "--sweeps", str(large)]),
        f"list, {TRIALS:,} trials": (large, ["list", "--sweeps", str(large)]),
        f"list, {SWEEPS} sweeps": (many, ["list", "--sweeps", str(many)]),
        f"status, {SWEEPS} sweeps": (many, ["status", "--sweeps", str(many)]),
    }
    return [row for title, (sweeps, command) in commands.items() for row in _cases(title, sweeps, command)]


def write_sweep(sweeps: Path, name: str, trials: int) -> None:
    """Write the journal of a sweep: every success rate is 0, and the last trial still runs."""
    folder = sweeps / name
    if (folder / JOURNAL).exists():
        return
    spec = load_spec("pusht_state", [f"name={name}", f"budget.trials={trials}"], sweeps)
    generator = random.Random(name)
    with Journal(folder / JOURNAL) as journal:
        _start(journal, spec)
        for number, configuration in enumerate(_configurations(spec, trials, generator)):
            values = {name: configuration[name] for name in spec.space.names}
            journal.append(
                EventKind.TRIAL_START, durable=False, trial=number, config=configuration, values=values
            )
            for report in range(1, REPORTS + 1):
                _report(journal, number, report, generator)
            if number < RECORDED:
                _record(folder, number, generator)
            if number < trials - 1:
                _end(journal, number)


def _start(journal: Journal, spec: SweepSpec) -> None:
    info = {
        "versions": {"python": "3.11.7", "torch": "2.14.1", "ray": "2.60.0"},
        "resources": {"workers": 1, "gpu_per_worker": 1.0, "cpu_per_worker": 4.0, "at_once": 8},
        "steps": REPORTS * STEPS_BETWEEN,
    }
    driver = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": psutil.Process().create_time(),
    }
    journal.append(
        EventKind.SWEEP_START,
        sweep=spec.name,
        sweep_id=spec.name,
        spec=spec.to_dict(),
        space=spec.source,
        info=info,
        driver=driver,
    )


def _configurations(spec: SweepSpec, trials: int, generator: random.Random) -> Iterator[dict[str, Any]]:
    """Configurations that are as long as real ones; the values are not checked."""
    defaults = {name: field.default for name, field in registry.load(spec.trainable).fields.items()}
    for _ in range(trials):
        drawn = {
            parameter.name: generator.choice(parameter.values)
            if parameter.values
            else generator.uniform(float(parameter.low or 0), float(parameter.high or 1))
            for parameter in spec.space.parameters
        }
        yield {**defaults, **spec.config, **drawn}


def _report(journal: Journal, trial: int, report: int, generator: random.Random) -> None:
    step = report * STEPS_BETWEEN
    folder = journal.path.parent / "trials" / str(trial) / "checkpoints" / f"{step:06}"
    journal.append(
        EventKind.REPORT,
        durable=False,
        trial=trial,
        step=step,
        metrics={**{name: generator.random() for name in METRICS}, SUCCESS: 0.0},
        **({"checkpoint": folder} if report % 10 == 0 else {}),
    )


def _record(folder: Path, trial: int, generator: random.Random) -> None:
    """Records of a last evaluation, in which every episode failed."""
    records = [
        EpisodeRecord(number, 100_000 + number, False, generator.random(), generator.random(), 300, 1.0)
        for number in range(EPISODES_OF_EACH)
    ]
    evaluated = Evaluated("search", REPORTS * STEPS_BETWEEN, {}, "gym_pusht/PushT-v0")
    EpisodeFile(folder / "trials" / str(trial) / EPISODES, evaluated).write(records)


def _end(journal: Journal, trial: int) -> None:
    journal.append(
        EventKind.TRIAL_END,
        durable=False,
        trial=trial,
        status="failed" if trial % 100 == 50 else "completed",
        reason="diverged" if trial % 100 == 50 else "",
        message="The loss is not finite." if trial % 100 == 50 else "",
        step=REPORTS * STEPS_BETWEEN,
        final={SUCCESS: 0.0},
        best={SUCCESS: 0.0},
        sweep_best={SUCCESS: 0.0},
        ended=trial + 1,
    )


def _cases(title: str, sweeps: Path, command: Sequence[str]) -> Iterator[dict[str, Any]]:
    for index in sweeps.glob(f"*/{INDEX}"):
        index.unlink()
    yield {"what": f"{title}: no index"} | measure(command)
    yield {"what": f"{title}: index"} | measure(command)
    for path in sweeps.glob(f"*/{JOURNAL}"):
        with Journal(path) as journal:
            trials = TRIALS if sweeps.name == "large" else TRIALS_OF_EACH
            _report(journal, trials - 1, REPORTS + 1, random.Random(0))
    yield {"what": f"{title}: index and a new report"} | measure(command)


def measure(command: Sequence[str]) -> dict[str, float]:
    """Run a command of the service as a process; seconds, megabytes at its peak, bytes of its output."""
    with tempfile.TemporaryFile() as output:
        started = time.perf_counter()
        child = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "sweeper.cli", *command],
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, output.fileno(), 1)],
        )
        _, status, usage = os.wait4(child, 0)
        seconds = time.perf_counter() - started
        if status:
            raise RuntimeError(f"{' '.join(command)} ended with status {os.waitstatus_to_exitcode(status)}")
        return {
            "seconds": round(seconds, 2),
            "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
            "peak_mb": round(usage.ru_maxrss / 1024, 1),
            "output_bytes": output.seek(0, os.SEEK_END),
        }


def main() -> None:
    """Write the sweeps, run the commands, show a table, and write JSON if requested."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.reading", description=__doc__)
    parser.add_argument("--folder", type=Path, help="keep the sweeps here, and use those that are here")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        rows = run(arguments.folder or Path(temporary))
    # Imports torch. The peak of a child includes that of this process when it started the child.
    from benchmarks import machine

    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in machine.describe().items()))
    table = Table("what", "seconds", "CPU seconds", "peak MB")
    for row in rows:
        table.add_row(row["what"], str(row["seconds"]), str(row["cpu_s"]), str(row["peak_mb"]))
    console.print(table)
    if arguments.json is not None:
        content = {"machine": machine.describe(), "rows": rows}
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
