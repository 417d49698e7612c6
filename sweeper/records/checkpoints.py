"""Find the checkpoint that the user names, and let its trainable export it.

`find_source` is the one place where a name becomes a checkpoint: of a sweep, a trial, a folder or a bundle.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import SweepNotFoundError, UserError
from sweeper.layout import JOURNAL, TRIALS, trial_folder
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import KeepSpec
from sweeper.text import number_text
from trainables import registry
from trainables.deployment.bundle import is_bundle, open_bundle
from trainables.interface import ExportsCheckpoints, silent

__all__ = [
    "Exported",
    "Source",
    "export",
    "find_source",
    "remove_checkpoints",
    "slim_checkpoints",
    "superfluous",
]

Which = Literal["best", "last"]


@dataclass(frozen=True)
class Source:
    """A checkpoint that can be exported.

    Attributes:
        checkpoint: Its folder, or a bundle.
        trainable: Name of the trainable that wrote it.
        chosen: How it was chosen, for the user.
        sweep: Name of its sweep; None for a checkpoint or a bundle that was named by its path.
        trial: Number of its trial; None likewise.
        warning: A warning about its use; may be empty.
        folder: Folder of its trial; None likewise.
        setting: The inference setting that was chosen for it; empty for the one of the training.
    """

    checkpoint: Path
    trainable: str
    chosen: str
    sweep: str | None = None
    trial: int | None = None
    warning: str = ""
    folder: Path | None = None
    setting: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Exported:
    """The result of an export.

    Attributes:
        sweep: Name of the sweep, or None.
        trial: Number of the trial, or None.
        checkpoint: The checkpoint that was exported.
        chosen: How it was chosen, for the user.
        folder: The folder that was created.
        target: Its format.
        notes: What was replaced and what was compared, in a sentence each.
    """

    sweep: str | None
    trial: int | None
    checkpoint: str
    chosen: str
    folder: str
    target: str
    notes: list[str]


def find_source(named: str, sweeps: Path, which: Which | None) -> Source:
    """Find a checkpoint.

    Args:
        named: ``SWEEP`` for the best trial of its ranking, ``SWEEP:TRIAL`` for another, the path of a trial's
            folder, of a checkpoint, or of a bundle, which is checked. A sweep is a name or the path of its
            folder.
        sweeps: The folder of the sweeps.
        which: The trial's last checkpoint, which the ranking uses, or the one of its best value; None:
            the last, or the best if `keep` kept only that one.

    Raises:
        UserError: If there is none; the message lists what exists.
        BundleError: If a bundle is damaged, or newer than this version.
    """
    if is_bundle(named):
        return _of_bundle(Path(named))
    name, separator, number = named.rpartition(":")
    if separator and number.isdigit():
        return _of_trial(read_sweep(find_sweep(name, sweeps)), int(number), which)
    try:
        folder = find_sweep(named, sweeps)
    except SweepNotFoundError:
        path = Path(named).absolute()
        if path.name.isdigit() and path.parent.name == TRIALS and (path.parent.parent / JOURNAL).is_file():
            return _of_trial(read_sweep(path.parent.parent), int(path.name), which)
        if path.exists():
            return Source(Path(named), registry.names()[0], "the checkpoint that was named")
        raise
    return _of_trial(read_sweep(folder), None, which)


def export(
    source: Source,
    folder: Path,
    target: str | None,
    *,
    ema: bool = True,
    replace: bool = False,
    progress: Callable[[str], None] = silent,
) -> Exported:
    """Export a checkpoint.

    Args:
        source: The checkpoint.
        folder: The folder to create.
        target: The format; None: the trainable's default.
        ema: Write averaged weights if there are any.
        replace: Replace an earlier export in ``folder``.
        progress: Receives a message for each step.

    Raises:
        UserError: If the trainable does not export checkpoints, or not to ``target``.
        TrainableError: If the checkpoint cannot be read or expressed.
    """
    trainable = registry.load(source.trainable)
    if not isinstance(trainable, ExportsCheckpoints):
        raise UserError(f"{source.trainable}: this trainable does not export checkpoints.")
    chosen = trainable.export_targets[0] if target is None else target
    if chosen not in trainable.export_targets:
        known = ", ".join(trainable.export_targets)
        raise UserError(f"--target {chosen}: unknown format. {source.trainable} can write: {known}.")
    notes = trainable.export(
        source.checkpoint,
        folder,
        chosen,
        ema=ema,
        replace=replace,
        progress=progress,
        # Trainables of others need not know settings.
        **({"setting": source.setting} if source.setting else {}),
    )
    return Exported(
        source.sweep, source.trial, str(source.checkpoint), source.chosen, str(folder), chosen, notes
    )


def _of_bundle(path: Path) -> Source:
    bundle = open_bundle(path)
    # Processes on other machines unpack it into their own caches.
    return Source(path, bundle.trainable, "the bundle that was named", setting=bundle.setting)


def _of_trial(sweep: SweepState, number: int | None, wanted: Which | None) -> Source:
    trial = _trial(sweep, number)
    objective = sweep.objectives[0]
    only_best = trial.checkpoint is None and trial.best_checkpoint is not None
    which: Which = wanted or ("best" if only_best else "last")
    recorded = trial.best_checkpoint if which == "best" else trial.checkpoint
    if recorded is None:
        raise UserError(f"{sweep.name}: {_why_none(sweep, trial, which)}")
    checkpoint = _where_it_lies(sweep, trial, Path(recorded))
    value = _value(trial, which, objective.name)
    how = "the confirmed winner" if trial is sweep.confirmed_trial() else "the best of its ranking"
    chosen = f"trial {trial.number} of {sweep.name}" + ("" if number is not None else f", {how}")
    return Source(
        checkpoint,
        str(sweep.spec["trainable"]),
        f"{chosen}: its {which} checkpoint, step {checkpoint.name.lstrip('0') or '0'}{value}",
        sweep.name,
        trial.number,
        _luck(sweep, trial) if which == "best" else "",
        trial_folder(sweep.folder, trial.number),
        trial.setting,
    )


def _value(trial: TrialState, which: Which, name: str) -> str:
    """The value of a checkpoint in the search, and on fresh starts if it was confirmed."""
    values = trial.best if which == "best" else trial.final
    said = f", {name} {number_text(values[name])}" if name in values else ""
    if which == "last" and said and name in trial.confirmed:
        said += f" in the search and {number_text(trial.confirmed[name])} on fresh starts"
    return said


def _luck(sweep: SweepState, trial: TrialState) -> str:
    """Warn that the value of a best checkpoint is better than the policy itself."""
    name = sweep.objectives[0].name
    evaluations = len(trial.series.get(name, ()))
    if evaluations < 2 or trial.best.get(name) == trial.final.get(name):
        return ""
    best, last = number_text(trial.best[name]), number_text(trial.final[name])
    return (
        f"This checkpoint is the best of {evaluations} evaluations, so its {name} of {best} is partly luck. "
        f"The ranking uses the last evaluation, {last}. To export that one, use --checkpoint last."
    )


def _why_none(sweep: SweepState, trial: TrialState, which: Which) -> str:
    if which == "best" and trial.checkpoint is not None:
        return f"trial {trial.number} has no best checkpoint. Use --checkpoint last."
    if not trial.dropped:
        return f"trial {trial.number} wrote no checkpoint: it ended at step {trial.step} ({trial.status})."
    others = [str(other.number) for other in sweep.ranking() if other.checkpoint or other.best_checkpoint]
    return (
        f"the checkpoints of trial {trial.number} were deleted: `keep` in the space keeps only some. "
        f"Trials that have one: {', '.join(others) or 'none'}."
    )


def _trial(sweep: SweepState, number: int | None) -> TrialState:
    if number is None:
        best = sweep.confirmed_trial() or sweep.best_trial()
        if best is None:
            remedy = f"Name one, as in {sweep.name}:0, to export a trial that did not complete."
            raise UserError(f"{sweep.name}: no trial has completed. {remedy}")
        return best
    return sweep.trial(number)


def _where_it_lies(sweep: SweepState, trial: TrialState, recorded: Path) -> Path:
    """The checkpoint's folder, even if the sweep's folder was moved since it was written."""
    inside = trial_folder(sweep.folder, trial.number) / recorded.parent.name / recorded.name
    for place in (inside, recorded):
        if place.is_dir():
            return place
    raise UserError(
        f"{sweep.name}: the checkpoint of trial {trial.number} is gone from {recorded}. "
        "Checkpoints of trials far down the ranking are deleted. Name another trial."
    )


def superfluous(sweep: SweepState, keep: KeepSpec) -> dict[int, list[str]]:
    """The folders of checkpoints that may be deleted, by trial.

    Args:
        sweep: The present state of the sweep.
        keep: What is to be kept.
    """
    if keep == KeepSpec():
        return {}  # everything is kept, and ranking the trials at each end would be useless
    ended = [
        trial
        for trial in sweep.ranking()
        if trial.status in (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY)
    ]
    winners = {trial.number for trial in ended[: keep.trials]}
    found = {}
    for trial in sweep.trials.values():
        has = {folder for folder in (trial.checkpoint, trial.best_checkpoint) if folder is not None}
        spare = sorted(has - _kept(trial, keep, trial.number in winners))
        if spare:
            found[trial.number] = spare
    return found


def _kept(trial: TrialState, keep: KeepSpec, winner: bool) -> set[str | None]:
    both = {trial.checkpoint, trial.best_checkpoint}
    if trial.status in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED):
        return both
    if trial.status == TrialStatus.FAILED:
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


def slim_checkpoints(sweep: SweepState, trial: TrialState, slim: Callable[[Path], None]) -> list[str]:
    """Make the checkpoints of a trial smaller that cannot continue.

    Returns:
        The problems that occurred. A folder outside the trial's own is never touched.
    """
    problems = []
    inside = trial_folder(sweep.folder, trial.number).resolve()
    for name in dict.fromkeys((trial.checkpoint, trial.best_checkpoint)):
        folder = None if name is None else Path(name).resolve()
        if folder is None or not folder.is_dir() or inside not in folder.parents:
            continue
        try:
            slim(folder)
        except OSError as error:
            problems.append(f"{folder} cannot be made smaller: {error.strerror}")
    return problems


def remove_checkpoints(sweep: SweepState, trial: TrialState) -> list[str]:
    """Delete the folders that the journal records as dropped, if they still exist.

    Returns:
        The problems that occurred. A folder outside the trial's own is never touched.
    """
    problems = []
    inside = trial_folder(sweep.folder, trial.number).resolve()
    for name in trial.dropped:
        folder = Path(name).resolve()
        if not folder.is_dir():
            continue
        if inside not in folder.parents:
            problems.append(f"{folder} was not deleted: it is not in the folder of trial {trial.number}")
            continue
        try:
            shutil.rmtree(folder)
        except OSError as error:
            problems.append(f"{folder} cannot be deleted: {error.strerror}")
    return problems
