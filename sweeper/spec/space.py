"""The search space: parameters, the conditions under which they exist, and constraints among them.

Bounds are inclusive, as in Optuna. Nothing here imports Optuna: a space can be checked
on a laptop in milliseconds.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sweeper.errors import ExpressionError
from sweeper.spec.expressions import Expression
from sweeper.text import describe_value

__all__ = ["Parameter", "Space", "describe_range", "describe_scale"]


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
        when: The condition under which the parameter exists; None for always. If it is false, the
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

    def size(self) -> int | None:
        """How many values there are; None for a continuous range."""
        if self.kind == "categorical":
            return len(self.values)
        low, high = self.bounds()
        if self.kind == "int":
            return int(high - low) // int(self.step or 1) + 1
        return None if self.step is None else math.floor((high - low) / self.step + 1e-9) + 1

    def grid(self) -> Sequence[Any]:
        """Every value, in order.

        Raises:
            ValueError: For a continuous range.
        """
        if self.kind == "categorical":
            return self.values
        low, high = self.bounds()
        if self.kind == "int":
            return range(int(low), int(high) + 1, int(self.step or 1))
        count = self.size()
        if count is None or self.step is None:
            raise ValueError(f"{self.name} is a continuous range and has no grid")
        return [_clean(low + number * self.step) for number in range(count)]

    def contains(self, value: Any) -> bool:
        """Whether a value of the field's type can be searched."""
        if self.kind == "categorical":
            return any(type(one) is type(value) and one == value for one in self.values)
        low, high = self.bounds()
        if not low <= value <= high:
            return False
        if self.log or self.step is None:
            return True
        steps = (value - low) / self.step
        return math.isclose(steps, round(steps), abs_tol=1e-9)

    def draw(self, generator: random.Random) -> Any:
        """One value at random: uniform over the range, on its scale, or over the choices."""
        if self.kind == "categorical":
            return generator.choice(self.values)
        low, high = self.bounds()
        if self.log:
            value = math.exp(generator.uniform(math.log(low), math.log(high)))
            value = min(max(value, low), high)
            return round(value) if self.kind == "int" else value
        count = self.size()
        if count is None:
            return generator.uniform(low, high)
        value = low + generator.randrange(count) * (self.step or 1)
        return int(value) if self.kind == "int" else _clean(value)

    def bounds(self) -> tuple[float, float]:
        """The lower and the upper bound of a range.

        Raises:
            ValueError: For a categorical parameter.
        """
        if self.low is None or self.high is None:
            raise ValueError(f"{self.name} has values, not bounds")
        return self.low, self.high

    def to_dict(self) -> dict[str, Any]:
        """The parameter as plain types."""
        plain: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "categorical":
            plain["values"] = [_plain(value) for value in self.values]
        else:
            plain |= {"min": self.low, "max": self.high}
            if self.log:
                plain["log"] = True
            if self.step is not None:
                plain["step"] = self.step
        if self.when is not None:
            plain["when"] = self.when.text
        return plain

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Parameter:
        """The parameter that `to_dict` wrote."""
        when = plain.get("when")
        return Parameter(
            name=plain["name"],
            kind=plain["kind"],
            low=plain.get("min"),
            high=plain.get("max"),
            log=plain.get("log", False),
            step=plain.get("step"),
            values=tuple(plain.get("values", ())),
            when=None if when is None else Expression(when),
        )


