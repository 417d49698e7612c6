"""A sweep and its trials as plain types, for ``--json``, and as a table for ``--csv``."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping
from typing import Any

from sweeper.certainty.standing import Certainty, Standing
from sweeper.layout import LOG, trial_folder
from sweeper.records.forecast import Cost, cost_of, gpu_hours_json
from sweeper.records.spending import spending_json, spending_of
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState

__all__ = ["to_csv", "to_json", "to_rows"]


def to_json(sweep: SweepState, standing: Standing | None = None) -> dict[str, Any]:
    """A sweep's ranking as plain types; numbers that JSON cannot contain are null.

    Args:
        sweep: The sweep.
        standing: How sure the ranking is; None: it is not shown.
    """
    ranking, cost = sweep.ranking(), cost_of(sweep)
    standing = Standing(sweep.objectives[0].name) if standing is None else standing
    trials = [
        _trial_json(trial, position, sweep, cost, standing.of(trial.number))
        for position, trial in enumerate(ranking, start=1)
    ]
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
        "cost": spending_json(spending_of(sweep)),
        "confirmation": dict(sweep.confirmation) or None,
        "judgement": dict(sweep.judgement) or None,
        "leader": standing.leader,
        "not_told_apart": list(standing.not_told_apart),
        "not_compared": standing.uncompared,
        "trials": trials,
    }


def to_csv(sweep: SweepState, standing: Standing, top: int | None = None) -> str:
    """A sweep's ranking as CSV, one line for each trial.

    Args:
        sweep: The sweep.
        standing: How sure the ranking is.
        top: The number of trials; None for all.
    """
    columns, rows = to_rows(sweep, standing, top)
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _csv_value(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def to_rows(
    sweep: SweepState, standing: Standing, top: int | None = None
) -> tuple[list[str], list[dict[str, Any]]]:
    """A sweep's ranking as a table: the columns, and a row by column for each trial.

    Args:
        sweep: The sweep.
        standing: How sure the ranking is.
        top: The number of trials; None for all.
    """
    rows = [_row(position, trial, sweep, standing) for position, trial in enumerate(sweep.ranking()[:top], 1)]
    settings = sorted({name for row in rows for name in row if name.startswith("setting.")})
    return [*_row(0, TrialState(0, {}, {}, 0.0), sweep, standing), *settings], rows


def _row(position: int, trial: TrialState, sweep: SweepState, standing: Standing) -> dict[str, Any]:
    name, certainty = standing.metric, standing.of(trial.number)
    row: dict[str, Any] = {
        "rank": position if trial.status == TrialStatus.COMPLETED else None,
        "trial": trial.number,
        "status": str(trial.status),
        "reason": trial.reason,
        "origin": trial.origin,
    }
    row |= {objective.name: trial.final.get(objective.name) for objective in sweep.objectives}
    row |= {f"{name}_low": certainty.low, f"{name}_high": certainty.high}
    row |= {key: value for key, value in _certainty_json(certainty).items() if key != "interval"}
    row |= {f"confirmed/{part}": trial.confirmed.get(part) for part in (name, f"{name}_low", f"{name}_high")}
    row |= {"confirmed/episodes": trial.confirmed.get("episodes")}
    row |= {
        f"real/{part}": trial.judged.get(part) for part in ("score", "score_low", "score_high", "episodes")
    }
    row |= {"step": trial.step, "duration_s": round(trial.duration_s(), 1)}
    row |= {parameter: trial.values.get(parameter) for parameter in sweep.varying}
    return row | {f"setting.{key}": value for key, value in trial.setting.items()}


def _csv_value(value: Any) -> Any:
    """A value of a parameter: lists and truth values are written as in JSON."""
    return json.dumps(value) if isinstance(value, (bool, list, tuple, dict)) else value


def _certainty_json(certainty: Certainty) -> dict[str, Any]:
    known = certainty.low is not None and certainty.high is not None
    return {
        "interval": [certainty.low, certainty.high] if known else None,
        "may_be_best": certainty.may_be_best,
        "p_value": certainty.p_value,
        "p_best": certainty.p_best,
        "episodes": certainty.episodes,
    }


def _trial_json(
    trial: TrialState, position: int, sweep: SweepState, cost: Cost, certainty: Certainty
) -> dict[str, Any]:
    return {
        "rank": position if trial.status == TrialStatus.COMPLETED else None,
        "trial": trial.number,
        "status": trial.status,
        "reason": trial.reason,
        "message": trial.message,
        "final": _finite(trial.final),
        "best": _finite(trial.best),
        **_certainty_json(certainty),
        "values": dict(trial.values),
        "origin": trial.origin,
        "setting": dict(trial.setting),
        "untuned": _finite(trial.untuned),
        "confirmed": _finite(trial.confirmed),
        "judged": _finite(trial.judged),
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
