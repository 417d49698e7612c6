"""An expert that solves Push-T by planning: which pushes, in which order, and how the agent moves for them.

It looks three pushes ahead in the library by a beam search, tries the best first pushes in an exact
simulation with walls, improves the best of them by random changes, and turns it into a smooth way of the
agent's target. After every push it looks again.

A value is a number of control steps: those already spent and those that are estimated to be left.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import sqrt

import numpy as np

from tools.pusht_expert.physics import DAMPING, DT_S, STIFFNESS, SUBSTEPS, LeanSimulator, State
from tools.pusht_expert.pushes import CLEARANCE_PX, PUSH_LENGTH_PX, RECORD_EVERY_PX, Push, push_library
from tools.pusht_expert.routes import route, route_lengths
from trainables.pusht.geometry import (
    AGENT_RADIUS_PX,
    OUTLINE,
    SIZE_PX,
    SUCCESS_COVERAGE,
    compose,
    coverage,
    pose_error,
    signed_distance,
    to_body,
    to_world,
)

__all__ = ["Expert", "Style", "target_profile"]

SOLVED_PX = 1.6
UNSOLVED_STEPS = 18.0
"""Estimate of the steps that any unsolved pose still costs, besides one per pixel of its error."""
OVERHEAD_STEPS = 7.0
"""Steps of a push for speeding up, slowing down and settling."""
STANDOFF_BOUNDS_PX = (6.0, 506.0)
CORNER_BOUNDS_PX = (8.0, 503.0)
FIRST_BEAM, BEAM, PER_NODE, DEPTH = 48, 48, 8, 3
TRIED_FIRST_PUSHES = 10
REFINEMENTS = 80
STALL_STEPS, STALL_PX = 20.0, 3.0
LARGEST_ANGLE = np.deg2rad(35.0)
NEAR_PX = 4.0
"""Above this pose error the goal is certainly not covered."""
HOLD_STEPS = 4


@dataclass(frozen=True)
class Style:
    """How an episode is driven.

    Attributes:
        free_px: Fastest motion of the target between pushes, px per control step.
        push_px: Fastest motion of the target in a push, px per control step.
        acceleration_px: Largest change of that speed, px per control step².
        curiosity_steps: How much worse, in steps, a first push may be and still be chosen now and then.
    """

    free_px: float = 18.0
    push_px: float = 9.0
    acceleration_px: float = 5.0
    curiosity_steps: float = 0.0


@dataclass(frozen=True)
class _Node:
    """A state that the search has reached: steps so far, block, agent in the block's frame, first push."""

    steps: float
    pose: np.ndarray
    agent: np.ndarray
    first: tuple[int, int]
    value: float


@dataclass(frozen=True)
class _Trial:
    """A push that was simulated exactly."""

    push: Push
    targets: np.ndarray
    value: float
    moved_px: float


