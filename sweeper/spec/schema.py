"""The format of a space file as a JSON Schema: editors complete, explain and check a file with it.

It is made of the tables by which `sweeper check` validates. A schema cannot state everything: conditions,
constraints between fields and whether a metric appears are left to `check`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sweeper.spec.cost import PRICES
from sweeper.spec.sampler_options import SAMPLER_OPTIONS
from sweeper.spec.space_file.fields import AUTO, SECTIONS, SETTINGS
from sweeper.spec.stopper_options import STOPPER_OPTIONS
from trainables.interface import FieldInfo, Metric, Trainable

__all__ = ["schema_text", "space_schema"]

Schema = dict[str, Any]

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The version that the YAML language server knows best."""
NUMBER_TEXT = r"^[-+]?(\d[\d_]*(\.\d*)?|\.\d+)([eE][-+]?\d+)?$"
"""Numbers that YAML 1.1 reads as texts, such as 1e-5, are numbers to us."""
_FIELD = "#/definitions/fields/properties/"
_WHEN, _STEP = ({"$ref": f"#/definitions/{name}"} for name in ("when", "step"))
_SHARED: Mapping[str, Schema] = {
    "when": {"type": "string", "description": "The condition under which the parameter exists."},
    "step": {"type": ["number", "string"], "pattern": NUMBER_TEXT, "description": "Distance of two values."},
}
_JSON_TYPES = {"bool": "boolean", "str": "string", "dict": "object"}
_SECTION_DOCS = {
    "name": "Name of the sweep, of its folder and of its MLflow experiment. Default: the name of this file.",
    "trainable": "What is trained: a built-in trainable, or module:attribute.",
    "config": "Fixed values of the trainable's fields.",
    "parameters": "What is searched.",
    "constraints": "Conditions that every trial must satisfy.",
    "metric": "What the search optimises.",
    "objectives": "Several metrics instead of one: the result is a Pareto front.",
    "search": "How the next trial is chosen.",
    "early_stop": "Which trials are stopped before their end. Without it none is.",
    "budget": "The sweep ends when the first of these limits is reached.",
    "resources": "What a trial gets.",
    "failures": "How often a trial is retried before it counts as failed.",
    "keep": "Which checkpoints stay on the disk.",
    "inference": "Inference settings that are examined on each trained policy, without training it again.",
    "confirm": "The best trials are evaluated again on fresh starts when the sweep is done.",
    "cost": "What GPUs and CPUs cost, to show the sweep in money and to limit it (budget.cost).",
    "alerts": "A webhook and a command that hear of the sweep.",
    "tracking": "Where MLflow records the sweep.",
}


def space_schema(trainable: Trainable) -> Schema:
    """The JSON Schema (draft 7) of the space files of a trainable."""
    fields = {name: _described(info) for name, info in sorted(trainable.fields.items())}
    names = {name: name for name in fields} | dict(sorted(trainable.aliases.items()))
    sections = {section: _fixed_section(section) for section in SETTINGS}
    metric = _metric_section(trainable.metrics)
    sections |= {
        "name": {"type": ["string", "null"], "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,79}$"},
        "trainable": {"type": "string"},
        "config": _closed({name: _reference(name, own) for name, own in names.items()}),
        "parameters": _closed({name: _parameter(own, trainable.fields[own]) for name, own in names.items()}),
        "constraints": {"type": "array", "items": {"type": "string"}},
        "metric": metric,
        "objectives": {"type": "array", "items": metric, "minItems": 1},
        "inference": _inference_section(trainable.fields),
    }
    prices = {name: _described(SETTINGS["cost"][name]) for name in PRICES}
    sections["cost"]["properties"]["node_types"] |= {"additionalProperties": _closed(prices)}
    sections["early_stop"]["properties"]["metric"] = _metric_name(trainable.metrics)
    _optional(sections, ("early_stop", "inference", "confirm", "cost", "alerts"))
    return {
        "$schema": DRAFT,
        "title": f"Space file of a sweep of {trainable.name}",
        "type": "object",
        "properties": {name: {"description": _SECTION_DOCS[name], **sections[name]} for name in SECTIONS},
        "required": ["trainable", "parameters"],
        "anyOf": [{"required": ["metric"]}, {"required": ["objectives"]}],
        "additionalProperties": False,
        "definitions": {"fields": {"properties": fields}, **_SHARED},
    }


def schema_text(schema: Schema, levels: int = 4) -> str:
    """A schema as JSON, with the description of each field in one line, so that changes of it can be read.

    Args:
        schema: The schema, or a part of it.
        levels: Levels of mappings that are broken into lines.
    """
    if levels == 0 or not isinstance(schema, dict) or not schema:
        return json.dumps(schema, ensure_ascii=False)
    indent = " " * (5 - levels)
    lines = [f"{indent}{json.dumps(key)}: {schema_text(part, levels - 1)}" for key, part in schema.items()]
    return "{\n" + ",\n".join(lines) + "\n" + indent[1:] + "}"


