"""``--cluster FILE``: run a command on a cluster's head over SSH."""

from __future__ import annotations

import contextlib
import json
import shlex
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import typer

from sweeper.commands.jobs import launch_job
from sweeper.commands.options import CLUSTER_OPTION, open_console, plain_name
from sweeper.errors import UserError
from sweeper.machines.jobs import JobPackage, package_space, reach_jobs
from sweeper.machines.ssh import ClusterHead, find_cluster_head
from sweeper.spec.space_file.load import DEMO
from sweeper.tracking.server import free_port
from sweeper.tracking.urls import HOST
from trainables.interface import expanded

__all__ = ["on_cluster", "split_cluster"]

OWN = ("doctor", "jobs")
"""Commands that read the cluster file themselves."""
HERE = {"check": "checks a space file on this machine", "data": "reads datasets on this machine"}
"""Commands that do not run on a cluster, and what they do instead."""
MLFLOW = "MLFLOW_TRACKING_URI"


def split_cluster(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Remove ``--cluster FILE`` from the arguments of a command that will run on a cluster's head.

    Raises:
        UserError: If the file is missing.
    """
    left = list(arguments)
    end = left.index("--") if "--" in left else len(left)
    for number, argument in enumerate(left[:end]):
        if argument == CLUSTER_OPTION:
            if number + 1 >= end:
                raise UserError(f"{CLUSTER_OPTION}: the cluster file is missing. Use {CLUSTER_OPTION} FILE.")
            file = expanded(left[number + 1])
            del left[number : number + 2]
        elif argument.startswith(f"{CLUSTER_OPTION}="):
            file = expanded(argument.partition("=")[2])
            del left[number]
        else:
            continue
        return (None, list(arguments)) if left and left[0] in OWN else (file, left)
    return None, left


def on_cluster(file: Path, arguments: Sequence[str], parsed: dict[str, Any]) -> int:
    """Run a command on a cluster. Returns its exit code.

    Args:
        file: The cluster file of `ray up`.
        arguments: The command and its arguments, as they were typed.
        parsed: The arguments as the command line reads them, by name.

    Raises:
        UserError: If the user's input is wrong.
        SweeperError: If the cluster cannot be reached.
    """
    command = arguments[0]
    if command in HERE:
        raise UserError(f"`sweeper {command}` {HERE[command]}: leave {CLUSTER_OPTION} out.")
    if not parsed:
        raise UserError(f"{command!r} is not a command. `sweeper --help` lists the commands.")
    if parsed.get("address"):
        raise UserError(f"--address and {CLUSTER_OPTION} both name a cluster. Use one of them.")
    if command in ("launch", "demo", "resume"):
        return _drive(command, arguments, parsed, cluster=file)
    head = find_cluster_head(file)
    if command == "ui":
        return _ui(head, parsed)
    if command == "export":
        return _fetched(head, arguments, Path(parsed["to"]))
    if command == "eval":
        return _fetched(head, arguments, Path(parsed["to"] or f"{plain_name(parsed['policy'])}-eval"))
    return head.run(arguments)


# Jobs


def _drive(command: str, arguments: Sequence[str], parsed: dict[str, Any], cluster: Path) -> int:
    """Start a driver on the cluster. It keeps running when this machine is switched off."""
    if command == "resume":
        parcel = JobPackage(Path(parsed["sweep"]).name, tuple(arguments), {})
    else:
        space = parsed.get("space") or DEMO
        given = _given(arguments, "--sweeps", parsed.get("sweeps"))
        parcel = package_space(space, parsed.get("overrides") or (), parsed.get("name"), given)
    with reach_jobs(cluster) as server:
        return launch_job(server, parcel, as_json=bool(parsed.get("as_json")))


def _given(arguments: Sequence[str], option: str, value: Any) -> str | None:
    """The value of an option, or None if it was not given: the cluster has another default."""
    typed = any(word == option or word.startswith(f"{option}=") for word in arguments)
    return str(value) if typed and value is not None else None


# Pages and files


def _ui(head: ClusterHead, parsed: dict[str, Any]) -> int:
    """Forward a port of this machine to MLflow's pages on the head, until Ctrl-C."""
    uri = head.ask(f'echo "${MLFLOW}"').strip()
    port = urlsplit(uri).port if uri.startswith("http://127.0.0.1:") else None
    if port is None:
        _refuse_pages(head, uri)
    # The tunnel must end with this process, however it ends.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        head.tunnel(port or 0, free_port(parsed.get("port") or 5000)) as here,
    ):
        found = json.loads(head.ask(f"sweeper status {shlex.quote(parsed['sweep'])} --json"))
        for line in _addresses(found, f"http://{HOST}:{here}"):
            typer.echo(line)
        typer.echo(f"MLflow on {head.host}: http://{HOST}:{here}  (Ctrl-C stops it)")
        signal.pause()
    return 0


def _addresses(status: Mapping[str, Any], base: str) -> list[str]:
    """The addresses of a sweep's pages on this machine; none if MLflow has none of its trials."""
    links = status["mlflow"]["links"] or {}
    titles = {"charts": "Chart all trials", "comparison": "Compare the best trials"}
    return [
        f"{title}: {base}/#{links[name].partition('#')[2]}" for name, title in titles.items() if name in links
    ]


def _refuse_pages(head: ClusterHead, uri: str) -> None:
    """Raise an error that explains why there is no tunnel to MLflow."""
    if uri:
        raise UserError(f"The runs are on the MLflow server at {uri}. Open this address in a browser.")
    raise UserError(
        f"MLflow does not run on {head.host}. Start it there: "
        "`sh diffusion-policy-sweeper/scripts/mlflow_service.sh start`."
    )


def _fetched(head: ClusterHead, arguments: Sequence[str], target: Path) -> int:
    """Run a command that fills a folder on the head, and copy the folder to this machine."""
    if target.exists():
        raise UserError(f"--to: {target} already exists. Choose a new folder.")
    there = head.ask("mktemp -d").strip()
    try:
        code = head.run(_with_option(arguments, "--to", f"{there}/made"))
        if code == 0:
            head.fetch(f"{there}/made", target)
            open_console(stderr=True).print(f"Copied to this machine: {target}", markup=False, soft_wrap=True)
        return code
    finally:
        head.ask(f"rm -rf {shlex.quote(there)}")


def _with_option(arguments: Sequence[str], option: str, value: str) -> list[str]:
    """The arguments, with the value of an option replaced."""
    left, words = [], iter(arguments)
    for word in words:
        if word == option:
            next(words, None)
        elif not word.startswith(f"{option}="):
            left.append(word)
    return [*left, option, value]
