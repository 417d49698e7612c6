"""Answer requests to a running sweep: the driver's side of `sweeper.steering.mailbox`."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import MutableMapping

from sweeper.driver.ending import Ending, Phase
from sweeper.driver.opening import write_spec
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import UserError
from sweeper.layout import trial_folder
from sweeper.machines.node_types import node_types_of_trials
from sweeper.records.status import TrialStatus
from sweeper.steering.changes import budget_words, changed_budget, require_prices
from sweeper.steering.mailbox import Answer, Inbox, Request
from sweeper.trial.exchange import own_slot_of, request_stop
from sweeper.trial.placement import free_groups, waits_for

__all__ = ["RequestLoop"]

POLL_S = 0.5
"""How often the driver checks for requests, and for trials that wait for their resources."""


class RequestLoop:
    """Answers the requests of other processes. Call `poll` repeatedly while the sweep runs.

    Args:
        recorder: Records what was requested.
        ending: Pauses and ends the sweep.
        expected: How running trials that were asked to stop will end, by number; requests add to it.
        group: The name that the placement groups of the sweep share.
    """

    def __init__(
        self,
        recorder: Recorder,
        ending: Ending,
        expected: MutableMapping[int, Outcome],
        group: str,
    ) -> None:
        self._recorder = recorder
        self._sweep = recorder.sweep
        self._ending = ending
        self._expected = expected
        self._group = group
        self._inbox = Inbox(self._sweep.folder, lambda: self._sweep.driver)
        self._next_poll = 0.0

    def poll(self) -> None:
        """Answer the requests that have come in, and record what trials wait for."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + POLL_S
        for trial in self._sweep.running():
            self._recorder.wait_trial(trial.number, waits_for(trial_folder(self._sweep.folder, trial.number)))
        self._place_trials()
        for request in self._inbox.take():
            try:
                text = self._do(request)
            except UserError as error:
                self._inbox.answer(request, Answer(False, str(error)))
            else:
                self._inbox.answer(request, Answer(True, text))

    def _place_trials(self) -> None:
        """Record on which machines trials run, if machines have different prices."""
        known = (self._sweep.spec.get("cost") or {}).get("node_types")
        if not known:
            return
        new = [trial.number for trial in self._sweep.running() if not trial.node_types]
        slots = {number: slot for number in new if (slot := self._slot_of(number))}
        if slots:
            for number, node_types in node_types_of_trials(self._group, slots, known).items():
                self._recorder.place_trial(number, node_types)

    def close(self) -> None:
        """Refuse the requests that are left: the sweep has ended."""
        self._inbox.close(f"The sweep has just ended. {self._sweep.message}".rstrip())

    def _do(self, request: Request) -> str:
        if request.trial is not None:
            return self._do_to_trial(request, request.trial)
        if self._ending.phase == Phase.ENDING and request.action not in ("cancel", "budget"):
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
        if self._ending.phase == Phase.PAUSED:
            return f"It is {self._sweep.steered or 'paused'} already."
        running = self._numbers()
        self._ending.pause()
        self._recorder.steer("pause", "Pausing.")
        if not running:
            return "Pausing: no trial runs, and none starts."
        return f"Pausing: {_trials(running)} stop{_s(running)} after a checkpoint, and no other starts."

    def _resume(self, request: Request) -> str:
        phase = self._ending.phase
        if phase == Phase.RUNNING:
            raise UserError(
                "The sweep runs, so there is nothing to resume. `sweeper budget` changes its budget."
            )
        changed = self._budget(request) if request.changes else ""
        self._ending.resume()
        self._recorder.steer("resume", "Continuing.")
        said = (
            "New trials start again."
            if phase == Phase.DRAINING
            else "The sweep continues from where it paused."
        )
        return f"{changed} {said}".lstrip()

    def _stop(self) -> str:
        if self._ending.draining:
            return "It is stopping already."
        running = [] if self._ending.paused else self._numbers()
        self._ending.stop()
        self._recorder.steer("stop", "Stopping: no other trial starts.")
        if not running:
            return "Stopping: no trial runs, so the sweep ends now."
        whose = "its" if len(running) == 1 else "their"
        return f"Stopping: {_trials(running)} continue{_s(running)} to {whose} end, and no other starts."

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
        require_prices(now, self._sweep.spec.get("cost") is not None)
        words = budget_words(before, now)
        if not words:
            return "The budget did not change."
        text = f"Budget: {words}."
        self._recorder.steer("budget", text, budget=dataclasses.asdict(now))
        write_spec(self._sweep.folder, self._sweep.spec)
        return text

    def _do_to_trial(self, request: Request, number: int) -> str:
        running = self._numbers()
        if request.action not in ("stop", "cancel"):
            raise UserError(
                f"{request.action} is for a whole sweep; a single trial can be stopped or cancelled."
            )
        if number not in running:
            which = f"{_trials(running)} run{_s(running)}" if running else "no trial runs"
            status = self._sweep.trial(number).status.replace("_", " ")
            raise UserError(f"Trial {number} does not run: it is {status}. At the moment {which}.")
        if request.action == "stop":
            self._expected[number] = Outcome(TrialStatus.STOPPED_EARLY, "stopped", "stopped by request")
            request_stop(trial_folder(self._sweep.folder, number))
            text = f"Trial {number} stops after a checkpoint."
        else:
            self._expected[number] = Outcome(TrialStatus.STOPPED_EARLY, "cancelled", "cancelled by request")
            request_stop(trial_folder(self._sweep.folder, number))
            slot = self._slot_of(number)
            if slot:
                free_groups(self._group, slot)
            text = f"Trial {number} ends now."
        self._recorder.steer(request.action, text, trial=number)
        return text

    def _slot_of(self, number: int) -> str:
        """The slot that a running trial has to itself; empty if it has none."""
        others = (trial_folder(self._sweep.folder, one) for one in self._numbers() if one != number)
        return own_slot_of(trial_folder(self._sweep.folder, number), others)

    def _numbers(self) -> list[int]:
        return sorted(trial.number for trial in self._sweep.running())


def _trials(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"trial {numbers[0]}"
    return f"trials {', '.join(str(number) for number in numbers[:-1])} and {numbers[-1]}"


def _s(numbers: list[int]) -> str:
    return "s" if len(numbers) == 1 else ""
