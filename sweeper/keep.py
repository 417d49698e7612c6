"""Which checkpoints stay on the disk: those that ``keep`` asks for, and those that a trial goes on from.

What goes is written into the journal before it goes, so that nothing ever points at a folder that is gone;
what a driver that died had still to remove, the next one removes.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sweeper.layout import trial_folder
from sweeper.results import Sweep
from sweeper.spec.sweep import KeepSpec
from sweeper.trial_result import TrialResult

__all__ = ["remove_checkpoints", "superfluous"]


def superfluous(sweep: Sweep, keep: KeepSpec) -> dict[int, list[str]]:
    """The folders of checkpoints that need not stay, by trial.

    Args:
        sweep: The sweep as it stands.
        keep: What is to stay.
    """
    if keep == KeepSpec():
        return {}  # everything stays, and ranking the trials at each end would be for nothing
    ended = [trial for trial in sweep.ranking() if trial.status in ("completed", "stopped_early")]
    winners = {trial.number for trial in ended[: keep.trials]}
    found = {}
    for trial in sweep.trials.values():
        has = {folder for folder in (trial.checkpoint, trial.best_checkpoint) if folder is not None}
        spare = sorted(has - _kept(trial, keep, trial.number in winners))
        if spare:
            found[trial.number] = spare
    return found


def _kept(trial: TrialResult, keep: KeepSpec, winner: bool) -> set[str | None]:
    both = {trial.checkpoint, trial.best_checkpoint}
    if trial.status in ("running", "interrupted"):
        return both
    if trial.status == "failed":
        return {trial.checkpoint}
    if not winner:
        return set()
    match keep.checkpoints:
        case "best":
            return {trial.best_checkpoint or trial.checkpoint}
        case "last":
            return {trial.checkpoint}
        case _:
            return both


def remove_checkpoints(sweep: Sweep, trial: TrialResult) -> list[str]:
    """Remove the folders that the journal says are dropped, where they still lie there.

    Returns:
        What could not be removed, and why. A folder outside the trial's own is never touched.
    """
    problems = []
    inside = trial_folder(sweep.folder, trial.number).resolve()
    for name in trial.dropped:
        folder = Path(name).resolve()
        if not folder.is_dir():
            continue
        if inside not in folder.parents:
            problems.append(f"{folder} is not in the folder of trial {trial.number}, and stays")
            continue
        try:
            shutil.rmtree(folder)
        except OSError as error:
            problems.append(f"{folder} cannot be removed: {error.strerror}")
    return problems
