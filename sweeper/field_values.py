"""The value of a field: whether it is legal, and what it is in the field's own type."""

from __future__ import annotations

import math
from typing import Any, Literal

from sweeper.source import Node
from sweeper.text import nearest
from trainables.interface import FieldInfo

__all__ = ["coerce", "is_path", "possible_numbers", "value_problem"]

LARGEST_INT = 2**63 - 1


def value_problem(info: FieldInfo, value: Any) -> tuple[str, str] | None:
    """What is wrong with a value for a field, and what is expected; None where nothing is."""
    flat = value if isinstance(value, list) else [value]
    if any(isinstance(number, int) and abs(number) > LARGEST_INT for number in flat):
        return ("is larger than a computer counts.", f"Expected {info.expected()}.")
    if any(isinstance(number, float) and not math.isfinite(number) for number in flat):
        return (f"{value!r} is not a finite number.", f"Expected {info.expected()}.")
    faults = info.faults(value)
    if not faults:
        return None
    if info.choices is not None and isinstance(value, str):
        near = nearest(value, [str(choice) for choice in info.choices])
        if near is not None:
            return (faults[0].problem, f"Did you mean {near}? {faults[0].remedy}")
    if info.kind in ("str", "texts") and isinstance(value, (int, float)):
        return (faults[0].problem, f"{faults[0].remedy.removesuffix('.')}: put it in quotes.")
    return (faults[0].problem, faults[0].remedy)


def coerce(info: FieldInfo, value: Any) -> Any:
    """A legal value in the field's own type: 16.0 is 16 for an int, 1 is 1.0 for a float."""
    if isinstance(value, list):
        kind: Literal["int", "float", ""] = (
            "int" if info.kind == "list[int]" else "float" if info.kind == "list[float]" else ""
        )
        return [_number(kind, element) for element in value]
    return _number(info.kind, value)


def _number(kind: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if kind == "int":
        return int(value)
    return float(value) if kind == "float" else value


def is_path(info: FieldInfo) -> bool:
    """Whether a field names a folder or file; such values are made absolute, for trials run elsewhere."""
    return info.unit == "path" or info.name == "dataset.root"


def possible_numbers(parameter: Node) -> list[float]:
    """The numbers above 0 among a parameter's values, or its bounds; nonsense is left out."""
    plain = parameter.plain()
    if not isinstance(plain, dict):
        return []
    values = plain.get("values")
    listed = values if isinstance(values, list) else [plain.get(key) for key in ("min", "max", "value")]
    numbers = [value for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return [number for number in numbers if 0 < number <= LARGEST_INT]
