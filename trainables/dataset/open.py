"""Open LeRobot datasets: v3.0, v2.1 or v2.0, a folder, one in a store or one of the hub, or several as one.

An opened dataset is a table of rows, one per frame of the chosen episodes, counted from 0 whatever was left
out. Vectors are in memory; pictures are decoded on request, or once and for all by ``frames.open_frames``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

from trainables.dataset.errors import DatasetError, dataset_error
from trainables.dataset.format.metadata import Metadata, read_metadata
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.selection import (
    Renames,
    camera_faults,
    feature_faults,
    match_faults,
    place_faults,
    policy_features,
    rename_faults,
    rename_features,
    select_episodes,
    selection_faults,
)
from trainables.dataset.lerobot_dataset import Episode, LeRobotDataset
from trainables.dataset.opened_folder import DatasetFolder
from trainables.dataset.sources.find import Source, fetch_files, find_source
from trainables.interface import Fault
from trainables.ranges import Choice, parse_choice

__all__ = [
    "DatasetError",
    "DatasetFeature",
    "Episode",
    "Episodes",
    "LeRobotDataset",
    "Renames",
    "Sources",
    "open_dataset",
]

Progress = Callable[[str], None]
Sources = str | Path | Source | Sequence[str | Path | Source]
"""A folder, an address in a store, a hub's name, or several of them that are to be one dataset."""
Episodes = int | str | range | Iterable[int | str | range]
"""Numbers and ranges: ``7``, ``"0-99"`` with its end, ``"0:100"`` without it, ``range(100)``, or a list."""


def open_dataset(
    root_or_repo_id: Sources,
    *,
    revision: str | None = None,
    episodes: Episodes | None = None,
    exclude_episodes: Episodes = (),
    observations: Collection[str] | None = None,
    features: Renames | None = None,
    cache: Path | None = None,
    tolerance_s: float = 1e-4,
    progress: Progress | None = None,
) -> LeRobotDataset:
    """Open a dataset, or several as one: read the metadata and the vectors, decode nothing.

    Args:
        root_or_repo_id: A ``Path`` is a folder. A text is an address in a store (``s3://bucket/folder``), a
            folder if there is one, else a hub name. Several become one dataset if their features match,
            with episodes numbered on in this order.
        revision: Branch, tag or commit on the hub; None: the newest.
        episodes: The episodes to use, see ``Episodes``; None: all.
        exclude_episodes: Episodes to leave out.
        observations: Names of the observations to use; None: every one a diffusion policy can use.
        features: Features with another name in the files, by that name: ``{"actions": "action"}``; vectors
            that are put together from several, by their own name: ``{"action": ["shoulder", "elbow"]}``.
        cache: Folder for what is fetched; None: Hugging Face's own cache, which is none for stores.
        tolerance_s: How far a video frame may lie from its timestamp.
        progress: Told before something slow.

    Raises:
        DatasetError: With everything that is wrong with the folder, the choice or the features.
    """
    sources = _find_sources(root_or_repo_id, revision, cache, progress)
    sets = _numbered([read_metadata(source.root, source.field) for source in sources])
    chosen = None if episodes is None else _choice("dataset.episodes", episodes)
    left_out = _choice("dataset.exclude_episodes", exclude_episodes)
    faults = rename_faults(sets, features or {})
    if not faults:
        sets = [rename_features(metadata, features or {}) for metadata in sets]
        faults = selection_faults(sets, chosen, left_out) + _feature_faults(sources, sets, observations)
    if not faults:
        faults = place_faults(sets, chosen, left_out, observations)
    if faults:
        raise DatasetError(faults)
    used = policy_features(sets[0], observations)
    folders = []
    for source, metadata in zip(sources, sets, strict=True):
        records = select_episodes(metadata, chosen, left_out)
        cameras = [camera.name for camera in used.cameras]
        metadata = fetch_files(source, metadata, records, cameras, cache=cache, progress=progress).settled()
        records = select_episodes(metadata, chosen, left_out)
        folders.append(DatasetFolder(source, metadata, records, used))
    return LeRobotDataset(folders, used, tolerance_s, every_observation=observations is None)


def _find_sources(
    named: Sources, revision: str | None, cache: Path | None, progress: Progress | None
) -> list[Source]:
    each = [named] if isinstance(named, (str, Path, Source)) else named
    sources = [find_source(one, revision=revision, cache=cache, progress=progress) for one in each]
    if not sources:
        raise dataset_error("dataset.root", "no dataset is named.", "Name a folder or a dataset of the hub.")
    # A single one may be a path that no system takes, which is reported when it is read.
    places = [source.root.resolve() for source in sources] if len(sources) > 1 else []
    for place, source in enumerate(sources if places else ()):
        if places[place] in places[:place]:
            problem = f"{source.name} is named twice."
            why = "Every episode would be on both sides of the split. Name each dataset once."
            raise dataset_error(source.field, problem, why)
    return sources


def _numbered(sets: Sequence[Metadata]) -> list[Metadata]:
    """Number the episodes on: those of each set follow the highest number of the set before it."""
    numbered: list[Metadata] = []
    for metadata in sets:
        before = numbered[-1].episodes[-1].index + 1 if numbered and numbered[-1].episodes else 0
        numbered.append(metadata.numbered_from(before) if before else metadata)
    return numbered


def _choice(where: str, value: Episodes) -> Choice:
    try:
        return parse_choice(value)
    except ValueError as error:
        remedy = "Expected ints and ranges such as 0-99 (with its end) or 0:100 (without it)."
        raise dataset_error(where, f"{error}.", remedy) from error


def _feature_faults(
    sources: Sequence[Source], sets: Sequence[Metadata], observations: Collection[str] | None
) -> list[Fault]:
    faults = feature_faults(sets[0], observations)
    for metadata in sets[1:]:
        faults += feature_faults(metadata, None)
    for metadata in sets:
        faults += camera_faults(metadata, observations)
    if faults or len(sets) == 1:
        return faults
    names, fields = [source.name for source in sources], [source.field for source in sources]
    return match_faults(names, fields, sets, observations)
