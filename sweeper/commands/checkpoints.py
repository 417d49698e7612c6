"""Commands that export checkpoints."""

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
            help="A sweep (exports its best trial), a sweep and a trial number, or a checkpoint's folder.",
        ),
    ],
    to: Annotated[Path, typer.Option(help="Folder to create.", metavar="DIR")],
    target: Annotated[
        str | None,
        typer.Option(
            help="LeRobot version of the format: lerobot==0.4.4 (default) or lerobot==0.6.1.",
            metavar="FORMAT",
        ),
    ] = None,
    checkpoint: Annotated[
        Literal["last", "best"] | None,
        typer.Option(
            help="The trial's last checkpoint, which the ranking uses (default), or its best.",
        ),
    ] = None,
    ema: Annotated[
        bool, typer.Option(help="Export the averaged (EMA) weights if the checkpoint has them.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing export in DIR.")] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Export a trial's policy in LeRobot's format, for `lerobot-eval --policy.path=DIR` or a robot."""
    console = open_console(stderr=as_json)
    found = find_source(source, sweeps, checkpoint)
    console.print(f"{found.chosen}\n  {found.checkpoint}", soft_wrap=True, markup=False)
    if found.warning:
        console.print(f"! {found.warning}", style="yellow", soft_wrap=True, markup=False)
    with console.status("") as status:
        made = write(found, to, target, ema=ema, replace=force, progress=status.update)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(made), indent=2))
        return
    for note in made.notes:
        console.print(f"- {note}", soft_wrap=True, markup=False)
    console.print(f"Exported to {made.folder} in the format of {made.target}.", soft_wrap=True, markup=False)
