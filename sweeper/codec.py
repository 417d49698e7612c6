"""Between a parameter of a space and what Optuna draws and stores."""

from __future__ import annotations

import json
from typing import Any

import optuna

from sweeper.spec.space import Parameter

__all__ = ["Codec"]


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
