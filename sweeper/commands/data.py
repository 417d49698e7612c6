"""Commands that look at a dataset before anything is trained on it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.commands.options import Json, open_console
from sweeper.errors import UserError
from sweeper.machines.machine import usable_cache
from sweeper.spec.space_file.overrides import read_config
from sweeper.terminal.faults import checking
from sweeper.terminal.findings import print_examination, print_portrait, to_json
from trainables.interface import ConfigError, DatasetExaminer
from trainables.registry import load

__all__ = ["app", "check", "show"]

app = typer.Typer(
    name="data",
    help="Look at a dataset before anything is trained on it.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Root = Annotated[
    str,
    typer.Argument(
        metavar="ROOT", help="Folder of a LeRobot dataset, its address in a store, or its name on the hub."
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="What it is to be used with, e.g. policy.horizon=32 policy.crop_shape=[84,84] "
        "dataset.exclude_episodes=[3,7].",
    ),
]
TrainableName = Annotated[
    str, typer.Option("--trainable", help="For which trainable, by name or as module:attribute.")
]


@app.command()
def check(
    root: Root,
    fields: Fields = None,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Look at every picture instead of a sample.")
    ] = False,
    trainable: TrainableName = "diffusion_policy",
    as_json: Json = False,
) -> None:
    """Find what is wrong with a dataset. Ends with 1 where something must be put right before training."""
    examiner, config = _dataset(root, fields or (), trainable)
    console = open_console(stderr=as_json)
    with checking(console, root) as progress:
        examination = examiner.examine(config, usable_cache(), progress, every_frame=all_frames)
    if as_json:
        typer.echo(json.dumps(to_json(root, examination), indent=2))
    else:
        print_examination(console, root, examination)
    raise typer.Exit(1 if any(found.severity == "error" for found in examination.findings) else 0)


@app.command()
def show(
    root: Root,
    fields: Fields = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the pictures, instead of ./NAME-portrait."),
    ] = None,
    trainable: TrainableName = "diffusion_policy",
    as_json: Json = False,
) -> None:
    """Say what a dataset is, and draw it: a contact sheet of each camera, and how its values are spread."""
    examiner, config = _dataset(root, fields or (), trainable)
    folder = _portrait_folder(root, to)
    console = open_console(stderr=as_json)
    with checking(console, root, "Looking at") as progress:
        portrait = examiner.portray(config, folder, usable_cache(), progress)
    if as_json:
        typer.echo(json.dumps({"root": root, **portrait}, indent=2))
    else:
        print_portrait(console, root, portrait)


def _dataset(
    root: str, fields: list[str] | tuple[()], trainable: str
) -> tuple[DatasetExaminer, Mapping[str, Any]]:
    """Who examines the dataset, and the configuration that names it."""
    examiner = load(trainable)
    if not isinstance(examiner, DatasetExaminer):
        raise UserError(f"--trainable: {trainable} cannot examine datasets.")
    config = {**examiner.dataset_config(root), **read_config(examiner, fields)}
    faults = examiner.faults(config)
    if faults:
        raise ConfigError(faults)
    return examiner, config


def _portrait_folder(root: str, to: Path | None) -> Path:
    """Make the folder for a portrait.

    Raises:
        UserError: Where it lies in the dataset, or cannot be written.
    """
    dataset = Path(root).expanduser().resolve()
    folder = Path(f"{dataset.name}-portrait") if to is None else to.expanduser()
    if dataset.is_dir() and folder.resolve().is_relative_to(dataset):
        raise UserError(f"{folder}: lies in the dataset, which is left as it is. Name another with --to.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made: {error.strerror}. Name another with --to.") from error
    return folder
