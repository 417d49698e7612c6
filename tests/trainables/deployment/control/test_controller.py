"""The control loop with real threads; time is told by the test."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from trainables.deployment import Controller, ControlSettings
from trainables.deployment.control.safety import ControlError, Safety
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

FEATURES = PolicyFeatures(
    (Feature(STATE, FeatureType.STATE, (2,)),), Feature(ACTION, FeatureType.ACTION, (2,))
)


class Clock:
    """Seconds that the policy lets pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Counting:
    """A policy whose actions are the newest observation plus 0, 1, 2 ...; it may wait for the test."""

    n_obs_steps, n_action_steps, available_actions = 2, 4, 6
    features = FEATURES
    training = False

    def __init__(self, clock: Clock | None = None, latency_s: float = 0.0) -> None:
        self.seen: list[np.ndarray] = []
        self.options: list[dict[str, Any]] = []
        self.draws: list[list[float]] = []
        self.may_end = threading.Event()
        self.may_end.set()
        self.clock = clock
        self.latency_s = latency_s
        self.add = 0.0

    def predict_action(self, observation: Any, *, generator: Any, **options: Any) -> torch.Tensor:
        assert self.may_end.wait(400)
        if self.clock is not None:
            self.clock.now += self.latency_s
        self.seen.append(observation[STATE].numpy().copy())
        self.options.append(options)
        self.draws.append([torch.rand(1, generator=one).item() for one in generator])
        newest_B2 = observation[STATE][:, -1]
        return newest_B2[:, None] + torch.arange(options["n_action_steps"])[None, :, None] + self.add


def observation(tick: float) -> dict[str, np.ndarray]:
    return {STATE: np.full(2, tick, np.float32), "observation.image": np.zeros((3, 4, 4), np.uint8)}


def actions(controller: Controller, ticks: range) -> list[float]:
    return [float(controller.step(observation(tick))[0]) for tick in ticks]


def test_a_waiting_robot_executes_whole_chunks_and_sees_the_last_observations():
    clock = Clock()
    policy = Counting(clock, latency_s=0.25)
    with Controller(policy, rate_hz=10, clock=clock) as controller:
        assert actions(controller, range(9)) == list(range(9))
        statistics = controller.statistics
    assert [seen[0, :, 0].tolist() for seen in policy.seen] == [[0, 0], [3, 4], [7, 8]]
    assert statistics.predictions == 3
    assert statistics.ticks == 9
    assert statistics.late_ticks == 2 * 2  # 0.25 s at 10 Hz, except before the first action
    assert statistics.latency_ms == pytest.approx(250)
    assert all(options["n_action_steps"] == 6 for options in policy.options)


def test_ahead_of_time_the_robot_acts_while_the_policy_predicts():
    policy = Counting()
    with Controller(policy, ControlSettings("async", replan=0.5), rate_hz=10) as controller:
        assert actions(controller, range(2)) == [0, 1]
        policy.may_end.clear()  # the chunk that is requested at tick 2 takes two ticks
        assert actions(controller, range(2, 4)) == [2, 3]
        assert len(policy.seen) == 1
        policy.may_end.set()
        controller._future.result(200)
        assert actions(controller, range(4, 5)) == [4]
        assert controller.statistics.dropped == 2
        assert controller.statistics.late_ticks == 0
    assert policy.seen[1][0, :, 0].tolist() == [1, 2]


def test_a_late_chunk_repeats_the_last_action_and_is_counted():
    policy = Counting()
    with Controller(policy, ControlSettings("async", replan=0.0), rate_hz=10) as controller:
        actions(controller, range(4))
        policy.may_end.clear()
        assert actions(controller, range(4, 9)) == [4, 5, 5, 5, 5]
        assert controller.statistics.late_ticks == 3
        policy.may_end.set()


def test_in_real_time_chunking_the_policy_receives_what_will_be_executed():
    policy = Counting()
    with Controller(policy, ControlSettings("rtc", replan=0.5), rate_hz=10) as controller:
        actions(controller, range(3))
        controller._future.result(200)
    assert "known" not in policy.options[0]
    known, kept = policy.options[1]["known"], policy.options[1]["kept"]
    assert known.shape == (1, 6, 2)
    assert known[0, :, 0].tolist() == [2, 3, 4, 5, 5, 5]
    assert kept[0] == 1
    assert kept[4:].tolist() == [0, 0]


def test_equal_seeds_give_equal_noise_and_every_sample_its_own():
    runs = []
    for seed in (0, 0, 1):
        policy = Counting()
        with Controller(policy, ControlSettings(samples=3), rate_hz=10, seed=seed) as controller:
            actions(controller, range(5))
            controller.reset()
            actions(controller, range(5))
        assert policy.draws[:2] == policy.draws[2:]  # a new episode begins again
        runs.append(policy.draws)
    assert runs[0] == runs[1] != runs[2]
    assert len({number for draws in runs[0][:2] for number in draws}) == 6


