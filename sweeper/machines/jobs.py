"""Sweeps as jobs of a Ray cluster: sent from a laptop, which may then be closed.

A job runs ``sweeper launch`` on the cluster's head. With it go the space file and, for a trainable of the
user's own, its module; this package itself is on the nodes already. The job server listens on the head's
127.0.0.1; a tunnel leads there.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import os
import shlex
import shutil
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError, SweepNotFoundError, UserError
from sweeper.machines.identity import GIT, git_state, identify
from sweeper.machines.ssh import ClusterHead, find_cluster_head
from sweeper.spec.space_file.load import find_space, load_spec
from sweeper.text import first_line

__all__ = ["DASHBOARD_PORT", "Job", "JobPackage", "JobServer", "package_space", "reach_jobs"]

DASHBOARD_PORT = 8265
SPACE = "space.yaml"
LARGEST_CODE_BYTES = 50 * 1024**2
"""Most that a module of the user's own may take: it is code, and data goes another way."""
PATIENCE_S = 20.0
"""How long a launch waits for what goes wrong at once."""
LOOK_S = 0.5
STOP_WAIT_S = 120
"""How long Ray waits for the end of a driver after a request to stop, before it kills it."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
SWEEP = "sweep"
"""Key of a job's metadata."""
_TOKEN_AND_IDENTITY = "cat ~/.ray/auth_token 2>/dev/null || true; echo; python -m sweeper.machines.identity"


@dataclass(frozen=True)
class Job:
    """A job of the cluster.

    Attributes:
        id: Its identity.
        sweep: Name of the sweep that it runs; empty for a job of another program.
        status: ``PENDING``, ``RUNNING``, ``SUCCEEDED``, ``FAILED`` or ``STOPPED``.
        message: What Ray says about it.
        started: When it was sent, in seconds since 1970.
        ended: When it ended, or None.
        exit_code: What its driver ended with, or None.
    """

    id: str
    sweep: str
    status: str
    message: str
    started: float
    ended: float | None
    exit_code: int | None

    @property
    def is_over(self) -> bool:
        """Whether it has ended, however."""
        return self.status in ENDED


@dataclass(frozen=True)
class JobPackage:
    """What a job is sent with.

    Attributes:
        sweep: Name of the sweep.
        arguments: Arguments of ``sweeper``, as they are meant on the cluster.
        files: Text of files in the job's folder, by name.
        modules: Modules and packages that are copied there.
    """

    sweep: str
    arguments: tuple[str, ...]
    files: Mapping[str, str]
    modules: tuple[Path, ...] = ()


class JobServer:
    """The jobs of a cluster.

    Args:
        client: Ray's client of the job server.
        reached: How to reach the cluster again, as options of the command line.
        notes: What is to be known about the cluster.
    """

    def __init__(self, client: Any, reached: str, notes: tuple[str, ...] = ()) -> None:
        self._client = client
        self.reached = reached
        self.notes = notes

    def submit(self, package: JobPackage) -> str:
        """Send a job; its identity.

        Raises:
            SweeperError: If the cluster does not take it.
        """
        identity = f"{package.sweep}-{uuid.uuid4().hex[:8]}"
        with tempfile.TemporaryDirectory(prefix="sweeper-job-") as folder:
            for name, text in package.files.items():
                (Path(folder) / name).write_text(text)
            for module in package.modules:
                _copy(module, Path(folder))
            with _said(f"the job server ({self.reached}) did not take the job"):
                self._client.submit_job(
                    entrypoint=f"exec sweeper {shlex.join(package.arguments)}",
                    submission_id=identity,
                    runtime_env={
                        "working_dir": folder,
                        "env_vars": {
                            "RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S),
                            "COLUMNS": "120",
                            GIT: json.dumps(git_state()),
                        },
                    },
                    metadata={SWEEP: package.sweep},
                )
        return identity

    def find(self, identity: str) -> Job:
        """A job.

        Raises:
            SweepNotFoundError: If there is none of that name; says which there are.
        """
        found = {job.id: job for job in self.jobs()}
        if identity not in found:
            known = ", ".join(job.id for job in found.values() if job.sweep) or "none"
            raise SweepNotFoundError(f"no job is called {identity!r} there. Jobs of sweeps: {known}.")
        return found[identity]

    def jobs(self) -> list[Job]:
        """All jobs that were sent to the cluster, the last one first."""
        with _said(f"the job server ({self.reached}) does not answer"):
            details = self._client.list_jobs()
        jobs = [_job(detail) for detail in details if detail.submission_id]
        return sorted(jobs, key=lambda job: -job.started)

    def wait(self, identity: str, patience_s: float = PATIENCE_S) -> Job:
        """Wait until a job has ended, or for so long."""
        until = time.monotonic() + patience_s
        while True:
            job = self.find(identity)
            if job.is_over or time.monotonic() >= until:
                return job
            time.sleep(LOOK_S)

    def output(self, identity: str) -> str:
        """What the driver of a job printed so far."""
        with _said("the job's output cannot be read"):
            return str(self._client.get_job_logs(identity))

    def follow(self, identity: str) -> Iterator[str]:
        """What the driver of a job printed, and what it prints until it ends."""
        pieces = self._client.tail_job_logs(identity)

        async def piece() -> str | None:
            return await anext(pieces, None)

        # Ray has it for asyncio only; here a loop of its own is asked for one piece at a time.
        with asyncio.Runner() as runner:
            try:
                while True:
                    with _said("the job's output cannot be followed"):
                        text = runner.run(piece())
                    if text is None:
                        return
                    yield text
            finally:
                runner.run(pieces.aclose())

    def stop(self, identity: str) -> None:
        """Have a job stop its sweep in order; trials keep their checkpoints."""
        with _said("the job cannot be stopped"):
            self._client.stop_job(identity)


