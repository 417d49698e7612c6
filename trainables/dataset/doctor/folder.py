"""Whether a dataset's folder agrees with its info.json, and still works after it was moved or copied."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainables.dataset.doctor.wording import named_files
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.files import read_json
from trainables.dataset.format.schema import INDEX_FEATURES
from trainables.dataset.format.tables import available_cpus
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset
    from trainables.dataset.opened_folder import DatasetFolder

__all__ = ["folder_findings"]

MOST_THREADS = 16
SHOWN = 5
"""So many features and paths are named in a sentence."""
HUB_CACHE = "blobs"
"""The hub's cache consists of links to files of this folder: they are copied as files, and never moved."""
ABSOLUTE = re.compile(r"(/|~/|[A-Za-z]:[\\/]|\\\\)[^/\\\s].*[/\\]")
"""A path from the root of a file system: more than one part, so that a unit such as "/s" is none."""


def folder_findings(dataset: LeRobotDataset) -> list[Finding]:
    """Compare the files of each dataset with its info.json, and look for what breaks when it is moved."""
    findings = []
    for folder in dataset.folders:
        if len(folder):
            findings += _features(folder)
        if folder.source.repo_id is None:
            findings += [*_links(folder.metadata.root), *_absolute_paths(folder)]
    return findings


# -- features


def _features(folder: DatasetFolder) -> list[Finding]:
    """Columns that info.json does not have, and features that data files do not have."""
    metadata = folder.metadata
    names = metadata.data_files(folder.records) if folder.with_rows else []
    paths = [path for name in names if (path := metadata.root / name).is_file()]
    with ThreadPoolExecutor(max_workers=min(available_cpus(), MOST_THREADS)) as pool:
        read = list(pool.map(_columns, paths))
    columns = {path: found for path, found in zip(paths, read, strict=True) if found is not None}
    if not columns:
        return []
    described = _described(metadata.root)
    if described is None:
        return []
    wanted = {name for name, dtype in described.items() if dtype != "video"}
    differing: list[tuple[str, tuple[str, ...]]] = []
    # What cannot be used, or seems to be a camera, has been reported as such.
    for name in sorted(wanted - set(INDEX_FEATURES) - {*metadata.unusable, *metadata.suspects}):
        lacking = [str(path) for path, there in columns.items() if name not in there]
        if len(lacking) == len(columns):
            differing.append((f"has the feature {name}, which no data file has", ()))
        elif lacking:
            named = named_files(lacking, len(columns), "files")
            differing.append((f"has the feature {name}, which data files lack ({named})", tuple(lacking)))
    extra = {name for there in columns.values() for name in there} - set(described) - set(INDEX_FEATURES)
    for name in sorted(extra):
        having = [str(path) for path, there in columns.items() if name in there]
        some = len(having) < len(columns)
        named = f" ({named_files(having, len(columns), 'files')})" if some else ""
        problem = f"does not have the column {name} of the data files{named}"
        differing.append((problem, tuple(having) if some else ()))
    return [_differs(metadata.root, differing)] if differing else []


def _columns(path: Path) -> set[str] | None:
    try:
        return set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return None  # which opening it has reported


def _described(root: Path) -> dict[str, str] | None:
    """The dtype of each feature as info.json has it, before any renaming."""
    try:
        features = read_json(root / "meta" / "info.json").get("features")
    except DatasetError:
        return None
    if not isinstance(features, dict) or not features:
        return None
    return {
        name: str(value.get("dtype")).lower() if isinstance(value, dict) else ""
        for name, value in features.items()
    }


def _differs(root: Path, differing: list[tuple[str, tuple[str, ...]]]) -> Finding:
    """One finding for all features of a folder: a script that forgot one mostly forgot several."""
    shown = "; ".join(problem for problem, _ in differing[:SHOWN])
    more = f"; ... {len(differing)} features in all" if len(differing) > SHOWN else ""
    return Finding(
        check="features_differ",
        severity="warning",
        where=str(root / "meta" / "info.json"),
        problem=f"{shown}{more}.",
        why="No policy gets what only one of them has. LeRobot compares the two, and does not open the set.",
        remedy="Add the feature to info.json, or delete the column: both must have the same.",
        files=tuple(dict.fromkeys(file for _, files in differing for file in files)),
    )


