"""Conditions and constraints of a space: a small language, read through a whitelist, never run as code.

    policy.n_action_steps <= policy.horizon - policy.n_obs_steps + 1
    policy.beta_schedule in ['linear', 'scaled_linear'] and not ema.enabled
    policy.horizon % 2 ** len(policy.down_dims) == 0

Dotted names, numbers, texts, lists, ``true``, ``false``, ``null``; ``+ - * / // % **``; ``== != < <= > >=``
(chained as in Python), ``in``, ``not in``; ``and``, ``or``, ``not``; ``min``, ``max``, ``abs``, ``len``.
"""

from __future__ import annotations

import ast
import functools
import math
import operator
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sweeper.errors import ExpressionError
from sweeper.text import shortened

__all__ = ["Expression"]

MAX_LENGTH = 1000
"""Characters of an expression; enough for any condition, and few enough to read quickly."""
MAX_DEPTH = 40
MAX_EXPONENT_BITS = 1024
"""A power may have this many bits: more is a mistake, and costs time and memory."""

CONSTANTS = {"true": True, "false": False, "null": None, "none": None}

_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_FUNCTIONS: dict[str, Callable[..., Any]] = {"min": min, "max": max, "abs": abs, "len": len}
_MISTAKES = {
    r"&&": "Write `and`.",
    r"\|\|": "Write `or`.",
    r"!(?!=)": "Write `not`.",
    r"(?<![=!<>])=(?!=)": "Write `==` to compare.",
    "≤": "Write `<=`.",
    "≥": "Write `>=`.",
    "≠": "Write `!=`.",
    "[×·]": "Write `*`.",
    "[−–]": "Write `-`.",
    "[“”‘’]": "Write straight quotes.",
}
"""Patterns of other languages in a text that cannot be read, and what to write instead."""


@dataclass(frozen=True)
class Expression:
    """A condition or constraint.

    Attributes:
        text: As it is written in the space file.

    Raises:
        ExpressionError: From the constructor, if the text is not in the language.
    """

    text: str

    def __post_init__(self) -> None:
        _check(_parse(self.text), self.text)

    def __str__(self) -> str:
        return self.text

    @property
    def names(self) -> tuple[str, ...]:
        """The dotted names, each once, in the order of the text."""
        return tuple(dict.fromkeys(_names(_parse(self.text))))

    def evaluate(self, values: Mapping[str, Any]) -> Any:
        """Compute the value for a configuration of dotted names.

        Raises:
            ExpressionError: If a name has no value, or an operation has no meaning for the values.
        """
        try:
            return _evaluate(_parse(self.text), values)
        except ExpressionError as error:
            raise ExpressionError(f"`{self.text}` has no value: {error}") from None
        except (ArithmeticError, TypeError, ValueError) as error:
            raise ExpressionError(f"`{self.text}` has no value: {error}.") from error

    def holds(self, values: Mapping[str, Any]) -> bool:
        """Whether the expression is true for a configuration.

        Raises:
            ExpressionError: As `evaluate`, and if the value is neither true nor false.
        """
        value = self.evaluate(values)
        if not isinstance(value, bool):
            raise ExpressionError(
                f"`{self.text}` is {value!r}, neither true nor false. Compare it: ==, <=, in."
            )
        return value

    def renamed(self, names: Mapping[str, str]) -> Expression:
        """The same expression with names replaced, e.g. aliases by the names they stand for."""
        present = {name: names[name] for name in self.names if name in names}
        if not present:
            return self
        return Expression(ast.unparse(_Rename(present).visit(ast.parse(_one_line(self.text), mode="eval"))))

    def literals(self) -> Iterator[tuple[str, Any]]:
        """Each (name, constant) that the expression compares with ``==``, ``!=`` or ``in``."""
        for node in ast.walk(_parse(self.text)):
            if isinstance(node, ast.Compare) and len(node.ops) == 1:
                yield from _literals(node)


