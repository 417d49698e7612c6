"""A trial as the study hands it out, and as it keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from optuna.trial import FrozenTrial, TrialState

__all__ = ["StudyTrial", "Suggestion", "study_trial"]

State = Literal["running", "completed", "stopped_early", "failed"]

_STATES: dict[TrialState, State] = {
    TrialState.RUNNING: "running",
    TrialState.COMPLETE: "completed",
    TrialState.PRUNED: "stopped_early",
    TrialState.FAIL: "failed",
}


@dataclass(frozen=True)
class Suggestion:
    """A trial to run.

    Attributes:
        number: The trial's number, counted from 0 without gaps.
        values: The searched parameters that exist in this trial.
        config: The whole configuration: fixed values and ``values``.
    """

    number: int
    values: Mapping[str, Any]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class StudyTrial:
    """What the study knows of a trial.

    Attributes:
        number: The trial's number.
        state: How it stands.
        values: The searched parameters that exist in this trial.
        config: The whole configuration.
        objectives: Objective values of a completed trial; the last reported one of a trial stopped early.
        reports: Step to objective value, where there is one objective.
        reason: Why it failed, one word; empty otherwise.
        message: Why it failed, for a person.
    """

    number: int
    state: State
    values: Mapping[str, Any]
    config: Mapping[str, Any]
    objectives: tuple[float, ...] = ()
    reports: Mapping[int, float] = field(default_factory=dict)
    reason: str = ""
    message: str = ""


def study_trial(trial: FrozenTrial) -> StudyTrial:
    """What the study has of a trial."""
    attributes = trial.user_attrs
    return StudyTrial(
        number=trial.number,
        state=_STATES[trial.state],
        values=attributes["values"],
        config=attributes["config"],
        objectives=tuple(trial.values or ()),
        reports=dict(trial.intermediate_values),
        reason=attributes.get("reason", ""),
        message=attributes.get("message", ""),
    )
