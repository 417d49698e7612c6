"""Requests to a running sweep, as its driver answers them; without Ray."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import LR, SCHEDULE, sweep

from sweeper.driver import requests
from sweeper.driver.ending import Ending, Phase
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.requests import RequestLoop
from sweeper.driver.signals import Signals
from sweeper.errors import UserError
from sweeper.layout import JOURNAL, trial_folder
from sweeper.records.journal import Journal
from sweeper.search.study import Study
from sweeper.steering import mailbox
from sweeper.steering.operations import request
from sweeper.trial.exchange import STOP


class Driver:
    """A driver with one trial that runs, as far as requests see one."""

    def __init__(self, folder: Path) -> None:
        spec = sweep(folder, LR, SCHEDULE)
        self.folder = folder
        self.study, self.journal = Study(spec), Journal(folder / JOURNAL)
        self.recorder = Recorder(self.study, self.journal, None, spec)
        self.recorder.start_sweep({})
        suggestion = self.study.ask()
        assert suggestion is not None
        self.recorder.start_trial(suggestion.number, suggestion.config)
        trial_folder(folder, suggestion.number).mkdir(parents=True)
        self.ending = Ending(1, self.recorder.sweep, Signals())
        self.expected: dict[int, Outcome] = {}
        self.requests = RequestLoop(self.recorder, self.ending, self.expected, "group")

    def ask(self, action: Any, **arguments: Any) -> str:
        """What a process that sends a request is answered."""
        answers: list[dict[str, Any] | Exception] = []

        def send() -> None:
            try:
                answers.append(request(self.folder, action, **arguments))
            except Exception as error:  # raised again below, in the thread of the test
                answers.append(error)

        sender = threading.Thread(target=send)
        sender.start()
        while sender.is_alive():
            self.requests.poll()
            time.sleep(0.01)
        (answer,) = answers
        if isinstance(answer, Exception):
            raise answer
        return str(answer["text"])


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    monkeypatch.setattr(requests, "POLL_S", 0.0)
    monkeypatch.setattr(mailbox, "LOOK_S", 0.01)
    made = Driver(tmp_path)
    yield made
    made.study.close()
    made.journal.close()


@pytest.mark.slow
def test_a_sweep_that_was_stopped_and_then_paused_can_be_stopped_again(driver: Driver) -> None:
    assert driver.ask("stop") == "Stopping: trial 0 continues to its end, and no other starts."
    assert driver.ask("stop") == "It is stopping already."
    assert driver.ask("pause").startswith("Pausing: trial 0 stops after a checkpoint")
    driver.recorder.end_trial(0, Outcome("interrupted"))
    assert driver.ask("stop") == "Stopping: no trial runs, so the sweep ends now."
    assert driver.ending.phase == Phase.LEAVING
    assert driver.recorder.sweep.steered == "stopping"


@pytest.mark.slow
def test_new_trials_start_again_after_a_stop(driver: Driver) -> None:
    with pytest.raises(UserError, match="nothing to resume"):
        driver.ask("resume")
    driver.ask("stop")
    assert driver.ask("resume", changes=["trials=+1"]) == "Budget: trials 8 → 9. New trials start again."
    assert driver.ending.phase == Phase.RUNNING


@pytest.mark.slow
def test_a_trial_that_is_asked_to_stop_is_expected_to_end_like_that(driver: Driver) -> None:
    assert driver.ask("stop", trial=0) == "Trial 0 stops after a checkpoint."
    assert driver.expected == {0: Outcome("stopped_early", "stopped", "stopped by request")}
    assert (trial_folder(driver.folder, 0) / STOP).exists()
    with pytest.raises(UserError, match="there is no trial 1"):
        driver.ask("stop", trial=1)


@pytest.mark.slow
def test_a_sweep_that_ends_refuses_everything_but_a_quicker_end(driver: Driver) -> None:
    driver.ending.give_up("The disk is full.")
    assert driver.ending.check()
    for action in ("pause", "resume", "stop"):
        with pytest.raises(UserError, match="The sweep is ending: The disk is full"):
            driver.ask(action)
    driver.ask("cancel")
    assert driver.ending.check()
    assert driver.ending.is_over()
