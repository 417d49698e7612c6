"""A worker that hangs is ended; one that shows life is not."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from pathlib import Path

import pytest

from sweeper.trial.watchdog import EXIT_CODE, Watchdog


def make(patience_s: float | None) -> tuple[Watchdog, threading.Event, list[str]]:
    ended, said = threading.Event(), list[str]()

    def end(code: int) -> None:
        assert code == EXIT_CODE
        ended.set()

    return Watchdog(patience_s, said.append, end), ended, said


class Clock:
    """The watchdog's time, which passes only when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr("sweeper.trial.watchdog.time", self)

    def monotonic(self) -> float:
        return self.now

    def pass_s(self, seconds: float) -> None:
        self.now += seconds


def test_silence_ends_the_process_and_says_what_to_do() -> None:
    watchdog, ended, said = make(0.05)
    with watchdog.watching():
        assert ended.wait(60)
    assert "no step, no report and no word of progress for 0.05 s" in said[0]
    assert "raise failures.hang_minutes" in said[0]


def test_a_full_disk_under_the_log_keeps_nobody_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog, ended, said = make(0.05)
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with watchdog.watching():
            assert ended.wait(60)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert said


@pytest.mark.slow
def test_signs_of_life_keep_it_going(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    watchdog, ended, said = make(100.0)
    monkeypatch.setattr("sweeper.trial.watchdog.LONGEST_LOOK_S", 0.01)
    with watchdog.watching():
        for _ in range(10):  # ten times as long as its patience
            clock.pass_s(99.0)
            watchdog.alive()
        assert not said
        clock.pass_s(99.0)
        assert not ended.wait(0.2)
        clock.pass_s(2.0)
        assert ended.wait(60)
    assert said


@pytest.mark.slow
def test_while_somebody_else_limits_the_wait_silence_is_no_fault() -> None:
    watchdog, ended, _ = make(0.05)
    with contextlib.ExitStack() as pause:
        pause.enter_context(watchdog.paused())  # first: a busy machine may take longer than that to get here
        with watchdog.watching():
            assert not ended.wait(0.5)
            pause.close()
            assert ended.wait(60)


@pytest.mark.slow
def test_after_the_training_nobody_watches() -> None:
    watchdog, ended, _ = make(0.05)
    # Paused before it begins and until it has ended: a busy machine may take longer than its patience.
    with watchdog.paused(), watchdog.watching():
        pass
    assert not ended.wait(0.3)


def test_without_a_limit_it_waits_for_ever() -> None:
    watchdog, ended, _ = make(None)
    with watchdog.watching():
        time.sleep(0.1)
    assert not ended.is_set()
