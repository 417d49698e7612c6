"""The command `jobs`, and sending a sweep to a job server."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.commands.options import CLUSTER_OPTION, ClusterFile, Json, open_console
from sweeper.machines.jobs import JobPackage, JobServer, reach_jobs
from sweeper.terminal.console import program
from sweeper.terminal.tables import Column, duration_text, fitted_table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["jobs", "launch_job"]


def jobs(
    job: Annotated[
        str | None, typer.Argument(metavar="JOB", help="Show the output of this job. Default: list all jobs.")
    ] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Follow the job's output until it ends or Ctrl-C.")
    ] = False,
    stop: Annotated[
        bool, typer.Option("--stop", help="Stop the job's sweep cleanly. It can be resumed.")
    ] = False,
    cluster: ClusterFile = None,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Job server, if --cluster is not given. Default: http://127.0.0.1:8265."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the sweeps that run as jobs on a cluster, show a job's output, or stop a job."""
    with reach_jobs(cluster, address) as server:
        if job is None:
            found = [one for one in server.jobs() if one.sweep]
            if as_json:
                typer.echo(json.dumps([dataclasses.asdict(one) for one in found], indent=2))
            else:
                _print_jobs(found)
            return
        one = server.find(job)
        if stop:
            server.stop(one.id)
            one = server.wait(one.id)
        elif follow:
            with contextlib.suppress(KeyboardInterrupt):
                for text in server.follow(one.id):
                    typer.echo(text, nl=False)
                one = server.wait(one.id)
                raise typer.Exit(one.exit_code or 0)
            open_console(stderr=True).print(f"{one.id} keeps running.")
            return
        else:
            typer.echo(server.output(one.id), nl=False)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(one), indent=2))
        elif stop:
            open_console().print(f"{one.id}: {one.status.lower()}. {one.message}", markup=False)


def launch_job(server: JobServer, parcel: JobPackage, as_json: bool = False) -> int:
    """Submit a sweep to a cluster and print how to follow it. Returns the exit code."""
    console = open_console(stderr=as_json)
    for note in server.notes:
        console.print(f"! {note}", style="yellow", markup=False, soft_wrap=True)
    identity = server.submit(parcel)
    console.print(f"Job {identity} is submitted. Waiting for it to start …", style="dim", soft_wrap=True)
    job = server.wait(identity)
    if as_json:
        typer.echo(json.dumps({"job": job.id, "sweep": job.sweep, "status": job.status}))
    if job.is_over:
        typer.echo(server.output(identity), nl=False, err=as_json)
        return job.exit_code if job.exit_code is not None else int(job.status != "SUCCEEDED")
    _print_next_commands(console, server, parcel.sweep, identity)
    return 0


def _print_next_commands(console: Console, server: JobServer, sweep: str, identity: str) -> None:
    name, reached = shlex.quote(sweep), server.reached
    lines = [(f"jobs {identity} --follow {reached}", "follow its output")]
    if reached.startswith(CLUSTER_OPTION):
        lines += [
            (f"watch {name} {reached}", "watch the table of its trials"),
            (f"stop {name} {reached}", "start no more trials; running trials finish"),
        ]
    else:
        lines.append((f"jobs {identity} --stop {reached}", "stop it now; it can be resumed"))
    console.print(
        f"{sweep} runs on the cluster. It keeps running when this machine is switched off.", markup=False
    )
    for command, meaning in lines:
        console.print(f"  {program()} {command}   {meaning}", markup=False, soft_wrap=True)


def _print_jobs(found: Sequence[Any]) -> None:
    console = open_console()
    if not found:
        console.print("No sweeps run as jobs.")
        return
    columns = [Column(name, "left") for name in ("job", "sweep", "state", "started")]
    rows = [
        [
            one.id,
            one.sweep,
            one.status.lower(),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(one.started)),
            duration_text((one.ended or time.time()) - one.started),
        ]
        for one in found
    ]
    width = console.width if console.is_terminal else None
    console.print(fitted_table([*columns, Column("time")], rows, width))
