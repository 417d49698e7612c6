"""The kinds of disturbance: processes that are killed, machines that are lost, signals."""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

from benchmarks.chaos.arena import (
    PATIENCE_S,
    Arena,
    Driver,
    RayCluster,
    SweepFolder,
    eventually,
    interrupt,
)
from benchmarks.chaos.checks import Tally, examine
from benchmarks.chaos.trainable import CHILD, LOSS

__all__ = [
    "KINDS",
    "Order",
    "begin",
    "drivers",
    "finish",
    "mixed",
    "synchronise",
    "trial_drivers",
    "wait_for_step",
    "workers",
]

NOTICE_S = 10
"""How long before its end a machine is said to be taken back: clouds give from half a minute to two."""
LEFT_S = 200.0
"""How long after the end of a driver a process of its may still be there."""


@dataclass
class Order:
    """What is to be done.

    Attributes:
        count: Strikes wanted.
        until: When to stop at the latest (`time.monotonic`).
        random: Where and when is drawn from here.
        say: Told how far it is.
    """

    count: int
    until: float
    random: random.Random
    say: Callable[[str], None]
    arena: Arena = field(default_factory=Arena)

    def more(self, tally: Tally) -> bool:
        """Whether to strike again; once at least, however slow the machine is."""
        return tally.strikes < self.count and (not tally.strikes or time.monotonic() < self.until)


def begin(order: Order, tally: Tally, sweep: SweepFolder, address: str | None = None) -> Driver:
    """Start or go on with a sweep."""
    driver = order.arena.drive(sweep, address)
    order.say(f"{tally.kind}: {tally.strikes} of {order.count}; {sweep.path.name}")
    return driver


def finish(
    order: Order,
    tally: Tally,
    sweep: SweepFolder,
    driver: Driver,
    address: str | None = None,
) -> Driver:
    """Let a sweep come to its end, going on with it where its driver is gone, and look for what is left."""
    for _ in range(5):
        if not driver.ends_within(600, 0.1):
            tally.found("stuck", f"{sweep.path.name}: the driver does not end: {driver.printed()[-300:]}")
            driver.kill()
        look_at(driver, tally)
        if sweep.ended() and driver.process.returncode == 0:
            return driver
        if sweep.closed():
            synchronise(order, tally, sweep)  # it was killed while it sent MLflow the rest
            return driver
        said = f"{driver.process.returncode}: {driver.printed()[-600:]}"
        driver = begin(order, tally, sweep, address)
    tally.found("stuck", f"{sweep.path.name} does not end; the last driver ended with {said}")
    driver.kill()
    return driver


def synchronise(order: Order, tally: Tally, sweep: SweepFolder) -> None:
    """Have `sweeper sync` send what is missing, as a user would."""
    answer = order.arena.command("sync", sweep.path.name, "--sweeps", str(sweep.path.parent), "--json")
    if answer.returncode:
        tally.found("stuck", f"sweeper sync: {answer.stdout}{answer.stderr}")


def look_at(driver: Driver, tally: Tally) -> None:
    """Look for tracebacks and processes that a driver left behind."""
    printed = driver.printed()
    if "Traceback (most recent call last)" in printed:
        tally.found("tracebacks", f"{driver.log.name}: {printed[printed.index('Traceback') :][-1500:]}")
    if driver.cleaned(LEFT_S) is None:
        left = [name_of(process) for process in driver.left()]
        tally.found("processes", f"{driver.log.name} left {left}", len(left))


def name_of(process: psutil.Process) -> str:
    """What a process is called."""
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())[:120] or process.name()
    return "gone"


def wait_for_step(sweep: SweepFolder, driver: Driver, since: float, seconds: float = 300.0) -> bool:
    """Wait until a worker reports after a moment; whether one did while the driver ran."""
    eventually(
        lambda: not driver.alive or any(sweep.reports_since(since, number) for number in sweep.running()),
        seconds,
        0.05,
    )
    return driver.alive


# Workers and the drivers of trials


def workers(order: Order) -> Tally:
    """SIGKILL the process that trains."""
    return _struck(order, Tally("worker killed"), SweepFolder.worker)


