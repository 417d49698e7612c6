"""Early stopping under Ray Tune, by the trial's own step.

Tune counts reports; we count optimiser steps. A trial that was started again and repeats its steps is judged
once, and a report without the metric (most reports come between evaluations) decides nothing.

What a rule knows comes from the journal, read in its order, so decisions do not depend on how often the
driver was restarted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from sweeper.errors import UserError
from sweeper.search.pruners import EpisodeValues, make_rule
from sweeper.search.stopping_rules import Point, StoppingRule
from sweeper.spec.sweep import EarlyStopSpec
from sweeper.trial.exchange import FINAL, STEP, metrics_of

__all__ = ["Ended", "Recorded", "Reported", "StepScheduler", "make_scheduler"]


@dataclass(frozen=True)
class Reported:
    """A report of the journal."""

    trial: int
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Ended:
    """The end of a trial in the journal; ``completed``: whether it reached its last step."""

    trial: int
    completed: bool


Recorded = Callable[[], Iterable[Reported | Ended]]
"""Returns what was added to the journal since the last call; the first call returns everything."""


class StepScheduler(FIFOScheduler):
    """Trials start in the order of their suggestion, and a rule stops those that do badly.

    Never pauses: a trial that trains in worker groups of its own has nothing that Tune could take it up from.

    Args:
        early_stop: When trials are stopped.
        rule: Decides it.
        recorded: Reads the journal.
    """

    # Tune would insist that every report has the metric of a scheduler that names one.
    _metric = None
    _supports_buffered_results = False

    def __init__(self, early_stop: EarlyStopSpec, rule: StoppingRule, recorded: Recorded) -> None:
        super().__init__()
        self._early_stop = early_stop
        self._rule = rule
        self._recorded = recorded
        self._last_step: dict[int, int] = {}
        self._due: dict[int, str] = {}
        self._stopped: dict[str, str] = {}

    def stopped(self, trial_id: str) -> str | None:
        """Why the trial with Tune's id was stopped, in one line, or None if it was not."""
        return self._stopped.get(trial_id)

    def set_search_properties(self, _metric: str | None, _mode: str | None, **_spec: Any) -> bool:
        """Take no metric from Tune: the rule has its own."""
        return True

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: rules learn of a trial by its first report."""

    def on_trial_result(self, _controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Decide whether a trial continues, if the report has what the rule needs."""
        self._follow()
        if STEP not in result:
            return TrialScheduler.CONTINUE
        number, step = trial.config["trial"], int(result[STEP])
        self._judge(Reported(number, step, metrics_of(result)))
        if result.get(FINAL) or step >= self._early_stop.max_steps or number not in self._due:
            # There is nothing left to save of a trial at its last step.
            return TrialScheduler.CONTINUE
        self._stopped[trial.trial_id] = self._due[number]
        return TrialScheduler.STOP

    def _follow(self) -> None:
        """Learn what was recorded since the last report."""
        for event in self._recorded():
            if isinstance(event, Reported):
                self._judge(event)
                continue
            self._due.pop(event.trial, None)
            if event.completed:
                self._rule.complete(event.trial)

    def _judge(self, report: Reported) -> None:
        point = Point.of(report.trial, report.step, self._early_stop.metric, report.metrics)
        # What a trial reports before its first step is what it started from, and not its doing.
        if (
            point is None
            or not math.isfinite(point.value)
            or point.step <= self._last_step.get(point.trial, 0)
        ):
            return
        self._last_step[point.trial] = point.step
        why = self._rule.judge(point)
        if why is not None:
            # If the driver died before it could stop the trial, the next report is the last one.
            self._due[point.trial] = why

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Nothing: the end of a trial comes from the journal."""

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """Nothing: the rule has no data of a trial that never ran."""

    def debug_string(self) -> str:
        """What Tune may print."""
        return f"early stopping by {self._early_stop.method}"

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that we never do.
        return {}


def make_scheduler(
    early_stop: EarlyStopSpec | None,
    recorded: Recorded = tuple,
    episodes: EpisodeValues = lambda _trial, _step: {},
) -> TrialScheduler:
    """The scheduler for a sweep: one that stops no trial if ``early_stop`` is None.

    Args:
        early_stop: The rule, or None.
        recorded: Reads the journal of the sweep.
        episodes: Returns the results of episodes (`sweeper.search.pruners.recorded_episodes`), for wilcoxon.

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
    return StepScheduler(early_stop, make_rule(early_stop, episodes), recorded)
