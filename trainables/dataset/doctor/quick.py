"""What every launch checks: quick, nothing is decoded.

Metadata and vectors are read as a whole, for that takes a second; of every video the container is opened and
its last packets are looked at, which tells a missing or broken-off file without decoding it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.wording import episodes_of, exclude, in_episodes, leave_out, sentence, vectors
from trainables.dataset.format.decode import FramePart, VideoEnd, VideoError, packet_times, probe_video
from trainables.dataset.format.tables import available_cpus
from trainables.interface import Fault, Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["Probe", "dataset_faults", "probe_videos", "quick_findings"]

PROBES_AT_ONCE = 8
FLOAT32_STEPS = 4
"""A float32 timestamp may be off by so many of its own steps: after an hour a step is 0.24 ms."""
UNEVEN_FILES = 20
"""Videos whose packets are read where the timestamps are uneven: a few show what holds for all."""


def dataset_faults(dataset: LeRobotDataset, holdout_fraction: float = 0.0) -> list[Fault]:
    """Check an opened dataset: enough episodes, finite numbers, frames in order, whole videos.

    Args:
        dataset: The opened dataset.
        holdout_fraction: Share of the episodes to be held out.

    Returns:
        Everything that keeps it from being trained on; empty if nothing does.
    """
    errors = [found for found in quick_findings(dataset, probe_videos(dataset)) if found.severity == "error"]
    faults = [Fault(found.where, found.problem, found.remedy) for found in errors]
    return [*_split_faults(dataset, holdout_fraction), *faults]


def _split_faults(dataset: LeRobotDataset, holdout_fraction: float) -> list[Fault]:
    count = len(dataset.episodes)
    if holdout_fraction <= 0 or count >= 2:
        return []
    problem = f"{holdout_fraction:g} of {count} episode cannot be held out."
    return [Fault("dataset.holdout_fraction", problem, "Use at least two episodes, or 0 to hold out none.")]


def quick_findings(dataset: LeRobotDataset, probes: Mapping[str, Sequence[Probe]]) -> list[Finding]:
    """Everything that shows without decoding a picture and keeps a dataset from being trained on.

    Args:
        dataset: The opened dataset.
        probes: What ``probe_videos`` gives.
    """
    return [
        *_not_finite(dataset),
        *_order(dataset),
        *_timestamps(dataset),
        *_broken_videos(dataset, probes),
    ]


# -- numbers


def _not_finite(dataset: LeRobotDataset) -> list[Finding]:
    findings = []
    for name in vectors(dataset):
        values = dataset.vector(name)
        rows = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if not len(rows):
            continue
        row = int(rows[0])
        bad = values[row][~np.isfinite(values[row])][0]
        episodes = episodes_of(dataset, rows)
        problem = f"is {bad} in {dataset.name_row(row)}"
        if len(rows) > 1:
            problem += f"; {len(rows):,} such frames in {in_episodes(episodes)}"
        findings.append(
            Finding(
                check="not_finite",
                severity="error",
                where=name,
                problem=f"{problem}.",
                why="One such value in a batch turns the loss, and with it every weight, into NaN.",
                remedy=f"Repair the dataset, or {leave_out(dataset, episodes, name)}.",
                episodes=tuple(episodes),
            )
        )
    return findings


# -- time


def _order(dataset: LeRobotDataset) -> list[Finding]:
    """Compare ``frame_index`` with the order in which the rows of an episode lie."""
    if "frame_index" not in dataset.features:
        return []
    frame = dataset.column("frame_index")[:, 0].astype(np.int64)
    place = _places(dataset)
    wrong = frame != place
    if not wrong.any():
        return []
    scrambled: list[int] = []
    gapped: list[int] = []
    for episode in dataset.episodes:
        if wrong[episode.start : episode.stop].any():
            ascending = (np.diff(frame[episode.start : episode.stop]) > 0).all()
            (gapped if ascending else scrambled).append(episode.index)
    findings = []
    if scrambled:
        findings.append(
            Finding(
                check="frames_out_of_order",
                severity="error",
                where="frame_index",
                problem=f"does not ascend in {in_episodes(scrambled)}.",
                why="Windows are cut along the rows: the policy would learn motions that were never made.",
                remedy=f"Sort the rows of the data files, or {exclude(dataset, scrambled)}.",
                episodes=tuple(scrambled),
            )
        )
    if gapped:
        findings.append(
            Finding(
                check="missing_frames",
                severity="warning",
                where="frame_index",
                problem=f"leaves out frames in {in_episodes(gapped)}.",
                why="A window takes neighbouring rows for neighbouring moments: across the gap the robot "
                "seems to move faster than it did.",
                remedy=sentence(f"{exclude(dataset, gapped)}, or record them again."),
                episodes=tuple(gapped),
            )
        )
    return findings


def _places(dataset: LeRobotDataset) -> NDArray[np.int64]:
    """For each row its place in its episode."""
    lengths = [len(episode) for episode in dataset.episodes]
    starts = [episode.start for episode in dataset.episodes]
    return np.arange(len(dataset)) - np.repeat(starts, lengths)


def _timestamps(dataset: LeRobotDataset) -> list[Finding]:
    """Compare each timestamp with the frame's number divided by the frame rate."""
    if "timestamp" not in dataset.features:
        return []
    times_s = dataset.column("timestamp")[:, 0]
    seconds = times_s.astype(np.float64)
    place = _places(dataset)
    back = np.zeros(len(seconds), bool)
    back[1:] = (np.diff(seconds) <= 0) & (place[1:] > 0)
    if back.any():
        rows = np.flatnonzero(back)
        episodes = episodes_of(dataset, rows)
        return [
            Finding(
                check="timestamps",
                severity="error",
                where="timestamp",
                problem=f"does not increase at {dataset.name_row(int(rows[0]))} "
                f"({len(rows):,} such frames in {in_episodes(episodes)}).",
                why="Pictures are found by their time: the numbers of one moment would be shown with the "
                "picture of another.",
                remedy=f"Repair the timestamps (frame_index / fps), or {exclude(dataset, episodes)}.",
                episodes=tuple(episodes),
            )
        ]
    frame = dataset.column("frame_index")[:, 0] if "frame_index" in dataset.features else place
    tolerance_s = np.maximum(dataset.tolerance_s, FLOAT32_STEPS * np.spacing(np.abs(times_s)))
    off = ~(np.abs(seconds - frame / dataset.fps) <= tolerance_s)  # a time that is NaN is off, too
    return _uneven(dataset, np.flatnonzero(off), seconds) if off.any() else []


