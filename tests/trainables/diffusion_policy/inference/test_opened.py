from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.lerobot import load
from trainables.diffusion_policy.network.inference_settings import INFERENCE_FIELDS, with_setting
from trainables.episodes import read_episodes
from trainables.evaluation.rollout import summarise
from trainables.evaluation.simulators import make_environment
from trainables.interface import (
    ConfigError,
    EvaluatesPolicies,
    EvaluationContext,
    ServeOptions,
    TrainContext,
)

REACH = "reach_simulator:make_reach"
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trained(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A trial's folder, its configuration, and its reports."""
    from small_policy import small_settings

    folder = tmp_path_factory.mktemp("trial")
    config = small_settings(circles) | {
        "rollout.env": REACH,
        "rollout.episodes": 6,
        "rollout.max_steps": 9,
        "rollout.video": "never",
        "ema.max_decay": 0.5,
    }
    reports = list(TRAINABLE.train(config, TrainContext(folder, folder / "cache", threads=1)))
    return folder, config, reports


@pytest.fixture
def opened(trained: Any, tmp_path: Path) -> Any:
    folder, _, _ = trained
    assert isinstance(TRAINABLE, EvaluatesPolicies)
    checkpoint = folder / "checkpoints" / "000012"
    return TRAINABLE.open_policy(checkpoint, {}, EvaluationContext(folder / "cache"))


def test_every_evaluation_of_a_training_leaves_its_episodes(trained: Any) -> None:
    folder, _, reports = trained
    evaluated = [report for report in reports if "rollout/success_rate" in report.metrics]
    assert [report.step for report in evaluated] == [6, 12]
    for report in evaluated:
        path = report.artifacts["rollout/episodes"]
        assert path == folder / "episodes" / f"{report.step:06d}-search.jsonl"
        head, records = read_episodes(path)
        assert (head.purpose, head.step, head.setting, head.environment) == ("search", report.step, {}, REACH)
        assert [record.seed for record in records] == list(range(100_000, 100_006))
        assert summarise(records).items() <= report.metrics.items()


def test_an_opened_policy_repeats_the_episodes_of_its_training_bit_for_bit(trained: Any, opened: Any) -> None:
    folder, _, _ = trained
    _, records = read_episodes(folder / "episodes" / "000012-search.jsonl")
    assert opened.rollout({}, "search", range(6)) == records
    assert opened.rollout({}, "search", [4, 1]) == [records[1], records[4]]
    assert opened.step == 12


def test_each_purpose_has_its_own_starts(opened: Any) -> None:
    chosen = opened.rollout({}, "choice", range(6))
    confirmed = opened.rollout({}, "confirm", range(6))
    assert len({record.seed for record in [*chosen, *confirmed]}) == 12


def test_a_setting_changes_how_the_policy_acts_and_nothing_else(opened: Any) -> None:
    trained = opened.policy({})
    for setting in (
        {"policy.n_action_steps": 2},
        {"policy.num_inference_steps": 2},
        {"policy.sampler": "UniPC"},
        {"policy.sampler": "DPM-Solver++", "policy.timestep_spacing": "trailing"},
        {"policy.timestep_spacing": "trailing"},
        {"policy.clip_sample_range": 0.25},
        {"policy.use_ema": False},
    ):
        changed = opened.rollout(setting, "look", range(4))
        assert changed != opened.rollout({}, "look", range(4)), setting
        assert opened.policy(setting).config.horizon == trained.config.horizon
    assert opened.rollout(dict(opened.trained_setting), "look", range(4)) == opened.rollout(
        {}, "look", range(4)
    )


def test_a_setting_equals_the_policy_that_was_built_with_it(opened: Any, trained: Any) -> None:
    folder, _, _ = trained
    setting = {"policy.sampler": "DPM-Solver++", "policy.num_inference_steps": 5}
    raw = load(folder / "checkpoints" / "000012", ema=False)
    first = with_setting(raw, setting)
    observation = opened._any_observation()
    again = opened.policy(setting | {"policy.use_ema": False})
    import torch

    def act(policy: Any) -> Any:
        return policy.predict_action(observation, generator=[torch.Generator().manual_seed(0)])

    assert torch.equal(act(first), act(again))
    assert not torch.equal(act(first), act(raw))
    assert not torch.equal(act(first), act(opened.policy(setting)))


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ({"policy.horizon": 16}, "policy.horizon"),
        ({"policy.nonsense": 1}, "policy.nonsense"),
        ({"policy.n_action_steps": 9}, "policy.n_action_steps"),
        ({"policy.num_inference_steps": 21}, "policy.num_inference_steps"),
        ({"policy.sampler": "Euler"}, "policy.sampler"),
        (
            {
                "policy.sampler": "UniPC",
                "policy.timestep_spacing": "leading",
                "policy.num_inference_steps": 20,
            },
            "policy.num_inference_steps",
        ),
    ],
)
def test_an_impossible_setting_is_a_fault_and_is_not_run(
    opened: Any, setting: dict[str, Any], where: str
) -> None:
    assert [fault.where for fault in opened.setting_faults(setting)] == [where]
    with pytest.raises(ConfigError, match=where):
        opened.rollout(setting, "look", [0])


