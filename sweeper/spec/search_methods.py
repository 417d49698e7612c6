"""What each search method can search, said before anything runs. Standard library only."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence

from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import Objective, SearchSpec

__all__ = ["method_faults", "missing_package"]

MIN_CMAES_DIMENSIONS = 2
"""CMA-ES adapts a covariance; with one number there is none."""

_PACKAGES = {"cmaes": ("cmaes",), "gp": ("scipy", "torch")}


def missing_package(method: str) -> str | None:
    """A package that a search method needs and that is not installed; None if there is none."""
    return next((name for name in _PACKAGES.get(method, ()) if importlib.util.find_spec(name) is None), None)


def method_faults(search: SearchSpec, space: Space, objectives: Sequence[Objective]) -> list[str]:
    """Say what a search method cannot do with a space; an empty list if it can search all of it.

    Optuna would fall back to random sampling for most of these, with a line in a log; a sweep that does
    something else than it was told to is worse than one that does not start.
    """
    match search.method:
        case "grid":
            return _grid_faults(space)
        case "cmaes":
            return _cmaes_faults(space, objectives)
        case "gp":
            return _gp_faults(space)
    return []


def _grid_faults(space: Space) -> list[str]:
    continuous = [parameter.name for parameter in space.parameters if parameter.size() is None]
    if not continuous:
        return []
    return [
        f"a grid has no end over {_list(continuous)}: a continuous range. "
        "Give the parameter a step or a list of values, or search with method: tpe."
    ]


def _cmaes_faults(space: Space, objectives: Sequence[Objective]) -> list[str]:
    faults = []
    if len(objectives) > 1:
        faults.append(
            f"CMA-ES optimises one objective, and there are {len(objectives)}. "
            "Use method: tpe, gp or random, or keep one objective."
        )
    choices = [parameter.name for parameter in space.parameters if parameter.kind == "categorical"]
    if choices:
        faults.append(
            f"CMA-ES searches numbers, and {_list(choices)} is a choice. "
            "Give it min and max, fix it in config, or search with method: tpe."
        )
    faults += _condition_faults("CMA-ES", space)
    dimensions = [parameter for parameter in space.parameters if _moves(parameter)]
    if len(dimensions) < MIN_CMAES_DIMENSIONS and not choices:
        faults.append(
            f"CMA-ES needs at least {MIN_CMAES_DIMENSIONS} parameters, and there is {len(dimensions)}. "
            "Use method: tpe."
        )
    return faults


def _gp_faults(space: Space) -> list[str]:
    return _condition_faults("The Gaussian process", space)


def _condition_faults(method: str, space: Space) -> list[str]:
    conditional = [parameter.name for parameter in space.parameters if parameter.when is not None]
    if not conditional:
        return []
    return [
        f"{method} cannot search a parameter that exists only sometimes: {_list(conditional)} has `when`. "
        "Take the condition away, or search with method: tpe."
    ]


def _moves(parameter: Parameter) -> bool:
    return parameter.kind != "categorical" and parameter.low != parameter.high


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
