"""Decide which rows are an episode, and in which order.

Rows belong to the episode whose number they have; in v2.x to that of their file. If the numbers contradict
the table of episodes, the stretches of rows are the episodes if they have exactly the lengths of the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.episodes import EpisodeRecord
from trainables.dataset.format.files import copied_from
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import INDEX_FEATURES
from trainables.dataset.format.tables import read_numbers
from trainables.dataset.repair.clips import place_unlisted
from trainables.dataset.repair.log import RepairLog, in_episodes
from trainables.dataset.repair.recording import DataRows, Recording

__all__ = ["find_recordings", "follows_table", "read_rows"]

TELLING = ("episode_index", "frame_index", "timestamp")
"""Columns that show where an episode begins."""
AGAIN = "Fetch the dataset again. The copy has the other episodes."


def read_rows(metadata: Metadata, log: RepairLog) -> DataRows:
    """Read the timestamps and numbers of all rows.

    Raises:
        DatasetError: If no data file can be read.
    """
    parts, paths = [], []
    for path in _paths(metadata, log):
        try:
            parts.append(read_numbers(path, list(INDEX_FEATURES)))
            paths.append(path)
        except DatasetError as error:
            fault = error.faults[0]
            name = path.relative_to(metadata.root).as_posix()
            why = "Its rows are lost, and are not in the copy."
            log.remains("unreadable_file", "error", name, fault.problem, why, fault.remedy)
    if not parts:
        raise dataset_error(str(metadata.root), "no data file can be read.", "Fetch the dataset again.")
    starts = np.cumsum([0, *(rows for rows, _ in parts)])
    nothing = {rows: np.full(rows, np.nan) for rows, _ in parts}
    columns = {
        name: np.concatenate([found.get(name, nothing[rows]) for rows, found in parts])
        for name in INDEX_FEATURES
    }
    everywhere = frozenset.intersection(*(frozenset(found) for _, found in parts))
    return DataRows(paths, starts, columns, everywhere)


def _paths(metadata: Metadata, log: RepairLog) -> list[Path]:
    if metadata.version != "v3.0":
        paths = [e.data for e in metadata.episodes if e.data and (metadata.root / e.data).exists()]
        listed = [metadata.root / path for path in dict.fromkeys(paths)]
        own = {record.own for record in metadata.episodes} | set(metadata.empty)
        found = sorted((metadata.root / "data").glob("chunk-*/episode_*.parquet"))
        return listed + [path for path in found if path not in listed and _number_in(path) not in {*own, -1}]
    used: list[str] = []
    for name in metadata.found_data().used:
        original = copied_from(metadata.root, name, used)
        if original is None:
            used.append(name)
        else:
            log.change(
                "copied_file",
                name,
                f"has the content of {original}.",
                "Left behind: its rows are there once.",
            )
    return [metadata.root / name for name in used]


def _number_in(path: Path) -> int:
    """The number of the episode in the name of a data file of v2.x; -1 if there is none."""
    digits = path.stem.removeprefix("episode_")
    return int(digits) if digits.isdecimal() else -1


def find_recordings(metadata: Metadata, rows: DataRows, log: RepairLog) -> list[Recording]:
    """Find the rows of each episode.

    Raises:
        DatasetError: If it is not certain which rows belong together.
    """
    owner = _owners(metadata, rows)
    # In v2.x each episode has a video file of its own, which is not cut.
    can_split = metadata.version == "v3.0" or not _cameras(metadata)
    by_episode = _by_episode(owner)
    lost: list[int] = []
    recordings: list[Recording] = []
    changed: dict[int, tuple[int, int]] = {}
    for record in metadata.episodes:
        found = by_episode.pop(record.own, np.empty(0, np.int64))
        if not len(found):
            lost.append(record.own)
            continue
        recordings += _ordered(record, found, rows, can_split, log)
        if len(found) != record.length:
            changed[record.own] = (record.length, len(found))
    _log_lengths(changed, log)
    if lost:
        problem = f"{in_episodes(lost)} {'has' if len(lost) == 1 else 'have'} no rows in the data files."
        why = "They are lost or were not copied. They are not in the copy."
        log.remains("lost_episodes", "error", "data", problem, why, AGAIN, lost)
    recordings += _unlisted(metadata, by_episode, rows, log)
    if not recordings:
        raise dataset_error(str(metadata.root), "no episode has rows.", "Fetch the dataset again.")
    return sorted(recordings, key=lambda recording: (recording.origin, recording.first))


def _log_lengths(changed: Mapping[int, tuple[int, int]], log: RepairLog) -> None:
    if not changed:
        return
    first, (said, true) = next(iter(changed.items()))
    problem = (
        f"{in_episodes(list(changed))}: another length than the rows; episode {first} has {said}, "
        f"there are {true}."
    )
    log.change("length", "meta/episodes", problem, "Set to the number of rows.", changed)


def _by_episode(owner: NDArray[np.int64]) -> dict[int, NDArray[np.int64]]:
    order = np.argsort(owner, kind="stable")
    numbers, firsts = np.unique(owner[order], return_index=True)
    parts = np.split(order, firsts[1:])
    return {int(number): part for number, part in zip(numbers, parts, strict=True) if number >= 0}


def _owners(metadata: Metadata, rows: DataRows) -> NDArray[np.int64]:
    """The episode of each row, by the original's numbers."""
    said = rows.columns["episode_index"]
    number = np.where(np.isfinite(said), said, -1).astype(np.int64)
    if metadata.version != "v3.0":
        single: dict[Path, list[int]] = {}
        for record in metadata.episodes:
            if record.data is not None:
                single.setdefault(metadata.root / record.data, []).append(record.own)
        for place, path in enumerate(rows.paths):
            owners = single.get(path, [_number_in(path)])
            if len(owners) == 1:
                number[rows.starts[place] : rows.starts[place + 1]] = owners[0]
        return number
    expected = {record.own: record.length for record in metadata.episodes}
    found = dict(zip(*(v.tolist() for v in np.unique(number, return_counts=True)), strict=True))
    if found == expected:
        return number
    runs = _runs(rows, number)
    if len(runs) == 1 and len(rows) == sum(expected.values()) and not set(TELLING) & rows.everywhere:
        # Only the order of the rows is left, and they are exactly as many as the table says.
        return np.repeat(list(expected), list(expected.values()))
    if follows_table(metadata, rows):
        for own, (start, stop) in zip(expected, runs, strict=True):
            number[start:stop] = own
        return number
    several = _in_several_files(rows, number)
    if several or "episode_index" not in rows.everywhere:
        what = f"{in_episodes(several)} are in several files" if several else "rows have no episode_index"
        raise dataset_error(
            "data",
            f"{what}, and the stretches of rows do not have the lengths of the table of episodes "
            f"({len(runs)} stretches, {len(expected)} episodes).",
            "Datasets were merged without new numbers. Give each episode a number of its own in the data and "
            "in meta/, or merge the original datasets again.",
        )
    return number


