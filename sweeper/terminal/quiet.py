"""Send what Ray logs and prints in this process to a file, not to the terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from rich.console import Console

__all__ = ["quiet_ray"]

STDERR = 2
"""The file descriptor to which the part of Ray that is not Python prints."""


class _Log(logging.FileHandler):
    """Leaves out what a full disk does not take: `logging` would print a traceback for each message."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Do nothing."""

    def close(self) -> None:
        """Close the file, even if the disk does not take its last bytes."""
        with contextlib.suppress(OSError):
            super().close()


@contextlib.contextmanager
def quiet_ray(log: Path, console: Console) -> Iterator[None]:
    """Send what Ray logs and prints, and what else is printed in this process, to a file.

    Args:
        log: The file; lines are appended.
        console: Keeps its place on the terminal.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_kept(console))
        stack.enter_context(_logger_to(log))
        stack.enter_context(_prints_to(log))
        yield


@contextlib.contextmanager
def _kept(console: Console) -> Iterator[None]:
    """Let a console write where it writes now, although standard output and standard error change."""
    stream = console.file
    if stream not in (sys.stdout, sys.stderr):
        yield
        return
    with contextlib.ExitStack() as stack:
        console.file = stack.enter_context(_copy(stream)) if _is_stderr(stream) else stream
        try:
            yield
        finally:
            console.file = None  # type: ignore[assignment]  # rich then looks the stream up again


def _is_stderr(stream: IO[str]) -> bool:
    try:
        return stream.fileno() == STDERR
    except (OSError, ValueError):  # a stream in memory
        return False


def _copy(stream: IO[str]) -> IO[str]:
    return os.fdopen(os.dup(stream.fileno()), "w", 1, encoding=sys.stderr.encoding)


@contextlib.contextmanager
def _logger_to(log: Path) -> Iterator[None]:
    logger = logging.getLogger("ray")
    before, propagated, level = logger.handlers[:], logger.propagate, logger.level
    handler = _Log(log)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated
        logger.setLevel(level)
        handler.close()


@contextlib.contextmanager
def _prints_to(log: Path) -> Iterator[None]:
    sys.stdout.flush()
    sys.stderr.flush()
    terminal, file = os.dup(STDERR), log.open("a", 1)
    os.dup2(file.fileno(), STDERR)
    try:
        with contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
            yield
    finally:
        os.dup2(terminal, STDERR)
        os.close(terminal)
        with contextlib.suppress(OSError):  # a full disk
            file.close()
