"""Commands on a cluster that is reached over SSH or through its job server, and the jobs that run there."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sweeper.commands.options import Json, SweepsFolder, open_console

if TYPE_CHECKING:
    from rich.console import Console

    from sweeper.machines.jobs import JobPackage, JobServer
    from sweeper.machines.ssh import ClusterHead

__all__ = ["doctor", "jobs", "launch_job", "on_cluster", "split_cluster"]

ClusterFile = Annotated[
    Path | None,
    typer.Option("--cluster", metavar="FILE", help="The file that `ray up` was given; reached over SSH."),
]
OPTION = "--cluster"
OWN = ("doctor", "jobs")
"""Commands that take a cluster file themselves."""
HERE = {"check": "looks at a space file on this machine", "data": "looks at datasets on this machine"}
"""Commands that have nothing to do on a cluster, and why."""
MLFLOW = "MLFLOW_TRACKING_URI"


def split_cluster(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Take ``--cluster FILE`` out of the arguments of a command that a cluster's head is to run.

    Raises:
        UserError: Where the file is left out.
    """
    from sweeper.errors import UserError

    left = list(arguments)
    end = left.index("--") if "--" in left else len(left)
    for number, argument in enumerate(left[:end]):
        if argument == OPTION:
            if number + 1 >= end:
                raise UserError(f"{OPTION}: the cluster file is missing.")
            file = Path(left[number + 1])
            del left[number : number + 2]
        elif argument.startswith(f"{OPTION}="):
            file = Path(argument.partition("=")[2])
            del left[number]
        else:
            continue
        return (None, list(arguments)) if left and left[0] in OWN else (file, left)
    return None, left


def on_cluster(file: Path, arguments: Sequence[str], parsed: dict[str, Any]) -> int:
    """Run a command on a cluster; its exit code.

    Args:
        file: The file that `ray up` was given.
        arguments: The command and its arguments, as they were typed.
        parsed: The arguments as the command line reads them, by name.

    Raises:
        UserError: Where something that the user gave is wrong.
        SweeperError: Where the cluster cannot be reached.
    """
    from sweeper.errors import UserError
    from sweeper.machines.ssh import find_cluster_head

    command = arguments[0]
    if command in HERE:
        raise UserError(f"`sweeper {command}` {HERE[command]}: leave {OPTION} out.")
    if not parsed:
        raise UserError(f"sweeper has no command {command!r}. `sweeper --help` lists them.")
    if parsed.get("address"):
        raise UserError(f"--address and {OPTION} both name a cluster: give one of them.")
    if command in ("launch", "demo", "resume"):
        return _drive(command, arguments, parsed, cluster=file)
    head = find_cluster_head(file)
    if command == "ui":
        return _ui(head, parsed)
    if command == "export":
        return _export(head, arguments, parsed)
    return head.run(arguments)


# Jobs


def _drive(command: str, arguments: Sequence[str], parsed: dict[str, Any], cluster: Path) -> int:
    """Have a driver run on the cluster that goes on when this machine is gone."""
    from sweeper.machines.jobs import JobPackage, package_space, reach_jobs

    if command == "resume":
        parcel = JobPackage(Path(parsed["sweep"]).name, tuple(arguments), {})
    else:
        space = parsed.get("space") or _demo_space()
        given = _given(arguments, "--sweeps", parsed.get("sweeps"))
        parcel = package_space(space, parsed.get("overrides") or (), parsed.get("name"), given)
    with reach_jobs(cluster) as server:
        return launch_job(server, parcel, as_json=bool(parsed.get("as_json")))


def _demo_space() -> str:
    from sweeper.spec.space_file.load import DEMO

    return DEMO


def _given(arguments: Sequence[str], option: str, value: Any) -> str | None:
    """The value of an option, where it was given: the cluster has a default of its own."""
    typed = any(word == option or word.startswith(f"{option}=") for word in arguments)
    return str(value) if typed and value is not None else None


def launch_job(server: JobServer, parcel: JobPackage, as_json: bool = False) -> int:
    """Send a sweep to a cluster and say how to follow it; the exit code."""
    console = open_console(stderr=as_json)
    for note in server.notes:
        console.print(f"! {note}", style="yellow", markup=False, soft_wrap=True)
    identity = server.submit(parcel)
    console.print(f"Job {identity} is sent. Waiting for its first words …", style="dim", soft_wrap=True)
    job = server.wait(identity)
    if as_json:
        typer.echo(json.dumps({"job": job.id, "sweep": job.sweep, "status": job.status}))
    if job.is_over:
        typer.echo(server.output(identity), nl=False, err=as_json)
        return job.exit_code if job.exit_code is not None else int(job.status != "SUCCEEDED")
    _say_how_to_follow(console, server, parcel.sweep, identity)
    return 0


