"""Read the table of episodes: v3.0 (parquet) and v2.1, v2.0 (JSON lines).

What the metadata says of the place of an episode's rows is not kept for v3.0: sets that LeRobot 0.4 converted
have wrong numbers there, so rows are found by their ``episode_index`` instead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.files import (
    copied_from,
    fetch_remedy,
    find_parquet,
    foreign_content,
    listed,
    read_lines,
)
from trainables.dataset.format.info import Info, whole_number
from trainables.dataset.format.schema import EPISODES_PATH_V3
from trainables.interface import Fault, Finding

__all__ = ["EpisodeRecord", "EpisodeTable", "VideoPlace", "read_episodes", "record_v2", "skipped_note"]

_T = TypeVar("_T")

AGAIN = "Copy or fetch the dataset again."
PLACE = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")


@dataclass(frozen=True)
class VideoPlace:
    """Where an episode's frames of one camera are.

    Attributes:
        path: The file, relative to the dataset's folder.
        start_s: Time in the file at which the episode starts; NaN if the metadata do not say.
        others: Places to look at if the file is not there.
        stop_s: Time in the file at which it ends; NaN if the metadata do not say.
    """

    path: str
    start_s: float
    others: tuple[str, ...] = ()
    stop_s: float = math.nan


@dataclass(frozen=True)
class EpisodeRecord:
    """One episode as the metadata has it.

    Attributes:
        index: Its number in the opened dataset.
        length: Frames.
        tasks: What is done in it, in words.
        data: Its data file relative to the dataset's folder (v2.x); None in v3.0.
        videos: Where each camera's frames are; a camera without a place is left out.
        before: Numbers that the datasets opened before this one take up; 0 for the first, or the only one.
        other_data: Places to look at if the data file is not there.
    """

    index: int
    length: int
    tasks: tuple[str, ...]
    data: str | None = None
    videos: Mapping[str, VideoPlace] = field(default_factory=dict)
    before: int = 0
    other_data: tuple[str, ...] = ()

    @property
    def own(self) -> int:
        """Its number in its own files."""
        return self.index - self.before


@dataclass(frozen=True)
class EpisodeTable:
    """The episodes of a dataset, and its tasks.

    Attributes:
        records: The episodes that have frames, by ascending index.
        tasks: Text of each task by its number.
        ambiguous: The texts of each number that has several.
        empty: Numbers of the episodes without frames.
        files: The metadata files that were read, relative to the folder.
        notes: What was skipped or derived.
    """

    records: tuple[EpisodeRecord, ...]
    tasks: Mapping[int, str]
    ambiguous: Mapping[int, tuple[str, ...]]
    empty: tuple[int, ...]
    files: tuple[str, ...]
    notes: tuple[Finding, ...]


def read_episodes(root: Path, info: Info, tolerated: list[Fault] | None = None) -> EpisodeTable:
    """Read the episodes and tasks of a dataset.

    Args:
        root: The dataset's folder.
        info: What its info.json says.
        tolerated: Receives the faults of files and entries, which are then left out; None: they are raised.

    Raises:
        DatasetError: If a file is missing or cannot be read, or an episode cannot be what it says.
    """
    notes: list[Finding] = []
    reader = _read_v3 if info.version == "v3.0" else _read_v2
    read, texts, files = reader(root, info, notes, tolerated)
    records = _without_repeats(root, read, notes, tolerated)
    empty = tuple(sorted(record.index for record in records if not record.length))
    if empty:
        notes.append(_note("empty_episodes", "meta", f"episodes {listed(empty)} have no frames.", "note"))
    tasks: dict[int, str] = {}
    for number, text in texts:
        tasks.setdefault(number, text)
    every = {number: tuple(dict.fromkeys(t for n, t in texts if n == number)) for number in tasks}
    ambiguous = {number: found for number, found in every.items() if len(found) > 1}
    if ambiguous:
        number, found = next(iter(ambiguous.items()))
        problem = f"task {number} has several texts: {', '.join(map(repr, found))}."
        remedy = "Number the tasks without repeats, as the column task_index of the data does."
        notes.append(_note("ambiguous_tasks", "tasks", problem, "warning", remedy))
    kept = tuple(sorted((r for r in records if r.length), key=lambda record: record.index))
    return EpisodeTable(
        kept,
        {number: text for number, text in tasks.items() if number not in ambiguous},
        ambiguous,
        empty,
        tuple(files),
        tuple(notes),
    )


def _without_repeats(
    root: Path, records: Sequence[EpisodeRecord], notes: list[Finding], tolerated: list[Fault] | None
) -> Sequence[EpisodeRecord]:
    """Each episode once; the same episode with other values is refused, or the first one counts."""
    times = Counter(record.index for record in records)
    twice = sorted(index for index, count in times.items() if count > 1)
    if not twice:
        return records
    once = list(dict.fromkeys(_Comparable(record) for record in records))
    if len(once) > len(times):
        problem = f"episodes {listed(twice)} are listed more than once, with different values."
        fault = Fault(str(root / "meta"), problem, "Remove the entries that do not belong there.")
        if tolerated is None:
            raise DatasetError([fault])
        tolerated.append(fault)
        return list({record.index: record for record in reversed(records)}.values())
    problem = f"episodes {listed(twice)} are listed more than once, with the same values: a copy."
    notes.append(_note("copied_entries", "meta", problem, "note", "Remove the copy."))
    return [one.record for one in once]


class _Comparable:
    """An episode by its values; NaN, of a place without a time, equals itself."""

    def __init__(self, record: EpisodeRecord) -> None:
        self.record = record
        self._key = repr(record)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Comparable) and self._key == other._key


def _tried(read: Callable[[], _T], tolerated: list[Fault] | None) -> _T | None:
    """What is read; None if it cannot be and that is tolerated."""
    try:
        return read()
    except DatasetError as error:
        if tolerated is None:
            raise
        tolerated += error.faults
        return None


def _note(check: str, where: str, problem: str, severity: Any, remedy: str = "") -> Finding:
    return Finding(check, severity, where, problem, "", remedy)


def skipped_note(root: Path, skipped: Sequence[str], used: Sequence[str]) -> Finding:
    """The note on parquet files that do not belong to the dataset."""
    shown = []
    for name in skipped[:5]:
        original = copied_from(root, name, used)
        shown.append(name + (f" (a copy of {original})" if original else ""))
    more = f" and {len(skipped) - 5} more" if len(skipped) > 5 else ""
    return Finding(
        "skipped_files",
        "note",
        str(root),
        f"{'a file is' if len(skipped) == 1 else f'{len(skipped)} files are'} not used: "
        f"{', '.join(shown)}{more}.",
        "Only files with the names that LeRobot gives them are read. Other programs leave copies and hidden "
        "files in a dataset's folder.",
        "Delete them if they are not needed; rename them if they belong to the dataset.",
        files=tuple(str(root / name) for name in skipped),
    )


def _number(value: Any, what: str, path: Path) -> int:
    number = whole_number(value)
    if number is None:
        raise dataset_error(str(path), f"{what} is {value!r}.", "Expected a whole number of at least 0.")
    return number


def _texts(value: Any, tasks: Mapping[int, str]) -> tuple[str, ...]:
    """What is done in an episode: texts, or numbers of tasks; alone or in a list."""
    if value is None:
        return ()
    several = value if isinstance(value, (list, tuple)) else [value]
    found = []
    for one in several:
        number = whole_number(one) if not isinstance(one, str) else None
        if isinstance(one, str):
            found.append(one)
        elif number is not None and number in tasks:
            found.append(tasks[number])
        elif isinstance(one, Mapping) and isinstance(one.get("task"), str):
            found.append(one["task"])
    return tuple(found)


def _template_notes(info: Info, notes: list[Finding]) -> None:
    for template in (info.data, info.video):
        problem = template.problem()
        if problem:
            why = "The files are looked for where LeRobot writes them."
            notes.append(
                Finding("template", "warning", str(info.path), f"{problem}.", why, template.allowed())
            )


def nothing_recorded(root: Path, info: Info, missing: str) -> DatasetError:
    """The error if there is no table of episodes."""
    if info.total_episodes == 0:
        problem = f"nothing was recorded: info.json counts 0 episodes, and there is no {missing}."
        return dataset_error(str(root), problem, "Record episodes, or name another dataset.")
    other = "v2.1" if info.version == "v3.0" else "v3.0"
    if (root / "meta" / ("episodes.jsonl" if info.version == "v3.0" else "episodes")).exists():
        problem = f"there is no {missing}, but there are the files of {other}."
        return dataset_error(str(info.path), problem, f"Set codebase_version to {other!r}.")
    said = "" if info.total_episodes is None else f"; info.json counts {info.total_episodes} episodes"
    return dataset_error(str(root), f"there is no {missing}{said}.", AGAIN)


# -- v3.0


_Read = tuple[list[EpisodeRecord], list[tuple[int, str]], list[str]]


def _read_v3(root: Path, info: Info, notes: list[Finding], tolerated: list[Fault] | None) -> _Read:
    _template_notes(info, notes)
    found = find_parquet(root, "meta/episodes", [EPISODES_PATH_V3])
    if not found.used:
        error = nothing_recorded(root, info, "meta/episodes/*/*.parquet")
        if tolerated is None:
            raise error
        tolerated += error.faults
    if found.skipped:
        notes.append(skipped_note(root, found.skipped, found.used))
    tasks_file = root / "meta" / "tasks.parquet"
    texts = _tried(lambda: _tasks_v3(tasks_file), tolerated) or []
    tasks = dict(texts)
    records: list[EpisodeRecord] = []
    raw: list[dict[str, Any]] = []
    for path in [root / name for name in found.used]:
        for row in _tried(partial(_episode_rows, path, info.videos), tolerated) or []:
            record = _tried(partial(_episode_v3, row, tasks, path), tolerated)
            if record is not None:
                raw.append(row)
                records.append(record)
    videos = {camera: _places(camera, records, raw, info, notes) for camera in info.videos}
    for n, record in enumerate(records):
        there = {camera: place for camera, places in videos.items() if (place := places[n]) is not None}
        records[n] = replace(record, videos=there)
    return records, texts, [*found.used, *(["meta/tasks.parquet"] if tasks_file.exists() else [])]


def _table(path: Path, columns: Iterable[str] | None = None) -> Any:
    try:
        file = pq.ParquetFile(path)
        there = set(file.schema_arrow.names)
        # read_table would import pandas
        return file.read(columns=None if columns is None else [name for name in columns if name in there])
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        foreign = foreign_content(path)
        problem = foreign or f"cannot be read: {str(error).rstrip('.')}"
        raise dataset_error(str(path), f"{problem}.", fetch_remedy(foreign, AGAIN)) from error


def _episode_rows(path: Path, cameras: Sequence[str]) -> list[dict[str, Any]]:
    columns = ["episode_index", "tasks", "length", "dataset_from_index", "dataset_to_index"]
    for camera in cameras:
        columns += [f"videos/{camera}/{item}" for item in PLACE]
    # The columns of statistics, ten for each feature, are most of the file: they are not read.
    table = _table(path, columns)
    if "episode_index" not in table.column_names:
        raise dataset_error(str(path), "has no column episode_index.", AGAIN)
    try:
        rows: list[dict[str, Any]] = table.to_pylist()
    except UnicodeDecodeError as error:  # a text with damaged bytes
        raise dataset_error(str(path), f"cannot be read: {error}.", AGAIN) from error
    return rows


def _episode_v3(row: Mapping[str, Any], tasks: Mapping[int, str], path: Path) -> EpisodeRecord:
    index = _number(row["episode_index"], "episode_index", path)
    length = row.get("length")
    if length is None:
        first, stop = (whole_number(row.get(f"dataset_{end}_index")) for end in ("from", "to"))
        length = stop - first if first is not None and stop is not None and stop >= first else None
    return EpisodeRecord(
        index, _number(length, f"length of episode {index}", path), _texts(row.get("tasks"), tasks)
    )


def _places(
    camera: str,
    records: Sequence[EpisodeRecord],
    rows: Sequence[Mapping[str, Any]],
    info: Info,
    notes: list[Finding],
) -> list[VideoPlace | None]:
    """The place of each episode's frames; empty cells are derived if only one answer is possible."""
    found: list[tuple[int, int] | None] = []
    for row in rows:
        chunk, file = (whole_number(row.get(f"videos/{camera}/{item}")) for item in PLACE[:2])
        found.append(None if chunk is None or file is None else (chunk, file))
    listed_files = {place for place in found if place is not None}
    derived = [n for n, place in enumerate(found) if place is None]
    if not listed_files:
        # Without any place all frames can only be in the one file that there is.
        found = [(0, 0)] * len(found)
    else:
        order = sorted(range(len(records)), key=lambda n: records[n].index)
        for position, n in enumerate(order):
            if found[n] is None:
                before = next((found[m] for m in reversed(order[:position]) if found[m]), None)
                after = next((found[m] for m in order[position + 1 :] if found[m]), None)
                if len(listed_files) == 1 or (before is not None and before == after):
                    found[n] = before or after
    if derived:
        known = [records[n].index for n in derived if found[n] is not None]
        if known:
            problem = f"has no file number for {camera} in {_episodes(known)}; it was derived."
            remedy = f"Set the columns videos/{camera}/chunk_index and file_index."
            notes.append(_note("empty_places", "meta/episodes", problem, "warning", remedy))
    places: list[VideoPlace | None] = []
    for row, place in zip(rows, found, strict=True):
        if place is None:
            places.append(None)
            continue
        values = {"video_key": camera, "chunk_index": place[0], "file_index": place[1]}
        path, *others = info.video.fill(values)
        start_s, stop_s = (_seconds(row.get(f"videos/{camera}/{item}")) for item in PLACE[2:])
        places.append(VideoPlace(path, start_s, tuple(others), stop_s))
    return places


