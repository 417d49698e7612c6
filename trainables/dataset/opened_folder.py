"""One LeRobot folder, opened: the rows of its chosen episodes, where their pictures are, its fingerprint."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.assign import Stretch, assign_frames
from trainables.dataset.format.decode import FramePart
from trainables.dataset.format.episodes import EpisodeRecord
from trainables.dataset.format.files import find_parquet, pointers_error
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import DATA_PATH_V2, INDEX_FEATURES
from trainables.dataset.format.tables import Table, available_cpus, read_table
from trainables.dataset.format.video import Video, VideoError, probe_video
from trainables.dataset.sources.find import Source
from trainables.features import Feature, PolicyFeatures
from trainables.files import add_content
from trainables.interface import Fault, Finding
from trainables.ranges import compressed

__all__ = ["DatasetFolder"]

# Files up to this size are part of the fingerprint byte by byte, larger ones by some of their blocks.
WHOLE_FILE_B = 8 * 1024 * 1024
WHOLE_VIDEO_B = 256 * 1024
BLOCKS = 4
PROBES_AT_ONCE = 8


class DatasetFolder:
    """The chosen episodes of one folder. Rows count from 0 here, whatever is opened beside it.

    Attributes:
        source: Where it lies.
        metadata: All that its metadata says, with the opened dataset's episode numbers and feature names.
        records: The chosen episodes, by ascending index.
        with_rows: Whether the rows were read.

    Raises:
        DatasetError: If the rows of the chosen episodes cannot be read.
    """

    def __init__(
        self,
        source: Source,
        metadata: Metadata,
        records: tuple[EpisodeRecord, ...],
        features: PolicyFeatures,
        *,
        with_rows: bool = True,
    ) -> None:
        self.source = source
        self.metadata = metadata
        self.records = records
        self._videos: dict[Path, Video | str] = {}
        self._stretches_of: dict[str, dict[str, list[Stretch]]] = {}
        self._extra: tuple[str, ...] = ()
        # Without rows, times and numbers are derived from the episodes' lengths: the videos can be examined.
        self.with_rows = with_rows and bool(records)
        self._table = Table(length=sum(record.length for record in records))
        if self.with_rows:
            self._table = self._read_rows(features)

    def __len__(self) -> int:
        """Count the rows."""
        return self._table.length

    def _read_rows(self, features: PolicyFeatures) -> Table:
        """Read the rows, from files with other names too if rows are missing without them."""
        try:
            return _read_vectors(self.metadata, self.records, features, ())
        except DatasetError:
            if self.metadata.version != "v3.0" or not self.metadata.found_data().beside:
                raise
            try:
                extra = self.metadata.found_data().beside
                table = _read_vectors(self.metadata, self.records, features, extra)
            except DatasetError:
                pass
            else:
                self._extra = extra
                return table
            raise

    def take(self, name: str) -> np.ndarray:
        """Hand over a feature's values (N, *shape): they are kept by the caller that asks, not here.

        Timestamps and numbers that the data files lack are derived from the rows.
        """
        if name in INDEX_FEATURES and name not in self._table.numeric:
            return self._derived(name)
        if name in self.metadata.joined:
            parts = self.metadata.joined[name]
            columns = [self._table.take(part, feature) for part, feature in parts.items()]
            return np.concatenate([c.reshape(len(self), -1).astype(np.float32) for c in columns], axis=1)
        return self._table.take(self.metadata.recorded(name), self.metadata.features[name])

    def has_numbers(self, name: str) -> bool:
        """Whether a feature is a column of numbers in every data file."""
        if name in self.metadata.joined:
            return True
        return self.metadata.recorded(name) in self._table.numeric

    @cached_property
    def unlisted(self) -> tuple[int, ...]:
        """Episodes that have rows and that the table of episodes leaves out; of a folder that is whole."""
        metadata = self.metadata
        if metadata.version == "v3.0":
            return tuple(sorted(self._table.other_episodes))
        listed = {path for record in metadata.episodes for path in (record.data, *record.other_data)}
        found = find_parquet(metadata.root, "data", [metadata.data_path, DATA_PATH_V2])
        numbers = [re.findall(r"\d+", Path(name).stem) for name in found.used if name not in listed]
        return tuple(sorted(int(digits[-1]) for digits in numbers if digits))

    @cached_property
    def notes(self) -> tuple[Finding, ...]:
        """What was skipped, derived or ignored in this folder."""
        lacking = [name for name in INDEX_FEATURES if self.with_rows and name not in self._table.numeric]
        notes = self.metadata.notes
        if self._extra:
            problem = (
                f"files with other names are used, because they contain the other rows: {self._extra[0]}."
            )
            remedy = "Rename them as data_path in meta/info.json says."
            said = Finding("template", "warning", str(self.metadata.root), problem, "", remedy)
            notes = (*(note for note in notes if note.check != "skipped_files"), said)
        if not lacking:
            return notes
        problem = f"the data files have no column {', '.join(lacking)} with a number in every row."
        why = "The values were derived from the order of the rows and the frame rate."
        remedy = "Nothing for training here; LeRobot needs these columns."
        where = str(self.metadata.root / "data")
        return (*notes, Finding("derived_columns", "note", where, problem, why, remedy))

    def _derived(self, name: str) -> np.ndarray:
        """A column that every dataset has, made from the order of the rows, (N, 1)."""
        lengths = [record.length for record in self.records]
        place = np.concatenate([np.arange(length) for length in lengths])
        if name == "timestamp":
            frame = self.take("frame_index")[:, 0] if "frame_index" in self._table.numeric else place
            return (frame / self.metadata.fps).astype(np.float32)[:, None]
        if name == "frame_index":
            return place[:, None]
        if name == "episode_index":
            return np.repeat([record.own for record in self.records], lengths)[:, None]
        if name == "index":
            every = self.metadata.episodes
            firsts = np.cumsum([0, *(record.length for record in every)])
            first_of = {record.index: int(first) for record, first in zip(every, firsts[:-1], strict=True)}
            return (np.repeat([first_of[r.index] for r in self.records], lengths) + place)[:, None]
        number_of = {text: number for number, text in self.metadata.tasks.items()}
        tasks = [
            number_of.get(record.tasks[0], -1) if len(record.tasks) == 1 else -1 for record in self.records
        ]
        return np.repeat(tasks, lengths)[:, None]

    @cached_property
    def fingerprint(self) -> str:
        """Identify the folder's content; see ``LeRobotDataset.fingerprint``."""
        digest = hashlib.sha256()
        metadata = self.metadata
        if self.source.repo_id is not None:
            digest.update(f"{self.source.repo_id}@{self.source.revision}".encode())
            return digest.hexdigest()
        for name in metadata.files:
            _digest_file(digest, name, metadata.root / name, WHOLE_FILE_B)
        for name in [*metadata.data_files(metadata.episodes), *self._extra]:
            _digest_file(digest, name, metadata.root / name, WHOLE_FILE_B)
        videos = {v.path for record in metadata.episodes for v in record.videos.values()}
        for name in sorted(videos):
            _digest_file(digest, name, metadata.file(name), WHOLE_VIDEO_B)
        return digest.hexdigest()

    def frame_parts(
        self,
        camera: Feature,
        tolerance_s: float,
        times_s: NDArray[np.float32] | None,
        episodes: Collection[int] | None = None,
    ) -> list[FramePart]:
        """Say where the rows' pictures are, file by file.

        Args:
            camera: The feature.
            tolerance_s: How far a video frame may lie from its time.
            times_s: The time of each row in its episode, (N,); None if the pictures are in no video.
            episodes: Places in ``records`` of the episodes that are asked for; None: all.
        """
        channels, height, width = camera.shape
        blank = FramePart(
            camera=camera.name,
            path=self.metadata.root,
            rows=np.empty(0, np.int64),
            times_s=None,
            in_file=None,
            shape=(channels, height, width),
            fps=self.metadata.fps,
            tolerance_s=tolerance_s,
            root=self.metadata.root,
            column=self.metadata.recorded(camera.name),
        )
        if times_s is None:
            files = self._table.files
            return [
                replace(blank, path=file.path, rows=file.in_dataset, in_file=file.in_file) for file in files
            ]
        return self._video_parts(blank, times_s, episodes)

    def _video_parts(
        self, blank: FramePart, times_s: NDArray[np.float32], episodes: Collection[int] | None
    ) -> list[FramePart]:
        stops = self._stops
        by_file: dict[str, list[int]] = {}
        for number in range(len(self.records)) if episodes is None else sorted(episodes):
            by_file.setdefault(self.records[number].videos[blank.camera].path, []).append(number)
        stretches = self._stretches(blank.camera)
        probed = self._probe([self.metadata.file(path) for path in by_file])
        parts = []
        for path, numbers in by_file.items():
            found = probed[self.metadata.file(path)]
            lengths = [self.records[number].length for number in numbers]
            place = np.concatenate([np.arange(length) for length in lengths])
            first = np.repeat(
                [int(stops[number]) - self.records[number].length for number in numbers], lengths
            )
            episode = np.repeat([self.records[number].own for number in numbers], lengths)
            rows = first + place
            part = replace(blank, path=self.metadata.file(path), rows=rows)
            if isinstance(found, str):
                start_s = np.repeat([self.records[n].videos[blank.camera].start_s for n in numbers], lengths)
                wanted_s = start_s + times_s[rows].astype(np.float64)
                part = replace(
                    part, times_s=wanted_s, wanted_s=wanted_s, lost=np.ones(len(rows), bool), error=found
                )
            else:
                assigned = assign_frames(
                    found.times_s, stretches[path], episode, place, times_s[rows],
                    fps=blank.fps, tolerance_s=blank.tolerance_s,
                )  # fmt: skip
                part = replace(
                    part,
                    times_s=assigned.times_s,
                    wanted_s=assigned.wanted_s,
                    lost=assigned.lost,
                    by_row=assigned.by_row,
                    video=found,
                )
            parts.append(part.choose_places(np.argsort(_times(part), kind="stable")))
        return parts

    def _stretches(self, camera: str) -> dict[str, list[Stretch]]:
        """For each video file of a camera the episodes in it, chosen or not."""
        if camera not in self._stretches_of:
            found: dict[str, list[Stretch]] = {}
            for record in self.metadata.episodes:
                if camera in record.videos:
                    place = record.videos[camera]
                    stretch = Stretch(record.own, place.start_s, record.length)
                    found.setdefault(place.path, []).append(stretch)
            self._stretches_of[camera] = found
        return self._stretches_of[camera]

    def _probe(self, paths: Collection[Path]) -> dict[Path, Video | str]:
        """What each video contains, or why it cannot be opened; each is opened once."""
        new = [path for path in dict.fromkeys(paths) if path not in self._videos]
        if len(new) == 1:
            self._videos[new[0]] = _probed(new[0])
        elif new:
            with ThreadPoolExecutor(max_workers=min(PROBES_AT_ONCE, 2 * available_cpus())) as pool:
                self._videos.update(zip(new, pool.map(_probed, new), strict=True))
        return {path: self._videos[path] for path in paths}

    @cached_property
    def _stops(self) -> NDArray[np.int64]:
        return np.cumsum([record.length for record in self.records], dtype=np.int64)


