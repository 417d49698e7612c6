from __future__ import annotations

import builtins
import importlib
import sys
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from reach_simulator import PUSHT_ALL, PUSHT_STATE, REACH, Reach

from trainables.environment import SimulatorError
from trainables.evaluation.simulators import GymnasiumEnvironment, environment_faults, make_environment
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

HERE = "reach_simulator"


@pytest.fixture
def registered() -> Iterator[str]:
    name = "RoomTest/Reach-v0"
    gymnasium.register(name, entry_point=f"{HERE}:Reach", max_episode_steps=6)
    yield name
    del gymnasium.registry[name]


def test_gymnasium_id_gives_lerobot_names_and_its_own_step_limit(registered: str) -> None:
    environment = make_environment(registered, REACH)
    observation = environment.reset(3)
    assert {name: value.dtype for name, value in observation.items()} == {STATE: np.dtype(np.float32)}
    assert (environment.max_steps, environment.fps, environment.action_shape) == (6, 20.0, (2,))
    assert environment_faults(registered, REACH) == []


def test_step_limit_of_a_gymnasium_id_can_be_exceeded(registered: str) -> None:
    environment = make_environment(registered, REACH)
    environment.reset(0)
    assert not any(environment.step(np.array([0.9, 0.9])).done for _ in range(10))


def test_pixels_of_several_cameras_are_named_and_channels_first() -> None:
    environment = GymnasiumEnvironment(Reach(cameras=("front", "wrist")))
    observation = environment.reset(0)
    assert set(observation) == {STATE, "observation.images.front", "observation.images.wrist"}
    assert observation["observation.images.front"].shape == (3, 4, 6)
    assert observation["observation.images.front"].dtype == np.uint8


def test_an_action_beyond_the_declared_action_space_is_executed_as_it_is() -> None:
    # gym-aloha declares -1 to 1 and takes angles beyond: clipped demonstrations would fail without a word.
    env = Reach()
    environment = GymnasiumEnvironment(env)
    environment.reset(0)
    environment.step(np.array([3.0, -0.5]))
    np.testing.assert_array_equal(env.received[0], [3.0, -0.5])


def test_names_of_lerobot_stay_and_pictures_become_channels_first() -> None:
    class Named(Reach):
        def _observation(self) -> dict[str, Any]:
            picture = np.full((4, 6, 3), 7, np.uint8)
            return {
                "observation.state": self.position.copy(),
                "observation.images.wrist": picture,
                "other": 1,
            }

    observation = GymnasiumEnvironment(Named()).reset(0)
    shown = {name: (value.shape, value.dtype.name) for name, value in observation.items()}
    assert shown == {STATE: ((2,), "float32"), "observation.images.wrist": ((3, 4, 6), "uint8")}


def test_module_that_registers_an_id_is_imported_first() -> None:
    # Meta-World's ids begin with Meta-World/, its module is metaworld.
    assert "Other-Name/Reach-v0" not in gymnasium.registry
    try:
        environment = make_environment("registers_reach:Other-Name/Reach-v0", REACH)
        assert (environment.max_steps, environment.action_shape) == (5, (2,))
        assert "Did you mean 'Other-Name/Reach-v0'" in faults("registers_reach:Other-Name/Reach-v1", REACH)
    finally:
        gymnasium.registry.pop("Other-Name/Reach-v0", None)
        sys.modules.pop("registers_reach", None)


def test_an_unknown_namespace_is_offered_the_form_with_a_module() -> None:
    text = faults("Other-Name/Reach-v0", REACH)
    assert (
        "If a module of another name registers Other-Name/Reach-v0, write module:Other-Name/Reach-v0." in text
    )


@pytest.mark.parametrize(("key", "seen"), [("is_success", True), ("success", True), ("other", False)])
def test_success_is_what_the_environment_calls_success(key: str, seen: bool) -> None:
    environment = GymnasiumEnvironment(Reach(success_key=key))
    environment.reset(0)
    step = environment.step(np.zeros(2))
    assert step.done
    assert step.success is seen


def test_adapter_of_the_user_is_found_by_module_and_attribute() -> None:
    assert make_environment(f"{HERE}:make_reach", REACH).action_shape == (2,)
    assert environment_faults(f"{HERE}:make_reach", REACH, max_steps=10) == []


def test_adapter_without_gymnasium_is_used_as_it_is() -> None:
    one = PolicyFeatures(
        (Feature(STATE, FeatureType.STATE, (1,)),), Feature(ACTION, FeatureType.ACTION, (1,))
    )
    assert environment_faults(f"{HERE}:Line", one) == []
    environment = make_environment(f"{HERE}:Line", one)
    environment.reset(3)
    assert environment.step(np.array([2.0])).reward == 5.0


def faults(env_id: str, features: PolicyFeatures, **arguments: Any) -> str:
    return "\n".join(str(fault) for fault in environment_faults(env_id, features, **arguments))


def test_push_t_serves_states_keypoints_and_images() -> None:
    assert environment_faults("gym_pusht/PushT-v0", PUSHT_STATE) == []
    assert environment_faults("gym_pusht/PushT-v0", PUSHT_ALL) == []


def test_near_names_are_offered_for_an_unknown_id(registered: str) -> None:
    assert "Did you mean 'RoomTest/Reach-v0'?" in faults("RoomTest/Reach-v1", REACH)
    assert "Did you mean 'CartPole-v1'" in faults("CartPol-v1", REACH)


