"""Choices of whole numbers: ``7``, ``"0-99"``, ``"0:100"``, alone or in a list.

Standard library only. A range is never expanded, so ``0-999999999999`` costs as little as ``0-9``.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["LARGEST", "Choice", "compressed", "parse_choice"]

LARGEST = 2**62
"""The largest number, so that the length of a range is always a number that Python can count."""

_TEXT = re.compile(r"\s*(\d{1,20})\s*(?:([-:])\s*(\d{1,20})\s*)?", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """Some whole numbers, none below 0.

    Attributes:
        numbers: Single numbers.
        ranges: Ranges, ascending.
    """

    numbers: frozenset[int] = frozenset()
    ranges: tuple[range, ...] = ()

    def __contains__(self, number: int) -> bool:
        return number in self.numbers or any(number in chosen for chosen in self.ranges)

    def __bool__(self) -> bool:
        return bool(self.numbers or self.ranges)

    def missing(self, there: Collection[int]) -> list[str]:
        """List the chosen numbers that are not ``there``, consecutive ones as ranges: ``["4", "50-99"]``.

        The cost depends on how many numbers are there, not on how many were chosen.
        """
        known = there if isinstance(there, (set, frozenset)) else set(there)
        found = [str(number) for number in sorted(self.numbers) if number not in known]
        for chosen in self.ranges:
            places = sorted(chosen.index(number) for number in known if number in chosen)
            starts = [0, *(place + 1 for place in places)]
            gaps = (chosen[start:stop] for start, stop in zip(starts, [*places, len(chosen)], strict=True))
            found += [_named(gap) for gap in gaps if gap]
        return found


def parse_choice(value: Any) -> Choice:
    """Read a choice of numbers.

    Args:
        value: A number, a text (``"5"``, ``"0-99"`` with its end, ``"0:100"`` without it), a Python range, or
            any of them in a list.

    Raises:
        ValueError: If it is not one, or a number is below 0 or too large; the message names it.
    """
    alone = isinstance(value, (str, range)) or not isinstance(value, Iterable)
    numbers: set[int] = set()
    ranges: dict[range, None] = {}
    for element in [value] if alone else value:
        chosen = _parse(element)
        if isinstance(chosen, range):
            ranges.update({chosen: None} if chosen else {})
        else:
            numbers.add(chosen)
    return Choice(frozenset(numbers), tuple(ranges))


def compressed(numbers: Iterable[int]) -> str:
    """Write numbers as a list that ``parse_choice`` reads, runs of three and more as ranges: ``[0, 4-9]``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs]
    return f"[{', '.join(texts)}]"


def _parse(element: Any) -> int | range:
    if isinstance(element, range):
        return _python_range(element)
    if isinstance(element, str):
        return _parse_text(element)
    if isinstance(element, bool) or not hasattr(element, "__index__"):
        raise ValueError(f"{element!r} is neither a whole number nor a range")
    number = operator.index(element)
    if number < 0:
        raise ValueError(f"{number} is negative")
    return _bounded(number, element)


def _parse_text(text: str) -> int | range:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise ValueError(f"{text[:40]!r} is neither a whole number nor a range")
    first = _bounded(int(match[1]), text)
    if match[3] is None:
        return first
    stop = _bounded(int(match[3]), text) + (match[2] == "-")
    if stop <= first:
        why = "ends before it begins" if match[2] == "-" else "is empty: the end is not part of it"
        raise ValueError(f"{text!r} {why}")
    return range(first, stop)


def _python_range(chosen: range) -> range:
    ascending = chosen if chosen.step > 0 else chosen[::-1]
    if ascending and (ascending[0] < 0 or ascending[-1] > LARGEST):
        raise ValueError(f"{chosen!r} leaves the numbers from 0 to {LARGEST}")
    return ascending


def _bounded(number: int, written: Any) -> int:
    if number > LARGEST:
        raise ValueError(f"{str(written)[:40]!r} is larger than any number there can be")
    return number


def _named(run: range) -> str:
    if len(run) == 1:
        return str(run[0])
    return f"{run[0]}-{run[-1]}" + ("" if run.step == 1 else f" in steps of {run.step}")