def follows_table(metadata: Metadata, rows: DataRows) -> bool:
    """Whether the stretches of rows have exactly the lengths of the table of episodes, in its order."""
    said = rows.columns["episode_index"]
    runs = _runs(rows, np.where(np.isfinite(said), said, -1).astype(np.int64))
    return [stop - start for start, stop in runs] == [record.length for record in metadata.episodes]


def _runs(rows: DataRows, number: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Stretches of rows that can be an episode: the number stays, frames and files do not begin again."""
    new = np.zeros(len(rows), bool)
    new[rows.starts[:-1][rows.starts[:-1] < len(rows)]] = True
    new[1:] |= np.diff(number) != 0
    for name in TELLING[1:]:
        new[1:] |= np.diff(rows.columns[name]) < 0  # NaN is not less
    bounds = [*np.flatnonzero(new).tolist(), len(rows)]
    return list(pairwise(bounds))


def _in_several_files(rows: DataRows, number: NDArray[np.int64]) -> list[int]:
    """Episodes of which several files have the same frames."""
    file = rows.file_of(np.arange(len(rows)))
    frame = rows.columns["frame_index"]
    several = []
    for own, found in _by_episode(number).items():
        if len(np.unique(file[found])) > 1 and len(np.unique(frame[found])) < len(found):
            several.append(own)
    return several


# -- the order of the rows of an episode


def _ordered(
    record: EpisodeRecord, found: NDArray[np.int64], rows: DataRows, can_split: bool, log: RepairLog
) -> list[Recording]:
    """The rows of an episode in their order; several recordings if the frames begin again."""
    own, count = record.own, len(found)
    index, frame, time_s = (rows.columns[name][found] for name in ("index", "frame_index", "timestamp"))
    if np.isfinite(index).all() and len(np.unique(index)) == count and (np.diff(index) < 0).any():
        order = np.argsort(index, kind="stable")
        found, frame, time_s = found[order], frame[order], time_s[order]
    place = np.arange(count)
    ascending_times = np.isfinite(time_s).all() and bool((np.diff(time_s) > 0).all())
    if np.array_equal(frame, place) or np.isnan(frame).all():
        return [Recording(own, found, place, record)]
    if np.isfinite(frame).all() and bool((np.diff(frame) > 0).all()):
        if frame[-1] - frame[0] == count - 1:
            return [Recording(own, found, place, record)]  # numbered from another frame on
        log.remains(
            "missing_frames",
            "warning",
            "frame_index",
            f"leaves out frames in episode {own}.",
            "The frames are lost; neighbouring rows are not 1 / fps apart. The numbers are kept.",
            "Leave the episode out with dataset.exclude_episodes, or record it again.",
            [own],
        )
        return [Recording(own, found, frame.astype(np.int64), record)]
    if np.array_equal(np.sort(frame), place):
        return [_shuffled(record, found, frame, time_s, log)]
    starts = np.flatnonzero(np.diff(frame) < 0) + 1
    runs = np.split(place, starts)
    if len(starts) and all(np.array_equal(frame[run] - frame[run[0]], np.arange(len(run))) for run in runs):
        back = np.flatnonzero(np.diff(time_s) <= 0) + 1
        if np.array_equal(back, starts) and not can_split:
            log.remains(
                "several_recordings",
                "error",
                "frame_index",
                f"begins again within episode {own}: it contains {len(runs)} recordings.",
                "In v2.x each episode has a video of its own, and videos are not cut.",
                "Convert the dataset to v3.0 with LeRobot, and run the repair again.",
                [own],
            )
            return [Recording(own, found, frame.astype(np.int64), record)]
        if np.array_equal(back, starts):
            problem = f"begins again within episode {own}: it contains {len(runs)} recordings."
            log.change("several_recordings", "frame_index", problem, f"{len(runs)} episodes.", [own])
            return [
                Recording(own, found[run], np.arange(len(run)), record, int(run[0]), whole=False)
                for run in runs
            ]
    elif ascending_times:
        return [Recording(own, found, place, record)]  # the times tell the order, the numbers are wrong
    log.remains(
        "frames_out_of_order",
        "error",
        "frame_index",
        f"does not ascend in episode {own}, and the timestamps do not tell the order.",
        "Several orders of the rows are possible.",
        "Leave the episode out with dataset.exclude_episodes, or convert the recording again.",
        [own],
    )
    kept = np.where(np.isfinite(frame), frame, place).astype(np.int64)
    return [Recording(own, found, kept, record)]


def _shuffled(
    record: EpisodeRecord,
    found: NDArray[np.int64],
    frame: NDArray[np.float64],
    time_s: NDArray[np.float64],
    log: RepairLog,
) -> Recording:
    """An episode in which every frame number is there once, in another order."""
    place, order = np.arange(len(found)), np.argsort(frame, kind="stable")
    times_known = np.isfinite(time_s).all() and len(np.unique(time_s)) == len(time_s)
    if times_known and np.array_equal(np.argsort(time_s, kind="stable"), order):
        problem = f"does not ascend in episode {record.own}; the timestamps agree with it."
        log.change("frames_out_of_order", "frame_index", problem, "The rows are sorted.", [record.own])
        return Recording(record.own, found[order], place, record)
    if times_known and bool((np.diff(time_s) > 0).all()):
        return Recording(record.own, found, place, record)
    log.remains(
        "frames_out_of_order",
        "error",
        "frame_index",
        f"does not ascend in episode {record.own}, and the timestamps say another order.",
        "Several orders of the rows are possible.",
        "Leave the episode out with dataset.exclude_episodes, or convert the recording again.",
        [record.own],
    )
    return Recording(record.own, found, frame.astype(np.int64), record)


def _cameras(metadata: Metadata) -> list[str]:
    return [name for name, feature in metadata.features.items() if feature.dtype == "video"]


def _unlisted(
    metadata: Metadata, others: Mapping[int, NDArray[np.int64]], rows: DataRows, log: RepairLog
) -> list[Recording]:
    """Episodes that have rows and that the table does not list."""
    if not others:
        return []
    lengths = {own: len(found) for own, found in sorted(others.items())}
    records = place_unlisted(metadata, lengths)
    placeless = [own for own in lengths if own not in records]
    listed = list(records)
    if placeless:
        log.remains(
            "unlisted_episodes",
            "warning",
            "meta/episodes",
            f"{in_episodes(placeless)}: there are rows of them, and the table does not list them.",
            "Which frames are theirs is not certain. They are not in the copy.",
            "Add them to the table with the places of their videos, and run the repair again.",
            placeless,
        )
    if listed:
        problem = f"{in_episodes(listed)}: there are rows of them, and the table does not list them."
        log.change("unlisted_episodes", "meta/episodes", problem, "Listed.", listed)
    return [one for own, record in records.items() for one in _ordered(record, others[own], rows, True, log)]
