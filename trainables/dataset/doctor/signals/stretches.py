"""Stretches in which nothing changes: frozen actions, dimensions that hardly ever move, values at a limit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.signals.motion import full_turn
from trainables.dataset.doctor.signals.numbers import MOST_LEVELS, Spread, spread_of
from trainables.dataset.doctor.signals.pairs import is_gripper, ptp_of_episodes
from trainables.dataset.doctor.wording import (
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
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["stretch_findings"]

SAME_STEP = 5e-4
"""Commands that change by less than a two-thousandth of their usual range a frame repeat each other: an
encoder's last bit, not a motion."""
SAME_WITHIN = 0.01
"""A whole stretch of them stays within a hundredth; a slow motion does not."""
FROZEN_S = 1.0
FROZEN_FRAMES = 10
"""People hold a mouse or a leader arm still for up to 0.7 s between motions (the longest of the 206 Push-T
demonstrations is 8 equal frames at 10 fps). A second is longer."""
SETTLED_S = 0.4
MOVED_ON = 0.05
"""A robot reaches its last command within some 0.4 s. One that moves by a twentieth of its range after that
received commands that were not recorded."""
PAUSE_S = 2.0
"""If robot and commands stand still together it is a pause, and those are short in a demonstration: as for
the ends of episodes, two seconds are dead time."""

STUCK_WITHIN = 0.01
STUCK_SHARE = 0.5
STUCK_FEWEST = 5
"""A dimension that stays within a hundredth of its range in more than half of the episodes is not part of
most demonstrations. Among fewer than five episodes "most" says nothing."""

PINNED_SHARE = 0.05
PINNED_WITHIN = 0.002
PINNED_PEAK = 5.0
"""One frame in twenty at one end of the range, five times as many as within the same width beside it. A sine
has 2.8 % of its values so near to its end, and no peak."""
PINNED_BEYOND = 0.1
"""A limit has next to no values beyond it: at most a tenth of those at it (noise, a glitch)."""
ABRUPT = 0.3
"""A motion that is cut off arrives with its usual speed, on average with half a step; one that ends there by
itself slows down to a twentieth of it."""


def stretch_findings(dataset: LeRobotDataset, *, delayed: bool = False) -> list[Finding]:
    """Look for stretches without change in states and actions.

    Args:
        dataset: The opened dataset.
        delayed: Whether states and actions are known to be apart in time: then a robot that moves while the
            action stays the same is no finding of its own.
    """
    names = [name for name in vectors(dataset) if name in (STATE, ACTION)]
    if not names:
        return []
    spreads = {name: spread_of(dataset.vector(name)) for name in names}
    findings = _frozen_actions(dataset, spreads, delayed) if ACTION in spreads else []
    for name, spread in spreads.items():
        findings += [*_stuck(dataset, name, spread), *_pinned(dataset, name, spread)]
    return findings


# -- frozen actions


def _frozen_actions(dataset: LeRobotDataset, spreads: dict[str, Spread], delayed: bool) -> list[Finding]:
    """Actions that repeat each other in the middle of an episode; its ends are ``idle_ends``."""
    runs = _same_runs(dataset, spreads[ACTION])
    pause = (runs[:, 1] - runs[:, 0]) / dataset.fps >= PAUSE_S
    moved = _moved_on(dataset, runs, spreads)
    lost = runs[moved & (not delayed)]
    waiting = runs[pause & ~moved & _all_still(dataset, runs, spreads[ACTION])]
    findings = []
    if len(lost):
        findings.append(
            _frozen(
                dataset, lost, "while the robot moves on",
                "The commands that moved the robot were not recorded: the policy learns to repeat its last "
                "one in the middle of a motion.",
                "Check the connection of the leader or the controller",
            )
        )  # fmt: skip
    if len(waiting) and not len(lost):
        findings.append(
            _frozen(
                dataset, waiting, "and so does the robot",
                "In the pose of a pause the right action is to stay: a policy without memory that reaches it "
                "does not leave it again.",
                "Cut the pause when converting",
            )
        )  # fmt: skip
    return findings


def _frozen(dataset: LeRobotDataset, runs: NDArray[np.int64], how: str, why: str, remedy: str) -> Finding:
    episodes = episodes_of(dataset, runs[:, 0])
    longest = runs[np.argmax(runs[:, 1] - runs[:, 0])]
    seconds = (longest[1] - longest[0]) / dataset.fps
    stretches = "once" if len(runs) == 1 else f"{len(runs):,} times"
    return Finding(
        check="frozen_actions",
        severity="warning",
        where=ACTION,
        problem=f"stays the same in the middle of {in_episodes(episodes)} {how} "
        f"({stretches}); the longest stretch begins at {dataset.name_row(int(longest[0]))} and lasts "
        f"{seconds:.1f} s.",
        why=why,
        remedy=f"{remedy}, or {exclude(dataset, episodes)}.",
        episodes=tuple(episodes),
    )


