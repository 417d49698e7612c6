from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures
from trainables.pusht.environment import PushTEnvironment, PushTSimulator
from trainables.pusht.task import IMAGE, MAX_STEPS

AGENT = Feature(STATE, FeatureType.STATE, (2,))
KEYPOINTS = Feature(ENVIRONMENT_STATE, FeatureType.ENV, (16,))
ACTIONS = Feature(ACTION, FeatureType.ACTION, (2,))


def with_image(height: int, width: int) -> PolicyFeatures:
    return PolicyFeatures((Feature(IMAGE, FeatureType.VISUAL, (3, height, width)), AGENT, KEYPOINTS), ACTIONS)


def chase(simulator: PushTSimulator, rng: np.random.Generator) -> np.ndarray:
    """An action that keeps the agent in contact with the block."""
    return np.asarray(simulator.block.local_to_world((0.0, 45.0)) + rng.uniform(-90, 90, 2), dtype=np.float32)


def state_at_goal(agent: tuple[float, float] = (100.0, 100.0)) -> np.ndarray:
    """Reset state of a solved task: the block is placed first and then turned about its middle."""
    sine, cosine = np.sin(np.pi / 4), np.cos(np.pi / 4)
    return np.array([*agent, 256.0 - 45.0 * sine, 211.0 + 45.0 * cosine, np.pi / 4])


@pytest.mark.slow
def test_simulator_gives_the_states_and_rewards_of_gym_pusht() -> None:
    reference = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos")
    simulator = PushTSimulator()
    rng = np.random.default_rng(0)
    rewards = set()
    for _ in range(10):
        state = state_at_goal() + np.concatenate([np.zeros(2), rng.normal(0.0, [20.0, 20.0, 0.5])])
        observation, _ = reference.reset(seed=0, options={"reset_to_state": state})
        simulator.reset_to(state)
        for _ in range(40):
            np.testing.assert_array_equal(simulator.keypoints(), observation["environment_state"])
            np.testing.assert_array_equal(simulator.agent_position(), observation["agent_pos"])
            action = chase(simulator, rng)
            observation, reward, terminated, _, info = reference.step(action)
            own_reward, own_terminated = simulator.advance(action)
            assert own_reward == pytest.approx(reward, abs=1e-14)
            assert own_terminated == terminated
            np.testing.assert_array_equal(simulator.block_pose(), info["block_pose"])
            rewards.add(reward)
    assert len(rewards) > 50


def test_simulator_starts_where_gym_pusht_starts() -> None:
    reference = gymnasium.make("gym_pusht/PushT-v0", obs_type="environment_state_agent_pos")
    simulator = PushTSimulator()
    for seed in range(5):
        observation, _ = reference.reset(seed=seed)
        simulator.reset(seed=seed)
        np.testing.assert_array_equal(simulator.keypoints(), observation["environment_state"])
        np.testing.assert_array_equal(simulator.agent_position(), observation["agent_pos"])


def test_simulator_succeeds_where_gym_pusht_does() -> None:
    reference = gymnasium.make("gym_pusht/PushT-v0")
    simulator = PushTSimulator()
    reference.reset(options={"reset_to_state": state_at_goal()})
    simulator.reset_to(state_at_goal())
    _, reward, terminated, _, _ = reference.step(np.array([100.0, 100.0]))
    assert simulator.advance(np.array([100.0, 100.0])) == (reward, terminated) == (1.0, True)


def test_step_limit_is_that_of_gym_pusht() -> None:
    assert gymnasium.spec("gym_pusht/PushT-v0").max_episode_steps == MAX_STEPS


