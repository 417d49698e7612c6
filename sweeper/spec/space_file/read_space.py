"""The config and parameters of a space file: which fields are fixed, which are searched, in which ranges."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Literal

from sweeper.errors import ExpressionError
from sweeper.spec.expressions import Expression
from sweeper.spec.space import Parameter, Space, describe_range, describe_scale
from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.fields import (
    PARAMETER_KEYS,
    PARAMETER_WORDS,
    coerce,
    from_the_root,
    no_home_folder,
    unfilled_variable,
    value_problem,
)
from sweeper.spec.space_file.yaml_nodes import Node, Place
from sweeper.text import describe_value, nearest, shortened
from trainables.interface import FieldInfo, HasPresets, StartsFromCheckpoints

__all__ = ["SpacePlaces", "read_config", "read_inherited", "read_preset", "read_space", "read_try_first"]


@dataclass(frozen=True)
class _Written:
    """A parameter as the file has it.

    Attributes:
        own: The field's own name.
        place: Where the parameter was written.
        form: Its settings.
        info: What the field accepts.
        when: Its condition; None if there is none.
    """

    own: str
    place: Place
    form: Mapping[str, Node]
    info: FieldInfo
    when: Expression | None

    @property
    def name(self) -> str:
        """The dotted name in the file."""
        return f"parameters.{self.own}"


@dataclass
class SpacePlaces:
    """Where the parts of a space were written.

    Attributes:
        parameters: Place of each parameter.
        values: Places of a categorical parameter's values, in their order.
        constraints: Place of each constraint, in their order.
    """

    parameters: dict[str, Place] = field(default_factory=dict)
    values: dict[str, list[Place]] = field(default_factory=dict)
    constraints: list[Place] = field(default_factory=list)


def read_config(document: Document) -> None:
    """Fill ``document.config`` with the fixed values, under the fields' own names."""
    for own, node, info in _fields(document, "config"):
        value = node.plain()
        if isinstance(value, dict) and info.kind != "dict":
            remedy = "A range or a list of values belongs under parameters."
            document.faults.add(node.place, f"config.{own}", "is a mapping, not a value.", remedy)
            continue
        _fix(document, own, node.place, value, info)


def read_preset(document: Document) -> None:
    """Fill ``document.config`` with the values of the preset that it names, for fields that are not set."""
    trainable = document.trainable
    if trainable is None or not isinstance(trainable, HasPresets):
        return
    field, always = trainable.preset_field, document.searched_names(conditional=False)
    if field in document.searched_names():
        remedy = "Set it under config, and launch a sweep for each preset that you want to compare."
        problem = "a preset cannot be searched: it decides the values of other fields."
        document.faults.add(document.place("parameters", field), f"parameters.{field}", problem, remedy)
        return
    added = trainable.preset({**dict.fromkeys(always), **document.config})
    if added:
        listed = ", ".join(f"{name}: {describe_value(value)}" for name, value in added.items())
        document.config |= added
        document.notes.append(
            f"{len(added)} fields that the file does not set are taken from {field}: "
            f"{document.config[field]}: {listed}."
        )


def read_inherited(document: Document) -> None:
    """Fill ``document.config`` with values from the checkpoint that it names, for fields that are not set."""
    trainable = document.trainable
    if trainable is None or not isinstance(trainable, StartsFromCheckpoints):
        return
    always = document.searched_names(conditional=False)
    values = trainable.inherited({**dict.fromkeys(always), **document.config})
    added = {name: value for name, value in values.items() if name not in document.config}
    document.config.update(values)
    if added:
        unusual = [
            f"{name}: {_short(value)}"
            for name, value in added.items()
            if value != trainable.fields[name].default
        ]
        words = f"{len(added)} fields that the file does not set are taken from the checkpoint"
        document.notes.append(f"{words}; different from the default: {', '.join(unusual) or 'none'}.")


def _fix(document: Document, own: str, place: Place, value: Any, info: FieldInfo) -> None:
    problem = value_problem(info, value)
    document.config_places[own] = place
    if problem is not None:
        document.faults.add(place, f"config.{own}", *problem)
    else:
        document.config[own] = _settled(document, place, f"config.{own}", value, info)


def _settled(document: Document, place: Place, name: str, value: Any, info: FieldInfo) -> Any:
    """A legal value in the field's own type; a path is made absolute, as trials work in other folders."""
    value = coerce(info, value)
    unfilled = unfilled_variable(info, value)
    if unfilled is not None:
        document.faults.add(place, name, *unfilled)
        return value
    try:
        return from_the_root(info, value)
    except RuntimeError:
        document.faults.add(place, name, *no_home_folder(value))
        return value


