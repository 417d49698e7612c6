"""Takes the pictures in docs/figures, small enough for a repository.

python docs/take_picture.py ADDRESS FILE [WIDTH] [HEIGHT]       of a page
python docs/take_picture.py PROGRAM.py FILE [WIDTH] [HEIGHT]    of Python with the lines of a program

Needs chromium and Pillow. docs/tracking.md and docs/checkpoints.md name the pages and programs.
"""

from __future__ import annotations

import code
import contextlib
import io
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 1400, 900
DRAWN_WITHIN_MS = 30_000
COLOURS = 128
MOST_BYTES = 150_000


def take(address: str, file: Path, width: int = WIDTH, height: int = HEIGHT) -> None:
    """Open a page in a headless Chromium, and write what it shows as PNG of few colours.

    Raises:
        SystemExit: If there is no picture, or it is too large.
    """
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder) / "shot.png"
        command = [
            "chromium",
            *("--headless", "--no-sandbox", "--no-first-run", "--disable-gpu", "--hide-scrollbars"),
            *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
            *(f"--user-data-dir={folder}/browser", f"--window-size={width},{height}"),
            *(f"--virtual-time-budget={DRAWN_WITHIN_MS}", f"--screenshot={shot}", address),
        ]
        subprocess.run(command, check=False, capture_output=True, timeout=180)
        if not shot.exists():
            raise SystemExit(f"chromium took no picture of {address}. Is the page served?")
        with Image.open(shot) as picture:
            picture.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, optimize=True)
    size = file.stat().st_size
    if size > MOST_BYTES:
        limit = f"at most {MOST_BYTES:,} are allowed. Choose a smaller WIDTH or HEIGHT."
        raise SystemExit(f"{file} has {size:,} bytes; {limit}")


def session(program: Path) -> str:
    """What a terminal shows if Python is given a program line by line; warnings and errors are not in it."""
    shown = io.StringIO()
    console = code.InteractiveConsole()
    unfinished = False
    with contextlib.redirect_stdout(shown):
        for line in program.read_text().splitlines():
            print("..." if unfinished else ">>>", line)
            unfinished = console.push(line)
    return shown.getvalue()


def terminal_page(text: str, folder: Path) -> str:
    """A page that looks like a terminal with a text; returns its address."""
    from rich.console import Console
    from rich.syntax import Syntax

    console = Console(record=True, width=110, file=io.StringIO(), force_terminal=True)
    console.print(Syntax(text, "pycon", theme="monokai", word_wrap=True))
    page = folder / "session.html"
    page.write_text(
        console.export_html(inline_styles=True).replace("<body>", '<body style="background:#272822">')
    )
    return page.as_uri()


def main(what: str, file: Path, *size: int) -> None:
    """Take a picture of a page, or of a session with a program."""
    if not what.endswith(".py"):
        take(what, file, *size)
        return
    with tempfile.TemporaryDirectory() as folder:
        take(terminal_page(session(Path(what)), Path(folder)), file, *size)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *(int(word) for word in sys.argv[3:5]))
