"""Print faults of a space file or a configuration, errors, and the progress of checks."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.text import Text

from sweeper.errors import SpecError
from trainables.interface import ConfigError

__all__ = ["checking", "print_config_error", "print_error", "print_spec_error"]

CHECKING_EVERY_S = 10.0
"""Seconds between two progress lines of the checks, in a log."""


def print_spec_error(console: Console, error: SpecError) -> None:
    """Print every fault of a space file: place, problem and remedy."""
    _heading(console, len(error.faults), "the space file")
    for fault in error.faults:
        # The place of an argument contains its name.
        name = fault.name if fault.line or not fault.place.startswith("argument") else ""
        _fault(console, fault.place, name, fault.problem, fault.remedy)


def print_config_error(console: Console, error: ConfigError) -> None:
    """Print every fault that the trainable found."""
    _heading(console, len(error.faults), "the configuration")
    for fault in error.faults:
        _fault(console, "", fault.where, fault.problem, fault.remedy)


def print_error(console: Console, message: str) -> None:
    """Print an error that is one message."""
    console.print(Text.assemble(("✗ ", "bold red"), message), soft_wrap=True)


def _heading(console: Console, count: int, what: str) -> None:
    number = "1 fault" if count == 1 else f"{count} faults"
    words = (f"Found {number} in {what}. ", "bold")
    console.print(Text.assemble(("✗ ", "bold red"), words, "Nothing was started."))


def _fault(console: Console, place: str, name: str, problem: str, remedy: str) -> None:
    console.print()
    # Places stay on one line, so that a terminal or an editor can open them.
    title = Text.assemble((f"{place}  " if place else "", "cyan"), (name, "bold"))
    console.print(indented(title, 2), soft_wrap=True)
    body = Text.assemble(problem, (f"\n{remedy}" if remedy else "", "green"))
    console.print(indented(body, 4))


def indented(what: RenderableType, columns: int) -> Padding:
    return Padding(what, (0, 0, 0, columns), expand=False)


@contextlib.contextmanager
def checking(console: Console, name: str, what: str = "Checking") -> Iterator[Callable[[str], None]]:
    """Show that a check runs. Yields a function that shows its progress, e.g. a download."""
    console.print(Text(f"{what} {name} …", style="dim"), soft_wrap=True)
    if not console.is_terminal:
        last_s = -math.inf

        def line(message: str) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= CHECKING_EVERY_S:
                last_s = time.monotonic()
                console.print(Text(message, style="dim"), soft_wrap=True)

        yield line
        return
    with console.status("") as status:
        yield lambda message: status.update(Text(message, style="dim"))
