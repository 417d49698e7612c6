"""A Ray of our own on this machine, started with patience: Ray itself gives its processes half a minute."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from typing import Any

import psutil

from sweeper.errors import SweeperError
from sweeper.machines.reaper import Reaper
from sweeper.text import first_line

__all__ = ["start_ray", "stop_ray"]

ATTEMPTS = 4
PAUSE_S = 5.0
"""How long to wait after the first attempt; after the second twice as long, and so on."""
_reapers: list[Reaper] = []


def start_ray(options: Mapping[str, Any]) -> Any:
    """Start Ray, again if it does not come up: on a busy machine its own patience may not suffice.

    Args:
        options: For ``ray.init``.

    Returns:
        Ray's context.

    Raises:
        SweeperError: If Ray does not start after several attempts.
    """
    import ray

    for attempt in range(1, ATTEMPTS + 1):
        before = {process.pid for process in psutil.Process().children()}
        try:
            context = ray.init(**options)
            _reapers.append(Reaper(_started_since(before)))
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
                    "/tmp/ray full? Try again when that has changed."
                ) from error
            time.sleep(PAUSE_S * attempt)
    raise AssertionError("an attempt either succeeds or is the last")


def stop_ray() -> None:
    """Let go of a cluster; a Ray of our own is stopped with everything in it."""
    import ray

    ray.shutdown()
    while _reapers:
        _reapers.pop().close()


def _started_since(before: set[int]) -> list[psutil.Process]:
    """Processes of Ray's below this one that were not there before."""
    found = [process for process in psutil.Process().children() if process.pid not in before]
    for process in found[:]:
        with contextlib.suppress(psutil.Error):
            found += process.children(recursive=True)
    return [process for process in found if _is_rays(process)]


def _is_rays(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("/ray/" in word or word.startswith("ray::") for word in process.cmdline())
    return False


def _end_remains(before: set[int]) -> None:
    """End what an attempt that failed has started: Ray itself forgets about it."""
    for process in _started_since(before):
        with contextlib.suppress(psutil.Error):
            process.kill()
