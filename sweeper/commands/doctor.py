"""The command `doctor`: problems of this machine or a cluster."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sweeper.commands.options import CLUSTER_OPTION, ClusterFile, Json, SweepsFolder, open_console
from sweeper.errors import UserError
from sweeper.machines.doctor.examination import examine
from sweeper.machines.identity import identify
from sweeper.machines.ssh import find_cluster_head
from sweeper.terminal.findings import diagnoses_json, print_diagnoses

__all__ = ["doctor"]


def doctor(
    cluster: ClusterFile = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Ray cluster to check. Default: this machine only."),
    ] = None,
    sweeps: SweepsFolder = Path("sweeps"),
    as_json: Json = False,
) -> None:
    """Find problems of this machine or a cluster, and show how to fix them."""
    if cluster is not None:
        raise typer.Exit(_doctor_there(cluster, address, as_json))
    diagnoses = examine(address, sweeps)
    wrong = any(diagnosis.severity == "error" for diagnosis in diagnoses)
    if as_json:
        typer.echo(json.dumps(diagnoses_json(diagnoses), indent=2))
    else:
        print_diagnoses(open_console(), diagnoses)
    raise typer.Exit(int(wrong))


def _doctor_there(cluster: Path, address: str | None, as_json: bool) -> int:
    """Let a cluster's head check all nodes. Warn if its code differs from the code of this machine."""
    if address:
        raise UserError(f"--address and {CLUSTER_OPTION} both name a cluster. Use one of them.")
    head = find_cluster_head(cluster)
    there = json.loads(head.ask("python -m sweeper.machines.identity"))
    if there["code"] != identify().code:
        open_console(stderr=True).print(
            f"! {head.host} runs another version of sweeper's code ({there['code']}) than this machine "
            f"({identify().code}). Run `ray up {cluster}` to update it.",
            style="yellow",
            markup=False,
            soft_wrap=True,
        )
    return head.run(["doctor", "--address", "auto", *(["--json"] if as_json else [])])
