"""The status of a trial and of a sweep. Journals, JSON and MLflow contain the values as plain text."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["SWEEP_ENDS", "TRIAL_ENDS", "SweepStatus", "TrialStatus"]


class TrialStatus(StrEnum):
    """The status of a trial."""

    RUNNING = "running"
    COMPLETED = "completed"
    STOPPED_EARLY = "stopped_early"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


class SweepStatus(StrEnum):
    """The status of a sweep."""

    NEW = "new"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    INTERRUPTED = "interrupted"


TRIAL_ENDS = (
    TrialStatus.COMPLETED,
    TrialStatus.STOPPED_EARLY,
    TrialStatus.FAILED,
    TrialStatus.INTERRUPTED,
)
"""The statuses with which a trial can end."""

SWEEP_ENDS = (SweepStatus.DONE, SweepStatus.FAILED, SweepStatus.INTERRUPTED)
"""The statuses with which a run of a sweep can end."""
