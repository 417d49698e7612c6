"""Overrides: what ``key=value`` on the command line changes in a space file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.fields import PARAMETER_KEYS, SECTIONS, SETTINGS, coerce, value_problem
from sweeper.spec.space_file.translate import translated_argument
from sweeper.spec.space_file.yaml_nodes import FaultList, Node, Override, Place, parse_override
from sweeper.text import describe_value, nearest
from trainables.interface import ConfigError, Fault, FieldInfo, Trainable

__all__ = ["apply_overrides", "as_text", "read_config"]

_SCALARS = ("name", "trainable")


def apply_overrides(document: Document, overrides: list[Override]) -> None:
    """Apply the overrides to the file's mapping; if a key is given twice, the last value counts."""
    for override in overrides:
        section, _, rest = override.key.partition(".")
        if section not in SECTIONS:
            near = nearest(section, SECTIONS)
            remedy = f"Did you mean {near}?" if near else f"Begin with one of {', '.join(SECTIONS)}."
            typed = override.key.lstrip("+~")  # of Hydra
            if typed != override.key and typed.partition(".")[0] in SECTIONS:
                remedy = f"Write {typed}={override.raw}."
            remedy = translated_argument(document, override.key, override.value) or remedy
            document.faults.add(override.place, override.key, "is not a section.", remedy)
        elif section == "config" and rest:
            _override_config(document, override, rest)
        elif section == "parameters" and rest:
            _override_parameter(document, override, rest)
        elif section == "inference" and rest.startswith(("parameters.", "limits.")):
            _override_inference(document, override, rest)
        elif not rest:
            document.root[section] = as_text(override) if section in _SCALARS else override.value
        elif section in (*_SCALARS, "constraints", "objectives"):
            remedy = f"Write {section}=... with the whole value."
            document.faults.add(override.place, override.key, f"{section} has no settings.", remedy)
        elif section == "budget" and override.raw.strip().startswith("+"):
            # YAML would read +20 as 20, and `sweeper resume` adds it.
            problem = f"{override.raw.strip()} can only be added to the budget of a sweep that has started."
            remedy = f"Write {override.key}={override.raw.strip()[1:]}."
            document.faults.add(override.place, override.key, problem, remedy)
        else:
            _put(document, section, rest.split("."), override)


def _override_inference(document: Document, override: Override, rest: str) -> None:
    """Replace the values of an inference field, or a limit; null removes it."""
    part, _, name = rest.partition(".")
    inference = _mapping(document.root, "inference", override.place)
    entries = _mapping(inference, part, override.place)
    name, values = name.removesuffix(".values"), name.endswith(".values")
    own = document.own_name(name) or name
    for key in [key for key in entries if (document.own_name(key) or key) == own]:
        del entries[key]
    if override.value.value is not None:
        entries[name] = Node(override.place, {"values": override.value}) if values else override.value


def _put(document: Document, section: str, keys: list[str], override: Override) -> None:
    at = _mapping(document.root, section, override.place)
    for key in keys[:-1]:
        at = _mapping(at, key, override.place)
    info = SETTINGS[section].get(keys[-1])
    at[keys[-1]] = as_text(override) if info is not None and info.kind == "str" else override.value


def _mapping(at: dict[str, Node], key: str, place: Place) -> dict[str, Node]:
    """The mapping under a key, created if there is none."""
    node = at.get(key)
    if node is None or not isinstance(node.value, dict):
        at[key] = node = Node(place, {})
    entries: dict[str, Node] = node.value
    return entries


def _same_field(document: Document, section: str, name: str) -> list[str]:
    """The keys of a section that are the field ``name`` or an alias of it."""
    node = document.root.get(section)
    if node is None or not isinstance(node.value, dict):
        return []
    own = document.own_name(name) or name
    return [key for key in node.value if (document.own_name(key) or key) == own]


