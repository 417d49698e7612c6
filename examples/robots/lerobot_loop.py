"""Run a trained policy on a robot of LeRobot. Untried on hardware: keep a hand on the emergency stop.

    python lerobot_loop.py CHECKPOINT --port /dev/ttyACM0 --id arm --fps 30

The robot is an SO-101 with the cameras of CAMERAS; replace `make_robot` for another. The names, the order and
the units of its joints and cameras must be those of the recorded dataset. docs/deployment.md explains the
settings.
"""

import argparse
import time

import numpy as np

from trainables.deployment import Controller, ControlSettings, Safety
from trainables.diffusion_policy import lerobot

CAMERAS = {"front": 0}  # name in the dataset (observation.images.front): number of the camera


def observe(robot):
    """The robot's observation under the names of its datasets."""
    seen, features = robot.get_observation(), robot.observation_features
    joints = [seen[name] for name, kind in features.items() if not isinstance(kind, tuple)]
    cameras = [name for name, kind in features.items() if isinstance(kind, tuple)]
    # From (H, W, C) to (C, H, W).
    images = {f"observation.images.{name}": np.moveaxis(seen[name], -1, 0) for name in cameras}
    return {"observation.state": np.array(joints, dtype=np.float32), **images}


def play(robot, controller, *, fps, seconds, sleep=time.sleep, clock=time.perf_counter):
    """Act for some seconds, at the rate of the recording."""
    joints = list(robot.action_features)
    if set(joints) <= set(robot.observation_features):
        # Actions are positions of the joints that the robot reports, so the first one is limited too.
        seen = robot.get_observation()
        controller.reset(at=np.array([seen[name] for name in joints], dtype=np.float32))
    due = clock()
    for _ in range(round(seconds * fps)):
        action = controller.step(observe(robot))
        robot.send_action(dict(zip(joints, action.tolist(), strict=True)))
        due = max(due + 1 / fps, clock())  # after a late tick the next ones do not hurry
        sleep(max(0.0, due - clock()))
    return controller.statistics


def make_robot(port, name):
    from lerobot.cameras.opencv import OpenCVCameraConfig
    from lerobot.robots.so_follower import SO101Follower, SO101FollowerConfig  # LeRobot 0.6.1

    cameras = {
        camera: OpenCVCameraConfig(index_or_path=number, width=640, height=480, fps=30)
        for camera, number in CAMERAS.items()
    }
    return SO101Follower(SO101FollowerConfig(port=port, id=name, cameras=cameras))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint", help="a folder of `sweeper export`, or a checkpoint")
    parser.add_argument("--port", required=True)
    parser.add_argument("--id", required=True, help="the name with which the robot was calibrated")
    parser.add_argument("--fps", type=float, default=30, help="that of the dataset")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--mode", default="async", choices=["sync", "async", "ensemble", "rtc"])
    parser.add_argument("--largest-change", type=float, help="of a joint from tick to tick, in its unit")
    options = parser.parse_args()
    policy = lerobot.load(options.checkpoint, device=options.device)
    safety = Safety.within_demonstrations(policy.statistics(), options.largest_change)
    settings = ControlSettings(mode=options.mode)
    robot = make_robot(options.port, options.id)
    robot.connect()
    try:
        with Controller(policy, settings, rate_hz=options.fps, safety=safety) as controller:
            print(play(robot, controller, fps=options.fps, seconds=options.seconds))
    finally:
        robot.disconnect()


if __name__ == "__main__":
    main()
