"""Open as much of a dataset as can be read, so that one fault hides no other.

What the metadata should say is taken from the files if they cannot be used: version and features from the
data files and videos, the frame rate from the timestamps, the episodes from the rows. What cannot be read at
all is left out, and only the checks that need it are skipped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from trainables.dataset.doctor.wording import named_files
from trainables.dataset.errors import DatasetError
from trainables.dataset.format.episodes import EpisodeRecord, read_episodes, record_v2
from trainables.dataset.format.files import find_parquet, read_json
from trainables.dataset.format.info import Info, info_faults, info_from
from trainables.dataset.format.metadata import Metadata, metadata_of, read_metadata
from trainables.dataset.format.schema import (
    DATA_PATH_V2,
    DATA_PATH_V3,
    INDEX_FEATURES,
    DatasetFeature,
)
from trainables.dataset.format.selection import (
    Renames,
    camera_faults,
    camera_place_faults,
    feature_faults,
    rename_faults,
    rename_features,
    select_episodes,
    usable_features,
)
from trainables.dataset.format.tables import column_features, plain_column
from trainables.dataset.format.video import VideoError, probe_video
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.opened_folder import DatasetFolder
from trainables.dataset.sources.find import Source, fetch_files
from trainables.features import ACTION, Feature, FeatureType, PolicyFeatures
from trainables.interface import Fault, Finding
from trainables.ranges import Choice, parse_choice

__all__ = ["Salvaged", "Wanted", "open_partly", "unreadable"]

OPENINGS = 5
"""The rows are read again without the episodes that cannot be; each kind of damage is reported at once for
all its episodes, so that a few openings are enough."""
USUAL_FPS = 30.0
"""What LeRobot records with unless told otherwise; taken if neither timestamps nor videos show the rate."""


@dataclass(frozen=True)
class Wanted:
    """What is asked of a dataset, as for ``open_dataset``."""

    episodes: Choice | None = None
    exclude_episodes: Choice = field(default_factory=lambda: parse_choice(()))
    observations: Collection[str] | None = None
    features: Renames = field(default_factory=dict)
    tolerance_s: float = 1e-4
    cache: Path | None = None


@dataclass
class Salvaged:
    """What can be read of a dataset.

    Attributes:
        dataset: The rest; None if there is nothing to examine.
        findings: Everything that is wrong with what was left out or replaced.
        skipped: What is not examined, in words.
        counted: Episodes that the metadata do not have and the data files do.
    """

    dataset: LeRobotDataset | None = None
    findings: list[Finding] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    counted: set[int] = field(default_factory=set)

    def add(self, faults: Iterable[Fault], instead: str = "") -> None:
        """Report faults, each once."""
        known = {(found.where, found.problem) for found in self.findings}
        new = [unreadable(fault, instead) for fault in faults]
        self.findings += [found for found in new if (found.where, found.problem) not in known]


def unreadable(fault: Fault, instead: str = "") -> Finding:
    """A fault that keeps a dataset from being opened, as a finding.

    Args:
        fault: What is wrong.
        instead: What the other checks use instead, as a sentence.
    """
    why = (
        "These episodes cannot be read as a whole, so that nothing can be learned from them."
        if fault.episodes
        else "What cannot be read cannot be trained on."
    )
    return Finding(
        check="unreadable_episodes" if fault.episodes else "unreadable_dataset",
        severity="error",
        where=fault.where,
        problem=fault.problem,
        why=f"{why} {instead}".rstrip(),
        remedy=fault.remedy or "Repair the dataset, or fetch it again.",
        episodes=fault.episodes,
        files=fault.files,
    )


def open_partly(source: Source, wanted: Wanted) -> Salvaged:
    """Open what can be read of one dataset.

    Args:
        source: Where it is.
        wanted: What is asked of it.
    """
    salvaged = Salvaged()
    metadata = _metadata(source.root, salvaged)
    if metadata is None:
        return salvaged
    faults = rename_faults([metadata], wanted.features)
    salvaged.add(faults)
    if not faults:
        metadata = rename_features(metadata, wanted.features)
    records = select_episodes(metadata, wanted.episodes, wanted.exclude_episodes)
    if not records:
        return salvaged
    used = _used_features(metadata, wanted, salvaged)
    cameras = [camera.name for camera in used.cameras]
    try:
        metadata = fetch_files(source, metadata, records, cameras, cache=wanted.cache).settled()
    except DatasetError as error:
        salvaged.add(error.faults)
        return salvaged
    records = select_episodes(metadata, wanted.episodes, wanted.exclude_episodes)
    records, used = _placed(metadata, records, used, salvaged)
    folder = _folder(source, metadata, records, used, salvaged) if records else None
    if folder is not None:
        every = wanted.observations is None
        salvaged.dataset = LeRobotDataset([folder[0]], folder[1], wanted.tolerance_s, every_observation=every)
    return salvaged


# -- what the files show if the metadata cannot be used


def _metadata(root: Path, salvaged: Salvaged) -> Metadata | None:
    """The metadata, with what the files show in place of what is wrong; None if there is too little."""
    path = root / "meta" / "info.json"
    said, unread = _info_json(root)
    faults = info_faults(path, said)
    if faults:
        shown = _shown_by_files(root, said.get("codebase_version"), set(faults))
        if shown is None:
            salvaged.add([*unread] or faults.values())
            return None
        salvaged.add(unread, f"The other checks use what the files show: {_in_words(shown)}.")
        for key, fault in faults.items() if not unread else ():
            salvaged.add([fault], f"The other checks use {_in_words({key: shown[key]})}, as the files show.")
        said |= {key: shown[key] for key in faults}
    info = info_from(path, said)
    if "features" in faults:
        for camera, films in _films(root, info.version).items():
            if camera not in info.features:
                salvaged.findings += _broken_films(camera, films)
                salvaged.skipped.append(f"the pictures of {camera} (no video of it can be opened)")
    tolerated: list[Fault] = []
    table = read_episodes(root, info, tolerated)
    other = _version(root)
    if not table.records and other is not None and (other == "v3.0") != (info.version == "v3.0"):
        salvaged.add(tolerated, f"The other checks read the files of {other}.")
        info = info_from(path, said | {"codebase_version": other})
        tolerated = []
        table = read_episodes(root, info, tolerated)
    if tolerated:
        counted = _counted_episodes(root, info, {record.index for record in table.records} | set(table.empty))
        instead = "The other checks use the episodes of the data files." if counted else ""
        salvaged.add(tolerated, instead)
        salvaged.counted = {record.index for record in counted}
        records = sorted([*table.records, *counted], key=lambda record: record.index)
        table = replace(table, records=tuple(records))
    return metadata_of(root, info, table) if table.records else None


def _info_json(root: Path) -> tuple[dict[str, Any], tuple[Fault, ...]]:
    """What info.json contains, or why it cannot be read."""
    path = root / "meta" / "info.json"
    try:
        if not path.is_file():
            read_metadata(root)  # raises with a hint about what the folder is instead
        return read_json(path), ()
    except DatasetError as error:
        return {}, error.faults


def _in_words(shown: Mapping[str, Any]) -> str:
    """Name the values that stand in for those of info.json."""
    words = {key: value for key, value in shown.items() if key not in ("features", "chunks_size")}
    named = [f"{key} {value:g}" if key == "fps" else str(value) for key, value in words.items()]
    named += [f"chunks_size {shown['chunks_size']}"] if "chunks_size" in shown else []
    named += [f"the features {', '.join(shown['features'])}"] if "features" in shown else []
    return ", ".join(named)


def _shown_by_files(root: Path, said_version: Any, keys: Collection[str]) -> dict[str, Any] | None:
    """Values of keys of info.json as the files show them; None if they do not show enough."""
    version = said_version if "codebase_version" not in keys else _version(root)
    if version is None:
        return None
    paths = _data_files(root, version)
    films = _films(root, version)
    shown: dict[str, Any] = {}
    if "codebase_version" in keys:
        shown["codebase_version"] = version
    if "fps" in keys:
        shown["fps"] = _fps(root, paths, films)
    if "chunks_size" in keys:
        shown["chunks_size"] = 1000
    if "features" in keys:
        features = {**_camera_features(films), **_columns(paths)}
        shown["features"] = {
            name: {"dtype": feature.dtype, "shape": list(feature.shape), "names": feature.names}
            for name, feature in features.items()
            if name not in INDEX_FEATURES
        }
        if not shown["features"]:
            return None
    return shown


def _version(root: Path) -> str | None:
    """The version that the folder's files have the names of."""
    if any((root / "meta" / "episodes").rglob("*.parquet")) or any(root.glob("data/*/file-*.parquet")):
        return "v3.0"
    if (root / "meta" / "episodes.jsonl").exists() or any(root.glob("data/*/episode_*.parquet")):
        return "v2.1"
    return None


