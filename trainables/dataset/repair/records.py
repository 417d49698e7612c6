"""The metadata files: totals, form, what else the table of episodes has, and files that do not belong."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import find_parquet, read_lines
from trainables.dataset.format.info import Info
from trainables.dataset.format.metadata import Metadata, metadata_of
from trainables.dataset.format.schema import (
    DATA_PATH_V2,
    DATA_PATH_V3,
    EPISODES_PATH_V3,
    VIDEO_PATH_V2,
    VIDEO_PATH_V3,
)
from trainables.dataset.repair.log import RepairLog, in_episodes
from trainables.dataset.repair.recording import Recording

__all__ = [
    "extra_values",
    "final_info",
    "left_behind",
    "list_forms",
    "list_notes",
    "list_places",
    "read_described",
]

INFO = "meta/info.json"
OURS = ("episode_index", "tasks", "task", "task_index", "length")
OUR_PREFIXES = ("stats/", "videos/", "data/", "meta/", "dataset_")
BYTE_ORDER_MARKS = (b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff")
NOTES = {
    "template": "The copy has the files where LeRobot writes them.",
    "empty_places": "Filled in.",
    "empty_episodes": "Left out.",
    "copied_entries": "Listed once.",
}


def final_info(
    raw: Mapping[str, Any],
    metadata: Metadata,
    recordings: Sequence[Recording],
    tasks: Sequence[str],
    log: RepairLog,
) -> dict[str, Any]:
    """Make the copy's info.json, and list which totals were wrong.

    Args:
        raw: Content of the repaired info.json, with the original's totals.
        metadata: The original's metadata.
        recordings: The episodes of the copy.
        tasks: Its tasks.
        log: Receives the changes.
    """
    v3 = metadata.version == "v3.0"
    cameras = [name for name, feature in metadata.features.items() if feature.dtype == "video"]
    count, chunk = len(recordings), int(raw["chunks_size"])
    totals = {
        "total_episodes": count,
        "total_frames": sum(len(recording) for recording in recordings),
        "total_tasks": len(tasks),
    }
    if not v3:
        totals |= {"total_videos": count * len(cameras), "total_chunks": -(-count // chunk)}
    wrong = {name: (raw.get(name), true) for name, true in totals.items() if raw.get(name) != true}
    if wrong:
        problem = ", ".join(f"{name} {said}" for name, (said, _) in wrong.items())
        done = ", ".join(f"{name} {true:,}" for name, (_, true) in wrong.items())
        log.change("totals", INFO, f"{problem}.", f"Counted: {done}.")
    _note_partial(raw.get("total_episodes"), metadata, recordings, log)
    splits = _splits(raw.get("splits"), recordings)
    if splits != raw.get("splits"):
        log.change("splits", INFO, f"splits is {raw.get('splits')!r}.", f"Set to {splits}.")
    paths: dict[str, str | None] = {"data_path": DATA_PATH_V3 if v3 else DATA_PATH_V2}
    paths["video_path"] = (VIDEO_PATH_V3 if v3 else VIDEO_PATH_V2) if cameras else None
    for key, path in paths.items():
        said = raw.get(key)
        if said != path and not (key == "video_path" and path is None):
            log.change("template", INFO, f"{key} is {said!r}.", f"Set to {path!r}.")
    if not cameras and raw.get("video_path"):
        paths["video_path"] = raw["video_path"]
    return {**raw, **totals, "splits": splits, **paths}


def _note_partial(said: Any, metadata: Metadata, recordings: Sequence[Recording], log: RepairLog) -> None:
    known = {record.own for record in metadata.episodes} | {recording.origin for recording in recordings}
    there = len(known | set(metadata.empty))
    if isinstance(said, int) and not isinstance(said, bool) and said > there:
        log.remains(
            "totals",
            "note",
            INFO,
            f"total_episodes was {said:,}, and there are {there:,} episodes.",
            "Episodes that were never copied cannot be restored.",
            "Nothing if they were deleted on purpose. Otherwise fetch the dataset again.",
        )


def _splits(said: Any, recordings: Sequence[Recording]) -> dict[str, str]:
    """The splits of the copy: the original's, if they are still those of the same episodes."""
    count = len(recordings)
    same = [recording.origin for recording in recordings] == list(range(count))
    if same and isinstance(said, dict) and said:
        with suppress(ValueError, AttributeError):
            bounds = sorted(tuple(int(n) for n in text.split(":")) for text in said.values())
            stops = [bound[1] for bound in bounds]
            if [bound[0] for bound in bounds] == [0, *stops[:-1]] and stops[-1] == count:
                return dict(said)
    return {"train": f"0:{count}"}


