"""A sweep and its trials as plain types, for ``--json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sweeper.layout import LOG, trial_folder
from sweeper.records.forecast import Cost, cost_of, gpu_hours_json
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState

__all__ = ["to_json"]


def to_json(sweep: SweepState) -> dict[str, Any]:
    """A sweep's ranking as plain types; numbers that JSON cannot contain are null."""
    ranking, cost = sweep.ranking(), cost_of(sweep)
    trials = [_trial_json(trial, position, sweep, cost) for position, trial in enumerate(ranking, start=1)]
    return {
        "sweep": sweep.name,
        "folder": str(sweep.folder),
        "status": sweep.status,
        "state": sweep.state,
        "alive": sweep.is_alive(),
        "message": sweep.message,
        "started": sweep.started,
        "ended": sweep.ended,
        "objectives": [{"name": item.name, "goal": item.goal} for item in sweep.objectives],
        "info": dict(sweep.info),
        "gpu_hours": gpu_hours_json(cost),
        "confirmation": dict(sweep.confirmation) or None,
        "trials": trials,
    }


def _trial_json(trial: TrialState, position: int, sweep: SweepState, cost: Cost) -> dict[str, Any]:
    return {
        "rank": position if trial.status == TrialStatus.COMPLETED else None,
        "trial": trial.number,
        "status": trial.status,
        "reason": trial.reason,
        "message": trial.message,
        "final": _finite(trial.final),
        "best": _finite(trial.best),
        "values": dict(trial.values),
        "setting": dict(trial.setting),
        "untuned": _finite(trial.untuned),
        "confirmed": _finite(trial.confirmed),
        "step": trial.step,
        "duration_s": round(trial.duration_s(), 1),
        "gpu_hours": round(cost.trials[trial.number], 4),
        "metrics": _finite(trial.metrics),
        "checkpoint": trial.checkpoint,
        "best_checkpoint": trial.best_checkpoint,
        "dropped_checkpoints": list(trial.dropped),
        "retries": dict(trial.retries),
        "changes": dict(trial.changes),
        "log": _log(sweep, trial),
        "folder": str(trial_folder(sweep.folder, trial.number)),
    }


def _log(sweep: SweepState, trial: TrialState) -> str | None:
    """The path of a trial's log; None if it has none."""
    log = trial_folder(sweep.folder, trial.number) / LOG
    return str(log) if log.exists() else None


def _finite(metrics: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
