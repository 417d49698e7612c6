"""The state of a trial according to the journal of its sweep."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sweeper.records.status import TrialStatus

__all__ = ["TrialState"]


@dataclass
class TrialState:
    """The state of a trial.

    Attributes:
        number: The trial's number.
        status: Its status.
        reason: Why it failed or was stopped, one word; empty otherwise.
        message: A sentence about it, for the user.
        values: The searched parameters that existed in this trial.
        config: The whole configuration.
        step: The last step that was reported.
        metrics: The latest value of every metric.
        final: The latest value of each objective (and of the metric of early stopping).
        best: The best finite value of each of these.
        series: Every value of each of these, as (step, value) in order.
        artifacts: The latest file under each name.
        checkpoint: Folder of the latest checkpoint that was reported, or None.
        best_checkpoint: Folder of the checkpoint of the best value of the first objective, or None.
        started: When it first started, in seconds since 1970.
        ended: When it ended, or None.
        needs: The resources that it waits for, e.g. ``1 GPU``; empty if it has everything.
        retries: How often it was retried, by reason.
        changes: Changes of its configuration because memory was too small.
        dropped: Folders of checkpoints that were deleted, according to ``keep``.
        at_last_step: The metrics that were reported at the last step.
        setting: The inference setting that was chosen after the training; empty for that of the training.
        untuned: The metrics of the setting of the training, if another one was chosen.
        tried: The result of every setting that was examined, a mapping for each.
        confirmed: The metrics of the last confirmation; empty if the trial was not confirmed.
        judged: The metrics of the last judgement on a real robot; empty if the trial was not judged.
        origin: Where its values were taken from, in words; empty if the search chose them.
        node_types: The kind of machine of each worker, if machines have different prices; empty if unknown.
        first: Time and step of the first report since it last started; earlier reports do not count.
    """

    number: int
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    started: float
    status: TrialStatus = TrialStatus.RUNNING
    reason: str = ""
    message: str = ""
    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    series: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    artifacts: dict[str, str] = field(default_factory=dict)
    checkpoint: str | None = None
    best_checkpoint: str | None = None
    ended: float | None = None
    needs: str = ""
    retries: dict[str, int] = field(default_factory=dict)
    changes: dict[str, Any] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)
    at_last_step: set[str] = field(default_factory=set)
    first: tuple[float, int] | None = None
    setting: dict[str, Any] = field(default_factory=dict)
    untuned: dict[str, float] = field(default_factory=dict)
    tried: list[dict[str, Any]] = field(default_factory=list)
    confirmed: dict[str, float] = field(default_factory=dict)
    judged: dict[str, float] = field(default_factory=dict)
    origin: str = ""
    node_types: list[str] = field(default_factory=list)
    _segment: float = 0.0
    _ran_s: float = 0.0
    _ran_on: dict[str, float] = field(default_factory=dict)

    def acting(self, name: str) -> Any:
        """The value of an inference field with which its policy acts."""
        return self.setting.get(name, self.config.get(name))

    def duration_s(self, now: float | None = None) -> float:
        """Seconds for which it ran, without pauses and waiting for its resources."""
        if self.status != TrialStatus.RUNNING or self.needs:
            return self._ran_s
        return self._ran_s + max(0.0, (time.time() if now is None else now) - self._segment)

    def seconds_by_node_type(self, now: float | None = None) -> dict[str, float]:
        """`duration_s`, divided among the kinds of machine by the number of workers there."""
        found, kinds = dict(self._ran_on), self.node_types or [""]
        last = self.duration_s(now) - self._ran_s
        for kind in kinds:
            found[kind] = found.get(kind, 0.0) + last / len(kinds)
        return found

    def drop(self, folders: Sequence[str]) -> None:
        """Record that checkpoints are deleted: nothing may point at them any more."""
        self.dropped += [folder for folder in folders if folder not in self.dropped]
        if self.checkpoint in folders:
            self.checkpoint = None
        if self.best_checkpoint in folders:
            self.best_checkpoint = None

    def start_clock(self, now: float) -> None:
        """Record that it starts, or starts again."""
        self.status, self.reason, self.message = TrialStatus.RUNNING, "", ""
        self.ended, self.needs, self.node_types = None, "", []
        self._segment, self.first = now, None

    def stop_clock(self, now: float) -> None:
        """Record that it ran until now."""
        self._ran_on = self.seconds_by_node_type(now)
        self._ran_s = self.duration_s(now)
        self._segment = now

    def new_at(self, step: int, names: Iterable[str]) -> set[str]:
        """Which of these metrics a report at ``step`` may still add; none if the step has passed."""
        if step > self.step or not self.metrics:
            return set(names)
        return set() if step < self.step else set(names) - self.at_last_step
