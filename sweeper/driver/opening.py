"""Open what a sweep is recorded in: its study, its journal and the tracker that uploads it to MLflow."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from sweeper.errors import SweepExistsError, SweepNotFoundError, UserError
from sweeper.layout import (
    ALERTS,
    DATABASE,
    DRIVER_LOG,
    EARLIER,
    JOURNAL,
    LOCK,
    RESERVE,
    SPEC,
    STATE,
    STUDY,
    UNFINISHED,
    write_whole,
)
from sweeper.masking import masked
from sweeper.records.earlier import store_taken
from sweeper.records.journal import Journal, read_journal
from sweeper.records.sweep_state import SweepState, read_sweep, update_sweep
from sweeper.search.study import Study
from sweeper.spec.differences import differences
from sweeper.spec.search_methods import TRACKERS
from sweeper.spec.sweep import SweepSpec, trained_config
from sweeper.spec.taken import Taken
from sweeper.text import counted
from sweeper.tracking.tracker import Tracker
from trainables.interface import Trainable

__all__ = ["OpenSweep", "earlier_sweep", "is_stillborn", "open_sweep", "write_spec"]


@dataclass(frozen=True)
class OpenSweep:
    """What a sweep is recorded in.

    Attributes:
        study: Its study.
        journal: Its journal.
        tracker: Uploads the journal to MLflow.
        sweep: The sweep so far, as the journal has it.
    """

    study: Study
    journal: Journal
    tracker: Tracker
    sweep: SweepState


@contextlib.contextmanager
def open_sweep(
    spec: SweepSpec, trainable: Trainable, earlier: SweepState | None, taken: Taken | None = None
) -> Iterator[OpenSweep]:
    """Open the sweep's folder. A new folder in which no trial was recorded is deleted again at the end.

    Args:
        spec: The sweep.
        trainable: What its trials train.
        earlier: The sweep so far; None for a new one.
        taken: What it takes from earlier sweeps, if trials will be asked for. A new sweep stores it.
    """
    existed = spec.folder.exists()
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{spec.folder}: the sweep's folder cannot be created: {error.strerror}.") from error
    if earlier is None:
        _clear_remains(spec.folder)
    elif earlier.trials and not (spec.folder / STUDY).is_file():
        raise UserError(
            f"{spec.folder / STUDY} is missing, and with it the state of the search: a new study would "
            f"number its trials from 0 again. `sweeper results {spec.name}` still shows everything. Launch "
            "the rest under another name, e.g. with `name=...` after the space file."
        )
    ours = False
    try:
        defaults = {name: field.default for name, field in trainable.fields.items()}
        accept = partial(trainable.faults, workers=spec.resources.workers)
        finish = partial(trained_config, inference=spec.inference, trainable=trainable)
        with (
            Study(spec, accept=accept, finish=finish, defaults=defaults, taken=taken) as study,
            Journal(spec.folder / JOURNAL) as journal,
        ):
            ours = True
            if earlier is None and taken is not None and taken.sources:
                # Before the first event of the journal: whoever finds one finds this file, too.
                store_taken(spec.folder, taken)
            write_spec(spec.folder, spec.to_dict())
            sweep = SweepState(spec.folder) if earlier is None else earlier
            # Another driver may have run the sweep since it was read. From here on the lock keeps others out.
            update_sweep(sweep)
            tracker = Tracker(spec.folder, spec.tracking.uri, spec.tracking.experiment)
            yield OpenSweep(study, journal, tracker, sweep)
    finally:
        # If two drivers launch the same sweep, the second one must not delete the folder of the first.
        if ours and earlier is None:
            _delete_if_empty(spec.folder, whole=not existed)


def _clear_remains(folder: Path) -> None:
    """Delete what a driver left that was killed while it started: its databases may be incomplete."""
    with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=0):
        if is_stillborn(folder):
            for path in folder.iterdir():
                if path.name != LOCK:
                    path.unlink()


def _delete_if_empty(folder: Path, whole: bool) -> None:
    """Empty a folder in which no trial was recorded, unless another driver uses it by now."""
    with contextlib.suppress(Timeout), FileLock(folder / LOCK, timeout=0):
        if _has_begun(folder):
            return
        for path in sorted(folder.iterdir(), key=lambda path: path.name == LOCK):  # the lock comes last
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if whole:
        with contextlib.suppress(OSError):
            folder.rmdir()


def _has_begun(folder: Path) -> bool:
    try:
        return bool(read_sweep(folder).trials)
    except SweepNotFoundError:
        return False


def write_spec(folder: Path, spec: Mapping[str, Any]) -> None:
    """Write ``spec.yaml`` atomically, without passwords and tokens."""
    write_whole(folder / SPEC, masked(yaml.safe_dump(dict(spec), sort_keys=False, allow_unicode=True)))


def earlier_sweep(spec: SweepSpec) -> SweepState | None:
    """Read the sweep that an earlier driver left in the folder; None if there is nothing.

    Raises:
        SweepExistsError: If the folder contains something other than this sweep.
    """
    if not spec.folder.exists() or (spec.folder.is_dir() and not any(spec.folder.iterdir())):
        return None
    remedy = f"Give this one another name, e.g. `name={_free_name(spec)}` after the space file."
    if not spec.folder.is_dir():
        raise SweepExistsError(f"{spec.folder} exists already and is not a folder. {remedy}")
    try:
        earlier = read_sweep(spec.folder)
    except SweepNotFoundError:
        if is_stillborn(spec.folder):
            return None
        raise SweepExistsError(
            f"{spec.folder} exists already, is not empty, and does not contain a sweep. {remedy}"
        ) from None
    changed = differences(earlier.spec, spec.to_dict())
    if changed:
        trials = counted(earlier.ended_trials, "trial")
        what = (
            f" {changed[0]}." if len(changed) == 1 else "".join(f"\n  {change}" for change in changed) + "\n"
        )
        raise SweepExistsError(
            f"{spec.folder} contains another sweep named {spec.name} ({trials}):{what}"
            f"{' ' if len(changed) == 1 else ''}{remedy} `sweeper results {spec.name}` shows that sweep."
        )
    return earlier


def is_stillborn(folder: Path) -> bool:
    """Whether a folder contains nothing but what a driver creates before its sweep starts.

    A driver that was killed at that time leaves this behind. None of it is of use.
    """
    databases = {f"{name}{end}" for name in (STUDY, DATABASE) for end in ("", "-journal", "-wal", "-shm")}
    databases |= {f"{name}{end}" for name in TRACKERS for end in (".json", ".lock", ".log")}
    made = databases | {ALERTS, EARLIER, LOCK, DRIVER_LOG, JOURNAL, RESERVE, SPEC, STATE}
    names = {path.name.removesuffix(UNFINISHED) for path in folder.iterdir()}
    return names <= made and not read_journal(folder / JOURNAL).events


def _free_name(spec: SweepSpec) -> str:
    number = 2
    while (spec.folder.parent / f"{spec.name}-{number}").exists():
        number += 1
    return f"{spec.name}-{number}"
