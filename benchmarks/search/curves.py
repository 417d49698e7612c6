"""What simulated trials report: recorded learning curves, or curves like them for any configuration.

`Recorded` looks a configuration up in the table: its trial has the curve of the nearest recorded one, exactly
as that was measured. `Fitted` interpolates: a Gaussian process predicts the curve of a configuration, and
what it leaves unexplained of a recorded curve, drawn at random, is the noise of the trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist

from benchmarks.learning_curves import ERROR, SPACE
from sweeper.spec.space import Parameter

__all__ = ["Curves", "Fitted", "Recorded"]

_SMALLEST, _LARGEST = np.log(0.1), np.log(20.0)
"""Bounds of the length scales; a parameter has the length 1."""


class Curves(Protocol):
    """Learning curves of an error, which is better if it is smaller."""

    best: float
    """The smallest true error at the end of a trial."""

    def reported(self, values: Mapping[str, Any], noise: Sequence[int]) -> np.ndarray:
        """The errors that a trial reports, one for each evaluation; ``noise`` seeds what is random."""
        ...

    def true(self, values: Mapping[str, Any]) -> np.ndarray:
        """The errors without noise."""
        ...


def _coordinates(trials: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Each configuration as a point of the unit cube, on the scales of the space."""
    return np.array(
        [[_share(parameter, values[parameter.name]) for parameter in SPACE.parameters] for values in trials]
    )


def _share(parameter: Parameter, value: float) -> float:
    low, high = parameter.bounds()
    if parameter.log:
        return float(np.log(value / low) / np.log(high / low))
    return (value - low) / (high - low)


class Fitted:
    """A Gaussian process on the logarithms of the errors, the same kernel for each evaluation.

    Args:
        trials: The recorded trials.
    """

    def __init__(self, trials: Sequence[Mapping[str, Any]]) -> None:
        self._points = _coordinates([trial["values"] for trial in trials])
        logs = np.log(np.array([trial[ERROR] for trial in trials]))
        self._mean, self._scale = logs.mean(0), logs.std(0)
        standard = (logs - self._mean) / self._scale
        start = np.log([*[0.5] * self._points.shape[1], 0.05])
        bounds = [(_SMALLEST, _LARGEST)] * self._points.shape[1] + [(np.log(1e-4), 0.0)]
        found = minimize(self._fault, start, args=(standard,), method="L-BFGS-B", bounds=bounds)
        self.lengths, self.noise = np.exp(found.x[:-1]), float(np.exp(found.x[-1]))
        inverse = np.linalg.inv(self._kernel(self._points) + self.noise * np.eye(len(self._points)))
        self._weights = inverse @ standard
        # Errors of leave-one-out predictions (Rasmussen and Williams 2006, equations 5.10 to 5.12), at the
        # level of the noise: the rest of them is what the prediction does not know.
        unsure = np.diag(inverse)[:, None]
        self._noises = (self._weights / unsure) * np.sqrt(self.noise * unsure)

    def _kernel(self, points: np.ndarray) -> np.ndarray:
        """Matérn 5/2 between points and the recorded ones."""
        return _matern(cdist(points / self.lengths, self._points / self.lengths))

    def _fault(self, logs: np.ndarray, standard: np.ndarray) -> float:
        """The negative logarithm of the marginal likelihood; the variance of the process is profiled out."""
        scaled = self._points / np.exp(logs[:-1])
        matrix = _matern(cdist(scaled, scaled)) + np.exp(logs[-1]) * np.eye(len(scaled))
        factor = np.linalg.cholesky(matrix)
        whitened = np.linalg.solve(factor, standard)
        evaluations = standard.shape[1]
        return float(
            evaluations * np.log(np.diag(factor)).sum()
            + 0.5 * standard.size * np.log((whitened**2).sum() / standard.size)
        )

    def _predicted(self, points: np.ndarray) -> np.ndarray:
        return self._mean + self._scale * (self._kernel(points) @ self._weights)

    def true(self, values: Mapping[str, Any]) -> np.ndarray:
        """The prediction."""
        return np.exp(self._predicted(_coordinates([values]))[0])

    def reported(self, values: Mapping[str, Any], noise: Sequence[int]) -> np.ndarray:
        """The prediction with the noise of a recorded curve."""
        drawn = np.random.default_rng(noise).integers(len(self._noises))
        return self.true(values) * np.exp(self._scale * self._noises[drawn])

    @cached_property
    def best(self) -> float:
        """The smallest prediction among many configurations."""
        points = np.random.default_rng(0).random((20_000, len(SPACE.parameters)))
        for column, parameter in enumerate(SPACE.parameters):
            if parameter.step is not None:
                grid = np.array([_share(parameter, value) for value in parameter.grid()])
                points[:, column] = grid[(points[:, column] * len(grid)).astype(int)]
        return float(np.exp(self._predicted(points)[:, -1].min()))

    def unexplained(self) -> np.ndarray:
        """The standard deviation of the noise at each evaluation, as a share of the error."""
        return self._scale * self._noises.std(0)


class Recorded:
    """The recorded curves themselves.

    Args:
        trials: The recorded trials.
        lengths: How far apart values are that count as equally different, for each parameter.
    """

    def __init__(self, trials: Sequence[Mapping[str, Any]], lengths: np.ndarray) -> None:
        self._lengths = lengths
        self._points = _coordinates([trial["values"] for trial in trials]) / lengths
        self._curves = np.array([trial[ERROR] for trial in trials])
        self.best = float(self._curves[:, -1].min())

    def true(self, values: Mapping[str, Any]) -> np.ndarray:
        """The curve of the nearest recorded configuration."""
        near = cdist(_coordinates([values]) / self._lengths, self._points).argmin()
        found: np.ndarray = self._curves[near]
        return found

    def reported(self, values: Mapping[str, Any], noise: Sequence[int]) -> np.ndarray:  # noqa: ARG002
        """The same: what was measured is what counts."""
        return self.true(values)


def _matern(distance: np.ndarray) -> np.ndarray:
    root = np.sqrt(5.0) * distance
    found: np.ndarray = (1 + root + root**2 / 3) * np.exp(-root)
    return found
