"""Ways around the T: a visibility graph in the block's frame.

Its fixed nodes are two points per convex corner, which chamfer the rounded outline at the clearance.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from tools.pusht_expert.pushes import CLEARANCE_PX
from trainables.pusht.geometry import (
    OUTLINE,
    clearance,
    path_clearance,
    to_world,
)

__all__ = ["exit_point", "route", "route_lengths"]

NODE_OFFSET_PX = 20.3
TABLE_PX = (4.0, 508.0)
"""Bounds within which a way may turn."""


def exit_point(agent: np.ndarray) -> np.ndarray:
    """Where an agent (2,) that touches the T is clear of it, by the shortest way out; body frame, px."""
    x, y = float(agent[0]), float(agent[1])
    for _ in range(60):
        distance, away_x, away_y = clearance(x, y)
        missing = NODE_OFFSET_PX - distance
        if missing <= 0:
            break
        stride = min(missing + 0.1, 4.0)
        x, y = x + away_x * stride, y + away_y * stride
    return np.array([x, y])


def route(pose: np.ndarray, agent: np.ndarray, goal: np.ndarray) -> np.ndarray | None:
    """Shortest way from ``agent`` to ``goal`` around the block.

    Args:
        pose: The block's pose (3,), which says which turning points lie on the table.
        agent: Start (2,), body frame.
        goal: End (2,), body frame.

    Returns:
        Points (N, 2) in the body's frame, the agent's position first, or None if there is no way.
    """
    start = exit_point(agent)
    usable = _on_table(pose)
    nodes = _nodes()
    points = np.concatenate([nodes, [goal]])
    from_start = np.where(np.append(usable, True), _direct(start, points), np.inf)
    to_goal = np.where(usable, _direct(goal, nodes), np.inf)
    way = [start, goal]
    if not np.isfinite(from_start[-1]):
        lengths = _node_lengths(tuple(usable.tolist()))
        through = from_start[:-1, None] + lengths + to_goal
        first, last = np.unravel_index(int(np.argmin(through)), through.shape)
        if not np.isfinite(through[first, last]):
            return None
        way[1:1] = [nodes[node] for node in _node_path(lengths, int(first), int(last))]
    return np.array([agent, *way], dtype=float)


def route_lengths(pose: np.ndarray, agent: np.ndarray, goals: np.ndarray) -> np.ndarray:
    """Length (px) of the shortest way from ``agent`` to each of the library's standoffs; infinite if none.

    Args:
        pose: The block's pose (3,).
        agent: Start (2,), body frame.
        goals: Always the same (C, 2), body frame: what lies between them and the nodes is remembered.
    """
    start = exit_point(agent)
    usable = _on_table(pose)
    nodes = _nodes()
    to_goals = _direct(start, goals)
    to_nodes = np.where(usable, _direct(start, nodes), np.inf)
    between = _node_lengths(tuple(usable.tolist()))
    entering = (to_nodes[:, None] + between).min(axis=0)
    via_nodes = (entering[:, None] + _goal_lengths(goals.tobytes())).min(axis=0)
    return float(np.hypot(*(start - agent))) + np.minimum(to_goals, via_nodes)


@lru_cache(maxsize=1)
def _nodes() -> np.ndarray:
    nodes = []
    before, after = np.roll(OUTLINE, 1, axis=0), np.roll(OUTLINE, -1, axis=0)
    for corner, previous, following in zip(OUTLINE, before, after, strict=True):
        arriving = (corner - previous) / np.hypot(*(corner - previous))
        leaving = (following - corner) / np.hypot(*(following - corner))
        if arriving[0] * leaving[1] - arriving[1] * leaving[0] < 0:
            continue  # a reflex corner: nobody turns around it
        # With the corner convex, the way in continues outwards and the way out comes from outwards.
        slant = np.tan(np.pi / 8)
        nodes.append(corner + NODE_OFFSET_PX * (arriving - slant * leaving))
        nodes.append(corner + NODE_OFFSET_PX * (slant * arriving - leaving))
    return np.array(nodes)


def _on_table(pose: np.ndarray) -> np.ndarray:
    places = to_world(pose, _nodes())
    return np.all((places >= TABLE_PX[0]) & (places <= TABLE_PX[1]), axis=1)


def _direct(start: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Length of the straight lines that are clear; infinite for the others."""
    lengths = np.hypot(*(ends - start).T)
    return np.where(path_clearance(start, ends) >= CLEARANCE_PX - 1e-6, lengths, np.inf)


@lru_cache(maxsize=4096)
def _node_lengths(usable: tuple[bool, ...]) -> np.ndarray:
    """Shortest ways between nodes that only turn at usable ones (Floyd and Warshall)."""
    nodes = _nodes()
    lengths = _node_distances().copy()
    blocked = ~np.array(usable)
    lengths[blocked] = np.inf
    lengths[:, blocked] = np.inf
    np.fill_diagonal(lengths, 0.0)
    for middle in range(len(nodes)):
        lengths = np.minimum(lengths, lengths[:, middle, None] + lengths[middle])
    return lengths


def _node_path(lengths: np.ndarray, first: int, last: int) -> list[int]:
    """Nodes of a shortest way: from each one on to the nearest that lies on it and can be seen."""
    path = [first]
    while path[-1] != last:
        here = path[-1]
        left = lengths[here, last]
        on_the_way = np.abs(_node_distances()[here] + lengths[:, last] - left) < 1e-6
        on_the_way[here] = False
        path.append(int(np.flatnonzero(on_the_way)[0]))
    return path


@lru_cache(maxsize=1)
def _node_distances() -> np.ndarray:
    """Straight distances between nodes that see each other; infinite for the others."""
    nodes = _nodes()
    return np.stack([_direct(node, nodes) for node in nodes])


@lru_cache(maxsize=2)
def _goal_lengths(goals: bytes) -> np.ndarray:
    places = np.frombuffer(goals).reshape(-1, 2)
    return np.stack([_direct(node, places) for node in _nodes()])
