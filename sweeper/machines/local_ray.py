"""Start a private Ray on this machine, with patience: Ray itself gives its processes half a minute."""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from sweeper.errors import SweeperError, UserError
from sweeper.machines.reaper import Reaper
from sweeper.text import first_line

__all__ = [
    "LOCAL_ENVIRONMENT",
    "TOKEN",
    "abandon_start",
    "check_temporary_folder",
    "gone_process",
    "leave",
    "start_ray",
    "stop_ray",
    "temporary_fault",
    "temporary_folder",
]

LOCAL_ENVIRONMENT = {
    # On Linux, too: the address of the machine is 127.0.0.1, and every process of Ray listens there alone.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Nothing reads the metrics of a private Ray, so none of its processes has to export them.
    "RAY_enable_metrics_collection": "0",
    # Ray would start Python processes before any is needed. Tune's and Train's actors have environments of
    # their own, so they would use none of these.
    "RAY_prestart_worker_first_driver": "0",
}
"""Settings of a private Ray; they must be set before Ray is imported. The caller's environment wins."""
TOKEN = Path("~/.ray/auth_token")
"""The file in which Ray keeps the user's token."""
SOCKET_BYTES = 107
"""The longest path of a Unix socket on Linux."""
SESSION_BYTES = len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")
"""What Ray appends to its temporary folder for the path of its longest-named socket."""

SERVERS = ("gcs_server", "raylet")
"""Names of the processes without which a private Ray cannot work."""
_before: list[set[int]] = []
"""The processes below this one before it started Ray; empty if it has not."""
_broken: list[bool] = []
"""Not empty if this process was the driver of a private Ray that died."""
ATTEMPTS = 4
PAUSE_S = 5.0
"""How long to wait after the first attempt; after the second twice as long, and so on."""
COMMAND_LINE_TRIES = 500
_reapers: list[Reaper] = []
_servers: dict[str, psutil.Process] = {}
"""The processes of the private Ray without which it cannot work, by name."""


def temporary_folder() -> Path:
    """The folder in which Ray creates a folder for each of its sessions."""
    return Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or "/tmp") / "ray"


def temporary_fault() -> str:
    """Return what is wrong with Ray's temporary folder, with the remedy, as a sentence; empty if nothing is.

    Ray itself would try for half a minute, and report only that its processes did not start.
    """
    folder = temporary_folder()
    named = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "")
    of = f" (from {named})" if named else ""
    remedy = "Set RAY_TMPDIR to a folder with a short path that this user can write, e.g. RAY_TMPDIR=/tmp/me."
    too_long = len(os.fsencode(folder)) + SESSION_BYTES - SOCKET_BYTES
    if too_long > 0:
        return (
            f"Ray's temporary folder {folder}{of} has a path that is {too_long} characters too long for a "
            f"socket. {remedy}"
        )
    # The folder itself is left to Ray, which creates it so that other users can write it, too.
    place = next(one for one in (folder, *folder.parents) if one.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return f"Ray's temporary folder {folder}{of} cannot be written: {error.strerror}. {remedy}"
    return ""


def check_temporary_folder() -> None:
    """Check Ray's temporary folder.

    Raises:
        UserError: If Ray could not use it.
    """
    fault = temporary_fault()
    if fault:
        raise UserError(fault)


def start_ray(options: Mapping[str, Any], report: Callable[[str], object] = str) -> Any:
    """Start Ray, again if it does not come up: on a busy machine its own patience may not suffice.

    Args:
        options: For ``ray.init``.
        report: Receives a sentence about every attempt that failed and is followed by another.

    Returns:
        Ray's context.

    Raises:
        UserError: If Ray's temporary folder cannot be used.
        SweeperError: If Ray does not start after several attempts.
    """
    check_temporary_folder()
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        before = {process.pid for process in psutil.Process().children()}
        _before[:] = [before]
        try:
            context = ray.init(**options)
            started = _started_since(before)
            _servers.update((_name(process), process) for process in started if _name(process) in SERVERS)
            _reapers.append(Reaper(started))
            _protect_token()
            return context
        except BaseException as error:
            ray.shutdown()
            _end_remains(before)
            # Ray raises a bare Exception when its processes take too long; options that are wrong stay so.
            if isinstance(error, ValueError) or not isinstance(error, Exception):
                raise
            if attempt == ATTEMPTS:
                raise SweeperError(
                    f"Ray does not start on this machine; {ATTEMPTS} attempts failed, the last one with: "
                    f"{first_line(error)}. Is the machine very busy, its memory used up, or the disk of "
                    f"{temporary_folder()} full? Try again when that has changed."
                ) from error
            report(f"Ray did not start: {first_line(error)}. Attempt {attempt + 1} of {ATTEMPTS} follows.")
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("an attempt either succeeds or is the last")


def _protect_token() -> None:
    """Let only its user read Ray's token: Ray writes it with the user's ordinary permissions."""
    path = TOKEN.expanduser()
    with contextlib.suppress(OSError):
        if path.stat().st_mode & 0o077:
            path.chmod(0o600)


def gone_process() -> str:
    """Return the name of a process of the private Ray that ended unexpectedly; empty if none did."""
    return next((name for name, process in _servers.items() if not _name(process)), "")


def leave(code: int) -> None:
    """End this process at once if its private Ray died: parts of Ray in it would wait a minute for the rest.

    Args:
        code: The exit code.
    """
    if _broken:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def abandon_start(code: int) -> None:
    """End this process, and the private Ray that it is starting, at once.

    Args:
        code: The exit code.
    """
    for before in _before:
        _end_remains(before)
    os._exit(code)


def stop_ray() -> None:
    """Disconnect from a cluster; a private Ray is stopped with everything in it."""
    import ray

    if gone_process():
        # Ray would wait a minute for a process that is gone, and then end this one.
        atexit.unregister(ray.shutdown)
        _broken.append(True)
    else:
        ray.shutdown()
    _servers.clear()
    while _reapers:
        _reapers.pop().close()


def _started_since(before: set[int]) -> list[psutil.Process]:
    """Processes of Ray's below this one that were not there before."""
    found = [process for process in psutil.Process().children() if process.pid not in before]
    for process in found[:]:
        with contextlib.suppress(psutil.Error):
            found += process.children(recursive=True)
    return [process for process in found if _is_rays(process)]


def _name(process: psutil.Process) -> str:
    """The name of a process; empty if it has ended."""
    with contextlib.suppress(psutil.Error):
        if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
            return process.name()
    return ""


def _is_rays(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("/ray/" in word or word.startswith("ray::") for word in _command_line(process))
    return False


def _command_line(process: psutil.Process) -> list[str]:
    """The words that a process was started with; empty if it has ended, or for a thread of the kernel.

    A process that is being started has none for a moment, though its number is known already.
    """
    for _ in range(COMMAND_LINE_TRIES):
        words = process.cmdline()
        if words:
            return words
        time.sleep(0.01)
    return []


def _end_remains(before: set[int]) -> None:
    """End what an attempt that failed has started: Ray itself forgets about it."""
    for process in _started_since(before):
        with contextlib.suppress(psutil.Error):
            process.kill()