@functools.lru_cache(maxsize=1024)
def _parse(text: str) -> ast.expr:
    """Parse a text; the tree is shared and must not be changed."""
    if not isinstance(text, str) or not text.strip():
        raise ExpressionError(
            f"{text!r} is not an expression. Write a comparison, e.g. policy.horizon >= 16."
        )
    if len(text) > MAX_LENGTH:
        raise ExpressionError(f"an expression of {len(text)} characters is too long. At most {MAX_LENGTH}.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python warns of `1 is 2` and bad escapes; both are refused
            return ast.parse(_one_line(text), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        detail = error.msg if isinstance(error, SyntaxError) else str(error)
        hint = next((f" {words}" for sign, words in _MISTAKES.items() if re.search(sign, text)), "")
        raise ExpressionError(f"`{_short(text)}` cannot be read: {detail}.{hint}") from None


def _one_line(text: str) -> str:
    """A space file may break a long condition into lines."""
    return text.replace("\n", " ").replace("\r", " ").strip()


def _short(text: str) -> str:
    return shortened(text, 80)


def _check(node: ast.expr, text: str, depth: int = 0) -> None:
    """Refuse everything that is not in the language."""
    if depth > MAX_DEPTH:
        raise ExpressionError(f"`{_short(text)}` is nested too deeply. At most {MAX_DEPTH} levels.")
    for part in _parts(node, text):
        _check(part, text, depth + 1)


def _parts(node: ast.expr, text: str) -> list[ast.expr]:
    match node:
        case ast.Constant(value=value) if value is None or isinstance(value, (bool, int, float, str)):
            return []
        case ast.Name():
            return []
        case ast.Attribute() if _dotted(node) is not None:
            return []
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return parts
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.UAdd(), operand=part):
            return [part]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC or isinstance(op, ast.Pow):
            return [left, right]
        case ast.BoolOp(values=parts):
            return parts
        case ast.Compare(left=left, ops=ops, comparators=rest):
            if any(isinstance(op, (ast.Is, ast.IsNot)) for op in ops):
                raise ExpressionError(f"`{_short(text)}` uses `is`. Write `==` or `!=`.")
            return [left, *rest]
        case ast.Call(func=ast.Name(id=name), args=args, keywords=[]) if name in _FUNCTIONS:
            if args and not any(isinstance(argument, ast.Starred) for argument in args):
                return args
    raise ExpressionError(
        f"`{_short(text)}` uses {_describe(node)}, which is not allowed. Allowed: names, numbers, texts, "
        "lists, + - * / // % **, comparisons, in, and, or, not, min, max, abs, len."
    )


def _describe(node: ast.expr) -> str:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return f"the call {node.func.id}(...)"
    source = _short(ast.unparse(node))
    return f"`{source}`"


def _dotted(node: ast.expr) -> str | None:
    """The dotted name that a node spells, or None."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def _names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, (ast.Name, ast.Attribute)):
        name = _dotted(node)
        if name is not None and name.lower() not in CONSTANTS:
            yield name
        return
    parts = node.args if isinstance(node, ast.Call) else list(ast.iter_child_nodes(node))
    for part in parts:
        yield from _names(part)


def _literals(node: ast.Compare) -> Iterator[tuple[str, Any]]:
    if not isinstance(node.ops[0], (ast.Eq, ast.NotEq, ast.In, ast.NotIn)):
        return
    sides = [node.left, node.comparators[0]]
    for side, other in (sides, sides[::-1]):
        name = _dotted(side)
        if name is None or name.lower() in CONSTANTS:
            continue
        several = isinstance(node.ops[0], (ast.In, ast.NotIn)) and isinstance(other, (ast.List, ast.Tuple))
        for constant in other.elts if several and isinstance(other, (ast.List, ast.Tuple)) else [other]:
            if isinstance(constant, ast.Constant):
                yield name, constant.value


def _evaluate(node: ast.expr, values: Mapping[str, Any]) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return _lookup(_dotted(node) or "", values)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            return [_evaluate(part, values) for part in parts]
        case ast.UnaryOp(op=ast.Not(), operand=part):
            return not _truth(part, values)
        case ast.UnaryOp(op=op, operand=part):
            number = _number(part, values)
            return -number if isinstance(op, ast.USub) else number
        case ast.BinOp(left=left, op=op, right=right):
            return _arithmetic(op, _number(left, values), _number(right, values))
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_truth(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_truth(part, values) for part in parts)
        case ast.Compare():
            return _compare(node, values)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _FUNCTIONS[name](*(_evaluate(argument, values) for argument in args))
    raise AssertionError(f"a node that passed the check: {ast.dump(node)}")


def _lookup(name: str, values: Mapping[str, Any]) -> Any:
    if name.lower() in CONSTANTS:
        return CONSTANTS[name.lower()]
    try:
        value = values[name]
    except KeyError:
        raise ExpressionError(f"{name} has no value.") from None
    return list(value) if isinstance(value, tuple) else value


def _truth(node: ast.expr, values: Mapping[str, Any]) -> bool:
    value = _evaluate(node, values)
    if not isinstance(value, bool):
        raise ExpressionError(f"{_short(ast.unparse(node))} is {value!r}, neither true nor false.")
    return value


def _number(node: ast.expr, values: Mapping[str, Any]) -> int | float:
    value = _evaluate(node, values)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        what = "null" if value is None else repr(value)
        raise ExpressionError(f"{_short(ast.unparse(node))} is {what}, not a number.")
    return value


def _arithmetic(op: ast.operator, left: int | float, right: int | float) -> int | float:
    if not isinstance(op, ast.Pow):
        result: int | float = _ARITHMETIC[type(op)](left, right)
        return result
    if abs(left) > 1 and abs(right) * math.log2(abs(left)) > MAX_EXPONENT_BITS:
        raise ExpressionError(f"{left} ** {right} is too large.")
    power = left**right
    if isinstance(power, complex):
        raise ExpressionError(f"{left} ** {right} is not a real number.")
    number: int | float = power
    return number


def _compare(node: ast.Compare, values: Mapping[str, Any]) -> bool:
    left = _evaluate(node.left, values)
    for op, side in zip(node.ops, node.comparators, strict=True):
        right = _evaluate(side, values)
        if not _compare_two(op, left, right):
            return False
        left = right
    return True


def _compare_two(op: ast.cmpop, left: Any, right: Any) -> bool:
    match op:
        case ast.Eq():
            return bool(left == right)
        case ast.NotEq():
            return bool(left != right)
        case ast.In() | ast.NotIn():
            if not isinstance(right, (list, str)):
                raise ExpressionError(f"{right!r} is neither a list nor a text, so nothing can be `in` it.")
            return (left in right) == isinstance(op, ast.In)
    if left is None or right is None:
        raise ExpressionError("null cannot be ordered. Write `name == null or ...`.")
    return bool(_ORDER[type(op)](left, right))


class _Rename(ast.NodeTransformer):
    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self._renamed(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        return self._renamed(node)

    def _renamed(self, node: ast.expr) -> ast.expr:
        name = _dotted(node)
        if name is None or name not in self.names:
            return node
        return ast.parse(self.names[name], mode="eval").body