@pytest.mark.parametrize("size", [(96, 96), (48, 64)])
def test_observation_is_what_gym_pusht_shows_at_the_size_of_the_dataset(size: tuple[int, int]) -> None:
    shown = {"observation_height": size[0], "observation_width": size[1]}
    reference = gymnasium.make("gym_pusht/PushT-v0", obs_type="pixels_agent_pos", **shown)
    environment = PushTEnvironment(with_image(*size))
    expected, _ = reference.reset(seed=4)
    observation = environment.reset(4)
    for _ in range(3):
        assert {name: (value.dtype.name, value.shape) for name, value in observation.items()} == {
            STATE: ("float32", (2,)),
            ENVIRONMENT_STATE: ("float32", (16,)),
            IMAGE: ("uint8", (3, *size)),
        }
        np.testing.assert_array_equal(observation[IMAGE].transpose(1, 2, 0), expected["pixels"])
        np.testing.assert_array_equal(observation[STATE], expected["agent_pos"].astype(np.float32))
        expected, *_ = reference.step(np.array([300.0, 200.0]))
        step = environment.step(np.array([300.0, 200.0]))
        assert step.observation is not None
        observation = step.observation


def test_image_is_drawn_only_for_a_policy_that_has_a_camera() -> None:
    environment = PushTEnvironment(PolicyFeatures((AGENT, KEYPOINTS), ACTIONS))
    assert set(environment.reset(0)) == {STATE, ENVIRONMENT_STATE}
    assert environment.step(np.array([1.0, 2.0]), observe=False).observation is None


def test_targets_beyond_the_table_are_brought_back() -> None:
    environment = PushTEnvironment(PolicyFeatures((AGENT,), ACTIONS))
    seen = []
    for action in ([900.0, -50.0], [512.0, 0.0]):
        environment.reset(0)
        step = environment.step(np.array(action))
        assert step.observation is not None
        seen.append(step.observation[STATE])
    np.testing.assert_array_equal(*seen)


def set_block(simulator: PushTSimulator, keypoints: np.ndarray) -> None:
    """Place the block so that the top of its bar, keypoints 0 and 1, has the place in these (8, 2)."""
    along = keypoints[1] - keypoints[0]
    simulator.block.angle = float(np.arctan2(along[1], along[0]))
    simulator.block.position = tuple(float(value) for value in (keypoints[0] + keypoints[1]) / 2)


@pytest.mark.slow
@pytest.mark.reference
def test_keypoints_have_the_order_and_values_of_the_real_demonstrations(shared: Path) -> None:
    """With the block set to the recorded pose, the environment must give the recorded keypoints."""
    table = pq.read_table(shared / "data/pusht/data/chunk-000/file-000.parquet")
    keypoints = np.stack(table[ENVIRONMENT_STATE].to_numpy()).reshape(-1, 8, 2)
    starts = np.flatnonzero(table["frame_index"].to_numpy() == 0)
    assert len(starts) == 206
    simulator = PushTSimulator()
    simulator.reset(seed=0)
    for frame in starts:
        set_block(simulator, keypoints[frame])
        assert np.abs(simulator.keypoints().reshape(8, 2) - keypoints[frame]).max() < 1e-3


@pytest.mark.slow
@pytest.mark.reference
@pytest.mark.parametrize("episode", [0, 1, 2])
def test_real_actions_give_the_states_keypoints_and_rewards_of_the_recording(
    shared: Path, episode: int
) -> None:
    table = pq.read_table(shared / "data/pusht/data/chunk-000/file-000.parquet")
    table = table.filter(pc.equal(table["episode_index"], episode))
    states, keypoints, actions = (
        np.stack(table[name].to_numpy()) for name in (STATE, ENVIRONMENT_STATE, ACTION)
    )
    rewards = np.array(table["next.reward"].to_pylist(), dtype=np.float64).reshape(-1)
    simulator = PushTSimulator()
    simulator.reset(seed=0)
    set_block(simulator, keypoints[0].reshape(8, 2))
    simulator.agent.position = tuple(float(value) for value in states[0])
    for frame in range(len(states) - 1):
        reward, _ = simulator.advance(actions[frame])
        np.testing.assert_allclose(simulator.agent_position(), states[frame + 1], atol=0.01)
        np.testing.assert_allclose(simulator.keypoints(), keypoints[frame + 1], atol=0.01)
        assert reward == pytest.approx(rewards[frame], abs=1e-4)
    assert rewards.max() > 0.8
