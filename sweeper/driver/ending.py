"""How a sweep ends or pauses before its trials are used up: signals, requests, the limits of its budget."""

from __future__ import annotations

import time

from sweeper.driver.signals import Signals
from sweeper.layout import trial_folder
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import BudgetSpec, SettledResources
from sweeper.trial.exchange import request_stop

__all__ = ["GRACE_S", "PAUSE_GRACE_S", "Ending", "common_reason", "used_up"]

GRACE_S = 30.0
"""How long trials that were asked to stop may take to write a checkpoint."""
PAUSE_GRACE_S = 900.0
"""The same where nobody is in a hurry: a trial may be at its rollouts, and its checkpoint comes after."""
CANARIES = 3
"""When this many trials ended (or all that run at once, if more) and all failed alike, the sweep gives up."""
CANARIES_APART = 3
"""Trials that all failed, but in several ways, must be this many times more."""


class Ending:
    """Why and how a sweep ends, or pauses, before its trials are used up. Asked by Tune, again and again.

    Args:
        resources: What a trial holds.
        sweep: The sweep as it stands; its budget may change.
        signals: Whether somebody said stop.

    Attributes:
        status: How it ends.
        message: Why, in a sentence.
        begun: Whether running trials are to stop.
        paused: Whether they are to stop because the sweep pauses, and is to continue.
        stopping: Whether no new trial is to begin, while those that run continue.
    """

    def __init__(self, resources: SettledResources, sweep: SweepState, signals: Signals) -> None:
        self.status: SweepStatus = SweepStatus.DONE
        self.message = ""
        self.begun = False
        self.paused = False
        self.stopping = False
        self._resources = resources
        self._sweep = sweep
        self._signals = signals
        self._given_up = ""
        self._cancelled = False
        self._go_on = False
        self._deadline = 0.0
        self._asked: set[int] = set()
        # A user who continues a sweep of which everything failed knows that.
        self._before = sweep.ended_trials

    # What somebody may ask for

    def pause(self) -> None:
        """Have running trials stop after a checkpoint, and let no other begin."""
        self._begin(SweepStatus.INTERRUPTED, "Paused.", PAUSE_GRACE_S)
        self.paused, self._go_on = True, False

    def resume(self) -> None:
        """Go on after a pause as soon as all trials have stopped; or let new trials begin again."""
        self._go_on, self.stopping = True, False

    def stop(self) -> None:
        """Let running trials continue to their end, and no other begin; a sweep that is paused ends."""
        self.stopping = True
        self._go_on = self.paused

    def cancel(self) -> None:
        """Cut off what runs."""
        self._cancelled = True

    def give_up(self, why: str) -> None:
        """End the sweep, since it cannot continue. Running trials write a checkpoint first."""
        self._given_up = self._given_up or why

    # What the sweep asks

    @property
    def waiting(self) -> bool:
        """Whether the sweep is paused and was not asked to continue."""
        return self.paused and not self._go_on

    def go_on(self) -> bool:
        """Begin again after a pause; whether the sweep continues, or has come to its end meanwhile."""
        if not self.paused:
            return False
        self.begun = self.paused = self._go_on = False
        self._asked.clear()
        return not self.stopping

    def check(self) -> bool:
        """Look whether the sweep is to end; whether that is new."""
        if self.begun and not self.paused and not (self._cancelled and self._grace_left()):
            return False
        why = self._why()
        if why is None:
            return False
        self.paused = False
        self._begin(*why, 0.0 if self._cancelled else GRACE_S)
        return True

    def over(self) -> bool:
        """Whether the trials that still run are to be cut off now; asks them to stop before that."""
        if not self.begun:
            return False
        running = self._running()
        for number in set(running) - self._asked:
            request_stop(trial_folder(self._sweep.folder, number))
            self._asked.add(number)
        return not running or not self._grace_left()

    def notice(self) -> str:
        """What a person is told while the sweep ends."""
        running = len(self._running())
        if not running or not self._grace_left():
            return self.message
        trials = "1 trial" if running == 1 else f"{running} trials"
        return (
            f"{self.message} Waiting up to {GRACE_S:.0f} s for {trials} to write a checkpoint; "
            "Ctrl-C again ends at once."
        )

    def _begin(self, status: SweepStatus, message: str, grace_s: float) -> None:
        self.status, self.message = status, message
        self.begun = True
        self._deadline = time.monotonic() + grace_s

    def _grace_left(self) -> bool:
        return time.monotonic() < self._deadline

    def _running(self) -> list[int]:
        return [
            trial.number for trial in list(self._sweep.trials.values()) if trial.status == TrialStatus.RUNNING
        ]

    def _why(self) -> tuple[SweepStatus, str] | None:
        sweep = self._sweep
        if self._given_up:
            return SweepStatus.FAILED, self._given_up
        if self._signals.count:
            return SweepStatus.INTERRUPTED, "Interrupted."
        if self._cancelled:
            return SweepStatus.INTERRUPTED, "Cancelled."
        why = used_up(sweep.budget, sweep, self._resources.gpu_per_trial)
        if why is not None:
            return why
        failed, ended = sweep.count(TrialStatus.FAILED), sweep.ended_trials
        if failed == ended and failed:
            reasons = {trial.reason for trial in sweep.trials.values() if trial.status == TrialStatus.FAILED}
            # Trials that fail in several ways may be unlucky for longer than those that all fail alike.
            enough = max(CANARIES, self._resources.at_once) * (1 if len(reasons) == 1 else CANARIES_APART)
            if ended - self._before >= enough:
                how = f"the same way ({reasons.pop()})" if len(reasons) == 1 else "in several ways"
                return (
                    SweepStatus.FAILED,
                    f"All of the first {failed} trials failed {how}. {common_reason(sweep)}",
                )
        return None


def used_up(
    budget: BudgetSpec, sweep: SweepState, gpus: float, now: float | None = None
) -> tuple[SweepStatus, str] | None:
    """Say what of a budget, trials left aside, a sweep has used up: how it ends, and why; None if nothing.

    Args:
        budget: The budget.
        sweep: What came of the sweep so far.
        gpus: GPUs that each of its trials holds.
        now: The time, in seconds since 1970; for a sweep that nobody drives, when it was last heard of.
    """
    if budget.hours is not None and sweep.running_s(now) >= budget.hours * 3600:
        return SweepStatus.DONE, f"budget.hours: the {budget.hours:g} hours are used up."
    if budget.gpu_hours is not None and gpus and sweep.trials_s(now) / 3600 * gpus >= budget.gpu_hours:
        return SweepStatus.DONE, f"budget.gpu_hours: the {budget.gpu_hours:g} GPU-hours are used up."
    failed = sweep.count(TrialStatus.FAILED)
    if budget.max_failed is not None and failed >= max(1, budget.max_failed):
        return SweepStatus.FAILED, f"budget.max_failed: {failed} trials failed. {common_reason(sweep)}"
    return None


def common_reason(sweep: SweepState) -> str:
    """Why the trial that failed last did so, as a sentence; empty if none failed."""
    failed = [trial for trial in sweep.trials.values() if trial.status == TrialStatus.FAILED]
    if not failed:
        return ""
    last = max(failed, key=lambda trial: trial.ended or 0.0)
    return f"The last one, trial {last.number}: {last.reason}: {last.message}"
