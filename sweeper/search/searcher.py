"""The study as a searcher of Ray Tune.

Tune gets each trial as ``{"trial": number, "config": configuration}``. The searcher only asks. The
recorder reports results to the study, because Tune does not report to its searcher at which step a trial was
stopped, nor whether a trial that ended was stopped.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.search import Searcher

from sweeper.errors import StudyBusyError, SweeperError
from sweeper.search.study import Study
from sweeper.search.suggestion import Suggestion

__all__ = ["StudySearcher"]

STUDY_PATIENCE_S = 600.0
"""How long a study that is locked, or whose disk is full, is asked again before the sweep ends."""


class StudySearcher(Searcher):
    """Hands Tune the study's suggestions.

    Args:
        study: Suggests the configurations.
        first: Trials to run before new ones: those that an earlier driver left unfinished.
        limit: Most trials to run, those of ``first`` included; trials that continue with `again` cost none.

    Attributes:
        limit: The same; may be raised while the sweep runs.
        error: Why no more trials can be suggested, if the study failed: Tune then lets the running trials
            end, and the caller that started Tune raises it.
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
        """Suggest no more trials; those that run continue."""
        self._finished = True

    def again(self, number: int, config: Mapping[str, Any]) -> None:
        """Run an interrupted trial again before any other, with this configuration."""
        self._again.append(Suggestion(number, {}, config))

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial as Tune gets it; None for not now; `Searcher.FINISHED` if there will be none."""
        if self._finished:
            return Searcher.FINISHED
        suggestion = self._again.pop(0) if self._again else self._next()
        if suggestion is None:
            # A running trial may be interrupted and run again, but after `FINISHED` Tune does not ask again.
            waits = self._live or (self._busy_since is not None and self.error is None)
            return None if waits else Searcher.FINISHED
        self._live.add(trial_id)
        return {"trial": suggestion.number, "config": dict(suggestion.config)}

    def _next(self) -> Suggestion | None:
        """A trial that has not run under this driver yet; None if there is none."""
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
        """A trial has ended; the recorder reports its result to the study."""
        self._live.discard(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is already on the disk."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: a sweep continues from its study."""

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that we never do; a study cannot be pickled.
        return {}
