"""The search space: parameters, the conditions under which they exist, and constraints among them.

Bounds are inclusive and mean what Optuna means by them. Nothing here imports Optuna: a space can be checked
on a laptop in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from sweeper.expressions import Expression

__all__ = ["Parameter", "Space"]


@dataclass(frozen=True)
class Parameter:
    """One searched field of the trainable's configuration.

    Attributes:
        name: Dotted name of the field.
        kind: ``float`` and ``int`` have ``low`` and ``high``; ``categorical`` has ``values``.
        low: Lower bound, inclusive.
        high: Upper bound, inclusive.
        log: Whether the range is searched on a logarithmic scale.
        step: Distance between legal numbers, counted from ``low``; None for any number (1 for integers).
        values: The choices, in the order of the space file. Lists are choices too (``down_dims``).
        when: The condition under which the parameter exists; None for always. Where it does not hold, the
            configuration keeps the trainable's default (or the fixed value) for this field.
    """

    name: str
    kind: Literal["float", "int", "categorical"]
    low: float | None = None
    high: float | None = None
    log: bool = False
    step: float | None = None
    values: tuple[Any, ...] = ()
    when: Expression | None = None


@dataclass(frozen=True)
class Space:
    """Parameters, in an order in which each condition only needs parameters before it, and constraints."""

    parameters: tuple[Parameter, ...]
    constraints: tuple[Expression, ...] = ()
