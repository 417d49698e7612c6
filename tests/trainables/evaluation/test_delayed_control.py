"""Rollouts in which chunks arrive late, as on the robot."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from reach_simulator import PUSHT_ALL, PUSHT_STATE, pusht_policy

from trainables.deployment import ControlSettings
from trainables.diffusion_policy.network.inference_settings import with_setting
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.environment import Step
from trainables.evaluation import prediction
from trainables.evaluation.rollout import DelayedControl, EpisodeResult, rollout
from trainables.features import ACTION, STATE, Feature, FeatureType, PolicyFeatures

PUSHT = "gym_pusht/PushT-v0"
CLOCKED = PolicyFeatures(
    (Feature(STATE, FeatureType.STATE, (1,)),), Feature(ACTION, FeatureType.ACTION, (1,))
)


class Ticks:
    """A simulator that shows the number of the step, and wants it as the action."""

    action_shape = (1,)
    max_steps = 30
    fps = 10.0

    def __init__(self, features: PolicyFeatures) -> None:
        self.tick = 0

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        self.tick = 0
        return {STATE: np.zeros(1, np.float32)}

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        right = float(action[0] == self.tick)
        self.tick += 1
        return Step({STATE: np.full(1, self.tick, np.float32)}, right, done=False, success=False)

    def frame(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


class Foreseeing:
    """A policy that knows the number of each step to come."""

    n_obs_steps, n_action_steps, available_actions = 2, 4, 8
    features = CLOCKED

    def predict_action(self, observation: Any, *, generator: Any, **options: Any) -> torch.Tensor:
        newest_B1 = observation[STATE][:, -1]
        count = options.get("n_action_steps", self.n_action_steps)
        return newest_B1[:, None] + torch.arange(count)[None, :, None]


def ticks(mode: str, latency_ms: float) -> list[float]:
    control = DelayedControl(ControlSettings(mode), latency_ms)
    here = f"{__name__}:Ticks"
    (result,) = rollout(Foreseeing(), here, episode_indices=[3], seed=0, parallel=1, control=control)
    return result.actions[:, 0].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_without_latency_each_action_is_the_one_of_its_step(mode):
    assert ticks(mode, 0) == pytest.approx(list(range(30)))


@pytest.mark.parametrize("mode", ["async", "ensemble", "rtc"])
def test_ahead_of_time_the_latency_costs_no_step(mode):
    assert ticks(mode, 150) == pytest.approx(list(range(30)))  # 1.5 steps of 0.1 s: two


def test_a_robot_that_waits_stands_still_for_the_latency():
    assert ticks("sync", 150)[:12] == [0, 1, 2, 3, 3, 3, 4, 5, 6, 7, 7, 7]
    assert ticks("sync", 100)[:12] == [0, 1, 2, 3, 3, 4, 5, 6, 7, 7, 9, 10]  # seen at step 9


class Warm(Foreseeing):
    """A policy that begins from its last chunk, and remembers what it was given."""

    warm_start_steps = 3

    def __init__(self) -> None:
        self.given: list[tuple[list[float], Any]] = []

    def predict_action(self, observation: Any, *, generator: Any, **options: Any) -> torch.Tensor:
        previous = options.get("previous")
        assert options.get("skipped_steps", 0) == (0 if previous is None else 3)
        rest = None if previous is None else previous[:, :, 0].tolist()
        self.given.append((observation[STATE][:, -1, 0].tolist(), rest))
        return super().predict_action(observation, generator=generator, **options)


@pytest.mark.parametrize(
    ("mode", "latency_ms", "ahead"), [("sync", 0, 4), ("async", 0, 6), ("async", 150, 6), ("rtc", 0, 6)]
)
def test_a_warm_start_begins_from_what_the_last_chunk_has_from_the_present_on(
    mode: str, latency_ms: float, ahead: int
) -> None:
    policy = Warm()
    control = DelayedControl(ControlSettings(mode), latency_ms)
    here = f"{__name__}:Ticks"
    rollout(policy, here, episode_indices=[3], seed=0, parallel=1, control=control)
    (_, first), *later = policy.given
    assert first is None, "the first chunk begins from noise"
    assert len(later) >= 4
    for seen, rest in later:
        assert rest is not None
        now = seen[3]  # the row of the episode
        assert rest[3] == [now + min(step, ahead - 1) for step in range(8)]


def test_a_warm_start_needs_no_other_field_of_the_rollout() -> None:
    policy = Warm()
    (result,) = rollout(policy, f"{__name__}:Ticks", episode_indices=[3], seed=0, parallel=1)
    assert result.actions[:, 0].tolist() == list(range(30))
    assert [rest is None for _, rest in policy.given] == [True, *[False] * 7]


def test_episodes_that_begin_take_the_whole_denoising_beside_others_that_do_not() -> None:
    policy = Warm()
    rollout(policy, f"{__name__}:Ticks", episode_indices=range(3), seed=0, parallel=2, max_steps=30)
    # Episodes 0 and 1 end together; episode 2 begins alone, from noise.
    assert [rest is None for _, rest in policy.given] == [True, *[False] * 7, True, *[False] * 7]


NETWORK: dict[str, Any] = {
    "horizon": 16,
    "n_action_steps": 6,
    "num_inference_steps": 3,
    "noise_scheduler_type": "DDIM",
}


@pytest.fixture(scope="module")
def policy() -> DiffusionPolicy:
    return pusht_policy(PUSHT_STATE, **NETWORK)


def pushed(
    policy: DiffusionPolicy, control: DelayedControl | None, parallel: int = 5, episodes: int = 5
) -> list[EpisodeResult]:
    return rollout(
        policy,
        PUSHT,
        episode_indices=range(episodes),
        seed=3,
        parallel=parallel,
        max_steps=24,
        control=control,
    )


@pytest.mark.slow
def test_a_plain_control_changes_no_bit(policy):
    plain, none = pushed(policy, DelayedControl.named("sync", 0.0, 0.5)), pushed(policy, None)
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(plain, none, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["sync", "async", "ensemble", "rtc"])
def test_no_number_of_parallel_environments_changes_a_bit(policy, mode):
    control = DelayedControl(ControlSettings(mode, samples=2), latency_ms=150)
    results = [pushed(policy, control, parallel) for parallel in (1, 3, 5)]
    for other in results[1:]:
        assert all(np.array_equal(a.actions, b.actions) for a, b in zip(results[0], other, strict=True))
    assert not np.array_equal(results[0][0].actions, pushed(policy, None, episodes=1)[0].actions)


@pytest.mark.slow
def test_no_number_of_parallel_environments_changes_a_bit_of_warm_starts(policy: DiffusionPolicy) -> None:
    warm = with_setting(policy, {"policy.warm_start_steps": 2})
    results = [pushed(warm, None, parallel) for parallel in (1, 3, 5)]
    for other in results[1:]:
        assert all(np.array_equal(a.actions, b.actions) for a, b in zip(results[0], other, strict=True))
    cold = pushed(policy, None)
    for a, b in zip(results[0], cold, strict=True):
        assert np.array_equal(a.actions[:6], b.actions[:6]), "the first chunk begins from noise"
        assert not np.array_equal(a.actions[6:], b.actions[6:])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "warm_start_steps"), [("sync", 2), ("async", 2), ("ensemble", 0), ("rtc", 0), ("rtc", 2)]
)
def test_pictures_that_are_encoded_apart_reach_their_episodes(
    mode: Any, warm_start_steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = pusht_policy(PUSHT_ALL, **NETWORK)
    policy = with_setting(drawn, {"policy.warm_start_steps": warm_start_steps}) if warm_start_steps else drawn
    control = DelayedControl(ControlSettings(mode, samples=2), latency_ms=150)
    results = [pushed(policy, control, parallel) for parallel in (2, 5)]
    assert all(np.array_equal(a.actions, b.actions) for a, b in zip(*results, strict=True))
    assert len({result.actions.tobytes() for result in results[0]}) == 5
    monkeypatch.setattr(prediction, "KeepsEncodings", int)
    for apart, whole in zip(results[0], pushed(policy, control), strict=True):
        np.testing.assert_allclose(apart.actions[:9], whole.actions[:9], rtol=1e-4, atol=0.1)


@pytest.mark.slow
def test_the_latency_of_a_warm_start_is_measured_with_it(policy: DiffusionPolicy) -> None:
    warm = with_setting(policy, {"policy.warm_start_steps": 2})
    asked: list[int] = []
    hook = warm.diffusion.unet.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    try:
        pushed(warm, DelayedControl(ControlSettings("async"), "measured"), episodes=1)
    finally:
        hook.remove()
    alone = [rows for rows in asked if rows == 1]
    assert len(alone) == 10, "ten timed predictions of one step each"


@pytest.mark.slow
def test_the_latency_of_this_machine_is_measured_if_asked_for(policy):
    (result,) = pushed(policy, DelayedControl(ControlSettings("async"), "measured"), episodes=1)
    assert len(result.actions) == 24


def test_a_policy_without_further_actions_is_refused():
    class Short(Foreseeing):
        available_actions = property()

    with pytest.raises(ValueError, match="cannot predict more actions"):
        rollout(
            Short(),
            f"{__name__}:Ticks",
            episode_indices=[0],
            seed=0,
            parallel=1,
            control=DelayedControl(ControlSettings("async"), 100),
        )
