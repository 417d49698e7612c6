"""What the episodes' motions show: standing still, jumps, angles that wrap, the same episode twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.signals.numbers import Spread, spread_of
from trainables.dataset.doctor.wording import (
    counted,
    dimension_names,
    episodes_of,
    exclude,
    in_episodes,
    name_dimensions,
    sentence,
    vectors,
)
from trainables.features import ACTION, STATE
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import Episode, LeRobotDataset

__all__ = ["full_turn", "motion_findings"]

STILL_WITHIN = 0.01
"""What stays within a hundredth of the usual range stands still: more than an encoder's noise, less than
the slowest approach."""
IDLE_S = 2.0
IDLE_SHARE = 0.1
"""People wait a second before they start and after they end; two seconds, and a tenth of the episode, are
dead time."""
IDLE_TOO_MUCH = 0.1
"""From this share of all frames on, standing still is what the policy learns best."""
JUMP_STEP = 0.25
JUMP_JERK = 8.0
"""A jump crosses a quarter of the usual range within one frame, with a jerk far above the 99th percentile of
the dimension's own: even Laplacian jerks stay below 4 times it for millions of frames."""
JUMP_EPISODES = 0.1
"""What happens in more of the episodes than this is how the task is done (a gripper that snaps shut)."""
FULL_TURNS = (2 * np.pi, 360.0)
WRAP_SHARE = 0.9
"""A step of more than this share of a full turn, by a value that stays within one turn, is an angle that
wraps."""
SAME_WITHIN = 0.005
"""Episodes whose every value agrees within this share of the usual range are one demonstration: people do not
repeat themselves so well, and no two runs of a real arm do."""
NEIGHBOURS = 1000
"""With how many episodes of nearly the same projection each is compared at most."""


def motion_findings(dataset: LeRobotDataset) -> list[Finding]:
    """Look at how states and actions move within the episodes."""
    names = [name for name in vectors(dataset) if name in (STATE, ACTION)]
    if not names:
        return []
    spreads = {name: spread_of(dataset.vector(name)) for name in names}
    return [
        *_idle(dataset, spreads),
        *_wraps(dataset, spreads),
        *_jumps(dataset, spreads),
        *_duplicates(dataset, spreads),
    ]


# -- standing still


def _idle(dataset: LeRobotDataset, spreads: dict[str, Spread]) -> list[Finding]:
    ends = np.array([_still_ends(dataset, episode, spreads) for episode in dataset.episodes])
    lengths = np.array([len(episode) for episode in dataset.episodes])
    total = ends.sum(axis=1)
    long = (ends.max(axis=1) >= IDLE_S * dataset.fps) & (total >= IDLE_SHARE * lengths)
    if not long.any():
        return []
    share = total.sum() / lengths.sum()
    chosen = np.flatnonzero(long)
    episodes = [dataset.episodes[int(place)].index for place in chosen]
    worst = chosen[np.argmax(total[chosen])]
    start_s, end_s = ends[worst] / dataset.fps
    return [
        Finding(
            check="idle_ends",
            severity="warning" if share >= IDLE_TOO_MUCH else "note",
            where="episodes",
            problem=f"the robot stands still at the start or end of {in_episodes(episodes)}; longest in "
            f"episode {dataset.episodes[int(worst)].index}: {start_s:.1f} s at the start, {end_s:.1f} s at "
            f"the end. Still ends are {share:.1%} of all frames.",
            why="Where nothing moves, the right action is to do nothing: a policy that sees much of it stops "
            "half-way and stays there.",
            remedy=sentence(f"cut the ends when converting, or {exclude(dataset, episodes)}."),
            episodes=tuple(episodes),
        )
    ]


def _still_ends(dataset: LeRobotDataset, episode: Episode, spreads: dict[str, Spread]) -> tuple[int, int]:
    """Frames at the start and at the end in which neither state nor action leaves its place."""
    start, end = len(episode), len(episode)
    for name, spread in spreads.items():
        values = dataset.vector(name)[episode.start : episode.stop]
        away = STILL_WITHIN * spread.scale
        start = min(start, _frames_until(np.abs(values - values[0]) > away))
        end = min(end, _frames_until((np.abs(values - values[-1]) > away)[::-1]))
    # An episode that never moves is still once, not twice.
    return start, min(end, len(episode) - start)


def _frames_until(moved_TD: NDArray[np.bool_]) -> int:
    frames = np.flatnonzero(moved_TD.any(axis=1))
    return int(frames[0]) if len(frames) else len(moved_TD)


# -- jumps