def _seconds(value: Any) -> float:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return math.nan
    return seconds if math.isfinite(seconds) else math.nan


def _episodes(indices: Sequence[int]) -> str:
    return f"episode {indices[0]}" if len(indices) == 1 else f"episodes {listed(sorted(indices))}"


def _tasks_v3(path: Path) -> list[tuple[int, str]]:
    if not path.exists():
        return []
    table = _table(path)
    texts = [name for name in table.column_names if name != "task_index"]
    if not texts or "task_index" not in table.column_names:
        return []
    # The text is the frame's index, so that its column has no name.
    named = "task" if "task" in texts else texts[0]
    pairs = zip(table["task_index"].to_pylist(), table[named].to_pylist(), strict=True)
    return [(_number(number, "task_index", path), str(text)) for number, text in pairs]


# -- v2.1 and v2.0


def _read_v2(root: Path, info: Info, notes: list[Finding], tolerated: list[Fault] | None) -> _Read:
    _template_notes(info, notes)
    path, tasks_file = root / "meta" / "episodes.jsonl", root / "meta" / "tasks.jsonl"
    rows: list[dict[str, Any]] = []
    if path.exists():
        rows = _tried(lambda: read_lines(path), tolerated) or []
    else:
        error = nothing_recorded(root, info, "meta/episodes.jsonl")
        if tolerated is None:
            raise error
        tolerated += error.faults
    texts = _tried(lambda: _tasks_v2(tasks_file), tolerated) or []
    tasks = dict(texts)
    read = [_tried(partial(_episode_v2, row, tasks, path, info), tolerated) for row in rows]
    records = [record for record in read if record is not None]
    return records, texts, ["meta/episodes.jsonl", *(["meta/tasks.jsonl"] if tasks_file.exists() else [])]


