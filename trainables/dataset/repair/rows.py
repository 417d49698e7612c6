"""Decide which rows are an episode, and in which order.

Rows belong to the episode whose number they have; in v2.x to that of their file. If the numbers contradict
the table of episodes, the stretches of rows are the episodes if they have exactly the lengths of the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    return _EpisodeRows(record, found, rows, log).ordered(can_split)


class _EpisodeRows:
    """The rows of an episode, and what each column says of their order."""

    def __init__(
        self, record: EpisodeRecord, found: NDArray[np.int64], rows: DataRows, log: RepairLog
    ) -> None:
        self._record = record
        self._own = record.own
        self._place = np.arange(len(found))
        index, frame = (rows.columns[name][found] for name in ("index", "frame_index"))
        in_place = np.array_equal(frame, self._place)
        if not in_place and _distinct(index) and (np.diff(index) < 0).any():
            found = found[np.argsort(index, kind="stable")]
        self._rows = found
        self._index, self._frame, self._time_s = (
            rows.columns[name][found] for name in ("index", "frame_index", "timestamp")
        )
        self._log = log

    def ordered(self, can_split: bool) -> list[Recording]:
        frame, place = self._frame, self._place
        if np.array_equal(frame, place) or np.isnan(frame).all():
            return [self._recording()]
        if _ascends(frame):
            if frame[-1] - frame[0] == len(place) - 1:
                return [self._recording()]  # numbered from another frame on
            return [self._with_missing_frames()]
        if np.array_equal(np.sort(frame), place):
            return [self._shuffled()]
        starts = np.flatnonzero(np.diff(frame) < 0) + 1
        runs = np.split(place, starts)
        if len(starts) and all(_is_run(frame[run]) for run in runs):
            if np.array_equal(np.flatnonzero(np.diff(self._time_s) <= 0) + 1, starts):
                return self._recordings(runs, can_split)
        elif _ascends(self._time_s) or (_is_run(self._index) and _says_nothing(frame, self._time_s)):
            return [self._recording()]  # another column tells the order, the numbers are wrong
        return [self._uncertain("and the timestamps do not tell the order")]

    def _recording(self, order: NDArray[np.int64] | None = None) -> Recording:
        rows = self._rows if order is None else self._rows[order]
        return Recording(self._own, rows, self._place, self._record)

    def _as_it_is(self) -> Recording:
        frame = np.where(np.isfinite(self._frame), self._frame, self._place).astype(np.int64)
        return Recording(self._own, self._rows, frame, self._record)

    def _with_missing_frames(self) -> Recording:
        self._log.remains(
            "missing_frames",
            "warning",
            "frame_index",
            f"leaves out frames in episode {self._own}.",
            "The frames are lost; neighbouring rows are not 1 / fps apart. The numbers are kept.",
            "Leave the episode out with dataset.exclude_episodes, or record it again.",
            [self._own],
        )
        return self._as_it_is()

    def _shuffled(self) -> Recording:
        """Every frame number is there once, in another order."""
        order = np.argsort(self._frame, kind="stable")
        if _distinct(self._time_s) and np.array_equal(np.argsort(self._time_s, kind="stable"), order):
            problem = f"does not ascend in episode {self._own}; the timestamps agree with it."
            self._log.change(
                "frames_out_of_order", "frame_index", problem, "The rows are sorted.", [self._own]
            )
            return self._recording(order)
        if _ascends(self._time_s):
            return self._recording()
        return self._uncertain("and the timestamps say another order")

    def _recordings(self, runs: Sequence[NDArray[np.int64]], can_split: bool) -> list[Recording]:
        problem = f"begins again within episode {self._own}: it contains {len(runs)} recordings."
        if not can_split:
            self._log.remains(
                "several_recordings",
                "error",
                "frame_index",
                problem,
                "In v2.x each episode has a video of its own, and videos are not cut.",
                "Convert the dataset to v3.0 with LeRobot, and run the repair again.",
                [self._own],
            )
            return [self._as_it_is()]
        done = f"{len(runs)} episodes."
        self._log.change("several_recordings", "frame_index", problem, done, [self._own])
        return [
            Recording(self._own, self._rows[run], np.arange(len(run)), self._record, int(run[0]), whole=False)
            for run in runs
        ]

    def _uncertain(self, why: str) -> Recording:
        self._log.remains(
            "frames_out_of_order",
            "error",
            "frame_index",
            f"does not ascend in episode {self._own}, {why}.",
            "Several orders of the rows are possible.",
            "Leave the episode out with dataset.exclude_episodes, or convert the recording again.",
            [self._own],
        )
        return self._as_it_is()


def _ascends(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).all() and (np.diff(values) > 0).all())


def _distinct(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).all() and len(np.unique(values)) == len(values))


def _is_run(values: NDArray[np.float64]) -> bool:
    return bool((np.diff(values) == 1).all() and np.isfinite(values).all())


def _says_nothing(*columns: NDArray[np.float64]) -> bool:
    """Whether each column has one value only, or none."""
    return all(len(np.unique(column[np.isfinite(column)])) <= 1 for column in columns)


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
