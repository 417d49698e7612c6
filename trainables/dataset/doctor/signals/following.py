"""Whether the state of each joint follows its action: at all, with what delay, and in the same unit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trainables.dataset.doctor.signals.motion import full_turn
from trainables.dataset.doctor.signals.numbers import MOST_LEVELS, Spread, only_noise, spread_of
from trainables.dataset.doctor.signals.pairs import Pair, is_gripper, joint_pairs, ptp_of_episodes
from trainables.dataset.doctor.wording import counted, dimension_names, in_episodes, name_dimensions, vectors
from trainables.dataset.statistics import evenly
from trainables.features import ACTION, STATE
from trainables.interface import Finding

if TYPE_CHECKING:
    from trainables.dataset.lerobot_dataset import LeRobotDataset

__all__ = ["following_findings"]

ROWS = 30_000
"""Episodes of about so many rows are compared, spread over the set: correlations of hundreds of episodes do
not depend on which."""
FEWEST_ROWS = 100
SPIKES_BEYOND = 0.5
"""What is further than half its width outside the central 98 % is an outlier, with a finding of its own."""
LONGEST_LAG_S = 1.5
LONGEST_LAG = 60
FOLLOWS = 0.9
"""Position-controlled arms follow their commands with correlations above 0.95, Push-T's slow cursor with
0.97."""
UNRELATED = 0.5
LATE_S = 0.4
"""Leader and follower arms are 50 to 150 ms apart, Push-T's cursor 200 ms. At twice that the pictures show
what was commanded long ago."""
APART_S = 0.15
APART_FRAMES = 3
"""Joints of one arm share their delay; one that is so much later than the others has a slow motor or bus."""
CLEARLY = 0.5
"""Smooth motions agree with neighbouring frames, too: another delay is taken only if it halves what is left
unexplained."""
EXACTLY = 1 - 1e-6
DEGREES = 180 / np.pi
SCALE_WITHIN = 0.15
OTHER_SCALE = 1.5
SAME_MOTION = 0.95
"""Whatever follows so closely moves alike: sag and lag change its size by a few per cent, and half as much
again is another unit."""
KNOWN_SCALES = {
    DEGREES: "degrees and radians",
    100.0: "per cent and shares of 1",
    1000.0: "millimetres and metres",
    4096 / 360: "ticks of a motor and degrees",
    4096 / (2 * np.pi): "ticks of a motor and radians",
}
NORMALISED = 100.0
"""LeRobot's drivers map the calibrated range of a motor to -100..100 unless `use_degrees` is set."""
MIXED_GAP = 15.0
MIXED_WITHIN = 1.8
"""Episodes in radians among those in degrees move 57 times less. Two groups with nothing between them (a
factor of 15), and about that factor apart, are two units and not two kinds of motion."""


def following_findings(dataset: LeRobotDataset) -> list[Finding]:
    """Compare actions and states joint by joint."""
    findings = [found for name in (STATE, ACTION) for found in _mixed_units(dataset, name)]
    pairs = joint_pairs(dataset)
    joints = _compare(dataset, pairs) if pairs else []
    if not joints:
        return findings
    return [*findings, *_unrelated(dataset, joints), *_late(dataset, joints), *_units(dataset, joints)]


@dataclass(frozen=True)
class _Joint:
    """How a dimension of the state follows its action.

    Attributes:
        pair: The two dimensions.
        lag: Frames from the action to the state that is most like it.
        correlation: At that delay, within the episodes.
        now: The same without a delay.
        scale: How much larger the action's motions are.
        gripper: Whether it is one, or a switch: it ends at the object, not where it was commanded to.
    """

    pair: Pair
    lag: int
    correlation: float
    now: float
    scale: float
    gripper: bool

    @property
    def follows(self) -> bool:
        return self.correlation >= FOLLOWS


