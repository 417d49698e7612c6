"""How a sweep stands: its driver, its trials, the best so far, its budget, and what it waits for."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.layout import JOURNAL, STATE, trial_folder
from sweeper.records.forecast import Forecast, cost_of, gpu_hours_json
from sweeper.records.journal import read_journal
from sweeper.records.ranking import ORDER
from sweeper.records.sweep_state import SweepState
from sweeper.tables import Column, duration_text, fitted_table, number_text, state_text
from sweeper.tracking.state import read_state
from sweeper.trial.exchange import progress_of

__all__ = ["board_of", "print_status", "status_of", "summary_table"]

Plain = dict[str, Any]


def board_of(sweep: SweepState) -> Forecast:
    """A sweep and what can be said of its future, as its journal tells it."""
    resources = sweep.info.get("resources") or {}
    return Forecast(sweep, int(resources.get("at_once", 1)), sweep.info.get("steps"))


def status_of(sweep: SweepState) -> Plain:
    """How a sweep stands, as plain types, as it was read from its folder."""
    sweep.bury()
    now = time.time()
    board = board_of(sweep)
    alive = sweep.is_alive()
    left_s = board.left_s(now) if alive else None
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
        "trials": {status: sweep.count(status) for status in ORDER},
        "budget": _budget(sweep, now),
        "gpu_hours": _gpu_hours(sweep, now),
        "objective": dataclasses.asdict(board.objective),
        "best": _best(board),
        "running": [_running(board, trial.number, now) for trial in board.running()],
        "waiting": [{"trial": t.number, "needs": t.needs} for t in board.running() if t.needs],
        "mlflow": _mlflow(sweep.folder),
    }


def _budget(sweep: SweepState, now: float) -> Plain:
    used: dict[str, float] = {
        "trials": sweep.ended_trials,
        "hours": sweep.running_s(now) / 3600,
        "gpu_hours": cost_of(sweep, now).so_far,
        "max_failed": sweep.count("failed"),
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


def _best(board: Forecast) -> Plain | None:
    best = board.best()
    if best is None:
        return None
    return {
        "trial": best.number,
        "value": best.final[board.objective.name],
        "step": best.step,
        "status": best.status,
        "values": dict(best.values),
    }


def _running(board: Forecast, number: int, now: float) -> Plain:
    trial = board.sweep.trials[number]
    value = trial.final.get(board.objective.name, math.nan)
    return {
        "trial": number,
        "step": trial.step,
        "steps": board.steps(trial),
        "value": value if math.isfinite(value) else None,
        "running_s": round(trial.duration_s(now), 1),
        "needs": trial.needs,
        "progress": progress_of(trial_folder(board.sweep.folder, number)),
        "values": dict(trial.values),
    }


def _mlflow(folder: Path) -> Plain:
    """What MLflow has of the journal, as the driver left it on the disk."""
    sent = read_state(folder / STATE)
    events = len(read_journal(folder / JOURNAL, 0 if sent is None else sent.offset).events)
    files = 0 if sent is None else len(sent.artifacts)
    return {
        "uri": "" if sent is None else sent.uri,
        "events_missing": events,
        "files_missing": files,
        "refused": 0 if sent is None else sent.refused,
        "complete": not events and not files,
    }


# For a person


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """Print how one sweep stands."""
    now = time.time()
    console.print(_headline(status, now), soft_wrap=True)
    console.print(Text(_trials(status)), soft_wrap=True)
    best = status["best"]
    if best is not None:
        where = (
            ""
            if best["status"] == "completed"
            else f", {best['status'].replace('_', ' ')} at step {best['step']}"
        )
        value = number_text(best["value"])
        console.print(
            Text(f"best so far: {status['objective']['name']} {value} (trial {best['trial']}{where})")
        )
    if status["running"]:
        console.print(_running_table(status, console.width if console.is_terminal else None))
    for line in (_budget_line(status), _mlflow_line(status), f"folder: {status['folder']}"):
        console.print(Text(line, style="dim"), soft_wrap=True)


def _headline(status: Mapping[str, Any], now: float) -> Text:
    text = Text.assemble((status["sweep"], "bold"), "  ", state_text(status["state"]))
    driver = status["driver"]
    if status["alive"]:
        text.append(f", driver is process {driver['pid']} on {driver['host']}")
        text.append(f", {duration_text(status['running_s'])} so far")
        if status["left_s"] is not None and status["state"] == "running":
            text.append(f", about {duration_text(status['left_s'])} left")
        return text
    last = status["ended"] or status["heard"]
    if status["ended"] is None:
        text.append(": its driver died without a word")
    elif status["message"]:
        text.append(f": {status['message'].rstrip('.')}")
    text.append(f", {duration_text(now - last)} ago, after {duration_text(status['running_s'])}")
    return text


def _trials(status: Mapping[str, Any]) -> str:
    counts = [f"{count} {name.replace('_', ' ')}" for name, count in status["trials"].items() if count]
    budget = status["budget"]["trials"]
    return f"trials: {budget['used']:g} of {budget['of']} ended" + (
        f" ({', '.join(counts)})" if counts else ""
    )


def _running_table(status: Mapping[str, Any], width: int | None) -> Any:
    columns = [Column("trial"), Column("step"), Column("done"), Column("value"), Column("time")]
    silent = not any(trial["needs"] or trial["progress"] for trial in status["running"])
    columns += [] if silent else [Column("", "left", wraps=True, spare=1)]
    rows: list[list[Text | str]] = []
    for trial in status["running"]:
        steps = trial["steps"]
        says = f"waiting for {trial['needs']}" if trial["needs"] else trial["progress"]
        rows.append(
            [
                str(trial["trial"]),
                str(trial["step"]) + ("" if steps is None else f"/{steps}"),
                "" if not steps else f"{trial['step'] / steps:.0%}",
                number_text(trial["value"]),
                duration_text(trial["running_s"]),
                *([] if silent else [Text(says, style="yellow" if trial["needs"] else "")]),
            ]
        )
    return fitted_table(columns, rows, width, lines=False)


def _budget_line(status: Mapping[str, Any]) -> str:
    words = {"trials": "trials", "hours": "hours", "gpu_hours": "GPU-hours", "max_failed": "failed trials"}
    parts = []
    for name, word in words.items():
        limit = status["budget"][name]
        if limit["of"] is not None:
            parts.append(f"{limit['used']:.3g} of {limit['of']:g} {word}")
    return "budget used: " + ", ".join(parts)


def _mlflow_line(status: Mapping[str, Any]) -> str:
    sent = status["mlflow"]
    refused = f"; it refused {sent['refused']} requests" if sent["refused"] else ""
    if sent["complete"]:
        return f"MLflow has everything{refused}"
    missing = f"{sent['events_missing']} events and {sent['files_missing']} files"
    if status["alive"]:
        return f"MLflow: {missing} are on their way{refused}"
    return f"MLflow lacks {missing}; the journal has them{refused}"


def summary_table(statuses: list[Plain], width: int | None = None) -> Any:
    """Several sweeps in a table, a line for each."""
    waits = any(status["waiting"] for status in statuses)
    columns = [
        Column("sweep", "left"),
        Column("state", "left"),
        Column("ended"),
        Column("running"),
        *([Column("waiting", "left", wraps=True, spare=2)] if waits else []),
        Column("failed"),
        Column("best", style="bold"),
        Column("of trial", spare=1),
        Column("time", spare=3),
        Column("left", spare=4),
    ]
    rows: list[list[Text | str]] = []
    for status in statuses:
        best, trials = status["best"], status["budget"]["trials"]
        needs = list(dict.fromkeys(waiting["needs"] for waiting in status["waiting"]))
        rows.append(
            [
                status["sweep"],
                state_text(status["state"]),
                f"{trials['used']:g}/{trials['of']}",
                str(len(status["running"])),
                *([f"for {', '.join(needs)}" if needs else ""] if waits else []),
                str(status["trials"]["failed"]),
                number_text(None if best is None else best["value"]),
                "" if best is None else str(best["trial"]),
                duration_text(status["running_s"]),
                "" if status["left_s"] is None else duration_text(status["left_s"]),
            ]
        )
    return fitted_table(columns, rows, width)
