"""What a sweep costs in GPU-hours: GPUs that its trials held, times the hours that they held them."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sweeper.results import Sweep

__all__ = ["Cost", "cost_of", "gpus_per_trial"]

HOUR_S = 3600.0


@dataclass(frozen=True)
class Cost:
    """GPU-hours of a sweep.

    Attributes:
        so_far: What its trials took.
        expected: What it will have taken in the end, as far as trials that ended tell; None before the first
            one has, or where nothing is left to do but wait.
        trials: What each trial took, by number.
    """

    so_far: float
    expected: float | None
    trials: dict[int, float]


def gpus_per_trial(sweep: Sweep) -> float:
    """GPUs that each trial of a sweep holds; 0 where it trains on CPUs, or where its journal does not say."""
    resources = sweep.info.get("resources") or {}
    return float(resources.get("gpu_per_worker", 0.0)) * int(resources.get("workers", 1))


def cost_of(sweep: Sweep, now: float | None = None) -> Cost:
    """Say what a sweep costs; all zeros where its trials hold no GPU.

    Those that are still to come are taken to be like those that ended, stopped early or not; a running one is
    taken to need no more than that, and what it took already.
    """
    now = time.time() if now is None else now
    each = gpus_per_trial(sweep) / HOUR_S
    trials = {number: trial.duration_s(now) * each for number, trial in list(sweep.trials.items())}
    so_far = sum(trials.values())
    ended = [
        trials[number]
        for number, trial in sweep.trials.items()
        if trial.status in ("completed", "stopped_early", "failed")
    ]
    if not ended or not each:
        return Cost(so_far, None, trials)
    if sweep.status != "running":
        return Cost(so_far, so_far, trials)
    usual = sum(ended) / len(ended)
    running = [trials[number] for number, trial in sweep.trials.items() if trial.status == "running"]
    to_come = max(0, sweep.budget.trials - len(ended) - len(running))
    expected = so_far + to_come * usual + sum(max(0.0, usual - taken) for taken in running)
    limit = sweep.budget.gpu_hours
    return Cost(so_far, expected if limit is None else max(so_far, min(expected, limit)), trials)
