"""Whether the dataset's books agree: totals, numbering, frames in the videos, recorded statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.videos import VideoParts
from trainables.dataset.doctor.wording import counted, episodes_of, exclude, in_episodes, sentence, vectors
from trainables.dataset.format.recorded import (
    Recorded,
    recorded_statistics,
    recorded_totals,
    statistics_problem,
)
from trainables.dataset.statistics import Statistics
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset
    from trainables.dataset.opened_folder import DatasetFolder

__all__ = ["Book", "bookkeeping_findings", "image_statistics_findings", "open_books", "totals_findings"]

EXTREMES_OFF = 1e-4
"""Recorded extremes are copies of float32 values: a ten-thousandth of the range covers every rounding."""
MOMENTS_OFF = 0.02
"""LeRobot puts mean and std together from those of the episodes, some versions in float32: 2 % of a std
covers it."""
PIXELS_OFF = 0.05
"""Image statistics are taken from samples of frames and of pixels, there and here: a twentieth of the range
of brightness is more than two samples differ by."""
HALF_A_FRAME = 0.5
STD_RATIO = 2.0
"""The same for the std, by which pixels are divided: half or double is not a matter of samples."""


def bookkeeping_findings(dataset: LeRobotDataset, books: Sequence[Book], videos: VideoParts) -> list[Finding]:
    """Compare what the dataset, or each of several, says of itself with what is there; decodes nothing.

    Args:
        dataset: The opened dataset.
        books: What ``open_books`` gives.
        videos: What ``videos.open_videos`` gives.
    """
    findings = totals_findings(books)
    for part in books:
        findings += [*_unreadable_statistics(part), *_outside_recorded(part)]
        if part.is_whole:
            findings += [*_numbering(part), *_contradictions(part)]
    return [*findings, *(_video_lengths(dataset, videos) if dataset.is_whole else [])]


def totals_findings(books: Sequence[Book]) -> list[Finding]:
    """Compare the totals that each dataset records with what is there, as a partial copy is found."""
    return [found for part in books if part.is_whole for found in (*_totals(part), *_unlisted(part))]


@dataclass(frozen=True)
class Book:
    """What one of the datasets that were opened as one says of itself.

    Attributes:
        dataset: All of them.
        folder: This one.
        rows: Its rows among all.
    """

    dataset: LeRobotDataset
    folder: DatasetFolder
    rows: slice

    @property
    def is_whole(self) -> bool:
        """Whether every episode of it was chosen."""
        return len(self.folder.records) == len(self.folder.metadata.episodes)

    @cached_property
    def recorded(self) -> Recorded:
        """The recorded statistics, by the features' names after renaming."""
        named = recorded_statistics(self.folder.metadata.root) or {}
        here = {name: self.folder.metadata.recorded(name) for name in self.folder.metadata.features}
        return {name: named[other] for name, other in here.items() if other in named}

    def vector(self, name: str) -> NDArray[np.float32]:
        """Its values of a feature, (N, D)."""
        return self.dataset.vector(name)[self.rows]

    def name_row(self, row: int) -> str:
        """Name one of its rows as a person would look for it."""
        return self.dataset.name_row(self.rows.start + row)

    def episodes_of(self, rows: NDArray[np.int64]) -> list[int]:
        """Indices of the episodes that hold some of its rows, ascending."""
        return episodes_of(self.dataset, self.rows.start + rows)


def open_books(dataset: LeRobotDataset) -> list[Book]:
    """Open the books of each dataset that has chosen episodes."""
    parts, start = [], 0
    for folder in dataset.folders:
        if len(folder):
            parts.append(Book(dataset, folder, slice(start, start + len(folder))))
        start += len(folder)
    return parts


