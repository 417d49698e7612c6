"""The limits of a sweep's budget: which of them it has reached."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sweeper.records.forecast import HOUR_S, gpus_per_trial
from sweeper.records.ranking import ranked, without_gain
from sweeper.records.spending import spending_of
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.spec.cost import money_text
from sweeper.spec.sweep import BudgetSpec

__all__ = ["Limit", "last_failure", "limit_reached", "nothing_left", "stagnation_reached"]


@dataclass(frozen=True)
class Limit:
    """A limit of a budget that a sweep has reached.

    Attributes:
        name: The limit, by its name under ``budget``.
        status: How the sweep ends because of it.
        message: The same as a sentence.
    """

    name: Literal["trials", "hours", "gpu_hours", "max_failed", "cost", "stagnation"]
    status: SweepStatus
    message: str


def limit_reached(budget: BudgetSpec, sweep: SweepState, now: float | None = None) -> Limit | None:
    """Return the first limit that a sweep has reached and at which running trials end; None if none.

    At the other limits, the number of trials and `stagnation_reached`, running trials continue to their end.

    Args:
        budget: The budget; that of the sweep, or a changed one.
        sweep: The sweep so far.
        now: The time, in seconds since 1970; None for the clock. If no driver runs the sweep, pass the time
            of its last event.
    """
    if budget.hours is not None and sweep.running_s(now) >= budget.hours * HOUR_S:
        message = f"budget.hours: the {budget.hours:g} hours are used up."
        return Limit("hours", SweepStatus.DONE, message)
    gpus = gpus_per_trial(sweep)
    if budget.gpu_hours is not None and gpus and sweep.trials_s(now) / HOUR_S * gpus >= budget.gpu_hours:
        message = f"budget.gpu_hours: the {budget.gpu_hours:g} GPU-hours are used up."
        return Limit("gpu_hours", SweepStatus.DONE, message)
    spending = None if budget.cost is None else spending_of(sweep, now)
    if budget.cost is not None and spending is not None and spending.by_trials >= budget.cost:
        message = f"budget.cost: the {money_text(budget.cost, spending.currency)} are used up."
        return Limit("cost", SweepStatus.DONE, message)
    failed = sweep.count(TrialStatus.FAILED)
    # A limit of 0 allows no failure, and is reached by the first one.
    if budget.max_failed is not None and failed >= max(1, budget.max_failed):
        message = f"budget.max_failed: {failed} trials failed. {last_failure(sweep)}"
        return Limit("max_failed", SweepStatus.FAILED, message)
    return None


def nothing_left(budget: BudgetSpec, sweep: SweepState) -> Limit | None:
    """Return the limit because of which a sweep without a driver cannot continue; None if it can."""
    ended = sweep.ended_trials
    if ended >= budget.trials:
        return Limit("trials", SweepStatus.DONE, f"budget.trials: {ended} of {budget.trials} trials ended.")
    limit = limit_reached(budget, sweep, sweep.heard)
    if limit is None and not sweep.count(TrialStatus.RUNNING, TrialStatus.INTERRUPTED):
        return stagnation_reached(budget, sweep)
    return limit


def stagnation_reached(budget: BudgetSpec, sweep: SweepState) -> Limit | None:
    """Return the limit ``stagnation`` if the last trials brought no gain; None if not, or if it is not set.

    Depends on the trials that ended only, so that the next driver decides alike.
    """
    if budget.stagnation is None:
        return None
    since = without_gain(list(sweep.trials.values()), sweep.objectives)
    if since < budget.stagnation:
        return None
    if len(sweep.objectives) > 1:
        gain = "is on the Pareto front of the others"
    else:
        best = ranked(sweep.trials.values(), sweep.objectives)[0]
        gain = f"is better than trial {best.number}"
    message = f"budget.stagnation: none of the last {since} trials {gain}."
    return Limit("stagnation", SweepStatus.DONE, message)


def last_failure(sweep: SweepState) -> str:
    """Return why the last failed trial failed, as a sentence; empty if none failed."""
    failed = [trial for trial in sweep.trials.values() if trial.status == TrialStatus.FAILED]
    if not failed:
        return ""
    last = max(failed, key=lambda trial: trial.ended or 0.0)
    return f"The last one, trial {last.number}: {last.reason}: {last.message}"
