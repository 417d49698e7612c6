"""Read the metadata of LeRobot folders: what there is, and where. No data, no pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.episodes import EpisodeRecord, EpisodeTable, read_episodes, skipped_note
from trainables.dataset.format.files import FoundFiles, find_parquet
from trainables.dataset.format.info import Info, read_info
from trainables.dataset.format.schema import DATA_PATH_V3, DatasetFeature
from trainables.files import refusal
from trainables.interface import Finding

__all__ = ["WHAT_A_DATASET_IS", "Metadata", "check_folder", "metadata_of", "read_metadata"]

WHAT_A_DATASET_IS = (
    "A LeRobot dataset is a folder with meta/info.json, data/chunk-000/*.parquet and, if it has cameras, "
    "videos/."
)


@dataclass(frozen=True)
class Metadata:
    """A dataset's metadata.

    Attributes:
        root: The dataset's folder.
        version: ``v3.0``, ``v2.1`` or ``v2.0``.
        fps: Frames per second.
        features: Every feature of info.json, in order.
        episodes: Every episode, by ascending index.
        tasks: Text of each task by its number.
        files: The metadata files that were read, relative to the folder.
        ambiguous: The texts of each task number that has several.
        empty: Numbers of the episodes that have no frames and are left out.
        unusable: Why each feature that is not among ``features`` cannot be read, as the end of a sentence.
        suspects: Why features seem to be cameras and are not described as such, as the end of a sentence.
        notes: What was skipped or derived.
        data_path: Where the data files of v3.0 are, with placeholders.
        renamed: For each feature with another name in the files, that name.
        joined: For each vector that is put together from several features these, by their names in the files.
        before: As for ``EpisodeRecord``.
    """

    root: Path
    version: str
    fps: float
    features: Mapping[str, DatasetFeature]
    episodes: tuple[EpisodeRecord, ...]
    tasks: Mapping[int, str]
    files: tuple[str, ...]
    ambiguous: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    empty: tuple[int, ...] = ()
    unusable: Mapping[str, str] = field(default_factory=dict)
    suspects: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[Finding, ...] = ()
    data_path: str = DATA_PATH_V3
    renamed: Mapping[str, str] = field(default_factory=dict)
    joined: Mapping[str, Mapping[str, DatasetFeature]] = field(default_factory=dict)
    before: int = 0

    @property
    def frames(self) -> int:
        """Frames of all episodes."""
        return sum(episode.length for episode in self.episodes)

    def recorded(self, name: str) -> str:
        """What a feature is called in the files."""
        return self.renamed.get(name, name)

    def numbered_from(self, first: int) -> Metadata:
        """The same with ``first`` added to the episodes' numbers."""
        episodes = tuple(replace(e, index=e.own + first, before=first) for e in self.episodes)
        return replace(self, episodes=episodes, before=first)

    def data_files(self, episodes: Iterable[EpisodeRecord]) -> list[str]:
        """List the data files of ``episodes``, relative to the folder; in v3.0 those of the whole dataset."""
        if self.version == "v3.0":
            return list(self.found_data().used)
        return [episode.data for episode in episodes if episode.data is not None]

    def found_data(self) -> FoundFiles:
        """Find the data files of v3.0."""
        return find_parquet(self.root, "data", [self.data_path, DATA_PATH_V3])

    def settled(self) -> Metadata:
        """The same with each file where it is, if it is at another usual place than the metadata say.

        To be asked for when the files have been fetched.
        """
        moved: list[str] = []
        episodes = tuple(self._settled(episode, moved) for episode in self.episodes)
        notes = list(self.notes)
        if moved:
            problem = f"{len(moved):,} files are not where info.json says; first {moved[0]}."
            why = "They were found where LeRobot writes them."
            remedy = "Correct data_path, video_path or chunks_size in meta/info.json."
            info = str(self.root / "meta" / "info.json")
            files = tuple(str(self.root / path) for path in moved)
            notes.append(Finding("template", "warning", info, problem, why, remedy, files=files))
        if self.version == "v3.0":
            found = self.found_data()
            if found.skipped:
                notes.append(skipped_note(self.root, found.skipped, found.used))
            if found.elsewhere:
                problem = (
                    f"the data files are not where info.json says ({self.data_path}); first {found.used[0]}."
                )
                notes.append(Finding("template", "warning", str(self.root / "meta" / "info.json"), problem))
        notes += self._unlisted_videos()
        return replace(self, episodes=episodes, notes=tuple(notes))

    def _unlisted_videos(self) -> list[Finding]:
        """Cameras that have videos, and of which info.json knows nothing."""
        pattern = "*" if self.version == "v3.0" else "chunk-*/*"
        found = {path.name for path in (self.root / "videos").glob(pattern) if path.is_dir()}
        known = {self.recorded(name) for name in self.features} | set(self.unusable)
        unlisted = sorted(name for name in found - known if not name.startswith((".", "chunk-")))
        if not unlisted:
            return []
        problem = f"there are videos of {', '.join(unlisted)}, and info.json has no such feature: not used."
        remedy = "Add it to the features of meta/info.json if the policy is to see it."
        return [Finding("unlisted_videos", "warning", str(self.root / "videos"), problem, "", remedy)]

    def _settled(self, episode: EpisodeRecord, moved: list[str]) -> EpisodeRecord:
        data = episode.data
        if data is not None and episode.other_data and not (self.root / data).exists():
            data = self._there(data, episode.other_data, moved)
        videos = {}
        for camera, place in episode.videos.items():
            if place.others and not self.file(place.path).exists():
                place = replace(place, path=self._there(place.path, place.others, moved))
            videos[camera] = place
        return replace(episode, data=data, videos=videos)

    def _there(self, path: str, others: Iterable[str], moved: list[str]) -> str:
        other = next((other for other in others if self.file(other).exists()), None)
        if other is None:
            return path
        moved.append(other)
        return other

    def file(self, path: str) -> Path:
        """Find a video file; some sets have it under ``video/`` where the metadata says ``videos/``."""
        whole = self.root / path
        if not whole.exists() and path.startswith("videos/"):
            other = self.root / ("video/" + path.removeprefix("videos/"))
            if other.exists():
                return other
        return whole


