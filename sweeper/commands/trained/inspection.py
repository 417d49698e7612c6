"""The command that looks into one policy."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from sweeper.commands.options import Json, Policy, SweepsFolder, WhichCheckpoint, open_console, plain_name
from sweeper.commands.trained.settings import chosen_setting, typed_setting
from sweeper.errors import UserError
from sweeper.finalists.candidates import Candidate, find_candidate
from sweeper.finalists.inspection import Wanted, inspect_policy
from sweeper.layout import write_whole
from sweeper.machines.machine import usable_cache
from sweeper.report.inspection import PAGE, inspection_page
from sweeper.spec.space_file.overrides import read_config
from sweeper.terminal.faults import checking
from sweeper.terminal.finalists.inspection import print_inspection
from trainables import registry
from trainables.interface import ENVIRONMENT, DatasetExaminer

__all__ = ["evaluate", "folder_of"]


def evaluate(
    policy: Policy,
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings of the evaluation, e.g. rollout.max_steps=200 dataset.features={actions: action}.",
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            metavar="ROOT",
            help="Dataset to compare with: a folder, an address in a store, or a name on the hub. Default: "
            "the held-out episodes of the training.",
        ),
    ] = None,
    env: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Simulator to roll out in. Default: the one of the training."),
    ] = None,
    episodes: Annotated[int, typer.Option(min=0, metavar="N", help="Episodes to roll out.")] = 50,
    setting: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="A field of the inference setting, e.g. policy.n_action_steps=4. May be repeated. "
            "Default: what was chosen for the trial, or else as in the training.",
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the page, pictures and films. Default: ./NAME-eval."),
    ] = None,
    checkpoint: WhichCheckpoint = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Look into one policy: success, action errors, smoothness, diversity, latency, and its denoising."""
    found = find_candidate(policy, sweeps, which=checkpoint)
    candidate = dataclasses.replace(
        found,
        setting=chosen_setting(found) | typed_setting(found, setting or []),
        config=_config(found, fields or [], dataset, env, episodes),
    )
    folder = folder_of(candidate, to)
    wanted = Wanted(episodes, folder, usable_cache(), shlex.join(["sweeper", *sys.argv[1:]]))
    console = open_console(stderr=as_json)
    try:
        with checking(console, candidate.label, "Evaluating") as progress:
            inspection = inspect_policy(candidate, wanted, progress)
    finally:
        with contextlib.suppress(OSError):
            folder.rmdir()  # if nothing was measured, there is nothing in it
    page = folder / PAGE
    write_whole(page, inspection_page(inspection, folder))
    if as_json:
        typer.echo(json.dumps({**inspection.to_json(), "page": str(page)}, indent=2))
    else:
        print_inspection(console, inspection, page)


def _config(
    candidate: Candidate, typed: list[str], dataset: str | None, env: str | None, episodes: int
) -> dict[str, Any]:
    """What the policy is judged on, in place of what its training names.

    Raises:
        ConfigError: If a field is not one, or its value is not legal.
        UserError: If the trainable has no such option.
    """
    trainable = registry.load(candidate.trainable)
    config: dict[str, Any] = {}
    if dataset is not None:
        if not isinstance(trainable, DatasetExaminer):
            raise UserError(f"--dataset: the trainable {candidate.trainable} has no datasets to name.")
        config |= trainable.dataset_config(dataset)
    if env is not None or not episodes:
        if ENVIRONMENT not in trainable.fields:
            raise UserError(f"--env: the trainable {candidate.trainable} has no field {ENVIRONMENT}.")
        config[ENVIRONMENT] = env if episodes else None
    return config | read_config(trainable, typed)


def folder_of(candidate: Candidate, to: Path | None) -> Path:
    """Create the folder for the page.

    Raises:
        UserError: If it cannot be written.
    """
    if to is None:
        name = str(candidate.checkpoint.absolute()) if candidate.sweep is None else candidate.label
        to = Path(f"{plain_name(name)}-eval")
    folder = to.expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be created: {error.strerror}. Choose another folder with --to."
        ) from error
    return folder