def _fields(document: Document, section: str) -> list[tuple[str, Node, FieldInfo]]:
    """The entries of a section whose names are fields; `translate_document` has reported the others."""
    node = document.root.get(section)
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, dict):
        remedy = "Write `field.name: ...` under it, one per line."
        document.faults.add(node.place, section, f"is {node.plain()!r}, not a mapping.", remedy)
        return []
    if document.trainable is None:
        guessed = {key: _guessed(key, entry.plain()) for key, entry in node.value.items()}
        return [(key, node.value[key], info) for key, info in guessed.items() if info is not None]
    found: dict[str, tuple[str, Node]] = {}
    for key, entry in node.value.items():
        own = document.own_name(key)
        if own is None:
            continue
        if own in found:
            problem = f"is the same field as {found[own][0]}."
            document.faults.add(entry.place, f"{section}.{key}", problem, "Remove one of them.")
        else:
            found[own] = (key, entry)
    return [(own, entry, document.trainable.fields[own]) for own, (_, entry) in found.items()]


def _guessed(name: str, parameter: Any) -> FieldInfo | None:
    """What a parameter says of its field, if the trainable that has it cannot be loaded; None for nothing."""
    if not isinstance(parameter, dict):
        return None
    listed = parameter.get("values")
    values = listed if isinstance(listed, list) else [parameter.get(key) for key in ("min", "max")]
    kinds = {type(value) for value in values}
    if kinds <= {int, float}:
        return FieldInfo(name, "int" if kinds == {int} and listed is not None else "float", None)
    words = {bool: "bool", str: "str" if listed is not None else "float", dict: "dict"}
    return FieldInfo(name, words[kinds.pop()], None) if len(kinds) == 1 and kinds <= set(words) else None


def read_space(document: Document) -> tuple[Space, SpacePlaces]:
    """The parameters, in the order that their conditions need, and the constraints."""
    places = SpacePlaces()
    parameters: dict[str, Parameter] = {}
    for own, node, info in _fields(document, "parameters"):
        places.parameters[own] = node.place
        parameter = _parameter(document, own, node, info, places)
        if parameter is not None:
            parameters[own] = parameter
    reported = any(fault.name.startswith("parameters") for fault in document.faults)
    if not parameters and not reported:
        place = document.place("parameters")
        remedy = "Search at least one field, e.g. `optimizer.lr: {min: 1e-5, max: 1e-3, log: true}`."
        document.faults.add(place, "parameters", "no field is searched.", remedy)
    constraints = _constraints(document, places)
    ordered = _ordered(document, parameters, places)
    return Space(tuple(ordered), tuple(constraints), _defaults(document, ordered, constraints)), places


def _parameter(
    document: Document, own: str, node: Node, info: FieldInfo, places: SpacePlaces
) -> Parameter | None:
    name = f"parameters.{own}"
    form = node.value
    if not isinstance(form, dict):
        remedy = "Write {values: [...]} or {min: ..., max: ...}; a fixed value belongs under config."
        document.faults.add(node.place, name, f"is {_short(node.plain())}, not a range or values.", remedy)
        return None
    before = len(document.faults)
    for key in form:
        if key not in PARAMETER_KEYS:
            near = nearest(key, PARAMETER_KEYS)
            remedy = PARAMETER_WORDS.get(key) or (f"Did you mean {near}?" if near else "")
            remedy = remedy or f"Known: {', '.join(PARAMETER_KEYS)}."
            document.faults.add(form[key].place, f"{name}.{key}", "is not a setting of a parameter.", remedy)
    when = _when(document, own, form.get("when"))
    kinds = [kind for kind, keys in _FORMS.items() if any(key in form for key in keys)]
    if len(kinds) != 1:
        problem = f"mixes {' and '.join(kinds)}." if kinds else "has neither a range nor values."
        document.faults.add(node.place, name, problem, "Write {values: [...]} or {min: ..., max: ...}.")
        return None
    if own in document.config_places and (when is None or "value" in form):
        fixed = document.config_places[own]
        where = f"line {fixed.line}" if fixed.line else fixed.label
        remedy = "Remove one of them. Both make sense only with `when`: config applies if it is false."
        document.faults.add(node.place, name, f"is also fixed in config ({where}).", remedy)
    if "value" in form:
        _fix(document, own, form["value"].place, form["value"].plain(), info)
        return None
    written = _Written(own, node.place, form, info, when)
    parameter = _categorical(document, written, places) if "values" in form else _range(document, written)
    return parameter if len(document.faults) == before else None


