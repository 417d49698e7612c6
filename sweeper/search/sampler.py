"""Optuna's sampler for a search, with every argument given."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from typing import Any

import optuna

from sweeper.errors import UserError
from sweeper.spec.sampler_options import complete_options, option_faults
from sweeper.spec.search_methods import missing_package
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import Objective, SearchSpec

__all__ = ["Codec", "build_sampler"]


def build_sampler(
    search: SearchSpec, space: Space, objectives: Sequence[Objective], seed: int
) -> optuna.samplers.BaseSampler:
    """Build the sampler with every argument given: a new Optuna must not change a sweep.

    Raises:
        UserError: If the options of the search are wrong or a package is not installed.
    """
    faults = option_faults(search)
    if faults:
        raise UserError("\n".join(f"search.options.{fault}" for fault in faults))
    package = missing_package(search.method)
    if package is not None:
        raise UserError(
            f"search.method: {search.method} needs the package {package}, which is not installed. "
            "Install the extra `samplers`, or use method: tpe."
        )
    random_sampler = optuna.samplers.RandomSampler(seed=seed)
    # Samplers that start with random trials, and draw at random what they cannot model.
    at_first = {
        "n_startup_trials": search.startup_trials,
        "independent_sampler": random_sampler,
        "warn_independent_sampling": True,
    }
    settled: dict[str, Any]  # arguments that a space file cannot change
    match search.method:
        case "random" | "grid":
            return random_sampler
        case "tpe":
            kind: Any = optuna.samplers.TPESampler
            settled = {"n_startup_trials": search.startup_trials}
        case "cmaes":
            kind = optuna.samplers.CmaEsSampler
            settled = {
                **at_first,
                # Values at different steps cannot be compared.
                "consider_pruned_trials": False,
                "source_trials": None,
            }
        case "gp":
            kind = optuna.samplers.GPSampler
            settled = at_first
    with warnings.catch_warnings():
        # Optuna calls most of these options experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        sampler: optuna.samplers.BaseSampler = kind(
            seed=seed, **settled, **complete_options(search, space, objectives)
        )
    return sampler


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
