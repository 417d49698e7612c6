"""What the numbers of states and actions show: dead dimensions, and ranges that a few values stretch."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.wording import (
    counted,
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

__all__ = ["Spread", "number_findings", "only_noise", "spread_of"]

CONSTANT_BELOW = 1e-6
"""A spread smaller than this share of the values is rounding, not variation; the normaliser has the same."""
NEARLY_CONSTANT_BELOW = 1e-3
"""A joint at 1.5 rad that varies by a milliradian, an arm at 0.5 m that varies by half a millimetre:
noise."""
SMALL_BESIDE = 0.02
WHITE_ABOVE = 0.7
"""A spread below this share of the feature's other dimensions', without memory from frame to frame (white
noise has 1, a motion sampled at 10 Hz has 0.01 to 0.2), is a sensor's noise around a fixed value."""
STRETCHED_BEYOND = 2.0
"""Values that lie twice the width of the central 98 % outside them leave those less than a third of [-1, 1].
The extremes of Laplacian velocities, the heaviest tails of honest motions, stay below 1 for millions of
frames."""
FEW_EPISODES = 0.05
"""Up to this share of the episodes, leaving out those that stretch a range is a remedy."""
MOST_LEVELS = 16
FRAMES_FOR_LEVELS = 1000
"""So few different values in so many frames are switches or keys, not a continuous motion."""
UNIQUE_ROWS = 1_000_000
"""Levels are counted over at most so many rows."""


@dataclass(frozen=True)
class Spread:
    """Extremes and central 98 % of each dimension of a feature, over its finite values; each (D,)."""

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    q01: NDArray[np.float64]
    q99: NDArray[np.float64]

    @property
    def scale(self) -> NDArray[np.float64]:
        """Width of the central 98 %; of all values if that is 0; infinite for a constant dimension."""
        width = self.q99 - self.q01
        width = np.where(width > 0, width, self.high - self.low)
        return np.where(self.constant, np.inf, width)

    @property
    def constant(self) -> NDArray[np.bool_]:
        """Which dimensions never vary."""
        magnitude = np.maximum(np.abs(self.low), np.abs(self.high))
        constant: NDArray[np.bool_] = self.high - self.low <= CONSTANT_BELOW * magnitude
        return constant


def spread_of(values_ND: NDArray[np.float32]) -> Spread:
    """Measure a feature, one dimension after the other: memory for one column at a time."""
    columns = []
    for column in values_ND.T:
        finite = column[np.isfinite(column)]
        numbers = finite if len(finite) else np.zeros(1, np.float32)
        q01, q99 = np.quantile(numbers, (0.01, 0.99))
        columns.append((numbers.min(), numbers.max(), q01, q99))
    low, high, q01s, q99s = np.array(columns, np.float64).T
    return Spread(low, high, q01s, q99s)


def number_findings(dataset: LeRobotDataset, min_max: Collection[str]) -> list[Finding]:
    """Look at the values of states and actions.

    Args:
        dataset: The opened dataset.
        min_max: Features that are normalised by their extremes.
    """
    findings = []
    for name in vectors(dataset):
        values = dataset.vector(name)
        spread = spread_of(values)
        findings += _constant(dataset, name, values, spread)
        if name in min_max:
            findings += _stretched(dataset, name, values, spread)
    return [*findings, *_levels(dataset), *_copied_state(dataset)]


def _constant(
    dataset: LeRobotDataset, name: str, values: NDArray[np.float32], spread: Spread
) -> list[Finding]:
    constant = spread.constant
    nearly = ~constant & only_noise(dataset, values, spread)
    what = "The policy cannot move it" if name == ACTION else "The policy cannot use it"
    findings = []
    if constant.any():
        which = np.flatnonzero(constant).tolist()
        held = ", ".join(f"{spread.low[d]:.6g}" for d in which[:10])
        findings.append(
            Finding(
                check="constant_dimension",
                severity="warning",
                where=name,
                problem=f"{name_dimensions(dataset, name, which)} never "
                f"{'varies' if len(which) == 1 else 'vary'} (always {held}).",
                why=f"{what}: there is nothing to learn from it. Here it is normalised safely; LeRobot "
                "divides it by almost 0, and any other value at run time explodes.",
                remedy="Check that the sensor or motor was connected. Otherwise it does no harm here.",
            )
        )
    if nearly.any():
        which = np.flatnonzero(nearly).tolist()
        ranges = ", ".join(f"{spread.low[d]:.6g} to {spread.high[d]:.6g}" for d in which[:10])
        findings.append(
            Finding(
                check="nearly_constant_dimension",
                severity="warning",
                where=name,
                problem=f"{name_dimensions(dataset, name, which)} hardly "
                f"{'varies' if len(which) == 1 else 'vary'} ({ranges}).",
                why="Normalisation amplifies a sensor's noise to the size of a real motion, and the policy "
                "learns the noise.",
                remedy="Check that the sensor or motor was connected; leave the dimension out when "
                "converting.",
            )
        )
    return findings


def only_noise(dataset: LeRobotDataset, values: NDArray[np.float32], spread: Spread) -> NDArray[np.bool_]:
    """Which dimensions vary by no more than a sensor's noise."""
    width = spread.high - spread.low
    magnitude = np.maximum(np.abs(spread.low), np.abs(spread.high))
    noise: NDArray[np.bool_] = width < NEARLY_CONSTANT_BELOW * magnitude
    if len(width) > 1:
        for d in np.flatnonzero(width < SMALL_BESIDE * np.median(width)):
            noise[d] |= _whiteness(dataset, values[:, d]) > WHITE_ABOVE
    return noise


