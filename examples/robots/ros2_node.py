"""Run a trained policy as a node of ROS 2. Untried on hardware: keep a hand on the emergency stop.

    python ros2_node.py --ros-args -p checkpoint:=exported -p fps:=30.0 -p mode:=async

Joint states and one camera in, joint commands out. JOINTS has the order, and radians are the units, of the
recorded dataset; change the topics to those of your robot. docs/deployment.md explains the settings.
"""

import numpy as np
import rclpy
from rclpy.node import Node
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64MultiArray

from trainables.deployment import Controller, ControlSettings, Safety
from trainables.diffusion_policy import lerobot

JOINTS = ["joint_1", "joint_2", "joint_3", "joint_4", "joint_5", "joint_6"]
CAMERA = "observation.images.front"
LONGEST_SILENCE = 5  # ticks without a new message before the node stops


def positions(message):
    """The joint positions in the order of the dataset; drivers may send them in any order."""
    by_name = dict(zip(message.name, message.position, strict=True))
    return np.array([by_name[joint] for joint in JOINTS], dtype=np.float32)


def pixels(message):
    """An image as uint8 (C, H, W) in RGB."""
    if message.encoding not in ("rgb8", "bgr8"):
        raise ValueError(f"the camera sends {message.encoding}; rgb8 or bgr8 is needed")
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    image = rows[:, : 3 * message.width].reshape(message.height, message.width, 3)
    return np.moveaxis(image if message.encoding == "rgb8" else image[..., ::-1], -1, 0)


class PolicyNode(Node):
    def __init__(self):
        super().__init__("policy")
        checkpoint = self.declare_parameter("checkpoint", "exported").value
        fps = self.declare_parameter("fps", 30.0).value
        mode = self.declare_parameter("mode", "async").value
        device = self.declare_parameter("device", "cpu").value
        policy = lerobot.load(checkpoint, device=device)
        safety = Safety.within_demonstrations(policy.statistics())
        self.controller = Controller(policy, ControlSettings(mode=mode), rate_hz=fps, safety=safety)
        self.seen = {}
        self.ages = {}
        self.create_subscription(JointState, "joint_states", self.on_joints, 1)
        self.create_subscription(Image, "camera/image_raw", self.on_image, 1)
        self.commands = self.create_publisher(Float64MultiArray, "position_controller/commands", 1)
        self.create_timer(1 / fps, self.tick)

    def on_joints(self, message):
        self.keep("observation.state", positions(message))

    def on_image(self, message):
        self.keep(CAMERA, pixels(message))

    def keep(self, name, value):
        self.seen[name], self.ages[name] = value, 0

    def tick(self):
        if len(self.seen) < 2:
            return  # not everything has been seen yet
        for name in self.ages:
            self.ages[name] += 1
            if self.ages[name] > LONGEST_SILENCE:
                raise RuntimeError(f"{name} has not been received for {LONGEST_SILENCE} ticks: stopped")
        action = self.controller.step(self.seen)
        self.commands.publish(Float64MultiArray(data=action.astype(float).tolist()))


def main():
    rclpy.init()
    node = PolicyNode()
    try:
        rclpy.spin(node)
    finally:
        node.get_logger().info(str(node.controller.statistics))
        node.controller.close()
        node.destroy_node()
        rclpy.shutdown()


if __name__ == "__main__":
    main()
