"""Rows as a page in Markdown, and as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.gpu.cases import Row, Value

__all__ = ["as_json", "as_markdown"]


def as_markdown(hardware: Mapping[str, str], parts: Mapping[str, Sequence[Row]]) -> str:
    """A table of the machine and one for each part, by its title."""
    about = ", ".join(f"{name} {value}" for name, value in hardware.items())
    return "\n\n".join([about, *(f"### {title}\n\n{_table(rows)}" for title, rows in parts.items())]) + "\n"


def as_json(hardware: Mapping[str, str], parts: Mapping[str, Sequence[Row]]) -> dict[str, Any]:
    """All of it, tracebacks included."""
    return {
        "hardware": dict(hardware),
        "parts": {title: [dataclasses.asdict(row) for row in rows] for title, rows in parts.items()},
    }


def _table(rows: Sequence[Row]) -> str:
    columns = list(dict.fromkeys(name for row in rows for name in row.values))
    lines = [["case", *columns, "result"]]
    lines += [
        [row.case, *(_shown(row.values.get(name, "")) for name in columns), _result(row)] for row in rows
    ]
    text = [f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines]
    return "\n".join([text[0], "|---" * len(lines[0]) + "|", *text[1:]])


def _result(row: Row) -> str:
    return f"{row.status}: {row.note}" if row.note else row.status


def _shown(value: Value) -> str:
    if isinstance(value, str):
        return value
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.1e}" if abs(value) < 0.01 else f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
