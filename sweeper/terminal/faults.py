"""Print faults of a space file or a configuration, errors, and the progress of checks."""

from __future__ import annotations

import contextlib
import math
import re
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
    """Print one fault. No name and no place is cut: what is wider than the terminal has a line of its own."""
    console.print()
    parts = [Text(text, style) for text, style in ((place, "cyan"), (name, "bold")) if text]
    beside = len(f"  {place}  {name}") <= console.width
    for title in [Text("  ").join(parts)] if beside else parts:
        _print_whole(console, Text("  ") + title)
    for text, style in ((problem, ""), (remedy, "green")):
        for line in wrapped(text, console.width - 4):
            _print_whole(console, Text.assemble("    ", (line, style)))


def _print_whole(console: Console, line: Text) -> None:
    """Print a line that only the terminal breaks: it can be copied, and an editor can open a place."""
    console.print(line, soft_wrap=True)


def wrapped(text: str, width: int) -> list[str]:
    """Break a text at spaces into lines of at most ``width`` characters, so that it can be copied.

    A word that is wider has a line of its own. Words in backquotes stay together if they fit into a line. An
    indented line, which is one to write into a file, is not broken.
    """
    lines: list[str] = []
    for paragraph in text.splitlines():
        if paragraph.startswith(" "):
            lines.append(paragraph)
            continue
        line = ""
        for word in _words(paragraph, width):
            if line and len(line) + 1 + len(word) > width:
                lines.append(line)
                line = word
            else:
                line = f"{line} {word}" if line else word
        lines += [line] if line else []
    return lines


def _words(text: str, width: int) -> list[str]:
    found: list[str] = []
    for word in _WORD.findall(text):
        found += [word] if len(word) <= width else word.split()
    return found


_WORD = re.compile(r"[^\s`]*`[^`]*`\S*|\S+")
"""A word, or several between backquotes, with what touches them."""


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