def _same_runs(dataset: LeRobotDataset, spread: Spread) -> NDArray[np.int64]:
    """Stretches of equal actions that touch neither end of their episode: first row and last row, (R, 2).

    Grippers are left out: they close while the arm is still.
    """
    actions = dataset.vector(ACTION)
    moving = ~spread.constant & ~_grippers(dataset, ACTION)
    if not moving.any() or len(actions) < 2:
        return np.empty((0, 2), np.int64)
    same = np.zeros(len(actions) + 1, bool)
    same[1:-1] = True
    for d in np.flatnonzero(moving):  # one dimension after the other: memory for one column at a time
        same[1:-1] &= np.abs(np.diff(actions[:, d])) <= SAME_STEP * spread.scale[d]
    starts = np.array([episode.start for episode in dataset.episodes])
    stops = np.array([episode.stop for episode in dataset.episodes])
    same[starts] = False
    edges = np.diff(np.concatenate([[False], same]).astype(np.int8))
    firsts, lasts = np.flatnonzero(edges == 1) - 1, np.flatnonzero(edges == -1) - 1
    long = lasts - firsts + 1 >= max(FROZEN_S * dataset.fps, FROZEN_FRAMES)
    inside = ~np.isin(firsts, starts) & ~np.isin(lasts + 1, stops)
    runs = np.stack([firsts, lasts], axis=1)[long & inside]
    within = [
        (np.ptp(actions[first : last + 1], axis=0) <= SAME_WITHIN * spread.scale)[moving].all()
        for first, last in runs
    ]
    return runs[np.array(within, bool)]


def _grippers(dataset: LeRobotDataset, name: str) -> NDArray[np.bool_]:
    return np.array([is_gripper(one) for one in dimension_names(dataset, name)])


def _all_still(dataset: LeRobotDataset, runs: NDArray[np.int64], spread: Spread) -> NDArray[np.bool_]:
    """In which stretches every dimension of the action stays the same, the gripper too."""
    actions = dataset.vector(ACTION)
    still = [
        (np.ptp(actions[first : last + 1], axis=0) <= SAME_WITHIN * spread.scale).all()
        for first, last in runs
    ]
    return np.array(still, bool)


def _moved_on(
    dataset: LeRobotDataset, runs: NDArray[np.int64], spreads: dict[str, Spread]
) -> NDArray[np.bool_]:
    """In which stretches the state keeps moving although a position that is commanded stays the same."""
    moved = np.zeros(len(runs), bool)
    if STATE not in spreads or not _commands_positions(dataset):
        return moved
    states = dataset.vector(STATE)
    settled = round(SETTLED_S * dataset.fps)
    arm = ~_grippers(dataset, STATE)
    for number, (first, last) in enumerate(runs):
        if first + settled < last:
            ptp = np.ptp(states[first + settled : last + 1], axis=0)
            moved[number] = bool((ptp > MOVED_ON * spreads[STATE].scale)[arm].any())
    return moved


def _commands_positions(dataset: LeRobotDataset) -> bool:
    """Whether most actions are places for the state to go to, and not speeds or steps."""
    state, action = dataset.vector(STATE), dataset.vector(ACTION)
    if state.shape != action.shape:
        return False
    alike = [
        abs(float(np.corrcoef(state[:, d], action[:, d])[0, 1])) > 0.8
        for d in range(state.shape[1])
        if np.ptp(state[:, d]) > 0 and np.ptp(action[:, d]) > 0
    ]
    return bool(alike) and sum(alike) > len(alike) / 2


# -- dimensions that hardly ever move


def _stuck(dataset: LeRobotDataset, name: str, spread: Spread) -> list[Finding]:
    if len(dataset.episodes) < STUCK_FEWEST:
        return []
    still = ptp_of_episodes(dataset, name) <= STUCK_WITHIN * np.where(spread.constant, 0, spread.scale)
    share = still.mean(axis=0)
    which = np.flatnonzero((share > STUCK_SHARE) & ~spread.constant).tolist()
    if not which:
        return []
    places = np.flatnonzero(still[:, which].any(axis=1))
    episodes = [dataset.episodes[int(place)].index for place in places]
    d = max(which, key=lambda d: float(share[d]))
    return [
        Finding(
            check="stuck_dimension",
            severity="warning",
            where=name,
            problem=f"{name_dimensions(dataset, name, which)} {'does' if len(which) == 1 else 'do'} not "
            f"change within most episodes: {'' if len(which) == 1 else f'dimension {d} '}in "
            f"{int(still[:, d].sum()):,} of {len(dataset.episodes):,}; {in_episodes(episodes)}.",
            why="It tells the episodes apart instead of what to do: the policy learns to keep it where it "
            "happens to be, and the few episodes that move it hardly count.",
            remedy="Check that the motor or sensor was connected and recorded in these episodes; otherwise "
            "leave the dimension out when converting.",
            episodes=tuple(episodes),
        )
    ]


