"""Disks that fill up, a Ray that dies and Ctrl-C, with the real command in a session of its own."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator

import psutil
import pytest

from benchmarks.chaos.arena import PATIENCE_S, Arena, Driver, SweepFolder, eventually
from benchmarks.chaos.outages import fill, small_disk
from benchmarks.chaos.trainable import release
from sweeper.driver.signals import noticing_signals

SEVERAL_REPORTS = 6


@pytest.fixture
def arena() -> Iterator[Arena]:
    made = Arena()
    yield made
    made.close()


def kinds(sweep: SweepFolder) -> list[str]:
    return [event["event"] for event in sweep.events()]


def in_the_middle(arena: Arena, sweep: SweepFolder) -> Driver:
    """A driver whose trials have reported."""
    driver = arena.drive(sweep)
    assert eventually(lambda: kinds(sweep).count("report") >= SEVERAL_REPORTS or not driver.alive)
    assert driver.alive, driver.printed()
    return driver


def ended_in_order(driver: Driver, sweep: SweepFolder, message: str) -> None:
    """Check that a sweep failed for a reason that is not a trial's fault, with one sentence for the user."""
    assert driver.ends_within(PATIENCE_S), driver.printed()
    printed = driver.printed()
    assert "Traceback" not in printed
    assert "bug in sweeper" not in printed
    assert driver.process.returncode == 1
    assert re.search(message, " ".join(printed.split())), printed
    assert "sweeper resume" in printed
    assert "trial_retry" not in kinds(sweep)
    ends = [event for event in sweep.events() if event["event"] == "trial_end"]
    assert {event["status"] for event in ends} == {"interrupted"}
    assert sweep.events()[-1]["event"] == "sweep_end"
    assert driver.cleaned(PATIENCE_S) is not None, driver.left()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("full", [("sweeps",), ("sweeps", "r")])
def test_a_sweep_whose_disk_fills_up_ends_in_order_and_continues(arena: Arena, full: tuple[str, ...]) -> None:
    with contextlib.ExitStack() as stack:
        try:
            disks = [stack.enter_context(small_disk(arena.folder / name, 40)) for name in full]
        except PermissionError as error:
            pytest.skip(str(error))
        sweep = arena.sweep(trials=2, steps=2000, config={"train.save_every": 2})
        driver = in_the_middle(arena, sweep)
        taken = [fill(disk) for disk in disks]
        # Of a folder, or with the file that a trial could not write, whichever is noticed first.
        # The last write may fit in part.
        why = r"(No space left on device|only \d+ of \d+ bytes could be written)"
        words = rf"There is no room .*{why}.*\. Free some space, then resume the sweep\."
        ended_in_order(driver, sweep, words)
        reasons = [event["reason"] for event in sweep.events() if event["event"] == "trial_end"]
        # A checkpoint may fit into what the journal's reserve took.
        assert set(reasons) <= {"out_of_disk", "interrupted"}
        for file in taken:
            file.unlink()
        before = len(sweep.events())
        driver = arena.drive(sweep)
        assert eventually(lambda: "report" in kinds(sweep)[before:] or not driver.alive), driver.printed()
        os.killpg(driver.process.pid, signal.SIGINT)
        assert driver.ends_within(PATIENCE_S)
        assert (driver.process.returncode, "Traceback" in driver.printed()) == (130, False)


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_sweep_whose_ray_is_killed_ends_in_order_and_continues(arena: Arena, name: str) -> None:
    sweep = arena.sweep(trials=2, steps=40, config={"train.save_every": 2, "hold_step": 10})
    driver = in_the_middle(arena, sweep)
    (server,) = [process for process in driver.left() if process.name() == name]
    server.kill()
    ended_in_order(driver, sweep, f"Ray's process {name} was killed or crashed")
    release(sweep.path)
    again = arena.drive(sweep)
    assert again.ends_within(PATIENCE_S), again.printed()
    assert again.process.returncode == 0
    assert sweep.ended()


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_while_ray_starts_ends_at_once_and_leaves_nothing(arena: Arena) -> None:
    for _ in range(5):
        sweep = arena.sweep(trials=2)
        driver = arena.drive(sweep)
        assert eventually(lambda driver=driver: starts_ray(driver) or not driver.alive)
        os.killpg(driver.process.pid, signal.SIGINT)
        assert driver.ends_within(PATIENCE_S), driver.printed()
        if not kinds(sweep):
            break
        # This process was stopped for so long that the sweep had begun before the signal.
    assert driver.process.returncode == 130
    assert driver.printed().splitlines()[-1] == "Interrupted before a trial started."
    assert "Traceback" not in driver.printed()
    assert not sweep.path.exists()
    assert driver.cleaned(PATIENCE_S) is not None, driver.left()


def starts_ray(driver: Driver) -> bool:
    """Whether the first process of a driver's Ray is there."""
    names = []
    for process in driver.left():
        with contextlib.suppress(psutil.Error):
            names.append(process.name())
    return "gcs_server" in names


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_catches_is_not_lost(number: int) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def start() -> None:
        with noticing_signals(), contextlib.suppress(BaseException):
            os.kill(os.getpid(), number)

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_signals_are_heard_although_the_main_thread_does_not_return(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.driver.signals.WAIT_S", 0.01)
    before = signal.getsignal(signal.SIGTERM)
    waits, second = threading.Event(), threading.Event()

    def start() -> list[bool]:
        heard = []
        with contextlib.suppress(KeyboardInterrupt), noticing_signals(waits.set, second.set):
            for event in (waits, second):
                with contextlib.suppress(BaseException):
                    os.kill(os.getpid(), signal.SIGINT)
                heard += [second.is_set(), event.wait(200)]
        return heard

    try:
        assert start() == [False, True, False, True]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_signal_a_start_is_not_interrupted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with noticing_signals():
        pass
    signal.signal(signal.SIGTERM, before)
