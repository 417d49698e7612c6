"""Record demonstrations of Meta-World's scripted policy as a LeRobot v3.0 dataset.

python record.py data/push --episodes 50
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
from metaworld_tasks import FPS, IMAGE_SIZE_PX, MAX_STEPS, PushTask

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

INSTRUCTION = "Push the puck to the goal."
FIRST_SEED = 0  # sweeps roll out from 100000 on, so no policy is judged on a start that it has seen
HAND = ["x", "y", "z", "gripper"]
SCENE = ["puck_x", "puck_y", "puck_z", "goal_x", "goal_y"]


def features(camera):
    cameras = {"observation.image": DatasetFeature("video", (IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3))}
    return {
        **(cameras if camera else {}),
        "observation.state": DatasetFeature("float32", (4,), HAND),
        "observation.environment_state": DatasetFeature("float32", (5,), SCENE),
        "action": DatasetFeature("float32", (4,), ["dx", "dy", "dz", "gripper"]),
    }


def record(task, expert, seed, noise):
    """One episode; None if the scripted policy fails.

    What is executed is noisy, what is recorded is what the scripted policy wanted: so the dataset shows how
    to correct small errors.
    """
    generator = np.random.default_rng(seed)
    observation, _ = task.reset(seed=seed)
    seen, actions = [], []
    for _ in range(MAX_STEPS):
        action = np.clip(expert.get_action(task.state), -1, 1).astype(np.float32)
        seen.append(observation)
        actions.append(action)
        disturbance = np.append(generator.normal(0, noise, 3), 0)  # the gripper is left alone
        observation, _, solved, _, _ = task.step(action + disturbance)
        if solved:
            return seen, np.stack(actions)
    return None


def columns(seen, actions, camera):
    pictures = {"observation.image": np.stack([one["pixels"] for one in seen])} if camera else {}
    return pictures | {
        "observation.state": np.stack([one["agent_pos"] for one in seen]),
        "observation.environment_state": np.stack([one["environment_state"] for one in seen]),
        "action": actions,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("root", type=Path, help="folder of the dataset; must not exist")
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--noise", type=float, default=0.2, help="standard deviation, in units of the action")
    parser.add_argument("--camera", action="store_true", help="also record pictures (slow without a GPU)")
    arguments = parser.parse_args()

    from metaworld.policies import SawyerPushV3Policy

    warnings.filterwarnings("ignore", message="Constant")  # the scripted policy's actions are clipped below
    expert = SawyerPushV3Policy()
    task = PushTask("pixels_agent_pos" if arguments.camera else "environment_state_agent_pos")
    written, seed = 0, FIRST_SEED
    with DatasetWriter(arguments.root, fps=FPS, features=features(arguments.camera)) as writer:
        while written < arguments.episodes:
            episode = record(task, expert, seed, arguments.noise)
            seed += 1
            if episode is None:
                print(f"start {seed - 1}: the scripted policy failed; left out")
                if seed - written > arguments.episodes:
                    raise SystemExit("It failed more often than it succeeded: lower --noise.")
                continue
            writer.add_episode(columns(*episode, arguments.camera), task=INSTRUCTION)
            written += 1
    task.close()
    print(f"{arguments.root}: {written} episodes")


if __name__ == "__main__":
    main()
