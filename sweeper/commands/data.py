"""Commands that check, describe and repair a dataset before training."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.commands.options import Command, Group, Json, open_console
from sweeper.errors import UserError
from sweeper.machines.machine import usable_cache
from sweeper.spec.space_file.load import find_space, load_spec
from sweeper.spec.space_file.overrides import read_config
from sweeper.spec.sweep import SweepSpec, legal_draws
from sweeper.terminal.faults import checking
from sweeper.terminal.findings import print_examination, print_portrait, to_json
from sweeper.terminal.repairs import print_repair, repair_json
from sweeper.text import is_there
from trainables.interface import ConfigError, DatasetExaminer, DatasetRepairer, Trainable, expanded
from trainables.registry import load

__all__ = ["app", "check", "fix", "show"]

DRAWS = 200
"""Combinations of a space that are tried until one can be trained."""

app = typer.Typer(
    name="data",
    cls=Group,
    help="Check a dataset, show what it contains, or write a repaired copy, before training.",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Root = Annotated[
    str,
    typer.Argument(
        metavar="ROOT",
        help="Folder of a LeRobot dataset, its address in an object store, or its name on the hub. "
        "Or a space, for its dataset.",
    ),
]
Fields = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Settings of the training, e.g. policy.horizon=32 policy.crop_shape=[84,84] "
        "dataset.exclude_episodes=[3,7].",
    ),
]
TrainableName = Annotated[
    str, typer.Option("--trainable", help="Trainable that will use the dataset: a name or module:attribute.")
]


@app.command(cls=Command)
def check(
    root: Root,
    fields: Fields = None,
    all_frames: Annotated[
        bool, typer.Option("--all-frames", help="Check every image instead of a sample.")
    ] = False,
    trainable: TrainableName = "diffusion_policy",
    as_json: Json = False,
) -> None:
    """Find problems of a dataset. The exit code is 1 if one must be fixed before training."""
    examiner, config = _dataset(root, fields or (), trainable)
    console = open_console(stderr=as_json)
    with checking(console, root) as progress:
        examination = examiner.examine(config, usable_cache(), progress, every_frame=all_frames)
    if as_json:
        typer.echo(json.dumps(to_json(root, examination), indent=2))
    else:
        print_examination(console, root, examination)
    raise typer.Exit(1 if any(found.severity == "error" for found in examination.findings) else 0)


@app.command(cls=Command)
def show(
    root: Root,
    fields: Fields = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the images. Default: ./NAME-portrait."),
    ] = None,
    trainable: TrainableName = "diffusion_policy",
    as_json: Json = False,
) -> None:
    """Describe a dataset and draw it: sample images of each camera, histograms of its values."""
    examiner, config = _dataset(root, fields or (), trainable)
    folder = _portrait_folder(root, to)
    console = open_console(stderr=as_json)
    with checking(console, root, "Reading") as progress:
        portrait = examiner.portray(config, folder, usable_cache(), progress)
    if as_json:
        typer.echo(json.dumps({"root": root, **portrait}, indent=2))
    else:
        print_portrait(console, root, portrait)


@app.command()
def fix(
    root: Annotated[Path, typer.Argument(metavar="ROOT", help="Folder of a LeRobot dataset.")],
    to: Annotated[
        Path | None,
        typer.Option(metavar="NEW", help="Folder of the copy: a new one, or an empty one."),
    ] = None,
    trim_idle: Annotated[
        bool, typer.Option("--trim-idle", help="Cut ends of episodes in which the robot stands still.")
    ] = False,
    hard_links: Annotated[
        bool, typer.Option("--hard-links", help="Link the videos instead of copying them.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be changed. Writes nothing.")
    ] = False,
    trainable: TrainableName = "diffusion_policy",
    as_json: Json = False,
) -> None:
    """Write a repaired copy of a dataset, and list each change. The original is not changed.

    Only certain repairs are made. The exit code is 1 if a problem remains that needs you, 0 otherwise.
    """
    repairer = load(trainable)
    if not isinstance(repairer, DatasetRepairer):
        raise UserError(f"--trainable: {trainable} cannot repair datasets.")
    if to is None and not dry_run:
        raise UserError("--to: name the folder of the copy, or use --dry-run to see what would be changed.")
    folder = expanded(root)
    if not folder.is_dir():
        raise UserError(f"{root}: is not a folder. Download the dataset first, then name its folder.")
    console = open_console(stderr=as_json)
    with checking(console, str(root), "Repairing") as progress:
        repair = repairer.repair(
            folder,
            None if dry_run or to is None else expanded(to),
            progress,
            trim_idle=trim_idle,
            hard_links=hard_links,
        )
    if as_json:
        typer.echo(json.dumps(repair_json(str(root), to, repair), indent=2))
    else:
        print_repair(console, str(root), to, repair, dry_run=dry_run)
    raise typer.Exit(1 if any(found.severity != "note" for found in repair.remaining) else 0)


def _dataset(
    root: str, fields: list[str] | tuple[()], trainable: str
) -> tuple[DatasetExaminer, Mapping[str, Any]]:
    """The examiner of the dataset, and the configuration for it."""
    space = Path(root) if is_there(Path(root)) else find_space(root)
    spec: SweepSpec | None = None
    if space.suffix in (".yaml", ".yml") and space.is_file():
        spec = load_spec(space, [f"config.{field.removeprefix('config.')}" for field in fields])
        trainable = spec.trainable
    examiner = load(trainable)
    if not isinstance(examiner, DatasetExaminer):
        raise UserError(f"--trainable: {trainable} cannot check datasets.")
    if spec is not None:
        config = _of_space(spec, examiner)
    else:
        config = {**examiner.dataset_config(root), **read_config(examiner, fields)}
    faults = examiner.faults(config)
    if faults:
        raise ConfigError(faults)
    return examiner, config


def _of_space(spec: SweepSpec, examiner: Trainable) -> Mapping[str, Any]:
    """The fixed values of a space, with drawn ones if the defaults of what it searches do not fit them."""
    if not examiner.faults(spec.config):
        return spec.config
    legal = legal_draws(spec, examiner, random.Random(spec.search.seed), DRAWS)
    return next(legal, spec.config)


def _portrait_folder(root: str, to: Path | None) -> Path:
    """Create the folder for a portrait.

    Raises:
        UserError: If it is inside the dataset, or cannot be written.
    """
    dataset = expanded(root).resolve()
    name = dataset.name.removesuffix(".yaml")  # of a space
    folder = Path(f"{name}-portrait") if to is None else expanded(to)
    if dataset.is_dir() and folder.resolve().is_relative_to(dataset):
        raise UserError(
            f"{folder}: is inside the dataset, which is never changed. Choose another folder with --to."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be created: {error.strerror}. Choose another folder with --to."
        ) from error
    return folder
