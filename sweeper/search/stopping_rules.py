"""Rules that decide which trials are stopped early, and ASHA, which knows the noise of its values.

A rule receives the values of the metric in the order of the journal, and nothing else. So a driver that
resumes a sweep makes the decisions that the former one would have made.

ASHA decides as Ray Tune's does (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys
2020, without promotions). Tune's cannot be told how certain a value is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np

from sweeper.spec.sweep import EarlyStopSpec

__all__ = ["Asha", "Point", "StoppingRule"]

_INTERVAL_Z = NormalDist().inv_cdf(0.975)
"""Standard deviations from a value to the end of its 95 % interval."""


@dataclass(frozen=True)
class Point:
    """A value of the metric that a trial reported.

    Attributes:
        trial: Number of the trial.
        step: Optimiser steps done.
        value: The value.
        low: Lower end of its 95 % interval; None if the metric has none.
        high: Upper end.
    """

    trial: int
    step: int
    value: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(trial: int, step: int, metric: str, metrics: Mapping[str, float]) -> Point | None:
        """The point of a report; None if it does not have the metric."""
        if metric not in metrics:
            return None
        return Point(
            trial, step, metrics[metric], metrics.get(f"{metric}_low"), metrics.get(f"{metric}_high")
        )


class StoppingRule(Protocol):
    """Which trials are stopped. Every trial reports each step once, in order, and finite values only."""

    def judge(self, point: Point) -> str | None:
        """Receive the next value of a trial; why the trial should be stopped, or None."""
        ...

    def complete(self, trial: int) -> None:
        """A trial reached its end."""
        ...


class Asha:
    """Stops a trial at a rung if it is not among the best of those that were there before.

    With `EarlyStopSpec.confidence`, only if the value that lies that surely above the true one is not either:
    a trial that may be as good as the others continues.
    """

    def __init__(self, early_stop: EarlyStopSpec) -> None:
        self._early_stop = early_stop
        # Turned so that more is better.
        self._sign = 1.0 if early_stop.goal == "maximize" else -1.0
        self._rungs: dict[int, dict[int, float]] = {rung: {} for rung in early_stop.rungs()}
        confidence = early_stop.confidence
        self._z = 0.0 if confidence is None else NormalDist().inv_cdf(confidence)

    def judge(self, point: Point) -> str | None:
        """Decide at the highest rung that the trial has reached, once."""
        reached = [rung for rung in self._rungs if rung <= point.step]
        if not reached or point.trial in self._rungs[max(reached)]:
            return None
        values = self._rungs[max(reached)]
        others = list(values.values())
        values[point.trial] = self._sign * point.value
        if not others:
            return None
        cutoff = float(np.percentile(others, 100 * (1 - 1 / self._early_stop.reduction)))
        if self._sign * point.value + self._z * self._uncertainty(point) >= cutoff:
            return None
        why = (
            f"{self._early_stop.metric} = {point.value:.4g} at step {point.step} is not among the best "
            f"1/{self._early_stop.reduction} of the trials that came as far"
        )
        if self._early_stop.confidence is not None:
            why += f", with {100 * self._early_stop.confidence:g} % confidence"
        return why

    def _uncertainty(self, point: Point) -> float:
        """The standard deviation of a value towards the better side."""
        end = point.high if self._sign > 0 else point.low
        return 0.0 if end is None else max(0.0, self._sign * (end - point.value)) / _INTERVAL_Z

    def complete(self, trial: int) -> None:
        """Nothing: only values at rungs count."""
