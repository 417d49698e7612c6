"""The summary of a sweep: its state without the series of its trials, read quickly through an index.

The journal of a large sweep has hundreds of megabytes. The index is a file beside it. It contains the state
that the beginning of the journal leads to, so that only the rest of the journal needs to be read. Readers
use the index, and write it after they have read much. The driver of a sweep also writes it, while the sweep
runs and when it ends, so that the first reader does not have to read the whole journal.

The index also contains a digest of that beginning. It is used only if the journal still begins with the same
bytes and the index itself is whole; otherwise the whole journal is read. So the index never changes what a
reader shows, and it may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from sweeper.errors import SweepDamagedError, SweeperError, SweepNotFoundError, SweepNotStartedError
from sweeper.layout import INDEX, JOURNAL, UNFINISHED
from sweeper.records.events import (
    Check,
    is_driver,
    is_hours,
    is_info,
    is_mapping,
    is_mappings,
    is_names,
    is_path,
    is_text,
    is_texts,
    is_time,
    is_trial,
    is_whole,
    spec_fault,
)
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import (
    STRETCH_BYTES,
    SweepState,
    interned,
    not_a_sweep,
    update_sweep,
)
from sweeper.records.trial_state import TrialState

__all__ = ["NoSweep", "list_sweeps", "read_summary", "refresh_index"]

VERSION = 5
"""The version of the index. An index of another version is ignored, and replaced.

