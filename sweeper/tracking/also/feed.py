"""Passes a journal to a tracker: late, and never twice, also after a crash.

The number of events that were passed is stored when the tracker has stored them. What was passed and not yet
counted when a process was killed is passed again with the same number, by which the trackers leave it out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sweeper.layout import JOURNAL, TRIALS, trial_folder, write_whole
from sweeper.records.events import Event, EventKind
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import SweepState
from sweeper.tracking.also.runs import (
    FILMS,
    PICTURES,
    Moment,
    Run,
    Sink,
    finite_numbers,
    run_of_sweep,
    run_of_trial,
)
from sweeper.tracking.runs import BEST_FINAL

__all__ = ["Feed", "read_position", "state_path"]

CHUNK_BYTES = 500_000


def state_path(folder: Path, tracker: str) -> Path:
    """The file that records how much of the journal a tracker has."""
    return folder / f"{tracker}.json"


def read_position(folder: Path, tracker: str) -> dict[str, Any]:
    """How much of the journal a tracker has: ``events``, and what the tracker needs to continue."""
    try:
        plain = json.loads(state_path(folder, tracker).read_text())
        return plain if isinstance(plain["events"], int) and isinstance(plain["tracker"], dict) else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


class Feed:
    """Follows the journal of a sweep for one tracker.

    Args:
        folder: The sweep's folder.
        tracker: The name of the tracker.
        sink: The tracker.
    """

    def __init__(self, folder: Path, tracker: str, sink: Sink) -> None:
        self._folder = folder
        self._tracker = tracker
        self._sink = sink
        self._sweep = SweepState(folder, keeps_series=False)
        self._sent = int(read_position(folder, tracker).get("events", 0))
        self._number = 0
        self._offset = 0

    def step(self) -> bool:
        """Pass the next part of the journal; whether there was anything new."""
        chunk = read_journal(self._folder / JOURNAL, self._offset, CHUNK_BYTES)
        moved, self._offset = chunk.offset > self._offset, chunk.offset
        before = self._sent
        for event in chunk.events:
            self._number += 1
            self._sweep.apply(event)
            if self._number > self._sent:
                self._pass(event)
                self._sent = self._number
        if self._sent > before:
            state = {"events": self._sent, "tracker": self._sink.flush()}
            write_whole(state_path(self._folder, self._tracker), json.dumps(state))
        return moved

    def _pass(self, event: Event) -> None:
        match event["event"]:
            case EventKind.REPORT:
                metrics = _numbers(event["metrics"])
                self._sink.log(self._run(event), self._at(event, event["step"]), metrics, self._media(event))
            case EventKind.TRIAL_END:
                self._trial_end(event)
            case EventKind.TUNED:
                self._log_at_end(event, _prefixed("tuned", event["metrics"]))
            case EventKind.CONFIRMED | EventKind.JUDGED:
                prefix = "confirmed" if event["event"] == EventKind.CONFIRMED else "real"
                # A policy that a person judged need not be a trial of this sweep.
                for one in (one for one in event["finalists"] if one["trial"] is not None):
                    found_metrics = {**one.get("metrics", {}), "p_best": one.get("p_best", math.nan)}
                    self._log_at_end({**event, "trial": one["trial"]}, _prefixed(prefix, found_metrics))
                winner = next(one for one in event["finalists"] if one["trial"] == event["winner"])
                of_sweep = finite_numbers(_prefixed(prefix, winner.get("metrics", {})))
                ended = self._at(event, self._sweep.ended_trials)
                self._sink.log(run_of_sweep(self._sweep), ended, of_sweep, {})
            case EventKind.SWEEP_END:
                best = self._sweep.best_trial()
                summary = {"status": event["status"], "message": event["message"]}
                summary |= (
                    {}
                    if best is None
                    else {f"{BEST_FINAL}/trial": best.number, **_prefixed(BEST_FINAL, best.final)}
                )
                ended = self._at(event, self._sweep.ended_trials)
                self._sink.end(run_of_sweep(self._sweep), ended, summary)

    def _trial_end(self, event: Event) -> None:
        run = self._run(event)
        money = {"cost/gpu_hours": event.get("gpu_hours"), "cost/money": event.get("cost")}
        costs = {name: float(value) for name, value in money.items() if value is not None}
        summary = {"status": event["status"], "reason": event["reason"], "message": event["message"]}
        summary |= (
            _prefixed("final", event.get("final", {})) | _prefixed("best", event.get("best", {})) | costs
        )
        self._sink.end(run, self._at(event, int(event.get("step", 0))), summary)
        totals = {"cost/gpu_hours": event.get("sweep_gpu_hours"), "cost/money": event.get("sweep_cost")}
        metrics = _prefixed(BEST_FINAL, event.get("sweep_best", {}))
        metrics |= {name: float(value) for name, value in totals.items() if value is not None}
        if metrics:
            parent = run_of_sweep(self._sweep)
            self._sink.log(parent, self._at(event, int(event.get("ended", 0))), metrics, {})

    def _log_at_end(self, event: Event, metrics: Mapping[str, float]) -> None:
        trial = self._sweep.trials[event["trial"]]
        self._sink.log(self._run(event), self._at(event, trial.step), finite_numbers(metrics), {})

    def _at(self, event: Event, step: int) -> Moment:
        return Moment(self._number, step, event["time"])

    def _run(self, event: Event) -> Run:
        return run_of_trial(self._sweep, self._sweep.trials[event["trial"]])

    def _media(self, event: Event) -> dict[str, Path]:
        """The pictures and films of a report that still exist."""
        found = {name: self._find(path, event["trial"]) for name, path in event.get("artifacts", {}).items()}
        return {
            name: path
            for name, path in found.items()
            if path.suffix.lower() in (*PICTURES, *FILMS) and path.is_file()
        }

    def _find(self, path: str, trial: int) -> Path:
        """A reported file, also if the sweep's folder was moved."""
        if Path(path).is_file():
            return Path(path)
        return trial_folder(self._folder, trial) / path.rpartition(f"/{TRIALS}/{trial}/")[2]


def _numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in metrics.items()}


def _prefixed(prefix: str, metrics: Mapping[str, Any]) -> dict[str, float]:
    return {f"{prefix}/{name}": float(value) for name, value in metrics.items()}