def _data_files(root: Path, version: str) -> list[Path]:
    template = DATA_PATH_V3 if version == "v3.0" else DATA_PATH_V2
    return [root / name for name in find_parquet(root, "data", [template]).used]


def _films(root: Path, version: str) -> dict[str, list[Path]]:
    """The video files of each camera, by the names of the folders."""
    films: dict[str, list[Path]] = {}
    for path in sorted((root / "videos").glob("*/*/*.mp4")):
        key = path.parent.parent.name if version == "v3.0" else path.parent.name
        films.setdefault(key, []).append(path)
    return films


def _columns(paths: Iterable[Path]) -> dict[str, DatasetFeature]:
    """The columns of the first data file that can be read."""
    return next((columns for path in paths if (columns := column_features(path))), {})


def _camera_features(films: Mapping[str, list[Path]]) -> dict[str, DatasetFeature]:
    features = {}
    for camera, paths in films.items():
        for path in paths:
            try:
                video = probe_video(path)
            except VideoError:
                continue
            names = ["height", "width", "channels"]
            features[camera] = DatasetFeature("video", (video.height, video.width, 3), names)
            break
    return features


def _fps(root: Path, paths: Iterable[Path], films: Mapping[str, list[Path]]) -> float:
    """The frame rate by the timestamps, else by the videos, else by the table of episodes."""
    for path in paths:
        times_s = plain_column(path, "timestamp")
        if times_s is not None and (rate := _rate(times_s.astype(np.float64).reshape(-1))) is not None:
            return rate
    for film in [path for every in films.values() for path in every]:
        try:
            times_s = probe_video(film).times_s
        except VideoError:
            continue
        if (rate := _rate(times_s)) is not None:
            return rate
    return _listed_rate(root) or USUAL_FPS


