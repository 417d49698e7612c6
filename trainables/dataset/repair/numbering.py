"""Tasks, timestamps and numbers of the copy's rows, beside those of the original."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.format.assign import EXACT_S, FLOAT32_STEPS
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import INDEX_FEATURES
from trainables.dataset.repair.log import RepairLog, in_episodes
from trainables.dataset.repair.recording import DataRows, Recording

__all__ = ["assign_tasks", "index_columns"]

LEAP_FRAMES = 3
"""A step of more than three frames is not the jitter of a clock: two frames or more may be missing."""
DONE = {
    "timestamp": "Set to frame_index / fps.",
    "frame_index": "Numbered from 0 in each episode.",
    "episode_index": "Numbered from 0 without gaps, as the table of episodes.",
    "index": "Numbered from 0 over all episodes.",
    "task_index": "Numbered as the table of tasks.",
}


def index_columns(
    rows: DataRows, recordings: Sequence[Recording], fps: float, *, keep_times: bool, log: RepairLog
) -> dict[str, list[NDArray[Any]]]:
    """Make the columns that say where a row is, and list what differs from the original.

    Args:
        rows: The original's rows.
        recordings: The episodes of the copy, in their order.
        fps: Frames per second.
        keep_times: Whether timestamps are kept because it is not certain what they should be.
        log: Receives the changes.

    Returns:
        For each column its values, (L,) for each recording.
    """
    columns: dict[str, list[NDArray[Any]]] = {name: [] for name in INDEX_FEATURES}
    start = 0
    for number, recording in enumerate(recordings):
        columns["timestamp"].append((recording.frame / fps).astype(np.float32))
        columns["frame_index"].append(recording.frame)
        columns["episode_index"].append(np.full(len(recording), number))
        columns["index"].append(start + np.arange(len(recording)))
        columns["task_index"].append(recording.task)
        start += len(recording)
    _list_renumbered(recordings, log)
    if (np.diff([recording.rows[0] for recording in recordings]) < 0).any():
        problem = "the rows of the episodes are not in the order of their numbers."
        log.change("episodes_out_of_order", "data", problem, "Sorted by episode.")
    absent = [name for name in INDEX_FEATURES if name not in rows.everywhere]
    if absent:
        problem = f"{', '.join(absent)}: not a column of every data file."
        log.change(
            "derived_columns", "data", problem, "Derived from the order of the rows and the frame rate."
        )
    for name, values in columns.items():
        if name in absent:
            continue
        before = [rows.columns[name][recording.rows] for recording in recordings]
        if name == "timestamp" and (keep_times or not _differing(name, before, values)):
            columns[name] = [np.array(part, np.float32) for part in before]
        elif any(recording.whole for recording in recordings):
            _list(name, recordings, before, values, log)
            if name == "timestamp":
                _list_leaps(recordings, before, fps, log)
    return columns


def _differing(
    name: str, before: Sequence[NDArray[np.float64]], after: Sequence[NDArray[Any]]
) -> list[tuple[int, int]]:
    """For each recording that differs its place, and the first row that does."""
    found = []
    for place, (old, new) in enumerate(zip(before, after, strict=True)):
        slack: Any = 0
        if name == "timestamp":
            slack = np.maximum(EXACT_S, FLOAT32_STEPS * np.spacing(new).astype(np.float64))
        off = ~(np.abs(old - new) <= slack)  # not ">": a number may be NaN
        if off.any():
            found.append((place, int(off.argmax())))
    return found


def _list(
    name: str,
    recordings: Sequence[Recording],
    before: Sequence[NDArray[np.float64]],
    after: Sequence[NDArray[Any]],
    log: RepairLog,
) -> None:
    found = [(place, row) for place, row in _differing(name, before, after) if recordings[place].whole]
    if not found:
        return
    place, row = found[0]
    episodes = sorted({recordings[place].origin for place, _ in found})
    problem = (
        f"wrong in {in_episodes(episodes)}: {before[place][row]:.6g} instead of {after[place][row]:.6g} "
        f"at episode {recordings[place].origin}, row {row}."
    )
    log.change("timestamps" if name == "timestamp" else name, name, problem, DONE[name], episodes)


def _list_leaps(
    recordings: Sequence[Recording], before: Sequence[NDArray[np.float64]], fps: float, log: RepairLog
) -> None:
    """List leaps of the original's timestamps, of which the copy shows nothing any more."""
    found = {}
    for recording, times_s in zip(recordings, before, strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):  # frame numbers that are not certain may repeat
            steps_s = np.diff(times_s) / np.diff(recording.frame)
        if (np.isfinite(steps_s) & (steps_s > LEAP_FRAMES / fps)).any():
            steps_s = np.where(np.isfinite(steps_s), steps_s, 0)
            found[recording.origin] = (int(steps_s.argmax()), float(steps_s.max()))
    if not found:
        return
    own, (row, leap_s) = max(found.items(), key=lambda item: item[1][1])
    log.remains(
        "timestamp_leaps",
        "warning",
        "timestamp",
        f"leaps in {in_episodes(list(found))}, most by {leap_s:.2f} s after row {row} of episode {own}.",
        "Frames may be missing there, which nothing can restore. In the copy all rows are 1 / fps apart.",
        "Look at the episodes (`sweeper data show`), and leave them out with dataset.exclude_episodes if "
        "the robot moved meanwhile.",
        found,
    )