def _compare(dataset: LeRobotDataset, pairs: list[Pair]) -> list[_Joint]:
    chosen = _sample(dataset)
    if chosen is None:
        return []
    rows, episode = chosen
    lags = _lags(dataset)
    names = dimension_names(dataset, ACTION)
    joints = []
    spreads = {name: spread_of(dataset.vector(name)) for name in (ACTION, STATE)}
    noise = {name: only_noise(dataset, dataset.vector(name), spread) for name, spread in spreads.items()}
    for pair in pairs:
        places = {ACTION: pair.action, STATE: pair.state}
        if any(noise[name][d] or full_turn(spreads[name], d) is not None for name, d in places.items()):
            continue  # a finding of its own: nothing but noise, an angle that wraps
        columns = {name: _without_spikes(dataset, name, d, rows, spreads[name]) for name, d in places.items()}
        action, state = _centred(columns[ACTION], episode), _centred(columns[STATE], episode)
        if not (_moves(action) and _moves(state)):
            continue
        found = np.array([_correlation(action, state, episode, int(lag)) for lag in lags])
        now = float(found[lags == 0][0])
        best = int(np.argmax(np.abs(found)))
        if 1 - abs(found[best]) > CLEARLY * (1 - abs(now)):
            best = int(np.flatnonzero(lags == 0)[0])
        levels = len(np.unique(dataset.vector(ACTION)[rows[:10_000], pair.action])) <= MOST_LEVELS
        gripper = is_gripper(names[pair.action]) or levels
        scale = float(np.std(action) / np.std(state))
        joints.append(_Joint(pair, int(lags[best]), float(found[best]), now, scale, gripper))
    return joints


