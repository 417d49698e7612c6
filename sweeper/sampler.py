"""Optuna's sampler for a search, with every argument given."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from sweeper.errors import UserError
from sweeper.spec.space import Space
from sweeper.spec.sweep import Objective, SearchSpec

__all__ = ["build_sampler"]

_PACKAGES = {"cmaes": ("cmaes",), "gp": ("scipy", "torch")}


def build_sampler(
    search: SearchSpec, space: Space, objectives: Sequence[Objective], seed: int
) -> optuna.samplers.BaseSampler:
    """Build the sampler with every argument given: a new Optuna must not change a sweep."""
    single = len(objectives) == 1
    conditional = any(parameter.when is not None for parameter in space.parameters)
    discrete = any(p.kind == "int" or p.step is not None for p in space.parameters)
    random_sampler = optuna.samplers.RandomSampler(seed=seed)
    settled: dict[str, Any]  # what a space file cannot change
    options: dict[str, Any]  # what it can
    # Samplers that begin at random, and leave to chance what they cannot model.
    at_first = {
        "n_startup_trials": search.startup_trials,
        "independent_sampler": random_sampler,
        "warn_independent_sampling": True,
    }
    match search.method:
        case "random" | "grid":
            return random_sampler
        case "tpe":
            kind: Any = optuna.samplers.TPESampler
            settled = {"n_startup_trials": search.startup_trials}
            options = {
                "n_ei_candidates": 24,
                "multivariate": single,
                # Parameters that exist together are modelled together.
                "group": single and conditional,
                "constant_liar": True,
            }
        case "cmaes":
            kind = optuna.samplers.CmaEsSampler
            settled = {
                **at_first,
                # Values at different steps cannot be compared.
                "consider_pruned_trials": False,
                "source_trials": None,
            }
            other_kind = search.options.get("use_separable_cma") or search.options.get("lr_adapt")
            options = {
                "sigma0": None,
                "popsize": None,
                "use_separable_cma": False,
                # Without a margin whole numbers get stuck on one value.
                "with_margin": discrete and not other_kind,
                "lr_adapt": False,
            }
        case "gp":
            kind = optuna.samplers.GPSampler
            settled = at_first
            options = {"deterministic_objective": False}
    unknown = sorted(set(search.options) - set(options))
    if unknown:
        raise UserError(
            f"search.options: {', '.join(unknown)} is no option of {search.method}. "
            f"Allowed: {', '.join(sorted(options))}."
        )
    missing = [name for name in _PACKAGES.get(search.method, ()) if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(
            f"search.method: {search.method} needs the package {missing[0]}, which is not installed. "
            "Install the extra `samplers`, or use method: tpe."
        )
    with warnings.catch_warnings():
        # Optuna calls most of these options experimental, and sigma0 outdated.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return kind(seed=seed, **settled, **{**options, **search.options})
        except (TypeError, ValueError) as error:
            raise UserError(f"search.options: {search.method} refuses them: {error}") from error