def _override_config(document: Document, override: Override, name: str) -> None:
    for key in _same_field(document, "parameters", name):
        del document.root["parameters"].value[key]
        document.notes.append(
            f"{override.place.label}: {document.own_name(name)} is fixed, no longer searched."
        )
    config = _mapping(document.root, "config", override.place)
    for key in _same_field(document, "config", name):
        del config[key]
    own = document.own_name(name)
    info = None if own is None or document.trainable is None else document.trainable.fields[own]
    if override.value.value is None and info is not None and not info.nullable:
        document.notes.append(
            f"{override.place.label}: {own} has its default, {describe_value(info.default)}."
        )
        return
    config[name] = _field_value(override, info)


def _field_value(override: Override, info: FieldInfo | None) -> Node:
    """What was typed for a field of the configuration: texts as they were typed, everything else as YAML."""
    text = info is not None and info.kind in ("str", "texts")
    # Of fields that accept a text, only those that also accept a list read brackets as a list.
    whole_list = info is not None and info.kind == "texts" and isinstance(override.value.value, list)
    return as_text(override) if text and not whole_list else override.value


def read_config(trainable: Trainable, arguments: Sequence[str]) -> dict[str, Any]:
    """Read ``field=value`` arguments as a configuration, for commands that have no space file.

    Args:
        trainable: Knows the fields; its aliases are accepted, and so is ``config.`` before a name.
        arguments: As they were typed; if a field is given twice, the last value counts.

    Returns:
        Values by the trainable's own names.

    Raises:
        ConfigError: With every argument that is wrong.
    """
    unread, document = FaultList(), Document({}, Place("the command line"), trainable=trainable)
    faults: list[Fault] = []
    config: dict[str, Any] = {}
    for argument in arguments:
        override = parse_override(argument, unread)
        if override is None:
            continue
        key = override.key.removeprefix("config.")
        own = trainable.aliases.get(key, key)
        if own not in trainable.fields:
            remedy = translated_argument(document, key, override.value) or document.field_hint(key)
            faults.append(Fault(key, "is not a field.", remedy))
            continue
        info = trainable.fields[own]
        value = _field_value(override, info).plain()
        problem = value_problem(info, value)
        if problem is not None:
            faults.append(Fault(own, *problem))
        config[own] = coerce(info, value)
    faults += [Fault(fault.place, fault.problem, fault.remedy) for fault in unread]
    if faults:
        raise ConfigError(faults)
    return config


def as_text(override: Override) -> Node:
    """A text is taken as it was typed, unless it is null or in quotes: paths may hold `#` or `:`."""
    if override.value.value is None:
        return override.value
    quoted = len(override.raw) > 1 and override.raw[0] == override.raw[-1] and override.raw[0] in "'\""
    return (
        override.value
        if quoted and isinstance(override.value.value, str)
        else Node(override.place, override.raw)
    )


def _override_parameter(document: Document, override: Override, rest: str) -> None:
    name, _, attribute = rest.rpartition(".")
    if document.own_name(rest) is not None or attribute not in PARAMETER_KEYS or not name:
        _replace_parameter(document, override, rest)
        return
    parameters = _mapping(document.root, "parameters", override.place)
    keys = _same_field(document, "parameters", name)
    if not keys:
        _release(document, override, name)
        keys = [name]
    form = _mapping(parameters, keys[0], override.place)
    # A list of values and a range exclude each other: the later form wins.
    rivals = {"values": ("min", "max", "log", "step", "value"), "min": ("values",), "max": ("values",)}
    for rival in rivals.get(attribute, ()):
        form.pop(rival, None)
    if override.value.value is None:
        form.pop(attribute, None)
    else:
        form[attribute] = override.value


def _replace_parameter(document: Document, override: Override, name: str) -> None:
    parameters = _mapping(document.root, "parameters", override.place)
    for key in _same_field(document, "parameters", name):
        del parameters[key]
    if override.value.value is None:
        document.notes.append(f"{override.place.label}: {name} is no longer searched.")
        return
    parameters[name] = override.value
    if not (isinstance(override.value.value, dict) and "when" in override.value.value):
        _release(document, override, name)


def _release(document: Document, override: Override, name: str) -> None:
    """Remove a field from config, because it is now searched."""
    for key in _same_field(document, "config", name):
        del document.root["config"].value[key]
        own = document.own_name(name)
        document.notes.append(f"{override.place.label}: {own} is searched, no longer fixed.")
