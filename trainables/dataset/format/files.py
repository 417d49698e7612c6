"""The files of a dataset's folder: which there are, what is in their place, and JSON as people save it."""

from __future__ import annotations

import filecmp
import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.interface import Fault

__all__ = [
    "FoundFiles",
    "Template",
    "copied_from",
    "fetch_remedy",
    "find_parquet",
    "foreign_content",
    "inside",
    "is_lfs_pointer",
    "listed",
    "pointers_error",
    "read_json",
    "read_lines",
]

LISTED_AT_MOST = 10
LONGEST_NAME_B = 255
"""What the file systems in use take for one part of a path."""

LFS_POINTER = b"version https://git-lfs.github.com/spec/"
LONGEST_POINTER_B = 1024
PARQUET = b"PAR1"
APPLE_DOUBLE = b"\0\5\x16\7"
COPY_AGAIN = "Copy or fetch the file again."


# -- what is in a file


def is_lfs_pointer(path: Path) -> bool:
    """Whether a file is a pointer of Git LFS, which is there instead of a file that was not downloaded."""
    try:
        return path.stat().st_size <= LONGEST_POINTER_B and _head(path).startswith(LFS_POINTER)
    except OSError:
        return False


def foreign_content(path: Path) -> str:
    """Say why a file cannot be what its name promises, as the end of a sentence; empty if it can."""
    try:
        size_b = path.stat().st_size
        head = _head(path)
        if size_b == 0:
            return "is empty (0 bytes): the recording or the copy was cut off"
        if head.startswith(LFS_POINTER):
            return "is a pointer of Git LFS: the file itself was not downloaded"
        if head.startswith(APPLE_DOUBLE):
            return "is a file of macOS (AppleDouble) with attributes of another file"
        if head.lstrip().lower().startswith((b"<!doctype html", b"<html")):
            return "is a web page: the download got an answer in HTML instead of the file"
        if not head.strip(b"\0"):
            return "contains only zeros: the disk was full or the copy was cut off"
        if path.suffix == ".parquet" and head.startswith(PARQUET) and _tail(path) != PARQUET:
            return "has no footer: the recorder or the copy was cut off before the file was complete"
    except OSError:
        return ""
    return ""


def fetch_remedy(problem: str, otherwise: str) -> str:
    """What to do about a file with `foreign_content`; ``otherwise`` if it is not a pointer of Git LFS."""
    return "Run `git lfs pull` in the dataset's folder." if "Git LFS" in problem else otherwise


def pointers_error(root: Path, files: Sequence[Path]) -> Exception | None:
    """The error if some of a dataset's files are pointers of Git LFS; says how many, and what to run."""
    pointers = [path for path in files if is_lfs_pointer(path)]
    if not pointers:
        return None
    first = pointers[0].relative_to(root).as_posix()
    problem = (
        f"{len(pointers):,} of {len(files):,} files are pointers of Git LFS, first {first}: "
        "the files themselves were not downloaded."
    )
    remedy = "Install git-lfs, and run `git lfs pull` in this folder."
    return DatasetError([Fault(str(root), problem, remedy, (), tuple(str(path) for path in pointers))])


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(64)


def _tail(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-len(PARQUET), 2)
        return file.read()


# -- JSON


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        DatasetError: If the file is missing or is not a JSON object.
    """
    try:
        value = json.loads(_text(path))
    except ValueError as error:
        raise dataset_error(str(path), f"is not valid JSON: {error}.", COPY_AGAIN) from error
    if not isinstance(value, dict):
        raise dataset_error(str(path), f"is not a JSON object, but a {type(value).__name__}.", COPY_AGAIN)
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    r"""Read JSON lines: objects, each on a line that ends with ``\n`` and nothing else.

    Objects over several lines, and a list of objects, are read too: editors save them so.

    Raises:
        DatasetError: If the file is missing, or contains something else; names the line.
    """
    text = _text(path)
    rows: list[Any] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                several = _objects(text)
                if several is None:
                    last = not any(other.strip() for other in lines[number:])
                    cut = " The line is the last one: the file may be cut off." if last else ""
                    problem = f"line {number} is not valid JSON: {error}.{cut}"
                    raise dataset_error(str(path), problem, COPY_AGAIN) from error
                rows = several
                break
    if len(rows) == 1 and isinstance(rows[0], list):
        rows = rows[0]
    wrong = [row for row in rows if not isinstance(row, dict)]
    if wrong:
        problem = f"contains {str(wrong[0])[:40]!r}, which is not a JSON object."
        raise dataset_error(str(path), problem, "Each line must be an object.")
    return rows


def _objects(text: str) -> list[Any] | None:
    """Every JSON value of a text, however it is broken into lines; None if there is something else."""
    decoder = json.JSONDecoder()
    values: list[Any] = []
    place = 0
    while True:
        while place < len(text) and text[place] in " \t\r\n,":
            place += 1
        if place == len(text):
            return values
        try:
            value, place = decoder.raw_decode(text, place)
        except ValueError:
            return None
        values.append(value)


def _text(path: Path) -> str:
    """A text file without the byte-order mark that some editors put before it."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise dataset_error(str(path), "is missing.", COPY_AGAIN) from error
    except OSError as error:
        raise dataset_error(str(path), f"cannot be read: {error.strerror}.", COPY_AGAIN) from error
    foreign = foreign_content(path)
    if foreign:
        raise dataset_error(str(path), f"{foreign}.", fetch_remedy(foreign, COPY_AGAIN))
    encoding = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        problem = f"is not text in UTF-8: byte {error.start} is {content[error.start]:#04x}."
        raise dataset_error(str(path), problem, "Save it as UTF-8.") from error