def test_missing_package_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> Any:
        if name == "gym_pusht":
            raise ModuleNotFoundError("No module named 'gym_pusht'", name="gym_pusht")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    text = faults("gym_pusht/PushT-v0", PUSHT_STATE)
    assert "needs the package gym_pusht, which is not installed" in text
    assert "pip install 'diffusion-policy-sweeper[pusht]'" in text


def test_package_that_fails_to_import_is_reported_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        importlib,
        "import_module",
        lambda name, package=None: builtins.__import__("a_module_that_does_not_exist"),
    )
    text = faults("gym_pusht/PushT-v0", PUSHT_STATE)
    assert "gym_pusht cannot be imported: No module named 'a_module_that_does_not_exist'" in text


def test_actions_of_another_shape_are_a_fault() -> None:
    six = PolicyFeatures(PUSHT_STATE.inputs, Feature(ACTION, FeatureType.ACTION, (6,)))
    assert "takes actions of shape (2,); the dataset's have (6,)" in faults("gym_pusht/PushT-v0", six)


def test_every_observation_that_is_missing_or_of_another_shape_is_a_fault() -> None:
    inputs = (
        Feature("observation.images.wrist", FeatureType.VISUAL, (3, 96, 96)),
        Feature(STATE, FeatureType.STATE, (7,)),
    )
    text = faults("gym_pusht/PushT-v0", PolicyFeatures(inputs, PUSHT_STATE.action))
    assert "does not return observation.images.wrist" in text
    assert "observation.state as a vector of (2,); the dataset has (7,)" in text


def test_environment_without_a_step_limit_is_a_fault_of_max_steps() -> None:
    (fault,) = environment_faults(f"{HERE}:make_reach", REACH)
    assert fault.where == "rollout.max_steps"


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        (f"{HERE}:make_nonsense", "returned int"),
        (f"{HERE}:make_broken", "RuntimeError: no licence"),
        (f"{HERE}:missing", "missing"),
        ("no_such_module:thing", "no_such_module"),
        ("no_such_package/Thing-v0", "needs the package no_such_package"),
        ("CartPole-v1", "is not a vector of numbers"),
        ("Pendulum-v1", "not a Dict"),
    ],
)
def test_an_environment_that_cannot_be_rolled_out_is_a_fault_not_a_crash(env_id: str, words: str) -> None:
    text = faults(env_id, REACH)
    assert words in text
    assert text.startswith("rollout.env: ")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            "obs",
            "The policy has no camera, and some environments work only with one. Correct the environment",
        ),
        ("an OpenGL platform library has not been loaded", "set MUJOCO_GL=egl (Debian: libegl1)"),
    ],
)
def test_an_environment_that_fails_on_reset_is_a_fault_with_a_remedy(error: str, words: str) -> None:
    class Broken(Reach):
        def reset(self, **arguments: Any) -> Any:
            raise RuntimeError(error)

    gymnasium.register("RoomTest/Broken-v0", entry_point=lambda **_: Broken(), max_episode_steps=6)
    try:
        text = faults("RoomTest/Broken-v0", REACH)
    finally:
        del gymnasium.registry["RoomTest/Broken-v0"]
    assert f"'RoomTest/Broken-v0' cannot be reset: RuntimeError: {error}." in text
    assert words in text


class Undrawable(Reach):
    def render(self) -> Any:
        raise RuntimeError("Environment variable MUJOCO_GL must be one of glfw, egl, osmesa.")


class Blind(Reach):
    def render(self) -> Any:
        return None


@pytest.mark.parametrize(
    ("kind", "problem", "remedy"),
    [
        (Undrawable, "RuntimeError: Environment variable MUJOCO_GL", "set MUJOCO_GL=egl"),
        (Blind, "render() returned NoneType", "render_mode='rgb_array'"),
    ],
)
def test_an_environment_that_cannot_be_drawn_is_a_fault_if_it_is_to_be_filmed(
    kind: type[Reach], problem: str, remedy: str
) -> None:
    # A policy of states is rolled out without a picture: the film of the last evaluation was the first one.
    gymnasium.register("RoomTest/Dark-v0", entry_point=lambda **_: kind(), max_episode_steps=6)
    try:
        assert environment_faults("RoomTest/Dark-v0", REACH) == []
        (fault,) = environment_faults("RoomTest/Dark-v0", REACH, filmed=True)
    finally:
        del gymnasium.registry["RoomTest/Dark-v0"]
    assert fault.where == "rollout.video"
    assert problem in fault.problem
    assert remedy in fault.remedy
    assert "rollout.video: never" in fault.remedy


def test_a_missing_library_for_drawing_is_a_fault_with_a_remedy() -> None:
    def make(**_: Any) -> Reach:
        raise AttributeError("'NoneType' object has no attribute 'glGetError'")  # osmesa without its library

    gymnasium.register("RoomTest/Dark-v0", entry_point=make, max_episode_steps=6)
    try:
        (fault,) = environment_faults("RoomTest/Dark-v0", REACH)
    finally:
        del gymnasium.registry["RoomTest/Dark-v0"]
    assert "set MUJOCO_GL=egl (Debian: libegl1)" in fault.remedy


def test_render_without_a_picture_is_an_error_with_a_remedy() -> None:

    environment = GymnasiumEnvironment(Blind())
    environment.reset(0)
    with pytest.raises(SimulatorError, match="render_mode='rgb_array'"):
        environment.frame()
