"""Answers requests to a running sweep: the driver's side of `sweeper.steering.mailbox`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from sweeper.driver.ending import Ending
from sweeper.driver.opening import write_spec
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import UserError
from sweeper.layout import trial_folder
from sweeper.records.status import TrialStatus
from sweeper.steering.changes import budget_words, changed_budget
from sweeper.steering.mailbox import Answer, Inbox, Request
from sweeper.trial.exchange import request_stop
from sweeper.trial.placement import waits_for

__all__ = ["RequestLoop"]

LOOK_S = 0.5
"""How often the driver looks for requests, and for trials that wait for their resources."""


class RequestLoop:
    """Takes requests and does what they say; to be asked again and again while a sweep runs.

    Args:
        recorder: Notes what was asked.
        ending: Told when the sweep is to pause or to end.
        free: Takes the workers of a trial away at once.
        expect: Told beforehand how a running trial will end.
        say: Shows a person what happens.
    """

    def __init__(
        self,
        recorder: Recorder,
        ending: Ending,
        *,
        free: Callable[[int], object],
        expect: Callable[[int, Outcome], None],
        say: Callable[[str], None],
    ) -> None:
        self._recorder = recorder
        self._sweep = recorder.sweep
        self._ending = ending
        self._free = free
        self._expect = expect
        self._say = say
        self._inbox = Inbox(self._sweep.folder, lambda: self._sweep.driver)
        self._next_look = 0.0

    def look(self) -> None:
        """Take up what has come in since the last time, and note what trials wait for."""
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + LOOK_S
        for trial in [trial for trial in self._sweep.trials.values() if trial.status == TrialStatus.RUNNING]:
            self._recorder.wait_trial(trial.number, waits_for(trial_folder(self._sweep.folder, trial.number)))
        for request in self._inbox.take():
            try:
                text = self._do(request)
            except UserError as error:
                self._inbox.answer(request, Answer(False, str(error)))
            else:
                self._inbox.answer(request, Answer(True, text))

    def close(self) -> None:
        """Refuse what is still asked: the sweep has ended."""
        self._inbox.close(f"The sweep has just ended. {self._sweep.message}".rstrip())

    def _do(self, request: Request) -> str:
        if request.trial is not None:
            return self._do_to_trial(request, request.trial)
        if self._ending.begun and not self._ending.paused and request.action not in ("cancel", "budget"):
            raise UserError(f"The sweep is ending: {self._ending.message}")
        match request.action:
            case "pause":
                return self._pause()
            case "resume":
                return self._resume(request)
            case "stop":
                return self._stop()
            case "cancel":
                return self._cancel()
            case "budget":
                return self._budget(request)

    def _pause(self) -> str:
        if self._ending.waiting:
            return f"It is {self._sweep.steered or 'paused'} already."
        running = self._numbers()
        self._ending.pause()
        self._recorder.steer("pause", "Pausing.")
        if not running:
            return "Pausing: no trial runs, and none will begin."
        return f"Pausing: {_trials(running)} stop{_s(running)} after a checkpoint, and no other will begin."

    def _resume(self, request: Request) -> str:
        if not self._ending.paused and not self._ending.stopping:
            raise UserError(
                "The sweep runs, so there is nothing to resume. `sweeper budget` changes its budget."
            )
        changed = self._budget(request) if request.changes else ""
        stopping = self._ending.stopping
        self._ending.resume()
        self._recorder.steer("resume", "Going on.")
        said = "New trials begin again." if stopping else "It goes on where it paused."
        return f"{changed} {said}".lstrip()

    def _stop(self) -> str:
        if self._ending.stopping:
            return "It is stopping already."
        running = [] if self._ending.paused else self._numbers()
        self._ending.stop()
        self._recorder.steer("stop", "Stopping: no other trial will begin.")
        if not running:
            return "Stopping: no trial runs, so the sweep ends now."
        return f"Stopping: {_trials(running)} go{_es(running)} on to the end, and no other will begin."

    def _cancel(self) -> str:
        running = self._numbers()
        self._ending.cancel()
        self._recorder.steer("cancel", "Cancelling.")
        if not running:
            return "Cancelled: no trial was running."
        return f"Cancelling: {_trials(running)} end{_s(running)} now, with the last checkpoint."

    def _budget(self, request: Request) -> str:
        before = self._sweep.budget
        now = changed_budget(before, request.changes)
        words = budget_words(before, now)
        if not words:
            return "The budget is what it was."
        text = f"Budget: {words}."
        self._recorder.steer("budget", text, budget=dataclasses.asdict(now))
        write_spec(self._sweep.folder, self._sweep.spec)
        return text

    def _do_to_trial(self, request: Request, number: int) -> str:
        running = self._numbers()
        if request.action not in ("stop", "cancel"):
            raise UserError(
                f"A single trial cannot be told to {request.action}; it can be stopped or cancelled."
            )
        if number not in running:
            which = f"{_trials(running)} run{_s(running)}" if running else "none runs at the moment"
            status = self._sweep.trial(number).status.replace("_", " ")
            raise UserError(f"Trial {number} does not run: it is {status}. Of this sweep {which}.")
        if request.action == "stop":
            self._expect(number, Outcome(TrialStatus.STOPPED_EARLY, "stopped", "stopped by request"))
            request_stop(trial_folder(self._sweep.folder, number))
            text = f"Trial {number} stops after a checkpoint."
        else:
            self._expect(number, Outcome(TrialStatus.STOPPED_EARLY, "cancelled", "cancelled by request"))
            request_stop(trial_folder(self._sweep.folder, number))
            self._free(number)
            text = f"Trial {number} ends now."
        self._recorder.steer(request.action, text, trial=number)
        return text

    def _numbers(self) -> list[int]:
        return sorted(
            trial.number for trial in self._sweep.trials.values() if trial.status == TrialStatus.RUNNING
        )


def _trials(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"trial {numbers[0]}"
    return f"trials {', '.join(str(number) for number in numbers[:-1])} and {numbers[-1]}"


def _s(numbers: list[int]) -> str:
    return "s" if len(numbers) == 1 else ""


def _es(numbers: list[int]) -> str:
    return "es" if len(numbers) == 1 else ""