def _whiteness(dataset: LeRobotDataset, column: NDArray[np.float32]) -> float:
    """Variance of the steps over twice the variance: 1 for white noise, near 0 for a smooth motion."""
    steps = np.diff(column.astype(np.float64))
    steps = np.delete(steps, [episode.start - 1 for episode in dataset.episodes[1:]])
    variance = float(np.nanvar(column.astype(np.float64)))
    return float(np.nanmean(steps**2)) / (2 * variance) if variance > 0 and len(steps) else 0.0


def _stretched(
    dataset: LeRobotDataset, name: str, values: NDArray[np.float32], spread: Spread
) -> list[Finding]:
    """Values so far out that the others share a small part of the normalised range."""
    central = spread.q99 - spread.q01
    beyond = np.maximum(spread.high - spread.q99, spread.q01 - spread.low)
    # Where the central values coincide, the others are rare events (a gripper that closes), not outliers.
    which = np.flatnonzero((central > 0) & ~spread.constant & (beyond > STRETCHED_BEYOND * central)).tolist()
    if not which:
        return []
    far = {d: _far_out(values[:, d], spread, d, float(beyond[d])) for d in which}
    rows = np.unique(np.concatenate(list(far.values())))
    episodes = episodes_of(dataset, rows)
    share = central / np.where(spread.constant, np.inf, spread.high - spread.low)
    d = min(which, key=lambda d: float(share[d]))
    worst = int(far[d][np.argmax(np.abs(values[far[d], d] - 0.5 * (spread.q01[d] + spread.q99[d])))])
    kind = "action" if name == ACTION else "state" if name == STATE else "environment_state"
    remedy = f"set policy.normalization_{kind}: QUANTILES"
    if len(episodes) <= max(1, FEW_EPISODES * len(dataset.episodes)):
        remedy = f"{exclude(dataset, episodes)}; or {remedy}"
    return [
        Finding(
            check="outliers",
            severity="warning",
            where=name,
            problem=f"{name_dimensions(dataset, name, which)}: values far outside the rest in "
            f"{counted(len(rows), 'frame')} of {in_episodes(episodes)}; the worst is dimension {d}, "
            f"{values[worst, d]:.6g} in {dataset.name_row(worst)}, while 98 % of its values are between "
            f"{spread.q01[d]:.6g} and {spread.q99[d]:.6g}.",
            why=f"MIN_MAX maps the extremes to -1 and 1, so that all other values share {share[d]:.1%} of "
            "that range: errors that are large to the robot are small to the loss.",
            remedy=f"{sentence(remedy)}.",
            episodes=tuple(episodes),
        )
    ]


def _far_out(column: NDArray[np.float32], spread: Spread, d: int, beyond: float) -> NDArray[np.int64]:
    """Rows more than half as far out as the furthest; those nearer are the tail that they stretch."""
    far = 0.5 * beyond
    return np.flatnonzero((column > spread.q99[d] + far) | (column < spread.q01[d] - far))


def _levels(dataset: LeRobotDataset) -> list[Finding]:
    """Actions of a few levels: two are a switch, and ordinary; more are keys or a coarse encoder."""
    if ACTION not in vectors(dataset) or len(dataset) < FRAMES_FOR_LEVELS:
        return []
    actions = dataset.vector(ACTION)
    rows = np.linspace(0, len(actions) - 1, min(len(actions), UNIQUE_ROWS)).astype(np.int64)
    counts = [len(np.unique(actions[rows, d])) for d in range(actions.shape[1])]
    which = [d for d, count in enumerate(counts) if 3 <= count <= MOST_LEVELS]
    if not which:
        return []
    levels = ", ".join(str(counts[d]) for d in which[:10])
    return [
        Finding(
            check="few_levels",
            severity="note",
            where=ACTION,
            problem=f"{name_dimensions(dataset, ACTION, which)} "
            f"{'takes' if len(which) == 1 else 'take'} only {levels} different values in "
            f"{len(actions):,} frames.",
            why="A diffusion policy predicts numbers between the levels, too: the robot must round them as "
            "the recording did.",
            remedy="Round the predicted actions on the robot, or record positions instead of keys.",
        )
    ]


def _copied_state(dataset: LeRobotDataset) -> list[Finding]:
    if not {STATE, ACTION} <= set(vectors(dataset)):
        return []
    state, action = dataset.vector(STATE), dataset.vector(ACTION)
    if state.shape != action.shape or spread_of(action).constant.all():
        return []
    inside = np.ones(len(state), bool)
    inside[[episode.start for episode in dataset.episodes]] = False
    later = np.flatnonzero(inside)
    if np.array_equal(action, state):
        lag = "of the same frame"
    elif len(later) and np.array_equal(action[later], state[later - 1]):
        lag = "of the frame before"
    else:
        return []
    return [
        Finding(
            check="action_is_state",
            severity="warning",
            where=ACTION,
            problem=f"is {STATE} {lag}, in every frame.",
            why="The policy learns to command where the robot is already: in the best case it stands still.",
            remedy="Record the commanded positions, or take the state of the next frame as the action.",
        )
    ]