def trial_drivers(order: Order) -> Tally:
    """SIGKILL the process of Ray's in which a trial waits for its workers."""
    return _struck(order, Tally("trial driver killed"), SweepFolder.trial_driver)


def _struck(order: Order, tally: Tally, find: Callable[[SweepFolder, int], psutil.Process | None]) -> Tally:
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=60)
        driver = begin(order, tally, sweep)
        wait_for_step(sweep, driver, driver.started)
        struck: list[tuple[float, int]] = []
        while driver.alive and order.more(tally):
            time.sleep(order.random.uniform(0.0, 2.5))
            running = sweep.running()
            if not running:
                continue
            number = order.random.choice(running)
            process = find(sweep, number)
            if process is None:
                continue
            when = time.time()
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
                struck.append((when, number))
                tally.strikes += 1
            if order.random.random() < 0.7:  # else strike again while it starts
                eventually(lambda: not driver.alive or sweep.went_on(when, number), 120)  # noqa: B023
        finish(order, tally, sweep, driver)
        _measure(sweep, tally, struck)
        examine(sweep, tally)
    return tally


def _measure(sweep: SweepFolder, tally: Tally, struck: list[tuple[float, int]]) -> None:
    """Seconds until work went on; a strike before the trial had begun again belongs to the one before."""
    for position, (when, number) in enumerate(struck):
        again = sweep.went_on(when, number)
        overtaken = any(
            other == number and again is not None and when < later < again
            for later, other in struck[position + 1 :]
        )
        if again is not None and not overtaken:
            tally.seconds.append(again - when)


# The driver of the sweep


def drivers(order: Order, tally: Tally | None = None, address: str | None = None) -> Tally:
    """SIGKILL the driver of the sweep at random moments, and resume, again and again."""
    tally = tally or Tally("sweep's driver killed")
    phases: dict[str, int] = {}
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=60)
        struck: list[tuple[float, list[int]]] = []
        driver = begin(order, tally, sweep, address)
        while order.more(tally):
            phase = order.random.choice(("start", "start", "work", "work", "work", "end"))
            _wait_for_phase(order, sweep, driver, phase)
            if not driver.alive:
                if sweep.ended():
                    break
                look_at(driver, tally)
                driver = begin(order, tally, sweep, address)
                continue
            running = sweep.running()
            when = time.time()
            driver.kill()
            tally.strikes += 1
            phases[phase] = phases.get(phase, 0) + 1
            struck.append((when, running))
            # Half of the time the next one comes while remains of this one are still there.
            if order.random.random() < 0.5:
                seconds = driver.cleaned(LEFT_S)
                if seconds is None:
                    left = [name_of(process) for process in driver.left()]
                    tally.found("processes", f"after SIGKILL of {driver.log.name}: {left}", len(left))
                else:
                    tally.figures.setdefault("seconds until nothing was left", []).append(round(seconds, 2))
            driver = begin(order, tally, sweep, address)
        finish(order, tally, sweep, driver, address)
        for position, (when, running) in enumerate(struck):
            later = struck[position + 1][0] if position + 1 < len(struck) else float("inf")
            again = [moment for number in running if (moment := sweep.went_on(when, number)) is not None]
            if again and min(again) < later:
                tally.seconds.append(min(again) - when)
        examine(sweep, tally)
    tally.figures["struck"] = phases
    return tally


def _wait_for_phase(order: Order, sweep: SweepFolder, driver: Driver, phase: str) -> None:
    """Wait for a random moment while the driver starts, trains, or closes its books."""
    if phase == "start":
        driver.ends_within(order.random.uniform(0.0, 15.0))
        return
    if phase == "work":
        wait_for_step(sweep, driver, driver.started)
        driver.ends_within(order.random.uniform(0.0, 4.0), 0.01)
        return
    eventually(lambda: not driver.alive or sweep.ended(), 300, 0.01)
    driver.ends_within(order.random.uniform(0.0, 1.0), 0.01)


# Ctrl-C and SIGTERM