def _list_renumbered(recordings: Sequence[Recording], log: RepairLog) -> None:
    moved = [(r.origin, number) for number, r in enumerate(recordings) if r.origin != number]
    if not moved:
        return
    shown = ", ".join(f"{one} → {two}" for one, two in moved[:10])
    more = f", … {len(moved):,} in all" if len(moved) > 10 else ""
    problem = "the episodes are not numbered from 0 without gaps."
    log.change(
        "missing_episodes", "episodes", problem, f"Renumbered: {shown}{more}.", [one for one, _ in moved]
    )


# -- tasks


def assign_tasks(
    metadata: Metadata, rows: DataRows, recordings: Sequence[Recording], log: RepairLog
) -> list[str]:
    """Give each recording its tasks.

    Returns:
        The texts in the order of their numbers.
    """
    texts: dict[str, int] = {}
    every = {number: (text,) for number, text in metadata.tasks.items()} | dict(metadata.ambiguous)
    for number in sorted(every):
        for text in every[number]:  # those of a number with several are kept for the user to choose from
            texts.setdefault(text, len(texts))
    unknown: list[int] = []
    contradictory: list[int] = []
    relisted: list[int] = []
    for recording in recordings:
        said = rows.columns["task_index"][recording.rows]
        numbers = np.where(np.isfinite(said), said, -1).astype(np.int64)
        own, where = np.unique(numbers, return_inverse=True)
        named = [_text(metadata, recording, int(number)) for number in own]
        if None in named:
            unknown.append(recording.origin)
        found = [text or "" for text in named]
        for text in found:
            texts.setdefault(text, len(texts))
        recording.task = np.array([texts[text] for text in found])[where]
        of_rows = tuple(dict.fromkeys(found[int(place)] for place in where))
        listed = recording.record.tasks
        if listed and not set(of_rows) <= set(listed) and None not in named:
            contradictory.append(recording.origin)
        recording.tasks = listed or of_rows
        for text in recording.tasks:
            texts.setdefault(text, len(texts))
        if not listed:
            relisted.append(recording.origin)
    _log_tasks(relisted, unknown, contradictory, log)
    _log_table(metadata, list(texts), log)
    return list(texts)


def _text(metadata: Metadata, recording: Recording, number: int) -> str | None:
    """The text of a row's number; that of the episode, if it has only one and the number tells nothing."""
    if number in metadata.tasks:
        return metadata.tasks[number]
    listed = recording.record.tasks
    possible = metadata.ambiguous.get(number)
    certain = len(listed) == 1 and (possible is None or listed[0] in possible)
    return listed[0] if certain else None


def _log_tasks(relisted: list[int], unknown: list[int], contradictory: list[int], log: RepairLog) -> None:
    named = sorted(set(relisted) - set(unknown))
    if named:
        problem = f"{in_episodes(named)}: no task is listed."
        log.change("tasks", "meta/episodes", problem, "Listed as their rows have it.", named)
    if unknown:
        log.remains(
            "unknown_tasks",
            "warning",
            "tasks",
            f"{in_episodes(sorted(set(unknown)))}: the task's number has no text, or several.",
            "What was done is not known. The text is empty in the copy.",
            "Write the text into the tasks of the copy's meta/.",
            unknown,
        )
    if contradictory:
        log.remains(
            "contradictory_tasks",
            "warning",
            "tasks",
            f"the rows of {in_episodes(sorted(set(contradictory)))} have another task than the table of "
            "episodes.",
            "Either of them may be right. Both are kept.",
            "Correct task_index in the data, or the tasks in meta/.",
            contradictory,
        )


def _log_table(metadata: Metadata, texts: list[str], log: RepairLog) -> None:
    if list(enumerate(texts)) == list(metadata.tasks.items()) and not metadata.ambiguous:
        return
    before = {**{n: repr(t) for n, t in metadata.tasks.items()}}
    before |= {n: " or ".join(map(repr, t)) for n, t in metadata.ambiguous.items()}
    said = ", ".join(f"{n}: {text}" for n, text in list(before.items())[:5]) or "there is none"
    now = ", ".join(f"{n}: {text!r}" for n, text in enumerate(texts[:5]))
    log.change(
        "tasks",
        "meta/tasks",
        f"the table of tasks is not numbered from 0 on in its order ({said}).",
        f"Numbered: {now}.",
    )
