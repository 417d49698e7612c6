"""A library of pushes: what the block does when the agent drives into it here, in this direction, this far.

The block moves only while it is touched and feels no floor, so the outcome of a push does not depend on where
the block lies. Every outcome is simulated once, in the frame of the block, and planning is composing them.

Legend: P primitives, L lengths of a primitive, C contacts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import cos, sin

import numpy as np

from tools.pusht_expert.physics import DT_S, LeanSimulator, State
from trainables.pusht.geometry import (
    CENTRE,
    GOAL_ANGLE,
    GOAL_CENTRE,
    KEYPOINT_VARIANCE,
    OUTLINE,
    signed_distance,
    to_body,
    to_world,
)

__all__ = ["CLEARANCE_PX", "STANDOFF_PX", "Library", "Push", "push_library"]

CLEARANCE_PX = 20.0
"""The agent's centre stays this far from the T when it does not push: its radius and 5 px for cut corners."""
STANDOFF_PX = 22.0
CONTACT_SPACING_PX = 7.5
ANGLES = np.deg2rad([-20.0, 0.0, 20.0])
PUSH_LENGTH_PX = 150.0
PUSH_SPEED_PX_S = 100.0
RECORD_EVERY_PX = 4.0
LEAST_MOVE_PX = 0.5
"""A row in which the block has moved less than this since the row before has lost the block."""


@dataclass(frozen=True)
class Push:
    """One push, in the frame of the block before it.

    Attributes:
        contact: Where the agent's path meets the outline (2,), px.
        normal: Inward unit normal there (2,).
        angle: Direction of the path off the normal, rad.
        path: The agent's way relative to its standoff for a push along the x axis (N, 2), px, every
            ``RECORD_EVERY_PX`` px: straight, or turning with the block.
        length: How far along the path the agent goes, px.
    """

    contact: np.ndarray
    normal: np.ndarray
    angle: float
    path: np.ndarray
    length: float

    @property
    def standoff(self) -> np.ndarray:
        """Where the push starts (2,), px."""
        return self.contact - STANDOFF_PX * self.normal

    def polyline(self) -> np.ndarray:
        """The agent's way (N, 2), px, from the standoff to the end of the push."""
        count = max(int(np.ceil(self.length / RECORD_EVERY_PX)), 1)
        way = self.path[: count + 1].copy()
        rest = self.length / RECORD_EVERY_PX - (count - 1)
        way[-1] = way[-2] + (way[-1] - way[-2]) * rest
        heading = np.arctan2(self.normal[1], self.normal[0]) + self.angle
        return to_world(np.array([*self.standoff, heading]), way)


@dataclass(frozen=True)
class Library:
    """All pushes and their outcomes. Rows that do not exist have a length of infinity.

    Attributes:
        contacts: Points on the outline (C, 2), px.
        normals: Inward unit normals (C, 2).
        standoffs: Where pushes start (C, 2), px.
        contact_of: Contact of each primitive (P,).
        angles: Direction off the normal (P,), rad.
        paths: The agent's way of each primitive, turned to the x axis (P, L + 1, 2), px.
        lengths: Length of each row (P, L), px.
        displacements: What becomes of the block's pose (P, L, 3), in the frame before the push.
        features: What the pose error after the push is linear in (P·L, 5); see ``pose_errors``.
        agents: Where the agent is after the push (P, L, 2), in the frame after the push.
    """

    contacts: np.ndarray
    normals: np.ndarray
    standoffs: np.ndarray
    contact_of: np.ndarray
    angles: np.ndarray
    paths: np.ndarray
    lengths: np.ndarray
    displacements: np.ndarray
    features: np.ndarray
    agents: np.ndarray

    def pose_errors(self, pose: np.ndarray) -> np.ndarray:
        """Pose error (P, L), px, that every row leaves when the block is at ``pose`` (3,).

        Seen from the block it is the goal that moves: with the goal's centre at g and the block turned by φ
        against it, the squared error is |c − g|² + 2 V (1 − cos(a + φ)) for a centre c and an angle a after
        the push, and V the variance of the keypoints.
        """
        goal_x, goal_y = to_body(pose, np.array(GOAL_CENTRE)).tolist()
        turn = float(pose[2]) - GOAL_ANGLE
        spread = 2.0 * KEYPOINT_VARIANCE
        weights = np.array([1.0, -2.0 * goal_x, -2.0 * goal_y, -spread * cos(turn), spread * sin(turn)])
        squared = self.features @ weights + (goal_x**2 + goal_y**2 + spread)
        return np.sqrt(np.maximum(squared, 0.0)).reshape(self.lengths.shape)

    def push(self, primitive: int, row: int) -> Push:
        """One row as a push."""
        contact = self.contact_of[primitive]
        return Push(
            contact=self.contacts[contact],
            normal=self.normals[contact],
            angle=float(self.angles[primitive]),
            path=self.paths[primitive],
            length=float(self.lengths[primitive, row]),
        )


