"""Predictions for several clients at once: each gets what it would get alone."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
import torch
from small_policy import small_policy

from trainables.deployment.server.batcher import Batcher, Prediction, Row, predict_rows
from trainables.deployment.server.warm_up import choose_batch, rows_are_alike
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import FeatureType

ROWS = 16


def row(policy: DiffusionPolicy, seed: int) -> Row:
    rng = np.random.default_rng(seed)
    observation = {
        feature.name: rng.integers(256, size=(policy.n_obs_steps, *feature.shape), dtype=np.uint8)
        if feature.type is FeatureType.VISUAL
        else rng.standard_normal((policy.n_obs_steps, *feature.shape)).astype(np.float32)
        for feature in policy.features.inputs
    }
    return Row(observation, torch.Generator().manual_seed(seed))


def running(policy: Any, use: Any, *, wait_s: float = 0.05, clients: int = 100) -> tuple[Any, list[int]]:
    """Use a batcher; returns the result, and the rows of each batch."""
    batches: list[int] = []

    async def run() -> Any:
        batcher = Batcher(policy, ROWS, wait_s, lambda: clients, lambda rows, _: batches.append(rows))
        batcher.start()
        try:
            return await use(batcher)
        finally:
            await batcher.close()

    return asyncio.run(run()), batches


def one_each(policy: DiffusionPolicy, seeds: list[int]) -> Any:
    async def use(batcher: Batcher) -> dict[int, np.ndarray]:
        asked: list[Coroutine[Any, Any, list[Prediction]]] = [
            batcher.predict([row(policy, s)]) for s in seeds
        ]
        answers = await asyncio.gather(*asked)
        return {seed: answer[0].actions for seed, answer in zip(seeds, answers, strict=True)}

    return use


@pytest.mark.slow
@pytest.mark.parametrize("cameras", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_clients_actions_do_not_depend_on_the_others(cameras: int) -> None:
    policy = small_policy(cameras=cameras, noise_scheduler_type="DDIM", num_inference_steps=2).eval()
    if not rows_are_alike(policy, ROWS):
        pytest.skip(f"on this machine the place in a batch of {ROWS} decides the last digits")
    alone = {}
    for seed in (3, 7, 19):
        found, batches = running(policy, one_each(policy, [seed]), clients=1)
        assert batches == [1]
        alone |= found
    together, batches = running(policy, one_each(policy, list(range(40))))
    assert batches == [16, 16, 8]
    for seed, actions in alone.items():
        assert np.array_equal(together[seed], actions), seed  # to the last bit, in whatever place
    assert not np.array_equal(together[3], together[7])


def test_a_prediction_is_what_the_policy_predicts(policy: DiffusionPolicy) -> None:
    wanted = row(policy, 5)
    expected = policy.predict_action(
        {name: torch.from_numpy(value)[None] for name, value in wanted.observation.items()},
        generator=[torch.Generator().manual_seed(5)],
        n_action_steps=policy.available_actions,
    )
    found = predict_rows(policy, [wanted], ROWS)
    assert found.shape == (1, policy.available_actions, policy.action_dim)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4, atol=1e-3)


def test_a_full_batch_does_not_wait_and_neither_does_the_last_client(policy: DiffusionPolicy) -> None:
    # Ten minutes: the test would not end if anything waited for them.
    _, batches = running(policy, one_each(policy, list(range(ROWS))), wait_s=600.0)
    assert batches == [ROWS]
    _, batches = running(policy, one_each(policy, [1, 2, 3]), wait_s=600.0, clients=3)
    assert batches == [3]


def test_a_row_whose_client_is_gone_is_not_predicted(policy: DiffusionPolicy) -> None:
    async def use(batcher: Batcher) -> Any:
        gone = asyncio.create_task(batcher.predict([row(policy, 1)]))
        stays = asyncio.create_task(batcher.predict([row(policy, 2)]))
        await asyncio.sleep(0)
        gone.cancel()
        answer = await stays
        assert gone.cancelled()
        return answer

    answer, batches = running(policy, use)
    assert batches == [1]
    assert answer[0].actions.shape == (policy.available_actions, policy.action_dim)


def test_a_request_of_many_rows_does_not_hold_up_a_request_of_one(policy: DiffusionPolicy) -> None:
    async def use(batcher: Batcher) -> Any:
        many = asyncio.create_task(batcher.predict([row(policy, n) for n in range(3 * ROWS)]))
        await asyncio.sleep(0)
        one = await batcher.predict([row(policy, 1)])
        assert not many.done()
        return one, await many

    (one, many), batches = running(policy, use)
    assert batches == [ROWS, ROWS, ROWS, 1]
    assert np.array_equal(one[0].actions, many[1].actions)


class Continuing:
    """Answers with what it continues, weighted; without that with zeros. Records the batches."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.features, self.n_obs_steps, self.n_action_steps = policy.features, policy.n_obs_steps, 4
        self.available_actions = 7
        self.calls: list[tuple[int, Any]] = []

    def predict_action(
        self,
        observation: Any,
        *,
        generator: Any,
        n_action_steps: int = 4,
        known: Any = None,
        kept: Any = None,
    ) -> torch.Tensor:
        rows = len(observation["observation.state"])
        self.calls.append((n_action_steps, None if kept is None else kept.tolist()))
        assert len(generator) == rows
        return torch.zeros((rows, n_action_steps, 2)) if known is None else known * kept[:, None]