def extra_values(metadata: Metadata, log: RepairLog, *, renumbered: bool) -> dict[int, dict[str, Any]]:
    """What the table of episodes has beside LeRobot's columns, by episode.

    Args:
        metadata: The dataset's metadata.
        log: Receives what is wrong with the tasks of the table.
        renumbered: Whether the episodes are counted in the order of the table.
    """
    found: dict[int, dict[str, Any]] = {}
    texts: list[int] = []
    for number, row in enumerate(_table_rows(metadata)):
        own = number if renumbered else row.get("episode_index")
        if isinstance(own, int):
            found[own] = {
                name: value
                for name, value in row.items()
                if name not in OURS and not name.startswith(OUR_PREFIXES)
            }
            if row.get("tasks") is not None and not isinstance(row["tasks"], list):
                texts.append(own)
    numbers = list(found)
    if metadata.version == "v3.0" and numbers != sorted(numbers):
        problem = "the table is not in the order of the episodes, and LeRobot finds them by their place."
        log.change("episodes_out_of_order", "meta/episodes", problem, "Sorted by episode.")
    if texts:
        log.change(
            "tasks", "meta/episodes", "the tasks of episodes are not lists.", "Written as lists.", texts
        )
    return found


def read_described(root: Path, info: Info, log: RepairLog) -> tuple[Metadata, bool]:
    """Read the metadata of a folder for a repaired info.json.

    Returns:
        The metadata, and whether its episodes were counted in the order of the table, because their numbers
        begin again. Then it is not certain yet that the rows are those of this table.

    Raises:
        DatasetError: If they cannot be read.
    """
    try:
        return metadata_of(root, info), False
    except DatasetError:
        tables = list(find_parquet(root, "meta/episodes", [EPISODES_PATH_V3]).used)
        numbers = [n for name in tables for n in _episode_numbers(root / name)]
        if info.version != "v3.0" or len(set(numbers)) == len(numbers):
            raise
    with tempfile.TemporaryDirectory() as folder:
        beside = Path(folder)
        start = 0
        for name in tables:
            table = pq.ParquetFile(root / name).read()
            place = table.column_names.index("episode_index")
            counted = pa.array(range(start, start + len(table)), pa.int64())
            (beside / name).parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(table.set_column(place, "episode_index", counted), beside / name)
            start += len(table)
        if (root / "meta" / "tasks.parquet").is_file():
            shutil.copyfile(root / "meta" / "tasks.parquet", beside / "meta" / "tasks.parquet")
        metadata = replace(metadata_of(beside, info), root=root)
    problem = "the numbers of the episodes begin again: datasets were merged without new numbers."
    log.change(
        "episode_index", "meta/episodes", problem, f"Numbered from 0 to {start - 1}, as the rows follow."
    )
    return metadata, True


def _episode_numbers(path: Path) -> list[Any]:
    try:
        numbers: list[Any] = pq.ParquetFile(path).read(columns=["episode_index"])["episode_index"].to_pylist()
    except (pa.ArrowException, OSError, KeyError):
        return []
    return numbers


