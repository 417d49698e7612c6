"""Ways to damage an input that was valid: what a stranger's file, or a slip of the hand, looks like.

The tests try a few, always the same; ``FUZZ_EXAMPLES=100000 pytest tests/fuzz`` tries as many as wanted.
"""

from __future__ import annotations

import copy
import json
import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

__all__ = ["HOSTILE_TEXTS", "as_json", "damaged_bytes", "damaged_trees", "fuzz", "scalars"]

HOSTILE_TEXTS = (
    "",
    " ",
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    "{0.__class__.__mro__}",
    "{chunk_index:>99999999999}",
    "%s%n",
    "__import__('os').system('true')",
    "9" * 400,
    "1e999",
    "nan",
    "\x00",
    "\ud7ff\u202e",
    "a" * 5000,
    "!!python/object/apply:os.system ['true']",
    "10 ** 10 ** 10",
    "[" * 200,
)
HOSTILE_NUMBERS = (0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 0.0, -0.0, 1e-320, 1e308)
HOSTILE_FLOATS = (float("inf"), float("-inf"), float("nan"))


def fuzz(weight: float, examples: int) -> settings:
    """Settings of a fuzz test.

    Args:
        weight: Share of FUZZ_EXAMPLES that this test tries, where that is set in the environment.
        examples: How many it tries otherwise: always the same ones, with the other tests.
    """
    wanted = int(os.environ.get("FUZZ_EXAMPLES", "0"))
    return settings(
        max_examples=max(1, int(wanted * weight)) if wanted else examples,
        derandomize=not wanted,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


def scalars() -> st.SearchStrategy[Any]:
    """Values that a JSON or YAML leaf may have, hostile ones often."""
    return st.one_of(
        st.sampled_from([None, True, False, *HOSTILE_NUMBERS, *HOSTILE_FLOATS, *HOSTILE_TEXTS]),
        st.integers(-10, 100),
        st.floats(allow_nan=True),
        st.text(max_size=20),
    )


def trees() -> st.SearchStrategy[Any]:
    """Small values of any shape."""
    return st.recursive(
        scalars(),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=10), inner, max_size=4)
        ),
        max_leaves=8,
    )


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(tree, dict):
        for key, value in tree.items():
            found += _places(value, (*path, key))
    elif isinstance(tree, list):
        for number, value in enumerate(tree):
            found += _places(value, (*path, number))
    return found


@st.composite
def damaged_trees(draw: st.DrawFn, whole: Any) -> Any:
    """A valid tree in which one to three values were replaced, dropped, doubled or renamed."""
    tree = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(_places(tree)))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(trees())
            continue
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        key = path[-1]
        action = draw(st.sampled_from(("replace", "replace", "drop", "rename", "wrap")))
        if action == "replace":
            parent[key] = draw(trees())
        elif action == "drop":
            del parent[key]
        elif action == "wrap":
            parent[key] = draw(st.sampled_from(([parent[key]], {"x": parent[key]}, [parent[key]] * 3)))
        elif isinstance(parent, dict):
            parent[draw(st.one_of(st.sampled_from(HOSTILE_TEXTS), st.text(max_size=8)))] = parent.pop(key)
    return tree


@st.composite
def damaged_bytes(draw: st.DrawFn, whole: bytes) -> bytes:
    """A valid file that was cut, overwritten, or had bytes put in or taken out."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        action = draw(st.sampled_from(("cut", "write", "insert", "remove", "repeat")))
        some = draw(st.binary(min_size=1, max_size=8))
        if action == "cut":
            del data[start:]
        elif action == "write":
            data[start : start + len(some)] = some
        elif action == "insert":
            data[start:start] = some
        elif action == "remove":
            del data[start : start + draw(st.integers(1, 40))]
        else:
            data[start:start] = data[start : start + 40]
    return bytes(data)


def as_json(tree: Any) -> bytes:
    """JSON of a tree, with the numbers that strict JSON does not have."""
    return json.dumps(tree, default=str).encode("utf-8", "surrogatepass")
