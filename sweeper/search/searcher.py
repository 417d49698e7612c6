"""Ray Tune's side of a search: a searcher that asks the study, and a callback that tells the recorder.

Tune gets each trial as ``{"trial": number, "config": configuration}``. The searcher only asks. How a trial
went reaches the study through the recorder, because Tune does not tell its searcher of the report at which a
trial is stopped, nor whether a trial that ended was stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sweeper.errors import StudyBusyError, SweeperError, TrialError
from sweeper.layout import LOG, trial_folder
from sweeper.recorder import Outcome, Recorder
from sweeper.search.early_stopping import StepScheduler
from sweeper.search.study import Study
from sweeper.search.suggestion import Suggestion
from sweeper.trial.failure import RETRIED, Failure, failure_of, failure_of_actor, read_failure, write_failure

__all__ = ["RecorderCallback", "StudySearcher"]

STUDY_PATIENCE_S = 600.0
"""How long a study that is locked, or whose disk is full, is asked again before the sweep gives up."""


class StudySearcher(Searcher):
    """Hands Tune the study's suggestions.

    Args:
        study: Where they come from.
        first: Trials to run before any new one is asked for: those that an earlier driver left unfinished.
        limit: Most trials to run, those of ``first`` included; trials that go on with `again` cost none.

    Attributes:
        limit: The same; may be raised while the sweep runs.
        error: Why no more trials can be suggested, where the study failed: Tune then lets the running trials
            end, and whoever started Tune raises it.
        exhausted: Whether the space has no more configurations.
    """

    def __init__(self, study: Study, first: Sequence[Suggestion] = (), limit: int = sys.maxsize) -> None:
        # Without metric and mode: Tune would insist that every report has the metric.
        super().__init__()
        self._study = study
        self._first = list(first)
        self._again: list[Suggestion] = []
        self._live: set[str] = set()
        self._handed_out = 0
        self._busy_since: float | None = None
        self._finished = False
        self.limit = limit
        self.error: SweeperError | None = None
        self.exhausted = False

    def finish(self) -> None:
        """Suggest no more trials; those that run go on."""
        self._finished = True

    def again(self, number: int, config: Mapping[str, Any]) -> None:
        """Have a trial that was cut off run again, before any other, with what is now its configuration."""
        self._again.append(Suggestion(number, {}, config))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial as Tune gets it; None for not now; `Searcher.FINISHED` where none will come."""
        if self._finished:
            return Searcher.FINISHED
        suggestion = self._again.pop(0) if self._again else self._next()
        if suggestion is None:
            # A trial that runs may still have to run again, and Tune asks nobody who has said `FINISHED`.
            waits = self._live or (self._busy_since is not None and self.error is None)
            return None if waits else Searcher.FINISHED
        self._live.add(trial_id)
        return {"trial": suggestion.number, "config": dict(suggestion.config)}

    def _next(self) -> Suggestion | None:
        """A trial that has not run under this driver yet; None where there is none."""
        if self.exhausted or self.error is not None or self._handed_out >= self.limit:
            return None
        try:
            suggestion = self._first.pop(0) if self._first else self._study.ask()
        except StudyBusyError as error:
            self._busy_since = self._busy_since or time.monotonic()
            if time.monotonic() - self._busy_since > STUDY_PATIENCE_S:
                self.error = error
            return None
        except SweeperError as error:
            self.error = error
            return None
        self._busy_since = None
        self.exhausted = suggestion is None
        self._handed_out += suggestion is not None
        return suggestion

    def on_trial_complete(self, trial_id: str, *_how: Any, **_else: Any) -> None:
        """A trial has ended; how, the recorder tells the study."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth, and lies on the disk already."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep goes on from its study."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that we never do; a study cannot be pickled.
        return {}


class RecorderCallback(Callback):
    """Tells the recorder what Tune hears from its trials, and why they end.

    Args:
        recorder: Who is told.
        scheduler: Knows which trials were stopped early.
        retries: Told how an attempt failed; what then counts as the trial's end, or None where it goes on.
    """

    def __init__(
        self,
        recorder: Recorder,
        scheduler: TrialScheduler,
        retries: Callable[[int, Outcome], Outcome | None] = lambda _number, outcome: outcome,
    ) -> None:
        self._recorder = recorder
        self._scheduler = scheduler
        self._retries = retries
        self._expected: dict[int, Outcome] = {}

    def expect(self, number: int, outcome: Outcome) -> None:
        """Say beforehand how a trial that was asked to stop will end, unless it ends by itself before."""
        self._expected[number] = outcome

    def on_trial_start(self, *, trial: Any, **_info: Any) -> None:
        """A trial runs, or runs again."""
        self._recorder.start_trial(trial.config["trial"], trial.config["config"])

    def on_trial_result(self, *, trial: Any, result: dict[str, Any], **_info: Any) -> None:
        """A trial reported; also the report at which it is stopped comes here."""
        self._recorder.report(trial.config["trial"], result)

    def on_trial_complete(self, *, trial: Any, **_info: Any) -> None:
        """A trial ended by itself, or was stopped."""
        number = trial.config["trial"]
        why = self._scheduler.stopped(trial.trial_id) if isinstance(self._scheduler, StepScheduler) else None
        outcome = Outcome("completed") if why is None else Outcome("stopped_early", "early_stop", why)
        # It came to its end before it heard that it was to stop.
        self._expected.pop(number, None)
        self._recorder.end_trial(number, outcome)

    def on_trial_error(self, *, trial: Any, **_info: Any) -> None:
        """A trial failed, or its actor did."""
        number = trial.config["trial"]
        outcome = error_outcome(trial, trial_folder(self._recorder.sweep.folder, number))
        expected = self._expected.pop(number, None)
        if expected is not None and (outcome.status == "interrupted" or outcome.reason in RETRIED):
            self._recorder.end_trial(number, expected)
            return
        end = self._retries(number, outcome)
        if end is not None:
            self._recorder.end_trial(number, end)

    def on_experiment_end(self, trials: list[Any], **_info: Any) -> None:
        """Tune ends; it says nothing of the trials that it cut off."""
        for trial in trials:
            number = trial.config["trial"]
            default = Outcome("interrupted", "interrupted", "the sweep was stopped")
            self._recorder.end_trial(number, self._expected.pop(number, default))

    def __getstate__(self) -> dict[str, Any]:
        # As for the searcher.
        return {}


def error_outcome(trial: Any, folder: Path) -> Outcome:
    """Why a trial of Tune's that ended in an error did so.

    The first source is what was written into the trial's folder, the next the exception that Tune got from
    the trial's driver.
    """
    error = _exception(trial)
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TrialError) and cause.reason == "interrupted":
        return Outcome("interrupted", cause.reason, str(cause))
    failure = read_failure(folder)
    gone = failure_of_actor(error, "the trial's driver", folder / LOG)
    if failure is None or (gone is not None and failure.reason == "error"):
        failure = gone or failure
    if failure is None and isinstance(cause, TrialError):
        failure = Failure(cause.reason, str(cause))
    if failure is None and cause is not None:
        failure = failure_of(cause, folder / LOG)
    if failure is None:
        failure = Failure("lost", "its driver ended without a word", "", str(folder / LOG))
    write_failure(folder, failure)
    return Outcome("failed", failure.reason, failure.message)


def _exception(trial: Any) -> BaseException | None:
    try:
        with Path(trial.pickled_error_file).open("rb") as file:
            return cloudpickle.load(file)
    except Exception:  # whatever unpickling may run into: then the text has to do
        try:
            return RuntimeError(Path(trial.error_file).read_text())
        except (OSError, TypeError):
            return None
