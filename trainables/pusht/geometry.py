"""The T, its poses and how well it covers the goal.

A *pose* is (x, y, angle) of the body's origin, px and rad, with pixel axes (y points down). In the body's
frame the T is a bar x ∈ [−60, 60], y ∈ [0, 30] and a stem x ∈ [−15, 15], y ∈ [30, 120]; its centre of gravity
and the mean of its eight keypoints are both (0, 45).
"""

from __future__ import annotations

from math import copysign, cos, hypot, inf, pi, sin, sqrt

import numpy as np
import shapely

__all__ = [
    "AGENT_RADIUS_PX",
    "CENTRE",
    "GOAL",
    "GOAL_CENTRE",
    "KEYPOINTS",
    "KEYPOINT_VARIANCE",
    "OUTLINE",
    "SIZE_PX",
    "SUCCESS_COVERAGE",
    "clearance",
    "compose",
    "coverage",
    "path_clearance",
    "pose_error",
    "signed_distance",
    "to_body",
    "to_world",
]

SIZE_PX = 512.0
AGENT_RADIUS_PX = 15.0
SUCCESS_COVERAGE = 0.95
GOAL = np.array([256.0, 256.0, pi / 4])
GOAL_ANGLE = pi / 4
CENTRE = np.array([0.0, 45.0])
GOAL_CENTRE = (256.0 - 45.0 * sin(GOAL_ANGLE), 256.0 + 45.0 * cos(GOAL_ANGLE))
OUTLINE = np.array(
    [[-60, 0], [60, 0], [60, 30], [15, 30], [15, 120], [-15, 120], [-15, 30], [-60, 30]], dtype=float
)
"""Corners in the body's frame, each next to the following one."""
KEYPOINTS = np.array(
    [[-60, 0], [60, 0], [60, 30], [-60, 30], [-15, 30], [15, 30], [15, 120], [-15, 120]], dtype=float
)
"""In gym-pusht's order and that of the recorded demonstrations: the bar's corners, then the stem's."""
KEYPOINT_VARIANCE = float(np.mean(np.sum((KEYPOINTS - CENTRE) ** 2, axis=1)))
BOX_CENTRES = np.array([[0.0, 15.0], [0.0, 75.0]])
BOX_HALVES = np.array([[60.0, 15.0], [15.0, 45.0]])


def signed_distance(points: np.ndarray) -> np.ndarray:
    """Distance (px) of points (..., 2) in the body's frame from the T; negative inside.

    Exact outside, which is all that routing needs.
    """
    x, y = np.abs(points[..., 0]), points[..., 1]
    nearest: np.ndarray | None = None
    for (_, centre_y), (half_x, half_y) in zip(BOX_CENTRES, BOX_HALVES, strict=True):
        beyond_x, beyond_y = x - half_x, np.abs(y - centre_y) - half_y
        outside = np.hypot(np.maximum(beyond_x, 0.0), np.maximum(beyond_y, 0.0))
        distance = outside + np.minimum(np.maximum(beyond_x, beyond_y), 0.0)
        nearest = distance if nearest is None else np.minimum(nearest, distance)
    assert nearest is not None
    return nearest


def clearance(x: float, y: float) -> tuple[float, float, float]:
    """Distance (px) of one point from the T, negative inside, and the unit vector of the shortest way out."""
    if abs(x) <= 60.0 and 0.0 <= y <= 30.0:
        ways = [(-y, 0.0, -1.0), (abs(x) - 60.0, copysign(1.0, x), 0.0)]
        # Below the middle of the bar is the stem.
        return max([*ways, (y - 30.0, 0.0, 1.0)] if abs(x) > 15.0 else ways)
    if abs(x) <= 15.0 and 30.0 <= y <= 120.0:
        return max((abs(x) - 15.0, copysign(1.0, x), 0.0), (y - 120.0, 0.0, 1.0))
    nearest = (inf, 0.0, -1.0)
    for (_, centre_y), (half_x, half_y) in zip(BOX_CENTRES.tolist(), BOX_HALVES.tolist(), strict=True):
        beyond_x, beyond_y = max(abs(x) - half_x, 0.0), max(abs(y - centre_y) - half_y, 0.0)
        distance = hypot(beyond_x, beyond_y)
        if 0.0 < distance < nearest[0]:
            way = (copysign(beyond_x, x) / distance, copysign(beyond_y, y - centre_y) / distance)
            nearest = (distance, *way)
    return nearest


def path_clearance(start: np.ndarray, ends: np.ndarray, samples: int = 49) -> np.ndarray:
    """Smallest distance from the T along the straight lines from ``start`` (2,) to ``ends`` (N, 2), (N,)."""
    share = np.linspace(0.0, 1.0, samples)[:, None, None]
    return signed_distance(start + share * (ends - start)).min(axis=0)


def compose(pose: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Pose (..., 3) after a displacement (..., 3) that is given in the frame of ``pose`` (3,)."""
    moved = to_world(pose, displacement[..., :2])
    return np.concatenate([moved, pose[2] + displacement[..., 2:]], axis=-1)


def to_world(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) of the body's frame, in the world; several poses (..., 3) broadcast against them."""
    cosine, sine = np.cos(pose[..., 2]), np.sin(pose[..., 2])
    x, y = points[..., 0], points[..., 1]
    turned = (pose[..., 0] + cosine * x - sine * y, pose[..., 1] + sine * x + cosine * y)
    return np.stack(turned, axis=-1)


def to_body(pose: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (..., 2) of the world, in the body's frame."""
    cosine, sine = np.cos(pose[2]), np.sin(pose[2])
    x, y = points[..., 0] - pose[0], points[..., 1] - pose[1]
    return np.stack([cosine * x + sine * y, -sine * x + cosine * y], axis=-1)


def pose_error(pose: np.ndarray) -> float:
    """Root mean square distance (px) of the keypoints from where they are at the goal.

    Below 1.6 px the goal is covered well enough for success, whatever the direction of the error.
    """
    x, y, angle = (float(value) for value in pose)
    shift_x = x - CENTRE[1] * sin(angle) - GOAL_CENTRE[0]
    shift_y = y + CENTRE[1] * cos(angle) - GOAL_CENTRE[1]
    turn = 2.0 * (1.0 - cos(angle - GOAL_ANGLE))
    return sqrt(shift_x**2 + shift_y**2 + KEYPOINT_VARIANCE * turn)


def coverage(pose: np.ndarray) -> float:
    """Share of the goal that the T covers, as gym-pusht computes it."""
    goal = _boxes(GOAL)
    return float(shapely.area(shapely.intersection(goal, _boxes(pose))) / shapely.area(goal))


def _boxes(pose: np.ndarray) -> shapely.MultiPolygon:
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    boxes = BOX_CENTRES[:, None] + corners * BOX_HALVES[:, None]
    return shapely.multipolygons(shapely.polygons(to_world(pose, boxes)))
