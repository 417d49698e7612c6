"""Commands that show what sweeps found."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import signal
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import Json, Sweep, SweepsFolder, open_console
from sweeper.records.sweep_state import find_sweep, read_sweep
from sweeper.records.sweep_state import list_sweeps as read_sweeps
from sweeper.terminal.as_json import to_json
from sweeper.terminal.tables import print_ranking, sweeps_table
from sweeper.tracking.server import serve
from sweeper.tracking.sync import sync_sweep

__all__ = ["list_sweeps", "results", "sync", "ui"]


def results(
    sweep: Sweep,
    top: Annotated[int | None, typer.Option(min=1, help="Show the best N trials only.", metavar="N")] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Show the ranking of a sweep's trials, also while it runs."""
    found = read_sweep(find_sweep(sweep, sweeps))
    found.bury()
    if as_json:
        typer.echo(json.dumps(to_json(found), indent=2))
    else:
        print_ranking(open_console(), found, top)


def list_sweeps(sweeps: SweepsFolder = Path("sweeps"), as_json: Json = False) -> None:
    """List the sweeps, the last started first."""
    found, damaged = read_sweeps(sweeps)
    for one in found:
        one.bury()
    if as_json:
        broken = [{"sweep": name, "status": "damaged", "message": why} for name, why in damaged.items()]
        typer.echo(json.dumps([*map(to_json, found), *broken], indent=2))
        return
    console = open_console()
    if found:
        console.print(sweeps_table(found))
    elif not damaged:
        console.print(f"No sweeps in {sweeps}. `sweeper demo` makes one.")
    for name, why in damaged.items():
        console.print(f"! {name} is damaged: {why}", style="yellow", markup=False, soft_wrap=True)


def ui(
    sweep: Sweep,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
    sweeps: SweepsFolder = Path("sweeps"),
) -> None:
    """Serve MLflow's pages for a sweep on this machine, until Ctrl-C."""
    folder = find_sweep(sweep, sweeps)
    uri = read_sweep(folder).spec["tracking"]["uri"]
    if uri is not None and uri.startswith(("http://", "https://")):
        typer.echo(f"The runs of {sweep} are on the MLflow server at {uri}")
        return
    # The server is a process of its own: however this one is ended, it must not stay behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), serve(folder, port, uri) as pages:
        typer.echo(f"{pages.url}  (Ctrl-C ends it)")
        pages.wait()


def sync(
    sweep: Sweep,
    to: Annotated[
        str | None,
        typer.Option(help="Another MLflow server or database; without it, the sweep's own.", metavar="URI"),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Send MLflow what it lacks of a sweep: all that its journal has. Nothing is sent twice."""
    console = open_console(stderr=as_json)
    with console.status("") as status:
        result = sync_sweep(find_sweep(sweep, sweeps), to, status.update)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        console.print(str(result), soft_wrap=True)
    raise typer.Exit(0 if result.complete or result.by_driver else 1)