@contextlib.contextmanager
def reach_jobs(cluster: Path | None = None, address: str | None = None) -> Iterator[JobServer]:
    """Reach the job server of a cluster, while the context lasts.

    Args:
        cluster: The file that `ray up` was given; a tunnel leads to its head.
        address: Without a file: the address of the job server, e.g. ``http://127.0.0.1:8265``.

    Raises:
        UserError: If there is none.
        SweeperError: If the head cannot be reached.
    """
    if cluster is None:
        yield JobServer(_client(address or f"http://127.0.0.1:{DASHBOARD_PORT}"), f"--address {address}")
        return
    head = find_cluster_head(cluster)
    token, _, there = head.ask(_TOKEN_AND_IDENTITY).rpartition("\n{")
    headers = {"Authorization": f"Bearer {token.strip()}"} if token.strip() else None
    with head.tunnel(DASHBOARD_PORT) as port:
        client = _client(f"http://127.0.0.1:{port}", headers)
        yield JobServer(client, f"--cluster {cluster}", _differences(head, "{" + there))


def package_space(
    space: str | Path, overrides: Sequence[str], name: str | None, sweeps: str | None = None
) -> JobPackage:
    """Check a space file as far as it can be checked here, and pack what a cluster needs to run it.

    Args:
        space: The space file, or the name of one that comes with the package.
        overrides: ``key=value`` texts.
        name: Name of the sweep, instead of the file's.
        sweeps: Folder of the sweeps on the cluster; None for the one that its nodes name.

    Raises:
        SpecError: With the faults of the file.
    """
    changes = [*overrides, *([] if name is None else [f"name={name}"])]
    path = find_space(space)
    spec = load_spec(path, changes)
    where = [] if sweeps is None else ["--sweeps", sweeps]
    return JobPackage(
        spec.name,
        ("launch", SPACE, *changes, *where),
        {SPACE: _named(spec.source, spec.name)},
        _modules(spec.trainable),
    )


def _named(text: str, sweep: str) -> str:
    # A space without a name is called as its file is, and on the cluster the file has another name.
    return text if any(line.startswith("name:") for line in text.splitlines()) else f"name: {sweep}\n{text}"


def _modules(trainable: str) -> tuple[Path, ...]:
    """The module of a trainable of the user's own, or the package around it."""
    module, separator, _ = trainable.partition(":")
    if not separator:
        return ()
    found = importlib.util.find_spec(module.partition(".")[0])
    if found is None or found.origin is None:
        return ()
    path = Path(found.origin)
    if path.is_relative_to(sysconfig.get_path("purelib")):
        return ()  # installed: nodes have it, or must get it the same way
    return (path.parent if path.name == "__init__.py" else path,)


def _copy(module: Path, folder: Path) -> None:
    if module.is_file():
        shutil.copy(module, folder)
        return
    size = sum(path.stat().st_size for path in module.rglob("*") if path.is_file())
    if size > LARGEST_CODE_BYTES:
        raise UserError(
            f"{module}: the package of the trainable takes {size / 1e6:.0f} MB, and at most "
            f"{LARGEST_CODE_BYTES / 1e6:.0f} MB are sent with a job. Move its data elsewhere."
        )
    shutil.copytree(module, folder / module.name, ignore=shutil.ignore_patterns("__pycache__", ".git"))


def _client(address: str, headers: Mapping[str, str] | None = None) -> Any:
    token = Path.home() / ".ray" / "auth_token"
    if headers is None and token.is_file():
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    from ray.job_submission import JobSubmissionClient

    logging.getLogger("ray").setLevel(logging.WARNING)
    try:
        return JobSubmissionClient(address, headers=None if headers is None else dict(headers))
    except Exception as error:
        raise UserError(
            f"no job server of Ray can be used at {address}: {first_line(error)}. Does Ray run there with "
            "its dashboard, and is the token of the cluster in ~/.ray/auth_token?"
        ) from error


def _differences(head: ClusterHead, answer: str) -> tuple[str, ...]:
    here, there = asdict(identify()), json.loads(answer)
    if here["code"] == there["code"]:
        return ()
    return (
        f"The cluster runs other code of this package ({there['package']}, {there['code']}) than this "
        f"machine ({here['package']}, {here['code']}). `ray up {head.file}` brings it up to date.",
    )


def _job(detail: Any) -> Job:
    return Job(
        id=detail.submission_id,
        sweep=(detail.metadata or {}).get(SWEEP, ""),
        status=str(getattr(detail.status, "value", detail.status)),
        message=detail.message or "",
        started=(detail.start_time or 0) / 1000,
        ended=detail.end_time / 1000 if detail.end_time else None,
        exit_code=detail.driver_exit_code,
    )


@contextlib.contextmanager
def _said(what: str) -> Iterator[None]:
    try:
        yield
    except SweeperError:
        raise
    except Exception as error:
        # Ray's client raises RuntimeError, and errors of its own libraries.
        raise SweeperError(f"{what}: {first_line(error)}.") from error