class Expert:
    """Plans one push at a time.

    Args:
        style: How an episode is driven.
        rng: Source of the random changes.
    """

    def __init__(self, style: Style, rng: np.random.Generator) -> None:
        self._style = style
        self._rng = rng
        self._simulator = LeanSimulator()
        self._stalls = 0

    def next_push(self, state: State, target: np.ndarray) -> np.ndarray:
        """Plan the next push.

        Args:
            state: Where everything is.
            target: The agent's target in the last step (2,), px; its position in the first.

        Returns:
            The targets to follow (N, 2), px, one per control step.
        """
        candidates = self._search(state)
        trials = [trial for push in candidates if (trial := self._try(state, target, push)) is not None]
        if not trials:
            return self._wander(target)
        best = self._refine(state, target, self._choose(trials))
        self._stalls = self._stalls + 1 if best.moved_px < STALL_PX else 0
        return best.targets

    def _search(self, state: State) -> list[Push]:
        """The best first pushes by the library, the best first."""
        library = push_library()
        agent = to_body(state.block, state.agent)
        root = _Node(0.0, state.block, agent, (-1, -1), np.inf)
        beam = _expand(root, FIRST_BEAM)
        best: dict[tuple[int, int], float] = {node.first: node.value for node in beam}
        for _ in range(DEPTH - 1):
            unsolved = [node for node in beam if pose_error(node.pose) > SOLVED_PX]
            children = [child for node in unsolved for child in _expand(node, PER_NODE)]
            beam = sorted(children, key=lambda node: node.value)[:BEAM]
            for node in children:
                best[node.first] = min(best[node.first], node.value)
        ranked = sorted(best, key=lambda first: best[first])[:TRIED_FIRST_PUSHES]
        return [library.push(*first) for first in ranked]

    def _try(self, state: State, target: np.ndarray, push: Push) -> _Trial | None:
        """Simulate one push exactly; None if it cannot be reached."""
        targets = self._targets(state, target, push)
        if targets is None:
            return None
        simulator = self._simulator
        simulator.reset(state)
        alone = _agent_alone(state, targets)
        touching = _may_touch(state.block, alone[:, :2])
        for steps, place in enumerate(targets.tolist(), start=1):
            if not touching[steps - 1]:
                simulator.move_agent(alone[steps, :2], alone[steps, 2:])
                continue
            simulator.step(place)
            if _solved(simulator.block_pose()):
                return _Trial(push, targets[:steps], float(steps), np.inf)
        pose = simulator.block_pose()
        agent = to_body(pose, simulator.agent_position())
        ahead = _expand(_Node(float(len(targets)), pose, agent, (-1, -1), np.inf), 1)
        value = ahead[0].value if ahead else len(targets) + UNSOLVED_STEPS + 2 * pose_error(pose)
        moved_px = float(np.abs(to_world(pose, OUTLINE) - to_world(state.block, OUTLINE)).max())
        if moved_px < STALL_PX:
            value += STALL_STEPS * (1 + self._stalls)
        return _Trial(push, targets, value, moved_px)

    def _choose(self, trials: Sequence[_Trial]) -> list[_Trial]:
        """Rank trials by their value; a curious expert sometimes prefers another one to the best."""
        ranked = sorted(trials, key=lambda trial: trial.value)
        if self._style.curiosity_steps > 0:
            behind = np.array([trial.value - ranked[0].value for trial in ranked])
            weights = np.exp(-behind / self._style.curiosity_steps)
            first = int(self._rng.choice(len(ranked), p=weights / weights.sum()))
            # Refinement starts at the chosen one alone, or it would walk back to the best.
            return [ranked[first]] if first else ranked
        return ranked

    def _refine(self, state: State, target: np.ndarray, ranked: Sequence[_Trial]) -> _Trial:
        """Improve the best trials by random changes: first around the top three, then close to the best."""
        best = min(ranked, key=lambda trial: trial.value)
        for attempt in range(REFINEMENTS):
            early = attempt < REFINEMENTS // 2
            parent = ranked[attempt % min(3, len(ranked))] if early else best
            trial = self._try(state, target, self._changed(parent.push, 1.0 if early else 0.4))
            if trial is not None and trial.value < best.value:
                best = trial
        return best

    def _changed(self, push: Push, scale: float) -> Push:
        shift, turn, longer = self._rng.normal(0.0, [5.0 * scale, np.deg2rad(10.0) * scale, 6.0 * scale])
        along = np.array([-push.normal[1], push.normal[0]])
        return replace(
            push,
            contact=_onto_edge(push.contact + along * shift, push),
            angle=float(np.clip(push.angle + turn, -LARGEST_ANGLE, LARGEST_ANGLE)),
            length=float(np.clip(push.length + longer, 4.0, PUSH_LENGTH_PX - 2 * RECORD_EVERY_PX)),
        )

    def _targets(self, state: State, target: np.ndarray, push: Push) -> np.ndarray | None:
        """The agent's targets for a push, from the last target on; None if there is no way."""
        if signed_distance(push.standoff) < CLEARANCE_PX - 1:
            return None
        way = route(state.block, to_body(state.block, target), push.standoff)
        if way is None:
            return None
        free = to_world(state.block, way)
        if free[-1].min() < STANDOFF_BOUNDS_PX[0] or free[-1].max() > STANDOFF_BOUNDS_PX[1]:
            return None
        pushing = to_world(state.block, push.polyline()[1:])
        profile = target_profile(np.concatenate([free, pushing]), len(free) - 1, self._style)
        targets = np.clip(profile, 0.0, SIZE_PX).astype(np.float32)
        return self._settled(state, targets)

    def _settled(self, state: State, targets: np.ndarray) -> np.ndarray:
        """Hold the last target until the agent has come to it."""
        last = targets[-1:]
        waiting = _agent_alone(state, np.concatenate([targets, np.repeat(last, HOLD_STEPS, axis=0)]))
        near = np.hypot(*(waiting[len(targets) :, :2] - last).T) < 1.0
        held = int(np.argmax(near)) if near.any() else HOLD_STEPS
        return np.concatenate([targets, np.repeat(last, held, axis=0)])

    def _wander(self, target: np.ndarray) -> np.ndarray:
        """Go somewhere else where no push can be reached from here."""
        place = self._rng.uniform(60.0, SIZE_PX - 60.0, 2)
        profile = target_profile(np.stack([target, place]), 1, self._style)
        return np.clip(profile, 0.0, SIZE_PX).astype(np.float32)


