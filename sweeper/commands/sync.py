"""The command that sends MLflow what it lacks of a sweep."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import Json, Sweep, SweepsFolder, open_console

__all__ = ["sync"]


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
    from sweeper.records.sweep_state import find_sweep
    from sweeper.tracking.sync import sync_sweep

    console = open_console(stderr=as_json)
    with console.status("") as status:
        result = sync_sweep(find_sweep(sweep, sweeps), to, status.update)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(result), indent=2))
    else:
        console.print(str(result), soft_wrap=True)
    raise typer.Exit(0 if result.complete or result.by_driver else 1)
