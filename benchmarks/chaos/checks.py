"""What became of a sweep that was disturbed: its records against the series known beforehand."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from benchmarks.chaos.arena import SweepFolder
from benchmarks.chaos.trainable import LOSS, PLACE, straight
from sweeper.tracking.tracker import tracking_uri

__all__ = ["COUNTS", "Tally", "examine"]

COUNTS = {
    "lost": "trials lost",
    "twice": "trials run or recorded twice",
    "duplicates": "points twice",
    "gaps": "points missing",
    "wrong": "points of another value",
    "untold": "things the study does not know",
    "processes": "processes left",
    "cpus": "CPUs not free again",
    "stuck": "never went on or ended",
    "tracebacks": "tracebacks printed",
}
"""What must be 0, in words."""


@dataclass
class Tally:
    """What was done to sweeps of one kind of disturbance, and what came of it.

    Attributes:
        kind: The kind of disturbance.
        strikes: How often something was killed, locked or filled up.
        sweeps: Sweeps that were run.
        trials: Their trials.
        points: Points of their series that were checked, in the journal and in MLflow together.
        counts: How often each of `COUNTS` was found.
        seconds: From each strike until work went on (or, of a clean end, until nothing was left).
        notes: What was found, in words.
        figures: More numbers of this kind alone.
    """

    kind: str
    strikes: int = 0
    sweeps: int = 0
    trials: int = 0
    points: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def found(self, what: str, note: str, times: int = 1) -> None:
        """Count something that must not be."""
        if times:
            self.counts[what] += times
            self.notes.append(note)

    @property
    def clean(self) -> bool:
        """Whether nothing was lost, doubled or left."""
        return not any(self.counts.values())

    def to_json(self) -> dict[str, Any]:
        """As plain types."""
        plain = asdict(self)
        plain["counts"] = {name: self.counts[name] for name in COUNTS}
        plain["seconds"] = [round(second, 2) for second in self.seconds]
        if self.seconds:
            plain["seconds_median"] = round(median(self.seconds), 2)
            plain["seconds_longest"] = round(max(self.seconds), 2)
        return plain


def examine(
    sweep: SweepFolder, tally: Tally, ends: Mapping[int, Iterable[str]] | None = None, mlflow: bool = True
) -> None:
    """Compare what a sweep recorded with what its walks must have said.

    Args:
        sweep: The sweep, which has ended.
        tally: What is found is counted here.
        ends: How the walk of a seed may end, where not only by completing.
        mlflow: Whether MLflow is to have everything.
    """
    tally.sweeps += 1
    tally.trials += len(sweep.seeds)
    name = sweep.path.name
    numbers, endings, reports = _journal(sweep)
    for seed in sweep.seeds:
        found = numbers.get(seed, [])
        tally.found("twice", f"{name}: seed {seed} was run as trials {found}", max(0, len(found) - 1))
        if not found:
            tally.found("lost", f"{name}: seed {seed} was never run")
            continue
        number, allowed = found[0], set((ends or {}).get(seed, ("completed",)))
        own = [status for status in endings[number] if status != "interrupted"]
        tally.found("twice", f"{name}: trial {number} ended {len(own)} times: {own}", max(0, len(own) - 1))
        if not own or own[-1] not in allowed:
            tally.found("lost", f"{name}: trial {number} is {own or 'unfinished'}, not {sorted(allowed)}")
        whole = own == ["completed"]
        _compare(tally, f"{name}, journal, trial {number}", seed, reports[number], sweep.steps, whole)
    by_number = {number: seed for seed, found in numbers.items() for number in found}
    if mlflow:
        _mlflow(sweep, tally, by_number, endings)
    _study(sweep, tally, endings, reports)


def _journal(
    sweep: SweepFolder,
) -> tuple[dict[int, list[int]], dict[int, list[str]], dict[int, list[tuple[int, str, float]]]]:
    """Trials by seed, how each ended, and what each reported."""
    numbers: dict[int, list[int]] = defaultdict(list)
    endings: dict[int, list[str]] = defaultdict(list)
    reports: dict[int, list[tuple[int, str, float]]] = defaultdict(list)
    for event in sweep.events():
        if event["event"] == "trial_start" and event["trial"] not in numbers[event["config"]["seed"]]:
            numbers[event["config"]["seed"]].append(event["trial"])
        elif event["event"] == "trial_end":
            endings[event["trial"]].append(event["status"])
        elif event["event"] == "report":
            reports[event["trial"]] += [
                (event["step"], name, float(event["metrics"][name]))
                for name in (PLACE, LOSS)
                if name in event["metrics"]
            ]
    return numbers, endings, reports


def _compare(
    tally: Tally, where: str, seed: int, points: list[tuple[int, str, float]], steps: int, whole: bool
) -> None:
    """Count the points of a series that are missing, twice, or wrong."""
    tally.points += len(points)
    known = straight(seed, steps)
    for name in (PLACE, LOSS):
        times = Counter(step for step, metric, _ in points if metric == name)
        last = steps if whole else max(times, default=0)
        doubled = [step for step, count in times.items() if count > 1]
        missing = [step for step in range(1, last + 1) if step not in times]
        wrong = [
            step
            for step, metric, value in points
            if metric == name and not (1 <= step <= steps and known[step - 1][name] == value)
        ]
        tally.found("duplicates", f"{where}: {name} twice at {doubled}", len(doubled))
        tally.found("gaps", f"{where}: {name} missing at {missing}", len(missing))
        tally.found("wrong", f"{where}: {name} wrong at {wrong}", len(wrong))


def _mlflow(
    sweep: SweepFolder, tally: Tally, by_number: Mapping[int, int], endings: Mapping[int, list[str]]
) -> None:
    from mlflow.tracking import MlflowClient

    name = sweep.path.name
    client = MlflowClient(tracking_uri(sweep.path, sweep.uri))
    experiment = client.get_experiment_by_name("chaos")
    runs = (
        []
        if experiment is None
        else client.search_runs(
            [experiment.experiment_id], f"tags.`sweep.id` = '{_sweep_id(sweep)}'", max_results=1000
        )
    )
    sweeps = [run for run in runs if run.data.tags.get("sweep.kind") == "sweep"]
    if len(sweeps) != 1:
        tally.found("twice" if sweeps else "lost", f"{name}: MLflow has {len(sweeps)} runs of the sweep")
    for number, seed in by_number.items():
        found = [run for run in runs if run.data.tags.get("sweep.trial") == str(number)]
        if len(found) != 1:
            tally.found("twice" if found else "lost", f"{name}: MLflow has {len(found)} runs of {number}")
            continue
        points = [
            (point.step, metric, point.value)
            for metric in (PLACE, LOSS)
            for point in client.get_metric_history(found[0].info.run_id, metric)
        ]
        whole = "completed" in endings[number]
        _compare(tally, f"{name}, MLflow, trial {number}", seed, points, sweep.steps, whole)
        last = endings[number][-1] if endings[number] else "unfinished"
        status = found[0].data.tags.get("status")
        if status != last:
            tally.found("lost", f"{name}: trial {number} is {status} in MLflow, {last} in the journal")


def _sweep_id(sweep: SweepFolder) -> str:
    return next((event["sweep_id"] for event in sweep.events() if event["event"] == "sweep_start"), "")


_STATES = {"COMPLETE": "completed", "PRUNED": "stopped_early", "FAIL": "failed", "RUNNING": "interrupted"}


def _study(
    sweep: SweepFolder,
    tally: Tally,
    endings: Mapping[int, list[str]],
    reports: Mapping[int, list[tuple[int, str, float]]],
) -> None:
    """Count what the journal has and the study does not, or has otherwise."""
    name = sweep.path.name
    with contextlib.closing(sqlite3.connect(sweep.path / "study.db")) as database:
        states = dict(database.execute("select number, state from trials"))
        told = set(
            database.execute(
                "select number, step, intermediate_value from trial_intermediate_values "
                "join trials using (trial_id)"
            )
        )
        values = dict(database.execute("select number, value from trial_values join trials using (trial_id)"))
    for number in sorted(set(endings) | set(states)):
        ended = endings[number][-1] if endings.get(number) else "unfinished"
        state = _STATES.get(states.get(number, ""), "missing")
        if ended != state:
            tally.found("untold", f"{name}: trial {number} is {ended} in the journal, {state} in the study")
        points = [(step, value) for step, metric, value in reports[number] if metric == PLACE]
        lacking = [step for step, value in points if (number, step, value) not in told]
        tally.found("untold", f"{name}: the study lacks steps {lacking} of trial {number}", len(lacking))
        if ended == "completed" and points and values.get(number) != points[-1][1]:
            tally.found("untold", f"{name}: the study has another value of trial {number}")