def _sample(dataset: LeRobotDataset) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Rows of episodes spread over the dataset, and the number of the episode of each."""
    count = max(1, int(len(dataset.episodes) * min(1.0, ROWS / max(len(dataset), 1))))
    episodes = [dataset.episodes[int(n)] for n in evenly(len(dataset.episodes), count)]
    rows = np.concatenate([np.arange(episode.start, episode.stop) for episode in episodes])
    number = np.repeat(np.arange(len(episodes)), [len(episode) for episode in episodes])
    finite = np.isfinite(dataset.vector(ACTION)[rows]).all(axis=1)
    finite &= np.isfinite(dataset.vector(STATE)[rows]).all(axis=1)
    whole = ~np.isin(number, number[~finite])  # a delay is counted in rows: an episode is whole or not used
    return (rows[whole], number[whole]) if whole.sum() >= FEWEST_ROWS else None


def _lags(dataset: LeRobotDataset) -> NDArray[np.int64]:
    shortest = int(np.median([len(episode) for episode in dataset.episodes])) // 3
    most = max(1, min(round(LONGEST_LAG_S * dataset.fps), LONGEST_LAG, shortest))
    return np.arange(-most, most + 1)


def _centred(column: NDArray[np.floating], episode: NDArray[np.int64]) -> NDArray[np.float64]:
    """The same without the mean of each episode: what is left is motion."""
    values = column.astype(np.float64)
    means = np.bincount(episode, values) / np.maximum(np.bincount(episode), 1)
    centred: NDArray[np.float64] = values - means[episode]
    return centred


def _without_spikes(
    dataset: LeRobotDataset, name: str, d: int, rows: NDArray[np.int64], spread: Spread
) -> NDArray[np.float32]:
    """A dimension with values far out cut off: one spike must not decide a correlation."""
    room = SPIKES_BEYOND * spread.scale[d]
    if not np.isfinite(room):
        return dataset.vector(name)[rows, d]
    clipped: NDArray[np.float32] = dataset.vector(name)[rows, d].clip(
        spread.q01[d] - room, spread.q99[d] + room
    )
    return clipped


def _moves(centred: NDArray[np.float64]) -> bool:
    return float(np.std(centred)) > 1e-9


def _correlation(
    action: NDArray[np.float64], state: NDArray[np.float64], episode: NDArray[np.int64], lag: int
) -> float:
    """Correlation of the action with the state ``lag`` frames later, within the episodes."""
    if lag < 0:
        return _correlation(state, action, episode, -lag)
    stop = len(action) - lag
    same = episode[:stop] == episode[lag:]
    shared = episode[:stop][same]
    one, two = _centred(action[:stop][same], shared), _centred(state[lag:][same], shared)
    size = float(np.sqrt((one @ one) * (two @ two)))
    return float(one @ two) / size if size > 0 else 0.0


# -- not at all


def _unrelated(dataset: LeRobotDataset, joints: list[_Joint]) -> list[Finding]:
    which = [joint for joint in joints if joint.correlation < UNRELATED and not joint.gripper]
    following = sum(joint.follows for joint in joints)
    if following <= len(joints) / 2:
        # Speeds, steps, or places of another kind than the state: only equal names say that they belong.
        steps = [joint for joint in joints if _commands_steps(dataset, joint.pair)]
        which = [] if len(steps) > len(joints) / 2 else [joint for joint in which if joint.pair.named]
    if not which:
        return []
    actions = [joint.pair.action for joint in which]
    told = "; ".join(_relation(dataset, joint, joints) for joint in which[:5])
    return [
        Finding(
            check="action_not_followed",
            severity="warning" if following else "note",
            where=ACTION,
            problem=f"{STATE} does not follow {name_dimensions(dataset, ACTION, actions)}: {told}.",
            why="The policy sees the state and predicts the action: if they are not of the same joint, or of "
            "opposite signs, the robot moves elsewhere than the demonstration did."
            + ("" if following else " No joint follows: the two may be of different kinds."),
            remedy="Check the order and the signs of the joints, of leader and follower, where the dataset "
            "was recorded or converted.",
        )
    ]


def _commands_steps(dataset: LeRobotDataset, pair: Pair) -> bool:
    """Whether an action is the speed or the step of its state."""
    chosen = _sample(dataset)
    if chosen is None:
        return False
    rows, episode = chosen
    same = np.diff(episode) == 0
    step = np.diff(dataset.vector(STATE)[rows, pair.state].astype(np.float64)) * same
    action = dataset.vector(ACTION)[rows, pair.action].astype(np.float64)
    action = (action - action.mean())[:-1] * same
    size = float(np.sqrt((step @ step) * (action @ action)))
    return size > 0 and abs(float(step @ action)) / size > UNRELATED


def _relation(dataset: LeRobotDataset, joint: _Joint, joints: list[_Joint]) -> str:
    """How an action and its state relate, and which other dimension follows the action instead."""
    said = f"the correlation of dimension {joint.pair.action} is {joint.correlation:.2f}"
    if joint.correlation <= -UNRELATED:
        return f"{said}, they move in opposite directions"
    chosen = _sample(dataset)
    assert chosen is not None
    rows, episode = chosen
    action = _centred(dataset.vector(ACTION)[rows, joint.pair.action], episode)
    for other in sorted({one.pair.state for one in joints} - {joint.pair.state}):
        state = _centred(dataset.vector(STATE)[rows, other], episode)
        if _moves(state) and abs(_correlation(action, state, episode, 0)) >= FOLLOWS:
            return f"{said}; it is dimension {other} of {STATE} that follows it"
    return said


# -- late


def _late(dataset: LeRobotDataset, joints: list[_Joint]) -> list[Finding]:
    sure = [joint for joint in joints if joint.follows and not joint.gripper]
    if not sure or all(joint.lag == -1 and joint.correlation > EXACTLY for joint in sure):
        return []  # an exact copy is ``action_is_state``
    usual = float(np.median([joint.lag for joint in sure]))
    apart = max(APART_FRAMES, APART_S * dataset.fps)
    which = [
        joint
        for joint in sure
        if joint.lag > LATE_S * dataset.fps or joint.lag < 0 or joint.lag - usual > apart
    ]
    if not which:
        return []
    told = ", ".join(
        f"{counted(abs(joint.lag), 'frame')} ({abs(joint.lag) / dataset.fps * 1000:.0f} ms) "
        f"{'before' if joint.lag < 0 else 'after'} dimension {joint.pair.action}"
        for joint in which[:10]
    )
    early = any(joint.lag < 0 for joint in which)
    others = "" if len(which) == len(sure) else f"; the others usually {counted(round(usual), 'frame')} after"
    return [
        Finding(
            check="action_lag",
            severity="warning",
            where=ACTION,
            problem=f"{STATE} moves {told} of the action{others}.",
            why="The action of a row is what the robot has done already: the policy learns to be late by as "
            "much."
            if early
            else "The state and the pictures of a row show what was commanded that long before: on the robot "
            "the policy's actions take effect later than it learned, and it overshoots.",
            remedy="Shift the actions by these frames when converting."
            if early
            else "Check that states and actions were recorded with the same clock, and how long the robot "
            "takes to follow; shift the states if it is the recording.",
        )
    ]


# -- units


def _units(dataset: LeRobotDataset, joints: list[_Joint]) -> list[Finding]:
    found = {
        joint.pair.action: joint
        for joint in joints
        if joint.correlation >= SAME_MOTION
        and not max(joint.scale, 1 / joint.scale) < OTHER_SCALE
        and (not joint.gripper or _known_scale(joint.scale) == _known_scale(DEGREES))
    }
    explained = {d for d, joint in found.items() if _guess(dataset, joint)}
    if not explained and len(found) < 2:
        return []  # most likely a gripper without a name, which ends at the object
    which = sorted(found)
    told = ", ".join(f"{found[d].scale:.3g}" for d in which[:10])
    kinds = {_guess(dataset, found[d]) for d in which}
    kind = f" It looks like {' and like '.join(sorted(kinds - {''}))}." if kinds - {""} else ""
    return [
        Finding(
            check="units_differ",
            severity="warning",
            where=ACTION,
            problem=f"{name_dimensions(dataset, ACTION, which)} {'moves' if len(which) == 1 else 'move'} in "
            f"another scale than {STATE}, which follows: by a factor of {told}.{kind}",
            why="Each is normalised by itself, so that training is possible. But one of them may not be what "
            "the robot expects, and sets or checkpoints in other units cannot be used together with it.",
            remedy="Convert both to the unit that the robot's driver uses, and name it in info.json.",
        )
    ]


def _known_scale(scale: float) -> str:
    factor = max(scale, 1 / scale)
    return next((name for known, name in KNOWN_SCALES.items() if abs(factor / known - 1) < SCALE_WITHIN), "")


def _guess(dataset: LeRobotDataset, joint: _Joint) -> str:
    """What the units may be, as the end of a sentence; empty if nothing shows it."""
    known = _known_scale(joint.scale)
    if known:
        larger = "action" if joint.scale > 1 else "state"
        return f"{known}, with the {larger} in the former"
    action = dataset.vector(ACTION)[:, joint.pair.action]
    state = dataset.vector(STATE)[:, joint.pair.state]
    for normalised, other in ((action, state), (state, action)):
        reach = float(np.abs(normalised).max())
        if 0.5 * NORMALISED < reach <= NORMALISED + 1e-3 and float(np.abs(other).max()) > NORMALISED:
            named = "action" if normalised is action else "state"
            return f"LeRobot's normalised motors (-100 to 100) in the {named}, and degrees in the other"
    return ""


def _mixed_units(dataset: LeRobotDataset, name: str) -> list[Finding]:
    """Episodes in radians among episodes in degrees."""
    if name not in vectors(dataset) or len(dataset.episodes) < 2:
        return []
    ptp = ptp_of_episodes(dataset, name).astype(np.float64)
    constant = spread_of(dataset.vector(name)).constant
    ptp = np.where(np.isfinite(ptp) & (ptp > 0), ptp, np.nan)[:, ~constant]
    ptp = ptp[:, ~np.isnan(ptp).all(axis=0)]  # what moves in no episode, and from one to the next only
    moves = ~np.isnan(ptp).all(axis=1)
    if moves.sum() < 2:
        return []
    sizes = np.log(ptp[moves])
    sizes = np.nanmedian(sizes - np.nanmax(sizes, axis=0), axis=1)
    order = np.argsort(sizes)
    gaps = np.diff(sizes[order])
    cut = int(np.argmax(gaps))
    small, large = order[: cut + 1], order[cut + 1 :]
    factor = float(np.exp(np.median(sizes[large]) - np.median(sizes[small])))
    if np.exp(gaps[cut]) < MIXED_GAP or not 1 / MIXED_WITHIN < factor / DEGREES < MIXED_WITHIN:
        return []
    places = np.flatnonzero(moves)
    fewer, word = (small, "smaller") if len(small) <= len(large) else (large, "larger")
    episodes = sorted(dataset.episodes[int(place)].index for place in places[fewer])
    return [
        Finding(
            check="units_mixed",
            severity="warning",
            where=name,
            problem=f"moves {factor:.0f} times {word} in {in_episodes(episodes)} than in the others: these "
            "seem to be radians and degrees in one dataset.",
            why="Both are normalised by the same range: what is in radians becomes next to no motion.",
            remedy="Convert these episodes to the unit of the others.",
            episodes=tuple(episodes),
        )
    ]