_FORMS = {"values": ("values",), "a range": ("min", "max"), "value": ("value",)}


def _categorical(document: Document, written: _Written, places: SpacePlaces) -> Parameter | None:
    for key in ("log", "step"):
        if key in written.form:
            place = written.form[key].place
            document.faults.add(place, f"{written.name}.{key}", "has no meaning for values.", "Remove it.")
    node = written.form["values"]
    name = f"{written.name}.values"
    if not isinstance(node.value, list):
        document.faults.add(node.place, name, f"{_short(node.plain())} is not a list.", "Write [a, b, c].")
        return None
    if not node.value:
        document.faults.add(node.place, name, "is empty.", "List at least one value.")
    values: list[Any] = []
    for element in node.value:
        problem = value_problem(written.info, element.plain())
        if problem is not None:
            document.faults.add(element.place, name, *problem)
            continue
        value = _settled(document, element.place, name, element.plain(), written.info)
        if any(type(value) is type(other) and value == other for other in values):
            document.faults.add(
                element.place, name, f"{_short(value)} is listed twice.", "Remove one of them."
            )
        values.append(value)
    places.values[written.own] = [element.place for element in node.value]
    return Parameter(written.own, "categorical", values=tuple(values), when=written.when)


def _range(document: Document, written: _Written) -> Parameter | None:
    name, form, info = written.name, written.form, written.info
    if info.kind not in ("int", "float"):
        remedy = f"Write {{values: [...]}}, each {info.expected()}."
        document.faults.add(written.place, name, f"{_KINDS[info.kind]} cannot have a range.", remedy)
        return None
    before = len(document.faults)
    bounds: dict[str, Any] = {}
    for key in ("min", "max"):
        if key not in form:
            document.faults.add(written.place, f"{name}.{key}", "is missing.", "A range needs min and max.")
            continue
        bound = form[key].plain()
        wrong = value_problem(info, bound) if bound is not None else ("is null.", "Expected a number.")
        if wrong is not None:
            document.faults.add(form[key].place, f"{name}.{key}", *wrong)
        else:
            bounds[key] = coerce(info, bound)
    log = _log(document, written)
    step = _step(document, written)
    if len(document.faults) > before:
        return None
    low, high = bounds["min"], bounds["max"]
    if low >= high:
        remedy = "Swap them, or correct one." if low > high else "Put a single value under config."
        # A bound that the command line changed is the one to blame.
        blamed = form["min"].place if form["max"].place.line else form["max"].place
        document.faults.add(blamed, name, f"min {low:g} is not below max {high:g}.", remedy)
    elif log and low <= 0:
        problem = f"a logarithmic scale cannot contain {low:g}."
        document.faults.add(form["min"].place, f"{name}.min", problem, "Use a min above 0, or log: false.")
    elif step is not None:
        _check_step(document, written, low, high, step)
    if log and step is not None:
        remedy = "Remove log or step; {values: [...]} can list any numbers."
        document.faults.add(
            form["step"].place, f"{name}.step", "has no meaning on a logarithmic scale.", remedy
        )
    kind: Literal["int", "float"] = "int" if info.kind == "int" else "float"
    return Parameter(written.own, kind, low, high, log, step, when=written.when)


_KINDS = {
    "bool": "a boolean",
    "str": "a text",
    "texts": "a text",
    "ranges": "a choice of numbers",
    "dict": "a mapping",
    "list[int]": "a list",
    "list[float]": "a list",
    "list[str]": "a list",
}
"""Kinds of fields that are not numbers, in words."""


def _log(document: Document, written: _Written) -> bool:
    node = written.form.get("log")
    if node is None:
        return False
    log = node.plain()
    if not isinstance(log, bool):
        problem = f"{_short(log)} is not a boolean."
        document.faults.add(node.place, f"{written.name}.log", problem, "Expected true or false.")
    return log is True


def _step(document: Document, written: _Written) -> float | None:
    node, whole = written.form.get("step"), written.info.kind == "int"
    if node is None or node.value is None:
        return None
    info = FieldInfo("step", written.info.kind, None, minimum=1 if whole else 1e-12)
    step = node.plain()
    problem = value_problem(info, step)
    if problem is not None:
        expected = "Expected an int of at least 1." if whole else "Expected a number above 0."
        document.faults.add(node.place, f"{written.name}.step", problem[0], expected)
        return None
    number: float = coerce(info, step)
    return number


