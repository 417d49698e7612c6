from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch
from reach_simulator import PUSHT_ALL, PUSHT_STATE, NoisyNetwork, Reach, Recorder, pusht_policy

from trainables.environment import SimulatorError
from trainables.episodes import EpisodeRecord
from trainables.evaluation import prediction
from trainables.evaluation.rollout import EpisodeResult, RolloutError, rollout, summarise
from trainables.features import STATE
from trainables.pusht.environment import PushTEnvironment

REACH_ENV = "reach_simulator:make_reach"
PUSHT = "gym_pusht/PushT-v0"
ROWS = prediction.CPU_BATCH


def same(first: list[EpisodeResult], second: list[EpisodeResult]) -> bool:
    actions_equal = [np.array_equal(a.actions, b.actions) for a, b in zip(first, second, strict=True)]
    return first == second and all(actions_equal)


def starts(seeds: range) -> np.ndarray:
    return np.array([Reach().reset(seed=seed)[0]["agent_pos"] for seed in seeds], dtype=np.float32)


def test_episode_starts_from_seed_plus_index_and_first_observation_fills_the_window() -> None:
    policy = Recorder(n_obs_steps=3)
    rollout(policy, REACH_ENV, episode_indices=[2], seed=40, parallel=1, max_steps=1)
    seen = policy.asked[0][STATE]
    assert seen.shape == (ROWS, 3, 2)
    np.testing.assert_array_equal(seen[2].numpy(), np.repeat(starts(range(42, 43)), 3, axis=0))


