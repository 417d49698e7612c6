"""How a sweep ends or pauses before its trials are used up: signals, requests, the limits of its budget."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum

from sweeper.driver.signals import Signals
from sweeper.layout import trial_folder
from sweeper.records.limits import Limit, last_failure, limit_reached
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import BudgetSpec
from sweeper.text import counted
from sweeper.trial.exchange import request_stop

__all__ = ["GRACE_S", "PAUSE_GRACE_S", "Ending", "Phase"]

GRACE_S = 30.0
"""How long trials that were asked to stop may take to write a checkpoint."""
PAUSE_GRACE_S = 900.0
"""The same for a pause, which is not urgent: a trial's rollouts may have to end before its checkpoint."""
CANARIES = 3
"""When this many trials ended (or all that run at once, if more) and all failed alike, the sweep gives up."""
CANARIES_APART = 3
"""Trials that all failed, but in several ways, must be this many times more."""
COST_S = 1.0
"""How often the cost of a sweep is compared with its budget while no trial ends: all trials are counted."""


class Phase(StrEnum):
    """What the driver lets trials do."""

    RUNNING = "running"
    """Trials run, and new ones start."""
    DRAINING = "draining"
    """Trials run to their end, and none starts."""
    PAUSED = "paused"
    """Running trials stop after a checkpoint, and wait for `RESUMING` or `LEAVING`."""
    RESUMING = "resuming"
    """Paused, and to run again as soon as all trials have stopped."""
    LEAVING = "leaving"
    """Paused, and to end as soon as all trials have stopped."""
    ENDING = "ending"
    """Running trials stop after a checkpoint, and the sweep ends."""


class Step(StrEnum):
    """What leads from one phase to another."""

    PAUSE = "pause"
    RESUME = "resume"
    STOP = "stop"
    STOPPED = "stopped"
    """All trials have stopped."""
    END = "end"
    """The sweep cannot or must not continue."""


_NEXT: Mapping[Phase, Mapping[Step, Phase]] = {
    Phase.RUNNING: {
        Step.PAUSE: Phase.PAUSED,
        Step.STOP: Phase.DRAINING,
        Step.END: Phase.ENDING,
    },
    Phase.DRAINING: {
        Step.PAUSE: Phase.PAUSED,
        Step.RESUME: Phase.RUNNING,
        Step.END: Phase.ENDING,
    },
    Phase.PAUSED: {
        Step.RESUME: Phase.RESUMING,
        Step.STOP: Phase.LEAVING,
        Step.END: Phase.ENDING,
    },
    Phase.RESUMING: {
        Step.PAUSE: Phase.PAUSED,
        Step.STOP: Phase.LEAVING,
        Step.STOPPED: Phase.RUNNING,
        Step.END: Phase.ENDING,
    },
    Phase.LEAVING: {
        Step.PAUSE: Phase.PAUSED,
        Step.RESUME: Phase.RESUMING,
        Step.STOPPED: Phase.DRAINING,
        Step.END: Phase.ENDING,
    },
    Phase.ENDING: {},
}
"""The next phase. A step that is missing changes nothing; an end, for example, cannot be undone."""

_STOPS_TRIALS = (Phase.PAUSED, Phase.RESUMING, Phase.LEAVING, Phase.ENDING)


