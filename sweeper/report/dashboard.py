"""Optuna's pages for the study of a sweep, served on this machine only, from a copy of the study."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

from sweeper.errors import SweeperError, SweepNotFoundError, UserError
from sweeper.layout import STUDY
from sweeper.text import last_line
from sweeper.tracking.server import Pages, free_port
from sweeper.tracking.urls import HOST

__all__ = ["follow", "serve_study"]

PACKAGE = "optuna_dashboard"
START_TIMEOUT_S = 300.0
"""How long the server may take to start on a machine that is busy with trials."""
REFRESH_S = 10.0

PROGRAM = (
    "import sys, optuna_dashboard; optuna_dashboard.run_server(sys.argv[1], sys.argv[2], int(sys.argv[3]))"
)


@contextlib.contextmanager
def serve_study(folder: Path, port: int) -> Iterator[tuple[Pages, Callable[[], object]]]:
    """Serve Optuna's pages for a sweep while the context lasts.

    Args:
        folder: The sweep's folder.
        port: Port to listen on; the next free one if it is taken.

    Yields:
        The pages, and a function that brings their copy of the study up to date.

    Raises:
        UserError: If the package is not installed.
        SweepNotFoundError: If the folder has no study.
        SweeperError: If the server cannot start.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UserError(
            "--search needs the package optuna-dashboard, which is not installed. Install it with "
            "`pip install 'diffusion-policy-sweeper[dashboard]'`, or use `sweeper report` instead."
        )
    if not (folder / STUDY).is_file():
        raise SweepNotFoundError(f"{folder}: this folder contains no study ({STUDY} is missing).")
    port = free_port(port)
    with tempfile.TemporaryDirectory(prefix="sweeper-search-") as place:
        copy, log = Path(place) / STUDY, Path(place) / "dashboard.log"

        def refresh() -> None:
            _copy(folder / STUDY, copy)

        refresh()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, f"sqlite:///{copy}", HOST, str(port)],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                env=dict(os.environ),
            )
        pages = Pages(f"http://{HOST}:{port}", process, log)
        try:
            _wait_until_ready(pages.url, process, log)
            yield pages, refresh
        finally:
            pages.close()


def follow(pages: Pages, refresh: Callable[[], object]) -> None:
    """Keep the pages up to date until their server ends."""
    while pages.runs:
        time.sleep(REFRESH_S)
        # A driver that writes at this moment is asked again at the next one.
        with contextlib.suppress(sqlite3.Error):
            refresh()


def _copy(study: Path, copy: Path) -> None:
    """Copy a study that may be written at the same time."""
    with (
        contextlib.closing(sqlite3.connect(f"{study.absolute().as_uri()}?mode=ro", uri=True)) as source,
        contextlib.closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < until:
        if process.poll() is not None:
            why = last_line(log.read_text(errors="replace"), "its log is empty")
            raise SweeperError(f"optuna-dashboard ended during start-up: {why}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=2):
            return
        time.sleep(0.2)
    raise SweeperError(f"optuna-dashboard did not answer within {START_TIMEOUT_S:.0f} s")
