"""Record what trials report, once: in the journal, then in the study, then in MLflow.

Tune does not pass the report at which a trial is stopped to its searcher, but passes every report to its
callbacks, and the end to both. So values reach the study from here, through a callback, and not through the
searcher. A worker group that starts again repeats the steps since its checkpoint: such reports are dropped
by the trial's own step, which never decreases.
"""

from __future__ import annotations

import math
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil

from sweeper.errors import StudyBusyError
from sweeper.layout import trial_folder
from sweeper.masking import masked
from sweeper.records.checkpoints import remove_checkpoints, slim_checkpoints, superfluous
from sweeper.records.events import Event, EventKind
from sweeper.records.forecast import cost_of, gpus_per_trial
from sweeper.records.journal import Journal
from sweeper.records.spending import spending_of
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.summary import refresh_index
from sweeper.records.sweep_state import SweepState, update_sweep
from sweeper.records.trial_state import TrialState
from sweeper.search.study import Study
from sweeper.spec.sweep import SweepSpec, objective_fault
from sweeper.tracking.tracker import Tracker
from sweeper.trial.exchange import ARTIFACTS, CHECKPOINT, STEP, TUNED, metrics_of, read_reports

__all__ = ["Outcome", "Recorder", "Viewer"]

STUDY_RETRY_S = 10.0
"""Seconds between attempts to write to a busy study: each one waits for its lock and blocks the sweep."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        status: ``completed``, ``stopped_early`` by the scheduler, ``failed``, or ``interrupted``, to be
            continued.
        reason: One stable word: why it failed or was stopped.
        message: The details, as text.
    """

    status: TrialStatus
    reason: str = ""
    message: str = ""


class Viewer(Protocol):
    """Shows a running sweep, e.g. as a table on a terminal, or sends alerts."""

    def tell(self, event: Event) -> None:
        """Show an event that was recorded and applied to the sweep."""