@dataclass(frozen=True)
class Space:
    """Parameters, in an order in which each condition only needs parameters before it, and constraints.

    Attributes:
        parameters: What is searched.
        constraints: Must be true for a configuration that is tried.
        defaults: The trainable's defaults for the fields that conditions and constraints mention.
    """

    parameters: tuple[Parameter, ...]
    constraints: tuple[Expression, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the parameters, in order."""
        return tuple(parameter.name for parameter in self.parameters)

    def exists(self, parameter: Parameter, config: Mapping[str, Any]) -> bool:
        """Whether a parameter is searched, given the fixed values and the parameters before it.

        A condition that has no value for this configuration is false.
        """
        if parameter.when is None:
            return True
        try:
            return parameter.when.holds({**self.defaults, **config})
        except ExpressionError:
            return False

    def complete(self, values: Mapping[str, Any], fixed: Mapping[str, Any]) -> dict[str, Any]:
        """One trial's full configuration: the fixed values, and ``values`` of the parameters that exist.

        Values of parameters that do not exist here are left out, whatever they are.

        Raises:
            KeyError: If a parameter exists and has no value.
        """
        config = dict(fixed)
        for parameter in self.parameters:
            if self.exists(parameter, config):
                config[parameter.name] = values[parameter.name]
        return config

    def contains(self, values: Mapping[str, Any]) -> bool:
        """Whether each value is one that its parameter can have; conditions and constraints left aside."""
        parameters = {parameter.name: parameter for parameter in self.parameters}
        return all(name in parameters and parameters[name].contains(value) for name, value in values.items())

    def violated(self, config: Mapping[str, Any], defaults: Mapping[str, Any] | None = None) -> list[str]:
        """The constraints that do not hold for a full configuration, as their texts.

        A constraint that has no value for this configuration (it compares null) is violated.

        Args:
            config: What `complete` returned.
            defaults: Further values for names that the configuration lacks.
        """
        known = {**self.defaults, **(defaults or {}), **config}
        return [constraint.text for constraint in self.constraints if not _holds(constraint, known)]

    def draw(self, generator: random.Random, fixed: Mapping[str, Any]) -> dict[str, Any]:
        """One full configuration at random; it may violate constraints."""
        return self.complete({p.name: p.draw(generator) for p in self.parameters}, fixed)

    def size(self) -> int | None:
        """Number of combinations, conditions and constraints left aside; None if a range is continuous."""
        sizes = [parameter.size() for parameter in self.parameters]
        known = [size for size in sizes if size is not None]
        return math.prod(known) if len(known) == len(sizes) else None

    def points(self, fixed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Every distinct configuration that keeps the constraints, the last parameter varying fastest.

        Raises:
            ValueError: If a range is continuous.
        """
        seen: set[str] = set()
        grids = [parameter.grid() for parameter in self.parameters]
        for combination in itertools.product(*grids):
            config = self.complete(dict(zip(self.names, combination, strict=True)), fixed)
            key = repr([config.get(name) for name in self.names])
            if key not in seen and not self.violated(config):
                seen.add(key)
                yield config

    def to_dict(self) -> dict[str, Any]:
        """The space as plain types; the parameters are a list, because their order matters."""
        return {
            "parameters": [parameter.to_dict() for parameter in self.parameters],
            "constraints": [constraint.text for constraint in self.constraints],
            "defaults": {name: _plain(value) for name, value in self.defaults.items()},
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> Space:
        """The space that `to_dict` wrote."""
        return Space(
            parameters=tuple(Parameter.from_dict(parameter) for parameter in plain["parameters"]),
            constraints=tuple(Expression(text) for text in plain["constraints"]),
            defaults=dict(plain["defaults"]),
        )


def describe_range(parameter: Parameter) -> str:
    """A parameter's values or range as text, e.g. ``1e-05 … 0.001``."""
    if parameter.kind == "categorical":
        return ", ".join(map(describe_value, parameter.values))
    low, high = parameter.bounds()
    return f"{low:g} … {high:g}"


def describe_scale(parameter: Parameter) -> str:
    """The scale of a parameter, as text."""
    if parameter.kind == "categorical":
        return "choice"
    words = "log" if parameter.log else "linear"
    if parameter.kind == "int":
        words = "integer, log" if parameter.log else "integer"
    return words if parameter.step in (None, 1) else f"{words}, step {parameter.step:g}"


def _holds(constraint: Expression, values: Mapping[str, Any]) -> bool:
    try:
        return constraint.holds(values)
    except ExpressionError:
        return False


def _clean(value: float) -> float:
    """Remove the rounding error of repeated addition: 0.1 + 2 * 0.1 is 0.3."""
    return float(f"{value:.12g}")


def _plain(value: Any) -> Any:
    return [_plain(element) for element in value] if isinstance(value, (list, tuple)) else value
