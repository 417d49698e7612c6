"""The stopper and the callbacks that Tune calls while a sweep runs.

They pass what happens to the recorder, and do not decide which trial is next.
"""

from __future__ import annotations

import time
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import cloudpickle
from ray.tune import Callback, Stopper
from ray.tune.schedulers import TrialScheduler

from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.retry import Retries
from sweeper.errors import TrialError
from sweeper.layout import LOG, trial_folder
from sweeper.machines.local_ray import temporary_folder
from sweeper.machines.outage import full_disk
from sweeper.records.status import TrialStatus
from sweeper.search.early_stopping import StepScheduler
from sweeper.trial.exchange import STOP, own_slot_of
from sweeper.trial.failure import RETRIED, Failure, failure_of, failure_of_actor, read_failure, write_failure
from sweeper.trial.placement import free_groups

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

__all__ = ["FreeSlots", "RecorderCallback", "make_stopper", "trial_name"]

IDLE_S = 2.0
"""How long a slot may have no trial before it loses its workers."""


class RecorderCallback(Callback):
    """Passes on to the recorder what Tune receives from its trials, and why they end.

    Args:
        recorder: Records it.
        scheduler: Knows which trials were stopped early.
        expected: How running trials that were asked to stop will end, by number. A trial that ends by itself
            before is removed.
        retries: Decides whether a trial that failed continues; None if none does.
    """

    def __init__(
        self,
        recorder: Recorder,
        scheduler: TrialScheduler,
        expected: MutableMapping[int, Outcome] | None = None,
        retries: Retries | None = None,
    ) -> None:
        self._recorder = recorder
        self._scheduler = scheduler
        self._retries = retries
        self._expected = {} if expected is None else expected
        self._resources: dict[Any, Any] = {}

    def on_trial_start(self, *, trial: Any, **_info: Any) -> None:
        """Record that a trial runs, or runs again."""
        self._recorder.start_trial(trial.config["trial"], trial.config["config"])

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_info: Any) -> None:
        """Record a report; the one at which a trial is stopped arrives here, too."""
        self._recorder.report(trial.config["trial"], result)

    def on_trial_complete(self, *, trial: Any, **_info: Any) -> None:
        """Record that a trial ended by itself, or was stopped."""
        number = trial.config["trial"]
        why = self._scheduler.stopped(trial.trial_id) if isinstance(self._scheduler, StepScheduler) else None
        outcome = (
            Outcome(TrialStatus.COMPLETED)
            if why is None
            else Outcome(TrialStatus.STOPPED_EARLY, "early_stop", why)
        )
        # It reached its end before it saw the request to stop.
        self._expected.pop(number, None)
        self._recorder.end_trial(number, outcome)
        self._forget(trial)

    def on_trial_error(self, *, trial: Any, **_info: Any) -> None:
        """Record that a trial failed, or its actor did, unless it is retried."""
        number = trial.config["trial"]
        outcome = error_outcome(trial, trial_folder(self._recorder.sweep.folder, number))
        self._forget(trial)
        expected = self._expected.pop(number, None)
        if expected is not None and (outcome.status == TrialStatus.INTERRUPTED or outcome.reason in RETRIED):
            self._recorder.end_trial(number, expected)
            return
        end = outcome if self._retries is None else self._retries(number, outcome)
        if end is not None:
            self._recorder.end_trial(number, end)

    def on_experiment_end(self, trials: list[Any], **_info: Any) -> None:
        """Record the end of trials that Tune cut off: it does not report them."""
        default = Outcome(TrialStatus.INTERRUPTED, "interrupted", "the sweep was stopped")
        full = full_disk([self._recorder.sweep.folder, temporary_folder()])
        if full:
            default = Outcome(TrialStatus.INTERRUPTED, "out_of_disk", full)
        for trial in trials:
            number = trial.config["trial"]
            self._recorder.end_trial(number, self._expected.pop(number, default))

    def _forget(self, trial: Trial) -> None:
        """Release what Tune has of a trial that is over, and let it share its resources with equal ones."""
        forget_results(trial)
        resources = trial.placement_group_factory
        trial.placement_group_factory = self._resources.setdefault(resources, resources)

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that we never do.
        return {}


def forget_results(trial: Trial) -> None:
    """Release what Tune has of a trial that is over: it keeps every trial, and nothing asks for this again.

    That is its configuration, in three places, and the averages of every metric that it reported.
    """
    trial.config = {"trial": trial.config["trial"]}
    trial.evaluated_params, trial.experiment_tag = {}, ""
    metadata = trial.run_metadata
    metadata.last_result = {"done": True}  # without any, Tune would ask the trial's process
    metadata.metric_analysis, metadata.metric_n_steps = {}, {}


