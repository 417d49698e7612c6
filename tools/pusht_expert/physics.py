"""Push-T's bodies without its pictures, for planning: a control step takes a twentieth of a millisecond.

The same bodies, walls and controller as gym-pusht's, so that a plan made here holds there. What makes
planning easy: the space damps velocities away, so the block moves only while it is touched; shapes have no
friction, so a push acts along the contact's normal; the agent is kinematic, so nothing holds it up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pymunk

from trainables.pusht.geometry import AGENT_RADIUS_PX

__all__ = ["DAMPING", "DT_S", "STIFFNESS", "SUBSTEPS", "LeanSimulator", "State", "state_of"]

DT_S = 0.01
SUBSTEPS = 10
STIFFNESS, DAMPING = 100.0, 20.0
WALL_RADIUS_PX = 2.0
WALLS = (((5, 506), (5, 5)), ((5, 5), (506, 5)), ((506, 5), (506, 506)), ((5, 506), (506, 506)))
BAR = [(-60, 30), (60, 30), (60, 0), (-60, 0)]
STEM = [(-15, 30), (-15, 120), (15, 120), (15, 30)]
FLUSH_STEPS = 4
"""Contacts are remembered for three steps."""


@dataclass(frozen=True)
class State:
    """Where everything is and how it moves.

    Attributes:
        agent: Position (2,), px.
        agent_velocity: (2,), px/s.
        block: Pose (3,), px and rad.
        block_velocity: (3,), px/s and rad/s; moves the block on once more, before it is damped.
    """

    agent: np.ndarray
    agent_velocity: np.ndarray
    block: np.ndarray
    block_velocity: np.ndarray


class LeanSimulator:
    """Agent, block and, if wanted, walls."""

    def __init__(self, walls: bool = True) -> None:
        self.space = pymunk.Space()
        self.space.damping = 0.0
        if walls:
            ground = self.space.static_body
            self.space.add(*(pymunk.Segment(ground, *ends, WALL_RADIUS_PX) for ends in WALLS))
        self.agent = pymunk.Body(body_type=pymunk.Body.KINEMATIC)
        self.space.add(self.agent, pymunk.Circle(self.agent, AGENT_RADIUS_PX))
        self.block = self._add_block()

    def reset(self, state: State) -> None:
        """Continue from ``state``."""
        agent, block = self.agent, self.block
        agent.velocity, block.velocity, block.angular_velocity = (0, 0), (0, 0), 0.0
        block.position, agent.position = (256, 256), (40, 40)
        for _ in range(FLUSH_STEPS):
            self.space.step(DT_S)
        block.angle = float(state.block[2])
        block.position = (float(state.block[0]), float(state.block[1]))
        block.velocity = (float(state.block_velocity[0]), float(state.block_velocity[1]))
        block.angular_velocity = float(state.block_velocity[2])
        agent.position = (float(state.agent[0]), float(state.agent[1]))
        agent.velocity = (float(state.agent_velocity[0]), float(state.agent_velocity[1]))

    def step(self, target: tuple[float, float]) -> None:
        """One control step: the agent is drawn to ``target`` (px) for a tenth of a second."""
        agent, space = self.agent, self.space
        vx, vy = agent.velocity
        for _ in range(SUBSTEPS):
            x, y = agent.position
            vx += (STIFFNESS * (target[0] - x) - DAMPING * vx) * DT_S
            vy += (STIFFNESS * (target[1] - y) - DAMPING * vy) * DT_S
            agent.velocity = (vx, vy)
            space.step(DT_S)

    def move_agent(self, position: np.ndarray, velocity: np.ndarray) -> None:
        """Put the agent, which touches nothing, where it is known to be (px, px/s)."""
        self.agent.position = (float(position[0]), float(position[1]))
        self.agent.velocity = (float(velocity[0]), float(velocity[1]))

    def glide(self, velocity: tuple[float, float]) -> None:
        """One substep with the agent at a constant velocity, px/s."""
        self.agent.velocity = velocity
        self.space.step(DT_S)

    def state(self) -> State:
        """Where everything is now."""
        return state_of(self.agent, self.block)

    def agent_position(self) -> np.ndarray:
        """Position of the agent (2,), px."""
        return np.array(self.agent.position)

    def block_pose(self) -> np.ndarray:
        """Pose of the block (3,), px and rad."""
        return np.array([*self.block.position, self.block.angle])

    def _add_block(self) -> pymunk.Body:
        # The stem has the bar's moment and the centre is the mean of both: so it is in gym-pusht.
        moment = pymunk.moment_for_poly(1.0, BAR)
        body = pymunk.Body(1.0, 2 * moment)
        shapes = [pymunk.Poly(body, BAR), pymunk.Poly(body, STEM)]
        body.center_of_gravity = (shapes[0].center_of_gravity + shapes[1].center_of_gravity) / 2
        self.space.add(body, *shapes)
        return body


def state_of(agent: Any, block: Any) -> State:
    """State of a pair of bodies, of this simulator or of gym-pusht's."""
    return State(
        agent=np.array(agent.position),
        agent_velocity=np.array(agent.velocity),
        block=np.array([*block.position, block.angle]),
        block_velocity=np.array([*block.velocity, block.angular_velocity]),
    )
