"""How a sweep ends before its trials are used up: signals, and the limits of its budget."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType
from typing import Literal

from sweeper.results import Sweep
from sweeper.sweep import SettledResources, SweepSpec
from sweeper.trial import request_stop, trial_folder

__all__ = ["GRACE_S", "Ending", "Signals", "Status", "common_reason", "ended_by_signals"]

Status = Literal["done", "failed", "interrupted"]

GRACE_S = 30.0
"""How long trials that were asked to stop may take to write a checkpoint."""
CANARIES = 3
"""When this many trials ended (or all that run at once, if more) and all failed, the sweep gives up."""


class Signals:
    """Ctrl-C and SIGTERM: the first asks for a clean end, the second ends at once."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _number: int, _frame: FrameType | None) -> None:
        """Count one; the second cannot wait."""
        self.count += 1
        if self.count > 1:
            raise KeyboardInterrupt


@contextlib.contextmanager
def ended_by_signals() -> Iterator[Signals]:
    """Take Ctrl-C and SIGTERM while the context lasts; in another than the main thread nobody can."""
    signals = Signals()
    if threading.current_thread() is not threading.main_thread():
        yield signals
        return
    before = {number: signal.signal(number, signals) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Ending:
    """Why and how a sweep ends before its trials are used up. Asked by Tune, again and again, as a stopper.

    Args:
        spec: The sweep.
        resources: What a trial holds.
        sweep: The sweep as it stands.
        signals: Whether somebody said stop.
    """

    def __init__(self, spec: SweepSpec, resources: SettledResources, sweep: Sweep, signals: Signals) -> None:
        self.status: Status = "done"
        self.message = ""
        self.begun = False
        self._spec = spec
        self._resources = resources
        self._sweep = sweep
        self._signals = signals
        self._started = time.monotonic()
        self._deadline = 0.0
        self._asked: set[int] = set()

    def check(self) -> bool:
        """Look whether the sweep is to end; whether that is new."""
        if self.begun:
            return False
        why = self._why()
        if why is None:
            return False
        self.status, self.message = why
        self.begun = True
        self._deadline = time.monotonic() + GRACE_S
        return True

    def over(self) -> bool:
        """Whether the trials that still run are to be cut off now; asks them to stop before that."""
        if not self.begun:
            return False
        running = self._running()
        for number in set(running) - self._asked:
            request_stop(trial_folder(self._spec.folder, number))
            self._asked.add(number)
        return not running or time.monotonic() > self._deadline

    def notice(self) -> str:
        """What a person is told while the sweep ends."""
        running = len(self._running())
        if not running:
            return self.message
        trials = "1 trial" if running == 1 else f"{running} trials"
        return (
            f"{self.message} Waiting up to {GRACE_S:.0f} s for {trials} to write a checkpoint; "
            "Ctrl-C again ends at once."
        )

    def _running(self) -> list[int]:
        return [trial.number for trial in list(self._sweep.trials.values()) if trial.status == "running"]

    def _why(self) -> tuple[Status, str] | None:
        budget, sweep = self._spec.budget, self._sweep
        if self._signals.count:
            return "interrupted", "Interrupted."
        hours = (time.monotonic() - self._started) / 3600
        if budget.hours is not None and hours >= budget.hours:
            return "done", f"budget.hours: the {budget.hours:g} hours are used up."
        held = self._resources.gpu_per_trial
        used = sum(trial.duration_s() for trial in list(sweep.trials.values())) / 3600 * held
        if budget.gpu_hours is not None and held and used >= budget.gpu_hours:
            return "done", f"budget.gpu_hours: the {budget.gpu_hours:g} GPU-hours are used up."
        failed, ended = sweep.count("failed"), sweep.ended_trials
        if budget.max_failed is not None and failed >= max(1, budget.max_failed):
            return "failed", f"budget.max_failed: {failed} trials failed. {common_reason(sweep)}"
        if failed == ended >= max(CANARIES, self._resources.at_once):
            return "failed", f"All of the first {failed} trials failed. {common_reason(sweep)}"
        return None


def common_reason(sweep: Sweep) -> str:
    """Why the trial that failed last did so, as a sentence; empty where none failed."""
    failed = [trial for trial in sweep.trials.values() if trial.status == "failed"]
    if not failed:
        return ""
    last = max(failed, key=lambda trial: trial.ended or 0.0)
    return f"The last one, trial {last.number}: {last.reason}: {last.message}"
