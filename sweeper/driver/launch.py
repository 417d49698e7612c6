"""Launch a sweep: check everything, connect to Ray, run the trials, print the result.

Nothing is created until all checks have passed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.driver.closing import close
from sweeper.driver.opening import earlier_sweep, open_sweep
from sweeper.driver.preflight import (
    check_disk,
    check_memory,
    check_same_data,
    describe_data,
    ended_gb,
    preflight,
    remark,
    warn,
)
from sweeper.driver.signals import ended_by_signals, interrupted_by_sigterm, noticing_signals
from sweeper.errors import INTERRUPTED
from sweeper.layout import DRIVER_LOG
from sweeper.machines.cluster import Cluster, settle, this_machine
from sweeper.machines.connection import connect, disconnect, is_connected
from sweeper.machines.gpu_share import gpu_share
from sweeper.machines.identity import data_changes, information
from sweeper.machines.local_ray import abandon_start, check_temporary_folder, temporary_folder
from sweeper.machines.machine import find_machine, usable_cache
from sweeper.machines.plan import doubts, make_plan
from sweeper.records.earlier import read_taken, take_earlier
from sweeper.records.limits import nothing_left
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import SweepSpec
from sweeper.spec.taken import Taken
from sweeper.terminal.faults import checking
from sweeper.terminal.quiet import quiet_ray
from sweeper.terminal.result import SweepResult, print_result
from sweeper.tracking.tracker import tracking_uri
from sweeper.trial.process import loading
from trainables import registry
from trainables.interface import STEPS, Trainable

__all__ = ["launch", "run_sweep"]

WAITS_FOR_RAY = "Interrupted. Waiting for Ray, which is starting; Ctrl-C again ends at once."
REMINDER_S = 30.0
"""Seconds between reminders that Ray has not started yet."""


def launch(
    spec: SweepSpec,
    *,
    address: str | None = None,
    console: Console | None = None,
    earlier: SweepState | None = None,
) -> int:
    """Run a sweep, show it, and print its result.

    Args:
        spec: The sweep.
        address: Ray cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        console: Where to show it.
        earlier: The sweep that this one continues, perhaps with changes; None to look for an unchanged one.

    Returns:
        0 if the sweep is done, 1 if it failed, 130 if it was interrupted.

    Raises:
        UserError: If something that the user gave is wrong; nothing is left on the disk then.
        ConfigError: The same, raised by the trainable.
        SweeperError: If the sweep cannot be recorded.
    """
    console = console or Console(highlight=False)
    try:
        result = run_sweep(spec, address=address, console=console, earlier=earlier)
    except KeyboardInterrupt:
        console.print("Interrupted before a trial started.", style="bold magenta")
        return INTERRUPTED
    print_result(console, result)
    return result.exit_code


def run_sweep(
    spec: SweepSpec, *, address: str | None = None, console: Console, earlier: SweepState | None = None
) -> SweepResult:
    """Run a sweep and show it while it runs; arguments and errors as for `launch`."""
    with interrupted_by_sigterm():
        return _run_sweep(spec, address, console, earlier)


def _run_sweep(
    spec: SweepSpec, address: str | None, console: Console, earlier: SweepState | None
) -> SweepResult:
    trainable = registry.load(spec.trainable)
    earlier = earlier or earlier_sweep(spec)
    left = spec.budget.trials - (0 if earlier is None else earlier.ended_trials)
    if earlier is not None and nothing_left(spec.budget, earlier) is not None:
        return close(spec, trainable, earlier)
    cluster = settled = None
    wanted = spec.resources
    remote = address or os.environ.get("RAY_ADDRESS")
    if not remote or remote == "local":
        check_temporary_folder()
        wanted = gpu_share(spec, trainable, find_machine(spec.folder)).of(wanted)
        settled = settle(wanted, this_machine(spec.folder), left)
    tracking_uri(spec.folder, spec.tracking.uri)  # an address that cannot be used is refused first
    cache = usable_cache()
    with checking(console, spec.name) as progress:
        checked = preflight(spec, trainable, cache, progress)
        data = describe_data(spec, trainable, checked, cache)
    base = checked[0]
    if earlier is not None:
        check_same_data(earlier, data, spec, console)
    taken = _taken(spec, trainable, earlier, data)
    for source in taken.sources if earlier is None else ():
        console.print(Text(source.words), soft_wrap=True)
    if earlier is None:
        plan = make_plan(spec, trainable=trainable)
        warn(doubts(plan, trainable, elsewhere=settled is None), console)
    remark(spec, trainable, base, cache, console)
    kept_gb = ended_gb(trainable, base, spec.keep)
    check_disk(spec, trainable.disk_gb(base), kept_gb, left, console, settled=settled)
    if settled is not None:
        check_memory(trainable, base, settled, console)
    with contextlib.ExitStack() as stack:
        if remote:
            cluster = _connected(stack, address, console)
            settle(wanted, cluster, left)
        records = stack.enter_context(open_sweep(spec, trainable, earlier, taken))
        stack.enter_context(quiet_ray(spec.folder / DRIVER_LOG, console))
        waits = partial(console.print, WAITS_FOR_RAY, style="bold", soft_wrap=True)
        at_once = partial(abandon_start, INTERRUPTED)
        with ThreadPoolExecutor(1) as pool:
            # MLflow creates its database while Ray starts: both take seconds.
            opened = pool.submit(records.tracker.start)
            with _starting(console), noticing_signals(waits, at_once):
                cluster = cluster or _connected(stack, address, console)
            # As many at once as possible, even if fewer are left: the budget may be raised.
            resources = settle(wanted, cluster)
            opened.result()
        # Ray replaces the handler of SIGTERM when it starts; ours must come afterwards.
        signals = stack.enter_context(ended_by_signals())
        # Tune takes seconds to import, and reads its settings at import: not before Ray has started.
        with loading():
            from sweeper.driver.run import SweepRun

        run = SweepRun(spec, trainable, records, cluster, resources, signals, console)
        info = {
            **information(data, cluster),
            "resources": dataclasses.asdict(resources),
            "steps": steps_of_all(spec, trainable),
        }
        if taken.sources:
            info["earlier"] = "\n".join(source.words for source in taken.sources)
        return dataclasses.replace(run.to_the_end(info), address=address)


def _taken(
    spec: SweepSpec, trainable: Trainable, earlier: SweepState | None, data: Mapping[str, Any]
) -> Taken:
    """What the sweep takes from earlier ones: selected for a new sweep, and else as it was then.

    Raises:
        UserError: If it cannot be taken or read.
    """
    if earlier is not None:
        return read_taken(spec)

    def data_changed(other: SweepState) -> bool | None:
        described = other.info.get("data")
        changes = data_changes(described, data) if isinstance(described, Mapping) else []
        return any(not change.same for change in changes) if changes else None

    return take_earlier(spec, trainable, data_changed)


def steps_of_all(spec: SweepSpec, trainable: Trainable) -> int | None:
    """Optimiser steps of each trial; None if they differ, or if the trainable has no such field."""
    if STEPS not in trainable.fields or STEPS in spec.space.names:
        return None
    return int(spec.config.get(STEPS, trainable.fields[STEPS].default))


@contextlib.contextmanager
def _starting(console: Console) -> Iterator[None]:
    """Show that Ray starts, and every half minute that it still does."""
    console.print("Starting Ray …", style="dim")
    started, done = time.monotonic(), threading.Event()

    def remind() -> None:
        while not done.wait(REMINDER_S):
            console.print(
                f"Ray is still starting after {time.monotonic() - started:.0f} s; a busy machine needs a few "
                f"minutes. Its logs are in {temporary_folder()}/session_latest/logs.",
                style="dim",
                soft_wrap=True,
            )

    threading.Thread(target=remind, name="reminder", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _connected(stack: contextlib.ExitStack, address: str | None, console: Console) -> Cluster:
    ours = not is_connected()
    cluster = connect(address, report=partial(console.print, style="yellow", soft_wrap=True, markup=False))
    if ours:
        stack.callback(disconnect)
    return cluster
