"""Meta-World's push task as gymnasium environments whose observations have the names that a rollout expects.

Importing this module registers ``metaworld_tasks/Push-v0``. What it adapts:

- Meta-World's observation is one vector of 39 numbers: the current state, the previous one, and the goal.
  Here it is a Dict of ``agent_pos`` (hand and gripper) and ``environment_state`` (puck and goal). The policy
  has its own history of observations.
- Meta-World ignores the seed of ``reset``. Here the seed decides where puck and goal are, so that every trial
  is judged on the same starts.
- Meta-World never ends an episode that succeeds, and reports ``info["success"]`` as a float.
"""

import os

# Without a display. Must be set before MuJoCo is imported; on a machine without EGL use osmesa.
os.environ.setdefault("MUJOCO_GL", "egl")

import gymnasium
import numpy as np
from gymnasium import spaces

TASK = "push-v3"
ID = "metaworld_tasks/Push-v0"
FPS = 80  # control steps per second of simulated time
MAX_STEPS = 150  # the scripted policy needs 60 to 80
CAMERA = "corner2"
IMAGE_SIZE_PX = 96


class PushTask(gymnasium.Env):
    metadata = {"render_modes": ["rgb_array"], "render_fps": FPS}

    def __init__(self, obs_type="environment_state_agent_pos", render_mode=None):
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS

        size = {"width": IMAGE_SIZE_PX, "height": IMAGE_SIZE_PX}
        self.simulator = ALL_V3_ENVIRONMENTS[TASK](render_mode="rgb_array", camera_name=CAMERA, **size)
        draw_starts_by_seed(self.simulator)
        self.render_mode = render_mode
        self.pixels = obs_type == "pixels_agent_pos"
        self.action_space = self.simulator.action_space
        vectors = {"agent_pos": 4, "environment_state": 5}
        seen = {name: spaces.Box(-np.inf, np.inf, (length,)) for name, length in vectors.items()}
        if self.pixels:
            seen["pixels"] = spaces.Box(0, 255, (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8)
        self.observation_space = spaces.Dict(seen)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        if seed is not None:
            self.simulator.seed(seed)
        self.state, _info = self.simulator.reset()
        return self.observation(), {"is_success": False}

    def step(self, action):
        self.state, reward, _terminated, truncated, info = self.simulator.step(np.clip(action, -1, 1))
        solved = bool(info["success"])
        return self.observation(), float(reward), solved, truncated, {"is_success": solved}

    def observation(self):
        seen = split(self.state)
        return seen | ({"pixels": self.render()} if self.pixels else {})

    def render(self):
        return np.ascontiguousarray(self.simulator.render()[::-1])  # this camera hangs upside down

    def close(self):
        self.simulator.close()


def draw_starts_by_seed(simulator):
    """Put puck and goal where the simulator's own generator says, and show the goal to the policy."""
    simulator._set_task_called = True
    simulator._partially_observable = False
    simulator.__dict__.pop("sawyer_observation_space", None)  # its bounds were computed for a hidden goal
    simulator._freeze_rand_vec = False
    simulator.seeded_rand_vec = True


def split(state):
    """What the policy sees: hand (x, y, z, gripper); puck (x, y, z) and goal (x, y)."""
    state = np.asarray(state, np.float32)
    return {"agent_pos": state[:4], "environment_state": np.concatenate([state[4:7], state[-3:-1]])}


# A camera only if the policy has one: `obs_type` is chosen by the features of the dataset.
gymnasium.register(
    ID,
    entry_point=PushTask,
    max_episode_steps=MAX_STEPS,
    kwargs={"obs_type": "environment_state_agent_pos"},
)
