"""Numbers about the source of both packages, to compare one commit with another.

    python -m tests.measure [--json] [FOLDER]

FOLDER is a checkout, by default this one. What is counted:

- Files of a folder: its own Python files without `__init__.py`, which only says what the folder is.
- The import graph has an edge for each module that is named by `import a.b`, by `from a import b` if b is a
  module, else by `from a import name` (then a is meant, which may be an `__init__`), also relatively, inside
  functions and under TYPE_CHECKING. Importing a.b does not count as importing a. A circle is a strongly
  connected component of more than one module.
- An own import inside a function is one statement, unless it is under TYPE_CHECKING.
- Functions include methods and nested functions; the lines of a function are those from `def` to its end,
  docstring and nested functions included.
- A function is fully annotated if all its arguments and what it returns are; `self` and `cls` need nothing.
- Imports that run up break the ranks of `tests/rooms.py`. Without the rooms there is nothing to count.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.rooms import LARGEST_ROOM, runs_up, without_rank

PACKAGES = ("sweeper", "trainables")
ROOT = Path(__file__).parent.parent

Function = ast.FunctionDef | ast.AsyncFunctionDef
Import = ast.Import | ast.ImportFrom


@dataclass(frozen=True)
class Module:
    """One Python file: its name as it is imported, and its syntax tree."""

    name: str
    path: Path
    is_package: bool
    lines: int
    tree: ast.Module


def read_modules(root: Path) -> dict[str, Module]:
    """All modules of both packages of a checkout, by name."""
    modules: dict[str, Module] = {}
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            relative = path.relative_to(root)
            is_package = path.name == "__init__.py"
            name = ".".join((relative.parent if is_package else relative.with_suffix("")).parts)
            text = path.read_text(encoding="utf-8")
            lines = len(text.splitlines())
            modules[name] = Module(name, relative, is_package, lines, ast.parse(text, str(path)))
    return modules


@functools.cache
def imports_in(tree: ast.AST) -> tuple[Import, ...]:
    """Every import statement, wherever it stands."""
    return tuple(node for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)))


def targets(module: Module, statement: Import, known: set[str]) -> set[str]:
    """The modules of both packages that an import statement of a module names."""
    if isinstance(statement, ast.Import):
        return {alias.name for alias in statement.names} & known
    base = statement.module or ""
    if statement.level:
        package = module.name.split(".") if module.is_package else module.name.split(".")[:-1]
        up = package[: len(package) - statement.level + 1]
        base = ".".join([*up, base] if base else up)
    found = set()
    for alias in statement.names:
        below = f"{base}.{alias.name}"
        found.add(below if below in known else base)
    return found & known


def import_graph(modules: dict[str, Module]) -> dict[str, set[str]]:
    """The modules that each module imports."""
    known = set(modules)
    return {
        name: {
            target for statement in imports_in(module.tree) for target in targets(module, statement, known)
        }
        - {name}
        for name, module in modules.items()
    }


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The strongly connected components of more than one module, the largest first."""
    reached = {name: _reachable(graph, name) for name in graph}
    found = set()
    for name, below in reached.items():
        together = frozenset({name} | {other for other in below if name in reached[other]})
        if len(together) > 1:
            found.add(together)
    return sorted((sorted(together) for together in found), key=lambda circle: (-len(circle), circle))


def _reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for target in graph[waiting.pop()] - seen:
            seen.add(target)
            waiting.append(target)
    return seen