class Ending:
    """Why and how a sweep ends, or pauses, before its trials are used up.

    Tune's loop asks it in every turn.

    Args:
        at_once: How many trials run at the same time.
        sweep: The sweep as its driver follows it; its budget may change.
        signals: Counts Ctrl-C and SIGTERM.

    Attributes:
        phase: What trials may do.
        status: How the sweep ends, once the phase is `Phase.ENDING`.
        message: The reason for it, as a sentence.
    """

    def __init__(self, at_once: int, sweep: SweepState, signals: Signals) -> None:
        self.phase = Phase.RUNNING
        self.status: SweepStatus = SweepStatus.DONE
        self.message = ""
        self._at_once = at_once
        self._sweep = sweep
        self._signals = signals
        self._given_up = ""
        self._cancelled = False
        self._deadline = 0.0
        self._asked: set[int] = set()
        self._checked: tuple[BudgetSpec, int] | None = None
        self._next_check = 0.0
        # A user who resumes a sweep of which everything failed knows that.
        self._before = sweep.ended_trials

    def pause(self) -> None:
        """Stop running trials after a checkpoint, and start no other."""
        self._step(Step.PAUSE)
        if self.phase == Phase.PAUSED:
            self._deadline = time.monotonic() + PAUSE_GRACE_S

    def resume(self) -> None:
        """Continue after a pause as soon as all trials have stopped; or start new trials again."""
        self._step(Step.RESUME)

    def stop(self) -> None:
        """Let running trials continue to their end, and start no other; a paused sweep ends."""
        self._step(Step.STOP)

    def cancel(self) -> None:
        """End the sweep now, without waiting for checkpoints."""
        self._cancelled = True

    def give_up(self, why: str) -> None:
        """End the sweep because it cannot continue. Running trials write a checkpoint first."""
        self._given_up = self._given_up or why

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C or SIGTERM arrived."""
        return self._signals.count > 0

    @property
    def stopping(self) -> bool:
        """Whether running trials are to stop, for a pause or for good."""
        return self.phase in _STOPS_TRIALS

    @property
    def draining(self) -> bool:
        """Whether no new trial is to start because the user stopped the sweep."""
        return self.phase in (Phase.DRAINING, Phase.LEAVING)

    @property
    def paused(self) -> bool:
        """Whether trials stop, or have stopped, and nothing says yet that the sweep ends for good."""
        return self.stopping and self.phase != Phase.ENDING

    def try_continue(self) -> bool:
        """Take the step after a pause, when all trials have stopped; whether the sweep continues."""
        if not self.paused:
            return False
        self._step(Step.STOPPED)
        self._asked.clear()
        return self.phase == Phase.RUNNING

    def check(self) -> bool:
        """Check whether the sweep has to end; return whether that is new."""
        if self.phase == Phase.ENDING and not (self._cancelled and self._grace_left()):
            return False
        why = self._why()
        if why is None:
            return False
        self.status, self.message = why
        self._deadline = time.monotonic() + (0.0 if self._cancelled else GRACE_S)
        self._step(Step.END)
        return True

    def is_over(self) -> bool:
        """Whether the trials that still run are to be cut off now; asks them to stop before that."""
        if not self.stopping:
            return False
        running = self._running()
        for number in set(running) - self._asked:
            request_stop(trial_folder(self._sweep.folder, number))
            self._asked.add(number)
        return not running or not self._grace_left()

    def notice(self) -> str:
        """What the display shows while the sweep ends."""
        running = len(self._running())
        if not running or not self._grace_left():
            return self.message
        return (
            f"{self.message} Waiting up to {GRACE_S:.0f} s for {counted(running, 'trial')} to write a "
            "checkpoint; Ctrl-C again ends at once."
        )

    def _step(self, step: Step) -> None:
        self.phase = _NEXT[self.phase].get(step, self.phase)

    def _grace_left(self) -> bool:
        return time.monotonic() < self._deadline

    def _running(self) -> list[int]:
        return [trial.number for trial in self._sweep.running()]

    def _why(self) -> tuple[SweepStatus, str] | None:
        if self._given_up:
            return SweepStatus.FAILED, self._given_up
        if self._signals.count:
            return SweepStatus.INTERRUPTED, "Interrupted."
        if self._cancelled:
            return SweepStatus.INTERRUPTED, "Cancelled."
        limit = self._limit()
        if limit is not None:
            return limit.status, limit.message
        return self._all_failed()

    def _limit(self) -> Limit | None:
        budget, now = self._sweep.budget, time.monotonic()
        situation = (budget, self._sweep.ended_trials)
        if budget.cost is not None and situation == self._checked and now < self._next_check:
            return None
        self._checked, self._next_check = situation, now + COST_S
        return limit_reached(budget, self._sweep)

    def _all_failed(self) -> tuple[SweepStatus, str] | None:
        sweep = self._sweep
        failed, ended = sweep.count(TrialStatus.FAILED), sweep.ended_trials
        if not failed or failed < ended:
            return None
        reasons = {trial.reason for trial in sweep.trials.values() if trial.status == TrialStatus.FAILED}
        # Trials that fail in several ways may be unlucky for longer than those that all fail alike.
        enough = max(CANARIES, self._at_once) * (1 if len(reasons) == 1 else CANARIES_APART)
        if ended - self._before < enough:
            return None
        how = f"the same way ({reasons.pop()})" if len(reasons) == 1 else "in several ways"
        return SweepStatus.FAILED, f"All of the first {failed} trials failed {how}. {last_failure(sweep)}"
