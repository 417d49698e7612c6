"""The console of all commands. It prints commands as the user can type them."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

__all__ = ["ShellConsole", "program"]

LEAST_WIDTH, USUAL_WIDTH = 20, 80

QUOTED = "`sweeper "
"""How messages begin a command."""


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
    if isinstance(what, str) and QUOTED in what:
        return what.replace(QUOTED, f"`{program()} ")
    if isinstance(what, Text) and QUOTED in what.plain:
        parts = what.split(QUOTED)
        return Text(f"`{program()} ", style=what.style, end=what.end).join(parts)
    return what
