"""The metadata files: totals, form, what else the table of episodes has, and files that do not belong."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from trainables.dataset.format.files import read_lines
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import (
    DATA_PATH_V2,
    DATA_PATH_V3,
    VIDEO_PATH_V2,
    VIDEO_PATH_V3,
)
from trainables.dataset.repair.log import RepairLog
from trainables.dataset.repair.recording import Recording

__all__ = ["extra_values", "final_info", "left_behind", "list_forms", "list_notes"]

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
    _note_partial(raw.get("total_episodes"), metadata, log)
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


def _note_partial(said: Any, metadata: Metadata, log: RepairLog) -> None:
    there = len(metadata.episodes) + len(metadata.empty)
    if isinstance(said, int) and not isinstance(said, bool) and said > there:
        log.remains(
            "totals",
            "note",
            INFO,
            f"total_episodes was {said:,}, and the table of episodes has {there:,}.",
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


def extra_values(metadata: Metadata, log: RepairLog) -> dict[int, dict[str, Any]]:
    """What the table of episodes has beside LeRobot's columns, by episode."""
    found: dict[int, dict[str, Any]] = {}
    texts: list[int] = []
    for row in _table_rows(metadata):
        own = row.get("episode_index")
        if isinstance(own, int):
            found[own] = {
                name: value
                for name, value in row.items()
                if name not in OURS and not name.startswith(OUR_PREFIXES)
            }
            if row.get("tasks") is not None and not isinstance(row["tasks"], list):
                texts.append(own)
    if texts:
        log.change(
            "tasks", "meta/episodes", "the tasks of episodes are not lists.", "Written as lists.", texts
        )
    return found


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
    """The files of the folder that are not part of the dataset; a hidden folder is named, not its files."""
    root = metadata.root
    taken = {path.resolve() for path in used}
    taken |= {(root / name).resolve() for name in metadata.files}
    taken |= {root.resolve() / "meta" / name for name in ("stats.json", "episodes_stats.jsonl")}
    found: dict[str, None] = {}
    for path in sorted(root.rglob("*")):
        if path.is_dir() or path.resolve() in taken:
            continue
        parts = path.relative_to(root).parts
        hidden = next((n for n, part in enumerate(parts[:-1]) if part.startswith(".")), None)
        found["/".join(parts) if hidden is None else "/".join(parts[: hidden + 1]) + "/"] = None
    return tuple(found)
