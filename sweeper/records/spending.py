"""What a sweep costs in money: the hours of GPUs and CPUs that it held, times their prices.

Held by trials: from their start to their end, their evaluations included, without pauses and waiting for
resources. Held by confirmations: while their evaluators exist. Everything else that a provider bills is not
included: machines that start or are idle, the head of a cluster, disks and traffic, and the commands that
evaluate outside of the sweep.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from sweeper.records.forecast import HOUR_S, cpus_per_trial, expected_total, gpus_per_trial
from sweeper.records.sweep_state import SweepState
from sweeper.spec.cost import CostSpec

__all__ = ["NOT_INCLUDED", "Spending", "spending_json", "spending_of"]

NOT_INCLUDED = "idle and starting machines, the head, disks and traffic are not included"


@dataclass(frozen=True)
class Spending:
    """What a sweep costs.

    Attributes:
        currency: What amounts are in.
        so_far: Of its trials and its confirmations.
        expected: The total at the end; None before the first trial has ended.
        trials: Of each trial, by number.
        confirmed: Of its confirmations.
    """

    currency: str
    so_far: float
    expected: float | None
    trials: dict[int, float]
    confirmed: float = 0.0

    @property
    def by_trials(self) -> float:
        """What all trials cost together; ``budget.cost`` limits this."""
        return sum(self.trials.values())


def spending_of(sweep: SweepState, now: float | None = None) -> Spending | None:
    """What a sweep costs; None if it has no prices."""
    plain = sweep.spec.get("cost")
    if plain is None:
        return None
    cost = CostSpec.from_dict(plain)
    now = time.time() if now is None else now
    gpus, cpus = gpus_per_trial(sweep), cpus_per_trial(sweep)
    trials = {
        number: sum(
            seconds / HOUR_S * cost.price(kind).per_hour(gpus, cpus)
            for kind, seconds in trial.seconds_by_node_type(now).items()
        )
        for number, trial in list(sweep.trials.items())
    }
    held = sweep.held_after
    # Which machines a confirmation used is not recorded: the prices for all others apply.
    confirmed = cost.price().per_hour(held.get("gpu_hours", 0.0), held.get("cpu_hours", 0.0))
    expected = expected_total(sweep, trials, sweep.budget.cost)
    return Spending(
        currency=cost.currency,
        so_far=sum(trials.values()) + confirmed,
        expected=None if expected is None else expected + confirmed,
        trials=trials,
        confirmed=confirmed,
    )


def spending_json(spending: Spending | None) -> dict[str, object] | None:
    """What a sweep costs as plain types; None if it has no prices."""
    if spending is None:
        return None
    return {
        "currency": spending.currency,
        "so_far": round(spending.so_far, 4),
        "expected": None if spending.expected is None else round(spending.expected, 4),
        "confirmed": round(spending.confirmed, 4),
        "trials": {number: round(amount, 4) for number, amount in spending.trials.items()},
        "not_included": NOT_INCLUDED,
    }
