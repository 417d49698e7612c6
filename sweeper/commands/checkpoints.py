"""The command that exports checkpoints: folders, bundles, models on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.commands.options import Json, SweepsFolder, open_console
from sweeper.publication.publish import Wanted, publish
from sweeper.records.checkpoints import find_source
from sweeper.terminal.finalists.publication import print_published

__all__ = ["export"]


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SWEEP[:TRIAL]",
            help="A sweep (exports its best trial), a sweep and a trial number, or a checkpoint: a folder "
            "or a bundle.",
        ),
    ],
    to: Annotated[Path | None, typer.Option(help="Folder to create.", metavar="DIR")] = None,
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
    card: Annotated[
        bool, typer.Option("--card", help="Write a model card, with the confirmed figures, into DIR.")
    ] = False,
    bundle: Annotated[
        Path | None,
        typer.Option(
            help="Write a bundle: the policy, its inference setting, the report and checksums in one file.",
            metavar="FILE.zip",
        ),
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            help="Upload the export with a model card to the Hugging Face hub.", metavar="OWNER/NAME"
        ),
    ] = None,
    private: Annotated[
        bool,
        typer.Option(
            "--private", help="With --push: create a private model; an existing public one is refused."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --push: show what would be uploaded; contact nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing export in DIR, or an existing bundle.")
    ] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Export a trial's policy in LeRobot's format, for `lerobot-eval --policy.path=DIR` or a robot."""
    console = open_console(stderr=as_json)
    wanted = Wanted(
        to, bundle, push, target, card=card, private=private, dry_run=dry_run, ema=ema, force=force
    )
    wanted.check()
    found = find_source(source, sweeps, checkpoint)
    console.print(f"{found.chosen}\n  {found.checkpoint}", soft_wrap=True, markup=False)
    if found.warning:
        console.print(f"! {found.warning}", style="yellow", soft_wrap=True, markup=False)
    with console.status("") as status:
        published = publish(found, wanted, status.update)
    if as_json:
        typer.echo(json.dumps(published.to_json(), indent=2))
    else:
        print_published(console, published.to_json())
