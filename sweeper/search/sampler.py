"""Optuna's sampler for a search, with every argument given."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from sweeper.errors import UserError
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import Objective, SearchSpec

__all__ = ["Codec", "build_sampler"]

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


class Codec:
    """Between a parameter and what Optuna can store: choices that are lists become JSON texts."""

    def __init__(self, parameter: Parameter) -> None:
        self._parameter = parameter
        self.choices: list[Any] | None = None
        self._as_text = False
        if parameter.kind == "categorical":
            values = list(parameter.values)
            plain = all(value is None or isinstance(value, (bool, int, float, str)) for value in values)
            # Optuna finds a choice by ==, and True == 1.
            self._as_text = not plain or len(set(values)) < len(values)
            self.choices = [self.encode(value) for value in values]

    def encode(self, value: Any) -> Any:
        """A value as Optuna stores it."""
        return json.dumps(value) if self._as_text else value

    def distribution(self) -> optuna.distributions.BaseDistribution:
        """What Optuna draws from."""
        asked = optuna.trial.FixedTrial({self._parameter.name: self.encode(self._any())})
        self.suggest(asked)
        return asked.distributions[self._parameter.name]

    def _any(self) -> Any:
        return self._parameter.values[0] if self.choices is not None else self._parameter.low

    def suggest(self, trial: optuna.trial.BaseTrial) -> Any:
        """Have Optuna choose a value."""
        parameter = self._parameter
        if self.choices is not None:
            chosen = trial.suggest_categorical(parameter.name, self.choices)
            return parameter.values[self.choices.index(chosen)]
        low, high = parameter.bounds()
        if parameter.kind == "int":
            step = 1 if parameter.log else int(parameter.step or 1)
            top = int(low) + (int(high) - int(low)) // step * step
            return trial.suggest_int(parameter.name, int(low), top, step=step, log=parameter.log)
        if parameter.step is not None:
            high = parameter.grid()[-1]
        return trial.suggest_float(parameter.name, low, high, step=parameter.step, log=parameter.log)
