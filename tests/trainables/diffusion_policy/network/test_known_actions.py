"""A prediction that continues known actions, and observations that are encoded once."""

from __future__ import annotations

import pytest
import torch
from small_policy import generators, small_batch, small_policy

from trainables.diffusion_policy.config.sections import FLOW_SAMPLERS, SAMPLERS

KINDS = [*(("epsilon", sampler) for sampler in SAMPLERS), *(("flow", sampler) for sampler in FLOW_SAMPLERS)]
"""What is predicted, and a sampler for it."""


@pytest.mark.slow
@pytest.mark.parametrize(("prediction", "sampler"), KINDS)
def test_a_prediction_has_the_actions_that_it_must_have(prediction, sampler):
    policy = small_policy(num_inference_steps=5, prediction_type=prediction).eval()
    batch, ours = small_batch(policy, 3), generators(1, 2, 3)
    free = policy.predict_action(batch, generator=ours, sampler=sampler)
    known = 20 * torch.randn(3, policy.available_actions, policy.action_dim)
    kept = torch.zeros(policy.available_actions)
    kept[:2] = 1
    bound = policy.predict_action(
        batch, generator=generators(1, 2, 3), sampler=sampler, known=known, kept=kept
    )
    torch.testing.assert_close(bound[:, :2], known[:, :2], rtol=1e-4, atol=1e-3)
    assert not torch.allclose(bound[:, 2:], known[:, 2 : bound.shape[1]], atol=1.0)
    assert not torch.allclose(bound[:, 2:], free[:, 2:], atol=1e-3)  # the rest follows what is known


@pytest.mark.slow
@pytest.mark.parametrize(("prediction", "sampler"), KINDS)
def test_weights_of_zero_change_no_bit(prediction, sampler):
    policy = small_policy(num_inference_steps=5, prediction_type=prediction).eval()
    batch = small_batch(policy, 2)
    free = policy.predict_action(batch, generator=generators(1, 2), sampler=sampler)
    known = torch.randn(2, policy.available_actions, policy.action_dim)
    for kept in (torch.zeros(policy.available_actions), torch.zeros(2, policy.available_actions)):
        bound = policy.predict_action(
            batch, generator=generators(1, 2), sampler=sampler, known=known, kept=kept
        )
        assert torch.equal(bound, free)


@pytest.mark.slow
def test_each_row_has_its_own_weights():
    policy = small_policy(num_inference_steps=5).eval()
    batch = small_batch(policy, 2)
    free = policy.predict_action(batch, generator=generators(1, 2))
    known = torch.randn(2, policy.available_actions, policy.action_dim)
    kept = torch.zeros(2, policy.available_actions)
    kept[1] = 1
    bound = policy.predict_action(batch, generator=generators(1, 2), known=known, kept=kept)
    assert torch.equal(bound[0], free[0])
    torch.testing.assert_close(bound[1], known[1, : bound.shape[1]], rtol=1e-4, atol=1e-3)


def test_known_actions_of_another_shape_are_refused():
    policy = small_policy().eval()
    batch = small_batch(policy, 2)
    known = torch.zeros(2, policy.available_actions - 1, policy.action_dim)
    with pytest.raises(ValueError, match="known actions have shape"):
        policy.predict_action(batch, known=known, kept=torch.zeros(policy.available_actions - 1))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [{"environment": 2}, {"cameras": 1}, {"cameras": 2}, {"cameras": 2, "crop_shape": (32, 32)}]
)
def test_observations_that_are_encoded_one_by_one_give_the_same_actions(kind):
    policy = small_policy(**kind).train()  # also in training mode crops are centred here
    batch = small_batch(policy, 2)
    whole = policy.predict_action(batch, generator=generators(1, 2))
    steps = [
        policy.encode({name: value[:, step : step + 1] for name, value in batch.items()})
        for step in range(policy.n_obs_steps)
    ]
    condition = torch.cat(steps, dim=1).flatten(1)
    once = policy.predict_action({}, generator=generators(1, 2), condition=condition)
    torch.testing.assert_close(once, whole, rtol=1e-4, atol=1e-3)


def test_an_observation_of_the_wrong_shape_is_not_encoded():
    policy = small_policy().eval()
    with pytest.raises(ValueError, match=r"observation\.state has shape"):
        policy.encode({"observation.state": torch.zeros(1, 1, 7)})
    with pytest.raises(ValueError, match=r"observation\.state has shape"):
        policy.encode({"observation.state": torch.zeros(1)})
