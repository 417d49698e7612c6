"""Early stopping: ASHA and the median rule of Ray Tune, told the trial's own step.

Tune counts reports; we count optimiser steps. A report counts the same whether it is the first or the
repeated one of a trial that was started again, and a report without the metric (most reports come between
evaluations) decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, MedianStoppingRule, TrialScheduler

from sweeper.errors import UserError
from sweeper.sweep import EarlyStopSpec
from sweeper.trial import FINAL, STEP

__all__ = ["StepScheduler", "make_scheduler"]

MEDIAN_MIN_TRIALS = 3
"""The median rule stops nothing before this many other trials came as far."""

History = Mapping[int, Sequence[tuple[int, float]]]
"""Of each earlier trial, by number: (step, value) of the metric, in order."""


class StepScheduler(FIFOScheduler):
    """Trials start in the order of their suggestion, and a rule of Tune's stops those that do badly.

    Never pauses: a trial that trains in worker groups of its own has nothing that Tune could take it up from.

    Args:
        early_stop: The rule.
        history: What earlier trials of the sweep reported, for a sweep that goes on.
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
            past = _PastTrial(f"earlier trial {number}")
            self._rule.on_trial_add(_NO_CONTROLLER, past)
            for step, value in reports:
                self._decide(_NO_CONTROLLER, past, step, value)

    def stopped(self, trial_id: str) -> str | None:
        """Why the trial with Tune's id was stopped, in one line, or None where it was not."""
        return self._stopped.get(trial_id)

    def set_search_properties(self, _metric: str | None, _mode: str | None, **_spec: Any) -> bool:
        """Take no metric from Tune: the rule has its own."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Let the rule know of a new trial."""
        self._rule.on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial goes on, where the report lets the rule judge."""
        value = result.get(self._early_stop.metric)
        if STEP not in result or value is None or not math.isfinite(value):
            return TrialScheduler.CONTINUE
        step = int(result[STEP])
        decision = self._decide(tune_controller, trial, step, float(value))
        if decision != TrialScheduler.STOP or result.get(FINAL) or step >= self._early_stop.max_steps:
            # There is nothing left to save of a trial at its last step.
            return TrialScheduler.CONTINUE
        self._stopped[trial.trial_id] = self._why(step, float(value))
        return TrialScheduler.STOP

    def _decide(self, tune_controller: Any, trial: Any, step: int, value: float) -> str:
        if step <= self._last_step.get(trial.trial_id, -1):
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
        """Nothing: a trial that never ran told the rule nothing."""

    def debug_string(self) -> str:
        """What Tune may print."""
        return str(self._rule.debug_string())

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that we never do.
        return {}


def make_scheduler(early_stop: EarlyStopSpec | None, history: History | None = None) -> TrialScheduler:
    """The scheduler for a sweep: one that stops no trial where ``early_stop`` is None.

    Args:
        early_stop: The rule, or None.
        history: What earlier trials reported of the rule's metric (`sweeper.results.read_series`), for a sweep
            that goes on: without it the rule would have forgotten what is good.

    Raises:
        UserError: Where the rule could never stop a trial.
    """
    if early_stop is None:
        return FIFOScheduler()
    if not 0 < early_stop.min_steps < early_stop.max_steps:
        raise UserError(
            f"early_stop.min_steps: {early_stop.min_steps} does not lie between 0 and the "
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
    return MedianStoppingRule(
        time_attr=STEP,
        metric=early_stop.metric,
        mode=mode,
        grace_period=early_stop.min_steps,
        min_samples_required=MEDIAN_MIN_TRIALS,
        # Otherwise it pauses trials while there is too little to compare them with.
        min_time_slice=math.inf,
        hard_stop=True,
    )


@dataclass(frozen=True)
class _PastTrial:
    """Stands for a trial of an earlier driver; the rules need no more of a trial than its id."""

    trial_id: str


class _NoController:
    """Tune's controller as the rules see it while they are told the past: it has no trials that wait."""

    def get_live_trials(self) -> set[Any]:
        return set()


_NO_CONTROLLER = _NoController()