def _uneven(dataset: LeRobotDataset, rows: NDArray[np.int64], seconds: NDArray[np.float64]) -> list[Finding]:
    """Timestamps that are not frame / fps: harmless for pictures only where the videos have the same ones."""
    lost = _without_picture(dataset, rows)
    episodes = episodes_of(dataset, rows if lost is None else lost)
    row = int(rows[0] if lost is None else lost[0])
    step_s = float(np.median(np.diff(seconds)))
    problem = (
        f"is {seconds[row]:.4f} s at {dataset.name_row(row)}, and not frame / fps as info.json has it "
        f"(fps {dataset.fps:g}; the usual step is {step_s:.4f} s); in {in_episodes(episodes)}"
    )
    if lost is None:
        why = (
            "Actions are taken to be 1/fps apart: where they are not, the policy learns a wrong speed, and "
            "LeRobot refuses the set."
        )
    else:
        problem += ", where the video has no frame at that time"
        why = "Pictures are found by their time: these frames cannot be decoded."
    return [
        Finding(
            check="timestamps",
            severity="warning" if lost is None else "error",
            where="timestamp",
            problem=f"{problem}.",
            why=why,
            remedy=f"Repair the timestamps or fps in info.json, or {exclude(dataset, episodes)}.",
            episodes=tuple(episodes),
        )
    ]


