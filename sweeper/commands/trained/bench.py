"""The command that times the ways to compute a policy's chunks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from sweeper.commands.options import Json, Policy, SweepsFolder, field_values, open_console
from sweeper.commands.trained.settings import chosen_setting
from sweeper.errors import UserError
from sweeper.finalists.bench import bench_policy
from sweeper.finalists.candidates import find_candidate
from sweeper.machines.machine import usable_cache
from sweeper.terminal.faults import checking
from sweeper.terminal.finalists.bench import print_bench
from trainables import registry
from trainables.interface import ENVIRONMENT

__all__ = ["bench"]


def bench(
    policy: Policy,
    values: Annotated[
        list[str] | None,
        field_values(
            "policy.sampler=DDIM,UniPC policy.num_inference_steps=4,16",
            "as chosen for the trial, or else as in the training",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="What computes; may be repeated. Default: plain, and what is ready in moments here.",
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(metavar="NAME", help="Of the network: fp32 (default), bf16 or fp16.")
    ] = None,
    runs: Annotated[int, typer.Option(min=2, metavar="N", help="Timed predictions of each row.")] = 50,
    episodes: Annotated[
        int, typer.Option(min=0, metavar="N", help="Episodes of each row, from the same starts.")
    ] = 0,
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="Simulator in place of that of the training.")
    ] = None,
    lerobot: Annotated[
        Path | None,
        typer.Option(metavar="PYTHON", help="A Python with LeRobot: it is timed in turns with the others."),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Time the ways to compute a policy's actions: latency, memory, difference, and success."""
    console = open_console(stderr=as_json)
    found = find_candidate(policy, sweeps, {} if env is None else {ENVIRONMENT: env})
    candidate = dataclasses.replace(found, setting=chosen_setting(found))
    listed = _values(candidate.trainable, values or [])
    with checking(console, candidate.label, "Timing") as progress:
        benched = bench_policy(
            candidate,
            listed,
            backend or [],
            precision,
            runs,
            episodes,
            None if lerobot is None else lerobot.expanduser(),
            usable_cache(),
            progress,
        )
    if as_json:
        typer.echo(json.dumps(benched.to_json(), indent=2))
    else:
        print_bench(console, benched)


def _values(name: str, typed: list[str]) -> dict[str, list[Any]]:
    """The values of each inference field.

    Raises:
        UserError: If a field is not one, or has no values.
    """
    fields = registry.load(name).fields
    known = ", ".join(field for field, info in fields.items() if info.phase == "inference")
    found: dict[str, list[Any]] = {}
    for text in typed:
        field, equals, listed = text.partition("=")
        if not equals or not listed:
            raise UserError(f"{text}: expected FIELD=A,B,C, e.g. policy.num_inference_steps=4,16.")
        if field not in fields or fields[field].phase != "inference":
            raise UserError(f"{field}: a trained policy cannot change it. Inference fields are {known}.")
        try:
            found[field] = [yaml.safe_load(value) for value in listed.strip("[]").split(",")]
        except yaml.YAMLError as error:
            raise UserError(f"{text}: expected FIELD=A,B,C; the values cannot be read.") from error
    return found
