"""A proposed space: it can be trained, fits the dataset, and begins at the values that the user has."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.diffusion_policy.config.diffusion_config import FIELDS, config_faults
from trainables.diffusion_policy.data import camera_faults
from trainables.diffusion_policy.finetuning.resolve import resolve
from trainables.diffusion_policy.network.shapes import parameter_count
from trainables.diffusion_policy.proposals.dataset_facts import PUSHT, DatasetFacts
from trainables.diffusion_policy.proposals.pictures import picture_size
from trainables.diffusion_policy.proposals.propose import propose
from trainables.diffusion_policy.proposals.recipes import FEW, MANY, SOME, recipe_for
from trainables.features import ACTION, ENVIRONMENT_STATE, STATE, Feature, FeatureType, PolicyFeatures
from trainables.interface import Proposal

ROOT = {"dataset.root": "somewhere"}


def facts(
    episodes: int = 50,
    median: int = 200,
    fps: float = 30,
    cameras: tuple[tuple[int, ...], ...] = (),
    simulator: str | None = None,
    environment_state: int = 0,
) -> DatasetFacts:
    """A dataset of a certain size."""
    seen = [
        Feature(f"observation.images.{number}", FeatureType.VISUAL, shape)
        for number, shape in enumerate(cameras)
    ]
    if environment_state:
        seen.append(Feature(ENVIRONMENT_STATE, FeatureType.ENV, (environment_state,)))
    seen.append(Feature(STATE, FeatureType.STATE, (6,)))
    features = PolicyFeatures(tuple(seen), Feature(ACTION, FeatureType.ACTION, (6,)))
    lengths = (max(1, median // 2), median, median * 2)
    return DatasetFacts("arm", "v3.0", fps, episodes, episodes * median, *lengths, features, simulator)


def fixed(proposal: Proposal) -> dict[str, Any]:
    return {entry.name: entry.value for entry in proposal.config}


def searched(proposal: Proposal) -> dict[str, Any]:
    return {entry.name: entry.value for entry in proposal.parameters}


def corners(form: dict[str, Any]) -> list[Any]:
    return form.get("values") or [form["min"], form["max"]]


shapes = st.tuples(st.just(3), st.integers(16, 1200), st.integers(16, 1920))
datasets = st.builds(
    facts,
    episodes=st.integers(1, 3000),
    median=st.integers(1, 3000),
    fps=st.sampled_from([5, 10, 15, 24, 29.97, 30, 50, 60, 100]),
    cameras=st.lists(shapes, max_size=3).map(tuple),
    simulator=st.sampled_from([None, PUSHT]),
)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(datasets)
def test_every_proposal_can_be_trained(seen: DatasetFacts) -> None:
    """The fixed values with each value and both bounds of what is searched, where the constraint holds."""
    proposal = propose(ROOT, seen)
    forms = searched(proposal)
    base = {**ROOT, **fixed(proposal)}

    assert set(forms) | set(fixed(proposal)) <= set(FIELDS)
    kept = 0
    for point in itertools.product(*(corners(form) for form in forms.values())):
        config = base | dict(zip(forms, point, strict=True))
        available = config["policy.horizon"] - config["policy.n_obs_steps"] + 1
        if config["policy.n_action_steps"] <= available:
            kept += 1
            assert config_faults(config) == []
    assert kept
    longest = {name: corners(form)[-1 if name == "policy.horizon" else 0] for name, form in forms.items()}
    pictures = {name: value for name, value in base.items() if name != "dataset.observations"}
    assert camera_faults(resolve(pictures | longest), seen.features) == []
    assert proposal.metric.startswith("rollout/") == (seen.simulator is not None)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    datasets, st.integers(1, 8), st.sampled_from([8, 16, 24, 64]), st.floats(1e-6, 1e-2), st.integers(1, 5000)
)
def test_the_users_values_are_part_of_the_search(
    seen: DatasetFacts, actions: int, horizon: int, lr: float, steps: int
) -> None:
    given_values = {
        **ROOT,
        "policy.horizon": horizon,
        "policy.n_action_steps": min(actions, horizon - 1),
        "optimizer.lr": lr,
        "train.steps": steps,
    }
    proposal = propose(given_values, seen)
    forms = searched(proposal)

    assert "train.steps" not in fixed(proposal)
    assert horizon in forms["policy.horizon"]["values"] if "policy.horizon" in forms else True
    assert forms["optimizer.lr"]["min"] < lr < forms["optimizer.lr"]["max"]
    assert "policy.n_action_steps" not in fixed(proposal)
    # The user's own training is one of the combinations.
    assert config_faults({**given_values, **fixed(proposal)}) == []


def test_horizons_are_times_that_the_network_allows() -> None:
    ten, thirty = (searched(propose(ROOT, facts(fps=fps)))["policy.horizon"]["values"] for fps in (10, 30))

    assert ten == [8, 16, 32]
    assert thirty == [24, 48, 96]
    (entry,) = [e for e in propose(ROOT, facts(fps=30)).parameters if e.name == "policy.horizon"]
    assert "0.8 s, 1.6 s, 3.2 s" in entry.why


def test_no_horizon_is_longer_than_most_episodes() -> None:
    values = searched(propose(ROOT, facts(fps=30, median=50)))["policy.horizon"]["values"]

    assert values == [24, 48]


def test_the_recipe_follows_the_number_of_episodes() -> None:
    assert [recipe_for(n) for n in (1, 100, 101, 499, 500, 9000)] == [FEW, FEW, SOME, SOME, MANY, MANY]
    few, some, many = (
        fixed(propose(ROOT, facts(episodes=n, cameras=((3, 240, 320),)))) for n in (50, 200, 800)
    )
    sizes = [
        parameter_count(resolve(ROOT | config).policy, action_dim=6, vector_dim=6, cameras=1)
        for config in (few, some, many)
    ]
    assert sizes[0] < sizes[1] / 2 < sizes[2] / 4
    assert few["train.steps"] < some["train.steps"] < many["train.steps"]


def test_the_comment_beside_the_steps_counts_the_epochs() -> None:
    proposal = propose(ROOT, facts(episodes=50, median=200, cameras=((3, 240, 320),)))
    (steps,) = [entry for entry in proposal.config if entry.name == "train.steps"]

    epochs = steps.value * 64 / (50 * 200 * 0.9)
    assert f"{epochs:,.0f} epochs of 9,000 frames" in steps.why


def test_actions_are_searched_only_if_rollouts_can_judge_them() -> None:
    on_a_robot, simulated = propose(ROOT, facts()), propose(ROOT, facts(simulator=PUSHT, fps=10))

    assert "policy.n_action_steps" in fixed(on_a_robot)
    assert any("only the robot can judge it" in remark for remark in on_a_robot.remarks)
    assert "policy.n_action_steps" in searched(simulated)
    assert simulated.metric == "rollout/success_rate"
    assert fixed(simulated)["rollout.env"] == PUSHT


def test_a_single_episode_cannot_be_held_out() -> None:
    proposal = propose(ROOT, facts(episodes=1))

    assert fixed(proposal)["dataset.holdout_fraction"] == 0
    assert proposal.metric == "train/loss"
    assert any("Record more episodes" in remark for remark in proposal.remarks)


def test_at_least_two_episodes_are_held_out_of_a_few() -> None:
    assert fixed(propose(ROOT, facts(episodes=5)))["dataset.holdout_fraction"] == 0.4


def test_depth_is_left_out_of_the_observations() -> None:
    proposal = propose(ROOT, facts(cameras=((3, 96, 96), (1, 96, 96))))

    assert fixed(proposal)["dataset.observations"] == ["observation.images.0", STATE]
    assert any("1 channels" in remark for remark in proposal.remarks)


def test_a_state_of_the_world_beside_pictures_is_pointed_out() -> None:
    proposal = propose(ROOT, facts(cameras=((3, 96, 96),), environment_state=16))

    assert any("known in a simulator only" in remark for remark in proposal.remarks)


@pytest.mark.parametrize(
    ("recorded", "resized"),
    [
        (((3, 96, 96),), None),
        (((3, 480, 640),), (240, 320)),
        (((3, 720, 1280),), (240, 428)),
        (((3, 1080, 1920), (3, 1080, 1920)), (240, 428)),
        (((3, 480, 640), (3, 240, 320)), (240, 320)),
        (((3, 96, 128), (3, 64, 64)), (96, 128)),
    ],
)
def test_pictures_keep_their_content_and_their_aspect(recorded, resized) -> None:
    cameras = facts(cameras=recorded).cameras
    size = picture_size(cameras)

    assert size.resize_shape == resized
    assert size.crop_ratio**2 > 0.8
    height, width = size.resize_shape or recorded[0][1:]
    distorted = [shape for _, *shape in recorded if abs(shape[1] / shape[0] / (width / height) - 1) > 0.05]
    assert bool(distorted) == bool(size.remark)


def test_a_warmup_longer_than_the_training_is_shortened_and_said_so() -> None:
    proposal = propose({**ROOT, "train.steps": 20, "lr_scheduler.warmup_steps": 500}, None)
    (entry,) = [entry for entry in proposal.config if entry.name == "lr_scheduler.warmup_steps"]

    assert entry.value == 2
    assert "before step 20" in entry.why


def test_around_a_training_its_own_number_of_actions_stays() -> None:
    proposal = propose({**ROOT, "policy.horizon": 16, "policy.n_action_steps": 12}, None)

    assert "policy.n_action_steps" not in fixed(proposal)
    assert searched(proposal)["policy.horizon"]["values"] == [16, 32]


@pytest.mark.parametrize("env", [None, PUSHT])
def test_a_training_that_holds_out_nothing_is_judged_by_rollouts_or_changed(env: str | None) -> None:
    proposal = propose({**ROOT, "dataset.holdout_fraction": 0, "rollout.env": env}, None)

    assert ("dataset.holdout_fraction" in fixed(proposal)) == (env is None)
    assert proposal.metric == ("eval/action_mse" if env is None else "rollout/success_rate")


def test_pretrained_weights_get_the_norm_that_they_were_trained_with() -> None:
    pretrained = {**ROOT, "policy.pretrained_backbone_weights": "ResNet18_Weights.IMAGENET1K_V1"}

    assert fixed(propose(pretrained, None))["policy.use_group_norm"] is False