def read_metadata(root: Path, where: str = "dataset.root") -> Metadata:
    """Read a dataset's metadata.

    Args:
        root: The dataset's folder.
        where: Name of the field that names the folder, for the error's text.

    Raises:
        DatasetError: If the folder is not a LeRobot dataset, or one of an unknown version, or broken.
    """
    check_folder(root, where)
    info_path = root / "meta" / "info.json"
    if not info_path.is_file():
        problem = f"{str(root)!r} has no meta/info.json{_what_else(root)}."
        raise dataset_error(where, problem, _nearby(root) or WHAT_A_DATASET_IS)
    return metadata_of(root, read_info(info_path))


def check_folder(root: Path, where: str = "dataset.root") -> None:
    """Check that there is a folder.

    Args:
        root: The folder of a dataset.
        where: Name of the field that names the folder, for the error's text.

    Raises:
        DatasetError: If it does not exist, is a file, or cannot be opened.
    """
    refused = refusal(root)
    if refused:
        remedy = "Check the spelling, the owner and the permissions."
        raise dataset_error(where, f"{str(root)!r} {refused}.", remedy)
    if root.is_dir():
        return
    if not root.is_file():
        raise dataset_error(where, f"{str(root)!r} is not a folder.", WHAT_A_DATASET_IS)
    remedy = _nearby(root) or WHAT_A_DATASET_IS
    if root.suffix.lower() in ARCHIVES:
        remedy = f"Unpack it first, and name the folder. {WHAT_A_DATASET_IS}"
    raise dataset_error(where, f"{str(root)!r} is a file, not a folder.", remedy)


ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst", ".7z")


def metadata_of(root: Path, info: Info, table: EpisodeTable | None = None) -> Metadata:
    """The metadata of a dataset whose info.json was read.

    Args:
        root: The folder of the dataset.
        info: Its info.json.
        table: Its table of episodes; None to read it.

    Raises:
        DatasetError: If the table is to be read, and is broken.
    """
    table = read_episodes(root, info) if table is None else table
    return Metadata(
        root=root,
        version=info.version,
        fps=info.fps,
        features=info.features,
        episodes=table.records,
        tasks=table.tasks,
        files=("meta/info.json", *table.files),
        ambiguous=table.ambiguous,
        empty=table.empty,
        unusable=info.unusable,
        suspects=info.suspects,
        notes=table.notes,
        data_path=info.data.usual if info.data.problem() else info.data.text,
    )


OTHER_FORMATS = {
    "meta_data/info.json": "it is a LeRobot dataset of version 1.x, which LeRobot 0.3 converts",
    ".zgroup": "it contains zarr, the format of the Diffusion Policy paper's code",
    "zarr.json": "it contains zarr",
    "*.hdf5": "it contains HDF5, the format of robomimic and ALOHA",
    "*.h5": "it contains HDF5",
    "*.bag": "it contains ROS bags",
    "*.mcap": "it contains MCAP recordings",
    "*.db3": "it contains ROS 2 bags",
    "*.tfrecord*": "it contains TFRecord files, the format of Open X-Embodiment",
    "*.arrow": "it contains Arrow files of the library datasets",
}


def _what_else(root: Path) -> str:
    """Name the format of a folder that is not a LeRobot dataset, if it is a known one."""
    # A home folder or a whole disk may be named by mistake: only the first levels are looked at.
    for above in ("", "*/", "*/*/"):
        for pattern, said in OTHER_FORMATS.items():
            if next(iter(root.glob(f"{above}{pattern}")), None) is not None:
                return f": {said}"
    return ""


def _nearby(root: Path) -> str:
    """Name datasets inside a folder or around it: a folder too high or too low is easily named."""
    inner = sorted(path.parent.parent for path in root.glob("*/meta/info.json"))
    inner += sorted(path.parent.parent for path in root.glob("*/*/meta/info.json"))
    if inner:
        shown = ", ".join(str(path) for path in inner[:5])
        return f"It contains {'a dataset' if len(inner) == 1 else f'{len(inner)} datasets'}: {shown}."
    outer = next(
        (path for path in root.resolve().parents[:3] if (path / "meta" / "info.json").is_file()), None
    )
    return f"It is inside a dataset: {outer}." if outer is not None else ""