def _value(info: FieldInfo) -> Schema:
    """What a field accepts."""
    if info.kind == "texts":
        found: Schema = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    elif info.kind == "ranges":
        one = {"type": ["integer", "string"]}
        found = {"anyOf": [one, {"type": "array", "items": one}]}
    elif info.kind.startswith("list["):
        if info.kind == "list[any]":
            return {"type": "array"}
        element = FieldInfo("", info.kind[5:-1], None, minimum=info.minimum, maximum=info.maximum)
        found = {"type": "array", "items": _value(element)}
    elif info.choices is not None:
        found = {"enum": list(info.choices)}
    elif info.kind in ("int", "float"):
        found = _number(info)
    else:
        found = {"type": _JSON_TYPES[info.kind]}
    word = info.word or ("auto" if info.name in AUTO else "")
    if word:
        found = {"anyOf": [found, {"const": word}]}
    return {"anyOf": [found, {"type": "null"}]} if info.nullable else found


def _number(info: FieldInfo) -> Schema:
    kind = "integer" if info.kind == "int" else "number"
    found: Schema = {"type": [kind, "string"], "pattern": NUMBER_TEXT}
    bounds = {"minimum": info.minimum, "maximum": info.maximum}
    return found | {name: bound for name, bound in bounds.items() if bound is not None}


def _described(info: FieldInfo) -> Schema:
    """What a field accepts, its meaning and its default."""
    unit = f" Unit: {info.unit}." if info.unit else ""
    return {"description": f"{info.doc}{unit}".strip(), **_value(info), "default": info.default}


def _fixed_section(section: str) -> Schema:
    found = _closed({name: _setting(info) for name, info in SETTINGS[section].items()})
    options: Mapping[str, Iterable[FieldInfo]] = {}
    if section == "search":
        options = {name: [one.info for one in listed] for name, listed in SAMPLER_OPTIONS.items()}
    elif section == "early_stop":
        options = STOPPER_OPTIONS
    if section == "search":
        found["properties"]["try_first"]["items"] = {"anyOf": [{"type": "string"}, {"type": "object"}]}
    if options:
        every = {info.name: _setting(info) for listed in options.values() for info in listed}
        found["properties"]["options"] |= _closed(every)
    return found


def _setting(info: FieldInfo) -> Schema:
    """A setting; what is left out has no default to show if that depends on other settings."""
    described = _described(info)
    if info.default is None and not info.nullable:
        del described["default"]
    return described


def _metric_section(metrics: Mapping[str, Metric]) -> Schema:
    found = _fixed_section("metric")
    found["properties"]["name"] = _metric_name(metrics)
    return found | {"required": ["name"]}


def _metric_name(metrics: Mapping[str, Metric]) -> Schema:
    listed = [
        {"const": name, "description": metric.doc} if metric.doc else {"const": name}
        for name, metric in metrics.items()
    ]
    return {"description": SETTINGS["metric"]["name"].doc, "oneOf": listed}


def _parameter(name: str, info: FieldInfo) -> Schema:
    """A searched field: values, a range if it is a number, or one fixed value."""
    value = {"$ref": f"{_FIELD}{name}"}
    values = {"type": "array", "items": value, "minItems": 1}
    forms = [_closed({"values": values, "when": _WHEN}, ["values"]), _closed({"value": value}, ["value"])]
    if info.kind in ("int", "float") and info.choices is None:
        bounds: Schema = {"min": value, "max": value, "log": {"type": "boolean"}}
        forms.append(_closed({**bounds, "step": _STEP, "when": _WHEN}, ["min", "max"]))
    return {"description": info.doc, "anyOf": forms}


def _inference_section(fields: Mapping[str, FieldInfo]) -> Schema:
    found = _fixed_section("inference")
    listed = {name: info for name, info in fields.items() if info.phase == "inference"}
    if listed:
        values = {
            name: _closed({"values": {"type": "array", "items": {"$ref": f"{_FIELD}{name}"}}}, ["values"])
            for name in listed
        }
        found["properties"]["parameters"] |= _closed(values)
    return found | {"required": ["parameters"]}


def _reference(name: str, own: str) -> Schema:
    """A field by its own name, or by the name that another tool gives it."""
    reference: Schema = {"$ref": f"{_FIELD}{own}"}
    # Draft 7 ignores what stands beside a reference.
    return reference if name == own else {"description": f"The same as {own}.", "allOf": [reference]}


def _closed(properties: Mapping[str, Any], required: Sequence[str] = ()) -> Schema:
    found: Schema = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return found | ({"required": list(required)} if required else {})


def _optional(sections: dict[str, Schema], names: Iterable[str]) -> None:
    """Allow `null`, which removes a section."""
    for name in names:
        sections[name]["type"] = ["object", "null"]
