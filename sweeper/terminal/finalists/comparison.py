"""Print the comparison of policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.evidence.comparison import Comparison
from sweeper.terminal.finalists.sentences import interval_text
from sweeper.terminal.tables import Column, fitted_table, number_text
from sweeper.text import describe_value

__all__ = ["difference_lines", "letters", "print_differences", "print_policies"]

PURPOSES = {
    "search": "episodes of the search",
    "confirm": "episodes of the confirmation",
    "look": "episodes on fresh starts",
}


def print_policies(
    console: Console,
    policies: Sequence[Mapping[str, Any]],
    metric: str,
    unit: str,
    purpose: str,
    paired: bool,
) -> None:
    """Print the policies that are compared.

    Args:
        console: Where to print.
        policies: A mapping for each: ``policy``, ``mean``, ``low``, ``high``, ``count``.
        metric: What they are compared by.
        unit: What was counted.
        purpose: Purpose of the episodes; empty for held-out moments.
        paired: Whether all were measured on the same.
    """
    for letter, one in zip(letters(len(policies)), policies, strict=True):
        setting = ", ".join(f"{name}={describe_value(value)}" for name, value in one["setting"].items())
        line = f"{letter}  {one['policy']}" + (f" with {setting}" if setting else "")
        console.print(line, soft_wrap=True, markup=False)
    console.print()
    count = policies[0]["count"]
    same = f"{count} {PURPOSES.get(purpose, unit)}, the same for all" if paired else f"{unit}, not the same"
    columns = [Column("", "left"), Column(metric, style="bold"), Column("95 % interval"), Column(unit)]
    rows: list[list[Text | str]] = [
        [letter, number_text(one["mean"]), interval_text(one["low"], one["high"]), str(one["count"])]
        for letter, one in zip(letters(len(policies)), policies, strict=True)
    ]
    width = console.width if console.is_terminal else None
    console.print(same, style="italic")
    console.print(fitted_table(columns, rows, width))


def letters(count: int) -> list[str]:
    """The names of policies in tables and sentences: A, B, … or P1, P2, … if there are many."""
    return list(ascii_uppercase[:count]) if count <= 26 else [f"P{number + 1}" for number in range(count)]


def difference_lines(
    a: str,
    b: str,
    difference: float,
    interval: tuple[float, float],
    comparison: Comparison,
    p_value: float,
    unit: str,
    adjusted: bool,
) -> list[str]:
    """What was found of the difference of two policies, in sentences."""
    low, high = interval
    told = p_value <= 1 - comparison.interval.confidence
    adjustment = ", adjusted for the number of comparisons" if adjusted else ""
    only = ""
    if comparison.only_a is not None:
        only = f" Only {a} succeeded in {comparison.only_a} {unit}, only {b} in {comparison.only_b}."
    lines = [
        f"{a} − {b}: {difference:+.4g}, 95 % interval {low:+.4g} to {high:+.4g} "
        f"({comparison.interval.method}).{only}",
        f"{a} is better with a probability of {_probability(comparison.a_is_better)}. The test gives "
        f"p = {p_value:.2g} ({comparison.test}{adjustment}): they are {'' if told else 'not '}told apart.",
    ]
    if not told:
        lines.append(_further(comparison, unit))
    return lines


def _probability(chance: float) -> str:
    """A probability in percent; one that rounds to certainty is not certain."""
    if chance > 0.999:
        return "more than 99.9 %"
    return "less than 0.1 %" if chance < 0.001 else f"{100 * chance:.1f} %"


def _further(comparison: Comparison, unit: str) -> str:
    further = comparison.further_episodes()
    if not further:
        if further == 0:
            return f"One comparison alone would tell them apart; with several, more {unit} are needed."
        return f"No difference was seen, so it is not known how many {unit} would tell them apart."
    total = min(comparison.episodes) + further
    sentence = f"If the true difference is the one that was seen, about {further:,} further {unit} of each"
    how = f" (--episodes {total})" if unit == "episodes" else ""
    return f"{sentence} would tell them apart{how}."


def print_differences(
    console: Console, policies: Sequence[Mapping[str, Any]], found: Mapping[str, Sequence[Any]]
) -> None:
    """Print the fields that differ, with a value for each policy whose configuration is known."""
    known = [place for place, one in enumerate(policies) if one["config_known"]]
    if len(known) < 2:
        return
    if not found:
        console.print("Their known configurations do not differ.")
        return
    names = letters(len(policies))
    columns = [Column("differs", "left"), *(Column(names[place]) for place in known)]
    rows: list[list[Text | str]] = [
        [name, *(describe_value(values[place]) for place in known)] for name, values in found.items()
    ]
    console.print(fitted_table(columns, rows, console.width if console.is_terminal else None))
