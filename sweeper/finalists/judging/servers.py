"""Serves the policies of a session, each in a process of its own, under its neutral name."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import psutil

from sweeper.errors import SweeperError
from sweeper.finalists.judging.addresses import Address
from sweeper.finalists.judging.session import REAL, Session, source_name
from sweeper.machines.reaper import Reaper
from sweeper.text import last_line

__all__ = ["Served", "serving"]

READY_S = 300.0
"""How long a server may take until it answers: it loads a library and a policy, and measures."""

END_S = 10.0

SERVE = ("-m", "sweeper.cli", "serve")
"""The command that serves a policy, for Python."""


@dataclass(frozen=True)
class Served:
    """A policy that is served.

    Attributes:
        letter: Its neutral name.
        url: What the robot's program connects to.
        token: What it must send; None if it needs none.
    """

    letter: str
    url: str
    token: str | None


@contextlib.contextmanager
def serving(session: Session, first: Address, letters: tuple[str, ...]) -> Iterator[list[Served]]:
    """Serve policies at ascending ports until the context is left, or this process dies.

    Args:
        session: The session.
        first: Where the first policy is served; with port 0 each has any that is free.
        letters: The neutral names of the policies to serve. A policy keeps its port if another one left.

    Raises:
        SweeperError: If a server does not start; contains the last line of its log.
    """
    processes: list[tuple[str, Path, subprocess.Popen[str]]] = []
    reaper: Reaper | None = None
    try:
        for place, letter in enumerate(session.letters):
            if letter in letters:
                address = replace(first, port=first.port + place) if first.port else first
                log = session.folder / REAL / f"serve-{letter}.log"
                processes.append((letter, log, _start(session, letter, address, log)))
        # If this process is killed, the ports must be free for the next one.
        reaper = Reaper(psutil.Process(process.pid) for _, _, process in processes)
        yield [replace(served, url=_reachable(served.url, first)) for served in map(_ready, processes)]
    finally:
        for _, _, process in processes:
            process.terminate()
        for _, _, process in processes:
            _end(process)
        if reaper is not None:
            reaper.close()


def _start(session: Session, letter: str, address: Address, log: Path) -> subprocess.Popen[str]:
    command = [sys.executable, *SERVE, source_name(session.folder, session.policy(letter))]
    command += ["--name", letter, "--host", address.host, "--port", str(address.port), "--json"]
    with log.open("w") as errors:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C is for the session, which ends its servers itself.
            start_new_session=True,
        )


def _reachable(url: str, address: Address) -> str:
    """The URL of a server as the robot's computer uses it."""
    return f"ws://{address.reachable}:{url.rpartition(':')[2]}"


def _ready(started: tuple[str, Path, subprocess.Popen[str]]) -> Served:
    """Wait for the line of JSON with which a server says where it listens."""
    letter, log, process = started
    lines: SimpleQueue[str] = SimpleQueue()
    assert process.stdout is not None
    stream = process.stdout

    def read() -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    threading.Thread(target=read, daemon=True).start()
    try:
        line = lines.get(timeout=READY_S)
    except Empty:
        line = ""
    try:
        told: dict[str, Any] = json.loads(line)
        return Served(letter, str(told["url"]), told.get("token"))
    except (ValueError, KeyError, TypeError, AttributeError):
        why = last_line(log.read_text(errors="replace"), "it wrote nothing")
        raise SweeperError(
            f"The server of policy {letter} did not start: {why}. Its log is {log}. To judge policies that "
            "run elsewhere: --serve none."
        ) from None


def _end(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
