"""What is done before a sweep starts: everything that can be found wrong is found before anything is made."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from sweeper.errors import ResourceError, SweepExistsError, SweepNotFoundError
from sweeper.layout import JOURNAL, RESERVE, SPEC, UNFINISHED
from sweeper.machines.machine import find_machine
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.sweep import AUTO_TRIALS_AT_ONCE, SweepSpec
from sweeper.text import describe_size
from trainables.interface import ConfigError, Fault, StartsFromCheckpoints, Trainable

__all__ = ["check_disk", "earlier_sweep", "is_stillborn", "preflight", "remark"]

DRAWS = 2000
DATA_VARIANTS = 16
"""Combinations of searched data fields that are checked before the sweep starts."""


def preflight(
    spec: SweepSpec,
    trainable: Trainable,
    cache: Path,
    progress: Callable[[str], None] = lambda _message: None,
) -> dict[str, Any]:
    """Check the sweep against its dataset and environment; a legal configuration of the space.

    Where fields that decide what is read are searched, each of their combinations is checked.

    Raises:
        ConfigError: With all faults, where there are any.
    """
    generator = random.Random(spec.search.seed)
    data_fields = [name for name in spec.space.names if trainable.fields[name].phase == "data"]
    checked: dict[str, dict[str, Any]] = {}
    refused: list[Fault] = []
    for _ in range(DRAWS if data_fields else DRAWS // 10):
        config = spec.space.draw(generator, spec.config)
        if spec.space.violated(config):
            continue
        faults = trainable.faults(config, spec.resources.workers)
        if faults:
            refused = refused or faults
            continue
        checked.setdefault(repr([config.get(name) for name in data_fields]), config)
        if not data_fields or len(checked) == DATA_VARIANTS:
            break
    if not checked:
        raise ConfigError(refused or [_NO_POINT])
    found = dict.fromkeys(
        fault for config in checked.values() for fault in trainable.preflight(config, cache, progress)
    )
    if found:
        raise ConfigError(list(found))
    return next(iter(checked.values()))


def remark(trainable: Trainable, config: Mapping[str, Any], cache: Path, console: Console) -> None:
    """Show what the trainable finds worth knowing of a configuration before it is trained."""
    if isinstance(trainable, StartsFromCheckpoints):
        for text in trainable.remarks(config, cache):
            console.print(Text(f"! {text}", style="yellow"))


_NO_POINT = Fault(
    "constraints", "no combination of the parameters keeps them.", "Widen a range or drop a constraint."
)


def check_disk(spec: SweepSpec, trial_gb: float, left: int, console: Console) -> None:
    """Refuse a sweep of which not one trial fits on the disk; warn where not all of them do.

    Raises:
        ResourceError: Where there is no room for a single trial.
    """
    free_gb = find_machine(spec.folder).disk_gb
    free = describe_size(free_gb)
    if trial_gb > free_gb:
        raise ResourceError(
            f"{spec.folder}: a trial needs about {describe_size(trial_gb)} of disk, and {free} are free. "
            "Make room, or name another folder with --sweeps."
        )
    at_once = spec.resources.max_concurrent
    stay = spec.keep.at_most(left, AUTO_TRIALS_AT_ONCE if at_once == "auto" else at_once)
    if trial_gb * stay > free_gb:
        which = (
            f"All {left} trials" if stay == left else f"The {stay} trials whose checkpoints stay at a time"
        )
        needed = f"{which} may need {describe_size(trial_gb * stay)}"
        console.print(f"! {needed}, and {free} are free in {spec.folder}.", style="yellow")


def earlier_sweep(spec: SweepSpec) -> SweepState | None:
    """What an earlier driver left in the sweep's folder, or None where there is nothing.

    Raises:
        SweepExistsError: Where the folder holds something else than this sweep.
    """
    if not spec.folder.exists() or (spec.folder.is_dir() and not any(spec.folder.iterdir())):
        return None
    remedy = f"Give this one another name, e.g. `name={_free_name(spec)}` behind the space file."
    if not spec.folder.is_dir():
        raise SweepExistsError(f"{spec.folder} exists already and is no folder. {remedy}")
    try:
        earlier = read_sweep(spec.folder)
    except SweepNotFoundError:
        if is_stillborn(spec.folder):
            return None
        raise SweepExistsError(
            f"{spec.folder} exists already, is not empty, and holds no sweep. {remedy}"
        ) from None
    changed = _changes(earlier.spec, spec.to_dict())
    if changed:
        raise SweepExistsError(
            f"{spec.folder} holds another sweep of the name {spec.name} ({earlier.ended_trials} trials): "
            f"{'; '.join(changed)}. {remedy} `sweeper results {spec.name}` shows the one that is there."
        )
    return earlier


def is_stillborn(folder: Path) -> bool:
    """Whether a folder holds nothing but what a driver makes before its sweep starts.

    A driver that was killed meanwhile leaves that behind; nothing of it is worth anything.
    """
    from sweeper.layout import DATABASE, LOCK, STATE, STUDY

    databases = {f"{name}{end}" for name in (STUDY, DATABASE) for end in ("", "-journal", "-wal", "-shm")}
    made = databases | {LOCK, JOURNAL, RESERVE, SPEC, STATE}
    names = {path.name.removesuffix(UNFINISHED) for path in folder.iterdir()}
    return names <= made and not read_journal(folder / JOURNAL).events


def _free_name(spec: SweepSpec) -> str:
    number = 2
    while (spec.folder.parent / f"{spec.name}-{number}").exists():
        number += 1
    return f"{spec.name}-{number}"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes a sweep another one. Its budget, machines, sampler and tracking may change as it goes on."""
    changes = []
    for section in ("trainable", "config", "space", "objectives", "early_stop"):
        old, new = before.get(section), now[section]
        if isinstance(old, Mapping) and isinstance(new, Mapping) and section == "config":
            names = sorted(set(old) | set(new))
            changes += [
                f"config.{name} was {old.get(name)!r} and is now {new.get(name)!r}"
                for name in names
                if old.get(name) != new.get(name)
            ]
        elif old != new:
            changes.append(f"its {section} differ" if section == "objectives" else f"its {section} differs")
    return changes