def _wraps(dataset: LeRobotDataset, spreads: dict[str, Spread]) -> list[Finding]:
    findings = []
    for name, spread in spreads.items():
        names = dimension_names(dataset, name)
        for d in range(len(spread.low)):
            turn = full_turn(spread, d)
            if turn is None:
                continue
            rows = _rows_after(dataset, np.abs(np.diff(dataset.vector(name)[:, d])) > WRAP_SHARE * turn)
            if not len(rows):
                continue
            episodes = episodes_of(dataset, rows)
            findings.append(
                Finding(
                    check="angle_wraps",
                    severity="warning",
                    where=f"{name}[{d}] ({names[d]})",
                    problem=f"jumps by a full turn ({turn:.4g}) {counted(len(rows), 'time')}, first at "
                    f"{dataset.name_row(int(rows[0]))}; in {in_episodes(episodes)}.",
                    why="The two ends of the range are the same pose, yet as far apart as numbers can be: "
                    "between them the policy predicts the middle, half a turn away.",
                    remedy="Unwrap the angle when converting, or record its sine and cosine.",
                    episodes=tuple(episodes),
                )
            )
    return findings


def full_turn(spread: Spread, d: int) -> float | None:
    """The full turn that a dimension stays within and nearly fills, if it can be an angle."""
    width = spread.high[d] - spread.low[d]
    return next((turn for turn in FULL_TURNS if WRAP_SHARE * turn < width <= 1.001 * turn), None)