def _without_picture(dataset: LeRobotDataset, rows: NDArray[np.int64]) -> NDArray[np.int64] | None:
    """Which of some rows have no video frame near their time; None: all have one, or there is no video."""
    lost: list[NDArray[np.int64]] = []
    for camera in dataset.policy_features.cameras:
        chosen = [part.choose(rows) for part in dataset.video_parts(camera.name)]
        for part in [part for part in chosen if len(part.rows)][:UNEVEN_FILES]:
            assert part.times_s is not None
            try:
                there_s = packet_times(part.path)
            except VideoError:
                continue  # is reported as a broken video
            nearest = np.abs(there_s[_nearest(there_s, part.times_s)] - part.times_s)
            lost.append(part.rows[nearest > dataset.tolerance_s])
    every = np.unique(np.concatenate(lost)) if lost else np.empty(0, np.int64)
    return every if len(every) else None


def _nearest(sorted_s: NDArray[np.float64], wanted_s: NDArray[np.float64]) -> NDArray[np.int64]:
    right = np.clip(np.searchsorted(sorted_s, wanted_s), 1, max(len(sorted_s) - 1, 1))
    right = np.minimum(right, len(sorted_s) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted_s - sorted_s[left] <= sorted_s[right] - wanted_s, left, right)


# -- videos


@dataclass(frozen=True)
class Probe:
    """What the end of a video file says.

    Attributes:
        part: The file, and the rows whose pictures it has.
        end: What it holds; None if it cannot be opened.
        error: Why it cannot be opened.
    """

    part: FramePart
    end: VideoEnd | None
    error: str = ""


def probe_videos(dataset: LeRobotDataset) -> dict[str, list[Probe]]:
    """Look at every video file of each camera, without decoding it."""
    probes = {}
    for camera in dataset.policy_features.cameras:
        with ThreadPoolExecutor(max_workers=min(PROBES_AT_ONCE, 2 * available_cpus())) as pool:
            probes[camera.name] = list(pool.map(_probe, dataset.video_parts(camera.name)))
    return probes


def _probe(part: FramePart) -> Probe:
    try:
        return Probe(part, probe_video(part.path))
    except VideoError as error:
        return Probe(part, None, str(error))


def _broken_videos(dataset: LeRobotDataset, probes: Mapping[str, Sequence[Probe]]) -> list[Finding]:
    findings = []
    for camera, probed in probes.items():
        broken = [_broken(probe) for probe in probed]
        # One finding for each kind of damage, not for each of perhaps thousands of files.
        for kind in sorted({kind for kind, _ in broken if kind}):
            which = [number for number, (found, _) in enumerate(broken) if found == kind]
            episodes = episodes_of(dataset, np.concatenate([broken[number][1] for number in which]))
            several = f"{len(which)} of {len(probed)} videos, first " if len(which) > 1 else ""
            path = probed[which[0]].part.path
            findings.append(
                Finding(
                    check="broken_video",
                    severity="error",
                    where=camera,
                    problem=f"the video {kind}; {in_episodes(episodes)} ({several}{path}).",
                    why="Every frame is decoded before training; these cannot be.",
                    remedy=f"Fetch again, or {leave_out(dataset, episodes, camera)}.",
                    episodes=tuple(episodes),
                )
            )
    return findings


def _broken(probe: Probe) -> tuple[str, NDArray[np.int64]]:
    """Say what is wrong with a video file, and which rows of the dataset it costs."""
    part, end = probe.part, probe.end
    assert part.times_s is not None
    if end is None:
        return probe.error, part.rows
    if (end.height, end.width) != part.shape[1:]:
        height, width = part.shape[1:]
        return f"is {end.height}×{end.width} px, info.json says {height}×{width}", part.rows
    cut = part.times_s > end.last_frame_s + max(part.tolerance_s, 0.5 / part.fps)
    return ("ends too early" if cut.any() else ""), part.rows[cut]
