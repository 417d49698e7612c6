"""How the driver of a sweep grows with its trials: its memory, and its work for each of them.

``python -m benchmarks.scale [--trials N] [--reports N] [--only PART ...] [--json FILE]``; about half an hour
for 1,000 trials. There are three parts:

- ``driver``: a real sweep (Ray, Tune, Optuna, MLflow) of trials that train nothing to speak of, one after the
  other. Its launched command is watched.
- ``records``: trials with 200 reports each that nothing trained are played into what a driver has beside
  Tune: the study, the journal, early stopping, the limits of the budget, the live table, MLflow.
- ``commands``: ``results``, ``status`` and ``list`` on the sweep that ``records`` left.

The first two parts look at the same marks (10, 100 and 1,000 trials): memory when that many trials have
ended, and the work for each of the latter half of them. Work is the processor's time, so other programs on
the machine change it little.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks.launched import failed, start_sweep, sweep_folder
from benchmarks.overhead import LOSS, PAUSE_S
from benchmarks.reading import METRICS, SUCCESS
from sweeper.driver.ending import Ending
from sweeper.driver.opening import open_sweep
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.requests import RequestLoop
from sweeper.driver.signals import Signals
from sweeper.layout import DATABASE, INDEX, JOURNAL, STUDY
from sweeper.records.events import EventKind
from sweeper.records.forecast import Forecast
from sweeper.records.journal import read_journal
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.spec.space_file.load import load_spec
from sweeper.terminal.live import Display
from sweeper.trial.exchange import FINAL, STEP, TIME, numbers_as_sent
from trainables import registry

PARTS = ("driver", "records", "commands")
TRIALS, REPORTS = 1000, 200
MARKS = (10, 100, 1000, 10_000)
EVALUATED = 20
"""Every so many reports the metrics of an evaluation come along, and the value of the objective."""
STEPS_BETWEEN = 200
LOOK_S = 0.5
TABLES = 5
"""The live table is drawn so often at each mark."""
SIZE = {"width": 160, "height": 50}
DELIVERY_S = 1800.0

MEASURE = "import json, sys; from benchmarks.reading import measure; print(json.dumps(measure(sys.argv[1:])))"

Row = dict[str, float]


class Course:
    """Follows the memory and the work of a process.

    Args:
        process: The process.
    """

    def __init__(self, process: int) -> None:
        self._process = psutil.Process(process)
        self._ended = threading.Event()
        self._looks: list[tuple[float, float, float]] = []
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop following."""
        self._ended.set()
        self._thread.join()

    def at(self, moment: float) -> tuple[float, float]:
        """The process's own memory in MB and its CPU seconds so far, at the last look before a time."""
        seen = [look for look in self._looks if look[0] <= moment] or self._looks[:1]
        return seen[-1][1:]

    def _follow(self) -> None:
        while not self._ended.wait(LOOK_S):
            try:
                times = self._process.cpu_times()
                memory = self._process.memory_full_info().uss / 1e6
            except psutil.Error:
                return
            self._looks.append((time.time(), memory, times.user + times.system))


def follow_driver(trials: int) -> list[Row]:
    """Run a sweep of trials that do nothing, and follow its driver; a row for each mark."""
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        folder = Path(temporary)
        space = _space(trials)
        process = start_sweep(folder, space)
        course = Course(process.pid)
        code = process.wait()
        course.close()
        if code:
            raise failed(folder, "the sweep failed")
        events = read_journal(sweep_folder(folder, space) / JOURNAL).events
        ended = [event["time"] for event in events if event["event"] == EventKind.TRIAL_END]
        return [_driver_row(course, ended, mark) for mark in _marks(trials)]


def _space(trials: int) -> dict[str, Any]:
    return {
        "name": "instant",
        "trainable": "benchmarks.overhead:TRAINABLE",
        "config": {PAUSE_S: 0.0},
        "parameters": {"seed": {"min": 0, "max": 10**6}},
        "metric": {"name": LOSS, "goal": "minimize"},
        "search": {"method": "tpe", "seed": 0},
        "budget": {"trials": trials},
        "resources": {"workers": 1, "gpu_per_worker": 0, "cpu_per_worker": 1, "max_concurrent": 1},
    }