def _listed_rate(root: Path) -> float | None:
    """Frames over seconds of an episode, as the table of episodes has them."""
    for path in sorted((root / "meta" / "episodes").rglob("*.parquet")):
        for camera in [name.removesuffix("/to_timestamp") for name in column_features(path)]:
            names = (f"{camera}/from_timestamp", f"{camera}/to_timestamp", "length")
            start_s, stop_s, length = (plain_column(path, name) for name in names)
            if start_s is not None and stop_s is not None and length is not None and len(length):
                return _sensible(float(length[0, 0]) / max(float(stop_s[0, 0] - start_s[0, 0]), 1e-9))
    return None


def _rate(times_s: np.ndarray) -> float | None:
    steps_s = np.diff(times_s)
    steps_s = steps_s[steps_s > 0]
    return _sensible(1 / float(np.median(steps_s))) if len(steps_s) else None


def _sensible(rate: float) -> float | None:
    """A rate without the rounding of its times; None if it cannot be one."""
    if not 0.01 < rate < 1e4:
        return None
    return float(round(rate)) if rate > 1 and abs(rate - round(rate)) < 0.01 * rate else rate


def _counted_episodes(root: Path, info: Info, known: Collection[int]) -> list[EpisodeRecord]:
    """The episodes of the data files that the table of episodes does not have."""
    lengths = _lengths(_data_files(root, info.version))
    if info.version == "v3.0":
        return [EpisodeRecord(one, length, ()) for one, length in lengths.items() if one not in known]
    return [record_v2(one, length, (), info) for one, length in lengths.items() if one not in known]


def _lengths(paths: Iterable[Path]) -> Counter[int]:
    """Rows of each episode in the data files that can be read."""
    lengths: Counter[int] = Counter()
    for path in paths:
        episode = plain_column(path, "episode_index")
        if episode is not None and episode.dtype.kind in "iu":
            numbers, counts = np.unique(episode, return_counts=True)
            for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
                if number >= 0:
                    lengths[number] += count
    return lengths


# -- features and rows


def _used_features(metadata: Metadata, wanted: Wanted, salvaged: Salvaged) -> PolicyFeatures:
    """The features that can be examined; those that a policy needs and that are missing are reported."""
    salvaged.add(
        [*feature_faults(metadata, wanted.observations), *camera_faults(metadata, wanted.observations)]
    )
    return _as_policy_features(
        feature
        for name, feature in usable_features(metadata).items()
        if (metadata.features[name].is_camera or _is_vector(metadata.features[name], feature))
        and (wanted.observations is None or name in (*wanted.observations, ACTION))
    )


def _is_vector(described: DatasetFeature, feature: Feature) -> bool:
    return len(feature.shape) == 1 and described.dtype != "string"


def _as_policy_features(features: Iterable[Feature]) -> PolicyFeatures:
    """The same as a policy's; an action of no numbers if there is none."""
    every = tuple(features)
    if not any(feature.name == ACTION for feature in every):
        every = (*every, Feature(ACTION, FeatureType.ACTION, (0,)))
    return PolicyFeatures.of(every)


