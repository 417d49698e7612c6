"""The command that exports checkpoints: folders, bundles, models on the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from sweeper.commands.options import Json, SweepsFolder, WhichCheckpoint, open_console
from sweeper.errors import UserError
from sweeper.finalists.formats import (
    LEROBOT,
    FormatRequest,
    check_formats,
    export_formats,
    precisions_named,
)
from sweeper.publication.mlflow_model import log_policy
from sweeper.publication.publish import Wanted, publish
from sweeper.records.checkpoints import find_source
from sweeper.terminal.finalists.formats import print_formats
from sweeper.terminal.finalists.publication import print_published
from trainables.interface import FormatOptions

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
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="NAME",
            help="lerobot (default), onnx or torch (an archive of torch.export). May be repeated: then each "
            "has a folder of its name in DIR.",
        ),
    ] = None,
    parts: Annotated[
        Literal["chunk", "steps"],
        typer.Option(help="onnx, torch: the whole prediction of a chunk, or encoder and one step."),
    ] = "chunk",
    precision: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="onnx: fp32 (default), fp16 or int8, which is calibrated with the dataset. May be repeated.",
        ),
    ] = None,
    episodes: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="fp16, int8: play N episodes to measure what they cost in success."
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT",
            help="onnx, torch: compare and calibrate with this dataset. Default: the one of the training.",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="LeRobot version of the format: lerobot==0.4.4 (default) or lerobot==0.6.1.",
            metavar="FORMAT",
        ),
    ] = None,
    checkpoint: WhichCheckpoint = None,
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
    mlflow: Annotated[
        bool,
        typer.Option("--mlflow", help="Log the policy as a model of its trial's run in MLflow."),
    ] = False,
    register: Annotated[
        str | None,
        typer.Option(
            help="With --mlflow: register the model under this name, as its next version.", metavar="NAME"
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing export in DIR, or an existing bundle.")
    ] = False,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Export a trial's policy for LeRobot, ONNX Runtime or torch, as a bundle, or to the hub."""
    console = open_console(stderr=as_json)
    names = tuple(dict.fromkeys(formats or [LEROBOT]))
    options = FormatOptions(
        names[0], parts, precisions_named(precision or ["fp32"]), episodes, ema, replace=force
    )
    check_formats(names, to, options, dataset)
    request = FormatRequest(names, to, dataset, options)
    lerobot = request.folder(LEROBOT) if LEROBOT in names else None
    wanted = Wanted(
        lerobot, bundle, push, target, card=card, private=private, dry_run=dry_run, ema=ema, force=force
    )
    if register is not None and not mlflow:
        raise UserError("--register belongs to --mlflow.")
    more = card or bundle or push or private or dry_run
    if lerobot is not None or more or not (request.others or mlflow):
        wanted.check()
    found = find_source(source, sweeps, checkpoint)
    console.print(f"{found.chosen}\n  {found.checkpoint}", soft_wrap=True, markup=False)
    if found.warning:
        console.print(f"! {found.warning}", style="yellow", soft_wrap=True, markup=False)
    with console.status("") as status:
        written = export_formats(found, request, status.update)
        published = publish(found, wanted, status.update)
        logged = log_policy(found, ema=ema, register=register, progress=status.update) if mlflow else None
    if as_json:
        more_json = {} if logged is None else {"mlflow": logged.to_json()}
        typer.echo(json.dumps(published.to_json() | {"formats": written} | more_json, indent=2))
        return
    print_formats(console, written)
    print_published(console, published.to_json())
    if logged is not None:
        console.print(f"MLflow: {logged.uri} at {logged.tracking_uri}", soft_wrap=True, markup=False)
        if logged.registered:
            console.print(f"Registered as models:/{logged.registered}", soft_wrap=True, markup=False)
