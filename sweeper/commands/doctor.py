"""The command `doctor`: what is wrong with this machine or a cluster."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import CLUSTER_OPTION, ClusterFile, Json, SweepsFolder, open_console
from sweeper.errors import UserError
from sweeper.machines.doctor.examination import examine
from sweeper.machines.identity import identify
from sweeper.machines.ssh import find_cluster_head
from sweeper.terminal.findings import print_diagnoses

__all__ = ["doctor"]


def doctor(
    cluster: ClusterFile = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster to look at; left out: this machine alone."),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Say what is wrong with this machine or a cluster, and what to do about it."""
    if cluster is not None:
        raise typer.Exit(_doctor_there(cluster, address, as_json))
    diagnoses = examine(address, sweeps)
    wrong = any(diagnosis.level == "wrong" for diagnosis in diagnoses)
    if as_json:
        typer.echo(json.dumps([dataclasses.asdict(diagnosis) for diagnosis in diagnoses], indent=2))
    else:
        print_diagnoses(open_console(), diagnoses)
    raise typer.Exit(int(wrong))


def _doctor_there(cluster: Path, address: str | None, as_json: bool) -> int:
    """Have the head of a cluster look at all nodes, with the code of this machine to compare theirs with."""
    if address:
        raise UserError(f"--address and {CLUSTER_OPTION} both name a cluster: give one of them.")
    head = find_cluster_head(cluster)
    there = json.loads(head.ask("python -m sweeper.machines.identity"))
    if there["code"] != identify().code:
        open_console(stderr=True).print(
            f"! {head.host} runs other code of this package ({there['code']}) than this machine "
            f"({identify().code}). `ray up {cluster}` brings it up to date.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    return head.run(["doctor", "--address", "auto", *(["--json"] if as_json else [])])
