"""Reading space files: YAML in which every value keeps the line it was read from.

PyYAML composes the nodes; this module turns them into values. It differs from YAML 1.1 if that would
surprise: ``1e-4`` is a number, ``on`` and ``no`` are texts, ``010`` is ten. A duplicate key is a fault. Size,
depth and the number of values after aliases are limited.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from sweeper.errors import SpecError, SpecFault
from sweeper.masking import masked
from sweeper.spec.slips import strange_character
from sweeper.text import is_there

__all__ = ["FaultList", "Grouped", "Node", "Override", "Place", "parse_override", "read_file"]

MAX_BYTES = 1_000_000

MAX_DEPTH = 24

DATASET = "meta/info.json"
"""A file of every LeRobot dataset, whose folder may be named in place of a space."""

CURLY_QUOTES = tuple("“”„«»‘’‚")

MAX_NODES = 50_000
"""Values of a file after its aliases are followed; a file of the largest size without aliases has fewer."""


@dataclass(frozen=True)
class Place:
    """Where something was written: ``file:line``, or the argument of the command line."""

    label: str
    line: int = 0


@dataclass(frozen=True)
class Node:
    """A value and where it was written.

    Attributes:
        place: The line of the value, or of the key it belongs to.
        value: A number, text, truth value or None; a list of nodes; or a mapping from texts to nodes.
    """

    place: Place
    value: Any

    def plain(self) -> Any:
        """The value without places."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


class Grouped(float):
    """A number like 20.000: twenty, or twenty thousand in countries that group digits by dots."""


class FaultList:
    """Collects faults, so that the user sees all of them at once."""

    def __init__(self) -> None:
        self._faults: list[SpecFault] = []

    def add(self, place: Place, name: str, problem: str, remedy: str = "") -> None:
        """Add a fault, unless it was added before."""
        fault = SpecFault(place.label, place.line, name, problem, remedy)
        if fault not in self._faults:
            self._faults.append(fault)

    def __len__(self) -> int:
        return len(self._faults)

    def __iter__(self) -> Iterator[SpecFault]:
        """The faults in the order of the file, those of arguments first."""
        return iter(sorted(self._faults, key=lambda fault: fault.line))

    def raise_any(self) -> None:
        """Raise the faults that were collected.

        Raises:
            SpecError: If there is a fault.
        """
        if self._faults:
            raise SpecError(tuple(self))


class _Loader(yaml.SafeLoader):
    """Composes nodes with the rules of this module for plain words, and to a limited depth."""

    # YAML 1.1 guesses types from words; only the guesses that people expect are kept.
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 - PyYAML's protocol
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            problem = f"nested more than {MAX_DEPTH} levels deep"
            raise yaml.composer.ComposerError(None, None, problem, self.peek_event().start_mark)  # type: ignore[no-untyped-call]
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


_NULL, _BOOL, _INT, _FLOAT, _STR, _MAP, _SEQ = (
    f"tag:yaml.org,2002:{kind}" for kind in ("null", "bool", "int", "float", "str", "map", "seq")
)