def _tasks_v2(path: Path) -> list[tuple[int, str]]:
    return [
        (_number(row["task_index"], "task_index", path), str(row["task"]))
        for row in (read_lines(path) if path.exists() else [])
        if "task_index" in row and "task" in row
    ]


def _episode_v2(row: Mapping[str, Any], tasks: Mapping[int, str], path: Path, info: Info) -> EpisodeRecord:
    index = _number(row.get("episode_index"), "episode_index of an episode", path)
    length = _number(row.get("length"), f"length of episode {index}", path)
    said = row.get("tasks", row.get("task"))
    if said is None and "task_index" in row:
        said = row["task_index"]
    return record_v2(index, length, _texts(said, tasks), info)


def record_v2(index: int, length: int, tasks: tuple[str, ...], info: Info) -> EpisodeRecord:
    """An episode of v2.1 or v2.0: where its files are follows from its number."""
    place = {"episode_index": index, "episode_chunk": index // info.chunk}
    # Some sets have all files in the first chunk, whatever the chunks' size.
    first = {"episode_index": index, "episode_chunk": 0}
    data, *others = dict.fromkeys([*info.data.fill(place), *info.data.fill(first)])
    videos = {}
    for camera in info.videos:
        every = [info.video.fill({**one, "video_key": camera}) for one in (place, first)]
        film, *elsewhere = dict.fromkeys([*every[0], *every[1]])
        videos[camera] = VideoPlace(film, 0.0, tuple(elsewhere))
    return EpisodeRecord(index, length, tasks, data, videos, other_data=tuple(others))
