"""Resume a sweep whose driver is gone, or that ended, perhaps with a larger budget or wider ranges."""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from sweeper.errors import SweepNotFoundError, UserError
from sweeper.records.limits import nothing_left
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.spec.sweep import SweepSpec
from sweeper.steering import entrance as remote
from sweeper.steering.changes import changed_sweep
from trainables import registry

__all__ = ["resume", "without_driver"]

_LARGER: Mapping[str, tuple[str, str]] = {
    "trials": ("budget.trials=+20", "runs 20 more"),
    "hours": ("budget.hours=+2", "gives it 2 more"),
    "gpu_hours": ("budget.gpu_hours=+10", "gives it 10 more"),
    "cost": ("budget.cost=+10", "allows 10 more"),
    "max_failed": ("budget.max_failed=+5", "allows 5 more"),
    "stagnation": ("budget.stagnation=null", "continues without this limit"),
}
"""The change that lets a sweep continue that has reached a limit, and what the change does."""


def without_driver(
    name: str, sweeps: Path, address: str | None, *, take_over: bool = False
) -> SweepState | None:
    """Find a sweep that is to be resumed in this process.

    Args:
        name: The sweep's name, or the path of its folder.
        sweeps: The folder that contains the sweeps.
        address: Ray cluster on which to look for a driver, too.
        take_over: Take a driver on another machine to be gone; this cannot be found out.

    Returns:
        The sweep; None if a driver runs it, here or on the cluster at ``address``.

    Raises:
        SweepNotFoundError: If there is no such sweep.
        UserError: If no cluster answers at the address, or the driver runs elsewhere.
    """
    if take_over:
        sweep = read_sweep(find_sweep(name, sweeps))
        if sweep.is_alive() and sweep.driver.get("host") == socket.gethostname():
            raise UserError(f"The driver of {name} runs on this machine (process {sweep.driver.get('pid')}).")
        return sweep
    if address is None:
        sweep = read_sweep(find_sweep(name, sweeps))
        return None if sweep.is_alive() else sweep
    there: remote.RemoteSweep | None = None
    missing = ""
    try:
        there = remote.find_remote(name, address)
    except SweepNotFoundError as error:
        missing = str(error)
    finally:
        remote.leave()
    try:
        sweep = read_sweep(find_sweep(name, sweeps))
    except SweepNotFoundError:
        if there is not None:
            return None
        raise SweepNotFoundError(
            f"{missing} To resume a sweep that ended, run the command where its folder is."
        ) from None
    if there is not None and there.sweep_id == sweep.sweep_id:
        return None
    # What runs there, if anything, is another sweep of the same name.
    if sweep.is_alive():
        raise UserError(f"{name} runs already, not on {address}. Run the command without --address.")
    return sweep


def resume(sweep: SweepState, changes: Sequence[str], address: str | None, console: Console) -> int:
    """Resume a sweep in this process; return its exit code.

    Args:
        sweep: The sweep; no driver runs it.
        changes: As for `sweeper.steering.changes.changed_sweep`.
        address: Ray cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        console: Where the sweep is shown.

    Raises:
        SpecError: If the changes are wrong.
        UserError: If nothing is left of its budget.
    """
    # The journal has the budget as it was last changed; spec.yaml is made from it.
    before = dataclasses.replace(SweepSpec.from_dict(sweep.spec, sweep.folder), name=sweep.name)
    spec = changed_sweep(before, changes, registry.load(before.trainable))
    _refuse_used_up(sweep, spec)
    from sweeper.driver.launch import launch  # loads Optuna; `status` and `watch` need this module, too

    return launch(spec, address=address, console=console, earlier=sweep)


def _refuse_used_up(sweep: SweepState, spec: SweepSpec) -> None:
    """Refuse a sweep that ended and has nothing left of its budget.

    Raises:
        UserError: Names the limit, and how to raise it.
    """
    if not sweep.is_closed:
        return  # no driver recorded how it ended; the next one does
    limit = nothing_left(spec.budget, sweep)
    if limit is None:
        return
    change, effect = _LARGER[limit.name]
    raise UserError(
        f"{spec.name} has nothing left of its budget. {limit.message} "
        f"`sweeper resume {spec.name} {change}` {effect}."
    )