def signals(order: Order) -> Tally:
    """Send SIGINT or SIGTERM, sometimes twice, at random moments, and resume."""
    tally = Tally("Ctrl-C, SIGTERM")
    codes: dict[str, int] = {}
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=60)
        driver = begin(order, tally, sweep)
        while order.more(tally):
            _wait_for_phase(order, sweep, driver, order.random.choice(("start", "work", "work", "end")))
            if not driver.alive:
                if sweep.ended():
                    break
                driver = begin(order, tally, sweep)
                continue
            when, number = time.monotonic(), order.random.choice((signal.SIGINT, signal.SIGTERM))
            interrupt(driver, number)
            if order.random.random() < 0.25:
                time.sleep(order.random.uniform(0.0, 3.0))
                interrupt(driver, number)
            tally.strikes += 1
            if not driver.ends_within(120):
                tally.found("stuck", f"{driver.log.name} does not end after {number.name}")
                driver.kill()
            codes[str(driver.process.returncode)] = codes.get(str(driver.process.returncode), 0) + 1
            if driver.cleaned(LEFT_S) is not None:
                tally.seconds.append(time.monotonic() - when)
            look_at(driver, tally)
            driver = begin(order, tally, sweep)
        finish(order, tally, sweep, driver)
        examine(sweep, tally)
    tally.figures["exit codes"] = codes
    tally.figures["seconds are"] = "until the driver had ended and nothing of it was left"
    return tally


# Machines, and what a cluster is left with


def preempted(order: Order) -> Tally:
    """Tell Ray that a machine is about to be taken back, as a cloud does, kill it, and bring another."""
    tally = _lost_machines(order, Tally("machine taken back"), notice=True)
    others = sum(count for reason, count in tally.figures["reasons"].items() if reason != "preempted")
    tally.found("wrong", f"not all were known to be taken back: {tally.figures['reasons']}", others)
    return tally


def nodes(order: Order) -> Tally:
    """Kill a machine of a cluster with everything on it, and bring another."""
    return _lost_machines(order, Tally("machine lost"), notice=False)


def _lost_machines(order: Order, tally: Tally, notice: bool) -> Tally:
    reasons: list[str] = []
    cluster = RayCluster(order.arena, cpus=1)
    machine = cluster.add_machine()
    while order.more(tally):
        sweep = order.arena.sweep(trials=4, steps=80)
        driver = begin(order, tally, sweep, cluster.address)
        wait_for_step(sweep, driver, driver.started)
        struck: list[tuple[float, int]] = []
        while driver.alive and order.more(tally):
            time.sleep(order.random.uniform(0.0, 4.0))
            ours = _trial_on(sweep, machine)
            if ours is None:
                continue
            if notice:
                cluster.give_notice(machine, NOTICE_S)
                time.sleep(order.random.uniform(0.0, NOTICE_S / 2))
            when = time.time()
            cluster.lose_machine(machine)
            tally.strikes += 1
            struck.append((when, ours))
            machine = cluster.add_machine()
            eventually(lambda: not driver.alive or sweep.went_on(when, ours), 180)  # noqa: B023
        finish(order, tally, sweep, driver, cluster.address)
        _measure(sweep, tally, struck)
        examine(sweep, tally)
        reasons += [event["reason"] for event in sweep.events() if event["event"] == "trial_retry"]
    tally.figures["reasons"] = {reason: reasons.count(reason) for reason in dict.fromkeys(reasons)}
    _look_at_cluster(cluster, tally)
    return tally


def _trial_on(sweep: SweepFolder, machine: tuple[object, object, str]) -> int | None:
    """A trial whose worker runs on a machine: in the session that the machine began."""
    import os

    for number in sweep.running():
        worker = sweep.worker(number)
        with contextlib.suppress(OSError, psutil.Error):
            if worker is not None and os.getsid(worker.pid) == machine[0].pid:  # type: ignore[attr-defined]
                return number
    return None


