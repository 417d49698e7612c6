"""Repair a dataset: find out what is certain, then write a copy of it."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from trainables.dataset.doctor.bookkeeping import bookkeeping_findings, open_books
from trainables.dataset.doctor.quick import quick_findings
from trainables.dataset.doctor.videos import open_videos
from trainables.dataset.errors import DatasetError, DiskFullError, dataset_error
from trainables.dataset.format.files import pointers_error
from trainables.dataset.format.metadata import WHAT_A_DATASET_IS, Metadata, metadata_of
from trainables.dataset.open import open_dataset
from trainables.dataset.repair.clips import find_clips
from trainables.dataset.repair.copied import CopyPlan, check_columns, list_pictures_beside, write_copy
from trainables.dataset.repair.described import describe
from trainables.dataset.repair.idle import trim_idle as cut_idle_ends
from trainables.dataset.repair.log import RepairLog
from trainables.dataset.repair.measure import measure, read_vectors
from trainables.dataset.repair.numbering import assign_tasks, index_columns
from trainables.dataset.repair.records import (
    extra_values,
    final_info,
    left_behind,
    list_forms,
    list_notes,
    list_places,
    read_described,
)
from trainables.dataset.repair.rows import find_recordings, follows_table, read_rows
from trainables.features import ACTION, STATE
from trainables.files import put_in_place
from trainables.interface import Fault, Finding, Repair, silent

__all__ = ["repair"]

METADATA_B = 1_000_000
"""Room for the metadata of a copy, in bytes, before it is known."""

Progress = Callable[[str], None]


def repair(
    root: Path,
    to: Path | None,
    progress: Progress = silent,
    *,
    trim_idle: bool = False,
    hard_links: bool = False,
) -> Repair:
    """Write a copy of a dataset in which everything is repaired that has a certain repair.

    Args:
        root: The dataset's folder; it is only read.
        to: The folder to make; None: find out what would be changed.
        progress: Told what is being done.
        trim_idle: Cut the ends of episodes in which the robot stands still.
        hard_links: Link the videos instead of copying them.

    Raises:
        DatasetError: If ``root`` is not the folder of a dataset, or ``to`` cannot be made there.
        DiskFullError: If the disk is too small for the copy.
    """
    if not (root / "meta" / "info.json").is_file():
        raise dataset_error(
            str(root), "is not the folder of a dataset: it has no meta/info.json.", WHAT_A_DATASET_IS
        )
    if to is not None:
        _check_destination(root, to)
    log = RepairLog()
    try:
        plan = _plan(root, log, progress, trim_idle)
    except DatasetError as error:
        log.unreadable(error)
        return Repair(tuple(log.changes), log.ordered(), (), written=False, summary={})
    videos = [path for files in plan.videos().values() for path in files]
    size_b = plan.data_size_b() + METADATA_B
    size_b += 0 if hard_links else sum(path.stat().st_size for path in videos if path.is_file())
    summary = {
        "version": plan.metadata.version,
        "fps": plan.metadata.fps,
        "episodes": len(plan.recordings),
        "frames": sum(len(recording) for recording in plan.recordings),
        "size_b": size_b,
    }
    behind = left_behind(plan.metadata, [*plan.rows.paths, *videos])
    if to is None:
        return Repair(tuple(log.changes), log.ordered(), behind, written=False, summary=summary)
    _check_space(to, size_b)
    log.remaining += _write(to, plan, hard_links, progress, log)
    return Repair(tuple(log.changes), log.ordered(), behind, written=True, summary=summary)


def _check_destination(root: Path, to: Path) -> None:
    """Refuse a place in which a copy of ``root`` cannot be made.

    Raises:
        DatasetError: If ``to`` is a file, contains something, or is inside the dataset.
    """
    whole, original = to.resolve(), root.resolve()
    if whole == original or whole.is_relative_to(original):
        raise dataset_error(
            str(to), "is inside the dataset, which is never changed.", "Choose another folder."
        )
    if to.is_symlink() or (to.exists() and not to.is_dir()):
        raise dataset_error(str(to), "exists and is not a folder.", "Choose another name.")
    if to.is_dir() and any(to.iterdir()):
        raise dataset_error(
            str(to), "exists and is not empty.", "Choose a new folder, or delete this one first."
        )


def _check_space(to: Path, size_b: int) -> None:
    """Refuse a copy for which the disk has no room.

    Raises:
        DiskFullError: If there is less room than the copy needs.
    """
    place = next(folder for folder in (to, *to.absolute().parents) if folder.is_dir())
    free_b = shutil.disk_usage(place).free
    if size_b > free_b:
        problem = f"the copy needs {size_b / 1e9:,.2f} GB, free are {free_b / 1e9:,.2f} GB."
        remedy = "Choose a folder on another disk, or link the videos (--hard-links) on the same disk."
        raise DiskFullError([Fault(str(to), problem, remedy)])


def _plan(root: Path, log: RepairLog, progress: Progress, trim_idle: bool) -> CopyPlan:
    """Find out what the copy will contain.

    Raises:
        DatasetError: If that is not certain.
    """
    progress("Reading the metadata")
    described = describe(root, log)
    metadata, renumbered = read_described(root, described.info, log)
    metadata = metadata.settled()
    list_notes(metadata, log)
    list_forms(root, log)
    _refuse_pointers(metadata)
    extras = extra_values(metadata, log, renumbered=renumbered)
    progress("Reading the rows")
    rows = read_rows(metadata, log)
    if renumbered and not follows_table(metadata, rows):
        metadata_of(
            root, described.info
        )  # fails as it did: nothing shows that the rows are those of the table
    check_columns(rows)
    recordings = find_recordings(metadata, rows, log)
    tasks = assign_tasks(metadata, rows, recordings, log)
    progress("Opening the videos")
    find_clips(metadata, recordings, log)
    if trim_idle:
        features = {name: metadata.features[name] for name in (STATE, ACTION) if name in metadata.features}
        vectors = {
            name: values.reshape(len(rows), -1) for name, values in read_vectors(rows, features).items()
        }
        cut_idle_ends(metadata, recordings, vectors, log)
    index = index_columns(rows, recordings, metadata.fps, keep_times=described.keep_times, log=log)
    if not renumbered:
        files = [
            rows.paths[int(rows.file_of(one.rows[:1])[0])].relative_to(root).as_posix() for one in recordings
        ]
        list_places(metadata, recordings, files, log)
    list_pictures_beside(metadata, rows, log)
    info = final_info(described.raw, metadata, recordings, tasks, log)
    statistics, whole = measure(metadata, rows, recordings, index, log, progress, renumbered=renumbered)
    return CopyPlan(metadata, info, rows, recordings, index, tasks, statistics, whole, extras)


def _refuse_pointers(metadata: Metadata) -> None:
    """Refuse a dataset whose files were not downloaded: nothing is wrong with it."""
    data = [metadata.root / name for name in metadata.data_files(metadata.episodes)]
    videos = {metadata.file(v.path) for episode in metadata.episodes for v in episode.videos.values()}
    error = pointers_error(metadata.root, [path for path in (*data, *sorted(videos)) if path.is_file()])
    if error is not None:
        raise error


def _write(
    to: Path, plan: CopyPlan, hard_links: bool, progress: Progress, log: RepairLog
) -> Sequence[Finding]:
    """Write the copy beside its place, check it, and give it its name; returns what the check found."""
    building = to.parent / f".{to.name}.building-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        building.mkdir(parents=True)
        write_copy(building, plan, hard_links=hard_links, progress=progress)
        progress("Checking the copy")
        found = _check(building, to, plan, log)
        put_in_place(building, to)
    except OSError as error:
        shutil.rmtree(building, ignore_errors=True)
        if error.errno == errno.ENOSPC:
            problem, remedy = "the disk is full.", "Choose a folder on another disk."
            raise DiskFullError([Fault(str(to), problem, remedy)]) from error
        remedy = "Choose another folder."
        if error.errno == errno.EXDEV:
            remedy = "Links are possible on one disk only: choose a folder on it, or leave out --hard-links."
        raise dataset_error(str(to), f"cannot be written: {error.strerror}.", remedy) from error
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return found


def _check(building: Path, to: Path, plan: CopyPlan, log: RepairLog) -> list[Finding]:
    """What the quick checks find in the copy and the repair did not list itself."""
    try:
        copy = open_dataset(building)
    except DatasetError as error:
        why = "The repair does not know what is right."
        found = [
            Finding(
                "unreadable_dataset", "error", fault.where, fault.problem, why, fault.remedy, fault.episodes
            )
            for fault in error.faults
        ]
    else:
        videos = open_videos(copy)
        found = [*copy.notes, *quick_findings(copy, videos)]
        found += bookkeeping_findings(copy, open_books(copy), videos)
    known = {one.check for one in log.remaining} | {"depth_maps"}  # which are not a fault
    if any(change.check == "idle_ends" for change in log.changes) or log.has("lost_episodes"):
        # Frames of cut ends and of lost episodes stay in the videos; no episode of the copy refers to them.
        known.add("video_frame_count")
    origins = [recording.origin for recording in plan.recordings]
    return [
        _of_original(one, origins, building, to)
        for one in found
        if one.severity in ("error", "warning") and one.check not in known
    ]


def _of_original(found: Finding, origins: Sequence[int], building: Path, to: Path) -> Finding:
    """A finding of the copy with the original's episodes and the copy's place."""
    where, problem, remedy = (
        text.replace(str(building), str(to)) for text in (found.where, found.problem, found.remedy)
    )
    if found.episodes and origins != list(range(len(origins))):
        problem = f"{problem.removesuffix('.')} (numbers of the copy)."
    episodes = tuple(sorted({origins[number] for number in found.episodes if number < len(origins)}))
    return replace(found, where=where, problem=problem, remedy=remedy, episodes=episodes)