def error_outcome(trial: Any, folder: Path) -> Outcome:
    """Find out why a trial ended in an error.

    The first source is what was written into the trial's folder, the second the exception that Tune received
    from the trial's driver.
    """
    error = _exception(trial)
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TrialError) and cause.reason == "interrupted":
        return Outcome(TrialStatus.INTERRUPTED, cause.reason, str(cause))
    failure = read_failure(folder)
    gone = failure_of_actor(error, "the trial's driver", folder / LOG)
    if failure is None or (gone is not None and failure.reason == "error"):
        failure = gone or failure
    if failure is None and isinstance(cause, TrialError):
        failure = Failure(cause.reason, str(cause))
    if failure is None and cause is not None:
        failure = failure_of(cause, folder / LOG)
    full = "" if failure is not None else full_disk([folder, temporary_folder()])
    if full:
        failure = Failure("out_of_disk", full, log=str(folder / LOG))  # no process could record it
    if failure is None:
        failure = Failure("lost", "its driver ended and reported no reason", "", str(folder / LOG))
    write_failure(folder, failure)
    return Outcome(TrialStatus.FAILED, failure.reason, failure.message)


def _exception(trial: Any) -> BaseException | None:
    try:
        with Path(trial.pickled_error_file).open("rb") as file:
            return cloudpickle.load(file)
    except Exception:  # unpickling may raise anything; then the text has to do
        try:
            return RuntimeError(Path(trial.error_file).read_text())
        except (OSError, TypeError):
            return None


def make_stopper(is_over: Callable[[], bool]) -> Stopper:
    """Make Tune's stopper from a function that is called in every turn of Tune's loop."""

    class EndSweep(Stopper):
        """Tune calls it in every turn of its loop."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            return is_over()

        def __reduce__(self) -> Any:
            # Tune pickles its settings for a restore that we never do.
            return (Stopper, ())

    return EndSweep()


class FreeSlots(Callback):
    """Frees the workers of slots that have no trial, and at once those of a trial that failed.

    Workers of a trial that ended well wait in their slot for the next one, which Tune starts there within
    moments. If none comes (the last trials run, the trial was stopped and its worker does not leave, Tune has
    ended the process of the slot), what they hold is for others.

    Args:
        folder: The sweep's folder.
        group: The name that its placement groups share.
        stopping: Whether all trials are to stop: then requests to stop stay in their folders.
    """

    def __init__(self, folder: Path, group: str, stopping: Callable[[], bool]) -> None:
        self._folder = folder
        self._group = group
        self._stopping = stopping
        self._used: dict[str, float] = {}
        self._seen = 0
        self._unfinished: list[Trial] = []

    def on_trial_start(self, *, trial: Trial, **_info: Any) -> None:
        """Forget a request to stop that an earlier attempt received."""
        if not self._stopping():
            (trial_folder(self._folder, trial.config["trial"]) / STOP).unlink(missing_ok=True)

    def on_trial_error(self, *, trials: list[Trial], trial: Trial, **_info: Any) -> None:
        """Free what the trial held."""
        number = trial.config["trial"]
        others = (
            trial_folder(self._folder, one.config["trial"])
            for one in trials
            if not one.is_finished() and one is not trial
        )
        slot = own_slot_of(trial_folder(self._folder, number), others)
        if slot:
            free_groups(self._group, slot)

    def on_step_end(self, *, trials: list[Trial], **_info: Any) -> None:
        """Free what slots hold that have had no trial for some time."""
        now = time.monotonic()
        # Tune keeps every trial and calls this after each report: a trial that finished is not asked again.
        candidates = [*self._unfinished, *trials[self._seen :]]
        self._seen, self._unfinished = len(trials), [one for one in candidates if not one.is_finished()]
        actors = (trial.temporary_state.ray_actor for trial in self._unfinished)
        self._used |= {actor._actor_id.hex(): now for actor in actors if actor is not None}
        for slot, used in list(self._used.items()):
            if now - used > IDLE_S:
                del self._used[slot]
                free_groups(self._group, slot)

    def __reduce__(self) -> Any:
        # Tune pickles its settings for a restore that we never do.
        return (Callback, ())


def trial_name(trial: Trial) -> str:
    """The name of a trial in Tune."""
    return f"trial-{trial.config['trial']}"
