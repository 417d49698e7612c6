"""Write the files of the copy: rows with their numbers, videos as they are, metadata."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.files import inside
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import (
    DATA_PATH_V2,
    DATA_PATH_V3,
    INDEX_FEATURES,
    VIDEO_PATH_V2,
    VIDEO_PATH_V3,
)
from trainables.dataset.format.write import (
    DATA_FILE_MB,
    MB,
    episode_row,
    hub_features,
    write_metadata_v2,
    write_metadata_v3,
)
from trainables.dataset.repair.evidence import PANDAS_INDEX
from trainables.dataset.repair.log import RepairLog
from trainables.dataset.repair.recording import DataRows, Recording
from trainables.dataset.statistics import Statistics

__all__ = ["CopyPlan", "check_columns", "list_pictures_beside", "write_copy"]

TELL_EVERY = 20
Progress = Callable[[str], None]


@dataclass(frozen=True)
class CopyPlan:
    """Everything that the copy will contain.

    Attributes:
        metadata: The original's metadata.
        info: Content of the copy's info.json.
        rows: The original's rows.
        recordings: The episodes of the copy, in their order.
        index: What ``numbering.index_columns`` gives.
        tasks: The tasks in the order of their numbers.
        statistics: Those of each recording.
        whole: Those over all of them.
        extras: What the original's table of episodes has beside LeRobot's columns, by episode.
    """

    metadata: Metadata
    info: Mapping[str, Any]
    rows: DataRows
    recordings: Sequence[Recording]
    index: Mapping[str, Sequence[NDArray[Any]]]
    tasks: Sequence[str]
    statistics: Sequence[Statistics]
    whole: Statistics
    extras: Mapping[int, Mapping[str, Any]]

    @property
    def is_v3(self) -> bool:
        """Whether files have several episodes."""
        return self.metadata.version == "v3.0"

    def data_size_b(self) -> int:
        """Size of the original's data files."""
        return sum(path.stat().st_size for path in self.rows.paths)

    def videos(self) -> dict[str, dict[Path, int]]:
        """For each camera its video files, in the order of the episodes, with their numbers in the copy."""
        found: dict[str, dict[Path, int]] = {}
        for recording in self.recordings:
            for camera, clip in recording.clips.items():
                files = found.setdefault(camera, {})
                files.setdefault(clip.path, len(files))
        return found


def write_copy(folder: Path, plan: CopyPlan, *, hard_links: bool, progress: Progress) -> None:
    """Write the copy into an empty folder.

    Raises:
        OSError: If it cannot be written.
    """
    places = _write_rows(folder, plan, progress)
    _copy_videos(folder, plan, hard_links, progress)
    if plan.is_v3:
        write_metadata_v3(folder, plan.info, plan.tasks, _episode_rows(plan, places), plan.whole)
        return
    episodes = [
        {**plan.extras.get(r.origin, {}), "episode_index": n, "tasks": list(r.tasks), "length": len(r)}
        for n, r in enumerate(plan.recordings)
    ]
    write_metadata_v2(folder, plan.info, plan.tasks, episodes, plan.statistics, plan.whole)


def _episode_rows(plan: CopyPlan, places: Sequence[int]) -> list[dict[str, Any]]:
    files = plan.videos()
    chunk = int(plan.info["chunks_size"])
    rows = []
    start = 0
    for number, recording in enumerate(plan.recordings):
        videos = {}
        for camera, clip in recording.clips.items():
            stop_s = clip.start_s + (int(recording.frame[-1]) + 1) / plan.metadata.fps
            videos[camera] = (*divmod(files[camera][clip.path], chunk), clip.start_s, stop_s)
        row = episode_row(
            number, recording.tasks, start, len(recording), divmod(places[number], chunk), videos,
            plan.statistics[number],
        )  # fmt: skip
        rows.append({**plan.extras.get(recording.origin, {}), **row})
        start += len(recording)
    return rows


# -- rows