Raise it whenever `SweepState.apply` makes another state of the same events.
"""

WORTHWHILE_BYTES = 256 * 1024
"""An index is written if a reader had to read more than this, and more than a sixteenth of the journal."""

SPARE_BYTES = 1_000_000_000
"""An index is not written if the disk has less room than this: a running sweep needs it more."""

LEFT_BEHIND_S = 3600.0
"""An unfinished index of this age belongs to a reader that was killed."""


class Hash(Protocol):
    """A digest of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add some bytes."""

    def hexdigest(self) -> str:
        """The digest of the bytes so far."""


def read_summary(folder: Path) -> SweepState:
    """Read a sweep from its folder, without the series of its trials.

    Raises:
        SweepNotFoundError: If the folder does not contain a sweep.
        SweepDamagedError: If its journal contradicts itself; names the line.
    """
    digest = hashlib.sha256()
    sweep = _from_index(folder, digest)
    if sweep is None:
        sweep, digest = SweepState(folder, keeps_series=False), hashlib.sha256()
    known = sweep.offset
    update_sweep(sweep, digest)
    if not sweep.spec:
        raise not_a_sweep(folder)
    if sweep.offset - known > max(WORTHWHILE_BYTES, sweep.offset // 16):
        # If the folder is read-only or full, the next reader reads the journal again.
        with contextlib.suppress(OSError, ValueError, RecursionError):
            _write_index(sweep, digest.hexdigest())
    return sweep


def refresh_index(folder: Path) -> None:
    """Write the index of a sweep if it is missing or old. If that fails, readers read the journal."""
    with contextlib.suppress(SweeperError):
        read_summary(folder)


@dataclass(frozen=True)
class NoSweep:
    """A folder of a sweep that cannot be shown as one.

    Attributes:
        name: The name of the folder.
        status: ``damaged``, ``starting`` (its launch has not recorded anything yet) or ``not started`` (its
            launch ended before).
        message: What is wrong, and what to do.
    """

    name: str
    status: str
    message: str


def list_sweeps(folder: Path) -> tuple[list[SweepState], list[NoSweep]]:
    """The summaries of the sweeps in a folder.

    Returns:
        The sweeps, the last started first; and the folders of sweeps that are damaged or have not started.
        Other folders are skipped.

    Raises:
        SweepNotFoundError: If ``folder`` is not a folder.
    """
    if folder.exists() and not folder.is_dir():
        raise SweepNotFoundError(f"--sweeps: {folder} is not a folder.")
    sweeps, others = [], []
    for place in sorted(folder.glob("*/")):
        try:
            sweeps.append(read_summary(place))
        except SweepDamagedError as error:
            others.append(NoSweep(place.name, "damaged", str(error)))
        except SweepNotStartedError as error:
            status = "starting" if error.starting else "not started"
            others.append(NoSweep(place.name, status, str(error)))
        except SweepNotFoundError:
            continue
    return sorted(sweeps, key=lambda sweep: -sweep.started), others


def _from_index(folder: Path, digest: Hash) -> SweepState | None:
    """The state in the index; None if there is none, or if it does not belong to this journal and folder.

    Args:
        folder: The sweep's folder.
        digest: Receives the part of the journal that the state comes from.
    """
    try:
        with (folder / INDEX).open("rb") as file:
            head = json.loads(file.readline())
            if (head["version"], head["folder"]) != (VERSION, _place(folder)):
                return None
            if not _begins_with(folder / JOURNAL, head, digest):
                return None
            content = hashlib.sha256()
            sweep = _sweep_of(folder, _lines_of(file, content))
        whole = content.hexdigest() == head["content"] and sweep.offset == head["offset"]
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
    return sweep if whole else None


def _begins_with(path: Path, head: Mapping[str, Any], digest: Hash) -> bool:
    """Whether a journal begins with the bytes that an index was made from."""
    left = int(head["offset"])
    with path.open("rb") as file:
        while left > 0 and (data := file.read(min(left, STRETCH_BYTES))):
            digest.update(data)
            left -= len(data)
    return left == 0 and digest.hexdigest() == head["digest"]


def _lines_of(file: BinaryIO, content: Hash) -> Iterator[dict[str, Any]]:
    for line in file:
        content.update(line)
        yield json.loads(line)


def _sweep_of(folder: Path, lines: Iterator[dict[str, Any]]) -> SweepState:
    plain = next(lines, {})
    _check(plain, _SWEEP)
    if spec_fault(plain["spec"]):
        raise ValueError("`spec` is not a sweep")
    plain["status"] = SweepStatus(plain["status"])
    sweep = SweepState(folder, keeps_series=False, **plain)
    for line in lines:
        trial = _trial_of(line)
        sweep.trials[trial.number] = trial
    return sweep


def _trial_of(plain: dict[str, Any]) -> TrialState:
    _check(plain, _TRIAL)
    plain["status"] = TrialStatus(plain["status"])
    plain["config"] = interned(plain["config"])
    plain["at_last_step"] = set(plain["at_last_step"])
    plain["first"] = None if plain["first"] is None else tuple(plain["first"])
    return TrialState(**plain)


def _write_index(sweep: SweepState, digest: str) -> None:
    """Write the index of a sweep; other readers may do the same at the same time.

    Raises:
        OSError: If it cannot be written.
    """
    if shutil.disk_usage(sweep.folder).free < SPARE_BYTES:
        return
    _delete_remains(sweep.folder)
    lines = [_line({name: getattr(sweep, name) for name in _SWEEP})]
    lines += [_line({name: getattr(trial, name) for name in _TRIAL}) for trial in sweep.trials.values()]
    content = hashlib.sha256()
    for line in lines:
        content.update(line)
    head = {
        "version": VERSION,
        "folder": _place(sweep.folder),
        "offset": sweep.offset,
        "digest": digest,
        "content": content.hexdigest(),
    }
    number, beside = tempfile.mkstemp(UNFINISHED, f"{INDEX}.", sweep.folder)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(_line(head))
            file.writelines(lines)
            # Users who can read the journal can read its index, too.
            os.fchmod(number, (sweep.folder / JOURNAL).stat().st_mode & 0o666)
        Path(beside).replace(sweep.folder / INDEX)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def _line(plain: Mapping[str, Any]) -> bytes:
    return json.dumps(plain, default=sorted).encode() + b"\n"


def _delete_remains(folder: Path) -> None:
    """Delete the unfinished files of readers that were killed while they wrote an index."""
    for path in folder.glob(f"{INDEX}.*{UNFINISHED}"):
        if time.time() - path.stat().st_mtime > LEFT_BEHIND_S:
            path.unlink(missing_ok=True)


def _place(folder: Path) -> list[str]:
    """The parts of a state that depend on its folder: its name, and the beginning of paths."""
    return [folder.name, str(folder.absolute())]


def _check(plain: Mapping[str, Any], checks: Mapping[str, Check]) -> None:
    """Check a state like events: an index may come from an untrusted source, like a journal.

    Raises:
        ValueError: If it is not a state.
    """
    if plain.keys() != checks.keys():
        raise ValueError("these are not the fields of a state")
    for name, check in checks.items():
        if not check(plain[name]):
            raise ValueError(f"`{name}` has the wrong type")


def _is_seconds(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)


def _is_time_or_none(value: Any) -> bool:
    return value is None or is_time(value)


def _is_path_or_none(value: Any) -> bool:
    return value is None or is_path(value)


def _is_metrics(value: Any) -> bool:
    return isinstance(value, dict) and all(type(number) is float for number in value.values())


def _is_counts(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_whole, value.values()))


def _is_first(value: Any) -> bool:
    return value is None or (len(value) == 2 and is_time(value[0]) and is_whole(value[1]))


_SWEEP: Mapping[str, Check] = {
    "name": is_text,
    "sweep_id": is_text,
    "spec": is_mapping,
    "info": is_info,
    "driver": is_driver,
    "status": is_text,
    "message": is_text,
    "started": is_time,
    "ended": _is_time_or_none,
    "steered": is_text,
    "heard": is_time,
    "confirmation": is_mapping,
    "judgement": is_mapping,
    "held_after": is_hours,
    "offset": is_whole,
    "_events_read": is_whole,
    "_lines_read": is_whole,
    "_since": _is_time_or_none,
    "_ran_s": _is_seconds,
}
"""The fields of a sweep's state in the index, and how each is checked."""

_TRIAL: Mapping[str, Check] = {
    "number": is_trial,
    "values": is_mapping,
    "config": is_mapping,
    "started": is_time,
    "status": is_text,
    "reason": is_text,
    "message": is_text,
    "step": is_whole,
    "metrics": _is_metrics,
    "final": _is_metrics,
    "best": _is_metrics,
    "artifacts": is_names,
    "checkpoint": _is_path_or_none,
    "best_checkpoint": _is_path_or_none,
    "ended": _is_time_or_none,
    "needs": is_text,
    "retries": _is_counts,
    "changes": is_mapping,
    "dropped": is_texts,
    "at_last_step": is_texts,
    "first": _is_first,
    "setting": is_mapping,
    "untuned": _is_metrics,
    "tried": is_mappings,
    "confirmed": _is_metrics,
    "judged": _is_metrics,
    "origin": is_text,
    "node_types": is_texts,
    "_segment": is_time,
    "_ran_s": _is_seconds,
    "_ran_on": is_hours,
}
"""The fields of a trial's state in the index, and how each is checked."""
