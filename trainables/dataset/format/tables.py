"""Read the rows of a dataset's parquet files into arrays.

A row of the opened dataset is found by its ``episode_index``, and within the episode by its ``index``; the
places that the metadata gives are not trusted.
"""

from __future__ import annotations

import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.episodes import EpisodeRecord
from trainables.dataset.format.files import foreign_content, listed
from trainables.dataset.format.schema import INDEX_FEATURES, DatasetFeature
from trainables.interface import Fault
from trainables.ranges import compressed

__all__ = [
    "Rows",
    "Table",
    "available_cpus",
    "column_features",
    "column_values",
    "image_cells",
    "plain_column",
    "read_numbers",
    "read_table",
]

EPISODE = "episode_index"
IMAGE_ROWS_AT_ONCE = 64
NAMED_FILES = 3
"""So many of the files that cannot be read are named in a sentence."""
ARROW_FLOATS = {"halffloat": "float16", "float": "float32", "double": "float64"}
"""Arrow's names of floats in numpy's words; its names of integers are numpy's."""


@dataclass(frozen=True)
class Rows:
    """Which rows of one file belong to the opened dataset.

    Attributes:
        path: The parquet file.
        in_file: Row numbers in the file, (K,).
        in_dataset: Row numbers in the opened dataset, (K,).
    """

    path: Path
    in_file: NDArray[np.int64]
    in_dataset: NDArray[np.int64]


@dataclass(frozen=True)
class Table:
    """The rows of the chosen episodes: for each file which rows, and the columns that were asked for.

    ``numeric`` are the columns of numbers that every file has, ``other_episodes`` the numbers of episodes
    that have rows in the files and were not asked for.
    """

    files: tuple[Rows, ...] = ()
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    length: int = 0
    numeric: frozenset[str] = frozenset()
    other_episodes: frozenset[int] = frozenset()

    def take(self, name: str, feature: DatasetFeature) -> np.ndarray:
        """Hand over a column, (N, *shape); one that was not asked for before, or taken before, is read.

        Raises:
            DatasetError: If a file lacks it or holds something else there.
        """
        if name in self.columns:
            return self.columns.pop(name)
        parts = _each(self.files, lambda rows: _read_column(rows, name, feature))
        return _joined(parts, [rows.in_dataset for rows in self.files], self.length)


