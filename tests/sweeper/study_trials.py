"""What a study keeps of its trials, read as a person with the database would."""

from __future__ import annotations

from typing import Any, NamedTuple

from optuna.trial import TrialState

from sweeper.search.study import Study

STATES = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped_early",
    TrialState.FAIL: "failed",
}


class KeptTrial(NamedTuple):
    """A trial in the study."""

    number: int
    state: str
    values: dict[str, Any]
    config: dict[str, Any]
    objectives: tuple[float, ...]
    reports: dict[int, float]
    reason: str
    message: str


def trials_of(study: Study) -> list[KeptTrial]:
    """Every trial that was handed out, by number."""
    return [
        KeptTrial(
            trial.number,
            STATES[trial.state],
            trial.user_attrs["values"],
            trial.user_attrs["config"],
            tuple(trial.values or ()),
            dict(trial.intermediate_values),
            trial.user_attrs.get("reason", ""),
            trial.user_attrs.get("message", ""),
        )
        for trial in study.file.trials()
    ]
