"""Which tests are fast, as their modules say."""

from __future__ import annotations

import ast
import re
from pathlib import Path

__all__ = ["FAST", "fast_tests", "has_none"]

FAST = "not ray and not slow"
"""What `make check` selects with ``-m``."""
_NONE = re.compile(r"^pytestmark = (\[[^\]]*)?\s*pytest\.mark\.(slow|ray)\b", re.MULTILINE)
_NOT_FAST = re.compile(r"\bmark\.(slow|ray)\b")


def has_none(module: Path) -> bool:
    """Whether a module says of all its tests that they are not fast."""
    return bool(_NONE.search(module.read_text(encoding="utf-8")))


def fast_tests(module: Path) -> list[str]:
    """The names of the tests of a module that are marked neither slow nor ray."""
    if has_none(module):
        return []
    return [
        node.name
        for node in ast.parse(module.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef)
        and node.name.startswith("test_")
        and not any(_NOT_FAST.search(ast.unparse(mark)) for mark in node.decorator_list)
    ]