def _placed(
    metadata: Metadata, records: tuple[EpisodeRecord, ...], used: PolicyFeatures, salvaged: Salvaged
) -> tuple[tuple[EpisodeRecord, ...], PolicyFeatures]:
    """Leave out episodes without a place in the videos, and cameras without any place."""
    lost: set[str] = set()
    for camera in used.cameras:
        for fault in camera_place_faults(metadata, records, camera.name):
            if (
                not {record.index for record in records if camera.name not in record.videos}
                <= salvaged.counted
            ):
                salvaged.add([fault])
            records = tuple(record for record in records if record.index not in fault.episodes)
            if not fault.episodes:
                lost.add(camera.name)
                films = _films(metadata.root, metadata.version).get(metadata.recorded(camera.name), [])
                salvaged.findings += _broken_films(camera.name, films)
                salvaged.skipped.append(f"the pictures of {camera.name} (their places are not known)")
    kept = _as_policy_features(feature for feature in used.all() if feature.name not in lost)
    return records, kept


def _broken_films(camera: str, paths: Sequence[Path]) -> list[Finding]:
    """The video files of a camera that cannot be opened, if their episodes are not known."""
    kinds: dict[str, list[str]] = {}
    for path in paths:
        try:
            probe_video(path)
        except VideoError as error:
            kinds.setdefault(str(error), []).append(str(path))
    return [
        Finding(
            check="broken_video",
            severity="error",
            where=camera,
            problem=f"the video {kind} ({named_files(files, len(paths))}).",
            why="Every frame is decoded before training; these cannot be.",
            remedy="Fetch again.",
            files=tuple(files),
        )
        for kind, files in kinds.items()
    ]


def _folder(
    source: Source,
    metadata: Metadata,
    records: tuple[EpisodeRecord, ...],
    used: PolicyFeatures,
    salvaged: Salvaged,
) -> tuple[DatasetFolder, PolicyFeatures]:
    """Read the rows: as the metadata say, else as the files have them, else only the videos."""
    for attempt in range(3):
        if attempt == 1:
            metadata, used = _with_columns_of_files(metadata, used, salvaged)
        if attempt == 2:
            metadata, records = _with_lengths_of_files(metadata, records)
        left = records
        for _ in range(OPENINGS):
            if not left:
                break
            try:
                return DatasetFolder(source, metadata, left, used), used
            except DatasetError as error:
                salvaged.add(error.faults)
                lost = {index for fault in error.faults for index in fault.episodes}
                if not lost:
                    break
                left = tuple(record for record in left if record.index not in lost)
    salvaged.skipped.append("states and actions (the data files cannot be read)")
    films = [camera for camera in used.cameras if metadata.features[camera.name].dtype == "video"]
    only_films = _as_policy_features(films)
    return DatasetFolder(source, metadata, records, only_films, with_rows=False), only_films


def _with_columns_of_files(
    metadata: Metadata, used: PolicyFeatures, salvaged: Salvaged
) -> tuple[Metadata, PolicyFeatures]:
    """Take the shapes of vectors from the data files, and do without those that they lack."""
    columns = _columns(metadata.root / name for name in metadata.data_files(metadata.episodes))
    if not columns:
        return metadata, used
    features = dict(metadata.features)
    kept = []
    for feature in used.all():
        name = feature.name
        if features.get(name) is None or name in metadata.joined or features[name].dtype == "video":
            kept.append(feature)
            continue
        column = columns.get(metadata.recorded(name))
        if column is None or (column.dtype == "image") != features[name].is_camera:
            salvaged.skipped.append(f"{name} (the data files do not have it)")
            del features[name]
            continue
        if not features[name].is_camera and column.shape != features[name].shape:
            features[name] = replace(features[name], shape=column.shape, names=None)
            feature = replace(feature, shape=(int(np.prod(column.shape)),))
        kept.append(feature)
    return replace(metadata, features=features), _as_policy_features(kept)


def _with_lengths_of_files(
    metadata: Metadata, records: tuple[EpisodeRecord, ...]
) -> tuple[Metadata, tuple[EpisodeRecord, ...]]:
    """Take the lengths of the episodes from the data files; episodes without rows are left out.

    Nothing is changed if an episode is in several files: those are copies, or sets with the same numbers.
    """
    paths = [metadata.root / name for name in metadata.data_files(records)]
    by_file = [_lengths([path]) for path in paths]
    lengths: Counter[int] = sum(by_file, Counter())
    if any(sum(one in found for found in by_file) > 1 for one in lengths):
        return metadata, records
    counted = tuple(replace(r, length=lengths[r.own]) for r in records if lengths[r.own])
    if not counted:
        return metadata, records
    others = {record.index: record for record in counted}
    every = tuple(others.get(record.index, record) for record in metadata.episodes)
    return replace(metadata, episodes=every), counted
