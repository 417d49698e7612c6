"""The text of a draft: the form of the spaces that come with the package, with aligned comments."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from sweeper.spec.space_file.draft.content import Draft, Left, Written
from sweeper.spec.space_file.translate import yaml_text

__all__ = ["grouped", "value_text", "written"]

WIDTH = 118
COMMENT_AT, CONFIG_COMMENT_AT, PARAMETER_COMMENT_AT = 38, 50, 68
SCHEMA = "# yaml-language-server: $schema=space.schema.json"
SMALL = 0.001
"""Numbers below are written with an exponent."""
HEADINGS = {
    "name": "the sweep's folder is sweeps/{name}",
    "trainable": "what is trained; docs/configuration.md lists all of its fields",
    "config": "the same in every trial",
    "parameters": "what is searched; bounds are inclusive",
    "constraints": "combinations that violate one are not tried",
}
ORDER = ("metric", "objectives", "search", "early_stop", "budget", "keep", "resources")


def written(draft: Draft, trainable: str, file: str) -> str:
    """The draft as the text of a space file.

    Args:
        draft: The draft, complete.
        trainable: The name of the trainable.
        file: How the file is named in commands.
    """
    lines = [SCHEMA, *_head(draft, file), ""]
    lines.append(_line(f"name: {yaml_text(draft.name)}", HEADINGS["name"].format(name=draft.name)))
    lines += [_line(f"trainable: {trainable}", HEADINGS["trainable"]), ""]
    if draft.config:
        lines += [_line("config:", HEADINGS["config"]), *_fields(draft.config, CONFIG_COMMENT_AT), ""]
    lines.append(_line("parameters:", HEADINGS["parameters"]))
    lines += _fields(draft.parameters, PARAMETER_COMMENT_AT)
    if draft.constraints:
        lines += ["", _line("constraints:", HEADINGS["constraints"])]
        lines += [f"  - {yaml_text(text)}" for text in draft.constraints]
    for section in (*ORDER, *(name for name in draft.sections if name not in ORDER)):
        if draft.sections.get(section):
            head = f"{section}: {value_text(draft.sections[section])}"
            lines += ["", _line(head, draft.comments.get(section, ""), PARAMETER_COMMENT_AT)]
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _head(draft: Draft, file: str) -> list[str]:
    lines = _wrapped(f"Written by `sweeper init` from {draft.source}. Change whatever you know better.")
    for sentence in draft.found:
        lines += _wrapped(sentence, "  ")
    lines += ["#", f"#     sweeper check  {file}", f"#     sweeper launch {file}"]
    if draft.notes:
        lines += ["#", "# What to know:"]
        for note in draft.notes:
            lines += _wrapped(note, "- ")
    if draft.equal:
        listed = ", ".join(f"{name} {value_text(value)}" for name, value in sorted(draft.equal.items()))
        lines += ["#", *_wrapped(f"Values of the source that are the defaults here: {listed}.")]
    if draft.left:
        lines += ["#", "# Not carried over:"]
        for names, reason in grouped(draft.left):
            lines += _wrapped(f"{names}: {reason}", "- ")
    return lines


def grouped(left: Sequence[Left]) -> list[tuple[str, str]]:
    """What was not carried over: the names, with their values, that have the same reason."""
    names: dict[str, list[str]] = {}
    for entry in left:
        shown = "" if entry.value is None else f" {value_text(entry.value)}"
        names.setdefault(entry.reason, []).append(f"{entry.name}{shown}")
    return [(", ".join(listed), reason) for reason, listed in names.items()]


def _wrapped(text: str, indent: str = "") -> list[str]:
    plain = " ".join(text.split())
    return textwrap.wrap(
        plain,
        WIDTH,
        initial_indent=f"# {indent}",
        subsequent_indent=f"# {' ' * len(indent)}",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _fields(fields: Mapping[str, Written], at: int) -> list[str]:
    texts = {name: f"  {name}: {value_text(entry.value)}" for name, entry in fields.items()}
    fitting = [len(text) + 2 for text in texts.values() if len(text) + 2 <= at]
    at = max(COMMENT_AT, *fitting) if fitting else at
    return [_line(text, fields[name].comment, at) for name, text in texts.items()]


def _line(text: str, comment: str, at: int = COMMENT_AT) -> str:
    """A line with its comment, at the common column; above the line if both are too long for one."""
    if not comment:
        return text
    plain = " ".join(comment.split())
    line = f"{text.ljust(at - 1)} # {plain}"
    indent = " " * (len(text) - len(text.lstrip()))
    return line if len(line) <= WIDTH else f"{indent}# {plain}\n{text}"


def value_text(value: Any) -> str:
    """A value as it is written in a space file; numbers keep all their digits."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key}: {value_text(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(value_text, value))}]"
    if isinstance(value, float):
        small = 0 < abs(value) < SMALL
        text = f"{Decimal(repr(value)).normalize():e}" if small else f"{value:g}"
        return re.sub(r"e([-+])0*(?=\d)", r"e\1", text if float(text) == value else repr(value))
    return yaml_text(value)
