"""Early stopping: ASHA and the median rule under Ray Tune, by the trial's own step.

Tune counts reports; we count optimiser steps. A trial that was started again and repeats its steps is judged
once, and a report without the metric (most reports come between evaluations) decides nothing.

ASHA is Tune's. The median rule is ours: Tune's pauses trials, which ours cannot, fails once it receives an
earlier trial beyond the point at which it would have stopped it, and stops a trial that equals the others
when the mean of equal numbers differs from them in the last bit.
"""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler

from sweeper.errors import UserError
from sweeper.spec.sweep import EarlyStopSpec
from sweeper.trial.exchange import FINAL, STEP, metrics_of

__all__ = ["StepScheduler", "make_scheduler"]

MEDIAN_MIN_TRIALS = 3
"""The median rule stops nothing before this many other trials came as far."""
TOLERANCE = 1e-9
"""Relative difference up to which two values are equal to the median rule."""

History = Mapping[int, Sequence[tuple[int, float]]]
"""Of each earlier trial, by number: (step, value) of the metric, in order."""


class StepScheduler(FIFOScheduler):
    """Trials start in the order of their suggestion, and a rule of Tune's stops those that do badly.

    Never pauses: a trial that trains in worker groups of its own has nothing that Tune could take it up from.

    Args:
        early_stop: The rule.
        history: What earlier trials of the sweep reported, for a sweep that continues.
    """

    # Tune would insist that every report has the metric of a scheduler that names one.
    _metric = None
    _supports_buffered_results = False

    def __init__(self, early_stop: EarlyStopSpec, history: History | None = None) -> None:
        super().__init__()
        self._early_stop = early_stop
        self._rule = _rule(early_stop)
        self._last_step: dict[str, int] = {}
        self._stopped: dict[str, str] = {}
        for number, reports in (history or {}).items():
            past = _SameTrial(f"trial {number}")
            self._rule.on_trial_add(None, past)
            for step, value in reports:
                self._decide(None, past, step, value)

    def stopped(self, trial_id: str) -> str | None:
        """Why the trial with Tune's id was stopped, in one line, or None if it was not."""
        return self._stopped.get(trial_id)

    def set_search_properties(self, _metric: str | None, _mode: str | None, **_spec: Any) -> bool:
        """Take no metric from Tune: the rule has its own."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Let the rule know of a new trial."""
        self._rule.on_trial_add(tune_controller, _same(trial))

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial continues, if the report has what the rule needs."""
        value = metrics_of(result).get(self._early_stop.metric)
        if STEP not in result or value is None or not math.isfinite(value):
            return TrialScheduler.CONTINUE
        step = int(result[STEP])
        decision = self._decide(tune_controller, _same(trial), step, float(value))
        if decision != TrialScheduler.STOP or result.get(FINAL) or step >= self._early_stop.max_steps:
            # There is nothing left to save of a trial at its last step.
            return TrialScheduler.CONTINUE
        self._stopped[trial.trial_id] = self._why(step, float(value))
        return TrialScheduler.STOP

    def _decide(self, tune_controller: Any, trial: Any, step: int, value: float) -> str:
        # What a trial reports before its first step is what it started from, and not its doing.
        if step <= self._last_step.get(trial.trial_id, 0):
            return TrialScheduler.CONTINUE
        self._last_step[trial.trial_id] = step
        decision = self._rule.on_trial_result(
            tune_controller, trial, {STEP: step, self._early_stop.metric: value}
        )
        return str(decision)

    def _why(self, step: int, value: float) -> str:
        said = f"{self._early_stop.metric} = {value:.4g} at step {step}"
        if self._early_stop.method == "asha":
            return (
                f"{said} is not among the best 1/{self._early_stop.reduction} of the trials that came as far"
            )
        return f"{said}: its best is worse than the median of the other trials"

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the last report came through `on_trial_result` and must not count twice."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: the rule has no data of a trial that never ran."""

    def debug_string(self) -> str:
        """What Tune may print."""
        return str(self._rule.debug_string())

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that we never do.
        return {}


def make_scheduler(early_stop: EarlyStopSpec | None, history: History | None = None) -> TrialScheduler:
    """The scheduler for a sweep: one that stops no trial if ``early_stop`` is None.

    Args:
        early_stop: The rule, or None.
        history: If a sweep continues, what earlier trials reported of the rule's metric
            (`sweeper.records.sweep_state.SweepState.series`): without it the rule would have forgotten what
            is good.

    Raises:
        UserError: If the rule could never stop a trial.
    """
    if early_stop is None:
        return FIFOScheduler()
    if not 0 < early_stop.min_steps < early_stop.max_steps:
        raise UserError(
            f"early_stop.min_steps: {early_stop.min_steps} is not between 0 and the "
            f"{early_stop.max_steps} steps of a trial, so nothing would ever be stopped. "
            "Lower it, or drop early_stop."
        )
    return StepScheduler(early_stop, history)


def _rule(early_stop: EarlyStopSpec) -> TrialScheduler:
    mode = "max" if early_stop.goal == "maximize" else "min"
    if early_stop.method == "asha":
        return AsyncHyperBandScheduler(
            time_attr=STEP,
            metric=early_stop.metric,
            mode=mode,
            max_t=early_stop.max_steps,
            grace_period=early_stop.min_steps,
            reduction_factor=early_stop.reduction,
            brackets=1,
            stop_last_trials=False,
        )
    return _MedianRule(early_stop)


class _MedianRule(FIFOScheduler):
    """Stops a trial whose best value so far is worse than the median of the others' means up to that step.

    Golovin et al., "Google Vizier" (KDD 2017), section 3.2.2. Only trials that came as far are compared, and
    only values from ``min_steps`` on.
    """

    def __init__(self, early_stop: EarlyStopSpec) -> None:
        super().__init__()
        self._early_stop = early_stop
        # Turned so that more is better.
        self._sign = 1.0 if early_stop.goal == "maximize" else -1.0
        self._reports: dict[str, list[tuple[int, float]]] = defaultdict(list)

    def on_trial_result(self, _controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial continues."""
        step, value = result[STEP], self._sign * result[self._early_stop.metric]
        self._reports[trial.trial_id].append((step, value))
        if step < self._early_stop.min_steps:
            return TrialScheduler.CONTINUE
        means = [
            statistics.fmean(values)
            for name, reports in self._reports.items()
            if name != trial.trial_id and reports[-1][0] >= step and (values := self._values(reports, step))
        ]
        if len(means) < MEDIAN_MIN_TRIALS:
            return TrialScheduler.CONTINUE
        median = statistics.median(means)
        best = max(value for _, value in self._reports[trial.trial_id])
        worse = best < median and not math.isclose(best, median, rel_tol=TOLERANCE)
        return TrialScheduler.STOP if worse else TrialScheduler.CONTINUE

    def _values(self, reports: Sequence[tuple[int, float]], step: int) -> list[float]:
        return [value for at, value in reports if self._early_stop.min_steps <= at <= step]


@dataclass(frozen=True)
class _SameTrial:
    """A trial under a name that it keeps when it is cut off and runs again; the rules need no more of it."""

    trial_id: str


def _same(trial: Any) -> _SameTrial:
    number = (getattr(trial, "config", None) or {}).get("trial")
    return _SameTrial(trial.trial_id if number is None else f"trial {number}")