def target_profile(polyline: np.ndarray, free_segments: int, style: Style) -> np.ndarray:
    """Way of a target along a polyline, at speeds that the agent can follow.

    Args:
        polyline: Points (N, 2), px; the first is where the target is now.
        free_segments: So many segments, the first ones, are free motion; the others push.
        style: The speeds.

    Returns:
        Targets (T, 2), px, one per control step, the last one at the polyline's end.
    """
    segments = np.diff(polyline, axis=0)
    lengths = np.hypot(*segments.T)
    keep = lengths > 1e-6
    ends = np.concatenate([[0.0], np.cumsum(lengths)])
    total = float(ends[-1])
    if total < 1.0:
        return polyline[-1:].copy()
    places = np.linspace(0.0, total, int(np.ceil(total)) + 1)
    limits = np.where(places < ends[free_segments], style.free_px, style.push_px)
    headings = np.arctan2(segments[keep, 1], segments[keep, 0])
    corners = ends[1:][keep][:-1]
    for corner, turn in zip(corners, np.diff(headings), strict=True):
        slowest = max(4.0, style.push_px * (1.0 + np.cos(turn)))
        limits[np.argmin(np.abs(places - corner))] = min(slowest, style.free_px)
    limits[0], limits[-1] = min(limits[0], style.acceleration_px), 2.5
    spacing = float(places[1])
    speeds = _reachable_speeds(limits.tolist(), 2.0 * style.acceleration_px * spacing)
    position, steps = 0.0, []
    while position < total:
        position = min(position + speeds[int(position / spacing)], total)
        steps.append(position)
    return np.stack([np.interp(steps, ends, polyline[:, axis]) for axis in (0, 1)], axis=1)


def _reachable_speeds(limits: list[float], gain: float) -> list[float]:
    """Largest speeds below ``limits`` whose squares change by at most ``gain`` from place to place."""
    squared = [limit * limit for limit in limits]
    for i in range(1, len(squared)):
        squared[i] = min(squared[i], squared[i - 1] + gain)
    for i in range(len(squared) - 2, -1, -1):
        squared[i] = min(squared[i], squared[i + 1] + gain)
    return [sqrt(value) for value in squared]


def _expand(node: _Node, count: int) -> list[_Node]:
    """The best ``count`` states that one push of the library leads to, at most two per primitive."""
    library = push_library()
    way = route_lengths(node.pose, node.agent, library.standoffs)
    standoffs = to_world(node.pose, library.standoffs)
    inside = np.all((standoffs >= STANDOFF_BOUNDS_PX[0]) & (standoffs <= STANDOFF_BOUNDS_PX[1]), axis=1)
    starting = np.where(inside, node.steps + way / 18.0 + OVERHEAD_STEPS, np.inf)[library.contact_of]
    error = library.pose_errors(node.pose)
    steps = starting[:, None] + library.lengths / 9.0
    values = steps + error + UNSOLVED_STEPS * (error > SOLVED_PX)
    rows = []
    everything = np.arange(len(values))
    for _ in range(2):
        best = np.argmin(values, axis=1)
        rows.append((everything, best, values[everything, best]))
        values[everything, best] = np.inf
    primitives, lengths, found = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    order = np.argsort(found)[: 6 * count + 24]
    order = order[np.isfinite(found[order])]
    primitives, lengths, found = primitives[order], lengths[order], found[order]
    poses = compose(node.pose, library.displacements[primitives, lengths])
    legal = np.flatnonzero(_on_table(poses, node.pose))[:count]
    return [
        _Node(
            steps=float(steps[primitives[i], lengths[i]]),
            pose=poses[i],
            agent=library.agents[primitives[i], lengths[i]],
            first=node.first if node.first[0] >= 0 else (int(primitives[i]), int(lengths[i])),
            value=float(found[i]),
        )
        for i in legal
    ]