def _rows_after(dataset: LeRobotDataset, steps: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rows that a step leads to, leaving out those from one episode to the next."""
    rows = np.flatnonzero(steps) + 1
    starts = np.array([episode.start for episode in dataset.episodes])
    return rows[~np.isin(rows, starts)]


def _jumps(dataset: LeRobotDataset, spreads: dict[str, Spread]) -> list[Finding]:
    findings = []
    for name, spread in spreads.items():
        found: dict[int, tuple[NDArray[np.int64], float]] = {}
        for d in range(len(spread.low)):
            if not spread.constant[d] and full_turn(spread, d) is None:
                rows, factor = _jumping_rows(dataset, dataset.vector(name)[:, d], float(spread.scale[d]))
                if 0 < len(episodes_of(dataset, rows)) <= max(1, JUMP_EPISODES * len(dataset.episodes)):
                    found[d] = rows, factor
        if found:
            findings.append(_jump(dataset, name, found))
    return findings


def _jump(dataset: LeRobotDataset, name: str, found: dict[int, tuple[NDArray[np.int64], float]]) -> Finding:
    """One finding for all dimensions of a feature: a lost packet costs them all."""
    rows = np.unique(np.concatenate([rows for rows, _ in found.values()]))
    episodes = episodes_of(dataset, rows)
    worst = max(found, key=lambda d: found[d][1])
    row, factor = int(found[worst][0][0]), found[worst][1]
    before, after = dataset.vector(name)[row - 1 : row + 1, worst]
    return Finding(
        check="jumps",
        severity="warning",
        where=name,
        problem=f"{name_dimensions(dataset, name, sorted(found))}: {counted(len(rows), 'jump')} in "
        f"{in_episodes(episodes)}; the worst is dimension {worst} at {dataset.name_row(row)}, from "
        f"{before:.6g} to {after:.6g}, with {factor:.0f} times the jerk of the fastest 1 % of frames.",
        why="No robot moves so: it is a lost packet, a glitch or a cut, learned as if it were a motion.",
        remedy=f"Look at these frames; {exclude(dataset, episodes)}.",
        episodes=tuple(episodes),
    )


def _jumping_rows(
    dataset: LeRobotDataset, column: NDArray[np.float32], scale: float
) -> tuple[NDArray[np.int64], float]:
    """Rows that a dimension jumps to, and the largest of their jerks over the usual one."""
    if len(column) < 4:
        return np.empty(0, np.int64), 0.0
    with np.errstate(invalid="ignore"):
        step = np.abs(np.diff(column))
        jerk = np.abs(np.diff(column.astype(np.float64), n=3))  # jerk[i] is of the frames i to i + 3
    first = np.arange(len(jerk))
    ends = np.array([episode.stop for episode in dataset.episodes])
    inside = first + 3 < ends[np.searchsorted(ends, first, side="right")]
    usual = jerk[inside & np.isfinite(jerk) & (jerk > 0)]
    if not len(usual):
        return np.empty(0, np.int64), 0.0
    limit = float(np.quantile(usual, 0.99))
    # A row is jumped to where any jerk over its step is extreme: the step's place in the four frames differs.
    extreme = np.zeros(len(step), bool)
    largest = np.zeros(len(step))
    for shift in range(3):
        within = np.where(inside, jerk, 0.0)
        largest[shift : shift + len(jerk)] = np.fmax(largest[shift : shift + len(jerk)], within)
    extreme = (largest > JUMP_JERK * limit) & (step > JUMP_STEP * scale)
    rows = _rows_after(dataset, extreme)
    return rows, float(largest[rows - 1].max() / limit) if len(rows) else 0.0


# -- the same twice


def _duplicates(dataset: LeRobotDataset, spreads: dict[str, Spread]) -> list[Finding]:
    groups = _groups(_same_pairs(dataset, spreads))
    if not groups:
        return []
    again = sorted(index for group in groups for index in group[1:])
    shown = ", ".join(" = ".join(str(index) for index in group[:5]) for group in groups[:5])
    more = f", ... {len(groups)} such groups" if len(groups) > 5 else ""
    return [
        Finding(
            check="duplicate_episodes",
            severity="warning",
            where="episodes",
            problem=f"{counted(len(again), 'episode')} {'repeats' if len(again) == 1 else 'repeat'} another "
            f"({shown}{more}): same length, all states and actions the same within {SAME_WITHIN:.1%} of "
            "their range.",
            why="A demonstration that both trains and judges makes held-out errors too good, and one that "
            "counts twice is learned by heart.",
            remedy=f"{sentence(exclude(dataset, again))}.",
            episodes=tuple(again),
        )
    ]


def _same_pairs(dataset: LeRobotDataset, spreads: dict[str, Spread]) -> Iterator[tuple[int, int]]:
    """Pairs of episodes that are the same: of equal length, by neighbours in a random projection.

    The projections of two nearly equal episodes are nearly equal, so that each needs comparing with its
    neighbours alone; three of their frames tell most of those apart.
    """
    by_length: dict[int, list[Episode]] = {}
    for episode in dataset.episodes:
        by_length.setdefault(len(episode), []).append(episode)
    for length, episodes in by_length.items():
        if len(episodes) < 2 or length < 2:
            continue
        projected = np.array([_project(dataset, episode, spreads) for episode in episodes])
        order = np.argsort(projected, kind="stable")
        frames = np.stack([_three_frames(dataset, episodes[int(place)], spreads) for place in order])
        for at, place in enumerate(order):
            near = slice(at + 1, at + 1 + NEIGHBOURS)
            alike = projected[order[near]] - projected[place] <= SAME_WITHIN
            alike &= (np.abs(frames[near] - frames[at]) <= SAME_WITHIN).all(axis=1)
            for other in order[near][alike]:
                one, two = episodes[int(place)], episodes[int(other)]
                if _same(dataset, one, two, spreads):
                    yield min(one.index, two.index), max(one.index, two.index)


def _three_frames(
    dataset: LeRobotDataset, episode: Episode, spreads: dict[str, Spread]
) -> NDArray[np.float64]:
    """The normalised values of an episode's first, middle and last frame, in one row."""
    rows = [episode.start, (episode.start + episode.stop) // 2, episode.stop - 1]
    parts = [dataset.vector(name)[rows] / spread.scale for name, spread in spreads.items()]
    return np.concatenate([part.reshape(-1) for part in parts])


def _project(dataset: LeRobotDataset, episode: Episode, spreads: dict[str, Spread]) -> float:
    """A mean of an episode's normalised values with random weights; differs by no more than the values do.

    The weights are drawn from raw bits, whose stream numpy guarantees.
    """
    total, weight = 0.0, 0
    for number, (name, spread) in enumerate(spreads.items()):
        values = dataset.vector(name)[episode.start : episode.stop] / spread.scale
        bits = np.random.PCG64(np.random.SeedSequence([number, *values.shape])).random_raw(values.size)
        weights = (bits >> np.uint64(11)).astype(np.float64) / 2**53
        total += float(np.nan_to_num(values).astype(np.float64).reshape(-1) @ weights)
        weight += values.size
    return total / weight


def _same(dataset: LeRobotDataset, one: Episode, two: Episode, spreads: dict[str, Spread]) -> bool:
    for name, spread in spreads.items():
        values = dataset.vector(name)
        apart = np.abs(values[one.start : one.stop] - values[two.start : two.stop])
        if not (apart <= SAME_WITHIN * spread.scale).all():
            return False
    return True


def _groups(pairs: Iterator[tuple[int, int]]) -> list[list[int]]:
    """Put together what belongs together; each group ascending, its first member the one to keep."""
    group_of: dict[int, list[int]] = {}
    for one, two in pairs:
        merged = sorted({one, two, *group_of.get(one, ()), *group_of.get(two, ())})
        for index in merged:
            group_of[index] = merged
    return sorted({tuple(group): group for group in group_of.values()}.values())
