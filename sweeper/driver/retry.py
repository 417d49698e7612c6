"""Whether a trial that was cut off continues: how often, and with what.

A trial that lost a process or a machine continues from its last checkpoint as it was. One that ran out of
memory continues with what its trainable calls a lighter configuration, unless the space searches those
fields. An error of the training itself would only be raised again: that trial has failed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sweeper.driver.ending import Ending
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import FREE_SPACE
from sweeper.machines.local_ray import gone_process
from sweeper.machines.outage import ray_is_gone
from sweeper.records.status import TrialStatus
from sweeper.records.trial_state import TrialState
from sweeper.search.searcher import StudySearcher
from sweeper.spec.sweep import SweepSpec
from sweeper.trial.failure import LIGHTENED, RETRIED
from trainables.interface import CanReduceMemory, Trainable

__all__ = ["Retries"]

_COUNTED_APART = ("preempted", "out_of_memory")


class Retries:
    """Decides, and starts the trial again. Pass it to `sweeper.driver.callbacks.RecorderCallback`.

    Args:
        spec: The sweep; ``failures`` says how often.
        trainable: Knows what a lighter configuration is.
        recorder: Records every retry.
        searcher: Has a trial run again.
        ending: While trials are to stop, a trial that was cut off is left for the next driver. If a disk is
            full, no trial can continue, and the sweep ends.
    """

    def __init__(
        self,
        spec: SweepSpec,
        trainable: Trainable,
        recorder: Recorder,
        searcher: StudySearcher,
        ending: Ending,
    ) -> None:
        self._spec = spec
        self._trainable = trainable
        self._recorder = recorder
        self._searcher = searcher
        self._ending = ending

    def __call__(self, number: int, outcome: Outcome) -> Outcome | None:
        """Return how the trial ends whose attempt ended like this; None if it continues."""
        trial = self._recorder.sweep.trials.get(number)
        if trial is None or trial.status != TrialStatus.RUNNING or outcome.status != TrialStatus.FAILED:
            return outcome
        if outcome.reason == "out_of_disk":
            # The next trial would end the same way; neither is at fault.
            self._ending.give_up(
                f"There is no room to write: trial {number}: {outcome.message.rstrip('.')}. {FREE_SPACE}"
            )
            return replace(outcome, status=TrialStatus.INTERRUPTED)
        if outcome.reason not in (*RETRIED, *LIGHTENED):
            return outcome
        gone = gone_process()
        if gone:
            self._ending.give_up(ray_is_gone(gone))
            self._ending.check()
        if self._ending.stopping:
            return replace(outcome, status=TrialStatus.INTERRUPTED)
        changes, said = self._next_attempt(trial, outcome)
        if changes is None:
            return replace(outcome, message=f"{outcome.message}{said}")
        self._recorder.retry_trial(number, replace(outcome, message=f"{outcome.message}{said}"), changes)
        self._searcher.again(number, trial.config)
        return None

    def _next_attempt(self, trial: TrialState, outcome: Outcome) -> tuple[dict[str, Any] | None, str]:
        """The changes for the next attempt, None if there is no next attempt; and a text about it."""
        allowed, failures = self._spec.failures, trial.retries
        if outcome.reason in LIGHTENED:
            made = sum(failures.get(reason, 0) for reason in LIGHTENED)
            changes = self._lighter(trial) if made < allowed.lighten else None
            if changes is not None:
                new = ", ".join(f"{name} {self._now(trial, name)} -> {to}" for name, to in changes.items())
                return changes, f". It continues from its last checkpoint with less at once: {new}"
            if outcome.reason == "out_of_memory":
                return (
                    None,
                    f". Its memory was reduced {made} times and cannot be reduced again" if made else "",
                )
            # The memory of a machine may also have been filled by another trial.
        if outcome.reason == "preempted":
            limit, made = allowed.preemptions, failures.get("preempted", 0)
        else:
            limit = allowed.retries
            made = sum(count for reason, count in failures.items() if reason not in _COUNTED_APART)
        if made < limit:
            return {}, f". It continues from its last checkpoint (attempt {made + 2} of {limit + 1})"
        return None, f". That was attempt {made + 1} of {limit + 1}"

    def _now(self, trial: TrialState, name: str) -> Any:
        return trial.config.get(name, self._trainable.fields[name].default)

    def _lighter(self, trial: TrialState) -> dict[str, Any] | None:
        """The fields that a lighter configuration changes; None if the space allows none."""
        if not isinstance(self._trainable, CanReduceMemory):
            return None
        workers, space = self._spec.resources.workers, self._spec.space
        found = self._trainable.lighter(trial.config, workers)
        if found is None:
            return None
        changes = {name: value for name, value in found.items() if self._now(trial, name) != value}
        searched = set(changes) & set(space.names)
        whole = {**trial.config, **changes}
        if not changes or searched or space.violated(whole) or self._trainable.faults(whole, workers):
            return None
        return changes
