"""GPU-hours and time of a sweep: used so far, and expected until its end."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import Objective
from trainables.interface import STEPS

__all__ = [
    "Cost",
    "Forecast",
    "cost_of",
    "cpus_per_trial",
    "expected_total",
    "gpu_hours_json",
    "gpus_per_trial",
]

HOUR_S = 3600.0
SILENT_S = 60.0
"""After so many seconds without a report, a sweep is shown with the time of the last one."""


@dataclass(frozen=True)
class Cost:
    """GPU-hours of a sweep.

    Attributes:
        so_far: Used by its trials.
        expected: The total at the end, estimated from trials that ended; None before the first one has
            ended, or if the sweep only waits.
        trials: Used by each trial, by number.
    """

    so_far: float
    expected: float | None
    trials: dict[int, float]


def gpus_per_trial(sweep: SweepState) -> float:
    """GPUs of each trial of a sweep; 0 if it trains on CPUs, or if its journal does not contain it."""
    resources = sweep.info.get("resources") or {}
    return float(resources.get("gpu_per_worker", 0.0)) * int(resources.get("workers", 1))


def cpus_per_trial(sweep: SweepState) -> float:
    """CPUs of each trial of a sweep; 0 if its journal does not contain it."""
    resources = sweep.info.get("resources") or {}
    return float(resources.get("cpu_per_worker", 0.0)) * int(resources.get("workers", 1))


def cost_of(sweep: SweepState, now: float | None = None) -> Cost:
    """Estimate the cost of a sweep; all zeros if its trials use no GPU.

    Future trials are assumed to be like those that ended, stopped early or not; a running one is assumed to
    need no more than that, or what it has already used.
    """
    now = time.time() if now is None else now
    each = gpus_per_trial(sweep) / HOUR_S
    trials = {number: trial.duration_s(now) * each for number, trial in list(sweep.trials.items())}
    so_far = sum(trials.values())
    expected = expected_total(sweep, trials, sweep.budget.gpu_hours) if each else None
    return Cost(so_far, expected, trials)


def expected_total(sweep: SweepState, used: Mapping[int, float], limit: float | None) -> float | None:
    """What the trials of a sweep use in the end; None before the first one has ended.

    Args:
        sweep: The sweep.
        used: Used so far, by trial.
        limit: Where the budget ends the sweep; None for no limit.
    """
    so_far = sum(used.values())
    trials = [(trial.status, used[trial.number]) for trial in sweep.trials.values() if trial.number in used]
    over = (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY, TrialStatus.FAILED)
    ended = [amount for status, amount in trials if status in over]
    if not ended:
        return None
    if sweep.status != SweepStatus.RUNNING:
        return so_far
    usual = sum(ended) / len(ended)
    running = [amount for status, amount in trials if status == TrialStatus.RUNNING]
    to_come = max(0, sweep.budget.trials - len(ended) - len(running))
    expected = so_far + to_come * usual + sum(max(0.0, usual - amount) for amount in running)
    return expected if limit is None else max(so_far, min(expected, limit))


class Forecast:
    """A running sweep, and estimates of its future.

    Args:
        sweep: The sweep; another thread may apply the journal's events to it at the same time.
        at_once: Trials that run at the same time.
        steps: Optimiser steps of a trial if its configuration does not contain them; None if unknown.
    """

    def __init__(self, sweep: SweepState, at_once: int, steps: int | None = None) -> None:
        self.sweep = sweep
        self.at_once = max(1, at_once)
        self._steps = steps

    @property
    def objective(self) -> Objective:
        """The first objective, which decides the best trial."""
        return self.sweep.objectives[0]

    @property
    def budget(self) -> int:
        """Trials of the whole sweep."""
        return int(self.sweep.spec["budget"]["trials"])

    def steps(self, trial: TrialState) -> int | None:
        """Optimiser steps of a whole trial."""
        steps = trial.config.get(STEPS, self._steps)
        return None if steps is None else int(steps)

    def trials(self) -> list[TrialState]:
        """The trials in their present state."""
        return list(self.sweep.trials.values())

    def running(self) -> list[TrialState]:
        """The running trials."""
        return self.sweep.running()

    def best(self) -> TrialState | None:
        """The trial with the best value so far, running or ended; None if none has a value."""
        known = [trial for trial in self.trials() if math.isfinite(self._cost(trial))]
        return min(known, key=self._cost, default=None)

    def left_s(self, now: float) -> float | None:
        """Estimate the remaining time of the sweep; None while there is no basis for it.

        Future trials are assumed to last as long as those that ended, on average. If running trials have used
        up that time, there is no basis either.
        """
        ended = [
            trial
            for trial in self.trials()
            if trial.status in (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY)
        ]
        running = self.running()
        lengths = [trial.duration_s(now) for trial in ended]
        lengths = lengths or [whole for trial in running if (whole := self._whole_s(trial, now))]
        if not lengths:
            return None
        mean = sum(lengths) / len(lengths)
        to_come = max(0, self.budget - self.sweep.ended_trials - len(running))
        left = sum(max(0.0, (self._whole_s(trial, now) or mean) - trial.duration_s(now)) for trial in running)
        left = (left + to_come * mean) / self.at_once
        hours = self.sweep.spec["budget"]["hours"]
        if hours is not None:
            left = min(left, max(0.0, hours * 3600 - self.sweep.running_s(now)))
        return left if left >= 1.0 or not running else None

    def silent_s(self, now: float) -> float | None:
        """Seconds since the last report, if trials run that have reported before and do no longer."""
        running = self.running()
        waiting = all(trial.first is None or trial.needs for trial in running)
        silent = now - self.sweep.heard
        return None if waiting or silent < SILENT_S else silent

    def shown(self, most: int) -> list[TrialState]:
        """At most this many trials, by number: those that run, then the best, then the latest."""

        def rank(trial: TrialState) -> tuple[float, float]:
            cost = self._cost(trial)
            if trial.status == TrialStatus.RUNNING:
                return (0, trial.number)
            return (1, cost) if math.isfinite(cost) else (2, -trial.number)

        chosen = sorted(self.trials(), key=rank)[:most]
        return sorted(chosen, key=lambda trial: trial.number)

    def _cost(self, trial: TrialState) -> float:
        """The first objective turned so that less is better; infinite if there is none."""
        value = trial.final.get(self.objective.name, math.nan)
        cost = -value if self.objective.goal == "maximize" else value
        return cost if math.isfinite(cost) else math.inf

    def _whole_s(self, trial: TrialState, now: float) -> float:
        """The whole duration of a trial, from its pace so far; 0 if unknown."""
        steps = self.steps(trial)
        since, first = trial.first or (now, trial.step)
        if not steps or trial.step <= first:
            return 0.0
        return trial.duration_s(now) + (now - since) * max(0, steps - trial.step) / (trial.step - first)


def gpu_hours_json(cost: Cost) -> dict[str, float | None]:
    """GPU-hours of a sweep, so far and expected in the end."""
    return {
        "so_far": round(cost.so_far, 4),
        "expected": None if cost.expected is None else round(cost.expected, 4),
    }
