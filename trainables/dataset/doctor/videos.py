"""What the headers of the videos, and the first pictures of data files, show: nothing is decoded.

A missing, truncated or foreign file is found, and every row that has no frame of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.wording import episodes_of, in_episodes, leave_out, named_files, sentence
from trainables.dataset.format.assign import EXACT_S, nearest_places
from trainables.dataset.format.decode import DEPTH, FramePart, depth_video, first_picture, lost_frame
from trainables.dataset.format.files import fetch_remedy
from trainables.dataset.format.tables import available_cpus
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["VideoParts", "open_videos", "video_findings"]

VideoParts = Mapping[str, Sequence[FramePart]]
"""For each camera its video files, with the frames of the rows."""

MOST_THREADS = 16
ADVISED_STEPS = (1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2)
"""Values of dataset.tolerance_s that are proposed, in seconds."""


def open_videos(dataset: LeRobotDataset) -> dict[str, list[FramePart]]:
    """Open every video file of each camera, without decoding it."""
    return {camera.name: dataset.video_parts(camera.name) for camera in dataset.policy_features.cameras}


def video_findings(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Everything that shows without decoding a picture.

    Args:
        dataset: The opened dataset.
        videos: What ``open_videos`` gives.
    """
    return [
        *_broken_videos(dataset, videos),
        *_first_pictures(dataset),
        *_lost_frames(dataset, videos),
        *_read_by_row(dataset, videos),
        *_tolerated(dataset, videos),
        *_stretches(dataset, videos),
    ]