def test_a_failure_of_the_policy_reaches_the_caller():
    class Failing(Counting):
        def predict_action(self, observation: Any, *, generator: Any, **options: Any) -> torch.Tensor:
            if self.seen:
                raise RuntimeError("the network is gone")
            return super().predict_action(observation, generator=generator, **options)

    def play(controller: Controller) -> None:
        until = time.monotonic() + 200
        while time.monotonic() < until:
            controller.step(observation(0))
            time.sleep(0.001)  # leaves the processor to the thread that predicts

    with (
        Controller(Failing(), ControlSettings("async"), rate_hz=10) as controller,
        pytest.raises(RuntimeError, match="the network is gone"),
    ):
        play(controller)


def test_limits_hold_and_are_counted():
    policy = Counting()
    safety = Safety(low=-1.0, high=2.5, largest_change=0.5)
    with Controller(policy, rate_hz=10, safety=safety) as controller:
        assert actions(controller, range(4)) == [0, 0.5, 1, 1.5]
        policy.add = 100
        assert actions(controller, range(4, 8)) == [2, 2.5, 2.5, 2.5]
        assert controller.statistics.limited == 7
        policy.add = float("nan")
        with pytest.raises(ControlError, match="not finite"):
            controller.step(observation(0))


def test_the_first_action_is_limited_if_the_robots_place_is_known():
    safety = Safety(largest_change=0.5)
    with Controller(Counting(), rate_hz=10, safety=safety) as controller:
        controller.reset(at=np.array([-3.0, -3.0]))
        assert actions(controller, range(2)) == [-2.5, -2]
        controller.reset()
        assert actions(controller, range(7, 8)) == [7]
        for wrong in (np.array([0.0]), np.array([np.nan, 0.0]), 0.0):
            with pytest.raises(ValueError, match=r"it must be a finite action \(2,\)"):
                controller.reset(at=wrong)


def test_limits_come_from_the_demonstrations():
    safety = Safety.within_demonstrations(
        {"action": {"min": np.array([0.0, 1.0]), "max": np.array([1.0, 2.0])}}
    )
    assert safety.checked(np.array([5.0, -5.0], np.float32), None).tolist() == [1, 1]
    with pytest.raises(ValueError, match="min and max are needed"):
        Safety.within_demonstrations({"action": {"mean": np.zeros(2)}})
    for wrong in ({"largest_change": 0}, {"low": 1.0, "high": 0.0}):
        with pytest.raises(ValueError, match="must be"):
            Safety(**wrong)


def test_the_action_that_holds_is_the_state_or_that_of_the_caller():
    policy = Counting()
    settings = ControlSettings("async", replan=0.0, late="hold")
    with Controller(policy, settings, rate_hz=10) as controller:
        actions(controller, range(4))
        policy.may_end.clear()
        # The chunk ends at 5; then the state, which is the tick, holds the robot.
        assert actions(controller, range(4, 20, 3)) == [4, 5, 10, 13, 16, 19]
        policy.may_end.set()
    policy.features = PolicyFeatures(
        (Feature(STATE, FeatureType.STATE, (3,)),), Feature(ACTION, FeatureType.ACTION, (2,))
    )
    with pytest.raises(ValueError, match="pass hold="):
        Controller(policy, settings, rate_hz=10)
    Controller(policy, settings, rate_hz=10, hold=lambda seen: np.zeros(2)).close()


def test_wrong_observations_and_arguments_are_refused():
    policy = Counting()
    with (
        Controller(policy, rate_hz=10) as controller,
        pytest.raises(KeyError, match=r"lacks observation\.state"),
    ):
        controller.step({"state": np.zeros(2)})
    with pytest.raises(ValueError, match="rate_hz is 0"):
        Controller(policy, rate_hz=0)
    policy.training = True
    with pytest.raises(ValueError, match="training mode"):
        Controller(policy, rate_hz=10)


def test_a_policy_with_a_warm_start_is_given_the_rest_of_its_last_chunk():
    policy = Counting()
    policy.warm_start_steps = 3  # type: ignore[attr-defined]
    with Controller(policy, rate_hz=10) as controller:
        actions(controller, range(9))
    first, second, third = policy.options
    assert "previous" not in first, "the first chunk begins from noise"
    # Chunks of 6 actions, of which 4 are executed: the last 2 are left.
    assert second["previous"][0, :, 0].tolist() == [4, 5, 5, 5, 5, 5]
    assert third["previous"][0, :, 0].tolist() == [8, 9, 9, 9, 9, 9]
    assert (second["skipped_steps"], third["skipped_steps"]) == (3, 3)


@pytest.mark.slow
def test_a_warm_start_takes_encoded_observations_and_several_samples():
    from trainables.diffusion_policy.config.sections import PolicyConfig
    from trainables.diffusion_policy.network.policy import build_policy

    statistics = {name: {"min": np.zeros(2), "max": np.ones(2)} for name in (STATE, ACTION)}
    config = PolicyConfig(
        down_dims=(16,), n_groups=4, horizon=8, n_action_steps=4, num_inference_steps=4, warm_start_steps=3
    )
    policy = build_policy(config, FEATURES, statistics).eval()
    asked: list[int] = []
    policy.diffusion.unet.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    with Controller(policy, ControlSettings(samples=3), rate_hz=10) as controller:
        moved = [controller.step(observation(0.5)) for _ in range(8)]
    assert np.isfinite(moved).all()
    assert asked == [3] * 4 + [3] * 1, "four steps for the first chunk, one for the second"
