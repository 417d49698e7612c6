"""Statistics of the copy: the recorded ones if they are right, otherwise computed from the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from trainables.dataset.doctor.bookkeeping import EXTREMES_OFF, MOMENTS_OFF, PIXELS_OFF, STD_RATIO
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.decode import FramePart, decode_part
from trainables.dataset.format.files import read_json, read_lines
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import INDEX_FEATURES, DatasetFeature, policy_feature
from trainables.dataset.format.tables import column_values
from trainables.dataset.repair.log import RepairLog
from trainables.dataset.repair.recording import DataRows, Recording
from trainables.dataset.statistics import (
    PIXEL_VALUES,
    Statistics,
    evenly,
    image_histogram,
    image_statistics,
    vector_statistics,
)

__all__ = ["measure", "read_vectors"]

SAMPLED_FRAMES = 2400
FEWEST_PER_EPISODE, MOST_PER_EPISODE = 12, 60
"""As many pictures are decoded as the doctor looks at; of a large set 12 of each episode."""
TELL_EVERY = 20
MOMENTS = ("min", "max", "mean", "std")
"""What every version records of a feature."""
LISTED_FEATURES = 3

Progress = Callable[[str], None]


def measure(
    metadata: Metadata,
    rows: DataRows,
    recordings: Sequence[Recording],
    index: Mapping[str, Sequence[NDArray[Any]]],
    log: RepairLog,
    progress: Progress,
    *,
    renumbered: bool = False,
) -> tuple[list[Statistics], Statistics]:
    """Compute the statistics of each episode and of all.

    Recorded statistics are kept if they agree with the data and the episode has the rows that it had.

    Args:
        metadata: The original's metadata.
        rows: Its rows.
        recordings: The episodes of the copy.
        index: What ``numbering.index_columns`` gives.
        log: Receives what was wrong.
        progress: Told what is being measured.
        renumbered: Whether the recorded statistics of episodes have other numbers.

    Returns:
        Those of each recording, and those over all of them.
    """
    recorded = _Recorded(metadata, renumbered)
    episodes: list[Statistics] = [{} for _ in recordings]
    whole: Statistics = {}
    progress("Statistics of the numbers")
    for name, feature in metadata.features.items():
        if (
            not feature.is_camera
            and feature.dtype != "string"
            and (name in INDEX_FEATURES or _is_number(feature))
        ):
            _measure_numbers(name, feature, rows, recordings, index, episodes, whole)
    for name, feature in metadata.features.items():
        if feature.is_camera and not feature.is_depth:
            _measure_pictures(metadata, name, rows, recordings, episodes, whole, progress)
    return recorded.merged(recordings, episodes, whole, log)


def _is_number(feature: DatasetFeature) -> bool:
    try:
        return np.dtype(feature.dtype).kind in "fiub"
    except TypeError:
        return False


def read_vectors(rows: DataRows, features: Mapping[str, DatasetFeature]) -> dict[str, NDArray[Any]]:
    """Read features of all rows of all files, (N, *shape), without those that are not columns of numbers."""
    found = {}
    for name, feature in features.items():
        try:
            found[name] = np.concatenate([_column(path, name, feature) for path in rows.paths])
        except DatasetError:
            continue
    return found


def _column(path: Path, name: str, feature: DatasetFeature) -> NDArray[Any]:
    file = pq.ParquetFile(path)
    names = [name] if name in file.schema_arrow.names else []
    table = file.read(columns=names)
    if not names:
        raise DatasetError([])
    return column_values(path, name, table[name], feature)


def _measure_numbers(
    name: str,
    feature: DatasetFeature,
    rows: DataRows,
    recordings: Sequence[Recording],
    index: Mapping[str, Sequence[NDArray[Any]]],
    episodes: list[Statistics],
    whole: Statistics,
) -> None:
    if name in index:
        parts = [values[:, None] for values in index[name]]
    else:
        column = read_vectors(rows, {name: feature}).get(name)
        if column is None:
            return
        parts = [column[recording.rows] for recording in recordings]
    for found, part in zip(episodes, parts, strict=True):
        found[name] = vector_statistics(part)
    whole[name] = vector_statistics(np.concatenate(parts))


# -- pictures


def _measure_pictures(
    metadata: Metadata,
    name: str,
    rows: DataRows,
    recordings: Sequence[Recording],
    episodes: list[Statistics],
    whole: Statistics,
    progress: Progress,
) -> None:
    each = min(max(SAMPLED_FRAMES // len(recordings), FEWEST_PER_EPISODE), MOST_PER_EPISODE)
    feature = policy_feature(name, metadata.features[name])
    assert feature is not None
    channels, height, width = feature.shape
    total = np.zeros((channels, PIXEL_VALUES), np.int64)
    frames = 0
    for number, recording in enumerate(recordings):
        if number % TELL_EVERY == 0:
            progress(f"{name}: statistics of {number:,} of {len(recordings):,} episodes")
        histogram, count = np.zeros_like(total), 0
        for part in _parts(
            metadata, name, (channels, height, width), rows, recording, evenly(len(recording), each)
        ):
            try:
                for _, picture_CHW in decode_part(part, None, lambda row: f"row {row}"):
                    histogram += image_histogram(picture_CHW[None])
                    count += 1
            except DatasetError:
                continue  # reported where the pictures are looked for, or by the check of the copy
        if count:
            episodes[number][name] = image_statistics(histogram, len(recording))
            # Each episode weighs as much as it has frames, not as many as were decoded.
            total += histogram * len(recording) // count
            frames += len(recording)
    if frames == sum(len(recording) for recording in recordings):
        whole[name] = image_statistics(total, frames)


def _parts(
    metadata: Metadata,
    name: str,
    shape: tuple[int, int, int],
    rows: DataRows,
    recording: Recording,
    places: NDArray[np.int64],
) -> Iterator[FramePart]:
    """The pictures of some rows of a recording, file by file."""

    def part(path: Path, which: NDArray[np.int64], **where: Any) -> FramePart:
        return FramePart(
            camera=name, path=path, rows=which, shape=shape, fps=metadata.fps, tolerance_s=1e-3,
            root=metadata.root, column=metadata.recorded(name), **where,
        )  # fmt: skip

    if metadata.features[name].dtype == "video":
        clip = recording.clips.get(name)
        if clip is not None:
            times_s = clip.times_s[places]
            known = places[np.isfinite(times_s)]
            if len(known):
                yield part(clip.path, known, times_s=clip.times_s[known], in_file=None)
        return
    chosen = np.sort(recording.rows[places])
    files = rows.file_of(chosen)
    for file in np.unique(files):
        inside = chosen[files == file]
        yield part(rows.paths[file], inside, times_s=None, in_file=inside - rows.starts[file])


# -- beside the recorded ones


class _Recorded:
    """The recorded statistics: of each episode, and over all."""

    def __init__(self, metadata: Metadata, renumbered: bool) -> None:
        self._version = metadata.version
        self._features = metadata.features
        self._root = metadata.root
        self.episodes = self._read_episodes(metadata) if metadata.version != "v2.0" and not renumbered else {}
        self.whole: dict[str, dict[str, np.ndarray]] = {}
        path = metadata.root / "meta" / "stats.json"
        if metadata.version != "v2.1" and path.is_file():
            try:
                self.whole = {name: _arrays(numbers) for name, numbers in read_json(path).items()}
            except (DatasetError, ValueError, TypeError, AttributeError):
                self.whole = {}

    def _read_episodes(self, metadata: Metadata) -> dict[int, dict[str, dict[str, np.ndarray]]]:
        try:
            if metadata.version == "v2.1":
                path = metadata.root / "meta" / "episodes_stats.jsonl"
                return {
                    int(row["episode_index"]): {n: _arrays(v) for n, v in row["stats"].items()}
                    for row in (read_lines(path) if path.is_file() else [])
                }
            found: dict[int, dict[str, dict[str, np.ndarray]]] = {}
            for name in metadata.files:
                if name.startswith("meta/episodes/"):
                    for row in pq.ParquetFile(metadata.root / name).read().to_pylist():
                        of_row: dict[str, dict[str, np.ndarray]] = {}
                        for column, value in row.items():
                            if column.startswith("stats/") and value is not None:
                                _, feature, key = column.split("/", 2)
                                of_row.setdefault(feature, {})[key] = _array(key, value)
                        found[int(row["episode_index"])] = of_row
            return found
        except (DatasetError, ValueError, TypeError, KeyError, AttributeError):
            return {}

    def merged(
        self, recordings: Sequence[Recording], episodes: list[Statistics], whole: Statistics, log: RepairLog
    ) -> tuple[list[Statistics], Statistics]:
        """Keep what is right, and list what is not."""
        if self._version != "v2.0":
            self._merge_episodes(recordings, episodes, log)
        if self._version != "v2.1":
            wrong = {
                name: why
                for name, numbers in whole.items()
                if (why := self._problem(name, self.whole.get(name), numbers))
            }
            kept = {name: self.whole[name] for name in whole if name not in wrong}
            _log(wrong, "meta/stats.json", (), log)
            # Pictures that cannot be decoded here, such as depth maps, keep what was recorded.
            unmeasured = {n: v for n, v in self.whole.items() if n in self._features and n not in whole}
            whole = {**whole, **kept, **unmeasured}
        return episodes, whole

    def _merge_episodes(
        self, recordings: Sequence[Recording], episodes: list[Statistics], log: RepairLog
    ) -> None:
        wrong: dict[str, str] = {}
        concerned: set[int] = set()
        for recording, found in zip(recordings, episodes, strict=True):
            said = self.episodes.get(recording.origin, {}) if recording.whole else {}
            unmeasured = {n: v for n, v in said.items() if n in self._features and n not in found}
            for name, numbers in found.items():
                why = self._problem(name, said.get(name), numbers)
                if not why:
                    found[name] = said[name]
                elif recording.whole:
                    wrong.setdefault(name, f"episode {recording.origin}: {why}")
                    concerned.add(recording.origin)
            found |= unmeasured
        where = "meta/episodes_stats.jsonl" if self._version == "v2.1" else "meta/episodes"
        _log(wrong, where, concerned, log)

    def _problem(
        self, name: str, said: Mapping[str, np.ndarray] | None, true: Mapping[str, np.ndarray]
    ) -> str:
        """Say how recorded statistics contradict the data; empty if they do not."""
        if not said:
            return "not recorded"
        camera = self._features[name].is_camera
        for key in MOMENTS:
            shapes = [true[key].shape, *([] if camera else [(true[key].size,)])]
            if key not in said or said[key].shape not in shapes:
                return f"{key} has another shape" if key in said else f"{key} is missing"
        if camera:
            return _wrong_pictures(said, true)
        return _wrong_numbers({key: said[key].reshape(true[key].shape) for key in MOMENTS}, true)


def _wrong_numbers(said: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray]) -> str:
    with np.errstate(invalid="ignore"):
        span = np.maximum(true["max"] - true["min"], np.maximum(np.abs(true["max"]), np.abs(true["min"])))
        slack = EXTREMES_OFF * span + np.finfo(np.float32).tiny
        for key in MOMENTS:
            most = slack if key in ("min", "max") else MOMENTS_OFF * true["std"] + slack
            # Not "> most": a recorded NaN is wrong, too.
            off = ~(np.abs(said[key] - true[key]) <= most) & np.isfinite(true[key])
            if off.any():
                d = int(off.reshape(-1).argmax())
                recorded, found = (values[key].reshape(-1)[d] for values in (said, true))
                return f"{key} is {recorded:.6g}, that of the data {found:.6g}"
    return ""


def _wrong_pictures(said: Mapping[str, np.ndarray], true: Mapping[str, np.ndarray]) -> str:
    ratio = np.maximum(said["std"], 1e-9) / np.maximum(true["std"], 1e-9)
    outside = [key for key in ("min", "max", "mean") if not ((said[key] >= 0) & (said[key] <= 1)).all()]
    if outside:
        return f"{outside[0]} is outside [0, 1]"
    wrong_std = ~((ratio <= STD_RATIO) & (ratio >= 1 / STD_RATIO))
    wrong_mean = ~(np.abs(said["mean"] - true["mean"]) <= PIXELS_OFF)
    for key, wrong in (("std", wrong_std), ("mean", wrong_mean)):
        if wrong.any():
            recorded, found = (values[key].reshape(-1)[0] for values in (said, true))
            return f"{key} is {recorded:.4g}, that of the pictures {found:.4g}"
    return ""


def _arrays(numbers: Mapping[str, Any]) -> dict[str, np.ndarray]:
    return {key: _array(key, value) for key, value in numbers.items()}


def _array(key: str, value: Any) -> np.ndarray:
    # LeRobot's converter refuses a count that is a float in one episode and a whole number in another.
    return np.array(value, np.int64 if key == "count" else np.float64)


def _log(wrong: Mapping[str, str], where: str, episodes: Any, log: RepairLog) -> None:
    if wrong:
        shown = [f"{name}: {why}" for name, why in list(wrong.items())[:LISTED_FEATURES]]
        more = f", and {len(wrong) - len(shown)} more features" if len(wrong) > len(shown) else ""
        named = "; ".join(shown) + more
        log.change("recorded_statistics", where, f"{named}.", "Computed from the data.", episodes)