def _broken_videos(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    findings = []
    for camera, parts in videos.items():
        broken = [_broken(part) for part in parts]
        # One finding for each kind of damage, not for each of perhaps thousands of files.
        for kind in sorted({kind for kind, _ in broken if kind}):
            which = [number for number, (found, _) in enumerate(broken) if found == kind]
            episodes = episodes_of(dataset, np.concatenate([broken[number][1] for number in which]))
            paths = [str(parts[number].path) for number in which]
            fetch = fetch_remedy(kind, "Fetch again.").removesuffix(".")
            findings.append(
                Finding(
                    check="broken_video",
                    severity="error",
                    where=camera,
                    problem=f"the video {kind}; {in_episodes(episodes)} ({named_files(paths, len(parts))}).",
                    why="Every frame is decoded before training; these cannot be.",
                    remedy=f"{fetch}, or {leave_out(dataset, episodes, camera)}.",
                    episodes=tuple(episodes),
                    files=tuple(paths),
                )
            )
    return findings


def _broken(part: FramePart) -> tuple[str, NDArray[np.int64]]:
    """Say what is wrong with a video file, and which rows of the dataset it costs."""
    video = part.video
    if video is None:
        return part.error, part.rows
    depth = depth_video(part)
    if depth:
        return depth, part.rows
    if (video.height, video.width) != part.shape[1:]:
        height, width = part.shape[1:]
        return f"is {video.height}×{video.width} px, info.json says {height}×{width}", part.rows
    cut = _behind_the_end(part)
    return ("ends too early" if cut.any() else ""), part.rows[cut]


def _first_pictures(dataset: LeRobotDataset) -> list[Finding]:
    """Look at the first picture of each data file, for cameras whose pictures are in these files."""
    findings = []
    for camera in dataset.policy_features.cameras:
        parts = [part for part in dataset.frame_parts(camera.name) if part.times_s is None and len(part.rows)]
        if not parts:
            continue
        with ThreadPoolExecutor(max_workers=min(2 * available_cpus(), MOST_THREADS)) as pool:
            kinds = list(pool.map(first_picture, parts))
        for kind in sorted({kind for kind in kinds if kind}):
            found = [part for part, other in zip(parts, kinds, strict=True) if other == kind]
            rows = [part.rows if DEPTH in kind else part.rows[:1] for part in found]
            episodes = episodes_of(dataset, np.concatenate(rows))
            paths = [str(part.path) for part in found]
            findings.append(
                Finding(
                    check="unreadable_pictures",
                    severity="error",
                    where=camera.name,
                    problem=f"the picture of {dataset.name_row(int(found[0].rows[0]))} {kind} "
                    f"({named_files(paths, len(parts), 'files')}).",
                    why="Every frame is decoded before training; these cannot be.",
                    remedy=f"Fetch again, or {leave_out(dataset, episodes, camera.name)}.",
                    episodes=tuple(episodes),
                    files=tuple(paths),
                )
            )
    return findings


def _behind_the_end(part: FramePart) -> NDArray[np.bool_]:
    """Frames that would be behind the last one of the file."""
    assert part.times_s is not None
    if part.video is None:
        return np.zeros(len(part.rows), bool)
    return part.times_s > part.video.last_frame_s + 0.5 / part.fps


def _lost_frames(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Rows that have no frame of their own, in videos that are whole."""
    findings = []
    for camera, parts in videos.items():
        found = [(part, _lost_inside(part)) for part in parts]
        found = [(part, lost) for part, lost in found if lost.any()]
        if not found:
            continue
        rows = np.unique(np.concatenate([part.rows[lost] for part, lost in found]))
        episodes = episodes_of(dataset, rows)
        part, lost = found[0]
        assert part.times_s is not None
        assert part.video is not None
        position = int(np.flatnonzero(lost)[0])
        paths = [str(part.path) for part, _ in found]
        in_file = f"{part.video.frames:,} frames for {len(part.rows):,} rows"
        tolerance = _helpful_tolerance([part for part, _ in found], dataset.fps)
        wider = (
            f"Set dataset.tolerance_s: {tolerance:g} if that is the right picture, or " if tolerance else ""
        )
        findings.append(
            Finding(
                check="lost_frames",
                severity="error",
                where=camera,
                problem=f"{len(rows):,} rows of {in_episodes(episodes)} have no frame of their own; "
                f"{dataset.name_row(int(part.rows[position]))}: the video {lost_frame(part, position)} "
                f"({in_file}; {named_files(paths, len(parts))}).",
                why="Frames are found by time if a video has not as many of them as rows, and no frame is "
                "used twice: the policy would see the picture of another moment.",
                remedy=sentence(f"{wider}{leave_out(dataset, episodes, camera)}."),
                episodes=tuple(episodes),
                files=tuple(paths),
            )
        )
    return findings


def _lost_inside(part: FramePart) -> NDArray[np.bool_]:
    if part.video is None or part.lost is None:
        return np.zeros(len(part.rows), bool)
    return part.lost & ~_behind_the_end(part)


def _helpful_tolerance(parts: Sequence[FramePart], fps: float) -> float | None:
    """The smallest proposed tolerance below half a frame with which each row has a frame of its own."""
    needed_s = 0.0
    for part in parts:
        assert part.times_s is not None
        assert part.video is not None
        if not np.isfinite(part.times_s).all():
            return None
        nearest = nearest_places(part.video.times_s, part.times_s)
        if len(np.unique(nearest)) < len(nearest):
            return None
        needed_s = max(needed_s, float(np.abs(part.video.times_s[nearest] - part.times_s).max()))
    return next((step for step in ADVISED_STEPS if needed_s < step and needed_s < 0.5 / fps), None)


def _read_by_row(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Videos whose frames were assigned in the order of the rows, because their times differ."""
    findings = []
    for camera, parts in videos.items():
        found = [part for part in parts if part.by_row]
        if not found:
            continue
        rows = np.concatenate([part.rows[_offset_s(part) > EXACT_S] for part in found])
        episodes = episodes_of(dataset, rows)
        findings.append(
            Finding(
                check="frames_by_row",
                severity="warning",
                where=camera,
                problem=f"the times of {in_episodes(episodes)} are not those of the frames in the video. "
                f"{len(found)} of {len(parts)} videos with as many frames as rows are read in the order of "
                f"the rows instead (first {found[0].path}).",
                why="The first row has the first frame, and so on: training is not affected. LeRobot finds "
                "frames by time: it refuses the set, or shows other pictures.",
                remedy="Check pictures and motion (`sweeper data show`). For LeRobot, repair the timestamps, "
                "the from_timestamp in meta/episodes, or the frame rate of the video.",
                episodes=tuple(episodes),
                files=tuple(str(part.path) for part in found),
            )
        )
    return findings


def _tolerated(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Frames that are accepted only because dataset.tolerance_s was raised."""
    findings = []
    for camera, parts in videos.items():
        found = [(part, _offset_s(part)) for part in parts if not part.by_row]
        found = [(part, offset_s) for part, offset_s in found if (offset_s > EXACT_S).any()]
        if not found:
            continue
        rows = np.concatenate([part.rows[offset_s > EXACT_S] for part, offset_s in found])
        episodes = episodes_of(dataset, rows)
        most_s = max(float(offset_s.max()) for _, offset_s in found)
        findings.append(
            Finding(
                check="frames_off",
                severity="warning",
                where=camera,
                problem=f"{len(rows):,} frames of {in_episodes(episodes)} are up to {most_s:.4f} s away from "
                f"their row's time, which dataset.tolerance_s: {dataset.tolerance_s:g} allows.",
                why="The picture is that of another moment than the numbers: at the most by this time.",
                remedy="Check whether the offset is real (`sweeper data show`), and repair the timestamps or "
                f"{leave_out(dataset, episodes, camera)}.",
                episodes=tuple(episodes),
            )
        )
    return findings


def _offset_s(part: FramePart) -> NDArray[np.float64]:
    """How far each frame is from the time of its row; 0 for rows without a frame."""
    if part.wanted_s is None or part.lost is None or part.video is None:
        return np.zeros(len(part.rows))
    assert part.times_s is not None
    offset_s = np.abs(part.times_s - part.wanted_s)
    return np.where(part.lost, 0.0, np.where(np.isnan(offset_s), np.inf, offset_s))


def _stretches(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Stretches of a shared video that are not as long as their episode, in files that are read by time."""
    findings = []
    for camera, parts in videos.items():
        # A file with as many frames as rows is read by row: the stretches do not matter.
        by_time = [
            part.rows for part in parts if part.video is not None and part.video.frames != len(part.rows)
        ]
        concerned = set(episodes_of(dataset, np.concatenate(by_time))) if by_time else set()
        lengths_s = {
            record.index: (record.length / dataset.fps, place.stop_s - place.start_s)
            for folder in dataset.folders
            for record in folder.records
            if record.index in concerned and (place := record.videos.get(camera)) is not None
        }
        wrong = [index for index, (true, said) in lengths_s.items() if abs(said - true) > 0.5 / dataset.fps]
        if not wrong:
            continue
        true, said = lengths_s[wrong[0]]
        findings.append(
            Finding(
                check="stretch_length",
                severity="warning",
                where=camera,
                problem=f"the stretch of the video is not as long as {in_episodes(wrong)}: {said:.2f} s for "
                f"{true:.2f} s of rows in episode {wrong[0]}.",
                why="Frames were lost or added: the last rows of the episode may show another moment.",
                remedy="Check pictures and motion (`sweeper data show`), or "
                f"{leave_out(dataset, wrong, camera)}.",
                episodes=tuple(wrong),
            )
        )
    return findings