for _tag, _pattern, _first in (
    (_NULL, r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    (_BOOL, r"^(?:true|True|TRUE|false|False|FALSE)$", list("tTfF")),
    (_INT, r"^[-+]?[0-9][0-9_]*$", list("-+0123456789")),
    (
        _FLOAT,
        r"^(?:[-+]?(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$",
        list("-+.0123456789"),
    ),
):
    _Loader.add_implicit_resolver(_tag, re.compile(_pattern), _first)


def read_file(path: Path, known: Sequence[str] = ()) -> tuple[str, Node]:
    """Read a YAML file whose top is a mapping.

    Args:
        path: The file.
        known: Names that are taken in place of a file's; a missing file may be one of them, misspelt.

    Returns:
        Its text, and the mapping.

    Raises:
        SpecError: If the file is missing, too large, not UTF-8, or not valid YAML for this module.
    """
    whole = Place(str(path))
    if not (is_there(path) and path.is_file()):
        problem = "is not a file." if is_there(path) else "the file does not exist."
        raise SpecError([SpecFault(whole.label, 0, "", problem, _similar_files(path, known))])
    size = path.stat().st_size
    if size > MAX_BYTES:
        remedy = f"At most {MAX_BYTES / 1e6:g} MB is allowed. Check that this is the right file."
        raise SpecError(
            [SpecFault(whole.label, 0, "", f"{size / 1e6:.1f} MB is too large for a space.", remedy)]
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is not text: {error.reason} at byte {error.start}."
        raise SpecError([SpecFault(whole.label, 0, "", problem, "Save it as UTF-8.")]) from None
    except OSError as error:
        raise SpecError([SpecFault(whole.label, 0, "", f"cannot be read: {error.strerror}.")]) from None
    faults = FaultList()
    root = _compose(text, str(path), faults)
    faults.raise_any()
    if root is None or root.value is None:
        raise SpecError(
            [SpecFault(whole.label, 0, "", "is empty.", "docs/spaces.md describes what a space needs.")]
        )
    if not isinstance(root.value, dict):
        problem = f"contains a {_kind(root.value)}, not a space."
        raise SpecError(
            [SpecFault(whole.label, 1, "", problem, "Begin with `name: ...`; see docs/spaces.md.")]
        )
    return text, root


def _similar_files(path: Path, known: Sequence[str]) -> str:
    if is_there(path / DATASET):
        return (
            f"It is a dataset: `sweeper launch real_robot config.dataset.root={path}` searches on it, and "
            f"`sweeper init --dataset {path}` writes a space for it."
        )
    folder = path if is_there(path) and path.is_dir() else path.parent
    if not (is_there(folder) and folder.is_dir()):
        return f"The folder {folder} does not exist either."
    names = sorted(entry.name for entry in folder.iterdir() if entry.suffix in (".yaml", ".yml"))
    near = difflib.get_close_matches(path.name, names, n=1, cutoff=0.65)
    if near:
        return f"Did you mean {folder / near[0]}?"
    near = difflib.get_close_matches(path.stem, known, n=1, cutoff=0.65)
    if near and path.name == str(path):
        return f"Did you mean {near[0]}, which comes with the package?"
    return f"In {folder}: {', '.join(names[:8])}." if names else ""


def _compose(text: str, file: str, faults: FaultList) -> Node | None:
    """Turn a YAML text into nodes with places; None if it is empty, or broken (a fault then)."""
    try:
        tree = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 0 if mark is None else mark.line + 1
        remedy = _strange_hint(text, line) or (
            "Indent with spaces, not tabs."
            if "'\\t'" in str(error.problem)
            else _yaml_hint(str(error.problem))
        )
        faults.add(Place(f"{file}:{line}", line), "", f"is not valid YAML: {error.problem}.", remedy)
        return None
    except yaml.YAMLError as error:
        position = getattr(error, "position", 0)
        line = text.count("\n", 0, position) + 1
        problem = f"is not valid YAML: {getattr(error, 'reason', str(error))}."
        faults.add(Place(f"{file}:{line}", line), "", problem, "Remove the character.")
        return None
    return None if tree is None else _Conversion(file, faults).node(tree)


LINES_BEFORE = 2
"""A missing colon is noticed up to so many lines later."""


_FREE = re.compile(r"""(^|\s)#.*|"[^"]*"|'[^']*'""")


def _strange_hint(text: str, line: int) -> str:
    """Name a character near a line that only looks like a sign of YAML; empty if there is none.

    Comments and texts in quotes may have any.
    """
    lines = text.split("\n")
    for number in range(max(1, line - LINES_BEFORE), min(line, len(lines)) + 1):
        found = strange_character(_FREE.sub("", lines[number - 1]))
        if found is not None:
            return f"Line {number} contains {found[0]}. {found[1]}"
    return ""


def _yaml_hint(problem: str) -> str:
    if "mapping values are not allowed" in problem:
        return "Put a text with a colon in quotes, and give the entries of a mapping the same indentation."
    if "expected ',' or" in problem or "did not find expected" in problem:
        return "Check for a missing bracket or brace."
    return ""


class _Conversion:
    """Turns PyYAML's nodes into ours."""

    def __init__(self, file: str, faults: FaultList) -> None:
        self.file = file
        self.faults = faults
        self.open: set[int] = set()
        self.count = 0

    def node(self, node: yaml.Node) -> Node:
        place = self.place(node)
        self.count += 1
        if self.count > MAX_NODES:
            problem = f"has more than {MAX_NODES} values after its aliases are followed."
            raise SpecError([SpecFault(self.file, 0, "", problem, "Write it without aliases.")])
        if id(node) in self.open:
            self.faults.add(place, "", "refers to itself.", "Write it without aliases.")
            return Node(place, None)
        self.open.add(id(node))
        try:
            if not isinstance(node, yaml.ScalarNode) and node.tag not in (_MAP, _SEQ):
                self.faults.add(place, "", f"the tag {node.tag} is not supported.", "Write plain values.")
            if isinstance(node, yaml.MappingNode):
                return Node(place, self.mapping(node))
            if isinstance(node, yaml.SequenceNode):
                return Node(place, [self.node(element) for element in node.value])
            return Node(place, self.scalar(node, place))
        finally:
            self.open.discard(id(node))

    def place(self, node: yaml.Node) -> Place:
        line = node.start_mark.line + 1
        return Place(f"{self.file}:{line}", line)

    def mapping(self, node: yaml.MappingNode) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for key_node, value_node in node.value:
            place = self.place(key_node)
            if not isinstance(key_node, yaml.ScalarNode):
                self.faults.add(place, "", "a name must be a text.", "Write `name: value`.")
                continue
            key = self.name(key_node.value, place)
            if key in found:
                first = found[key].place
                self.faults.add(
                    place, key, f"is already defined in line {first.line}.", "Remove one of them."
                )
                continue
            found[key] = Node(place, self.node(value_node).value)
        return found

    def name(self, written: str, place: Place) -> str:
        """A name without characters that cannot be seen, each of which is a fault."""
        strange = strange_character(written)
        if written == "<<":
            self.faults.add(place, written, "merge keys are not supported.", "Write the entries out.")
        elif strange is not None:
            self.faults.add(place, written, f"contains {strange[0]}.", strange[1])
        return "".join(letter for letter in written if strange_character(letter) is None)

    def scalar(self, node: yaml.Node, place: Place) -> Any:
        text: str = node.value
        if node.tag == _STR:
            quotes = text[:1] in CURLY_QUOTES and text[-1:] in CURLY_QUOTES
            if quotes and getattr(node, "style", None) is None:
                remedy = "Write straight quotes, \" or ', or none."
                self.faults.add(place, "", f"{text[:40]} has typographic quotes.", remedy)
            return text
        try:
            if node.tag == _NULL:
                return None
            if node.tag == _BOOL:
                return {"true": True, "false": False}[text.lower()]
            if node.tag == _INT:
                return int(text.replace("_", ""))
            if node.tag == _FLOAT:
                plain = text.replace("_", "").lower()
                if re.fullmatch(r"[1-9]\d{0,2}\.\d{3}", plain):
                    return Grouped(plain)
                return float(plain.replace(".inf", "inf").replace(".nan", "nan"))
        except (KeyError, ValueError):
            self.faults.add(place, "", f"{text[:40]!r} cannot be read as {node.tag}.")
            return None
        self.faults.add(place, "", f"the tag {node.tag} is not supported.", "Write plain values.")
        return None


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return "list"
    return "mapping" if isinstance(value, dict) else "single value"


@dataclass(frozen=True)
class Override:
    """One ``key=value`` of the command line.

    Attributes:
        place: The argument as it was typed, without credentials.
        key: The text before the ``=``.
        raw: The text after it.
        value: The same, read as YAML.
    """

    place: Place
    key: str
    raw: str
    value: Node


def parse_override(argument: str, faults: FaultList) -> Override | None:
    """Read ``key=value``; None and a fault if the argument is something else."""
    place = Place(f"argument {masked(argument)}")
    key, separator, raw = argument.partition("=")
    key = key.strip()
    if not separator or not key or key.startswith("-"):
        remedy = "Write key=value, e.g. budget.trials=8 or parameters.optimizer.lr.max=3e-4."
        if argument.strip() and is_there(Path(argument)) and Path(argument).is_dir():
            remedy = f"Write config.dataset.root={argument} if it is the dataset."
        faults.add(place, "", "is not an override.", remedy)
        return None
    strange = strange_character(key) or (strange_character(raw[0] + raw[-1]) if raw else None)
    if strange is not None:
        # Copied from a page: a path or number with such quotes would be another one.
        faults.add(place, key, f"contains {strange[0]}.", strange[1])
        return None
    if not raw.strip():
        # Usually an unset variable of the shell: the sweep would silently run with other values.
        faults.add(place, key, "has no value.", f"Write {key}=null to remove the setting.")
        return None
    if len(raw) > MAX_BYTES:
        faults.add(place, key, "is too long.")
        return None
    found = FaultList()
    node = _compose(raw, "argument", found)
    if len(found) or node is None:
        # A path such as `a: b` or `[x` is a text that happens not to be YAML; a caller that wants a text
        # uses it.
        return Override(place, key, raw, Node(place, raw if len(found) else None))
    return Override(place, key, raw, _placed(node, place))


def _placed(node: Node, place: Place) -> Node:
    """The same value with another place."""
    if isinstance(node.value, dict):
        return Node(place, {key: _placed(value, place) for key, value in node.value.items()})
    if isinstance(node.value, list):
        return Node(place, [_placed(value, place) for value in node.value])
    return Node(place, node.value)