# -- links and absolute paths


def _links(root: Path) -> list[Finding]:
    """Links that lead out of the folder, or to nothing, or from the root of the file system."""
    broken: list[Path] = []
    leaving: list[Path] = []
    whole = root.resolve()
    for path in _every_link(root):
        target = Path(os.path.realpath(path))
        outside = not target.is_relative_to(whole) or path.readlink().is_absolute()
        if not target.exists():
            broken.append(path)
        elif outside and HUB_CACHE not in target.parts:
            leaving.append(path)
    return [
        *_linked(
            root, broken, "to nothing",
            "The files were moved or deleted, or are on a disk that is not connected.",
            "Restore the files, or delete the links.",
        ),
        *_linked(
            root, leaving, "to a place outside the folder, or to an absolute path",
            "On another machine, as on those of a cluster, or after a move the files are missing.",
            "Copy the dataset with the files themselves: cp -rL, or rsync --copy-links.",
        ),
    ]  # fmt: skip


def _linked(root: Path, links: list[Path], to: str, why: str, remedy: str) -> list[Finding]:
    if not links:
        return []
    lead = "a link leads" if len(links) == 1 else f"{len(links):,} links lead"
    problem = f"{lead} {to}; first {links[0]} to {links[0].readlink()}."
    files = tuple(str(path) for path in links)
    return [Finding("links", "warning", str(root), problem, why, remedy, files=files)]


def _every_link(root: Path) -> Iterator[Path]:
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in [*folders, *sorted(files)]:
            path = Path(folder) / name
            if path.is_symlink():
                yield path


def _absolute_paths(folder: DatasetFolder) -> list[Finding]:
    """Paths of this machine in info.json, and pictures that are only named in the data files."""
    root = folder.metadata.root
    found = [f"{key}: {value}" for key, value in _absolute_in_info(root)]
    for name, feature in folder.metadata.features.items():
        if feature.dtype == "image" and folder.with_rows:
            path = _picture_path(folder, folder.metadata.recorded(name))
            found += [f"the pictures of {name}: {path}"] if path else []
    if not found:
        return []
    more = f"; ... {len(found)} in all" if len(found) > SHOWN else ""
    return [
        Finding(
            check="absolute_paths",
            severity="warning",
            where=str(root),
            problem=f"{'; '.join(found[:SHOWN])}{more}: absolute paths of one machine.",
            why="On another machine, or after the folder was moved, these files are not found.",
            remedy="Use paths relative to the dataset's folder, and store pictures in the data files.",
        )
    ]


def _absolute_in_info(root: Path) -> Iterator[tuple[str, str]]:
    try:
        info = read_json(root / "meta" / "info.json")
    except DatasetError:
        return
    for key, value in _texts(info):
        if ABSOLUTE.match(value):
            yield key, json.dumps(value, ensure_ascii=False)


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, with the keys that lead to it."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _texts(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner, key)


def _picture_path(folder: DatasetFolder, column: str) -> str:
    """The absolute path in the first row of a camera whose pictures are not stored; empty otherwise."""
    for name in folder.metadata.data_files(folder.records)[:1]:
        try:
            file = pq.ParquetFile(folder.metadata.root / name)
            batch = next(file.iter_batches(batch_size=1, columns=[column]), None)
            cell = batch.column(0)[0].as_py() if batch is not None and batch.num_columns else None
        except (pa.ArrowException, OSError):
            return ""
        path = cell if isinstance(cell, str) else cell.get("path") if isinstance(cell, dict) else None
        stored = isinstance(cell, dict) and cell.get("bytes") is not None
        if isinstance(path, str) and not stored and ABSOLUTE.match(path):
            return json.dumps(path, ensure_ascii=False)
    return ""