def lazy_imports(module: Module, known: set[str]) -> list[int]:
    """The lines of own imports inside functions."""
    found: list[int] = []

    def visit(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            for child in node.orelse:
                visit(child, inside)
            return
        if inside and isinstance(node, (ast.Import, ast.ImportFrom)) and targets(module, node, known):
            found.append(node.lineno)
        inside = inside or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.iter_child_nodes(node):
            visit(child, inside)

    visit(module.tree, False)
    return found


def functions_of(module: Module) -> Iterator[tuple[str, Function, bool]]:
    """Each function with its qualified name and whether it is a method."""

    def visit(node: ast.AST, prefix: str, in_class: bool) -> Iterator[tuple[str, Function, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{prefix}.{child.name}"
                yield name, child, in_class
                yield from visit(child, name, False)
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{prefix}.{child.name}", True)
            else:
                yield from visit(child, prefix, in_class)

    return visit(module.tree, module.name, False)


def is_annotated(function: Function, is_method: bool) -> bool:
    """Whether all arguments and the result of a function have annotations."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in function.decorator_list)
    if is_method and not static:
        positional = positional[1:]
    rest = [argument for argument in (given.vararg, given.kwarg) if argument is not None]
    arguments = [*positional, *given.kwonlyargs, *rest]
    return function.returns is not None and all(argument.annotation is not None for argument in arguments)


def lines_of(function: Function) -> int:
    """How many lines a function has."""
    return (function.end_lineno or function.lineno) - function.lineno + 1


def measure(root: Path = ROOT) -> dict[str, Any]:
    """All numbers of a checkout, as plain types."""
    modules = read_modules(root)
    known = set(modules)
    graph = import_graph(modules)
    folders = Counter(str(module.path.parent) for module in modules.values() if not module.is_package)
    functions = [found for module in modules.values() for found in functions_of(module)]
    lengths = {name: lines_of(function) for name, function, _ in functions}
    longest = max(lengths, key=lambda name: lengths[name])
    annotated = sum(is_annotated(function, is_method) for _, function, is_method in functions)
    lazy = {str(module.path): len(lazy_imports(module, known)) for module in modules.values()}
    found = circles(graph)
    unranked = without_rank(known)
    up = sorted((a, b) for a, imported in graph.items() for b in imported if runs_up(a, b))
    return {
        "files": len(modules),
        "lines": sum(module.lines for module in modules.values()),
        "folders": dict(sorted(folders.items())),
        "largest_folder": max(folders.values()),
        "folders_too_large": {name: count for name, count in sorted(folders.items()) if count > LARGEST_ROOM},
        "circles": found,
        "files_in_circles": sum(len(circle) for circle in found),
        "imports_up": None if unranked else [f"{a} -> {b}" for a, b in up],
        "modules_without_rank": len(unranked),
        "own_imports_in_functions": sum(lazy.values()),
        "own_imports_in_functions_by_file": {name: count for name, count in lazy.items() if count},
        "functions": len(functions),
        "longest_function": {"name": longest, "lines": lengths[longest]},
        "mean_function_lines": round(sum(lines_of(f) for _, f, _ in functions) / len(functions), 2),
        "annotated_share": round(annotated / len(functions), 4),
    }


def as_table(numbers: dict[str, Any]) -> str:
    """The numbers as a Markdown table."""
    too_large = ", ".join(f"{name} {count}" for name, count in numbers["folders_too_large"].items())
    sizes = ", ".join(str(len(circle)) for circle in numbers["circles"])
    circles_text = f"{len(numbers['circles'])}" + (f" (of {sizes} files)" if sizes else "")
    up = numbers["imports_up"]
    up_text = f"n/a ({numbers['modules_without_rank']} files have no rank)" if up is None else str(len(up))
    longest = numbers["longest_function"]
    rows = [
        ("Python files", f"{numbers['files']:,}"),
        ("lines", f"{numbers['lines']:,}"),
        ("folders", str(len(numbers["folders"]))),
        ("most files in one folder", str(numbers["largest_folder"])),
        (f"folders with more than {LARGEST_ROOM} files", too_large or "none"),
        ("import circles", circles_text),
        ("files in import circles", str(numbers["files_in_circles"])),
        ("imports that run up", up_text),
        ("own imports inside functions", str(numbers["own_imports_in_functions"])),
        ("functions", f"{numbers['functions']:,}"),
        ("longest function", f"{longest['lines']} lines, `{longest['name']}`"),
        ("mean function length", f"{numbers['mean_function_lines']:.2f} lines"),
        ("functions fully annotated", f"{numbers['annotated_share']:.2%}"),
    ]
    return "\n".join(["| what | number |", "|---|---|", *(f"| {what} | {number} |" for what, number in rows)])


def main() -> None:
    """Print the numbers of a checkout."""
    parser = argparse.ArgumentParser(prog="python -m tests.measure", description="Measure both packages.")
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT, help="A checkout; by default this one.")
    parser.add_argument("--json", action="store_true", help="Print everything as JSON.")
    given = parser.parse_args()
    numbers = measure(given.folder)
    print(json.dumps(numbers, indent=2) if given.json else as_table(numbers))


if __name__ == "__main__":
    main()