class Recorder:
    """Records what a sweep's trials report: journal first, then study, then MLflow.

    Args:
        study: The sweep's study.
        journal: The sweep's journal.
        tracker: Uploads the journal to MLflow; None for a sweep without MLflow.
        spec: The sweep.
        sweep: The sweep so far, as read from the journal; None to read it now.
        viewers: Receive every event after it was written.
        slim: Makes a checkpoint smaller that nothing continues from; None to leave it.

    Attributes:
        sweep: The sweep so far, with the trials of earlier drivers.
    """

    def __init__(
        self,
        study: Study,
        journal: Journal,
        tracker: Tracker | None,
        spec: SweepSpec,
        *,
        sweep: SweepState | None = None,
        viewers: Sequence[Viewer] = (),
        slim: Callable[[Path], None] | None = None,
    ) -> None:
        self._slim = slim
        self.sweep = SweepState(spec.folder) if sweep is None else sweep
        if sweep is None:
            update_sweep(self.sweep)
        self._study = study
        self._journal = journal
        self._tracker = tracker
        self._spec = spec
        self._viewers = viewers
        self._noted: set[tuple[int, str]] = set()
        self._untold: deque[Callable[[], None]] = deque()
        self._next_telling = -math.inf

    # The sweep

    def start_sweep(self, info: Mapping[str, Any]) -> None:
        """Record that a driver starts or resumes the sweep.

        A driver that was killed may have recorded reports and ends of trials in the journal alone: the study
        receives them now.

        Args:
            info: Versions, git commit and identity of the data; nested names become tags in MLflow.
        """
        self._write(
            EventKind.SWEEP_START,
            sweep=self._spec.name,
            sweep_id=self.sweep.sweep_id or uuid.uuid4().hex,
            spec=self._spec.to_dict(),
            space=self._spec.source,
            info=info,
            driver={
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "started": psutil.Process().create_time(),
            },
        )
        objective = self._spec.objectives[0].name
        for trial in self.sweep.trials.values():
            for step, value in trial.series.get(objective, ()):
                self._report_to_study(trial.number, step, value)
            if trial.status != TrialStatus.INTERRUPTED:
                self._tell_study(trial.number, Outcome(trial.status, trial.reason, trial.message))
            self._remove_checkpoints(trial)
        self._drop_checkpoints()

    def end_sweep(self, status: SweepStatus, message: str = "") -> None:
        """Record the end of the driver's part; trials that still run are interrupted."""
        for trial in list(self.sweep.trials.values()):
            # Also trials of a killed driver that this one did not get to start again.
            if trial.status == TrialStatus.RUNNING or (
                trial.status == TrialStatus.INTERRUPTED and trial.ended is None
            ):
                self._end_trial(trial, Outcome(TrialStatus.INTERRUPTED, "interrupted", message))
        self._next_telling = -math.inf
        self.tell_study()
        self._write(EventKind.SWEEP_END, status=status, message=message)
        refresh_index(self._journal.path.parent)

    def note(self, text: str, **fields: Any) -> None:
        """Record a remark."""
        self._write(EventKind.NOTE, text=text, **fields)

    def steer(self, action: str, text: str, **fields: Any) -> None:
        """Record a request of the user that is carried out while the sweep runs."""
        self._write(EventKind.STEER, action=action, text=text, **fields)

    # A trial

    def wait_trial(self, number: int, needs: str) -> None:
        """Record what a running trial waits for; empty if it no longer waits."""
        trial = self.sweep.trials.get(number)
        if trial is not None and trial.status == TrialStatus.RUNNING and trial.needs != needs:
            self._write(EventKind.TRIAL_WAIT, durable=False, trial=number, needs=needs)

    def place_trial(self, number: int, node_types: Sequence[str]) -> None:
        """Record the kinds of machine on which a running trial has its place."""
        self._write(EventKind.TRIAL_PLACED, durable=False, trial=number, node_types=list(node_types))

    def start_trial(self, number: int, config: Mapping[str, Any]) -> None:
        """Record that a trial runs. One that runs already was only started again by its cluster."""
        trial = self.sweep.trials.get(number)
        if trial is not None and trial.status == TrialStatus.RUNNING:
            self.note("the trial was started again", trial=number)
            return
        space = self._spec.space
        values = {p.name: config[p.name] for p in space.parameters if space.exists(p, config)}
        origin = self._study.origin(number)
        taken: dict[str, Any] = {"origin": origin} if origin else {}
        self._write(EventKind.TRIAL_START, trial=number, config=config, values=values, **taken)
        if trial is not None:
            # Its worker may have reported more than the killed driver received.
            self.catch_up(number)

    def retry_trial(self, number: int, outcome: Outcome, changes: Mapping[str, Any]) -> None:
        """Record that a running trial was cut off, why, and that it continues from its last checkpoint.

        Args:
            number: The trial.
            outcome: How the attempt ended.
            changes: Fields of its configuration that are changed for the next one.
        """
        self.catch_up(number)
        trial = self.sweep.trials[number]
        self._write(
            EventKind.TRIAL_RETRY,
            trial=number,
            reason=outcome.reason,
            message=outcome.message,
            retry=sum(trial.retries.values()) + 1,
            step=trial.step,
            changes=changes,
        )
        notes = {"retries": dict(trial.retries), "changes": dict(trial.changes)}
        self._to_study(lambda: self._study.annotate(number, notes))

    def catch_up(self, number: int) -> None:
        """Record the reports of a trial that did not arrive because a process in between was killed."""
        for result in read_reports(trial_folder(self.sweep.folder, number)):
            self.report(number, result)

    def report(self, number: int, result: Mapping[str, Any]) -> bool:
        """Record a report of a trial; whether it contained anything new.

        Args:
            number: The trial.
            result: Numbers (`metrics_of`), among them `STEP`; files under `ARTIFACTS`; a folder under
                `CHECKPOINT`. Everything else, which Tune adds, is left out.
        """
        trial = self.sweep.trials.get(number)
        if trial is None or trial.status != TrialStatus.RUNNING or STEP not in result:
            return False
        step = int(result[STEP])
        metrics = metrics_of(result)
        fresh = trial.new_at(step, metrics)
        if not fresh:
            # A driver may have been killed between the two events of the last report.
            self._record_setting(trial, step, result)
            return False
        event: dict[str, Any] = {"metrics": {name: metrics[name] for name in sorted(fresh)}}
        if result.get(ARTIFACTS):
            event["artifacts"] = dict(result[ARTIFACTS])
        if result.get(CHECKPOINT):
            event["checkpoint"] = str(result[CHECKPOINT])
        self._write(EventKind.REPORT, durable=CHECKPOINT in event, trial=number, step=step, **event)
        objective = self._spec.objectives[0].name
        if objective in fresh:
            self._report_to_study(number, step, metrics[objective])
        self._record_setting(trial, step, result)
        return True

    def _record_setting(self, trial: TrialState, step: int, result: Mapping[str, Any]) -> None:
        """Record the inference setting that was chosen after the training, once."""
        chosen = result.get(TUNED)
        if chosen is None or step != trial.step or trial.tried:
            return
        if "problem" in chosen:
            text = f"no inference setting was chosen: {chosen['problem']}"
            if (trial.number, text) not in self._noted:
                self._noted.add((trial.number, text))
                self.note(text, trial=trial.number)
            return
        self._write(EventKind.TUNED, trial=trial.number, **chosen)

    def end_trial(self, number: int, outcome: Outcome) -> None:
        """Record how a trial ended; only the first outcome counts.

        A trial that completed without a finite value of every objective has failed. An interrupted one stays
        unfinished in the study, so that it can continue.
        """
        trial = self.sweep.trials.get(number)
        if trial is not None and trial.status == TrialStatus.RUNNING:
            self._end_trial(trial, outcome)

    def _end_trial(self, trial: TrialState, outcome: Outcome) -> None:
        number = trial.number
        if (
            outcome.status != TrialStatus.STOPPED_EARLY
        ):  # what followed the report that ended it does not count
            self.catch_up(number)
        if outcome.status == TrialStatus.COMPLETED:
            fault = objective_fault(self._spec.objectives, trial.final)
            if fault is not None:
                outcome = Outcome(TrialStatus.FAILED, *fault)
        completed = trial if outcome.status == TrialStatus.COMPLETED else None
        self._write(
            EventKind.TRIAL_END,
            trial=number,
            status=outcome.status,
            reason=outcome.reason,
            message=outcome.message,
            step=trial.step,
            final=trial.final,
            best=trial.best,
            sweep_best=self.sweep.best_so_far(completed),
            ended=self.sweep.ended_trials + (outcome.status != TrialStatus.INTERRUPTED),
            **self._cost(number),
        )
        self._tell_study(number, outcome)
        self._drop_checkpoints()
        self._slim_checkpoints(self.sweep.trials[number])

    def _cost(self, number: int) -> dict[str, Any]:
        """GPU-hours and money of a trial that ends, and of the sweep; empty for what is not counted."""
        found: dict[str, Any] = {}
        if gpus_per_trial(self.sweep):
            cost = cost_of(self.sweep)
            found = {"gpu_hours": round(cost.trials[number], 6), "sweep_gpu_hours": round(cost.so_far, 6)}
        spending = spending_of(self.sweep)
        if spending is not None:
            found |= {"cost": round(spending.trials[number], 6), "sweep_cost": round(spending.so_far, 6)}
            found["currency"] = spending.currency
        return found

    def _drop_checkpoints(self) -> None:
        """Delete the checkpoints that ``keep`` does not keep."""
        for number, folders in superfluous(self.sweep, self._spec.keep).items():
            self._write(EventKind.CHECKPOINTS_DROPPED, trial=number, folders=folders)
            self._remove_checkpoints(self.sweep.trials[number])

    def _slim_checkpoints(self, trial: TrialState) -> None:
        """Delete the part of a trial's checkpoints that only a continuation needs, if it cannot continue."""
        if trial.status not in (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY) or self._slim is None:
            return
        for problem in slim_checkpoints(self.sweep, trial, self._slim):
            self.note(problem, trial=trial.number)

    def _remove_checkpoints(self, trial: TrialState) -> None:
        for problem in remove_checkpoints(self.sweep, trial):
            self.note(problem, trial=trial.number)

    # The study

    def _to_study(self, tell: Callable[[], None]) -> None:
        """Write to the study; later if its file is locked or its disk is full. The journal has it already."""
        self._untold.append(tell)
        self.tell_study()

    def tell_study(self) -> None:
        """Write to the study what could not be written before, in order."""
        while self._untold and time.monotonic() >= self._next_telling:
            try:
                self._untold[0]()
            except StudyBusyError:
                self._next_telling = time.monotonic() + STUDY_RETRY_S
                return
            self._untold.popleft()

    def _report_to_study(self, number: int, step: int, value: float) -> None:
        def tell() -> None:
            if self._study.is_running(number):  # it skips steps that it has already
                self._study.report(number, step, value)

        self._to_study(tell)

    def _tell_study(self, number: int, outcome: Outcome) -> None:
        self._to_study(lambda: self._end_in_study(number, outcome))

    def _end_in_study(self, number: int, outcome: Outcome) -> None:
        if not self._study.is_running(number):
            return
        match outcome.status:
            case TrialStatus.COMPLETED:
                self._study.complete(number, self.sweep.trials[number].final)
            case TrialStatus.STOPPED_EARLY:
                self._study.prune(number)
            case TrialStatus.FAILED:
                self._study.fail(number, outcome.reason, masked(outcome.message))

    def _write(self, kind: EventKind, *, durable: bool = True, **fields: Any) -> None:
        event = self._journal.append(kind, durable=durable, **fields)
        self.sweep.apply(event)
        if self._tracker is not None:
            self._tracker.notify()
        for viewer in self._viewers:
            viewer.tell(event)
