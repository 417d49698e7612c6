"""A space file before it is written: its entries with their comments, and what could not be carried over."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from sweeper.spec.space_file.translate import Evaluations

__all__ = ["Draft", "Left", "Written", "capitalised"]


def capitalised(sentence: str) -> str:
    """A sentence with a capital at its beginning, unless it begins with a name."""
    first = sentence.partition(" ")[0]
    return sentence if re.search(r"[./_\d`]\w", first) else f"{sentence[:1].upper()}{sentence[1:]}"


@dataclass(frozen=True)
class Written:
    """A value, and the comment beside it."""

    value: Any
    comment: str = ""


@dataclass(frozen=True)
class Left:
    """Something of the source that the draft does not contain.

    Attributes:
        name: Its name there.
        value: Its value; None if that is not known, or is a group of settings.
        reason: Why it is not in the draft, or what to do.
    """

    name: str
    value: Any
    reason: str


@dataclass
class Draft:
    """A space file before it is written.

    Attributes:
        source: What it is made from, in words: ``the W&B sweep sweep.yaml``.
        name: Name of the sweep.
        is_search: Whether the source is a search; otherwise it is a single training, or a dataset.
        decides: Whether the source says what is searched.
        found: What was read, in a sentence each.
        config: Fixed values by the field's own name.
        parameters: Searched fields.
        constraints: Conditions.
        refused: Conditions that no combination satisfies.
        sections: The settings of the other sections.
        comments: Comments beside sections.
        equal: Fields of the source whose values are the defaults here.
        left: What could not be carried over.
        notes: What was decided, in a sentence each.
        evaluations: What ``early_stop.min_steps`` was computed from; None if the source states steps.
    """

    source: str
    name: str = ""
    is_search: bool = False
    decides: bool = False
    found: list[str] = field(default_factory=list)
    config: dict[str, Written] = field(default_factory=dict)
    parameters: dict[str, Written] = field(default_factory=dict)
    constraints: list[str] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    sections: dict[str, Any] = field(default_factory=dict)
    comments: dict[str, str] = field(default_factory=dict)
    equal: dict[str, Any] = field(default_factory=dict)
    left: list[Left] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    evaluations: Evaluations | None = None

    def leave(self, name: str, value: Any, reason: str) -> None:
        """Record what is not carried over, once."""
        entry = Left(name, value, reason)
        if entry not in self.left:
            self.left.append(entry)

    def note(self, sentence: str) -> None:
        """Record a decision, once."""
        if sentence and sentence not in self.notes:
            self.notes.append(sentence)

    @property
    def fixed(self) -> dict[str, Any]:
        """The fixed values alone."""
        return {name: written.value for name, written in self.config.items()}
