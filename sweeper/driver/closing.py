"""Record the end of a sweep: how it ended, in words, and the links to it in MLflow.

A driver that was killed between the end of the last trial and its own did not record the end. Then the next
driver does, without Ray.
"""

from __future__ import annotations

import shutil

from sweeper.alerts.sender import Alerts
from sweeper.driver.opening import open_sweep
from sweeper.driver.recorder import Recorder
from sweeper.layout import RAY
from sweeper.records.limits import last_failure, nothing_left
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.report.remake import remake_report
from sweeper.spec.sweep import SweepSpec
from sweeper.terminal.result import SweepResult
from sweeper.tracking.state import Delivery
from trainables.interface import Trainable

__all__ = ["DELIVERY_S", "close", "verdict"]

DELIVERY_S = 30.0
"""How long the end waits until MLflow has received everything."""


def verdict(sweep: SweepState) -> tuple[SweepStatus, str]:
    """Return how a sweep ended whose trials have all ended."""
    ended = sweep.ended_trials
    if ended and sweep.count(TrialStatus.FAILED) == ended:
        return SweepStatus.FAILED, f"Every trial failed. {last_failure(sweep)}"
    return SweepStatus.DONE, f"All {ended} trials ended." if ended > 1 else "The trial ended."


def close(spec: SweepSpec, trainable: Trainable, sweep: SweepState) -> SweepResult:
    """Record the end of a sweep that has nothing left to run.

    Args:
        spec: The sweep as it was requested.
        trainable: What its trials train.
        sweep: The sweep so far; no driver runs it.

    Raises:
        SweeperError: If the sweep cannot be recorded.
    """
    limit = nothing_left(spec.budget, sweep)
    if sweep.is_closed:
        what, more = "This sweep is complete", "budget.trials"
        if limit is not None and limit.name != "trials":
            what, more = "The budget of this sweep is used up", f"budget.{limit.name}"
        message = f"{what}: {sweep.ended_trials} trials have ended. Raise {more} for more trials, "
        message += "or choose another name for a new sweep."
        as_before: SweepStatus = sweep.status if sweep.status == SweepStatus.FAILED else SweepStatus.DONE
        return SweepResult(sweep, as_before, message, Delivery(complete=True))
    with open_sweep(spec, trainable, sweep) as records:
        tracker = records.tracker
        tracker.start()
        recorder = Recorder(records.study, records.journal, tracker, spec, sweep=records.sweep)
        recorder.start_sweep(sweep.info)
        status, message = verdict(recorder.sweep)
        if limit is not None and limit.name != "trials":
            status, message = limit.status, limit.message
        recorder.end_sweep(status, message)
        alerts = Alerts(spec.alerts, recorder.sweep)
        alerts.start()
        alerts.ended(status, message)
        report, fault = remake_report(spec.folder)
        delivery = tracker.close(DELIVERY_S)
        alerts.close()
        # What Ray keeps there is for a restore that we never do.
        shutil.rmtree(spec.folder / RAY, ignore_errors=True)
        links = tracker.links(recorder.sweep)
        return SweepResult(
            recorder.sweep, status, message, delivery, links, report=report, report_fault=fault
        )