def list_places(
    metadata: Metadata, recordings: Sequence[Recording], data: Sequence[str], log: RepairLog
) -> None:
    """List places of rows that are wrong in the table of episodes.

    Args:
        metadata: The original's metadata.
        recordings: The episodes of the copy.
        data: The data file of each recording in the original, relative to its folder.
        log: Receives what is wrong.
    """
    origins = [recording.origin for recording in recordings]
    if metadata.version != "v3.0" or origins != list(range(len(origins))):
        return  # the places change with the numbers, which is listed
    starts = np.cumsum([0, *(len(recording) for recording in recordings)]).tolist()
    wrong: list[int] = []
    for row in _table_rows(metadata):
        own = row.get("episode_index")
        if not isinstance(own, int) or not 0 <= own < len(origins):
            continue
        true = {"dataset_from_index": starts[own], "dataset_to_index": starts[own + 1]}
        place = re.fullmatch(r"data/chunk-(\d+)/file-(\d+)\.parquet", data[own])
        if place is not None:
            true |= {"data/chunk_index": int(place[1]), "data/file_index": int(place[2])}
        if recordings[own].whole and any(row.get(name) != value for name, value in true.items()):
            wrong.append(own)
    empty = [row["episode_index"] for row in _table_rows(metadata) if row.get("length") is None]
    if empty:
        log.change("length", "meta/episodes", f"{in_episodes(empty)}: no length.", "Counted.", empty)
    if wrong:
        problem = f"{in_episodes(wrong)}: dataset_from_index, dataset_to_index or the data file is wrong."
        log.change("row_places", "meta/episodes", problem, "Set to where the rows are.", wrong)


def _table_rows(metadata: Metadata) -> Iterable[dict[str, Any]]:
    for name in metadata.files:
        path = metadata.root / name
        if name == "meta/episodes.jsonl":
            yield from read_lines(path)
        elif name.startswith("meta/episodes/"):
            names = [n for n in pq.read_schema(path).names if not n.startswith("stats/")]
            yield from pq.ParquetFile(path).read(columns=names).to_pylist()


def list_forms(root: Path, log: RepairLog) -> None:
    """List files of JSON that LeRobot cannot read, or reads otherwise."""
    for path in sorted((root / "meta").glob("*.json*")):
        content = path.read_bytes()
        name = f"meta/{path.name}"
        if content.startswith(BYTE_ORDER_MARKS):
            log.change("form", name, "begins with a byte-order mark.", "Written as UTF-8 without one.")
        elif path.suffix == ".jsonl" and not _are_lines(content):
            log.change("form", name, "does not have one object a line.", "Written with one object a line.")


def _are_lines(content: bytes) -> bool:
    try:
        return all(isinstance(json.loads(line), dict) for line in content.split(b"\n") if line.strip())
    except ValueError:
        return False


def list_notes(metadata: Metadata, log: RepairLog) -> None:
    """List what was skipped or derived when the metadata were read."""
    for note in metadata.notes:
        if note.check in NOTES:
            where = Path(note.where)
            named = where.relative_to(metadata.root) if where.is_relative_to(metadata.root) else where
            log.change(note.check, named.as_posix(), note.problem, NOTES[note.check], note.episodes)
        elif note.check == "unlisted_videos":
            why = "Which rows they belong to is not known. They are not in the copy."
            log.remains(note.check, "note", note.where, note.problem, why, note.remedy)


def left_behind(metadata: Metadata, used: Iterable[Path]) -> tuple[str, ...]:
    """The files of the folder that do not belong to the dataset; a folder of such files is one entry."""
    root = metadata.root
    meta = ("stats.json", "episodes_stats.jsonl", "tasks.jsonl", "tasks.parquet")
    taken = {*used, *(root / name for name in metadata.files), *(root / "meta" / name for name in meta)}
    kept_folders = {folder for path in taken for folder in path.parents}
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*")):
        if path.is_dir() or path in taken:
            continue
        folder = next(
            (f for f in reversed(path.parents) if f.is_relative_to(root) and f not in kept_folders), None
        )
        name = path.relative_to(root).as_posix()
        found[name if folder is None else f"{folder.relative_to(root).as_posix()}/"] = None
    return tuple(found)
