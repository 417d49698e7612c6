"""Push-T as a policy sees it: agent position, keypoints of the T and camera image, all at once.

This is gym-pusht's simulator, with the same states and pictures in a quarter of the time: the drawing and the
coverage, which cost the most, are computed only if they are needed and may have changed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from math import hypot
from typing import Any

import numpy as np

from trainables.environment import Observation, Step
from trainables.features import ENVIRONMENT_STATE, STATE, PolicyFeatures
from trainables.pusht.task import FPS, IMAGE, IMAGE_SIZE_PX, MAX_STEPS

# Both must be set before pygame is imported: it opens a display and greets on stdout.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")

with warnings.catch_warnings():
    # pygame imports pkg_resources, which warns that it is deprecated.
    warnings.simplefilter("ignore")
    import cv2
    import pygame
    import shapely
    from gym_pusht.envs import PushTEnv

__all__ = ["PushTEnvironment", "PushTSimulator"]

FRAME_SIZE_PX = 256
"""Side of the pictures for films."""
BLOCK_REACH_PX = 77.0
"""No point of the T is farther than this from its centre of gravity."""


class PushTSimulator(PushTEnv):  # type: ignore[misc, unused-ignore]
    """gym-pusht's environment with the same numbers (rewards to the last bit but one) and less work.

    The step computes in floats what the original computes in small arrays, in the same order. The coverage is
    not computed again while the block rests, and not at all while the block is far from the goal.
    """

    def __init__(self, image_size_px: tuple[int, int] = IMAGE_SIZE_PX) -> None:
        super().__init__(
            obs_type="environment_state_agent_pos",
            observation_height=image_size_px[0],
            observation_width=image_size_px[1],
            visualization_width=FRAME_SIZE_PX,
            visualization_height=FRAME_SIZE_PX,
        )
        self._goal: Any = None
        self._goal_centre = (0.0, 0.0)
        self._coverage: tuple[tuple[float, float, float], float] | None = None

    def advance(self, action: np.ndarray) -> tuple[float, bool]:
        """Execute one action, the target position (x, y) in px.

        Returns:
            The reward and whether the task is solved.
        """
        target_x, target_y = (float(value) for value in action)
        self._last_action = np.asarray(action, dtype=np.float64)
        agent, space, dt_s = self.agent, self.space, self.dt
        for _ in range(int(1 / (self.dt * self.control_hz))):
            x, y = agent.position
            vx, vy = agent.velocity
            agent.velocity = (
                vx + (self.k_p * (target_x - x) + self.k_v * (0 - vx)) * dt_s,
                vy + (self.k_p * (target_y - y) + self.k_v * (0 - vy)) * dt_s,
            )
            space.step(dt_s)
        coverage = self._get_coverage()
        return min(max(coverage / self.success_threshold, 0.0), 1.0), coverage > self.success_threshold

    def agent_position(self) -> np.ndarray:
        """Position of the agent, float64 (2,), px."""
        return np.array(self.agent.position)

    def keypoints(self) -> np.ndarray:
        """The T's eight keypoints x0, y0, x1, ..., float64 (16,), px."""
        return np.asarray(self.get_keypoints(self._block_shapes)).flatten()

    def block_pose(self) -> np.ndarray:
        """Position (px) of the block's origin and its angle (rad), float64 (3,)."""
        return np.array([*self.block.position, self.block.angle])

    def image(self) -> np.ndarray:
        """What the camera sees, uint8 (H, W, 3)."""
        # The pixels of gym-pusht's _get_img, which copies them by a strided array in twice the time.
        surface = self._draw()
        width, height = surface.get_size()
        pixels = np.frombuffer(pygame.image.tobytes(surface, "RGB"), np.uint8).reshape(height, width, 3)
        return np.asarray(cv2.resize(pixels, (self.observation_width, self.observation_height)))

    def reset_to(self, state: np.ndarray) -> None:
        """Start from agent x, y and block x, y, angle (5,) as gym-pusht takes them."""
        self.reset(seed=0, options={"reset_to_state": np.asarray(state, dtype=np.float64)})

    def place(self, agent: np.ndarray, block: np.ndarray) -> None:
        """Put the agent (2,) and the block, a pose (3,), where they were at some moment, to draw them."""
        self.agent.position = (float(agent[0]), float(agent[1]))
        self.block.angle = float(block[2])
        self.block.position = (float(block[0]), float(block[1]))
        self.space.reindex_shapes_for_body(self.agent)
        self.space.reindex_shapes_for_body(self.block)

    def _get_coverage(self) -> float:
        block = self.block
        pose = (*block.position, block.angle)
        if self._coverage is None or self._coverage[0] != pose:
            self._coverage = (pose, self._measured_coverage())
        return self._coverage[1]

    def _measured_coverage(self) -> float:
        block = self.block
        if self._goal is None:
            goal_body = self.get_goal_pose_body(self.goal_pose)
            self._goal = self._outline(goal_body)
            self._goal_centre = tuple(goal_body.local_to_world(block.center_of_gravity))
        x, y = block.local_to_world(block.center_of_gravity)
        if hypot(x - self._goal_centre[0], y - self._goal_centre[1]) > 2 * BLOCK_REACH_PX:
            return 0.0
        shared_area = shapely.area(shapely.intersection(self._goal, self._outline(block)))
        return float(shared_area / shapely.area(self._goal))

    def _outline(self, body: Any) -> Any:
        # gym-pusht goes through a set here, so that the last bit of its rewards depends on addresses.
        corners = [
            [body.local_to_world(vertex) for vertex in (*vertices, vertices[0])]
            for vertices in (shape.get_vertices() for shape in self._block_shapes)
        ]
        return shapely.multipolygons(shapely.polygons(np.array(corners)))


class PushTEnvironment:
    """Push-T with the observations that a policy needs; the image is drawn only if it needs one.

    Attributes:
        action_shape: (2,): the target position of the agent, px.
        max_steps: 300.
        fps: 10 control steps per second.
    """

    action_shape: tuple[int, ...] = (2,)
    max_steps: int | None = MAX_STEPS
    fps = float(FPS)

    def __init__(self, features: PolicyFeatures) -> None:
        cameras = {feature.name: feature.shape for feature in features.cameras}
        self._shows_image = IMAGE in cameras
        size_px = cameras[IMAGE][1:] if self._shows_image else IMAGE_SIZE_PX
        self._simulator = PushTSimulator((size_px[0], size_px[1]))

    def reset(self, seed: int) -> Observation:
        """Start from the random state that gym-pusht gives for ``seed``."""
        self._simulator.reset(seed=seed)
        return self._observe()

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        """Move the agent towards ``action`` (2,), px, for a tenth of a second."""
        reward, solved = self._simulator.advance(np.clip(action, 0.0, 512.0))
        return Step(self._observe() if observe else None, reward, solved, solved)

    def frame(self) -> np.ndarray:
        """Picture of the table with a cross at the target, uint8 (256, 256, 3)."""
        return np.asarray(self._simulator.render())

    def close(self) -> None:
        """Release the simulator."""
        self._simulator.close()

    def _observe(self) -> Mapping[str, np.ndarray]:
        simulator = self._simulator
        observation = {
            STATE: simulator.agent_position().astype(np.float32),
            ENVIRONMENT_STATE: simulator.keypoints().astype(np.float32),
        }
        if self._shows_image:
            observation[IMAGE] = np.ascontiguousarray(simulator.image().transpose(2, 0, 1))
        return observation