def leaks(order: Order) -> Tally:
    """Early stops, failures, processes that trials leave behind, and signals, on one cluster."""
    tally = Tally("early stops, failures, leaks")
    cluster = RayCluster(order.arena, cpus=order.arena.cpus)
    ended: dict[str, int] = {}
    while order.more(tally):
        kinds = [None, "raise", "child"]
        sections = {
            "parameters": {"seed": {"values": list(range(12))}, "fault": {"values": kinds}},
            "constraints": [
                "fault != 'raise' or seed % 3 == 1",
                "fault != 'child' or seed % 3 == 2",
                "fault in ['raise', 'child'] or seed % 3 == 0",
            ],
            "early_stop": {
                "method": "asha",
                "metric": LOSS,
                "goal": "minimize",
                "min_steps": 8,
                "reduction": 2,
            },
        }
        sweep = order.arena.sweep(trials=12, steps=32, sections=sections)
        ends: Mapping[int, tuple[str, ...]] = {
            seed: ("failed", "stopped_early") if seed % 3 == 1 else ("completed", "stopped_early")
            for seed in sweep.seeds
        }
        driver = begin(order, tally, sweep, cluster.address)
        if order.random.random() < 0.5:
            wait_for_step(sweep, driver, driver.started)
            time.sleep(order.random.uniform(0.0, 6.0))
            interrupt(driver)
            tally.figures["interrupted"] = tally.figures.get("interrupted", 0) + 1
            driver.ends_within(PATIENCE_S)
            _look_at_cluster(cluster, tally)
        finish(order, tally, sweep, driver, cluster.address)
        for event in sweep.events():
            if event["event"] == "trial_end":
                ended[event["status"]] = ended.get(event["status"], 0) + 1
        tally.strikes = sum(ended.values())
        _look_at_cluster(cluster, tally)
        examine(sweep, tally, ends)
    tally.figures["trials ended"] = ended
    tally.figures["seconds are"] = "until all CPUs were free and no process of a trial was left"
    return tally


def _look_at_cluster(cluster: RayCluster, tally: Tally) -> None:
    """Wait until a cluster is as free as it was, and count what never is."""
    since = time.monotonic()
    free = total = 0.0
    words = ("RayTrainWorker", "ImplicitFunc", CHILD)
    while time.monotonic() - since < LEFT_S:
        left, (free, total) = cluster.left(*words), cluster.cpus()
        if not left and free == total:
            tally.seconds.append(time.monotonic() - since)
            return
    tally.found("cpus", f"{free:g} of {total:g} CPUs are free", round(total - free))
    left = cluster.left(*words)
    tally.found("processes", f"left on the cluster: {left}", len(left))


# Everything at once


def mixed(order: Order, *, trials: int = 4, steps: int = 60, address: str | None = None) -> Tally:
    """Kill workers, drivers of trials and the sweep's driver in turn."""
    tally = Tally("workers and drivers, mixed")
    kinds: list[str] = []
    while order.more(tally):
        sweep = order.arena.sweep(trials=trials, steps=steps)
        driver = begin(order, tally, sweep, address)
        while order.more(tally) and wait_for_step(sweep, driver, time.time()):
            time.sleep(order.random.uniform(0.0, 0.8))
            running = sweep.running()
            # Each kind in its turn: few strikes are to have some of each.
            kind = ("worker", "driver", "trial driver")[tally.strikes % 3]
            if kind == "driver":
                driver.kill()
                driver = begin(order, tally, sweep, address)
            else:
                number = order.random.choice(running) if running else 0
                process = sweep.worker(number) if kind == "worker" else sweep.trial_driver(number)
                if process is None:
                    continue
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            kinds.append(kind)
            tally.strikes += 1
        finish(order, tally, sweep, driver, address)
        examine(sweep, tally)
    tally.figures["struck"] = {kind: kinds.count(kind) for kind in dict.fromkeys(kinds)}
    return tally


KINDS: Mapping[str, Callable[[Order], Tally]] = {
    "worker": workers,
    "trial-driver": trial_drivers,
    "machine": nodes,
    "preempted": preempted,
    "driver": drivers,
    "signals": signals,
    "leaks": leaks,
    "mixed": mixed,
}
"""What can be asked for on the command line."""
