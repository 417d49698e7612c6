"""Fields of a configuration, what is wrong with a value, and metrics."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainables.ranges import parse_choice

__all__ = [
    "ENVIRONMENT",
    "EVAL_EVERY",
    "LOG_EVERY",
    "PRECISION",
    "STEPS",
    "ConfigError",
    "Fault",
    "FieldInfo",
    "Metric",
    "Phase",
    "TrainableError",
    "expanded",
    "is_url",
]

Phase = Literal["data", "train", "inference"]


_URL = re.compile(r"[A-Za-z][\w+.:-]+://")


STEPS = "train.steps"
"""By convention the field for the length of a run; the next two are for how often it reports."""


EVAL_EVERY = "train.eval_every"


LOG_EVERY = "train.log_every"


PRECISION = "train.precision"
"""By convention the field for the arithmetic of training: fp32, bf16 or fp16."""


ENVIRONMENT = "rollout.env"
"""By convention the field that names the simulator; null if there is none."""


def is_url(text: str) -> bool:
    """Whether a text is the address of a folder in a store (``s3://bucket/folder``), not a local path."""
    return _URL.match(text) is not None


def expanded(path: str | Path) -> Path:
    """The path with ``~`` filled in; unchanged if that is an account without a home folder here."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class TrainableError(Exception):
    """Base of the errors that a trainable raises on purpose.

    Every subclass has a ``reason``: one stable word by which a service classifies failures.
    """

    reason = "error"


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a configuration, as a small report.

    Attributes:
        where: The dotted name of the wrong field, or the wrong file.
        problem: What is wrong, with the offending value.
        remedy: What is allowed and what to do.
        episodes: The episodes that cause it; empty if leaving out episodes is not a remedy.
        files: Every file that is wrong, if there are several.
    """

    where: str
    problem: str
    remedy: str = ""
    episodes: tuple[int, ...] = ()
    files: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" {self.remedy}" if self.remedy else "")


class ConfigError(TrainableError):
    """The configuration cannot be trained; contains every fault that was found."""

    reason = "config"

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))

    def __reduce__(self) -> tuple[type[ConfigError], tuple[tuple[Fault, ...]]]:
        return (type(self), (self.faults,))


@dataclass(frozen=True)
class FieldInfo:
    """What a configuration field accepts.

    Attributes:
        name: Dotted name, e.g. ``policy.horizon``.
        kind: ``int``, ``float``, ``bool``, ``str``, ``dict``, ``list[int]``, ``list[float]``, ``list[str]``;
            ``texts``, a text or a list of them; ``ranges``, what ``trainables.ranges.parse_choice`` reads.
        default: The value if the field is not given.
        nullable: Whether ``null`` is a value.
        minimum: Smallest legal value of a number (or of each element of a list), inclusive.
        maximum: Largest legal value of a number (or of each element of a list), inclusive.
        choices: The legal values, if they are few.
        unit: Unit of the value (``px``, ``steps``, ``s``), empty if it has none.
        phase: ``data`` fields decide what is read, ``train`` fields need training again when they change,
            ``inference`` fields can be changed on a trained checkpoint.
        doc: One line of documentation.
        word: A text that is a value as well, e.g. ``auto``; empty if there is none.
    """

    name: str
    kind: str
    default: Any
    nullable: bool = False
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[Any, ...] | None = None
    unit: str = ""
    phase: Phase = "train"
    doc: str = ""
    word: str = ""

    def faults(self, value: Any) -> list[Fault]:
        """List the faults of ``value`` for this field; empty if it is legal."""
        if value is None:
            if self.nullable:
                return []
            return [Fault(self.name, "is null.", f"Expected {self.expected()}.")]
        if self.word and value == self.word:
            return []
        problem = self._problem(value)
        return [] if problem is None else [Fault(self.name, f"{problem}.", f"Expected {self.expected()}.")]

    def expected(self) -> str:
        """Describe what the field accepts, e.g. ``an int from 1 to 16, or null``."""
        names = {
            "int": "an int",
            "float": "a number",
            "bool": "true or false",
            "str": "a text",
            "dict": "a mapping",
            "texts": "a text or a list of texts",
            "ranges": "ints and ranges such as 0-99 or 0:100, alone or in a list",
        }
        words = names.get(self.kind, f"a {self.kind}")
        if self.choices is not None:
            words = "one of " + ", ".join(str(choice) for choice in self.choices)
        elif self.minimum is not None and self.maximum is not None:
            words += f" from {self.minimum:g} to {self.maximum:g}"
        elif self.minimum is not None:
            words += f" of at least {self.minimum:g}"
        elif self.maximum is not None:
            words += f" of at most {self.maximum:g}"
        if self.unit:
            words += f" ({self.unit})"
        return words + (f", or {self.word}" if self.word else "") + (", or null" if self.nullable else "")

    def _problem(self, value: Any) -> str | None:
        if self.kind == "ranges":
            return _ranges_problem(value)
        if self.kind == "texts":
            return _texts_problem(value)
        if self.kind.startswith("list["):
            if not isinstance(value, (list, tuple)):
                return f"{value!r} is not a list"
            element_kind = self.kind[5:-1]
            for position, element in enumerate(value):
                problem = self._scalar_problem(element, element_kind)
                if problem is not None:
                    return f"element {position} of {list(value)!r}: {problem}"
            return None
        return self._scalar_problem(value, self.kind)

    def _scalar_problem(self, value: Any, kind: str) -> str | None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        fits = {
            "int": number and float(value).is_integer(),
            "float": number,
            "bool": isinstance(value, bool),
            "str": isinstance(value, str),
            "dict": isinstance(value, dict),
            "any": True,
        }[kind]
        if not fits:
            return f"{value!r} is not {'an' if kind == 'int' else 'a'} {kind}"
        if self.choices is not None and value not in self.choices:
            return f"{value!r} is not a known value"
        if number and self.minimum is not None and not value >= self.minimum:
            return f"{value!r} is too small"
        if number and self.maximum is not None and not value <= self.maximum:
            return f"{value!r} is too large"
        return None


def _ranges_problem(value: Any) -> str | None:
    try:
        parse_choice(value)
    except ValueError as error:
        return str(error)
    return None


def _texts_problem(value: Any) -> str | None:
    texts = value if isinstance(value, (list, tuple)) else [value]
    wrong = [text for text in texts if not isinstance(text, str)]
    return f"{wrong[0]!r} is not a text" if wrong else None


@dataclass(frozen=True)
class Metric:
    """A number that a trainable reports.

    Attributes:
        name: Name in reports and in MLflow, e.g. ``rollout/success_rate``.
        goal: The direction that is better, or None if there is none.
        every: ``log`` if every report has it, ``eval`` if only reports of an evaluation have it.
        needs: Dotted name of a field that must be set, and not 0, for the metric to appear; or None.
        doc: One line of documentation, with the unit.
    """

    name: str
    goal: Literal["minimize", "maximize"] | None
    every: Literal["log", "eval"]
    needs: str | None = None
    doc: str = ""
