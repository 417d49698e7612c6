"""Commands that check and run a sweep."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.commands.options import Address, Json, Overrides, SpaceFile, SweepsFolder, open_console
from sweeper.machines.plan import make_plan
from sweeper.records.earlier import earlier_for_plan
from sweeper.spec.schema import schema_text, space_schema
from sweeper.spec.space_file.load import DEFAULT, DEMO, load_spec, packaged_spaces
from sweeper.terminal.plan import print_plan
from trainables.registry import load

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.spec.sweep import SweepSpec

__all__ = ["check", "demo", "launch", "run_to_end", "schema"]


Name = Annotated[str | None, typer.Option(help="Name of the sweep, instead of the name in the file.")]


def check(
    space: SpaceFile,
    overrides: Overrides = None,
    name: Name = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
    send_test_alert: Annotated[
        bool, typer.Option("--send-test-alert", help="Send a test alert to all receivers (alerts).")
    ] = False,
) -> None:
    """Check a space file and show what would run. Starts nothing."""
    plan = make_plan(load_spec(space, _changes(overrides, name), sweeps))
    if send_test_alert:
        raise typer.Exit(_send_test_alert(plan.spec, as_json))
    taken = earlier_for_plan(plan.spec, load(plan.spec.trainable))
    if as_json:
        typer.echo(json.dumps({**plan.to_dict(), "earlier": taken.to_dict()}, indent=2))
        return
    print_plan(open_console(), plan, taken)


def _send_test_alert(spec: SweepSpec, as_json: bool) -> int:
    """Send a test alert; returns the exit code."""
    from sweeper.alerts.messages import trial_alert
    from sweeper.alerts.sender import deliver
    from sweeper.errors import UserError

    if spec.alerts is None:
        raise UserError("the space file has no section alerts. See docs/alerts.md.")
    sent = deliver(spec.alerts, trial_alert(spec.name))
    if as_json:
        typer.echo(json.dumps([vars(one) for one in sent], indent=2))
    console = open_console()
    for one in [] if as_json else sent:
        result = f"not delivered: {one.problem}" if one.problem else "delivered"
        style = "red" if one.problem else "green"
        console.print(f"{one.to}: {result}", style=style, markup=False, soft_wrap=True)
    return int(any(one.problem for one in sent))


def schema(
    trainable: Annotated[
        str, typer.Option(help="What is trained: a built-in trainable, or module:attribute.", metavar="NAME")
    ] = DEFAULT,
) -> None:
    """Print the JSON Schema of space files: editors complete and check a file with it while you type."""
    typer.echo(schema_text(space_schema(load(trainable))))


def launch(
    space: SpaceFile,
    overrides: Overrides = None,
    address: Address = None,
    name: Name = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Run a sweep. Ctrl-C stops it cleanly; the same command continues it."""
    if address is not None and address.startswith(("http://", "https://")):
        raise typer.Exit(_send(space, overrides or (), name, address, as_json))

    _launch(load_spec(space, _changes(overrides, name), sweeps), address, as_json)


def _changes(overrides: Sequence[str] | None, name: str | None) -> list[str]:
    """All changes to a space that a command line names."""
    return [*(overrides or ()), *([] if name is None else [f"name={name}"])]


def demo(
    overrides: Overrides = None,
    address: Address = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Run a small example sweep on built-in Push-T data. Takes minutes on a laptop, needs no GPU."""
    _launch(load_spec(packaged_spaces()[DEMO], overrides or (), sweeps), address, as_json)


def _send(space: str, overrides: Sequence[str], name: str | None, address: str, as_json: bool) -> int:
    """Submit a sweep to the job server at an address."""
    # `check` and `launch` on this machine are faster without these.
    from sweeper.commands.jobs import launch_job
    from sweeper.machines.jobs import package_space, reach_jobs

    parcel = package_space(space, overrides, name)
    with reach_jobs(address=address) as server:
        return launch_job(server, parcel, as_json)


def run_to_end(spec: SweepSpec, address: str | None, console: Console) -> int:
    """Run or continue a sweep, and confirm its best trials if the space asks for that.

    Returns:
        The exit code: 0 if the sweep is done, 1 if it failed, 130 if it was interrupted.

    Raises:
        UserError: If something that the user gave is wrong.
        SweeperError: If the sweep cannot be recorded, or no finalist can be evaluated.
    """
    from sweeper.driver.launch import launch as run  # loads Optuna and Ray, which `check` must not

    code = run(spec, address=address, console=console)
    if code == 0 and spec.confirm is not None:
        from sweeper.commands.trained.finalists import confirm_after

        code = confirm_after(spec.folder, console, address)
    return code


def _launch(spec: SweepSpec, address: str | None, as_json: bool) -> None:
    # With --json only the JSON goes to stdout; everything else goes to stderr.
    code = run_to_end(spec, address, open_console(stderr=as_json))
    if as_json:
        from sweeper.records.sweep_state import read_sweep  # `check` is faster without these
        from sweeper.terminal.as_json import to_json

        typer.echo(json.dumps(to_json(read_sweep(spec.folder)), indent=2))
    raise typer.Exit(code)