def _say_how_to_follow(console: Console, server: JobServer, sweep: str, identity: str) -> None:
    name, reached = shlex.quote(sweep), server.reached
    lines = [(f"sweeper jobs {identity} --follow {reached}", "what its driver says")]
    if reached.startswith(OPTION):
        lines += [
            (f"sweeper watch {name} {reached}", "the table of its trials"),
            (f"sweeper stop {name} {reached}", "the end, once those that run are through"),
        ]
    else:
        lines.append((f"sweeper jobs {identity} --stop {reached}", "the end, now; it can be resumed"))
    console.print(
        f"{sweep} runs on the cluster, and goes on when this machine is switched off.", markup=False
    )
    for command, meaning in lines:
        console.print(f"  {command}   {meaning}", markup=False, soft_wrap=True)


def jobs(
    job: Annotated[str | None, typer.Argument(metavar="JOB", help="One job; left out: all.")] = None,
    follow: Annotated[
        bool, typer.Option("-f", "--follow", help="Show what its driver says, until it ends or Ctrl-C.")
    ] = False,
    stop: Annotated[bool, typer.Option("--stop", help="End its sweep in order; it can be resumed.")] = False,
    cluster: ClusterFile = None,
    address: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Without a file: the job server, by default http://127.0.0.1:8265."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the jobs that run sweeps on a cluster, what one of them says, or stop it."""
    import dataclasses

    from sweeper.machines.jobs import reach_jobs

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
            open_console(stderr=True).print(f"{one.id} goes on without you.")
            return
        else:
            typer.echo(server.output(one.id), nl=False)
        if as_json:
            typer.echo(json.dumps(dataclasses.asdict(one), indent=2))
        elif stop:
            open_console().print(f"{one.id}: {one.status.lower()}. {one.message}", markup=False)


def _print_jobs(found: Sequence[Any]) -> None:
    from sweeper.terminal.tables import Column, duration_text, fitted_table

    console = open_console()
    if not found:
        console.print("No jobs of sweeps.")
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
    console.print(fitted_table([*columns, Column("time")], rows))


# Pages and files


def _ui(head: ClusterHead, parsed: dict[str, Any]) -> int:
    """Lead a port of this machine to MLflow's pages on the head, until Ctrl-C."""
    from urllib.parse import urlsplit

    from sweeper.tracking.server import free_port

    uri = head.ask(f'echo "${MLFLOW}"').strip()
    port = urlsplit(uri).port if uri.startswith("http://127.0.0.1:") else None
    if port is None:
        _refuse_pages(head, uri)
    # However this process is ended, the tunnel must not stay behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        head.tunnel(port or 0, free_port(parsed.get("port") or 5000)) as here,
    ):
        found = json.loads(head.ask(f"sweeper results {shlex.quote(parsed['sweep'])} --json"))
        typer.echo(f"http://127.0.0.1:{here}  MLflow on {head.host}; {found['sweep']}  (Ctrl-C ends it)")
        signal.pause()
    return 0


def _refuse_pages(head: ClusterHead, uri: str) -> None:
    """Say why no tunnel leads to MLflow."""
    from sweeper.errors import UserError

    if uri:
        raise UserError(f"The runs are on the MLflow server at {uri}: open it from here.")
    raise UserError(
        f"No MLflow runs on {head.host}: `sh diffusion-policy-sweeper/scripts/mlflow_service.sh start` there "
        "starts it."
    )


def _export(head: ClusterHead, arguments: Sequence[str], parsed: dict[str, Any]) -> int:
    """Export on the head, and bring the folder here."""
    from sweeper.errors import UserError

    target = Path(parsed["to"])
    if target.exists():
        raise UserError(f"--to: {target} exists already. Name a folder that is new.")
    there = head.ask("mktemp -d").strip()
    try:
        code = head.run(_with_option(arguments, "--to", f"{there}/export"))
        if code == 0:
            head.fetch(f"{there}/export", target)
            open_console(stderr=True).print(f"Brought here: {target}", markup=False, soft_wrap=True)
        return code
    finally:
        head.ask(f"rm -rf {shlex.quote(there)}")


def _with_option(arguments: Sequence[str], option: str, value: str) -> list[str]:
    """The arguments with another value of an option."""
    left, words = [], iter(arguments)
    for word in words:
        if word == option:
            next(words, None)
        elif not word.startswith(f"{option}="):
            left.append(word)
    return [*left, option, value]


# The doctor


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
    import dataclasses

    from sweeper.machines.doctor.examination import examine
    from sweeper.terminal.findings import print_diagnoses

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
    from sweeper.errors import UserError
    from sweeper.machines.identity import identify
    from sweeper.machines.ssh import find_cluster_head

    if address:
        raise UserError(f"--address and {OPTION} both name a cluster: give one of them.")
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