@lru_cache(maxsize=1)
def push_library() -> Library:
    """Simulate all pushes; takes about a second, once per process."""
    contacts, normals = _contacts()
    variants = [
        (contact, float(angle), turning)
        for contact in range(len(contacts))
        for angle in ANGLES
        for turning in (False, True)
    ]
    simulator = LeanSimulator(walls=False)
    rolled = [_roll(simulator, contacts[c], normals[c], angle, turning) for c, angle, turning in variants]
    lengths, displacements, agents, paths = (np.stack(parts) for parts in zip(*rolled, strict=True))
    cosine, sine = np.cos(displacements[..., 2]), np.sin(displacements[..., 2])
    centre_x = displacements[..., 0] - CENTRE[1] * sine
    centre_y = displacements[..., 1] + CENTRE[1] * cosine
    features = np.stack([centre_x**2 + centre_y**2, centre_x, centre_y, cosine, sine], axis=-1)
    return Library(
        contacts=contacts,
        normals=normals,
        standoffs=contacts - STANDOFF_PX * normals,
        contact_of=np.array([contact for contact, _, _ in variants]),
        angles=np.array([angle for _, angle, _ in variants]),
        paths=paths,
        lengths=lengths,
        displacements=displacements,
        features=features.reshape(-1, 5),
        agents=agents,
    )


def _contacts() -> tuple[np.ndarray, np.ndarray]:
    """Points along the outline whose standoff is clear of the T, and their inward normals."""
    points, normals = [], []
    for start, end in zip(OUTLINE, np.roll(OUTLINE, -1, axis=0), strict=True):
        along = (end - start) / np.hypot(*(end - start))
        inward = np.array([-along[1], along[0]])
        count = round(float(np.hypot(*(end - start))) / CONTACT_SPACING_PX)
        for position in range(count):
            point = start + along * CONTACT_SPACING_PX * (position + 0.5)
            if signed_distance(point - STANDOFF_PX * inward) >= CLEARANCE_PX:
                points.append(point)
                normals.append(inward)
    return np.array(points), np.array(normals)


def _roll(
    simulator: LeanSimulator, contact: np.ndarray, normal: np.ndarray, angle: float, turning: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lengths (L,), displacements (L, 3), agents (L, 2) and path (L + 1, 2) of one primitive."""
    heading = float(np.arctan2(normal[1], normal[0])) + angle
    standoff = contact - STANDOFF_PX * normal
    still = np.zeros(3)
    simulator.reset(State(standoff, still[:2], still, still))
    count = int(PUSH_LENGTH_PX // RECORD_EVERY_PX)
    substeps = round(RECORD_EVERY_PX / (PUSH_SPEED_PX_S * DT_S))
    lengths = np.full(count, np.inf)
    displacements, agents = np.zeros((count, 3)), np.zeros((count, 2))
    path = [standoff]
    before = simulator.block_pose()
    for row in range(count):
        for _ in range(substeps):
            direction = heading + (simulator.block.angle if turning else 0.0)
            simulator.glide((PUSH_SPEED_PX_S * np.cos(direction), PUSH_SPEED_PX_S * np.sin(direction)))
        pose = simulator.block_pose()
        path.append(simulator.agent_position())
        displacements[row], agents[row] = pose, to_body(pose, path[-1])
        if _moved_px(before, pose) > LEAST_MOVE_PX:
            lengths[row] = (row + 1) * RECORD_EVERY_PX
        before = pose
    return lengths, displacements, agents, to_body(np.array([*standoff, heading]), np.array(path))


def _moved_px(before: np.ndarray, after: np.ndarray) -> float:
    """Largest distance that a corner of the T has moved."""
    return float(np.abs(to_world(after, OUTLINE) - to_world(before, OUTLINE)).max())