def _times(part: FramePart) -> NDArray[np.float64]:
    assert part.times_s is not None
    return part.times_s


def _probed(path: Path) -> Video | str:
    try:
        video = probe_video(path)
    except VideoError as error:
        return str(error)
    return video if video.frames else "has no frames"


def _read_vectors(
    metadata: Metadata,
    records: tuple[EpisodeRecord, ...],
    features: PolicyFeatures,
    extra: Sequence[str],
) -> Table:
    there = [feature.name for feature in features.all() if feature.name in metadata.features]
    names = [name for name in there if not metadata.features[name].is_camera]
    names += ["timestamp", "task_index"]
    paths = [metadata.root / path for path in dict.fromkeys([*metadata.data_files(records), *extra])]
    if not paths:
        raise dataset_error(str(metadata.root), "has no data/*/*.parquet.", "Fetch the dataset again.")
    pointers = pointers_error(metadata.root, paths)
    if pointers is not None:
        raise pointers
    gone = [record for record in records if record.data and not (metadata.root / record.data).exists()]
    if gone:
        raise _missing_files(metadata, records, gone)
    recorded = {
        metadata.recorded(name): metadata.features[name] for name in names if name not in metadata.joined
    }
    for name in names:
        recorded |= metadata.joined.get(name, {})
    shared = Counter(record.data for record in records)
    owners = {
        metadata.root / record.data: record.own
        for record in records
        if record.data is not None and shared[record.data] == 1
    }
    return read_table(paths, records, recorded, list(recorded), owners)


