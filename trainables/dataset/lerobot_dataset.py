"""An opened dataset: what training, the doctor and people ask of it. Opened by ``lerobot.open_dataset``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.errors import dataset_error
from trainables.dataset.format.decode import FramePart, decode_part
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.schema import plain_dimensions
from trainables.dataset.opened_folder import DatasetFolder
from trainables.features import PolicyFeatures
from trainables.interface import Finding

__all__ = ["Episode", "LeRobotDataset"]

UNKNOWN_TASK, AMBIGUOUS_TASK = -1, -2
"""Numbers of tasks whose number in a later folder has no text, or several."""


@dataclass(frozen=True)
class Episode:
    """An episode of an opened dataset.

    Attributes:
        index: Its number in the dataset on disk; in the second of several datasets counted on from the first.
        start: Its first row in the opened dataset.
        stop: The row after its last.
        tasks: What is done in it, in words.
    """

    index: int
    start: int
    stop: int
    tasks: tuple[str, ...]

    def __len__(self) -> int:
        return self.stop - self.start


class LeRobotDataset:
    """The chosen episodes of a dataset, or of several, with what a policy uses. Made by ``open_dataset``.

    Several datasets follow each other in the order in which they were named: rows, episodes and tasks are
    numbered on from one to the next. Tasks of the same text are one task.

    Attributes:
        sources: Where each of the datasets lies.
        root: The folder; of several the first one's.
        repo_id: The hub's name, or None for a folder; of several the first one's.
        revision: The hub's commit, or None for a folder; of several the first one's.
        version: ``v3.0``, ``v2.1`` or ``v2.0``; of several the first one's.
        fps: Frames per second.
        features: Every feature of info.json, by its name after renaming; of several datasets those that all
            have.
        policy_features: The chosen inputs and the action; image shapes (C, H, W) as recorded.
        episodes: The chosen episodes, by ascending index.
        tolerance_s: How far a video frame may lie from its timestamp.
    """

    def __init__(
        self,
        folders: Sequence[DatasetFolder],
        features: PolicyFeatures,
        tolerance_s: float,
        *,
        every_observation: bool = False,
    ) -> None:
        first = folders[0]
        self.sources = tuple(folder.source for folder in folders)
        self.root = first.metadata.root
        self.repo_id = first.source.repo_id
        self.revision = first.source.revision
        self.version = first.metadata.version
        self.fps = first.metadata.fps
        self.features = {
            name: feature
            for name, feature in first.metadata.features.items()
            if all(_has(folder.metadata, name, feature.shape) for folder in folders)
        }
        self.policy_features = features
        self.tolerance_s = tolerance_s
        records = [record for folder in folders for record in folder.records]
        stops = np.cumsum([record.length for record in records]).tolist()
        self.episodes = tuple(
            Episode(record.index, stop - record.length, stop, record.tasks)
            for record, stop in zip(records, stops, strict=True)
        )
        taken = {feature.name for feature in features.inputs}
        self._others = tuple(
            name
            for name, feature in self.features.items()
            if every_observation
            and name.startswith("observation.")
            and name not in taken
            and not feature.is_camera
            and all(folder.has_numbers(name) for folder in folders if len(folder))
        )
        self._every_observation = every_observation
        self._folders = tuple(folders)
        self._columns: dict[str, np.ndarray] = {}
        self._starts = np.array([episode.start for episode in self.episodes])
        self._folder_starts = [0, *np.cumsum([len(folder) for folder in folders]).tolist()]

    def __len__(self) -> int:
        """Count the frames."""
        return int(self._folder_starts[-1])

    @property
    def folders(self) -> tuple[DatasetFolder, ...]:
        """Each of the datasets by itself, in the order of the rows."""
        return self._folders

    @property
    def notes(self) -> tuple[Finding, ...]:
        """What was skipped, derived or ignored when the dataset was opened."""
        notes = (note for folder in self._folders for note in folder.notes)
        return (*notes, *self._unused(), *self._named_otherwise())

    def _named_otherwise(self) -> Iterator[Finding]:
        """Vectors whose dimensions have other names in a later dataset than in the first."""
        first, *others = [folder.metadata for folder in self._folders]
        cameras = {feature.name for feature in self.policy_features.cameras}
        vectors = [one.name for one in self.policy_features.all() if one.name not in cameras]
        for name in vectors if others else ():
            texts = plain_dimensions(first.features[name].names)
            for metadata in others:
                theirs = plain_dimensions(metadata.features[name].names)
                if texts == theirs or len(texts) != len(theirs):
                    continue  # also if one of them has no names, or only one for all dimensions
                yield Finding(
                    "dimension_names",
                    "warning",
                    name,
                    f"has other dimensions in {metadata.root} ({', '.join(theirs)}) than in {first.root} "
                    f"({', '.join(texts)}).",
                    "They become one dataset, and a policy knows a dimension by its place alone: joints and "
                    "positions, or two arms, would be mixed.",
                    "Check that they are the same quantities in the same order and units; otherwise name "
                    "only one of the datasets.",
                )

    def _unused(self) -> Iterator[Finding]:
        """Cameras that are left out, and features that cannot be read."""
        for folder in self._folders:
            metadata = folder.metadata
            info = str(metadata.root / "meta" / "info.json")
            for name, why in metadata.unusable.items():
                if name not in metadata.suspects:
                    yield Finding(
                        "unused_features", "note", info, f"{name} {why}: it is not used.", "",
                        "Correct it if it is needed.",
                    )  # fmt: skip
            for name, feature in metadata.features.items():
                other = name.startswith("observation") and not feature.is_camera and feature.dtype != "string"
                if self._every_observation and other and folder.with_rows and not folder.has_numbers(name):
                    yield Finding(
                        "unused_features", "note", info,
                        f"{name} (dtype {feature.dtype!r}) is not a column of numbers: it is not used.",
                    )  # fmt: skip
                if self._every_observation and feature.is_camera and feature.is_depth:
                    yield Finding(
                        "depth_maps",
                        "warning",
                        name,
                        "is a depth map by info.json: it is not used.",
                        "Its numbers are distances, mostly of 12 or 16 bits. The encoders of a diffusion "
                        "policy take colours of 8 bits.",
                        "Nothing, if the policy is to see colours only. To use depth, convert it to a colour "
                        "video of three channels.",
                    )

    @property
    def is_whole(self) -> bool:
        """Whether every episode of the dataset was chosen."""
        return len(self.episodes) == sum(len(folder.metadata.episodes) for folder in self._folders)

    @property
    def frames_on_disk(self) -> int:
        """Frames of the whole dataset, chosen or not."""
        return sum(folder.metadata.frames for folder in self._folders)

    @cached_property
    def rows_on_disk(self) -> NDArray[np.int64]:
        """For each opened row its number were the whole dataset opened."""
        records = [record for folder in self._folders for record in folder.metadata.episodes]
        stops = np.cumsum([record.length for record in records]).tolist()
        first = {record.index: stop - record.length for record, stop in zip(records, stops, strict=True)}
        return np.concatenate([first[e.index] + np.arange(len(e)) for e in self.episodes])

    def column(self, name: str) -> np.ndarray:
        """Give a feature's values (N, *shape), read once; floats of any width become float32.

        Raises:
            DatasetError: If there is no such feature, or it is a camera.
        """
        if name not in self._columns:
            if name not in self.features:
                raise dataset_error(
                    name, "no feature has this name.", f"There are: {', '.join(self.features)}."
                )
            if self.features[name].is_camera:
                raise dataset_error(name, "is a camera.", "Use pictures() or frames.open_frames().")
            parts = [
                self._numbered_on(name, place) for place, folder in enumerate(self._folders) if len(folder)
            ]
            self._columns[name] = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return self._columns[name]

    def _numbered_on(self, name: str, place: int) -> np.ndarray:
        """The values of one folder; where they number episodes, frames or tasks, as this dataset does."""
        metadata = self._folders[place].metadata
        values = self._folders[place].take(name)
        if place == 0:
            return values
        if name == "episode_index":
            return values + metadata.before
        if name == "index":
            return values + sum(other.metadata.frames for other in self._folders[:place])
        if name == "task_index":
            number_of = {text: number for number, text in self._tasks.items()}
            own, where = np.unique(values, return_inverse=True)
            numbers = [
                AMBIGUOUS_TASK
                if int(number) in metadata.ambiguous
                else number_of.get(metadata.tasks.get(int(number), ""), UNKNOWN_TASK)
                for number in own
            ]
            return np.array(numbers, values.dtype)[where].reshape(values.shape)
        return values

    @cached_property
    def _tasks(self) -> dict[int, str]:
        """Text of each task by its number; the first folder's numbers are kept."""
        texts = dict(self._folders[0].metadata.tasks)
        known = set(texts.values())
        for folder in self._folders[1:]:
            for text in folder.metadata.tasks.values():
                if text not in known:
                    texts[max(texts, default=-1) + 1] = text
                    known.add(text)
        return texts

    def vector(self, name: str) -> NDArray[np.float32]:
        """Give a feature's values as float32 (N, D), contiguous."""
        values = self.column(name)
        if values.dtype != np.float32 or values.ndim != 2:
            flat = np.ascontiguousarray(values, dtype=np.float32).reshape(len(values), -1)
            self._columns[name] = values = flat
        return values

    def episode_of(self, row: int) -> Episode:
        """Find the episode that a row belongs to."""
        return self.episodes[int(np.searchsorted(self._starts, row, side="right")) - 1]

    def name_row(self, row: int) -> str:
        """Name a row as a person would look for it: ``episode 3, frame 17``.

        Of several datasets also by its own number: ``episode 30, frame 17 (episode 5 of a/set)``.
        """
        episode = self.episode_of(row)
        named = f"episode {episode.index}, frame {row - episode.start}"
        if len(self._folders) == 1:
            return named
        folder = self._folders[int(np.searchsorted(self._folder_starts, row, side="right")) - 1]
        return f"{named} (episode {episode.index - folder.metadata.before} of {folder.source.name})"

    def task(self, row: int) -> str:
        """Say in words what is done at a row; empty if the dataset does not say."""
        number = int(self.column("task_index")[row, 0])
        if number in self._tasks:
            return self._tasks[number]
        # The number says nothing, or several things: then only a single task of the episode is certain.
        listed = self.episode_of(row).tasks
        possible = self._ambiguous.get(number)
        certain = len(listed) == 1 and (possible is None or listed[0] in possible)
        return listed[0] if certain else ""

    def task_text(self, number: int) -> str:
        """The text of a task's number; empty if it has none, or several."""
        return self._tasks.get(number, "")

    @cached_property
    def _ambiguous(self) -> dict[int, tuple[str, ...]]:
        """The texts of each task number that has several; those of later folders under one number."""
        others = [texts for folder in self._folders[1:] for texts in folder.metadata.ambiguous.values()]
        later = {AMBIGUOUS_TASK: tuple(text for texts in others for text in texts)} if others else {}
        return dict(self._folders[0].metadata.ambiguous) | later

    @cached_property
    def fingerprint(self) -> str:
        """Identify the dataset on disk: the same on every machine, another when its content changes.

        A sha256 over the hub's name and commit, or over the metadata, the data, and the sizes and some blocks
        of the videos; of several datasets a sha256 over theirs. It does not depend on which episodes and
        features were chosen, nor on what features are called.
        """
        if len(self._folders) == 1:
            return self._folders[0].fingerprint
        every = [folder.fingerprint for folder in self._folders]
        return hashlib.sha256(json.dumps(every).encode()).hexdigest()

    @property
    def identity(self) -> str:
        """Identify the opened rows: the fingerprint and which episodes were chosen."""
        chosen = [episode.index for episode in self.episodes]
        return hashlib.sha256(json.dumps([self.fingerprint, chosen]).encode()).hexdigest()

    # -- pictures

    def recorded_as(self, camera: str) -> str:
        """What a feature is called on disk; of several datasets that call it differently all its names."""
        names = [folder.metadata.recorded(camera) for folder in self._folders]
        return names[0] if len(set(names)) == 1 else json.dumps(names)

    def frame_parts(self, camera: str) -> list[FramePart]:
        """Say where each row's picture of ``camera`` is, file by file.

        Raises:
            DatasetError: If it is not a camera, or was not chosen.
        """
        return self._parts(camera, None)

    def video_parts(self, camera: str) -> list[FramePart]:
        """The same without pictures that lie in parquet files: one of several datasets may keep them so."""
        return [part for part in self.frame_parts(camera) if part.times_s is not None]

    def _parts(self, camera: str, episodes: NDArray[np.int64] | None) -> list[FramePart]:
        """The parts of some episodes, by their places in ``episodes``; None: of all."""
        feature = next((f for f in self.policy_features.cameras if f.name == camera), None)
        if feature is None:
            cameras = [f.name for f in self.policy_features.cameras]
            raise dataset_error(camera, "is not a chosen camera.", f"Chosen: {', '.join(cameras)}.")
        parts: list[FramePart] = []
        before = 0
        for folder, start in zip(self._folders, self._folder_starts, strict=False):
            places = None
            if episodes is not None:
                here = episodes[(episodes >= before) & (episodes < before + len(folder.records))]
                places = [int(place) - before for place in here]
            before += len(folder.records)
            if places == [] or not folder.records:
                continue
            times_s = None
            if folder.metadata.features[camera].dtype == "video":
                times_s = self.column("timestamp")[start : start + len(folder), 0]
            found = folder.frame_parts(feature, self.tolerance_s, times_s, places)
            parts += [replace(part, rows=part.rows + start) for part in found] if start else found
        return parts

    def pictures(
        self, camera: str, rows: NDArray[np.int64], size: tuple[int, int] | None = None
    ) -> NDArray[np.uint8]:
        """Decode the pictures of some rows, (K, C, H, W).

        Args:
            camera: The feature.
            rows: Rows of the opened dataset, in any order, repeated or not.
            size: Wanted (height, width); None: as recorded.

        Raises:
            DatasetError: If a picture cannot be decoded.
        """
        needed, where = np.unique(rows, return_inverse=True)
        found = dict(self.decoded(camera, needed, size))
        return np.stack([found[int(row)] for row in needed])[where]

    def decoded(
        self, camera: str, rows: NDArray[np.int64], size: tuple[int, int] | None
    ) -> Iterator[tuple[int, NDArray[np.uint8]]]:
        """Decode pictures one by one, file by file."""
        episodes = np.unique(np.searchsorted(self._starts, rows, side="right") - 1)
        for part in self._parts(camera, episodes):
            chosen = part.choose(rows)
            for piece in chosen.split(max(len(chosen.rows), 1)):
                yield from decode_part(piece, size, self.name_row)

    def window(self, index: int, n_obs_steps: int, horizon: int) -> dict[str, np.ndarray]:
        """Cut the window at a row, as LeRobot does: the edge frame is repeated where it leaves the episode.

        Args:
            index: The row of the last observation, from 0 to ``len(self) - 1``.
            n_obs_steps: Observations, the last one at the row.
            horizon: Actions.

        Returns:
            Each observation (n_obs_steps, *shape), cameras as uint8 (n_obs_steps, C, H, W); ``action``
            (horizon, A), from the first observation's step on; ``action_is_pad`` (horizon,), True where the
            action lies outside the episode. Vectors are float32, whatever they are on disk. Where no
            observations were chosen, also the observations that no policy uses, as they are on disk.

        Raises:
            DatasetError: If there is no such row or number of steps, or a picture cannot be decoded.
        """
        if not 0 <= index < len(self):
            raise dataset_error(
                "index", f"{index} is not a row.", f"The dataset has rows 0 to {len(self) - 1}."
            )
        if n_obs_steps < 1 or horizon < 1:
            steps = f"n_obs_steps {n_obs_steps} and horizon {horizon}"
            raise dataset_error("window", f"{steps} make no window.", "Both are at least 1.")
        episode = self.episode_of(index)
        observed = np.clip(index + np.arange(1 - n_obs_steps, 1), episode.start, episode.stop - 1)
        asked = index + np.arange(1 - n_obs_steps, 1 - n_obs_steps + horizon)
        acted = np.clip(asked, episode.start, episode.stop - 1)
        cameras = {feature.name for feature in self.policy_features.cameras}
        window: dict[str, np.ndarray] = {}
        for feature in self.policy_features.inputs:
            if feature.name in cameras:
                window[feature.name] = self.pictures(feature.name, observed)
            else:
                window[feature.name] = self.vector(feature.name)[observed]
        window |= {name: self.column(name)[observed] for name in self._others}
        window["action"] = self.vector("action")[acted]
        window["action_is_pad"] = asked != acted
        return window

    # -- statistics

    def rows_of(self, episodes: Collection[int] | None) -> NDArray[np.int64]:
        """List the rows of some episodes, by their indices; None: every row.

        Raises:
            DatasetError: If an episode was not chosen or does not exist.
        """
        if episodes is None:
            return np.arange(len(self))
        by_index = {episode.index: episode for episode in self.episodes}
        missing = sorted(set(episodes) - set(by_index))
        if missing:
            raise dataset_error("episodes", f"{missing} are not among the {len(by_index)} opened ones.")
        chosen = [by_index[index] for index in sorted(episodes)]
        return np.concatenate([np.arange(e.start, e.stop) for e in chosen] or [np.arange(0)])


def _has(metadata: Metadata, name: str, shape: tuple[int, ...]) -> bool:
    return name in metadata.features and metadata.features[name].shape == shape