def _check_step(document: Document, written: _Written, low: float, high: float, step: float) -> None:
    exact_low, exact_high, exact_step = (Decimal(repr(number)) for number in (low, high, step))
    count = (exact_high - exact_low) / exact_step
    if count == int(count):
        return
    if count < 1:
        wide = f"{step:g} is wider than the range {low:g} to {high:g}."
        document.faults.add(
            written.form["step"].place, f"{written.name}.step", wide, "Lower it, or list values."
        )
        return
    below = exact_low + math.floor(count) * exact_step
    problem = f"{high:g} cannot be reached from {low:g} in steps of {step:g}."
    remedy = f"Nearest: {below.normalize():f} or {(below + exact_step).normalize():f}."
    document.faults.add(written.form["max"].place, f"{written.name}.max", problem, remedy)


def _when(document: Document, own: str, node: Node | None) -> Expression | None:
    if node is None or node.value is None:
        return None
    expression = _expression(document, node, f"parameters.{own}.when")
    if expression is not None and own in expression.names:
        problem = "the condition of a parameter cannot use the parameter itself."
        remedy = "Use other fields, or remove the condition."
        document.faults.add(node.place, f"parameters.{own}.when", problem, remedy)
    return expression


def _constraints(document: Document, places: SpacePlaces) -> list[Expression]:
    node = document.root.get("constraints")
    if node is None or node.value is None:
        return []
    if not isinstance(node.value, list):
        document.faults.add(
            node.place, "constraints", "is not a list.", "Write each constraint on its own line, after `- `."
        )
        return []
    constraints = []
    for number, element in enumerate(node.value):
        expression = _expression(document, element, f"constraints[{number}]")
        if expression is not None:
            constraints.append(expression)
            places.constraints.append(element.place)
    return constraints


def _expression(document: Document, node: Node, name: str) -> Expression | None:
    text = node.plain()
    if not isinstance(text, str):
        remedy = "Write a comparison in quotes, e.g. \"policy.beta_schedule == 'linear'\"."
        document.faults.add(node.place, name, f"is {_short(text)}, not an expression.", remedy)
        return None
    try:
        expression = Expression(text)
    except ExpressionError as error:
        document.faults.add(node.place, name, str(error))
        return None
    if document.trainable is None:
        return None
    before = len(document.faults)
    if not expression.names:
        document.faults.add(
            node.place, name, f"`{text}` uses no field, so its value never changes.", "Remove it."
        )
    for known in expression.names:
        if document.own_name(known) is None:
            problem = f"`{text}` uses {known}, which is not a field."
            document.faults.add(node.place, name, problem, document.field_hint(known))
    if len(document.faults) > before:
        return None
    aliases = document.trainable.aliases
    expression = expression.renamed({known: aliases[known] for known in expression.names if known in aliases})
    _check_literals(document, node.place, name, expression)
    return expression if len(document.faults) == before else None


def _check_literals(document: Document, place: Place, name: str, expression: Expression) -> None:
    """Find fields that are compared with a value that they cannot have: a typing mistake."""
    for known, literal in expression.literals():
        info = None if document.trainable is None else document.trainable.fields[known]
        if info is None or info.kind.startswith(("list", "dict", "ranges")):
            continue
        problem = value_problem(info, literal) if literal is not None or not info.nullable else None
        if problem is not None:
            words = f"`{expression.text}` compares {known} with an impossible value: {problem[0]}"
            document.faults.add(place, name, words, problem[1])


def _ordered(document: Document, parameters: dict[str, Parameter], places: SpacePlaces) -> list[Parameter]:
    """Sort parameters so that each condition uses only parameters before it; a circle is a fault."""
    ordered: dict[str, Parameter] = {}
    waiting = dict(parameters)
    while waiting:
        ready = [
            name
            for name, parameter in waiting.items()
            if parameter.when is None
            or not any(needed in waiting for needed in parameter.when.names if needed != name)
        ]
        if not ready:
            circle = _circle(waiting)
            problem = f"the conditions depend on each other: {' → '.join([*circle, circle[0]])}."
            document.faults.add(
                places.parameters[circle[0]], f"parameters.{circle[0]}.when", problem, "Remove one `when`."
            )
            break
        # One at a time, so that the order of the file is kept wherever it can be.
        ordered[ready[0]] = waiting.pop(ready[0])
    return list(ordered.values())


