"""How long nothing was heard of running trials."""

from __future__ import annotations

import contextlib

from sweeper.layout import trial_folder
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.trial.exchange import PROGRESS

__all__ = ["last_sign", "silent_s"]


def last_sign(sweep: SweepState) -> float:
    """When a sweep last gave a sign: its last event, or the progress of a running trial."""
    newest = sweep.heard
    for trial in list(sweep.trials.values()):
        if trial.status == TrialStatus.RUNNING:
            with contextlib.suppress(OSError):
                newest = max(newest, (trial_folder(sweep.folder, trial.number) / PROGRESS).stat().st_mtime)
    return newest


def silent_s(sweep: SweepState, now: float) -> float:
    """Seconds without a sign; 0 if no trial runs, or if each one waits for its resources."""
    if sweep.status != SweepStatus.RUNNING or sweep.steered == "paused":
        return 0.0
    running = [trial for trial in list(sweep.trials.values()) if trial.status == TrialStatus.RUNNING]
    if all(trial.needs for trial in running):
        return 0.0
    return max(0.0, now - last_sign(sweep))