def _on_table(poses: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Which poses (N, 3) keep the T clear of the walls, or at least bring it further in than it was."""
    low, high = CORNER_BOUNDS_PX

    def overhang(pose: np.ndarray) -> np.ndarray:
        corners = to_world(pose[..., None, :], OUTLINE)
        beyond = np.maximum(low - corners, corners - high).max(axis=(-2, -1))
        return np.maximum(beyond, 0.0)

    out = overhang(poses)
    return (out == 0.0) | (out < overhang(before) - 1.0)


def _onto_edge(contact: np.ndarray, push: Push) -> np.ndarray:
    """``contact`` brought back onto the edge that ``push`` goes for."""
    for start, end in _edges():
        along = (end - start) / np.hypot(*(end - start))
        inward = np.array([-along[1], along[0]])
        if abs(inward @ (push.contact - start)) < 1e-6 and inward @ push.normal > 0.99:
            reach = float((push.contact - start) @ along)
            length = float(np.hypot(*(end - start)))
            if -1e-6 <= reach <= length + 1e-6:
                return start + along * np.clip((contact - start) @ along, 1.0, length - 1.0)
    return contact


def _edges() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    return zip(OUTLINE, np.roll(OUTLINE, -1, axis=0), strict=True)


def _solved(pose: np.ndarray) -> bool:
    return pose_error(pose) < NEAR_PX and coverage(pose) > SUCCESS_COVERAGE


def _may_touch(block: np.ndarray, agents: np.ndarray) -> np.ndarray:
    """Steps (T,) in which the agent may touch the block, given the agent's places (T + 1, 2) around them.

    The first push moves the block, so from the first touch on a way every step counts, once it is clear.
    """
    distance = signed_distance(to_body(block, agents))
    stride = np.hypot(*np.diff(agents, axis=0).T)
    clear = (distance[:-1] + distance[1:] - stride) / 2 > AGENT_RADIUS_PX + 1.0
    # Leaving the block at the start is a touch, too; after that the free way, and then the push.
    leaving = int(np.argmax(clear)) if clear.any() else len(clear)
    arriving = leaving + (int(np.argmin(clear[leaving:])) if not clear[leaving:].all() else len(clear))
    steps = np.arange(len(clear))
    return (steps < leaving) | (steps >= arriving)


def _agent_alone(state: State, targets: np.ndarray) -> np.ndarray:
    """Agent's place and velocity (T + 1, 4), px and px/s, around each target; no block holds it up."""
    (xx, xv), (vx, vv) = _AGENT_STEP[0].tolist()
    to_x, to_v = _AGENT_STEP[1].tolist()
    x, y = state.agent.tolist()
    u, v = state.agent_velocity.tolist()
    rows = [(x, y, u, v)]
    for target_x, target_y in targets.tolist():
        x, u = xx * x + xv * u + to_x * target_x, vx * x + vv * u + to_v * target_x
        y, v = xx * y + xv * v + to_x * target_y, vx * y + vv * v + to_v * target_y
        rows.append((x, y, u, v))
    return np.array(rows)


def _agent_dynamics() -> tuple[np.ndarray, np.ndarray]:
    """Transition (2, 2) of position and velocity over a control step, and what the target adds (2,)."""
    # A substep: v' = v + (k (t − x) − c v) dt, then x' = x + v' dt.
    once = np.array(
        [[1 - STIFFNESS * DT_S**2, DT_S * (1 - DAMPING * DT_S)], [-STIFFNESS * DT_S, 1 - DAMPING * DT_S]]
    )
    push = np.array([STIFFNESS * DT_S**2, STIFFNESS * DT_S])
    transition, forcing = np.eye(2), np.zeros(2)
    for _ in range(SUBSTEPS):
        transition, forcing = once @ transition, once @ forcing + push
    return transition, forcing


_AGENT_STEP = _agent_dynamics()
