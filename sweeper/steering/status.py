"""The status of a sweep: its driver, its trials, the best so far, its budget, and what it waits for."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import Any

from sweeper.layout import STATE, trial_folder
from sweeper.records.forecast import Forecast, cost_of, gpu_hours_json
from sweeper.records.ranking import ORDER, without_gain
from sweeper.records.spending import spending_json, spending_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState, events_after
from sweeper.tracking.state import read_state
from sweeper.tracking.urls import links_to
from sweeper.trial.exchange import progress_of

__all__ = ["forecast_of", "status_of"]

Plain = dict[str, Any]


def forecast_of(sweep: SweepState) -> Forecast:
    """The forecast of a sweep, from its journal."""
    resources = sweep.info.get("resources") or {}
    return Forecast(sweep, int(resources.get("at_once", 1)), sweep.info.get("steps"))


def status_of(sweep: SweepState) -> Plain:
    """The status of a sweep as plain types, from its folder."""
    sweep.mark_interrupted()
    now = time.time()
    forecast = forecast_of(sweep)
    alive = sweep.is_alive()
    left_s = forecast.left_s(now) if alive else None
    silent_s = forecast.silent_s(now) if alive else None
    return {
        "sweep": sweep.name,
        "folder": str(sweep.folder.absolute()),
        "state": sweep.state,
        "alive": alive,
        "message": sweep.message,
        "driver": {name: sweep.driver.get(name) for name in ("host", "pid")},
        "started": sweep.started,
        "ended": sweep.ended,
        "heard": sweep.heard,
        "running_s": round(sweep.running_s(now), 1),
        "left_s": None if left_s is None else round(left_s, 1),
        "silent_s": None if silent_s is None else round(silent_s, 1),
        "trials": {status: sweep.count(status) for status in ORDER},
        "budget": _budget(sweep, now),
        "gpu_hours": _gpu_hours(sweep, now),
        "cost": spending_json(spending_of(sweep, now)),
        "objective": dataclasses.asdict(forecast.objective),
        "best": _best(forecast),
        "running": [_running(forecast, trial.number, now) for trial in forecast.running()],
        "waiting": [{"trial": t.number, "needs": t.needs} for t in forecast.running() if t.needs],
        "mlflow": _mlflow(sweep),
    }


def _budget(sweep: SweepState, now: float) -> Plain:
    used: dict[str, float] = {
        "trials": sweep.ended_trials,
        "hours": sweep.running_s(now) / 3600,
        "gpu_hours": cost_of(sweep, now).so_far,
        "max_failed": sweep.count(TrialStatus.FAILED),
        "cost": 0.0 if (spending := spending_of(sweep, now)) is None else spending.by_trials,
        "stagnation": without_gain(sweep.trials.values(), sweep.objectives),
    }
    limits = dataclasses.asdict(sweep.budget)
    return {
        name: {
            "used": round(used[name], 4),
            "of": limit,
            "left": None if limit is None else round(max(0.0, limit - used[name]), 4),
        }
        for name, limit in limits.items()
    }


def _gpu_hours(sweep: SweepState, now: float) -> Plain:
    cost = cost_of(sweep, now)
    trials = {number: round(hours, 4) for number, hours in cost.trials.items()}
    return {**gpu_hours_json(cost), "trials": trials}


def _best(forecast: Forecast) -> Plain | None:
    best = forecast.best()
    if best is None:
        return None
    return {
        "trial": best.number,
        "value": best.final[forecast.objective.name],
        "step": best.step,
        "status": best.status,
        "values": dict(best.values),
    }


def _running(forecast: Forecast, number: int, now: float) -> Plain:
    trial = forecast.sweep.trials[number]
    value = trial.final.get(forecast.objective.name, math.nan)
    return {
        "trial": number,
        "step": trial.step,
        "steps": forecast.steps(trial),
        "value": value if math.isfinite(value) else None,
        "running_s": round(trial.duration_s(now), 1),
        "needs": trial.needs,
        "progress": progress_of(trial_folder(forecast.sweep.folder, number)),
        "values": dict(trial.values),
    }


def _mlflow(sweep: SweepState) -> Plain:
    """What MLflow has of the journal, as the driver left it on the disk."""
    sent = read_state(sweep.folder / STATE)
    events = events_after(sweep, 0 if sent is None else sent.offset)
    files = 0 if sent is None else len(sent.artifacts)
    links = links_to(sweep, sent)
    return {
        "uri": "" if sent is None else sent.uri,
        "events_missing": events,
        "files_missing": files,
        "refused": 0 if sent is None else sent.refused,
        "complete": not events and not files,
        "links": None if links is None else dataclasses.asdict(links),
    }


# For a person
