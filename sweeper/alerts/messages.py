"""What an alert says, for a person and for a program."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from typing import Any, Literal

from sweeper.masking import masked
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.alerts import AlertEvent
from sweeper.text import counted

__all__ = ["Alert", "best_alert", "end_alert", "lost_alert", "silent_alert", "trial_alert"]

_SIGNS: dict[str, str] = {
    "ended": "✅",
    "failed": "❌",
    "full_disk": "💾",
    "best": "🏆",
    "silent": "🔇",
    "test": "🔔",
}


@dataclass(frozen=True)
class Alert:
    """One alert.

    Attributes:
        event: What happened.
        sweep: The name of the sweep.
        title: It in a few words, with the sweep's name.
        text: The details.
        fields: What programs receive beside these.
    """

    event: AlertEvent | Literal["test"]
    sweep: str
    title: str
    text: str
    fields: dict[str, Any]

    def plain_text(self) -> str:
        """The alert as a text for a chat."""
        return f"{_SIGNS[self.event]} {self.title}\n{self.text}".rstrip()

    def to_dict(self) -> dict[str, Any]:
        """The alert as plain JSON types."""
        named = {"event": self.event, "sweep": self.sweep, "title": self.title, "text": self.text}
        return {**named, "host": socket.gethostname(), "time": round(time.time(), 3), **self.fields}


def end_alert(sweep: SweepState, status: SweepStatus, message: str, full: str) -> Alert:
    """A sweep has ended.

    Args:
        sweep: The sweep.
        status: How it ended.
        message: Why, in a sentence.
        full: What is wrong with the disk; empty if it is not full.
    """
    event: AlertEvent = "full_disk" if full else "failed" if status == SweepStatus.FAILED else "ended"
    how = (
        "paused: the disk is full" if full else f"is {status}" if status == SweepStatus.DONE else str(status)
    )
    lines = [message, _counts(sweep), _best_line(sweep)]
    if full:
        lines.append(f"Free some space, then run `sweeper resume {sweep.name}`.")
    return _alert(event, sweep, f"{sweep.name} {how}", lines, status=str(status), message=masked(message))


def best_alert(sweep: SweepState, trial: TrialState) -> Alert:
    """A trial has become the best."""
    return _alert("best", sweep, f"{sweep.name}: trial {trial.number} is the best", [_best_line(sweep)])


def silent_alert(sweep: SweepState, silent_s: float) -> Alert:
    """Nothing was heard of the running trials."""
    running = [t.number for t in list(sweep.trials.values()) if t.status == TrialStatus.RUNNING]
    numbers = ", ".join(map(str, running))
    which = f"trial {numbers}" if len(running) == 1 else f"trials {numbers}"
    minutes = counted(round(silent_s / 60), "minute")
    text = f"No report and no progress of {which} for {minutes}. `sweeper logs {sweep.name}` may say why."
    title = f"{sweep.name}: nothing heard for {minutes}"
    return _alert("silent", sweep, title, [text], silent_s=round(silent_s))


def lost_alert(sweep: SweepState, host: str) -> Alert:
    """The driver of a sweep has died without recording an end."""
    text = (
        f"Its driver on {host or 'its machine'} is gone. `sweeper resume {sweep.name}` continues the sweep."
    )
    return _alert("failed", sweep, f"{sweep.name}: the driver died", [text, _counts(sweep)], status="died")


def trial_alert(name: str) -> Alert:
    """An alert that only tries whether alerts arrive."""
    text = "This is a test: alerts of this sweep arrive here."
    return Alert("test", name, f"{name}: test alert", text, {})


def _alert(event: AlertEvent, sweep: SweepState, title: str, lines: list[str], **fields: Any) -> Alert:
    best = sweep.best_trial()
    said: dict[str, Any] = {"folder": str(sweep.folder.absolute()), **fields}
    said["trials"] = {str(status): sweep.count(status) for status in TrialStatus if sweep.count(status)}
    if best is not None:
        values = {one.name: best.final.get(one.name) for one in sweep.objectives}
        said["best"] = {"trial": best.number, "final": values, "values": dict(best.values)}
    text = "\n".join(masked(line) for line in lines if line)
    return Alert(event, sweep.name, title, text, said)


def _counts(sweep: SweepState) -> str:
    words = [
        f"{sweep.count(status)} {status.replace('_', ' ')}" for status in TrialStatus if sweep.count(status)
    ]
    return f"Trials: {', '.join(words) or 'none'}."


def _best_line(sweep: SweepState) -> str:
    best = sweep.best_trial()
    if best is None:
        return ""
    values = ", ".join(
        f"{one.name} {best.final[one.name]:.4g}" for one in sweep.objectives if one.name in best.final
    )
    return f"Best: trial {best.number}, {values} at step {best.step:,}."
