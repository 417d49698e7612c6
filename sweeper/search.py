"""Ray Tune's side of a search: a searcher that asks the study, and a callback that tells the recorder.

Tune gets each trial as ``{"trial": number, "config": configuration}``. The searcher only asks. How a trial
went reaches the study through the recorder, because Tune does not tell its searcher of the report at which a
trial is stopped, nor whether a trial that ended was stopped.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune import Callback
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from sweeper.errors import SweeperError, TrialError
from sweeper.recorder import Outcome, Recorder
from sweeper.schedule import StepScheduler
from sweeper.study import Study, Suggestion
from sweeper.trial import read_failure, trial_folder

__all__ = ["RecorderCallback", "Study", "StudySearcher", "Suggestion"]


class StudySearcher(Searcher):
    """Hands Tune the study's suggestions.

    Args:
        study: Where they come from.
        first: Trials to run before any new one is asked for: those that an earlier driver left unfinished.

    Attributes:
        error: Why no more trials can be suggested, where the study failed: Tune then lets the running trials
            end, and whoever started Tune raises it.
        exhausted: Whether the space has no more configurations.
    """

    def __init__(self, study: Study, first: Sequence[Suggestion] = ()) -> None:
        # Without metric and mode: Tune would insist that every report has the metric.
        super().__init__()
        self._study = study
        self._first = list(first)
        self._finished = False
        self.error: SweeperError | None = None
        self.exhausted = False

    def finish(self) -> None:
        """Suggest no more trials; those that run go on."""
        self._finished = True

    def suggest(self, _trial_id: str) -> dict[str, Any] | str:
        """The next trial as Tune gets it, or `Searcher.FINISHED`."""
        if self._finished:
            return Searcher.FINISHED
        try:
            suggestion = self._first.pop(0) if self._first else self._study.ask()
        except SweeperError as error:
            self.error = error
            suggestion = None
        if suggestion is None:
            self.exhausted = self.error is None
            self._finished = True
            return Searcher.FINISHED
        return {"trial": suggestion.number, "config": dict(suggestion.config)}

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """Nothing: the recorder tells the study."""

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
    """

    def __init__(self, recorder: Recorder, scheduler: TrialScheduler) -> None:
        self._recorder = recorder
        self._scheduler = scheduler
        self._expected: dict[int, Outcome] = {}

    def expect(self, number: int, outcome: Outcome) -> None:
        """Say beforehand how a running trial will end, e.g. because it was asked to."""
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
        self._recorder.end_trial(number, self._expected.pop(number, outcome))

    def on_trial_error(self, *, trial: Any, **_info: Any) -> None:
        """A trial failed, or its actor did."""
        number = trial.config["trial"]
        outcome = error_outcome(trial, trial_folder(self._recorder.sweep.folder, number))
        self._recorder.end_trial(number, self._expected.pop(number, outcome))

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

    The first source is what a worker wrote into the trial's folder, the next the exception that Tune got.
    """
    failure = read_failure(folder)
    if failure is not None:
        return Outcome("failed", failure.reason, failure.message)
    error = _exception(trial)
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, TrialError):
        interrupted = cause.reason == "interrupted"
        return Outcome("interrupted" if interrupted else "failed", cause.reason, str(cause))
    lines = [line.strip() for line in str(error or "").splitlines() if line.strip()]
    if any("OutOfMemory" in line or "memory pressure" in line for line in lines):
        return Outcome("failed", "out_of_memory", lines[0])
    return Outcome("failed", "lost", lines[-1] if lines else "its process ended without a word")


def _exception(trial: Any) -> BaseException | None:
    try:
        with Path(trial.pickled_error_file).open("rb") as file:
            return cloudpickle.load(file)
    except Exception:  # whatever unpickling may run into: then the text has to do
        try:
            return RuntimeError(Path(trial.error_file).read_text())
        except (OSError, TypeError):
            return None