def _write_rows(folder: Path, plan: CopyPlan, progress: Progress) -> list[int]:
    """Write the data files; returns the number of each recording's file."""
    source = _Source(plan)
    places: list[int] = []
    writer: Any = None
    path = folder
    last = -1
    try:
        for number, recording in enumerate(plan.recordings):
            if number % TELL_EVERY == 0:
                progress(f"rows of {number:,} of {len(plan.recordings):,} episodes")
            first = int(plan.rows.file_of(recording.rows[:1])[0])
            full = writer is not None and path.stat().st_size >= DATA_FILE_MB * MB
            if writer is None or not plan.is_v3 or first != last or full:
                if writer is not None:
                    writer.close()
                places.append(places[-1] + 1 if places else 0)
                path = folder / _data_path(plan, places[-1], number)
                path.parent.mkdir(parents=True, exist_ok=True)
                writer = pq.ParquetWriter(path, source.schema)
            else:
                places.append(places[-1])
            last = first
            writer.write_table(source.table(number, recording))
    finally:
        if writer is not None:
            writer.close()
    return places


def _data_path(plan: CopyPlan, file: int, episode: int) -> str:
    chunk, number = divmod(file, int(plan.info["chunks_size"]))
    if plan.is_v3:
        return DATA_PATH_V3.format(chunk_index=chunk, file_index=number)
    return DATA_PATH_V2.format(episode_chunk=episode // int(plan.info["chunks_size"]), episode_index=episode)


def check_columns(rows: DataRows) -> None:
    """Refuse data files that cannot be one table.

    Raises:
        DatasetError: If some have other columns than the first, or other types.
    """
    first, *others = (_own_columns(path) for path in rows.paths)
    for path, schema in zip(rows.paths[1:], others, strict=True):
        differing = sorted(set(first.names) ^ set(schema.names))
        if differing:
            name = differing[0]
            having, lacking = (rows.paths[0], path) if name in first.names else (path, rows.paths[0])
            problem = f"has no column {name!r}, and {having.parent.name}/{having.name} has it."
            remedy = "Delete the column in the other files, or convert the recordings again."
            raise dataset_error(str(lacking), problem, remedy)
        try:
            schema.empty_table().select(first.names).cast(first)
        except pa.ArrowException as error:
            problem = f"has columns of other types than the first data file: {str(error).rstrip('.')}."
            raise dataset_error(str(path), problem, "Convert the recordings again.") from error


def _own_columns(path: Path) -> Any:
    """The schema of a data file without the columns that every dataset has."""
    fields = [field for field in pq.read_schema(path) if field.name not in INDEX_FEATURES]
    return pa.schema([field for field in fields if not field.name.startswith(PANDAS_INDEX)])


class _Source:
    """The rows of the original, with the copy's numbers; holds one data file at a time."""

    def __init__(self, plan: CopyPlan) -> None:
        self._plan = plan
        self._open: tuple[int, Any] = (-1, None)
        first = pq.read_schema(plan.rows.paths[0])
        fields = list(_own_columns(plan.rows.paths[0]))
        types = {"timestamp": pa.float32()}
        fields += [pa.field(name, types.get(name, pa.int64())) for name in INDEX_FEATURES]
        self._others = [field.name for field in fields if field.name not in INDEX_FEATURES]
        self.schema = pa.schema(fields, metadata=_hub_metadata(first, [field.name for field in fields]))

    def table(self, number: int, recording: Recording) -> Any:
        """The rows of a recording."""
        file = self._plan.rows.file_of(recording.rows)
        parts = []
        # Rows of an episode that is in several files are taken in stretches, in their order.
        bounds = [0, *(np.flatnonzero(np.diff(file)) + 1).tolist(), len(file)]
        for start, stop in pairwise(bounds):
            rows = recording.rows[start:stop] - self._plan.rows.starts[file[start]]
            parts.append(self._file(int(file[start])).take(pa.array(rows)))
        table = pa.concat_tables(parts) if len(parts) > 1 else parts[0]
        arrays = [table[name] for name in self._others]
        arrays += [
            pa.array(self._plan.index[name][number], self.schema.field(name).type) for name in INDEX_FEATURES
        ]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _file(self, number: int) -> Any:
        if self._open[0] != number:
            path = self._plan.rows.paths[number]
            table = pq.ParquetFile(path).read()
            wanted = pa.schema([self.schema.field(name) for name in self._others])
            table = table.select(self._others).cast(wanted)
            self._open = (number, self._with_pictures(table))
        return self._open[1]

    def _with_pictures(self, table: Any) -> Any:
        """The same with pictures that are stored beside the data file inside of it, as LeRobot has them."""
        for name, feature in self._plan.metadata.features.items():
            if feature.dtype != "image" or name not in table.column_names:
                continue
            cells = table[name].to_pylist() if _beside(table[name]) else []
            if cells:
                embedded = [_embedded(cell, self._plan.metadata.root) for cell in cells]
                place = table.column_names.index(name)
                table = table.set_column(place, name, pa.array(embedded, table.schema.field(name).type))
        return table


def list_pictures_beside(metadata: Metadata, rows: DataRows, log: RepairLog) -> None:
    """List cameras whose pictures are files of their own beside the data files."""
    for name, feature in metadata.features.items():
        if feature.dtype == "image" and any(_may_be_beside(path, name) for path in rows.paths):
            problem = "pictures are files of their own, and LeRobot looks for them in the data files."
            log.change("pictures_beside", name, problem, "Stored in the data files.")


def _may_be_beside(path: Path, name: str) -> bool:
    """Whether a data file lacks the content of a picture; told by its footer if that has the number."""
    footer = pq.read_metadata(path)
    for group in range(footer.num_row_groups):
        for place in range(footer.num_columns):
            column = footer.row_group(group).column(place)
            if column.path_in_schema == f"{name}.bytes":
                counts = column.statistics
                if counts is None or not counts.has_null_count:
                    return _beside(pq.ParquetFile(path).read(columns=[name])[name])
                if counts.null_count:
                    return True
    return False


def _beside(column: Any) -> bool:
    """Whether some pictures of a column are files of their own."""
    if not pa.types.is_struct(column.type):
        return False
    return any(chunk.field("bytes").null_count for chunk in column.chunks)


def _embedded(cell: Any, root: Path) -> Any:
    if not isinstance(cell, dict) or cell.get("bytes") is not None or not cell.get("path"):
        return cell
    try:
        path = root / inside(cell["path"])
        return {**cell, "bytes": path.read_bytes()} if path.is_file() else cell
    except DatasetError:
        return cell


def _hub_metadata(schema: Any, names: Sequence[str]) -> dict[str, str] | None:
    """The note of the library ``datasets`` on the columns; None if it would not be that of the copy's."""
    try:
        described = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        described = {**described, **hub_features(INDEX_FEATURES)}
        ordered = {name: described[name] for name in names}
    except (KeyError, ValueError, TypeError):
        return None
    return {"huggingface": json.dumps({"info": {"features": ordered}})}


# -- videos


def _copy_videos(folder: Path, plan: CopyPlan, hard_links: bool, progress: Progress) -> None:
    chunk = int(plan.info["chunks_size"])
    if plan.is_v3:
        for camera, files in plan.videos().items():
            for path, number in files.items():
                progress(f"{camera}: video {number + 1:,} of {len(files):,}")
                where = dict(zip(("chunk_index", "file_index"), divmod(number, chunk), strict=True))
                _copy(path, folder / VIDEO_PATH_V3.format(video_key=camera, **where), hard_links)
        return
    for number, recording in enumerate(plan.recordings):
        if number % TELL_EVERY == 0:
            progress(f"videos of {number:,} of {len(plan.recordings):,} episodes")
        for camera, clip in recording.clips.items():
            name = VIDEO_PATH_V2.format(video_key=camera, episode_chunk=number // chunk, episode_index=number)
            _copy(clip.path, folder / name, hard_links)


def _copy(path: Path, to: Path, hard_link: bool) -> None:
    if not path.is_file():
        return  # it is missing in the original, which is among what remains
    to.parent.mkdir(parents=True, exist_ok=True)
    if hard_link:
        os.link(path.resolve(), to)
    else:
        shutil.copyfile(path, to)