def _totals(part: Book) -> list[Finding]:
    root = part.folder.metadata.root
    there = {"total_episodes": len(part.folder.records), "total_frames": len(part.folder)}
    totals = recorded_totals(root)
    wrong = [name for name, count in there.items() if totals.get(name, count) != count]
    if not wrong:
        return []
    said = " and ".join(f"{name} {totals[name]:,}, there are {there[name]:,}" for name in wrong)
    fewer = any(there[name] < totals[name] for name in wrong)
    return [
        Finding(
            check="totals",
            severity="warning",
            where=str(root / "meta" / "info.json"),
            problem=f"has {said}.",
            why="Something was lost or added after recording. What is there is used; LeRobot goes by these.",
            remedy="The copy or the download may be incomplete: fetch the dataset again, or set the totals "
            "right if nothing is missing."
            if fewer
            else "Set the totals right.",
        )
    ]


def _unlisted(part: Book) -> list[Finding]:
    """Rows of episodes that the table of episodes leaves out: they would be lost without a word."""
    numbers = part.folder.unlisted if part.folder.with_rows else ()
    if not numbers:
        return []
    before = part.folder.metadata.before
    named = in_episodes([number + before for number in numbers])
    return [
        Finding(
            check="unlisted_episodes",
            severity="warning",
            where=str(part.folder.metadata.root / "meta"),
            problem=f"the data files have rows of {named}, and the table of episodes does not list them: "
            "they are not used.",
            why="The recording ended before the table was written, or it was edited. These demonstrations "
            "are lost to the training, in LeRobot too.",
            remedy="`sweeper data fix ROOT --to NEW` lists them in a copy if their videos are certain.",
        )
    ]


def _numbering(part: Book) -> list[Finding]:
    before = part.folder.metadata.before
    indices = [record.index for record in part.folder.records]
    findings = []
    # A set of numbers up to a wild one would fill the memory: the gaps between neighbours are enough.
    gaps = [range(one + 1, two) for one, two in pairwise([before - 1, *indices]) if two > one + 1]
    if gaps:
        missing = sum(len(gap) for gap in gaps)
        named = ", ".join(str(gap[0]) if len(gap) == 1 else f"{gap[0]}-{gap[-1]}" for gap in gaps[:10])
        findings.append(
            Finding(
                check="missing_episodes",
                severity="warning",
                where=str(part.folder.metadata.root / "meta"),
                problem=f"{counted(missing, 'episode')} of {before} to {indices[-1]} "
                f"{'is' if missing == 1 else 'are'} not there: {named}{', ...' if len(gaps) > 10 else ''}.",
                why="They were lost or deleted. The others are read rightly here; LeRobot counts on numbers "
                "without gaps.",
                remedy="Nothing if they were deleted on purpose. Renumber the episodes for LeRobot.",
            )
        )
    if "index" not in part.dataset.features:
        return findings
    index = part.dataset.column("index")[part.rows, 0].astype(np.int64)
    back = np.flatnonzero(np.diff(index) <= 0) + 1
    if len(back):
        episodes = part.episodes_of(back)
        findings.append(
            Finding(
                check="episodes_out_of_order",
                severity="warning",
                where="index",
                problem=f"does not ascend with the episodes, first at {part.name_row(int(back[0]))}; "
                f"{in_episodes(episodes)}.",
                why="Rows are found by their episode here, so that it does no harm; LeRobot finds them by "
                "their index, and reads other frames than it should.",
                remedy="Renumber the rows in the order of the episodes.",
                episodes=tuple(episodes),
            )
        )
    return findings


def _video_lengths(dataset: LeRobotDataset, videos: VideoParts) -> list[Finding]:
    """Videos with more frames than rows; those with fewer end too early, which is an error of its own."""
    findings = []
    for camera in dataset.policy_features.cameras:
        parts = videos.get(camera.name, ())
        longer = [
            (part, part.video.frames)
            for part in parts
            if part.video is not None
            and part.video.frames > len(part.rows)
            and not _listed_exactly(dataset, camera.name, part.rows)
        ]
        if not longer:
            continue
        episodes = episodes_of(dataset, np.concatenate([part.rows for part, _ in longer]))
        part, count = longer[0]
        several = f"; {len(longer)} of {len(parts)} videos" if len(longer) > 1 else ""
        findings.append(
            Finding(
                check="video_frame_count",
                severity="warning",
                where=camera.name,
                problem=f"the video has {count:,} frames for {len(part.rows):,} rows: {part.path} "
                f"({in_episodes(episodes)}{several}).",
                why="If the camera ran ahead of the other sensors, every picture is that of another moment "
                "than its action.",
                remedy=sentence(
                    "look whether pictures and motion match (`sweeper data show`); else "
                    f"{exclude(dataset, episodes)}."
                ),
                episodes=tuple(episodes),
                files=tuple(str(part.path) for part, _ in longer),
            )
        )
    return findings


