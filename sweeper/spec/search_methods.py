"""What each search method can search, checked before anything runs. Standard library only."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import Objective, SearchSpec

__all__ = ["method_faults", "missing_package"]

MIN_CMAES_DIMENSIONS = 2
"""CMA-ES adapts a covariance; with one number there is none."""

_PACKAGES = {"cmaes": ("cmaes",)}


TRACKERS: Mapping[str, str] = {"wandb": "wandb", "trackio": "trackio", "tensorboard": "tensorboardX"}
"""The trackers beside MLflow, and the package that each one needs."""


def missing_tracker(name: str) -> str | None:
    """The package that a tracker needs and that is not installed; None if there is none."""
    package = TRACKERS[name]
    return package if importlib.util.find_spec(package) is None else None


def missing_package(method: str) -> str | None:
    """A package that a search method needs and that is not installed; None if there is none."""
    return next((name for name in _PACKAGES.get(method, ()) if importlib.util.find_spec(name) is None), None)


def method_faults(search: SearchSpec, space: Space, objectives: Sequence[Objective]) -> list[str]:
    """What a search method cannot search in a space; an empty list if it can search all of it.

    Optuna would use random sampling for most of these, with a line in a log. A sweep that searches in another
    way than the user chose is worse than one that does not start.
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
        f"a grid cannot search a continuous range: {_list(continuous)}. "
        "Add a step, list the values, or use method: tpe."
    ]


def _cmaes_faults(space: Space, objectives: Sequence[Objective]) -> list[str]:
    faults = []
    if len(objectives) > 1:
        faults.append(
            f"CMA-ES optimises one objective, and the sweep has {len(objectives)}. "
            "Use method: tpe, gp or random, or remove all objectives but one."
        )
    choices = [parameter.name for parameter in space.parameters if parameter.kind == "categorical"]
    if choices:
        faults.append(
            f"CMA-ES cannot search a list of values: {_list(choices)}. "
            "Use min and max, fix it in config, or use method: tpe."
        )
    faults += _condition_faults("CMA-ES", space)
    dimensions = [parameter for parameter in space.parameters if _moves(parameter)]
    if len(dimensions) < MIN_CMAES_DIMENSIONS and not choices:
        faults.append(
            f"CMA-ES needs at least {MIN_CMAES_DIMENSIONS} parameters, and the sweep has {len(dimensions)}. "
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
        f"{method} cannot search a conditional parameter: {_list(conditional)}. "
        "Remove `when`, or use method: tpe."
    ]


def _moves(parameter: Parameter) -> bool:
    return parameter.kind != "categorical" and parameter.low != parameter.high


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