# -- values at a limit


def _pinned(dataset: LeRobotDataset, name: str, spread: Spread) -> list[Finding]:
    names = dimension_names(dataset, name)
    values = dataset.vector(name)
    found: dict[int, tuple[float, NDArray[np.int64]]] = {}
    for d in np.flatnonzero(~spread.constant).tolist():
        if is_gripper(names[d]) or full_turn(spread, d) is not None:
            continue  # open and closed are limits; an angle that wraps has none
        for sign in (1.0, -1.0):
            limit, rows = _at_limit(dataset, sign * values[:, d], float(spread.scale[d]))
            if len(rows) and d not in found:
                found[d] = sign * limit, rows
    if not found:
        return []
    which = sorted(found)
    rows = np.unique(np.concatenate([rows for _, rows in found.values()]))
    episodes = episodes_of(dataset, rows)
    limits = ", ".join(
        f"{found[d][0]:.6g} in {len(found[d][1]) / len(dataset):.1%} of all frames" for d in which[:10]
    )
    unnamed = any(names[d].isdecimal() for d in which)
    return [
        Finding(
            check="pinned_at_limit",
            severity="note" if unnamed else "warning",
            where=name,
            problem=f"{name_dimensions(dataset, name, which)} {'is' if len(which) == 1 else 'are'} cut off "
            f"at a limit ({limits}), first at {dataset.name_row(int(rows[0]))}; {in_episodes(episodes)}.",
            why="The motion went on where the numbers stop: the policy cannot tell how far, and one value "
            "stands for many poses"
            + (". Ordinary for a gripper; the dimensions have no names." if unnamed else "."),
            remedy=sentence(
                "check the calibration and the limits of the joint or controller, and record again with "
                "room to spare."
            ),
            episodes=tuple(episodes),
        )
    ]


def _at_limit(
    dataset: LeRobotDataset, column: NDArray[np.float32], scale: float
) -> tuple[float, NDArray[np.int64]]:
    """The upper limit that a motion is cut off at, and the rows at it; no rows if there is none."""
    nothing = np.nan, np.empty(0, np.int64)
    inner = _between_ends(dataset, column, STUCK_WITHIN * scale)
    moving = column[inner]
    if len(moving) < 2 * FROZEN_FRAMES or not np.isfinite(moving).all():
        return nothing
    limit = float(np.quantile(moving, 1 - PINNED_SHARE / 2))
    width = PINNED_WITHIN * scale
    at = inner & (np.abs(column - limit) <= width)
    count = int(at.sum())
    beside = int((inner & (column < limit - width) & (column >= limit - 3 * width)).sum())
    beyond = int((inner & (column > limit + width)).sum())
    if (
        count < PINNED_SHARE * len(moving)
        or count < PINNED_PEAK * beside
        or beyond > PINNED_BEYOND * count
        or len(np.unique(moving[:: max(1, len(moving) // 10_000)])) <= MOST_LEVELS
    ):
        return nothing
    rows = np.flatnonzero(at)
    arrivals = rows[(rows > 0) & ~at[rows - 1]]
    steps = np.abs(np.diff(column))
    usual = steps[inner[1:] & (steps > width)]
    if not len(arrivals) or not len(usual) or np.median(steps[arrivals - 1]) < ABRUPT * np.median(usual):
        return nothing
    return limit, rows


def _between_ends(dataset: LeRobotDataset, column: NDArray[np.float32], away: float) -> NDArray[np.bool_]:
    """Rows between the first and the last time that a dimension leaves its place in the episode."""
    starts = np.array([episode.start for episode in dataset.episodes])
    stops = np.array([episode.stop for episode in dataset.episodes])
    lengths = stops - starts
    left = np.flatnonzero(np.abs(column - np.repeat(column[starts], lengths)) > away)
    back = np.flatnonzero(np.abs(column - np.repeat(column[stops - 1], lengths)) > away)
    # The first row of each episode that is away from where it starts, and the last from where it ends.
    first = np.append(left, len(column))[np.searchsorted(left, starts)]
    last = np.concatenate([[-1], back])[np.searchsorted(back, stops)]
    row = np.arange(len(column))
    inside: NDArray[np.bool_] = (row >= np.repeat(first, lengths)) & (row <= np.repeat(last, lengths))
    return inside