def _listed_exactly(dataset: LeRobotDataset, camera: str, rows: NDArray[np.int64]) -> bool:
    """Whether the table of episodes says which frames of a video belong to some rows, and others do not.

    So it is if the ends of episodes were cut, or episodes were deleted.
    """
    concerned = set(episodes_of(dataset, rows))
    places = [
        (record.length, record.videos[camera])
        for folder in dataset.folders
        for record in folder.records
        if record.index in concerned and camera in record.videos
    ]
    # A NaN, of a table that does not say, is not within half a frame.
    return all(
        abs((place.stop_s - place.start_s) * dataset.fps - length) <= HALF_A_FRAME for length, place in places
    )


# -- recorded statistics


def _unreadable_statistics(part: Book) -> list[Finding]:
    problem = statistics_problem(part.folder.metadata.root)
    if problem is None:
        return []
    return [
        Finding(
            check="recorded_statistics",
            severity="warning",
            where=str(problem[0]),
            problem=f"the recorded statistics cannot be read: {problem[1]}",
            why="Here statistics are computed from the data, so that it does no harm; LeRobot cannot open "
            "the set.",
            remedy="Nothing for training here; recompute the statistics before LeRobot uses the set.",
        )
    ]


def _outside_recorded(part: Book) -> list[Finding]:
    recorded = part.recorded
    findings = []
    for name in vectors(part.dataset):
        values = part.vector(name)
        low, high = (recorded.get(name, {}).get(key) for key in ("min", "max"))
        if low is None or high is None or low.shape != values.shape[1:] or high.shape != low.shape:
            continue
        slack = EXTREMES_OFF * np.maximum(high - low, np.abs(high))
        outside = (values < low - slack) | (values > high + slack)
        if not outside.any():
            continue
        rows, dimensions = np.nonzero(outside)
        row, d = int(rows[0]), int(dimensions[0])
        episodes = part.episodes_of(rows)
        findings.append(
            Finding(
                check="outside_recorded_range",
                severity="warning",
                where=name,
                problem=f"dimension {d} is {values[row, d]:.6g} in {part.name_row(row)}, recorded were "
                f"{low[d]:.6g} to {high[d]:.6g}; {counted(len(np.unique(rows)), 'such frame')} in "
                f"{in_episodes(episodes)}.",
                why="The numbers were changed or episodes added after the statistics were taken. Here they "
                "are recomputed. LeRobot would map these values outside [-1, 1] and never predict them.",
                remedy=f"Check where these values come from: repair the statistics, or "
                f"{exclude(part.dataset, episodes)}.",
                episodes=tuple(episodes),
            )
        )
    return findings


def _contradictions(part: Book) -> list[Finding]:
    """Recorded statistics of vectors that are not those of the data, besides values outside their range."""
    recorded = part.recorded
    findings = []
    for name in vectors(part.dataset):
        if name not in recorded:
            continue
        problem = _contradiction(recorded[name], part.vector(name))
        if problem:
            findings.append(_wrong_statistics(name, problem, "warning"))
    return findings


