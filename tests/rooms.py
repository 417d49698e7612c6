"""The rooms of both packages, from the top down: an import goes from a higher row to a lower one.

`tests/test_layers.py` holds the packages to these rows; `python -m tests.measure` counts what breaks them.
"""

from __future__ import annotations

LARGEST_ROOM = 12
"""Python files of a room, without its `__init__.py`."""

RANKS: dict[str, tuple[tuple[str, ...], ...]] = {
    "sweeper": (
        ("__main__",),
        ("cli", "notebook"),
        ("commands",),
        ("driver", "finalists", "publication"),
        ("terminal", "report"),
        ("steering",),
        ("tracking", "certainty", "alerts"),
        ("machines", "search", "records"),
        ("trial", "spec"),
        ("errors", "evidence", "gpus", "layout", "masking", "text"),
        ("__init__",),
    ),
    "trainables": (
        ("diffusion_policy_distilled",),
        ("diffusion_policy",),
        ("evaluation",),
        ("deployment",),
        ("pusht",),
        ("dataset",),
        ("registry", "environment", "addresses", "shares"),
        ("interface",),
        ("inspection",),
        ("ranges", "features", "files", "confidence", "episodes"),
        ("__init__",),
    ),
    "trainables.diffusion_policy": (
        ("__init__",),
        ("trainable",),
        ("training", "examine", "inference", "proposals"),
        ("data", "clipped", "fraction"),
        ("finetuning", "formats", "lerobot", "acceleration"),
        ("pretrained",),
        ("network",),
        ("config",),
    ),
    "trainables.dataset": (
        ("__init__",),
        ("portrait", "repair"),
        ("doctor", "windows", "policy_statistics", "content"),
        ("open", "frames"),
        ("lerobot_dataset",),
        ("opened_folder",),
        ("sources",),
        ("format",),
        ("statistics", "drawing", "shared_cache", "errors"),
    ),
}
"""For each package the names directly below it, one row per rank. Names of one row do not know each other."""


def rank_of(package: str, module: str) -> tuple[int, str] | None:
    """The row of a package in which a module stands (0 is the bottom), and the name in that row.

    Args:
        package: A key of `RANKS`.
        module: The full name of a module; of a package, that of its `__init__`.

    Returns:
        None if the module is not part of the package, or has no rank there.
    """
    if module != package and not module.startswith(f"{package}."):
        return None
    name = module.removeprefix(package).removeprefix(".").partition(".")[0] or "__init__"
    for rank, row in enumerate(reversed(RANKS[package])):
        if name in row:
            return rank, name
    return None


def runs_up(importer: str, imported: str) -> bool:
    """Whether an import goes up, or sideways to another room of the same rank."""
    for package in RANKS:
        here, there = rank_of(package, importer), rank_of(package, imported)
        if here and there and here[1] != there[1] and there[0] >= here[0]:
            return True
    return False


def without_rank(modules: set[str]) -> set[str]:
    """The modules that no row names."""
    unranked: set[str] = set()
    for package in RANKS:
        inside = {name for name in modules if name == package or name.startswith(f"{package}.")}
        unranked |= {name for name in inside if rank_of(package, name) is None}
    return unranked
