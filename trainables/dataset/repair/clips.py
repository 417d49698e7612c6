"""Find the frames of each episode in the videos, and the times at which it starts and ends there.

A file with as many frames as rows tells them by counting, whatever the times in the metadata are. Otherwise
the times have to be right, but for rounding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.format.assign import EXACT_S, FLOAT32_STEPS, Stretch, first_frames, nearest_places
from trainables.dataset.format.episodes import EpisodeRecord, VideoPlace
from trainables.dataset.format.files import fetch_remedy
from trainables.dataset.format.metadata import Metadata
from trainables.dataset.format.video import Video, VideoError, probe_video
from trainables.dataset.repair.log import RepairLog, in_episodes
from trainables.dataset.repair.recording import Clip, Recording

__all__ = ["find_clips", "place_unlisted"]

SNAP = 0.1
"""A start that is off by less than this share of a frame is that of the nearest frame."""


def find_clips(metadata: Metadata, recordings: Sequence[Recording], log: RepairLog) -> None:
    """Give each recording its frames of each camera that has videos."""
    for camera, feature in metadata.features.items():
        if feature.dtype == "video":
            _Camera(metadata, camera, recordings, log).find()


def place_unlisted(metadata: Metadata, lengths: Mapping[int, int]) -> dict[int, EpisodeRecord]:
    """Find the videos of episodes that the table does not list.

    In v3.0 their frames are certain only if a file has exactly so many more frames than the listed episodes
    have rows.

    Args:
        metadata: The dataset's metadata.
        lengths: Rows of each of the episodes, by ascending number.

    Returns:
        The episodes whose videos were found.
    """
    cameras = [name for name, feature in metadata.features.items() if feature.dtype == "video"]
    find = _place_v3 if metadata.version == "v3.0" else _place_v2
    places = {camera: find(metadata, camera, lengths) for camera in cameras}
    return {
        own: EpisodeRecord(own, length, (), videos={camera: places[camera][own] for camera in cameras})
        for own, length in lengths.items()
        if all(own in places[camera] for camera in cameras)
    }


def _place_v2(metadata: Metadata, camera: str, lengths: Mapping[int, int]) -> dict[int, VideoPlace]:
    found: dict[int, VideoPlace] = {}
    for own in lengths:
        files = sorted((metadata.root / "videos").glob(f"chunk-*/{camera}/episode_{own:06d}.mp4"))
        if files:
            found[own] = VideoPlace(files[0].relative_to(metadata.root).as_posix(), 0.0)
    return found


def _place_v3(metadata: Metadata, camera: str, lengths: Mapping[int, int]) -> dict[int, VideoPlace]:
    listed = {record.own: record for record in metadata.episodes if camera in record.videos}
    by_file: dict[str, list[tuple[int, float]]] = {}
    ends_s: dict[int, float] = {}
    for own, length in lengths.items():
        before = max((other for other in {*listed, *ends_s} if other < own), default=None)
        neighbour = listed.get(before if before is not None else min(listed, default=-1))
        if before in ends_s:
            path, start_s = next(p for p, found in by_file.items() if before in dict(found)), ends_s[before]
        elif neighbour is None:
            continue
        else:
            place = neighbour.videos[camera]
            path, start_s = place.path, place.start_s + neighbour.length / metadata.fps
        by_file.setdefault(path, []).append((own, start_s))
        ends_s[own] = start_s + length / metadata.fps
    found: dict[int, VideoPlace] = {}
    for path, those in by_file.items():
        rows = sum(record.length for record in listed.values() if record.videos[camera].path == path)
        try:
            frames = probe_video(metadata.file(path)).frames
        except VideoError:
            continue
        if frames == rows + sum(lengths[own] for own, _ in those):
            found |= {own: VideoPlace(path, start_s) for own, start_s in those}
    return found


class _Camera:
    """The videos of one camera."""

    def __init__(
        self, metadata: Metadata, camera: str, recordings: Sequence[Recording], log: RepairLog
    ) -> None:
        self._metadata = metadata
        self._camera = metadata.recorded(camera)
        self._recordings = recordings
        self._log = log
        self._fps = metadata.fps
        self._lengths: dict[int, int] = {record.own: record.length for record in metadata.episodes}
        there: dict[int, int] = {}
        for recording in recordings:
            there[recording.origin] = there.get(recording.origin, 0) + len(recording)
        self._lengths |= there
        self._moved: list[tuple[int, float, float, float]] = []
        self._uneven: list[tuple[Recording, Path, Video]] = []
        self._lost: list[tuple[Recording, Path, Video]] = []
        self._broken: dict[str, list[tuple[int, Path]]] = {}

    def find(self) -> None:
        by_file: dict[Path, list[EpisodeRecord]] = {}
        every = {record.own: record for record in self._metadata.episodes}
        every |= {recording.origin: recording.record for recording in self._recordings}  # also unlisted ones
        for _, record in sorted(every.items()):
            place = record.videos.get(self._camera)
            if place is not None:
                by_file.setdefault(self._metadata.file(place.path), []).append(record)
        for path, records in by_file.items():
            owns = {record.own for record in records}
            self._in_file(path, records, [r for r in self._recordings if r.origin in owns])
        placeless = [r.origin for r in self._recordings if self._camera not in r.record.videos]
        for own in placeless:
            self._broken.setdefault("has no place in the table of episodes", []).append((own, Path("meta")))
        self._report()

    def _in_file(self, path: Path, records: Sequence[EpisodeRecord], recordings: Sequence[Recording]) -> None:
        try:
            video = probe_video(path)
            if not video.frames:
                raise VideoError("has no frames")
        except VideoError as error:
            for recording in recordings:
                self._broken.setdefault(str(error), []).append((recording.origin, path))
                start_s = recording.record.videos[self._camera].start_s
                recording.clips[self._camera] = Clip(path, start_s, np.full(len(recording), np.nan))
            return
        frames_s = video.times_s
        stretches = [Stretch(r.own, r.videos[self._camera].start_s, self._lengths[r.own]) for r in records]
        counted = len(frames_s) == sum(stretch.length for stretch in stretches)
        first = first_frames(stretches, self._fps) if counted else None
        used: set[int] = set()
        for recording in recordings:
            if first is not None:
                places = first[recording.origin] + recording.first + np.arange(len(recording))
                self._by_count(recording, path, video, frames_s[places])
            else:
                self._by_time(recording, path, video, frames_s, used)

    def _by_count(self, recording: Recording, path: Path, video: Video, times_s: NDArray[np.float64]) -> None:
        start_s = float(times_s[0]) - float(recording.frame[0]) / self._fps
        ascends = bool((np.diff(recording.frame) > 0).all())  # if not, that is listed
        if ascends and not self._fits(times_s, start_s, recording):
            self._uneven.append((recording, path, video))
        self._note(recording, start_s)
        recording.clips[self._camera] = Clip(path, start_s, times_s)

    def _by_time(
        self, recording: Recording, path: Path, video: Video, frames_s: NDArray[np.float64], used: set[int]
    ) -> None:
        said_s = recording.record.videos[self._camera].start_s + recording.first / self._fps
        wanted_s = said_s + recording.frame / self._fps
        if not np.isfinite(said_s):
            self._lost.append((recording, path, video))
            recording.clips[self._camera] = Clip(path, said_s, np.full(len(recording), np.nan))
            return
        nearest = nearest_places(frames_s, wanted_s)
        shift_s = float(frames_s[nearest[0]] - wanted_s[0])
        start_s = said_s + shift_s if EXACT_S < abs(shift_s) < SNAP / self._fps else said_s
        times_s = frames_s[nearest]
        places = set(nearest.tolist())
        fits = self._fits(times_s, start_s, recording) and len(places) == len(nearest)
        if not fits or used & places:
            self._lost.append((recording, path, video))
            start_s = said_s
        else:
            self._note(recording, start_s)
        used |= places
        recording.clips[self._camera] = Clip(path, start_s, times_s)

    def _fits(self, times_s: NDArray[np.float64], start_s: float, recording: Recording) -> bool:
        """Whether LeRobot finds these frames: by time, within its tolerance."""
        seconds = (recording.frame / self._fps).astype(np.float32)
        slack_s = np.maximum(EXACT_S, FLOAT32_STEPS * np.spacing(seconds).astype(np.float64))
        return bool((np.abs(times_s - (start_s + seconds.astype(np.float64))) <= slack_s).all())

    def _note(self, recording: Recording, start_s: float) -> None:
        if not recording.whole or self._metadata.version != "v3.0":
            return  # a new episode has no times yet, and v2.x records none
        place = recording.record.videos[self._camera]
        stop_s = start_s + (int(recording.frame[-1]) + 1) / self._fps
        off_s = max(abs(place.start_s - start_s), abs(place.stop_s - stop_s))
        if not off_s <= EXACT_S:  # also if it is not a number
            self._moved.append((recording.origin, place.start_s, start_s, stop_s))

    # -- what was found

    def _report(self) -> None:
        log, camera = self._log, self._camera
        if self._moved:
            own, said_s, start_s, stop_s = self._moved[0]
            episodes = [one[0] for one in self._moved]
            problem = f"the times in the video are not those of the frames in {in_episodes(episodes)}; "
            problem += f"episode {own} starts at {said_s:.4f} s."
            done = f"Those of the frames: episode {own} is from {start_s:.4f} to {stop_s:.4f} s."
            log.change("video_times", camera, problem, done, episodes)
        for kind, where in self._broken.items():
            episodes = sorted({own for own, _ in where})
            problem = f"the video {kind}; {in_episodes(episodes)} (first {self._named(where[0][1])})."
            remedy = fetch_remedy(kind, "Fetch the dataset again.")
            log.remains("broken_video", "error", camera, problem, "The pictures are lost.", remedy, episodes)
        if self._uneven:
            self._report_uneven()
        if self._lost:
            recording, path, video = self._lost[0]
            episodes = [one[0].origin for one in self._lost]
            log.remains(
                "lost_frames",
                "error",
                camera,
                f"rows of {in_episodes(sorted(set(episodes)))} have no frame of their own: "
                f"{self._named(path)} has {video.frames:,} frames, {len(recording):,} rows are in episode "
                f"{recording.origin}.",
                "The numbers of frames and rows differ, so that only times could tell which belong together, "
                "and the times do not fit.",
                "Check pictures and motion (`sweeper data show`), and leave the episodes out with "
                "dataset.exclude_episodes, or convert the recording again.",
                episodes,
            )

    def _report_uneven(self) -> None:
        _, path, video = self._uneven[0]
        episodes = sorted({one[0].origin for one in self._uneven})
        rate = f"{1 / video.step_s:.4g} frames a second" if video.step_s else "uneven steps"
        self._log.remains(
            "frames_by_row",
            "warning",
            self._camera,
            f"the video {self._named(path)} has {rate}, and info.json fps {self._fps:g}; "
            f"{in_episodes(episodes)}.",
            "There are as many frames as rows, so that training here reads them in order. Other times need "
            "another video file, and videos are copied as they are.",
            "Nothing for training here. For LeRobot set fps in meta/info.json to the video's if that is the "
            "robot's rate, or open the dataset with a larger tolerance_s.",
            episodes,
        )

    def _named(self, path: Path) -> str:
        root = self._metadata.root
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else path.as_posix()
