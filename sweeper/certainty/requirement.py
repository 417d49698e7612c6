"""Conditions on the best trial, such as ``rollout/success_rate_low>=0.6``, with which a script decides."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sweeper.certainty.standing import Standing
from sweeper.errors import UserError
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.text import nearest

__all__ = ["Requirement", "Verdict", "judge", "read_requirement"]

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    "==": operator.eq,
    ">": operator.gt,
    "<": operator.lt,
}
FORM = re.compile(r"\s*([^\s<>=]+)\s*(>=|<=|==|>|<)\s*(\S+)\s*")
P_BEST = "p_best"
CONFIRMED = "confirmed/"
EXAMPLE = "--require 'rollout/success_rate_low>=0.6'"


@dataclass(frozen=True)
class Requirement:
    """A condition on a metric of the best trial."""

    metric: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.bound:g}"


@dataclass(frozen=True)
class Verdict:
    """Whether a condition is met, and a sentence about it."""

    met: bool
    sentence: str


def read_requirement(text: str) -> Requirement:
    """Read a condition as the user typed it.

    Raises:
        UserError: If it is not a metric, an operator and a number.
    """
    found = FORM.fullmatch(text)
    allowed = f"Expected METRIC OPERATOR NUMBER with one of {', '.join(OPERATORS)}, e.g. {EXAMPLE}."
    if found is None:
        raise UserError(f"--require {text!r}: not a condition. {allowed}")
    metric, comparison, number = found.groups()
    try:
        bound = float(number)
    except ValueError:
        bound = math.nan
    if not math.isfinite(bound):
        raise UserError(f"--require {text!r}: {number!r} is not a number. {allowed}")
    return Requirement(metric, comparison, bound)


def judge(requirement: Requirement, sweep: SweepState, standing: Standing) -> Verdict:
    """Compare a condition with the best trial: the confirmed winner, or else the first of the ranking.

    If the trial was confirmed, its confirmed value counts.

    Raises:
        UserError: If no trial has a metric of this name; the message lists those that exist.
    """
    metric = requirement.metric
    known = _known(sweep, standing)
    if sweep.trials and metric not in known:
        near = nearest(metric, known)
        hint = f" Did you mean {near!r}?" if near else ""
        raise UserError(
            f"--require: no trial of {sweep.name} has a metric {metric!r}.{hint} "
            f"There are: {', '.join(known)}."
        )
    best = sweep.confirmed_trial() or sweep.best_trial()
    if best is None:
        return Verdict(False, f"Not met: {requirement}: no trial of {sweep.name} has completed.")
    value, source = _value(metric, sweep, best, standing)
    if value is None or not math.isfinite(value):
        return Verdict(False, f"Not met: {requirement}: trial {best.number}, the best one, has no {metric}.")
    met = OPERATORS[requirement.comparison](value, requirement.bound)
    return Verdict(
        met, f"{'Met' if met else 'Not met'}: {requirement}: trial {best.number} has {value:.4g} ({source})."
    )


def _known(sweep: SweepState, standing: Standing) -> list[str]:
    trials = sweep.trials.values()
    names = {name for trial in trials for name in trial.metrics}
    names |= {f"{CONFIRMED}{name}" for trial in trials for name in trial.confirmed}
    names |= {name for trial in trials for name in trial.confirmed if name.startswith("rollout/")}
    if any(one.low is not None for one in standing.trials.values()):
        names |= {f"{standing.metric}_low", f"{standing.metric}_high"}
    if standing.leader is not None or sweep.confirmation.get("verdict"):
        names.add(P_BEST)
    return sorted(names)


def _value(metric: str, sweep: SweepState, trial: TrialState, standing: Standing) -> tuple[float | None, str]:
    """A value of a trial, and where it comes from."""
    confirmed = trial.confirmed.get(metric.removeprefix(CONFIRMED))
    if metric == P_BEST and sweep.confirmation.get("verdict"):
        finalists = sweep.confirmation["finalists"]
        confirmed = next((one.get(P_BEST) for one in finalists if one["trial"] == trial.number), None)
    if confirmed is not None or metric.startswith(CONFIRMED):
        return confirmed, "confirmed on fresh starts"
    known = standing.of(trial.number)
    computed = {
        P_BEST: known.p_best,
        f"{standing.metric}_low": known.low,
        f"{standing.metric}_high": known.high,
    }
    value = trial.metrics.get(metric)
    return (computed.get(metric) if value is None or metric in computed else value), "of the search"