def _circle(waiting: Mapping[str, Parameter]) -> list[str]:
    path = [next(iter(waiting))]
    while True:
        when = waiting[path[-1]].when
        following = next(name for name in (when.names if when else ()) if name in waiting)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _defaults(
    document: Document, parameters: list[Parameter], constraints: list[Expression]
) -> dict[str, Any]:
    """The trainable's defaults of the fields that expressions use, if neither file nor trial sets them."""
    if document.trainable is None:
        return {}
    expressions = [*constraints, *(parameter.when for parameter in parameters if parameter.when is not None)]
    mentioned = dict.fromkeys(name for expression in expressions for name in expression.names)
    unconditional = {parameter.name for parameter in parameters if parameter.when is None}
    return {
        name: document.trainable.fields[name].default
        for name in mentioned
        if name not in document.config and name not in unconditional
    }


def _short(value: Any) -> str:
    return shortened("null" if value is None else repr(value), 60)


# Trials that are tried before any other


def read_try_first(document: Document, space: Space) -> tuple[dict[str, Any], ...]:
    """The trials of ``search.try_first``, as values of parameters."""
    entries = document.section("search") or {}
    if "try_first" not in entries:
        return ()
    node, found = entries["try_first"], []
    for number, entry in enumerate(node.value):
        name = f"search.try_first[{number}]"
        if not isinstance(entry, str | dict) or not entry:
            remedy = "Write {field: value, ...}, or the name of a preset."
            document.faults.add(node.place, name, f"{_short(entry)} is not a trial.", remedy)
            continue
        if isinstance(entry, str):
            values = _of_preset(document, space, node.place, name, entry)
        else:
            values = _of_fields(document, space, node.place, name, entry)
        if values and values in found:
            remedy = "Remove one of them."
            document.faults.add(node.place, name, "has the values of an earlier one.", remedy)
        found.append(values)
    return tuple(found)


def _of_fields(
    document: Document, space: Space, place: Place, name: str, entry: Mapping[str, Any]
) -> dict[str, Any]:
    """The values that a trial gives to parameters."""
    searched = {parameter.name: parameter for parameter in space.parameters}
    values = {}
    for key, value in entry.items():
        own = document.own_name(key)
        if own not in searched or document.trainable is None:
            near = nearest(key, searched)
            remedy = f"Did you mean {near}? " if near else ""
            remedy += f"Searched are {', '.join(searched)}; other fields are set under config."
            document.faults.add(place, f"{name}.{key}", f"{key} is not searched.", remedy)
            continue
        info = document.trainable.fields[own]
        problem = value_problem(info, value)
        if problem is not None:
            document.faults.add(place, f"{name}.{key}", *problem)
            continue
        values[own] = coerce(info, value)
        if not searched[own].contains(values[own]):
            document.faults.add(place, f"{name}.{key}", *_outside(searched[own], value))
    return values


def _of_preset(document: Document, space: Space, place: Place, name: str, preset: str) -> dict[str, Any]:
    """The values that parameters have in a preset; those that it does not set have their default."""
    trainable = document.trainable
    if trainable is None or not isinstance(trainable, HasPresets):
        problem = f"{preset!r} is the name of a preset, and this trainable has none."
        document.faults.add(place, name, problem, "Write {field: value, ...}.")
        return {}
    known = trainable.fields[trainable.preset_field].choices or ()
    if preset not in known:
        near = nearest(preset, known)
        remedy = f"Did you mean {near}? " if near else ""
        document.faults.add(
            place, name, f"{preset!r} is not a preset.", f"{remedy}Known: {', '.join(known)}."
        )
        return {}
    of_preset = trainable.preset({trainable.preset_field: preset})
    config = dict(document.config)
    values = {}
    for parameter in space.parameters:
        if not space.exists(parameter, config):
            continue
        own = parameter.name
        value = coerce(trainable.fields[own], of_preset.get(own, trainable.fields[own].default))
        values[own] = config[own] = value
        if value is None or not parameter.contains(value):
            problem, remedy = _outside(parameter, value)
            document.faults.add(place, name, f"{own} of {preset}: {problem}", remedy)
    return values


def _outside(parameter: Parameter, value: Any) -> tuple[str, str]:
    among = f"{describe_range(parameter)} ({describe_scale(parameter)})"
    problem = f"{describe_value(value)} is not in the range that is searched: {among}."
    return problem, "Widen the range under parameters, or give another value."