def available_cpus() -> int:
    """CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def read_table(
    paths: Sequence[Path],
    episodes: Sequence[EpisodeRecord],
    features: Mapping[str, DatasetFeature],
    names: Sequence[str],
    owners: Mapping[Path, int] | None = None,
) -> Table:
    """Find the rows of ``episodes`` in the files ``paths`` and read the columns ``names``.

    Of timestamps and numbers only those are read that every file has; ``owners`` are the episodes of the
    files that have the rows of one only.

    Rows are ordered by episode, as in ``episodes``, then by ``index``. Features and ``names`` are called as
    in the files. For a moment twice as much memory is needed as the columns take.

    Raises:
        DatasetError: If a file or a column cannot be read, or an episode has more or fewer rows than the
            metadata says.
    """
    wanted = np.array(sorted(record.own for record in episodes))
    # A file of v2.x has the rows of one episode, whether or not it has the column that says so.
    only = owners or {}
    tried = _each(paths, lambda path: _try_part(path, wanted, features, names, only.get(path)))
    parts = [part for part in tried if isinstance(part, _Part)]
    if len(parts) < len(tried):
        if _lost_episodes(tried, episodes) or not parts:
            raise _unreadable_files(paths, tried, episodes)
        # The chosen episodes are whole in the other files.
        paths = [path for path, part in zip(paths, tried, strict=True) if isinstance(part, _Part)]
    numeric = frozenset.intersection(*(part.numeric for part in parts))
    names = [name for name in names if name in numeric or name not in INDEX_FEATURES]
    file_number = np.concatenate([np.full(len(part.rows), number) for number, part in enumerate(parts)])
    in_file = np.concatenate([part.rows for part in parts])
    episode = np.concatenate([part.episode for part in parts])
    index = np.concatenate([part.index for part in parts])
    order = np.lexsort((in_file, file_number, index, episode))
    _check_lengths(paths, parts, episode, episodes)
    if not len(order):
        raise dataset_error("data", "the chosen episodes have no frames.", "Choose others.")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    files = tuple(
        Rows(path, part.rows, place[file_number == number])
        for number, (path, part) in enumerate(zip(paths, parts, strict=True))
        if len(part.rows)
    )
    filled = [part for part in parts if len(part.rows)]
    places = [rows.in_dataset for rows in files]
    # Column by column, and the parts of each are let go before the next: a large set must not be held twice.
    columns = {
        name: _joined([part.columns.pop(name) for part in filled], places, len(order)) for name in names
    }
    others = frozenset[int]().union(*(part.other_episodes for part in parts))
    return Table(files, columns, len(order), numeric, others)


def _joined(parts: Sequence[np.ndarray], places: Sequence[NDArray[np.int64]], length: int) -> np.ndarray:
    """Put the rows of several files in their places."""
    kind = np.result_type(*parts)
    whole = np.empty((length, *parts[0].shape[1:]), kind)
    for place, part in zip(places, parts, strict=True):
        whole[_stretch(place)] = part
    return whole


def _stretch(rows: NDArray[np.int64]) -> slice | NDArray[np.int64]:
    """Rows that follow each other, as they do in most files, as a slice: it copies ten times faster."""
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1 and (np.diff(rows) == 1).all():
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows


def _check_lengths(
    paths: Sequence[Path],
    parts: Sequence[_Part],
    episode: NDArray[np.int64],
    episodes: Sequence[EpisodeRecord],
) -> None:
    found = dict(zip(*(values.tolist() for values in np.unique(episode, return_counts=True)), strict=True))
    wrong = [record for record in episodes if found.get(record.own, 0) != record.length]
    if not wrong:
        return
    _check_repeats(paths, parts, [record for record in wrong if found.get(record.own, 0) > record.length])
    first = wrong[0]
    problem = f"episode {first.index} has {found.get(first.own, 0)} rows, the metadata says {first.length}"
    others = f" (such episodes: {listed([record.index for record in wrong])})"
    indices = [record.index for record in wrong]
    if len(wrong) == len(episodes):
        # Without any of them nothing is left: excluding is not a remedy.
        raise dataset_error("data", problem + others + ".", "Repair the data files, or fetch them again.")
    remedy = f"Repair the data files, or set dataset.exclude_episodes: {compressed(indices)}."
    raise dataset_error("data", problem + others + ".", remedy, indices)


def _check_repeats(paths: Sequence[Path], parts: Sequence[_Part], longer: Sequence[EpisodeRecord]) -> None:
    """Refuse files that repeat each other: copies, or datasets that were merged without new numbers."""
    own = {record.own: record.index for record in longer}
    owners: dict[int, list[int]] = {}
    for number, part in enumerate(parts):
        for one in np.unique(part.episode).tolist():
            if one in own:
                owners.setdefault(one, []).append(number)
    several = {one: numbers for one, numbers in owners.items() if len(numbers) > 1}
    if not several:
        return
    one, (first, second, *_) = next(iter(several.items()))
    named = f"{paths[second].parent.name}/{paths[second].name}"
    original = f"{paths[first].parent.name}/{paths[first].name}"
    indices = sorted(own[one] for one in several)
    if _same_rows(parts[first], parts[second], one):
        problem = f"{named} repeats rows of {original} (episodes {compressed(indices)}): it is a copy."
        raise dataset_error("data", problem, f"Delete the copy, {paths[second]}, or move it away.")
    problem = (
        f"episodes {compressed(indices)} are in several files with different rows: episode_index begins "
        f"again in {named}. Datasets were merged without new numbers."
    )
    remedy = (
        "Give each episode a number of its own in the data and in meta/, or name the datasets one by one: "
        "dataset.root: [a, b]."
    )
    raise dataset_error("data", problem, remedy)


def _same_rows(one: _Part, two: _Part, episode: int) -> bool:
    chosen = [np.flatnonzero(part.episode == episode) for part in (one, two)]
    if len(chosen[0]) != len(chosen[1]):
        return False
    return all(
        np.array_equal(values[chosen[0]], two.columns[name][chosen[1]], equal_nan=values.dtype.kind == "f")
        for name, values in one.columns.items()
    )


def _lost_episodes(tried: Sequence[_Part | DatasetError], episodes: Sequence[EpisodeRecord]) -> list[int]:
    """Episodes that do not have all of their rows in the files that can be read."""
    there: Counter[int] = Counter()
    for part in tried:
        if isinstance(part, _Part):
            there.update(part.episode.tolist())
    return [record.index for record in episodes if there[record.own] != record.length]


def _unreadable_files(
    paths: Sequence[Path],
    tried: Sequence[_Part | DatasetError],
    episodes: Sequence[EpisodeRecord],
) -> DatasetError:
    """The error for all files that cannot be read: a fault for each kind of damage, with its files."""
    failed = [(path, part) for path, part in zip(paths, tried, strict=True) if isinstance(part, DatasetError)]
    if len(paths) == 1:
        return DatasetError([replace(fault, files=(str(paths[0]),)) for fault in failed[0][1].faults])
    lost = _lost_episodes(tried, episodes)
    if len(lost) == len(episodes):
        lost = []
    leave_out = f", or set dataset.exclude_episodes: {compressed(lost)}." if lost else ""
    by_kind: dict[str, list[tuple[Path, Fault]]] = {}
    for path, error in failed:
        kind = re.sub(r"\d+", "0", error.faults[0].problem)  # places in a file are not another kind
        by_kind.setdefault(kind, []).append((path, error.faults[0]))
    faults = []
    for those in by_kind.values():
        problem = those[0][1].problem
        if len(those) > 1:
            names = ", ".join(path.name for path, _ in those[:NAMED_FILES])
            problem = f"{len(those):,} of {len(paths):,} data files cannot be used ({names}): each {problem}"
        remedy = those[0][1].remedy
        remedy = f"{remedy.rstrip('.')}{leave_out}" if remedy and leave_out else remedy
        files = tuple(str(path) for path, _ in those)
        faults.append(Fault(files[0], problem, remedy, tuple(lost), files))
    return DatasetError(faults)


@dataclass(frozen=True)
class _Part:
    rows: NDArray[np.int64]
    episode: NDArray[np.int64]
    index: NDArray[np.int64]
    columns: dict[str, np.ndarray]
    numeric: frozenset[str]
    other_episodes: frozenset[int]


def _try_part(
    path: Path,
    wanted: NDArray[np.int64],
    features: Mapping[str, DatasetFeature],
    names: Sequence[str],
    only: int | None,
) -> _Part | DatasetError:
    try:
        return _read_part(path, wanted, features, names, only)
    except DatasetError as error:
        return error


def _read_part(
    path: Path,
    wanted: NDArray[np.int64],
    features: Mapping[str, DatasetFeature],
    names: Sequence[str],
    only: int | None,
) -> _Part:
    table, numeric = _open(path, [EPISODE, "index", *names])
    # Times as dates, numbers as texts or with gaps are as good as missing: they are derived.
    names = [name for name in names if name in numeric or name not in INDEX_FEATURES]
    if EPISODE in table.column_names:
        episode = column_values(path, EPISODE, table[EPISODE], DatasetFeature("int64", (1,)))
    elif only is not None:
        episode = np.full((table.num_rows, 1), only)
    else:
        raise dataset_error(str(path), f"has no column {EPISODE!r}.", "Every LeRobot data file has one.")
    chosen = np.isin(episode, wanted).reshape(-1)
    rows = np.flatnonzero(chosen)
    if "index" in numeric:
        index = column_values(path, "index", table["index"], DatasetFeature("int64", (1,)))
    else:
        index = np.arange(len(episode))
    stretch = _stretch(rows)
    # Copies, so that the file's own table, of which they may be views, is let go.
    columns = {name: np.array(_pick(path, table, name, features[name])[stretch]) for name in names}
    others = _different(episode.reshape(-1)[~chosen])
    return _Part(rows, episode[rows].reshape(-1), index[rows].reshape(-1), columns, numeric, others)


def _different(numbers: np.ndarray) -> frozenset[int]:
    """The different numbers of a column that mostly repeats the number before; those from 0 on."""
    starts = np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1))
    return frozenset(int(number) for number in np.unique(numbers[starts]) if 0 <= number < np.inf)


def _read_column(rows: Rows, name: str, feature: DatasetFeature) -> np.ndarray:
    values = _pick(rows.path, _open(rows.path, [name])[0], name, feature)
    if rows.in_file.max() >= len(values):
        problem = f"has {len(values)} rows, it had more when the dataset was opened."
        raise dataset_error(str(rows.path), problem, "Open the dataset again.")
    return values[_stretch(rows.in_file)]


def _open(path: Path, names: Sequence[str]) -> tuple[Any, frozenset[str]]:
    """Read some columns, as far as they are there; and the names of all columns of numbers."""
    try:
        file = pq.ParquetFile(path)
        numeric = frozenset(column.name for column in file.schema_arrow if _holds_numbers(column.type))
        there = Counter(file.schema_arrow.names)
        twice = [name for name in names if there[name] > 1]
        if twice:
            remedy = "Delete the one that does not belong there, and write the file again."
            raise dataset_error(str(path), f"has {there[twice[0]]} columns {twice[0]!r}.", remedy)
        table = file.read(columns=[name for name in dict.fromkeys(names) if name in there])
        return table, numeric - {name for name in table.column_names if _has_gaps(name, table[name])}
    except FileNotFoundError as error:
        raise dataset_error(str(path), "the data file is missing.", "Fetch the dataset again.") from error
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _has_gaps(name: str, column: Any) -> bool:
    """Whether a column of whole numbers that say where a frame is has empty cells."""
    return name in INDEX_FEATURES and bool(column.null_count) and not pa.types.is_floating(column.type)


def _holds_numbers(kind: Any) -> bool:
    while _is_list(kind):
        kind = kind.value_type
    if isinstance(kind, pa.ExtensionType):
        return _holds_numbers(kind.storage_type)
    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _unreadable(path: Path, error: Exception) -> DatasetError:
    foreign = foreign_content(path)
    if foreign:
        return dataset_error(str(path), f"{foreign}.", "Fetch the dataset again.")
    reason = str(error).rstrip(".")
    return dataset_error(str(path), f"cannot be read: {reason}.", "Fetch the dataset again.")


def read_numbers(path: Path, names: Sequence[str]) -> tuple[int, dict[str, np.ndarray]]:
    """Read columns of single numbers, as far as a file has them.

    Returns:
        How many rows the file has, and the columns by name, float64 (N,). An empty cell is NaN.

    Raises:
        DatasetError: If the file cannot be read, or a column is not one of single numbers.
    """
    try:
        rows = pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error
    table, _ = _open(path, names)
    return rows, {name: _single_numbers(path, name, table[name]) for name in table.column_names}


def _single_numbers(path: Path, name: str, column: Any) -> NDArray[np.float64]:
    values = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    while _is_list(values.type):
        values = values.flatten()
    if not _holds_numbers(values.type) or len(values) != len(column):
        raise dataset_error(str(path), f"column {name!r} holds {column.type}, not single numbers.")
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    # Not float32: an index beyond 16 million would be rounded. Floats, because a cell may be empty.
    return _numbers_of(values.cast(pa.float64()).fill_null(math.nan), np.dtype(np.float64))


def _pick(path: Path, table: Any, name: str, feature: DatasetFeature) -> np.ndarray:
    if name not in table.column_names:
        raise dataset_error(str(path), f"has no column {name!r}.", "info.json says that it has.")
    return column_values(path, name, table[name], feature)


def column_values(path: Path, name: str, column: Any, feature: DatasetFeature) -> np.ndarray:
    """Turn a column into (N, *shape), whether it is plain, ``list``, ``fixed_size_list`` or nested lists."""
    rows = len(column)
    values = column.combine_chunks()
    if isinstance(values, pa.ChunkedArray):  # what an empty column becomes
        values = pa.concat_arrays(values.chunks) if values.num_chunks else pa.array([], values.type)
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    while _is_list(values.type):
        if values.null_count:
            raise dataset_error(str(path), f"column {name!r} has {values.null_count} empty cells.")
        _check_equal_lengths(path, name, values)
        values = values.flatten()
    if feature.dtype == "string":
        return np.array(values.to_pylist(), dtype=object).reshape(rows, *feature.shape)
    if values.null_count and not pa.types.is_floating(values.type):
        raise dataset_error(str(path), f"column {name!r} has {values.null_count} empty cells.")
    numbers = _numbers(values)
    if numbers is None:
        raise dataset_error(str(path), f"column {name!r} holds {column.type}, not numbers.")
    if numbers.size != rows * math.prod(feature.shape):
        size = numbers.size / max(rows, 1)
        problem = f"column {name!r} has {size:g} numbers a row, info.json says {list(feature.shape)}."
        raise dataset_error(str(path), problem)
    return numbers.reshape(rows, *feature.shape)


def _check_equal_lengths(path: Path, name: str, values: Any) -> None:
    """Refuse lists of different lengths: put one after the other, they would be cut in the wrong places."""
    if pa.types.is_fixed_size_list(values.type) or not len(values):
        return
    dtype = np.dtype(np.int64 if pa.types.is_large_list(values.type) else np.int32)
    lengths = _numbers_of(values.value_lengths(), dtype)
    usual = int(np.median(lengths))
    wrong = np.flatnonzero(lengths != usual)
    if len(wrong):
        row = int(wrong[0])
        several = f"; {len(wrong):,} such rows" if len(wrong) > 1 else ""
        problem = (
            f"column {name!r} has lists of different lengths: {usual} in most rows, {lengths[row]} in row "
            f"{row}{several}."
        )
        remedy = "Every row needs as many as info.json says. Convert or record the episode again."
        raise dataset_error(str(path), problem, remedy)


def _numbers(values: Any) -> np.ndarray | None:
    """View a flat arrow array as numpy, floats as float32; None if it holds no numbers.

    Arrow's own conversion imports pandas if that is installed, which takes longer than all the rest.
    """
    if pa.types.is_boolean(values.type):
        return _numbers_of(values.cast(pa.uint8()), np.dtype(np.uint8)).astype(bool)
    if not (pa.types.is_integer(values.type) or pa.types.is_floating(values.type)):
        return None
    if values.null_count:
        values = values.fill_null(math.nan)
    kind = str(values.type)
    numbers = _numbers_of(values, np.dtype(ARROW_FLOATS.get(kind, kind)))
    if numbers.dtype.kind != "f":
        return numbers
    with np.errstate(over="ignore"):  # a number too large becomes infinite, and that is found and named later
        return numbers.astype(np.float32, copy=False)


def _numbers_of(values: Any, dtype: np.dtype[Any]) -> np.ndarray:
    if not len(values):
        return np.empty(0, dtype)
    start_b = values.offset * dtype.itemsize
    return np.frombuffer(values.buffers()[1], dtype, count=len(values), offset=start_b)


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _each(items: Sequence[Any], do: Any) -> list[Any]:
    """Do something for each file; in threads where there are many, for small files cost mostly waiting."""
    if len(items) < 2:
        return [do(item) for item in items]
    with ThreadPoolExecutor(max_workers=min(available_cpus(), len(items), 16)) as pool:
        return list(pool.map(do, items))


def column_features(path: Path) -> dict[str, DatasetFeature]:
    """What the columns of a parquet file contain, by its first row; empty if it cannot be read."""
    try:
        file = pq.ParquetFile(path)
        first = next(file.iter_batches(batch_size=1), None)
        rows = [] if first is None else first.to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError):
        return {}
    features = {}
    for column in file.schema_arrow:
        value = rows[0][column.name] if rows else None
        if _holds_numbers(column.type) and value is not None:
            shape = np.shape(value) or (1,)
            features[column.name] = DatasetFeature(_leaf(column.type), shape)
        elif pa.types.is_struct(column.type) and isinstance(value, dict) and value.get("bytes"):
            with suppress(OSError, ValueError, SyntaxError):
                size = Image.open(io.BytesIO(value["bytes"])).size
                names = ["height", "width", "channels"]
                features[column.name] = DatasetFeature("image", (size[1], size[0], 3), names)
    return features


def _leaf(kind: Any) -> str:
    while _is_list(kind) or isinstance(kind, pa.ExtensionType):
        kind = kind.storage_type if isinstance(kind, pa.ExtensionType) else kind.value_type
    return ARROW_FLOATS.get(str(kind), str(kind))


def plain_column(path: Path, name: str) -> np.ndarray | None:
    """A column of single numbers of one file; None if it cannot be read or is something else."""
    try:
        table, _ = _open(path, [name])
        return column_values(path, name, table[name], DatasetFeature("float32", (1,)))
    except (DatasetError, KeyError):
        return None


def image_cells(
    path: Path, name: str, in_file: NDArray[np.int64], *, mapped: bool = False
) -> Iterator[tuple[int, bytes | None, str | None]]:
    """Read the pictures of a parquet file as they are stored, without holding them all.

    Args:
        path: The parquet file.
        name: The feature.
        in_file: Row numbers in the file, ascending.
        mapped: Whether to map the file, so that only what is needed of it is read: for a few rows.

    Yields:
        Position in ``in_file``, the encoded picture or None, the path of a picture stored beside or None.

    Raises:
        DatasetError: If the file cannot be read or has no such column.
    """
    try:
        file = pq.ParquetFile(path, memory_map=mapped)
        if name not in file.schema_arrow.names:
            raise dataset_error(str(path), f"has no column {name!r}.", "info.json says that it has.")
        first, position = 0, 0
        for batch in file.iter_batches(batch_size=IMAGE_ROWS_AT_ONCE, columns=[name]):
            stop = int(np.searchsorted(in_file, first + batch.num_rows))
            chosen = batch.column(0).take(pa.array(in_file[position:stop] - first))
            for cell in chosen.to_pylist():
                encoded, beside = (cell, None) if isinstance(cell, bytes) else _cell(cell)
                yield position, encoded, beside
                position += 1
            first += batch.num_rows
            if position == len(in_file):
                return
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, error) from error


def _cell(cell: Any) -> tuple[bytes | None, str | None]:
    if isinstance(cell, str):
        return None, cell
    if isinstance(cell, dict):
        return cell.get("bytes"), cell.get("path")
    return None, None