def _driver_row(course: Course, ended: Sequence[float], mark: int) -> Row:
    first, last = ended[mark // 2 - 1], ended[mark - 1]
    (_, before), (memory, after) = course.at(first), course.at(last)
    each = mark - mark // 2
    return {
        "trials": mark,
        "memory of the driver, MB": memory,
        "CPU of the driver for a trial, ms": 1000 * (after - before) / each,
        "wall time of a trial, ms": 1000 * (last - first) / each,
    }


def _marks(trials: int) -> list[int]:
    return sorted({mark for mark in MARKS if mark < trials} | {trials})


class Clock:
    """Adds up the work of this thread by what it was for, and what all other threads did meanwhile."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = defaultdict(float)
        self._others = self._work_of_others()

    @contextlib.contextmanager
    def __call__(self, what: str) -> Iterator[None]:
        """Count what happens inside."""
        before = time.thread_time()
        yield
        self.spent[what] += time.thread_time() - before

    def others(self) -> float:
        """CPU seconds of the other threads since this was last asked."""
        before, self._others = self._others, self._work_of_others()
        return self._others - before

    @staticmethod
    def _work_of_others() -> float:
        return time.process_time() - time.thread_time()


def play(sweeps: Path, trials: int, reports: int, tracking: str | None = None) -> list[Row]:
    """Play a sweep into its records; a row for each mark.

    Args:
        sweeps: Receives the folder of the sweep.
        trials: Trials of the sweep.
        reports: Reports of each.
        tracking: MLflow's server or database; None for SQLite in the folder.
    """
    spec = load_spec("pusht_state", ["name=played", f"budget.trials={trials}"], sweeps)
    spec = dataclasses.replace(spec, tracking=dataclasses.replace(spec.tracking, uri=tracking))
    trainable = registry.load(spec.trainable)
    rows: list[Row] = []
    with open_sweep(spec, trainable, None) as records, Path(os.devnull).open("w") as nowhere:
        problem = records.tracker.start()
        if problem:
            raise SystemExit(f"MLflow: {problem}")
        console = Console(file=nowhere, force_terminal=True, **SIZE)
        display = Display(console, Forecast(records.sweep, 1, reports * STEPS_BETWEEN))
        recorder = Recorder(
            records.study, records.journal, records.tracker, spec, sweep=records.sweep, viewers=(display,)
        )
        player = _Player(spec, recorder, records.study)
        recorder.start_sweep({"resources": {"workers": 1, "gpu_per_worker": 1.0, "cpu_per_worker": 4.0}})
        first = 0
        for mark in _marks(trials):
            half = max(first, mark // 2)
            player.play(first, half, reports)
            _deliver(records.tracker)
            player.clock.spent.clear()
            player.clock.others()
            player.play(half, mark, reports)
            each = mark - half
            parts = {f"{what}, ms": 1000 * s / each for what, s in player.clock.spent.items()}
            _deliver(records.tracker)
            parts["MLflow, ms"] = 1000 * player.clock.others() / each
            for _ in range(TABLES):
                with player.clock("a live table"):
                    console.print(display.render())
            gc.collect()
            rows.append(
                {
                    "trials": mark,
                    "memory, MB": psutil.Process().memory_full_info().uss / 1e6,
                    **parts,
                    "a live table, ms": 1000 * player.clock.spent["a live table"] / TABLES,
                }
            )
            first = mark
        recorder.end_sweep(SweepStatus.DONE)
        records.tracker.close(DELIVERY_S)
    return rows


class _Player:
    """Plays trials as Tune would run them."""

    def __init__(self, spec: Any, recorder: Recorder, study: Any) -> None:
        from sweeper.driver.run import recorded_in
        from sweeper.search.early_stopping import make_scheduler

        self.clock = Clock()
        self._objective = spec.objectives[0].name
        self._recorder, self._study = recorder, study
        self._ending = Ending(1, recorder.sweep, Signals())
        self._requests = RequestLoop(recorder, self._ending, {}, "played")
        self._scheduler = make_scheduler(spec.early_stop, recorded_in(spec.folder / JOURNAL))
        self._generator = random.Random(0)

    def play(self, first: int, end: int, reports: int) -> None:
        """Play the trials from one to another, the latter excluded."""
        clock, recorder = self.clock, self._recorder
        for _ in range(first, end):
            with clock("the suggestion"):
                suggestion = self._study.ask()
            if suggestion is None:
                raise SystemExit("the space is used up")
            number = suggestion.number
            with clock("start and end"):
                recorder.start_trial(number, suggestion.config)
            for report in range(1, reports + 1):
                result = self._result(report, reports)
                with clock("early stopping"):
                    trial: Any = SimpleNamespace(config={"trial": number}, trial_id=str(number))
                    self._scheduler.on_trial_result(None, trial, result)
                with clock(f"{reports} reports"):
                    recorder.report(number, result)
                with clock(f"{reports} turns of the loop"):
                    self._ending.check()
                    self._requests.poll()
                    recorder.tell_study()
            with clock("start and end"):
                recorder.end_trial(number, Outcome(TrialStatus.COMPLETED))

    def _result(self, report: int, reports: int) -> Mapping[str, Any]:
        draw = self._generator.random
        evaluated = report % EVALUATED == 0 or report == reports
        names = [name for name in METRICS if evaluated or not name.startswith(("eval/", "rollout/"))]
        metrics = {name: draw() for name in names} | ({SUCCESS: draw()} if evaluated else {})
        return {
            **numbers_as_sent(metrics),
            STEP: report * STEPS_BETWEEN,
            TIME: time.time(),
            FINAL: report == reports,
        }


def _deliver(tracker: Any) -> None:
    """Wait until MLflow has everything."""
    until = time.monotonic() + DELIVERY_S
    while not tracker.delivery().complete:
        if time.monotonic() > until:
            raise SystemExit(f"MLflow: {tracker.delivery()}")
        time.sleep(1.0)


def run_commands(sweeps: Path) -> list[dict[str, Any]]:
    """Measure the commands that read a sweep; a row for each, without its index and with it."""
    rows = []
    for command in (["results", "played"], ["results", "played", "--json"], ["status", "played"], ["list"]):
        row: dict[str, Any] = {"command": " ".join(word for word in command if word != "played")}
        for index in ("no index", "index"):
            if index == "no index":
                (sweeps / "played" / INDEX).unlink(missing_ok=True)
            # From a small process: the peak of a child includes that of its parent.
            call = [sys.executable, "-c", MEASURE, *command, "--sweeps", str(sweeps)]
            found = json.loads(subprocess.run(call, check=True, stdout=subprocess.PIPE).stdout)
            row |= {f"CPU s, {index}": found["cpu_s"], f"peak MB, {index}": found["peak_mb"]}
        rows.append(row)
    return rows


def _sizes(folder: Path, trials: int) -> Row:
    files = [folder / name for name in (JOURNAL, STUDY, DATABASE)]
    sizes = {f"{file.name}, MB": file.stat().st_size / 1e6 for file in files if file.exists()}
    return {"trials": trials, **sizes}


def run(trials: int, reports: int, parts: Sequence[str], tracking: str | None = None) -> dict[str, Any]:
    """Run the parts; the rows of each."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="scale-") as temporary:
        sweeps = Path(temporary)
        if "records" in parts or "commands" in parts:
            found["records"] = play(sweeps, trials, reports, tracking)
            found["files"] = [_sizes(sweeps / "played", trials)]
        if "commands" in parts:
            found["commands"] = run_commands(sweeps)
    if "driver" in parts:
        found["driver"] = follow_driver(trials)
    return found


def _show(console: Console, title: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each thing that was measured, and a column for each row; the first one is the head."""
    head, *names = rows[0]
    table = Table(title=title, title_justify="left")
    table.add_column(head)
    for row in rows:
        table.add_column(_text(row[head]), justify="right")
    for name in names:
        table.add_row(name, *(_text(row[name]) for row in rows))
    console.print(table)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    return f"{value:,.2f}" if math.fabs(value) < 100 else f"{value:,.0f}"


def main() -> None:
    """Run it, show tables, and write JSON if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--trials", type=int, default=TRIALS, help="trials of the largest sweep")
    parser.add_argument("--reports", type=int, default=REPORTS, help="reports of each trial that is played")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="the parts to run")
    parser.add_argument("--tracking", metavar="URI", help="MLflow's server or database for the played sweep")
    parser.add_argument("--json", type=Path, help="write the results to this file too")
    arguments = parser.parse_args()
    if arguments.trials < 2:
        parser.error(f"--trials is {arguments.trials}: at least 2 are needed.")
    results = run(arguments.trials, arguments.reports, arguments.only, arguments.tracking)
    # Imports torch, which the memory of the played sweep must not contain.
    from benchmarks import machine

    about = machine.describe() | machine.versions("ray", "optuna", "mlflow", "rich")
    console = Console()
    console.print(", ".join(f"{name} {value}" for name, value in about.items()))
    for title, rows in results.items():
        _show(console, title, rows)
    if arguments.json is not None:
        content = {"machine": about, "trials": arguments.trials, "reports": arguments.reports} | results
        arguments.json.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
