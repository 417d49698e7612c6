"""Going on with a sweep whose driver is gone, or that ended, perhaps with a larger budget or wider ranges."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from sweeper.errors import SweepNotFoundError, UserError
from sweeper.records.forecast import cost_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.spec.sweep import SweepSpec
from sweeper.steering import entrance as remote
from sweeper.steering.changes import changed_sweep
from trainables import registry

__all__ = ["is_driven", "resume"]


def is_driven(name: str, sweeps: Path, address: str | None, *, take_over: bool = False) -> bool:
    """Whether somebody drives the sweep, here or on the cluster at ``address``.

    Args:
        name: The sweep's name, or the path of its folder.
        sweeps: The folder in which sweeps lie.
        address: Ray cluster on which to look for a driver, too.
        take_over: Whether a driver on another machine, of which nobody can know, is taken to be gone.

    Raises:
        SweepNotFoundError: If there is no such sweep.
        UserError: If no cluster answers at the address.
    """
    if take_over:
        sweep = read_sweep(find_sweep(name, sweeps))
        if sweep.is_alive() and sweep.driver.get("host") == socket.gethostname():
            raise UserError(f"The driver of {name} runs on this machine (process {sweep.driver.get('pid')}).")
        return False
    if address is None:
        return read_sweep(find_sweep(name, sweeps)).is_alive()
    try:
        there = remote.find_remote(name, address)
    except SweepNotFoundError as missing:
        try:
            folder = find_sweep(name, sweeps)
        except SweepNotFoundError:
            raise SweepNotFoundError(
                f"{missing} To go on with one that ended, resume it where its folder is."
            ) from None
        if read_sweep(folder).is_alive():
            raise UserError(f"{name} runs already, not on {address}. Ask it without --address.") from None
        return False
    finally:
        remote.leave()
    return not _is_another(there.sweep_id, name, sweeps, address)


def _is_another(sweep_id: str, name: str, sweeps: Path, address: str) -> bool:
    """Whether a sweep on a cluster only has the name of one that lies here, and nobody drives that one.

    Raises:
        UserError: If somebody drives that one, elsewhere.
    """
    try:
        ours = read_sweep(find_sweep(name, sweeps))
    except SweepNotFoundError:
        return False
    if ours.sweep_id == sweep_id:
        return False
    if ours.is_alive():
        raise UserError(f"{name} runs already, not on {address}. Ask it without --address.")
    return True


def resume(
    name: str, changes: Sequence[str], sweeps: Path, address: str | None, console: Console
) -> tuple[int, Path]:
    """Go on with a sweep that nobody drives, in this process; its exit code, and its folder.

    Args:
        name: The sweep's name, or the path of its folder.
        changes: As for `sweeper.steering.changes.changed_sweep`.
        sweeps: The folder in which sweeps lie.
        address: Ray cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        console: Where to show it.

    Raises:
        SweepNotFoundError: If there is no such sweep.
        SpecError: If the changes are wrong.
        UserError: If nothing is left of its budget.
    """
    folder = find_sweep(name, sweeps)
    earlier = read_sweep(folder)
    # The journal has the budget as it was last changed; spec.yaml is made from it.
    before = SweepSpec.from_dict(earlier.spec, folder)
    spec = changed_sweep(before, changes, registry.load(before.trainable))
    _refuse_used_up(earlier, spec)
    from sweeper.driver.launch import launch  # loads Optuna; `status` and `watch` need this module, too

    return launch(spec, address=address, console=console, earlier=earlier), folder


def _refuse_used_up(sweep: SweepState, spec: SweepSpec) -> None:
    if not sweep.is_closed:
        return  # nobody said how it ended, which the next driver makes up for
    budget, name = spec.budget, spec.name
    hours = sweep.running_s(sweep.heard) / 3600
    if sweep.ended_trials >= budget.trials:
        raise UserError(
            f"{name} is complete: {sweep.ended_trials} of {budget.trials} trials ended. "
            f"`sweeper resume {name} budget.trials=+20` runs 20 more."
        )
    if budget.hours is not None and hours >= budget.hours:
        raise UserError(
            f"{name} has used up its {budget.hours:g} hours. "
            f"`sweeper resume {name} budget.hours=+2` gives it 2 more."
        )
    gpu_hours = cost_of(sweep, sweep.heard).so_far
    if budget.gpu_hours is not None and gpu_hours >= budget.gpu_hours:
        raise UserError(
            f"{name} has used up its {budget.gpu_hours:g} GPU-hours. "
            f"`sweeper resume {name} budget.gpu_hours=+10` gives it 10 more."
        )
    failed = sweep.count(TrialStatus.FAILED)
    if budget.max_failed is not None and failed >= budget.max_failed:
        raise UserError(
            f"{name} has {failed} failed trials, and budget.max_failed is {budget.max_failed:g}. "
            f"`sweeper resume {name} budget.max_failed=+5` allows 5 more."
        )