def test_rows_that_continue_actions_share_a_batch_if_the_weights_are_the_same(
    policy: DiffusionPolicy,
) -> None:
    continuing = Continuing(policy)
    weights = [
        None,
        np.full(7, 0.5, np.float32),
        None,
        np.full(7, 0.25, np.float32),
        np.full(7, 0.5, np.float32),
    ]
    rows = [row(policy, number) for number in range(len(weights))]
    for number, (one, kept) in enumerate(zip(rows, weights, strict=True)):
        one.kept, one.known = kept, None if kept is None else np.full((7, 2), number, np.float32)

    async def use(batcher: Batcher) -> Any:
        return await asyncio.gather(*(batcher.predict([one]) for one in rows))

    answers, batches = running(continuing, use, clients=len(rows))
    assert batches == [2, 2, 1]
    assert continuing.calls == [(7, None), (7, [0.5] * 7), (7, [0.25] * 7)]
    assert [answer[0].actions[6, 1] for answer in answers] == [0, 0.5, 0, 0.75, 2.0]


class Failing:
    """The policy, which fails for observations that begin with 666."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        self.features, self.n_obs_steps = policy.features, policy.n_obs_steps
        self.n_action_steps, self._policy = policy.n_action_steps, policy

    def predict_action(self, observation: Any, *, generator: Any) -> torch.Tensor:
        if (observation["observation.state"][:, 0, 0] == 666).any():
            raise MemoryError("no room")
        return self._policy.predict_action(observation, generator=generator)


@pytest.mark.slow
def test_a_failure_of_the_policy_is_an_answer_and_the_next_batch_succeeds(policy: DiffusionPolicy) -> None:
    async def use(batcher: Batcher) -> Any:
        bad = row(policy, 1)
        bad.observation["observation.state"][0, 0] = 666
        with pytest.raises(MemoryError, match="no room"):
            await batcher.predict([bad])
        assert batcher.alive
        return await batcher.predict([row(policy, 2)])

    answer, batches = running(Failing(policy), use)
    assert batches == [1]
    assert len(answer) == 1


@pytest.mark.parametrize("later_s", [0.0, 0.05], ids=["before", "after it is part of a batch"])
def test_closing_refuses_what_waits(policy: DiffusionPolicy, later_s: float) -> None:
    async def use(batcher: Batcher) -> Any:
        asked = [asyncio.create_task(batcher.predict([row(policy, n)])) for n in range(3)]
        await asyncio.sleep(later_s)
        await batcher.close()
        assert not batcher.alive
        return await asyncio.gather(*asked, return_exceptions=True)

    answers, _ = running(policy, use, wait_s=600.0)
    assert [repr(answer) for answer in answers] == ["RuntimeError('the server is ending')"] * 3


def test_the_place_in_the_batch_is_examined(policy: DiffusionPolicy) -> None:
    class Placed(Failing):
        """As with few rows on a CPU, the last row differs in its last bit."""

        def predict_action(self, observation: Any, *, generator: Any) -> torch.Tensor:
            actions = self._policy.predict_action(observation, generator=generator).clone()
            actions[-1] = torch.nextafter(actions[-1], actions[-1] + 1)
            return actions

    assert rows_are_alike(policy, ROWS)
    assert not rows_are_alike(Placed(policy), ROWS)
    assert rows_are_alike(Placed(policy), 1)


@pytest.mark.slow
def test_the_size_of_a_batch_is_the_one_that_was_asked_for_or_one_that_is_measured(
    policy: DiffusionPolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert choose_batch(policy, 5).rows == 5
    monkeypatch.setattr("trainables.deployment.server.warm_up.LONGEST_S", 600.0)
    assert choose_batch(policy).rows == 32
    monkeypatch.setattr("trainables.deployment.server.warm_up.LONGEST_S", 0.0)
    assert choose_batch(policy).rows == 1
