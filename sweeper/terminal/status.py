"""Print the state of sweeps, for `sweeper status`."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.records.summary import NoSweep
from sweeper.spec.cost import money_text
from sweeper.steering.status import Plain
from sweeper.terminal.result import print_links, ui_command
from sweeper.terminal.tables import (
    Column,
    best_words,
    duration_text,
    fitted_table,
    number_text,
    state_text,
)
from sweeper.tracking.urls import Links

__all__ = ["print_others", "print_status", "summary_table"]


def print_status(console: Console, status: Mapping[str, Any]) -> None:
    """Print the state of one sweep."""
    now = time.time()
    console.print(_headline(status, now), soft_wrap=True)
    console.print(Text(_trials(status)), soft_wrap=True)
    best = status["best"]
    if best is not None:
        words, where = best_words(best["status"])
        if best["status"] != "completed":
            where = f", {best['status'].replace('_', ' ')} at step {best['step']}"
        value = number_text(best["value"])
        console.print(Text(f"{words}: {status['objective']['name']} {value} (trial {best['trial']}{where})"))
    if status["running"]:
        console.print(_running_table(status, console.width if console.is_terminal else None))
    for line in (
        _budget_line(status),
        *_cost_lines(status),
        _mlflow_line(status),
        f"folder: {status['folder']}",
    ):
        console.print(Text(line, style="dim"), soft_wrap=True)
    links = status["mlflow"]["links"]
    print_links(console, None if links is None else Links(**links), ui_command(Path(status["folder"])))


def _headline(status: Mapping[str, Any], now: float) -> Text:
    text = Text.assemble((status["sweep"], "bold"), "  ", state_text(status["state"]))
    driver = status["driver"]
    if status["alive"]:
        text.append(f", driver is process {driver['pid']} on {driver['host']}")
        text.append(f", {duration_text(status['running_s'])} so far")
        if status["left_s"] is not None and status["state"] == "running":
            text.append(f", about {duration_text(status['left_s'])} left")
        if status.get("silent_s") is not None:  # a driver of an earlier version does not report it
            text.append(f", last report {duration_text(status['silent_s'])} ago")
        return text
    last = status["ended"] or status["heard"]
    if status["ended"] is None:
        text.append(": its driver died")
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
    without_notes = not any(trial["needs"] or trial["progress"] for trial in status["running"])
    columns += [] if without_notes else [Column("", "left", wraps=True, spare=1)]
    rows: list[list[Text | str]] = []
    for trial in status["running"]:
        steps = trial["steps"]
        note = f"waiting for {trial['needs']}" if trial["needs"] else trial["progress"]
        rows.append(
            [
                str(trial["trial"]),
                str(trial["step"]) + ("" if steps is None else f"/{steps}"),
                "" if not steps else f"{trial['step'] / steps:.0%}",
                number_text(trial["value"]),
                duration_text(trial["running_s"]),
                *([] if without_notes else [Text(note, style="yellow" if trial["needs"] else "")]),
            ]
        )
    return fitted_table(columns, rows, width, lines=False)


def _budget_line(status: Mapping[str, Any]) -> str:
    words = {"trials": "trials", "hours": "hours", "gpu_hours": "GPU-hours", "max_failed": "failed trials"}
    cost = status.get("cost")  # a driver of an earlier version does not report it
    words |= {} if cost is None else {"cost": cost["currency"]}
    words["stagnation"] = "trials without a gain"
    parts = []
    for name, word in words.items():
        limit = status["budget"].get(name)
        if limit is not None and limit["of"] is not None:
            parts.append(f"{limit['used']:.3g} of {limit['of']:g} {word}")
    return "budget used: " + ", ".join(parts)


def _cost_lines(status: Mapping[str, Any]) -> list[str]:
    """What the sweep costs; empty if it has no prices."""
    cost = status.get("cost")
    if cost is None:
        return []
    words = money_text(cost["so_far"], cost["currency"])
    if status["alive"] and cost["expected"] is not None:
        words += f" of about {money_text(cost['expected'], cost['currency'])}"
    return [f"cost: {words} ({cost['not_included']})"]


def _mlflow_line(status: Mapping[str, Any]) -> str:
    sent = status["mlflow"]
    refused = f"; it rejected {sent['refused']} requests" if sent["refused"] else ""
    if sent["complete"]:
        return f"MLflow is up to date{refused}"
    missing = f"{sent['events_missing']} events and {sent['files_missing']} files"
    if status["alive"]:
        return f"MLflow: {missing} are being uploaded{refused}"
    return f"MLflow: {missing} are missing{refused}. `sweeper sync` uploads them from the journal"


def print_others(console: Console, others: Iterable[NoSweep]) -> None:
    """Print the folders that cannot be shown as sweeps, below those that can."""
    for other in others:
        damaged = f"{other.name} is damaged: " if other.status == "damaged" else ""
        console.print(f"! {damaged}{other.message}", style="yellow", markup=False, soft_wrap=True)


def summary_table(statuses: list[Plain], width: int | None = None) -> Any:
    """A table of several sweeps, one row each."""
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
