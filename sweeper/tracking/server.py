"""MLflow's pages for the runs of one sweep, served on this machine only."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from sweeper.errors import SweeperError, SweepNotFoundError, UserError
from sweeper.layout import DATABASE
from sweeper.tracking.database import own_database, update_artifact_locations
from sweeper.tracking.urls import HOST, PORT

__all__ = ["Pages", "free_port", "serve"]

START_TIMEOUT_S = 300
"""How long the server may take to start: it imports much, and the machine may be busy with trials."""

END_TIMEOUT_S = 10


class Pages:
    """A server of MLflow's pages in a separate process.

    Attributes:
        url: Address of the pages.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url = url
        self._process = process
        self._log = log

    @property
    def runs(self) -> bool:
        """Whether the server runs."""
        return self._process.poll() is None

    def wait(self) -> int:
        """Wait until the server ends, and return its exit code."""
        return self._process.wait()

    def close(self) -> None:
        """End the server and the processes that it started."""
        # It leads its own process group, so its workers end with it.
        for sign in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_TIMEOUT_S)
                return

    def wait_until_ready(self) -> None:
        """Wait until the pages can be opened.

        Raises:
            SweeperError: If the server ends first, or does not answer in time.
        """
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            if self._process.poll() is not None:
                raise SweeperError(
                    f"the MLflow server ended during start-up: {_last_line(self._log)} (log: {self._log})"
                )
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return
            time.sleep(0.2)
        raise SweeperError(f"the MLflow server did not answer within {START_TIMEOUT_S} s (log: {self._log})")


@contextlib.contextmanager
def serve(folder: Path, port: int = PORT, uri: str | None = None) -> Iterator[Pages]:
    """Serve MLflow's pages for a sweep while the context lasts.

    The pages of a sweep that cannot be written are served from a copy of its database.

    Args:
        folder: The sweep's folder.
        port: Port to listen on; the next free one if it is taken.
        uri: Database of the runs; None for the one in the sweep's folder.

    Raises:
        SweepNotFoundError: If the folder has no runs.
        SweeperError: If the server cannot start.
    """
    database = own_database(folder)
    if uri is None and not database.is_file():
        raise SweepNotFoundError(
            f"{folder}: this folder contains no MLflow runs ({DATABASE} is missing). If MLFLOW_TRACKING_URI "
            "was set when the sweep ran, they are on that server."
        )
    port = free_port(port)
    with contextlib.ExitStack() as stack:
        place = folder
        if not (os.access(folder, os.W_OK) and (uri is not None or os.access(database, os.W_OK))):
            place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-ui-")))
            if uri is None:
                database = Path(shutil.copy(database, place))
                database.chmod(0o600)
        if uri is None:
            with contextlib.suppress(sqlite3.Error):  # MLflow reports what is wrong with its database
                update_artifact_locations(database, folder)
        pages = _start(place, uri or f"sqlite:///{database}", port)
        stack.callback(pages.close)
        pages.wait_until_ready()
        yield pages


def _start(place: Path, uri: str, port: int) -> Pages:
    """Start the server; its log is written to ``place``."""
    log = place / "ui.log"
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--backend-store-uri", uri),
        *("--host", HOST, "--port", str(port), "--workers", "1"),
    ]
    environment = {
        **os.environ,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # The background jobs of MLflow judge language models, which no sweep has.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=place,
            env=environment,
            start_new_session=True,
        )
    return Pages(f"http://{HOST}:{port}", process, log)


def free_port(wanted: int = PORT) -> int:
    """The first free port from ``wanted`` on.

    Raises:
        UserError: If ``wanted`` is not a port, or none of a hundred ports is free.
    """
    if not 1 <= wanted <= 65535:
        raise UserError(f"--port: {wanted} is not a port. Use a number from 1 to 65535.")
    for port in range(wanted, min(wanted + 100, 65536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind((HOST, port))
                return port
    raise UserError(f"--port: no port from {wanted} to {port} is free. Use another one.")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "its log is empty"
