"""A space file while it is read: its content, what was read so far, and its faults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import SequenceMatcher
from typing import Any

from sweeper.spec.slips import NOTHING
from sweeper.spec.space_file.fields import (
    AUTO,
    SECTIONS,
    SETTINGS,
    coerce,
    possible_numbers,
    value_problem,
)
from sweeper.spec.space_file.habits import FIELDS, by_word
from sweeper.spec.space_file.yaml_nodes import FaultList, Node, Place
from sweeper.spec.sweep import InferenceSpec
from sweeper.text import describe_value, nearest
from trainables.interface import FieldInfo, Trainable

__all__ = ["Document"]

_FIELDS = by_word(FIELDS)
NEAR_RATIO = 0.75
"""How similar the last parts of two names of fields are at least, if one is a misspelling of the other."""
FEW_ENDS = 3
"""Fields up to which a message names all that end in the same word."""
FEW_FIELDS = 20
"""Fields up to which a message lists them all."""


@dataclass
class Document:
    """What was read so far, and the faults.

    Attributes:
        root: The file's mapping, after the overrides.
        whole: The place of faults that have no line.
        faults: Every fault.
        trainable: The trainable, or None if it cannot be loaded.
        notes: Changes that the user did not ask for.
        warnings: Settings that are legal but probably a mistake.
        config: Fixed values under their own names.
        config_places: Where each of them was written.
        inference: The inference settings that are examined on trained policies.
    """

    root: dict[str, Node]
    whole: Place
    faults: FaultList = field(default_factory=FaultList)
    trainable: Trainable | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    config_places: dict[str, Place] = field(default_factory=dict)
    inference: InferenceSpec | None = None

    def place(self, *keys: str) -> Place:
        """Where a key was written; if it is not, the nearest key above it."""
        place, at = self.whole, self.root
        for key in keys:
            if key not in at:
                break
            place = at[key].place
            if not isinstance(at[key].value, dict):
                break
            at = at[key].value
        return place

    def check_sections(self) -> None:
        """Find sections that do not exist."""
        for key, node in self.root.items():
            if key in SECTIONS:
                continue
            near = nearest(key, SECTIONS)
            remedy = f"Did you mean {near}?" if near else f"Sections: {', '.join(SECTIONS)}."
            self.faults.add(node.place, key, "is not a section.", remedy)

    def own_name(self, name: str) -> str | None:
        """The trainable's own name for a field or alias; None if there is none."""
        if self.trainable is None:
            return None
        own = self.trainable.aliases.get(name, name)
        return own if own in self.trainable.fields else None

    def field_hint(self, name: str) -> str:
        """The remedy for a name that is not a field."""
        if self.trainable is None:
            return ""
        if any(full.startswith(name + ".") for full in self.trainable.fields):
            return f"Write dotted names: `{name}.<field>: value`."
        same = [] if self.listed_field(name) else self._same_ends(name)
        if 1 < len(same) <= FEW_ENDS:
            return f"Did you mean {' or '.join(same)}?"
        near = self.near_field(name)
        return f"Did you mean {near}?" if near else self._every_field()

    def _same_ends(self, name: str) -> list[str]:
        """The fields whose last part is that of a name."""
        last = name.rpartition(".")[2]
        fields = {} if self.trainable is None else self.trainable.fields
        return [full for full in fields if full.rpartition(".")[2] == last]

    def _every_field(self) -> str:
        """Where the fields are listed; those of a custom trainable are in no page of the documentation."""
        fields = {} if self.trainable is None else self.trainable.fields
        if len(fields) <= FEW_FIELDS:
            return f"Fields: {', '.join(fields)}."
        return "See docs/configuration.md for every field."

    def near_field(self, name: str) -> str | None:
        """The own name of the field that a misspelt name stands for; None rather than one that is far."""
        if self.trainable is None:
            return None
        listed = self.listed_field(name)
        if listed is not None:
            return listed
        near = nearest(name, [*self.trainable.fields, *self.trainable.aliases])
        if near is None or ("." not in name and len(self._same_ends(name)) > 1):
            return None
        last, found = name.rpartition(".")[2], near.rpartition(".")[2]
        same = SequenceMatcher(None, last.lower(), found.lower()).ratio() >= NEAR_RATIO
        return self.own_name(near) if same or found.startswith(last + "_") else None

    def listed_field(self, name: str) -> str | None:
        """The field that another tool calls so: by the whole dotted name, or by its end."""
        parts = name.lower().replace("-", "_").split(".")
        ends = (".".join(parts[start:]) for start in range(len(parts)))
        fields = {} if self.trainable is None else self.trainable.fields
        return next((_FIELDS[end] for end in ends if _FIELDS.get(end) in fields), None)

    def section(self, name: str) -> dict[str, Node] | None:
        """The entries of a section of fixed shape, faulty ones left out; None if the section is absent."""
        node = self.root.get(name)
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, dict):
            plain, keys = node.plain(), f"Keys: {', '.join(SETTINGS[name])}."
            none = plain is False or str(plain).strip().lower() in NOTHING
            shown = describe_value(plain) if isinstance(plain, bool) else repr(plain)
            remedy = keys
            if plain is True:
                remedy = f"Write `{name}: {{}}` for its defaults, or its settings. {keys}"
            elif none:
                remedy = "Remove the section, or write null."
            self.faults.add(node.place, name, f"is {shown}, not a mapping.", remedy)
            return None if none else {}
        return self.entries(name, node.value, SETTINGS[name])

    def entries(
        self, path: str, found: Mapping[str, Node], known: Mapping[str, FieldInfo]
    ) -> dict[str, Node]:
        """The entries that are known and legal."""
        legal = {}
        for key, node in found.items():
            name = f"{path}.{key}"
            if key in known and node.value is None and not known[key].nullable:
                continue  # null means left out, so that the command line can remove a setting
            if key not in known:
                near = nearest(key, known)
                remedy = f"Did you mean {near}? " if near else ""
                remedy += f"Known: {', '.join(known)}." if known else f"{path} has none."
                self.faults.add(node.place, name, f"is not a setting of {path}.", remedy)
            elif key in AUTO and node.value == "auto":
                legal[key] = node
            else:
                problem = value_problem(known[key], node.plain())
                if problem is None:
                    legal[key] = Node(node.place, coerce(known[key], node.plain()))
                else:
                    expected = ", or auto" if key in AUTO else ""
                    self.faults.add(
                        node.place, name, problem[0], problem[1].removesuffix(".") + expected + "."
                    )
        return legal

    def is_set(self, name: str) -> bool:
        """Whether a field has a value other than null and 0: fixed, searched or by default."""
        if self.config.get(name) not in (None, 0) or name in self.searched_names():
            return True
        if self.trainable is None or name in self.config:
            return False
        info = self.trainable.fields.get(name)
        return info is not None and info.default not in (None, 0)

    def searched_names(self, *, conditional: bool = True) -> set[str]:
        """Own names of the fields under parameters; without ``conditional``, of those that have no `when`."""
        node = self.root.get("parameters")
        if node is None or not isinstance(node.value, dict):
            return set()
        return {
            own
            for key, form in node.value.items()
            if (own := self.own_name(key)) is not None
            and (conditional or not (isinstance(form.value, dict) and "when" in form.value))
        }

    def numbers(self, name: str) -> list[float]:
        """The numbers that a field can have in this sweep: fixed, searched (its bounds), or the default."""
        if self.trainable is None or name not in self.trainable.fields:
            return []
        found = self.root.get("parameters")
        if found is not None and isinstance(found.value, dict):
            for key, node in found.value.items():
                if self.own_name(key) == name and (numbers := possible_numbers(node)):
                    return numbers
        value = self.config.get(name, self.trainable.fields[name].default)
        return [value] if isinstance(value, (int, float)) else []
