"""The console of all commands. It prints commands as the user can type them."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["ShellConsole", "program"]

LEAST_WIDTH, USUAL_WIDTH = 20, 80

_COMMAND = re.compile(
    r"(?:(?<=`)|(?<=: )|(?<=^ {2})|(?<=^ {6})|^)sweeper"
    r"(?= (?:bench|budget|cache|cancel|check|compare|confirm|data|demo|doctor|eval|export|init|jobs|judge|"
    r"launch|list|logs|pause|report|results|resume|schema|serve|status|stop|sync|tune|ui|watch)\b)",
    re.MULTILINE,
)
"""Where a message has a command: in backquotes, after a colon, or on a line of its own."""


def program() -> str:
    """What calls this program in the user's shell: ``sweeper``, or its path if that is not on the PATH."""
    own = Path(sys.executable).with_name("sweeper")
    found = shutil.which("sweeper")
    if found is not None and (not own.is_file() or Path(found).resolve() == own.resolve()):
        return "sweeper"
    if not own.is_file():
        return f"{shlex.quote(sys.executable)} -m sweeper.cli"
    here = Path.cwd()
    return shlex.quote(str(own.relative_to(here) if own.is_relative_to(here) else own))


class ShellConsole(Console):
    """A console that replaces `sweeper` in the commands of messages by what can be typed.

    A terminal without a width (``COLUMNS=0``, as some programs set it) would show nothing, and one of a few
    columns a letter a line.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        if self.width < LEAST_WIDTH:
            self.width = LEAST_WIDTH if self.width > 0 else USUAL_WIDTH

    def print(self, *objects: Any, **settings: Any) -> None:
        """Print as `rich.console.Console.print` does."""
        super().print(*map(_typed, objects), **settings)


def _typed(what: Any) -> Any:
    if isinstance(what, str) and _COMMAND.search(what):
        return _COMMAND.sub(lambda _found: program(), what)
    if isinstance(what, Text) and _COMMAND.search(what.plain):
        typed, place = Text(style=what.style, end=what.end), 0
        for found in _COMMAND.finditer(what.plain):
            typed.append_text(what[place : found.start()]).append(program())
            place = found.end()
        return typed.append_text(what[place:])
    return what
