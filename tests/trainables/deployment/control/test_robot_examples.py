"""The loops in examples/robots: LeRobot's against a robot with its interface, ROS 2's with its messages."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from trainables.deployment import Controller, ControlSettings, Safety
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

ROBOTS = Path(__file__).parents[4] / "examples" / "robots"
IMAGE = "observation.images.front"
FPS = 10.0


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", ROBOTS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Arm:
    """Two joints and a camera behind LeRobot's interface of a robot; it moves where it is sent."""

    def __init__(self) -> None:
        self.observation_features = {"a.pos": float, "front": (4, 6, 3), "b.pos": float}
        self.action_features = {"b.pos": float, "a.pos": float}
        self.joints = {"a.pos": 1.0, "b.pos": 2.0}
        self.sent: list[dict[str, float]] = []

    def get_observation(self) -> dict[str, Any]:
        image = np.zeros((4, 6, 3), np.uint8)
        image[0, 5, 2] = 9
        return {**self.joints, "front": image}

    def send_action(self, action: dict[str, float]) -> dict[str, float]:
        assert set(action) == set(self.action_features)
        self.sent.append(action)
        self.joints = dict(action)
        return action


class Rising:
    """A policy that raises the second number of an action by one a tick."""

    n_obs_steps, n_action_steps, available_actions = 2, 3, 5
    features = PolicyFeatures(
        (Feature(STATE, FeatureType.STATE, (2,)), Feature(IMAGE, FeatureType.VISUAL, (3, 4, 6))),
        Feature(ACTION, FeatureType.ACTION, (2,)),
    )
    training = False

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def predict_action(self, observation: Any, *, generator: Any, **options: Any) -> torch.Tensor:
        self.seen.append(observation)
        steps_K = 1.0 + torch.arange(options["n_action_steps"])
        first = observation[STATE][0, -1, 0]
        return torch.stack([torch.full_like(steps_K, 7.0), first + steps_K], dim=-1)[None]


def test_the_loop_of_lerobot_acts_at_the_rate_of_the_recording():
    example, arm, policy, pauses = loaded("lerobot_loop"), Arm(), Rising(), []
    clock = SimpleNamespace(now=100.0)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds

    with Controller(policy, ControlSettings("sync"), rate_hz=FPS, clock=lambda: clock.now) as controller:
        statistics = example.play(arm, controller, fps=FPS, seconds=0.6, sleep=sleep, clock=lambda: clock.now)
    # The state has the order of the observation's features, an action that of the action's.
    assert policy.seen[0][STATE].tolist() == [[[1, 2], [1, 2]]]
    assert policy.seen[0][IMAGE].shape == (1, 2, 3, 4, 6)
    assert policy.seen[0][IMAGE][0, 0, 2, 0, 5] == 9
    assert [action["a.pos"] for action in arm.sent] == [2, 3, 4, 5, 6, 7]
    assert {action["b.pos"] for action in arm.sent} == {7.0}
    assert pauses == pytest.approx([0.1] * 6)
    assert (statistics.ticks, statistics.predictions) == (6, 2)


def test_the_first_action_begins_where_the_joints_are():
    example, arm = loaded("lerobot_loop"), Arm()
    settings, safety = ControlSettings("sync"), Safety(largest_change=0.5)
    with Controller(Rising(), settings, rate_hz=FPS, safety=safety) as controller:
        example.play(arm, controller, fps=FPS, seconds=0.2, sleep=lambda _: None)
    assert arm.sent == [{"b.pos": 2.5, "a.pos": 1.5}, {"b.pos": 3.0, "a.pos": 2.0}]


def test_a_late_tick_is_not_made_up_for():
    example, arm, pauses = loaded("lerobot_loop"), Arm(), []
    clock = SimpleNamespace(now=0.0)

    class Slow(Rising):
        def predict_action(self, observation: Any, *, generator: Any, **options: Any) -> torch.Tensor:
            clock.now += 0.25
            return super().predict_action(observation, generator=generator, **options)

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        clock.now += seconds

    with Controller(Slow(), ControlSettings("sync"), rate_hz=FPS, clock=lambda: clock.now) as controller:
        example.play(arm, controller, fps=FPS, seconds=0.6, sleep=sleep, clock=lambda: clock.now)
    assert pauses == pytest.approx([0, 0.1, 0.1, 0, 0.1, 0.1])


@pytest.fixture
def ros(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The node's module, with names in place of ROS, which a test machine does not have."""
    names = {
        "rclpy": {},
        "rclpy.node": {"Node": object},
        "sensor_msgs.msg": {"Image": None, "JointState": None},
        "std_msgs.msg": {"Float64MultiArray": SimpleNamespace},
    }
    for name, content in names.items():
        module = ModuleType(name)
        module.__dict__.update(content)
        monkeypatch.setitem(sys.modules, name, module)
    return loaded("ros2_node")


def test_the_node_of_ros_sorts_joints_by_name(ros):
    order = [2, 0, 1, 5, 4, 3]
    message = SimpleNamespace(
        name=[ros.JOINTS[number] for number in order], position=[float(number) for number in order]
    )
    assert ros.positions(message).tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("encoding", ["rgb8", "bgr8"])
def test_the_node_of_ros_reads_images_with_padded_rows(ros, encoding):
    image = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    rows = np.zeros((2, 16), np.uint8)
    rows[:, :15] = (image if encoding == "rgb8" else image[..., ::-1]).reshape(2, 15)
    message = SimpleNamespace(encoding=encoding, height=2, width=5, step=16, data=rows.tobytes())
    assert np.array_equal(ros.pixels(message), image.transpose(2, 0, 1))
    message.encoding = "mono8"
    with pytest.raises(ValueError, match="the camera sends mono8"):
        ros.pixels(message)


def test_the_node_of_ros_stops_if_a_sensor_is_silent(ros):
    node, published = object.__new__(ros.PolicyNode), []
    node.controller = SimpleNamespace(step=lambda seen: np.array([1.5], np.float32))
    node.commands = SimpleNamespace(publish=lambda message: published.append(message.data))
    node.seen, node.ages = {}, {}
    node.keep(STATE, np.zeros(6))
    node.tick()
    assert published == []  # the camera has not been seen yet
    node.keep(ros.CAMERA, np.zeros((3, 2, 2)))
    for _ in range(ros.LONGEST_SILENCE):
        node.tick()
    assert published == [[1.5]] * ros.LONGEST_SILENCE
    with pytest.raises(RuntimeError, match="has not been received for 5 ticks"):
        node.tick()