def test_the_policy_predicts_when_its_chunk_is_used_up_and_sees_the_last_observations() -> None:
    policy = Recorder(n_obs_steps=2, n_action_steps=3)
    (result,) = rollout(policy, REACH_ENV, episode_indices=[0], seed=5, parallel=1, max_steps=100)
    (start,) = starts(range(5, 6))
    halvings = int(np.ceil(np.log2(np.linalg.norm(start) / 0.1)))
    assert result.record.length == halvings
    assert result.record.success
    assert len(policy.asked) == -(-halvings // 3)
    expected = [start / 4, start / 8]
    np.testing.assert_allclose(policy.asked[1][STATE][0].numpy(), expected, rtol=1e-6)


def test_result_counts_rewards_steps_and_success() -> None:
    (result,) = rollout(Recorder(), REACH_ENV, episode_indices=[0], seed=5, parallel=1, max_steps=2)
    record = result.record
    (start,) = starts(range(5, 6))
    rewards = [1 - np.linalg.norm(start) / 2, 1 - np.linalg.norm(start) / 4]
    assert (record.episode, record.seed, record.length, record.success) == (0, 5, 2, False)
    assert record.chunk_ms > 0
    assert record.sum_reward == pytest.approx(sum(rewards), rel=1e-6)
    assert record.max_reward == pytest.approx(max(rewards), rel=1e-6)
    np.testing.assert_allclose(result.actions, [start / 2, start / 4], rtol=1e-6)


def test_every_episode_is_run_once_and_results_come_by_index() -> None:
    results = rollout(
        Recorder(), REACH_ENV, episode_indices=[9, 3, 20, 4, 11, 19], seed=0, parallel=4, max_steps=9
    )
    assert [result.record.episode for result in results] == [3, 4, 9, 11, 19, 20]
    assert [result.record.seed for result in results] == [3, 4, 9, 11, 19, 20]


@pytest.mark.slow
@pytest.mark.parametrize("parallel", [1, 2, 5, 8, 13, 30])
def test_number_of_parallel_environments_does_not_change_a_bit(parallel: int) -> None:
    policy = NoisyNetwork(PUSHT_STATE)
    arguments = {"episode_indices": range(13), "seed": 7, "max_steps": 30}
    reference = rollout(policy, PUSHT, parallel=13, **arguments)
    assert same(rollout(policy, PUSHT, parallel=parallel, **arguments), reference)
    assert len({result.record.sum_reward for result in reference}) > 3


@pytest.mark.slow
def test_a_diffusion_policy_gives_the_same_bits_for_any_number_of_parallel_environments() -> None:
    policy = pusht_policy(PUSHT_STATE)
    arguments = {"episode_indices": [0, 1, 2, 33, 34], "seed": 5, "max_steps": 8}
    reference = rollout(policy, PUSHT, parallel=5, **arguments)
    assert len({float(result.actions.sum()) for result in reference}) == 5
    for parallel in (1, 2):
        assert same(rollout(policy, PUSHT, parallel=parallel, **arguments), reference)


@pytest.mark.slow
def test_shares_of_workers_add_up_to_one_evaluation_bit_for_bit() -> None:
    policy = NoisyNetwork(PUSHT_STATE)
    whole = rollout(policy, PUSHT, episode_indices=range(9), seed=3, parallel=4, max_steps=20)
    shares = [
        rollout(policy, PUSHT, episode_indices=share, seed=3, parallel=3, max_steps=20)
        for share in (range(5, 9), [4, 0, 2], [3, 1])
    ]
    together = sorted(
        (result for share in shares for result in share), key=lambda result: result.record.episode
    )
    assert same(together, whole)


def test_evaluation_is_repeatable_and_other_seeds_are_other_episodes() -> None:
    policy = NoisyNetwork(PUSHT_STATE)
    first = rollout(policy, PUSHT, episode_indices=range(4), seed=3, parallel=2, max_steps=20)
    torch.randn(3)  # the global generator plays no part
    assert same(rollout(policy, PUSHT, episode_indices=range(4), seed=3, parallel=2, max_steps=20), first)
    other = rollout(policy, PUSHT, episode_indices=range(4), seed=4, parallel=2, max_steps=20)
    assert not np.array_equal(other[0].actions, first[1].actions)  # same start, other noise


def test_noise_of_an_episode_differs_between_looks() -> None:
    class Noise(Recorder):
        def answer(
            self, observation: Mapping[str, torch.Tensor], generator: list[torch.Generator]
        ) -> torch.Tensor:
            return torch.stack([torch.rand(1, 2, generator=g) for g in generator])

    policy = Noise(n_action_steps=1)
    first, second = rollout(policy, REACH_ENV, episode_indices=[0, 1], seed=0, parallel=2, max_steps=5)
    drawn = np.concatenate([first.actions, second.actions])
    assert len(np.unique(drawn)) == drawn.size


def test_images_come_as_bytes_channels_first_and_only_those_that_are_looked_at_are_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trainables.pusht.environment import PushTSimulator

    drawn = []
    image = PushTSimulator.image
    monkeypatch.setattr(PushTSimulator, "image", lambda self: drawn.append(1) or image(self))
    asked: list[Mapping[str, torch.Tensor]] = []

    class Still(Recorder):
        def answer(
            self, observation: Mapping[str, torch.Tensor], generator: list[torch.Generator]
        ) -> torch.Tensor:
            asked.append(observation)
            return torch.full((len(generator), self.n_action_steps, 2), 256.0)

    policy = Still(PUSHT_ALL, n_obs_steps=2, n_action_steps=8)
    rollout(policy, PUSHT, episode_indices=[0], seed=0, parallel=1, max_steps=16)
    images = asked[1]["observation.image"]
    assert images.dtype == torch.uint8
    assert images.shape == (ROWS, 2, 3, 96, 96)
    assert not torch.equal(images[0, 0], images[0, 1])
    assert len(drawn) == 1 + 2 + 2


class Encoder(Recorder):
    """A policy that encodes apart what it sees: the last state is its encoding."""

    def __init__(self) -> None:
        super().__init__(PUSHT_ALL, n_obs_steps=2, n_action_steps=8)
        self.encoded: list[torch.Tensor] = []
        self.conditions: list[torch.Tensor] = []

    def encode(self, observation: Mapping[str, torch.Tensor]) -> torch.Tensor:
        self.encoded.append(observation[STATE][:, -1])
        return observation[STATE]

    def predict_action(  # type: ignore[override]
        self,
        observation: Mapping[str, torch.Tensor],
        *,
        generator: list[torch.Generator],
        condition: torch.Tensor,
    ) -> torch.Tensor:
        assert not observation
        self.conditions.append(condition)
        return condition[:, None, -2:].expand(-1, self.n_action_steps, -1)


@pytest.mark.parametrize(
    ("episodes", "places"),
    [
        ([6], [[6, 6, 6, 6]]),
        ([0, 1, 2, 3, 4], [[0, 1, 2, 3], [4, 4, 4, 4]]),
        ([1, 5, 33], [[1, 1, 1, 1], [5, 5, 5, 5], [33, 33, 33, 33]]),
        ([2, 31, 8], [[8, 2, 2, 31]]),
    ],
)
def test_a_cpu_encodes_the_pictures_of_no_more_rows_than_have_an_episode(
    episodes: list[int], places: list[list[int]]
) -> None:
    policy = Encoder()
    results = rollout(policy, PUSHT, episode_indices=episodes, seed=0, parallel=5, max_steps=1)
    first = {result.record.episode: result.actions[0].tolist() for result in results}
    simulator = PushTEnvironment(PUSHT_ALL)
    assert first == {episode: simulator.reset(seed=episode)[STATE].tolist() for episode in episodes}
    seen = [[state.tolist() for state in encoded] for encoded in policy.encoded]
    assert sorted(seen) == sorted([first[episode] for episode in row] for row in places)
    for condition in policy.conditions:
        assert len(condition) == ROWS
        empty = [row for row in range(ROWS) if row not in {episode % ROWS for episode in episodes}]
        assert not condition[empty].any()


def test_episodes_that_run_together_leave_few_places_among_the_pictures_empty() -> None:
    policy = Encoder()
    # Episode 4 would share its place among four with episode 0.
    rollout(policy, PUSHT, episode_indices=[0, 4, 1, 2, 3], seed=0, parallel=4, max_steps=1)
    assert len(policy.encoded) == 2


@pytest.mark.slow
def test_what_is_encoded_together_does_not_change_a_bit_of_an_episode() -> None:
    policy = pusht_policy(PUSHT_ALL)
    arguments = {"seed": 7, "max_steps": 24}
    reference = rollout(policy, PUSHT, episode_indices=range(9), parallel=9, **arguments)
    assert len({result.actions.tobytes() for result in reference}) == 9
    assert same(rollout(policy, PUSHT, episode_indices=range(9), parallel=2, **arguments), reference)
    for few in ([4], [8, 0, 3]):
        found = rollout(policy, PUSHT, episode_indices=few, parallel=3, **arguments)
        assert same(found, [reference[index] for index in sorted(few)])


def test_episodes_encoded_apart_are_those_of_the_whole_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = pusht_policy(PUSHT_ALL)
    arguments = {"episode_indices": [0, 1, 6], "seed": 7, "max_steps": 8, "parallel": 3}
    apart = rollout(policy, PUSHT, **arguments)
    monkeypatch.setattr(prediction, "KeepsEncodings", int)
    whole = rollout(policy, PUSHT, **arguments)
    for one, other in zip(apart, whole, strict=True):
        np.testing.assert_allclose(one.actions, other.actions, rtol=1e-4, atol=1e-2)


def test_action_that_is_not_finite_is_an_error_that_names_the_episode() -> None:
    class Diverged(Recorder):
        def answer(
            self, observation: Mapping[str, torch.Tensor], generator: list[torch.Generator]
        ) -> torch.Tensor:
            actions = torch.zeros(len(generator), self.n_action_steps, 2) + 0.9
            actions[1] = torch.nan
            return actions

    with pytest.raises(RolloutError, match="step 0 of episode 1 ") as caught:
        rollout(Diverged(), REACH_ENV, episode_indices=[0, 1], seed=0, parallel=2, max_steps=5)
    assert caught.value.reason == "diverged"


def test_environment_that_lacks_an_observation_is_named() -> None:
    policy = Recorder(PUSHT_STATE)
    with pytest.raises(
        SimulatorError, match=r"needs observation\.environment_state.*gives observation\.state"
    ):
        rollout(policy, REACH_ENV, episode_indices=[0], seed=0, parallel=1, max_steps=5)


def test_environment_without_a_limit_wants_one() -> None:
    with pytest.raises(SimulatorError, match=r"rollout\.max_steps"):
        rollout(Recorder(), REACH_ENV, episode_indices=[0], seed=0, parallel=1)


def test_misuse_is_refused() -> None:
    with pytest.raises(ValueError, match="parallel"):
        rollout(Recorder(), REACH_ENV, episode_indices=[0], seed=0, parallel=0)
    with pytest.raises(ValueError, match="twice"):
        rollout(Recorder(), REACH_ENV, episode_indices=[0, 0], seed=0, parallel=1)
    with pytest.raises(ValueError, match="training mode"):
        rollout(NoisyNetwork(PUSHT_STATE).train(), PUSHT, episode_indices=[0], seed=0, parallel=1)


def test_no_episodes_are_no_results() -> None:
    assert rollout(Recorder(), REACH_ENV, episode_indices=[], seed=0, parallel=2) == []


def test_progress_is_reported_after_every_chunk_of_actions() -> None:
    messages: list[str] = []
    rollout(
        Recorder(),
        REACH_ENV,
        episode_indices=range(3),
        seed=0,
        parallel=2,
        max_steps=9,
        progress=messages.append,
    )
    finished = [int(text.split()[1]) for text in messages]
    assert messages == [f"rollout: {n} of 3 episodes" for n in finished]
    assert finished == sorted(finished)
    assert finished[-1] == 3


def test_summary_averages_episodes_and_brackets_the_success_rate() -> None:
    records = [
        EpisodeRecord(0, 0, success=False, max_reward=0.5, sum_reward=20.0, length=100, chunk_ms=3.0),
        EpisodeRecord(1, 1, success=True, max_reward=1.0, sum_reward=40.0, length=50, chunk_ms=3.0),
    ]
    assert summarise(records) == pytest.approx(
        {
            "rollout/success_rate": 0.5,
            "rollout/success_rate_low": 0.0945,
            "rollout/success_rate_high": 0.9055,
            "rollout/avg_max_reward": 0.75,
            # Student's t with one degree of freedom: 12.706 standard errors.
            "rollout/avg_max_reward_low": 0.75 - 12.7062 * 0.25,
            "rollout/avg_max_reward_high": 0.75 + 12.7062 * 0.25,
            "rollout/avg_sum_reward": 30.0,
            "rollout/avg_sum_reward_low": 30 - 12.7062 * 10,
            "rollout/avg_sum_reward_high": 30 + 12.7062 * 10,
            "rollout/episode_length": 75.0,
        },
        abs=1e-3,
    )
    with pytest.raises(ValueError, match="no episodes"):
        summarise([])
