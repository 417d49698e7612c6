"""Commands that take checkpoints out of sweeps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.commands.options import Json, SweepsFolder, open_console
from sweeper.records.checkpoints import export as write
from sweeper.records.checkpoints import find_source

__all__ = ["export"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP[:TRIAL]",
            help="A sweep (its best trial) and perhaps a trial, or a checkpoint's folder.",
        ),
    ],
    to: Annotated[Path, typer.Option(help="The folder to make.", metavar="DIR")],
    target: Annotated[
        str | None,
        typer.Option(help="The format: lerobot==0.4.4 (the default), lerobot==0.6.1.", metavar="FORMAT"),
    ] = None,
    checkpoint: Annotated[
        Literal["best", "last"], typer.Option(help="The trial's checkpoint of the best value, or its last.")
    ] = "best",
    ema: Annotated[bool, typer.Option(help="Write the averaged weights where there are any.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export in DIR.")] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Write a trial's policy as LeRobot would have, for `lerobot-eval --policy.path=DIR` and the robot."""
    console = open_console(stderr=as_json)
    found = find_source(source, sweeps, checkpoint)
    console.print(f"{found.chosen}\n  {found.checkpoint}", soft_wrap=True, markup=False)
    with console.status("") as status:
        made = write(found, to, target, ema=ema, replace=force, progress=status.update)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(made), indent=2))
        return
    for note in made.notes:
        console.print(f"- {note}", soft_wrap=True, markup=False)
    console.print(f"{made.folder} holds it in the format of {made.target}.", soft_wrap=True, markup=False)