def _missing_files(
    metadata: Metadata, records: Sequence[EpisodeRecord], gone: Sequence[EpisodeRecord]
) -> DatasetError:
    indices = [record.index for record in gone]
    episodes = compressed(indices)
    every = len(gone) == len(records)
    which = f"{'all' if every else ''} data files of episodes {episodes}".strip()
    problem = f"the data files of episodes {episodes} are missing; first {gone[0].data}."
    if every:
        problem = f"all {which.removeprefix('all ')} are missing; first {gone[0].data}."
    remedy = "Fetch the dataset again" + ("." if every else f", or set dataset.exclude_episodes: {episodes}.")
    files = tuple(dict.fromkeys(str(metadata.root / record.data) for record in gone if record.data))
    faults = [Fault(str(metadata.root), problem, remedy, () if every else tuple(indices), files)]
    if every:
        templates = [note for note in metadata.notes if note.check == "template"]
        faults += [Fault(note.where, note.problem, note.remedy) for note in templates]
    return DatasetError(faults)


def _digest_file(digest: hashlib._Hash, name: str, path: Path, whole_b: int) -> None:
    if not path.exists():
        digest.update(f"{name} missing\n".encode())
        return
    size = path.stat().st_size
    digest.update(f"{name} {size}\n".encode())
    add_content(digest, path, size, whole_b=whole_b, blocks=BLOCKS)
