"""Train finalists again with other seeds: how much of a result is the configuration, and how much is luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sweeper.errors import UserError
from sweeper.finalists.candidates import candidate_of
from sweeper.finalists.racing import Finalist
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import BudgetSpec, KeepSpec, SearchSpec, SweepSpec
from trainables import registry

__all__ = ["SEED", "seed_sweep", "with_seeds"]

SEED = "train.seed"
"""By convention the field that seeds a training."""
SEEDS = "seeds"
"""Folder in a sweep's folder for the sweeps that train its finalists again."""


def seed_sweep(sweep: SweepState, trial: int, seeds: int) -> SweepSpec:
    """Describe the sweep that trains a trial again: its configuration, with every other seed once.

    Args:
        sweep: The sweep of the trial.
        trial: Its number.
        seeds: How many seeds there are to be in all, with the trial's own.

    Raises:
        UserError: If the trainable has no seed.
    """
    original = SweepSpec.from_dict(sweep.spec, sweep.folder)
    fields = registry.load(original.trainable).fields
    if SEED not in fields:
        raise UserError(f"--seeds: the trainable {original.trainable} has no field {SEED}.")
    config = dict(sweep.trial(trial).config)
    own = config.pop(SEED, fields[SEED].default)
    others = tuple(own + number for number in range(1, seeds))
    return replace(
        original,
        name=f"{sweep.name}-seeds-{trial}",
        config=config,
        space=Space((Parameter(SEED, "categorical", values=others),)),
        search=SearchSpec(method="grid"),
        early_stop=None,
        # What acts is settled: the setting of the trial is kept.
        inference=None,
        budget=BudgetSpec(trials=len(others)),
        keep=KeepSpec(checkpoints="last"),
        folder=_folder(sweep.folder, trial),
        overrides=(),
        notes=(),
        warnings=(),
    )


def with_seeds(finalist: Finalist, sweep_folder: Path) -> Finalist:
    """A finalist with the policies that were trained of its configuration with other seeds.

    Raises:
        UserError: If one of these trainings did not complete.
    """
    sweep = read_sweep(_folder(sweep_folder, finalist.trial))
    broken = [trial.number for trial in sweep.trials.values() if trial.status != TrialStatus.COMPLETED]
    if broken:
        raise UserError(
            f"trial {finalist.trial} was not trained with every seed: {sweep.name} has trials that did not "
            f"complete ({_listed(broken)}). `sweeper results {sweep.folder}` says why."
        )
    setting = finalist.members[0].setting
    others = [replace(candidate_of(sweep, number), setting=setting) for number in sorted(sweep.trials)]
    return replace(finalist, members=(*finalist.members, *others))


def _folder(sweep_folder: Path, trial: int) -> Path:
    return sweep_folder / SEEDS / str(trial)


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