# -- names of files


@dataclass(frozen=True)
class Template:
    """Where files are, as info.json says it with placeholders.

    Attributes:
        key: The key of info.json.
        text: The template.
        usual: LeRobot's own template.
        synonyms: What each placeholder means.
    """

    key: str
    text: str
    usual: str
    synonyms: Mapping[str, str]

    def fill(self, values: Mapping[str, object]) -> list[str]:
        """The places of a file: the template's first, then LeRobot's own, if they differ."""
        named = {name: values[meaning] for name, meaning in self.synonyms.items() if meaning in values}
        every = [self.usual] if self.problem() else [self.text, self.usual]
        return list(dict.fromkeys(inside(template.format(**named)) for template in every))

    def problem(self) -> str:
        """Say what is wrong with the template; empty if nothing is."""
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(self.text) if name is not None]
            unknown = [name for name in names if name not in self.synonyms]
            if unknown:
                return f"{self.key} is {self.text!r}: {{{unknown[0]}}} is not a placeholder"
            self.text.format(**{name: "k" if self.synonyms[name] == "video_key" else 0 for name in names})
        except (ValueError, IndexError, KeyError, TypeError, AttributeError) as error:
            return f"{self.key} is {self.text!r}: {error}"
        return ""

    def allowed(self) -> str:
        """Name the placeholders, and LeRobot's template."""
        names = ", ".join(f"{{{name}}}" for name in dict.fromkeys(self.synonyms.values()))
        return f"Allowed are {names}. LeRobot's own is {self.usual}."


def _pattern(template: str) -> re.Pattern[str]:
    """A pattern of the paths that a template makes."""
    pieces = []
    for literal, name, _, _ in string.Formatter().parse(template):
        pieces.append(re.escape(literal))
        if name is not None:
            pieces.append(r"\d+")
    return re.compile("".join(pieces))


@dataclass(frozen=True)
class FoundFiles:
    """The parquet files of a folder.

    Attributes:
        used: Those that belong to the dataset, relative to its root, ascending.
        skipped: The others: hidden files, copies, files of other programs.
        elsewhere: Whether the used ones are not where info.json says.
    """

    used: tuple[str, ...]
    skipped: tuple[str, ...]
    elsewhere: bool = False

    @property
    def beside(self) -> tuple[str, ...]:
        """The skipped files that LeRobot would read too: visible ones in the folders of the used ones."""
        folders = {PurePosixPath(name).parent for name in self.used}
        beside = [name for name in self.skipped if PurePosixPath(name).parent in folders]
        return tuple(name for name in beside if not PurePosixPath(name).name.startswith("."))


def find_parquet(root: Path, folder: str, templates: Sequence[str]) -> FoundFiles:
    """Find the parquet files of ``folder`` that the first of some templates describes, or else any.

    LeRobot reads ``folder/*/*.parquet``; hidden files and files with other names beside them are skipped.
    """
    every = sorted(path.relative_to(root).as_posix() for path in (root / folder).rglob("*.parquet"))
    shown = [name for name in every if not any(part.startswith(".") for part in name.split("/"))]
    for number, template in enumerate(templates):
        pattern = _pattern(template)
        used = [name for name in shown if pattern.fullmatch(name)]
        if used:
            return FoundFiles(tuple(used), _without(every, used), elsewhere=number > 0)
    level = folder.count("/") + 2
    used = [name for name in shown if name.count("/") == level] or shown
    return FoundFiles(tuple(used), _without(every, used), elsewhere=bool(used))


def _without(every: Sequence[str], used: Sequence[str]) -> tuple[str, ...]:
    taken = set(used)
    return tuple(name for name in every if name not in taken)


def copied_from(root: Path, name: str, used: Sequence[str]) -> str | None:
    """The used file that a skipped one has the same content as; None if there is none."""
    size_b = (root / name).stat().st_size
    for other in used:
        same_size = (root / other).stat().st_size == size_b
        if same_size and filecmp.cmp(root / name, root / other, shallow=False):
            return other
    return None


def inside(path: str, said_by: str = "the metadata") -> str:
    """Check that a path from a dataset's metadata, or from a listing, stays in the dataset's folder.

    Links are not followed: the hub's cache is made of links that leave the folder, and rightly so.

    Raises:
        DatasetError: If it is absolute or climbs out, or no file system would take it.
    """
    parts = PurePosixPath(path.replace("\\", "/"))
    if "\0" in path or any(len(part.encode("utf-8", "replace")) > LONGEST_NAME_B for part in parts.parts):
        raise dataset_error(
            f"{path[:80]!r}...", f"a path in {said_by} is not a valid file name.", "Repair it."
        )
    if parts.is_absolute() or ".." in parts.parts or ":" in (parts.parts[0] if parts.parts else ""):
        raise dataset_error(repr(path), f"a path in {said_by} leaves the dataset's folder.", "Repair it.")
    return parts.as_posix()


def listed(numbers: Sequence[object], most: int = LISTED_AT_MOST) -> str:
    """Name at most a few of many: ``[1, 2, 3, ... 120 in all]``."""
    shown = ", ".join(str(number) for number in numbers[:most])
    more = f", ... {len(numbers)} in all" if len(numbers) > most else ""
    return f"[{shown}{more}]"
