"""gym-aloha's transfer task with pictures drawn only when the policy looks.

``gym_aloha/AlohaTransferCube-v0`` works without an adapter. But it draws three pictures of 640 × 480 in every
control step, of which it shows one, and a policy looks once per action chunk. This one draws what the policy
sees, when it sees it, in the size of its dataset. ``rollout.env: aloha_tasks:TransferCube``.
"""

import os

# Without a display. Must be set before MuJoCo is imported; on a machine without EGL use osmesa.
os.environ.setdefault("MUJOCO_GL", "egl")

import numpy as np
from dm_control import mujoco
from dm_control.rl import control
from gym_aloha.constants import ASSETS_DIR, DT
from gym_aloha.tasks import sim
from gym_aloha.utils import sample_box_pose

from trainables.environment import Step

SOLVED = 4  # the reward when the other arm holds the cube
FILM_PX = {"height": 240, "width": 320}


class StatesOnly(sim.TransferCubeTask):
    def get_observation(self, physics):
        return {"qpos": self.get_qpos(physics)}


class TransferCube:
    action_shape = (14,)
    max_steps = 400  # as in LeRobot
    fps = 1 / DT

    def __init__(self, features):
        # `observation.images.top` is the camera `top`; `angle` and `front_close` exist too.
        self.cameras = {camera.name: camera.shape for camera in features.cameras}
        physics = mujoco.Physics.from_xml_path(str(ASSETS_DIR / "bimanual_viperx_transfer_cube.xml"))
        task = StatesOnly()
        self.simulator = control.Environment(physics, task, float("inf"), control_timestep=DT)

    def reset(self, seed):
        sim.BOX_POSE[0] = sample_box_pose(seed)  # gym-aloha's way to say where the cube starts
        return self.observation(self.simulator.reset().observation)

    def step(self, action, observe=True):
        _, reward, _, state = self.simulator.step(action)
        solved = reward == SOLVED
        return Step(self.observation(state) if observe else None, float(reward), solved, solved)

    def observation(self, state):
        seen = {"observation.state": np.asarray(state["qpos"], np.float32)}
        for name, (_, height, width) in self.cameras.items():
            picture = self.picture(name.rpartition(".")[2], height=height, width=width)
            seen[name] = np.ascontiguousarray(picture.transpose(2, 0, 1))
        return seen

    def picture(self, camera, **size):
        return self.simulator.physics.render(camera_id=camera, **size)

    def frame(self):
        return np.ascontiguousarray(self.picture("top", **FILM_PX))

    def close(self):
        self.simulator.close()