def _contradiction(recorded: Mapping[str, NDArray[np.float64]], values: NDArray[np.float32]) -> str:
    width = values.shape[1:]
    for key, numbers in recorded.items():
        if numbers.shape != width:
            return f"{key} has shape {list(numbers.shape)}, the data {list(width)}"
    for d in range(values.shape[1]):
        column = values[:, d].astype(np.float64)
        if not np.isfinite(column).all():
            continue
        low, high, mean, std = column.min(), column.max(), column.mean(), column.std()
        slack = EXTREMES_OFF * max(high - low, abs(high), abs(low)) + np.finfo(np.float32).tiny
        moment = MOMENTS_OFF * std + slack
        # A recorded range that is too narrow is reported with the values outside it.
        found = {"min": (low, recorded_at(recorded, "min", d, low) < low - slack)}
        found["max"] = (high, recorded_at(recorded, "max", d, high) > high + slack)
        found["mean"] = (mean, abs(recorded_at(recorded, "mean", d, mean) - mean) > moment)
        found["std"] = (std, abs(recorded_at(recorded, "std", d, std) - std) > moment)
        for key, (true, wrong) in found.items():
            if wrong:
                said = recorded_at(recorded, key, d, true)
                return f"{key} of dimension {d} is {said:.6g}, that of the data {true:.6g}"
    return ""


def recorded_at(recorded: Mapping[str, NDArray[np.float64]], key: str, d: int, otherwise: float) -> float:
    """A recorded number, or what counts if it was not recorded."""
    return float(recorded[key][d]) if key in recorded else float(otherwise)


def image_statistics_findings(
    dataset: LeRobotDataset, books: Sequence[Book], measured: Statistics
) -> list[Finding]:
    """Compare the recorded statistics of cameras with those of the frames that were looked at.

    Args:
        dataset: The opened dataset.
        books: What ``open_books`` gives.
        measured: Statistics of each camera, (C, 1, 1) in [0, 1].
    """
    findings: list[Finding] = []
    if len(dataset.folders) > 1:
        return findings  # what was looked at is of all of them, what was recorded of each
    recorded = books[0].recorded
    for camera in dataset.policy_features.cameras:
        if camera.name in recorded and camera.name in measured:
            problem = _image_contradiction(
                recorded[camera.name], measured[camera.name], camera.shape[0], dataset.is_whole
            )
            if problem:
                findings.append(_wrong_statistics(camera.name, problem, "note"))
    return findings


def _image_contradiction(
    recorded: Mapping[str, NDArray[np.float64]],
    measured: Mapping[str, NDArray[np.float64]],
    channels: int,
    recorded_of_all: bool,
) -> str:
    for key, numbers in recorded.items():
        if numbers.shape != (channels, 1, 1):
            return (
                f"{key} has shape {list(numbers.shape)}, expected {[channels, 1, 1]}: one number per channel"
            )
        if not ((numbers >= 0) & (numbers <= 1)).all():
            return f"{key} is {_plain(numbers)}, outside [0, 1]"
    std = recorded.get("std")
    if std is not None:
        true = measured["std"]
        ratio = np.maximum(std, 1e-9) / np.maximum(true, 1e-9)
        if ((std == 0) & (true > 0)).any() or (
            recorded_of_all and ((ratio > STD_RATIO) | (ratio < 1 / STD_RATIO)).any()
        ):
            small = " (LeRobot up to 0.4.4 writes it far too small)" if (ratio < 1 / STD_RATIO).all() else ""
            return f"std is {_plain(std)}{small}, that of the frames looked at {_plain(true)}"
    mean = recorded.get("mean")
    if mean is not None and recorded_of_all and (np.abs(mean - measured["mean"]) > PIXELS_OFF).any():
        return f"mean is {_plain(mean)}, that of the frames looked at {_plain(measured['mean'])}"
    return ""


def _plain(numbers: NDArray[np.float64]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers.reshape(-1)[:3])


def _wrong_statistics(name: str, problem: str, severity: Literal["warning", "note"]) -> Finding:
    return Finding(
        check="recorded_statistics",
        severity=severity,
        where=name,
        problem=f"the recorded statistics contradict the data: {problem}.",
        why="Here statistics are computed from the data, so that it does no harm; LeRobot normalises with "
        "the recorded ones"
        + (
            ", unless use_imagenet_stats hides them."
            if severity == "note"
            else ", and its actions come out in another scale."
        ),
        remedy="Nothing for training here; recompute the statistics before LeRobot uses the set.",
    )
