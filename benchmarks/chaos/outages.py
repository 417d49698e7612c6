"""The kinds of outage: MLflow away, databases locked, disks full."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.chaos.arena import Arena, SweepFolder, eventually
from benchmarks.chaos.checks import Tally, examine
from benchmarks.chaos.kinds import Order, begin, finish, synchronise, wait_for_step
from sweeper.machines.ssh import unused_port

__all__ = ["OUTAGES", "Server"]


class Server:
    """An MLflow server on this machine, with SQLite.

    Args:
        arena: Who starts it.
        name: Of its database.
    """

    def __init__(self, arena: Arena, name: str) -> None:
        self._arena = arena
        self._folder = arena.folder / name
        self._port = unused_port()
        self._process: subprocess.Popen[bytes] | None = None
        self.uri = f"http://127.0.0.1:{self._port}"

    def start(self) -> Server:
        """Start it, and wait until it answers."""
        self._folder.mkdir(exist_ok=True)
        self._process, log, _ = self._arena.start(
            "mlflow",
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}", "--workers", "1"),
            *("--artifacts-destination", str(self._folder / "artifacts")),
        )
        if not eventually(self._answers, 180, 0.2):
            raise RuntimeError(f"MLflow does not start: {log.read_text()[-2000:]}")
        return self

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.uri}/health", timeout=2) as answer:
            return bool(answer.status == 200)
        return False

    def kill(self) -> None:
        """Cut it off without a word, with the processes that serve for it."""
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def server_killed(order: Order) -> Tally:
    """Kill the MLflow server while trials report, and start it again some seconds later."""
    tally = Tally("MLflow server killed")
    server = Server(order.arena, "server").start()
    away: list[float] = []
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=120, uri=server.uri)
        driver = begin(order, tally, sweep)
        wait_for_step(sweep, driver, driver.started)
        while driver.alive and order.more(tally):
            time.sleep(order.random.uniform(0.0, 2.0))
            when = time.time()
            server.kill()
            tally.strikes += 1
            time.sleep(order.random.uniform(0.0, 5.0))
            server.start()
            away.append(round(time.time() - when, 1))
            _note_pauses(sweep, tally, when)
        finish(order, tally, sweep, driver)
        synchronise(order, tally, sweep)
        examine(sweep, tally)
    server.kill()
    tally.figures["seconds away"] = away
    return tally


def _note_pauses(sweep: SweepFolder, tally: Tally, since: float) -> None:
    """The longest time without a report of a trial that ran: training waits for nobody."""
    running = sweep.running()
    for number in running:
        times = [since, *sweep.reports_since(since, number)]
        if len(times) > 1:
            tally.seconds.append(max(b - a for a, b in itertools.pairwise(times)))


def server_absent(order: Order) -> Tally:
    """Run whole sweeps without the server that they name, then start it, and sync."""
    tally = Tally("MLflow down from the start, then sync")
    while order.more(tally):
        server = Server(order.arena, f"late-{tally.strikes}")
        sweep = order.arena.sweep(trials=3, steps=40, uri=server.uri)
        finish(order, tally, sweep, begin(order, tally, sweep))
        tally.strikes += 1
        server.start()
        since = time.monotonic()
        synchronise(order, tally, sweep)
        tally.seconds.append(time.monotonic() - since)
        synchronise(order, tally, sweep)  # nothing twice
        examine(sweep, tally)
        server.kill()
    tally.figures["seconds are"] = "that `sweeper sync` took"
    return tally


@contextlib.contextmanager
def locked(database: Path) -> Iterator[bool]:
    """Hold a database as somebody who writes into it does; gives whether that was possible."""
    other = sqlite3.connect(database, isolation_level=None, timeout=20)
    try:
        try:
            other.execute("begin exclusive")
        except sqlite3.OperationalError:
            yield False
            return
        yield True
        other.execute("rollback")
    finally:
        other.close()


def _locks(order: Order, tally: Tally, file: str) -> Tally:
    held: list[float] = []
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=80)
        driver = begin(order, tally, sweep)
        wait_for_step(sweep, driver, driver.started)
        while driver.alive and order.more(tally):
            time.sleep(order.random.uniform(0.0, 2.0))
            seconds, since = order.random.uniform(1.0, 15.0), time.time()
            with locked(sweep.path / file) as got:
                if not got:
                    continue
                driver.ends_within(seconds)
            tally.strikes += 1
            held.append(round(seconds, 1))
            _note_pauses(sweep, tally, since)
        finish(order, tally, sweep, driver)
        synchronise(order, tally, sweep)
        examine(sweep, tally)
    tally.figures["seconds held"] = held
    tally.figures["seconds are"] = "the longest time without a report"
    return tally


def mlflow_locked(order: Order) -> Tally:
    """Lock ``mlflow.db`` from another process."""
    return _locks(order, Tally("mlflow.db locked"), "mlflow.db")


def study_locked(order: Order) -> Tally:
    """Lock ``study.db`` from another process."""
    return _locks(order, Tally("study.db locked"), "study.db")


@contextlib.contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A disk of a few megabytes.

    Raises:
        PermissionError: Where this user may not mount one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True)
    if mounted.returncode:
        raise PermissionError(f"a disk of a chosen size cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> Path:
    """Leave no room on a disk; the file that takes it."""
    file = disk / "full"
    with file.open("ab", buffering=0) as filler:
        for size in (65536, 4096, 512, 1):
            with contextlib.suppress(OSError):
                while filler.write(bytes(size)):
                    pass
    return file


def disk_full(order: Order) -> Tally:
    """Fill the disk of the sweep while it runs, make room some time later, and resume."""
    tally = Tally("disk full")
    codes: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(order.arena.folder / "disk", 24))
        except PermissionError as error:
            tally.figures["left out"] = str(error)
            return tally
        while order.more(tally):
            sweep = order.arena.sweep(trials=4, steps=60, sweeps=disk)
            driver = begin(order, tally, sweep)
            while order.more(tally):
                wait_for_step(sweep, driver, driver.started)
                driver.ends_within(order.random.uniform(0.0, 3.0))
                if not driver.alive:
                    if sweep.ended():
                        break
                    driver = begin(order, tally, sweep)
                    continue
                file, when = fill(disk), time.monotonic()
                tally.strikes += 1
                if not driver.ends_within(180):
                    tally.found("stuck", f"{driver.log.name} does not end on a full disk")
                    driver.kill()
                tally.seconds.append(time.monotonic() - when)
                codes[str(driver.process.returncode)] = codes.get(str(driver.process.returncode), 0) + 1
                file.unlink()
                driver = begin(order, tally, sweep)
            finish(order, tally, sweep, driver)
            synchronise(order, tally, sweep)
            examine(sweep, tally)
    tally.figures["exit codes"] = codes
    tally.figures["seconds are"] = "until the sweep had ended in order"
    return tally


OWN_SHM = (
    *("unshare", "--mount", "sh", "-c"),
    'mount -t tmpfs -o size=256m tmpfs /dev/shm && exec "$@"',
    "sh",
)
"""Gives a process, and all that it starts, shared memory of its own."""


def shm_full(order: Order) -> Tally:
    """Fill the shared memory of a sweep and its Ray for some seconds while trials report."""
    tally = Tally("/dev/shm full")
    probe = subprocess.run([*OWN_SHM, "true"], capture_output=True, text=True)
    if probe.returncode:
        tally.figures["left out"] = f"shared memory of its own cannot be had here: {probe.stderr.strip()}"
        return tally
    order.arena.within = OWN_SHM
    held: list[float] = []
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=80)
        driver = begin(order, tally, sweep)
        while order.more(tally):
            wait_for_step(sweep, driver, time.time())
            driver.ends_within(order.random.uniform(0.0, 2.0))
            if not driver.alive:
                if sweep.ended():
                    break
                driver = begin(order, tally, sweep)
                continue
            seconds, since = order.random.uniform(1.0, 15.0), time.time()
            file = fill(Path("/proc", str(driver.process.pid), "root", "dev", "shm"))
            driver.ends_within(seconds)
            with contextlib.suppress(OSError):  # the driver has ended, and with it its shared memory
                file.unlink()
            tally.strikes += 1
            held.append(round(seconds, 1))
            _note_pauses(sweep, tally, since)
        finish(order, tally, sweep, driver)
        examine(sweep, tally)
    tally.figures["seconds held"] = held
    tally.figures["seconds are"] = "the longest time without a report"
    return tally


OUTAGES: Mapping[str, Callable[[Order], Tally]] = {
    "mlflow-killed": server_killed,
    "mlflow-absent": server_absent,
    "mlflow-locked": mlflow_locked,
    "study-locked": study_locked,
    "disk-full": disk_full,
    "shm-full": shm_full,
}
"""What can be asked for on the command line."""
