"""Which policies are meant: trials of sweeps, or checkpoints in any format that a trainable reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import UserError
from sweeper.layout import trial_folder
from sweeper.records.checkpoints import find_source
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from trainables import registry
from trainables.episodes import EPISODES
from trainables.interface import EvaluatesPolicies

__all__ = ["Candidate", "candidate_of", "finalists", "find_candidate"]


@dataclass(frozen=True)
class Candidate:
    """A trained policy with an inference setting.

    Attributes:
        label: What it is called in tables: the number of a trial, ``SWEEP:TRIAL``, or a path.
        trainable: Name of the trainable that wrote its checkpoint.
        checkpoint: Folder of the checkpoint, or a bundle.
        setting: The inference setting: fields whose value differs from the one of the training.
        config: Values that hold in place of those of the training: another dataset or environment.
        sweep: Name of its sweep; None for a checkpoint that was named by its path.
        trial: Number of its trial; None likewise.
        records: Folder of its episode files; None for a checkpoint that was named by its path.
    """

    label: str
    trainable: str
    checkpoint: Path
    setting: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    sweep: str | None = None
    trial: int | None = None
    records: Path | None = None


def find_candidate(
    named: str,
    sweeps: Path,
    config: Mapping[str, Any] | None = None,
    which: Literal["best", "last"] | None = None,
) -> Candidate:
    """Find a policy as `sweeper export` does: ``SWEEP`` (its best trial), ``SWEEP:TRIAL``, or a checkpoint.

    A bundle comes with its inference setting; the setting of a trial is for the caller to decide.

    Args:
        named: What the user typed.
        sweeps: The folder that contains the sweeps.
        config: Values that hold in place of those of the training.
        which: The trial's checkpoint; None: the last, or the best if only that one was kept.

    Raises:
        UserError: If there is none, or its trainable cannot evaluate policies.
    """
    source = find_source(named, sweeps, which)
    trainable = registry.load(source.trainable)
    if not isinstance(trainable, EvaluatesPolicies):
        raise UserError(
            f"{named}: the trainable {source.trainable} cannot evaluate trained policies. It must have "
            "open_policy (trainables.interface.EvaluatesPolicies)."
        )
    return Candidate(
        label=named if source.sweep is None else f"{source.sweep}:{source.trial}",
        trainable=source.trainable,
        # Processes of a cluster need not work in this process's folder.
        checkpoint=source.checkpoint.absolute(),
        setting=source.setting if source.sweep is None else {},
        config=dict(config or {}),
        sweep=source.sweep,
        trial=source.trial,
        records=None if source.folder is None else source.folder / EPISODES,
    )


def candidate_of(sweep: SweepState, number: int) -> Candidate:
    """The last policy of a trial of a sweep.

    Raises:
        UserError: If the trial has no checkpoint any more.
    """
    found = find_candidate(f"{sweep.folder}:{number}", sweep.folder.parent)
    return Candidate(
        label=str(number),
        trainable=found.trainable,
        checkpoint=found.checkpoint,
        sweep=sweep.name,
        trial=number,
        records=trial_folder(sweep.folder, number) / EPISODES,
    )


def finalists(sweep: SweepState, top: int) -> tuple[list[Candidate], list[str]]:
    """The policies of the best completed trials of a sweep, best first.

    Args:
        sweep: The sweep.
        top: How many at most.

    Returns:
        The candidates, and why trials of the ranking are missing among them, in a sentence each.

    Raises:
        UserError: If no trial has completed.
    """
    completed = [trial for trial in sweep.ranking() if trial.status == TrialStatus.COMPLETED]
    if not completed:
        raise UserError(f"{sweep.name}: no trial has completed, so there is none to examine again.")
    found, missing = [], []
    for trial in completed[:top]:
        try:
            found.append(candidate_of(sweep, trial.number))
        except UserError as error:
            missing.append(str(error))
    return found, missing
