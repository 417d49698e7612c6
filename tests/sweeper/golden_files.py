"""Golden files: what was printed once, to compare with what is printed now.

Make them again with `python -m pytest --remake-golden` and the path of the tests that compare them, and look
at the difference before it is committed. The first line of each file says so, and with which versions of the
packages that lay texts out it was made: another version may break lines elsewhere.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

REMAKE = "python -m pytest --remake-golden"
COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class GoldenFiles:
    """The golden files of a folder.

    Args:
        folder: Where they are.
        remake: Whether a text is written instead of compared.
    """

    def __init__(self, folder: Path, *, remake: bool) -> None:
        self.folder = folder
        self.remake = remake

    def compare(
        self,
        name: str,
        text: str,
        *,
        made_with: Iterable[str] = (),
        words: Mapping[str, str] | None = None,
    ) -> None:
        """Compare a text with a golden file.

        Args:
            name: The file, below the folder.
            text: What was printed; colours and spaces at the ends of lines are left out.
            made_with: Packages that the text depends on, beside our own.
            words: What is different each time, e.g. a path, and the fixed word that stands for it.
        """
        text = normal(text, words or {})
        path = self.folder / name
        if self.remake and (not path.exists() or self.text_of(name) != text):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"# {REMAKE}: {_versions(made_with)}\n{text}", encoding="utf-8")
        assert path.exists(), f"there is no {path}: {REMAKE}"
        assert text == self.text_of(name), f"{path} was made with {self.header_of(name)}"

    def text_of(self, name: str) -> str:
        """What a golden file holds below its first line."""
        return (self.folder / name).read_text(encoding="utf-8").partition("\n")[2]

    def header_of(self, name: str) -> str:
        """The versions that a golden file was made with."""
        return (self.folder / name).read_text(encoding="utf-8").partition("\n")[0].rpartition(": ")[2]


def normal(text: str, words: Mapping[str, str]) -> str:
    """A text without what is different each time."""
    text = COLOURS.sub("", text)
    for varying, word in words.items():
        text = text.replace(varying, word)
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def _versions(packages: Iterable[str]) -> str:
    found = [f"{package} {importlib.metadata.version(package)}" for package in packages]
    return ", ".join([f"Python {platform.python_version()}", *found])
