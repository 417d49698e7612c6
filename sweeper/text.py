"""Text for messages and tables: first and last line, counts, names, sizes, durations and values in words."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "ALONE",
    "counted",
    "describe_size",
    "describe_value",
    "duration_text",
    "first_line",
    "is_there",
    "last_line",
    "nearest",
    "number_text",
    "policy_words",
    "race_words",
    "short_names",
    "shortened",
    "value_text",
    "with_command",
]


LAST_PART_RATIO = 0.5
"""The least similarity of the last parts of two dotted names if one is suggested for the other."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most similar to ``name``, or None if none is similar."""
    known = list(known)
    last = name.rpartition(".")[2]
    for near in difflib.get_close_matches(name, known, n=3, cutoff=0.65):
        # An equal section alone does not make `optimizer.name` near to `optimizer.learning_rate`.
        if difflib.SequenceMatcher(None, last, near.rpartition(".")[2]).ratio() >= LAST_PART_RATIO:
            return near
    # `lr` for `optimizer.lr`: an equal last part is near enough.
    tails = {full.rpartition(".")[2]: full for full in known}
    if last in tails:
        return tails[last]
    ends = difflib.get_close_matches(last, tails, n=1, cutoff=0.75)
    return tails[ends[0]] if ends else None


def is_there(path: Path) -> bool:
    """Whether a path exists; a text that cannot be a path does not."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def describe_size(size_gb: float) -> str:
    """A size on the disk, e.g. ``33 MB`` or ``1.5 GB``."""
    return f"{size_gb * 1000:.0f} MB" if size_gb < 1 else f"{size_gb:,.1f} GB"


ALONE = "alone"
"""The state of the only finalist of a confirmation or judgement, which was compared with no other."""


def race_words(state: str) -> str:
    """The state of a policy or setting after a race, as people read it; other states are their own words."""
    return {"left": "undecided", "out": "worse"}.get(state, state)


def policy_words(trial: int | None, named: str, *, begin: bool = False) -> str:
    """What a policy is called in a sentence: ``trial 3``, or ``policy ./old`` if it is not a trial.

    Args:
        trial: Number of its trial.
        named: What the user called it, if it has none.
        begin: Whether a sentence begins with it.
    """
    words = f"policy {named}" if trial is None else f"trial {trial}"
    return words[0].upper() + words[1:] if begin else words


def describe_value(value: Any) -> str:
    """A value as it is written in a space file."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(describe_value, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {describe_value(entry)}' for key, entry in value.items())}}}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without its full stop; its type if the text is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def last_line(text: str, otherwise: str = "") -> str:
    """The last line of a text that is not blank, without its full stop; ``otherwise`` if there is none."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else otherwise


def counted(number: float, what: str) -> str:
    """``1 GPU``, ``0.5 GPUs``, ``4 CPUs``."""
    return f"{number:g} {what}" + ("" if number == 1 else "s")


def shortened(text: str, most: int) -> str:
    """The text, cut to ``most`` characters with three dots if it is longer."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def short_names(names: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted or slashed name, or the whole name if two would be equal."""
    last = [name.replace("/", ".").rpartition(".")[2] for name in names]
    return {name: word if last.count(word) == 1 else name for name, word in zip(names, last, strict=True)}


def with_command(verdict: str, command: str) -> str:
    """A verdict in which an option that continues the measurement becomes the whole command."""
    option = re.compile(r"(?<!\S)--episodes \d+(?= continues)")
    return option.sub(lambda found: f"`{command} {found[0]}`", verdict)


def number_text(value: float | None) -> str:
    """A metric to four digits."""
    return "–" if value is None else f"{value:.4g}"


def value_text(value: Any) -> str:
    """A parameter's value, short."""
    if value is None or isinstance(value, bool):
        return describe_value(value)
    if isinstance(value, float):
        return f"{value:.3g}"
    if isinstance(value, (list, tuple)):
        return ",".join(value_text(element) for element in value)
    return str(value)


def duration_text(seconds: float) -> str:
    """A duration such as ``45 s``, ``3 min 05 s`` or ``2 h 10 min``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
