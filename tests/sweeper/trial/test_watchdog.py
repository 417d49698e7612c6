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


def test_silence_ends_the_process_and_says_what_to_do() -> None:
    watchdog, ended, said = make(0.05)
    with watchdog.watching():
        assert ended.wait(30)
    assert "no step, no report and no word of progress for 0.05 s" in said[0]
    assert "raise failures.hang_minutes" in said[0]


def test_a_full_disk_under_the_log_keeps_nobody_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    watchdog, ended, said = make(0.05)
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stderr", full)
        with watchdog.watching():
            assert ended.wait(30)
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            full.close()
    assert said


def test_signs_of_life_keep_it_going() -> None:
    watchdog, ended, said = make(30.0)
    with watchdog.watching():
        watchdog.alive()
        assert not ended.wait(0.2)
    assert not said


def test_while_somebody_else_limits_the_wait_silence_is_no_fault() -> None:
    watchdog, ended, _ = make(0.05)
    with contextlib.ExitStack() as pause:
        pause.enter_context(watchdog.paused())  # first: a busy machine may take longer than that to get here
        with watchdog.watching():
            assert not ended.wait(0.5)
            pause.close()
            assert ended.wait(30)


def test_after_the_training_nobody_watches() -> None:
    watchdog, ended, _ = make(0.05)
    with watchdog.watching(), watchdog.paused():
        pass
    assert not ended.wait(0.3)


def test_without_a_limit_it_waits_for_ever() -> None:
    watchdog, ended, _ = make(None)
    with watchdog.watching():
        time.sleep(0.1)
    assert not ended.is_set()
