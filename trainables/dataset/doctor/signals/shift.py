"""Whether the first and the last episodes are of one kind: a recalibrated arm, a moved table."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.signals.numbers import spread_of
from trainables.dataset.doctor.wording import name_dimensions, vectors
from trainables.features import ACTION, STATE
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import Episode, LeRobotDataset

__all__ = ["shift_findings"]

GROUP = 0.25
FEWEST = 4
"""The first and the last quarter of the episodes are compared; fewer than four of each show nothing."""
SHIFT = 0.2
START_SHIFT = 0.05
"""Medians of episodes that differ by a fifth of the range are another place; the halves of Push-T's
demonstrations differ by 7 %. Arms start from one pose: a twentieth of the range, ten degrees of a joint, is
another one."""
CHANCE = ((6, 13.0), (8, 9.8), (10, 8.2), (14, 6.6), (22, 5.6), (48, 4.9), (10**6, 4.42))
"""Degrees of freedom, and the t that one comparison in 100,000 exceeds by chance: there are some dozens of
dimensions, and a sound dataset has no finding."""


def shift_findings(dataset: LeRobotDataset) -> list[Finding]:
    """Compare the first with the last episodes."""
    count = int(len(dataset.episodes) * GROUP)
    first, last = _same_tasks(dataset.episodes[:count], dataset.episodes[len(dataset.episodes) - count :])
    if min(len(first), len(last)) < FEWEST:
        return []
    findings = []
    for name in [name for name in vectors(dataset) if name in (STATE, ACTION)]:
        values = dataset.vector(name)
        scale = spread_of(values).scale
        for what, least in (("median", SHIFT), ("start", START_SHIFT)):
            one, two = (_features(values, episodes, what) for episodes in (first, last))
            which = _shifted(one, two, scale, least)
            if which:
                findings.append(_shift(dataset, name, what, which, (first, last), one, two))
                break  # another start is part of another median
    return findings


def _same_tasks(first: tuple[Episode, ...], last: tuple[Episode, ...]) -> tuple[list[Episode], list[Episode]]:
    """The episodes of tasks that are among the first and among the last: other tasks are other motions."""
    shared = {task for one in first for task in one.tasks} & {task for one in last for task in one.tasks}
    if not any(episode.tasks for episode in (*first, *last)):
        return list(first), list(last)
    return (
        [episode for episode in first if shared & set(episode.tasks)],
        [episode for episode in last if shared & set(episode.tasks)],
    )


def _features(values: NDArray[np.float32], episodes: list[Episode], what: str) -> NDArray[np.float64]:
    """A number for each episode and dimension, (E, D)."""
    if what == "start":
        return values[[episode.start for episode in episodes]].astype(np.float64)
    return np.array([np.median(values[episode.start : episode.stop], axis=0) for episode in episodes])


def _shifted(
    one: NDArray[np.float64], two: NDArray[np.float64], scale: NDArray[np.float64], least: float
) -> list[int]:
    """Dimensions in which two groups of episodes differ by more than chance, and by enough to matter."""
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = np.abs(one.mean(axis=0) - two.mean(axis=0))
        error = np.sqrt(one.var(axis=0, ddof=1) / len(one) + two.var(axis=0, ddof=1) / len(two))
        t = apart / np.maximum(error, 1e-9 * np.where(np.isfinite(scale), scale, 1))
    freedom, limits = zip(*CHANCE, strict=True)
    limit = np.interp(-1 / (len(one) + len(two) - 2), -1 / np.array(freedom), limits)
    found: list[int] = np.flatnonzero((apart > least * scale) & (t > limit)).tolist()
    return found


def _shift(
    dataset: LeRobotDataset,
    name: str,
    what: str,
    which: list[int],
    groups: tuple[list[Episode], list[Episode]],
    one: NDArray[np.float64],
    two: NDArray[np.float64],
) -> Finding:
    told = ", ".join(
        f"{one[:, d].mean():.4g} to {two[:, d].mean():.4g}" + (f" (dimension {d})" if len(which) > 1 else "")
        for d in which[:5]
    )
    first, last = groups
    measure = "the start of the episodes" if what == "start" else "the median of the episodes"
    return Finding(
        check="shift",
        severity="warning",
        where=name,
        problem=f"{name_dimensions(dataset, name, which)}: {measure} shifts from {told} between the first "
        f"episodes ({first[0].index} to {first[-1].index}) and the last ({last[0].index} to "
        f"{last[-1].index}){_since(dataset, name, what, which[0])}.",
        why="If the arm was calibrated again, or a table or camera was moved, equal numbers or pictures ask "
        "for different actions, and the policy averages them.",
        remedy="Check what changed while recording. Record the smaller part again, or leave it out with "
        "dataset.exclude_episodes; nothing if the places were varied on purpose.",
        episodes=tuple(episode.index for episode in last),
    )


def _since(dataset: LeRobotDataset, name: str, what: str, d: int) -> str:
    """The episode from which on the values differ, if there is a clear one."""
    column = _features(dataset.vector(name)[:, d : d + 1], list(dataset.episodes), what)[:, 0]
    count = np.arange(1, len(column))
    sums = np.cumsum(column)[:-1]
    before, after = sums / count, (column.sum() - sums) / (len(column) - count)
    between = count * (len(column) - count) / len(column) * (before - after) ** 2
    total = float(((column - column.mean()) ** 2).sum())
    place = int(np.argmax(between))
    # A step explains most of the variance; a slow drift explains three quarters of it at most.
    return f", from episode {dataset.episodes[place + 1].index} on" if between[place] > 0.8 * total else ""