def test_action_errors_are_those_of_the_same_moments_for_any_request(opened: Any) -> None:
    assert opened.windows == 16
    whole = opened.action_errors({}, range(16))
    assert opened.action_errors({}, [5, 2]) == pytest.approx([whole[5], whole[2]], rel=1e-5)
    assert opened.action_errors({"policy.n_action_steps": 1}, range(16)) == whole
    fewer = opened.action_errors({"policy.num_inference_steps": 1}, range(16))
    assert len(fewer) == 16
    assert not np.allclose(fewer, whole)


def test_latency_is_timed_run_by_run(opened: Any) -> None:
    times = opened.latency_ms({}, runs=8)
    assert len(times) == 8
    assert min(times) > 0
    assert len(opened.latency_ms({}, runs=10_000, most_s=0.0)) == 5
    slow, fast = (opened.speed({"policy.num_inference_steps": steps}) for steps in (20, 1))
    # Each was timed. Which of them is larger depends on what else the machine does.
    assert slow["eval/chunk_latency_ms"] != fast["eval/chunk_latency_ms"]
    assert opened.speed({"policy.num_inference_steps": 20, "policy.n_action_steps": 2}) == {
        "eval/chunk_latency_ms": slow["eval/chunk_latency_ms"],
        "eval/action_rate_hz": pytest.approx(slow["eval/action_rate_hz"] / 2),
    }


def test_a_checkpoint_can_be_evaluated_elsewhere(trained: Any) -> None:
    folder, _, _ = trained
    context = EvaluationContext(folder / "cache")
    checkpoint = folder / "checkpoints" / "000012"
    opened = TRAINABLE.open_policy(checkpoint, {"rollout.seed": 7, "dataset.root": None}, context)
    assert [record.seed for record in opened.rollout({}, "search", [0, 2])] == [7, 9]
    assert opened.windows == 0
    with pytest.raises(ConfigError, match=r"dataset\.root: there are no held-out episodes"):
        opened.action_errors({}, [0])
    blind = TRAINABLE.open_policy(checkpoint, {"rollout.env": None}, context)
    with pytest.raises(ConfigError, match=r"rollout\.env: no environment is named"):
        blind.rollout({}, "search", [0])
    for config in ({"policy.horizon": 16}, {"rollout.episodess": 3}, {"rollout.env": "CartPole-v1"}):
        with pytest.raises(ConfigError, match=next(iter(config))):
            TRAINABLE.open_policy(checkpoint, config, context)


def test_a_film_shows_the_requested_episodes(opened: Any, tmp_path: Path) -> None:
    film = tmp_path / "film.mp4"
    opened.rollout({}, "look", [0, 1], film=film, film_episodes=1)
    assert film.stat().st_size > 0
    assert make_environment(REACH, opened.features).max_steps is None


def test_what_can_change_on_a_trained_policy() -> None:
    assert {name.removeprefix("policy.") for name in INFERENCE_FIELDS} == {
        "n_action_steps",
        "clip_sample",
        "clip_sample_range",
        "sampler",
        "num_inference_steps",
        "timestep_spacing",
        "warm_start_steps",
        "use_ema",
    }


WARM = {"policy.warm_start_steps": 3}


def test_a_warm_start_is_played_and_timed(opened: Any) -> None:
    assert opened.rollout(WARM, "look", range(4)) != opened.rollout({}, "look", range(4))
    asked: list[int] = []
    policy = opened.policy(WARM)
    hook = policy.diffusion.unet.register_forward_pre_hook(lambda *_: asked.append(1))
    try:
        opened.latency_ms(WARM, runs=5)
    finally:
        hook.remove()
    assert len(asked) == 3 + 5, "one of the four steps is left"


def test_a_warm_start_that_leaves_no_step_is_refused(opened: Any) -> None:
    (fault,) = opened.setting_faults({"policy.warm_start_steps": 4})
    assert str(fault) == (
        "policy.warm_start_steps: 4 of 4 denoising steps cannot be skipped. Use at most 3, or more "
        "policy.num_inference_steps."
    )
    assert opened.setting_faults({**WARM, "policy.num_inference_steps": 2})


def test_a_warm_start_is_refused_if_there_is_no_last_chunk(opened: Any) -> None:
    with pytest.raises(ConfigError, match=r"warm_start_steps: makes no difference at single moments"):
        opened.action_errors(WARM, [0])
    with pytest.raises(ConfigError, match=r"a server begins each chunk from noise\. Serve it without: --set"):
        opened.serve(WARM, ServeOptions(port=0))
