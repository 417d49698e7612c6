"""An opened policy can be looked into: demonstrations, denoising, latency, the same starts again."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from small_policy import small_settings

from trainables.dataset import DatasetError
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.windows import split_episodes
from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.data import load_dataset
from trainables.diffusion_policy.inference import demonstrations
from trainables.evaluation.analysis import AnalysisSettings
from trainables.evaluation.denoising import Denoising, record_denoising
from trainables.evaluation.denoising_picture import draw_picture, film_denoising
from trainables.interface import ConfigError, EvaluationContext, InspectablePolicy, TrainContext

REACH = "reach_simulator:make_reach"
QUICKLY = AnalysisSettings(moments=16, samples=4)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def trial(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trial on circles."""
    folder = tmp_path_factory.mktemp("trial")
    config = small_settings(circles) | {"train.steps": 6, "rollout.env": REACH, "rollout.max_steps": 9}
    config |= {"rollout.episodes": 2, "rollout.video": "never"}
    list(TRAINABLE.train(config, TrainContext(folder, folder / "cache", threads=1)))
    return folder


def opened(trial: Path, **config: Any) -> Any:
    named = {name.replace("__", "."): value for name, value in config.items()}
    return TRAINABLE.open_policy(trial, named, EvaluationContext(trial / "cache"))


def write_vectors(root: Path, state: int, action: int, episodes: int = 3) -> Path:
    """A dataset of another robot."""
    features = {
        "observation.state": DatasetFeature("float32", (state,)),
        "action": DatasetFeature("float32", (action,)),
    }
    with DatasetWriter(root, fps=10, features=features) as writer:
        for _ in range(episodes):
            columns = {name: np.ones((20, one.shape[0]), np.float32) for name, one in features.items()}
            writer.add_episode(columns, task="Stand.")
    return root


def test_an_opened_policy_can_be_looked_into(trial: Path) -> None:
    assert isinstance(opened(trial), InspectablePolicy)


def test_the_held_out_episodes_of_the_training_are_compared(trial: Path) -> None:
    policy = opened(trial)
    found = policy.compare({}, QUICKLY)
    dataset = load_dataset(policy.config.dataset, trial / "cache")
    assert found.episodes == split_episodes(dataset, 0.25, 0).holdout
    assert (found.trained_on, found.provenance) == ("no", "Held out of the training.")
    assert found.dimensions == ("x", "y")
    assert {moment.episode for moment in found.worst} <= set(found.episodes)
    assert found == policy.compare({}, QUICKLY)


def test_a_setting_changes_what_is_compared(trial: Path) -> None:
    policy = opened(trial)
    fewer = policy.compare({"policy.n_action_steps": 2}, QUICKLY)
    assert (fewer.executed_steps, len(fewer.mae_by_step)) == (2, 7)
    assert fewer.mse != policy.compare({}, QUICKLY).mse


def test_a_copy_of_the_dataset_is_recognised_and_another_one_is_used_whole(
    trial: Path, circles: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(circles, tmp_path / "copy")
    found = opened(trial, dataset__root=str(copy)).compare({}, QUICKLY)
    assert (found.trained_on, len(found.episodes)) == ("no", 2)
    other = write_vectors(tmp_path / "other", 2, 2)
    found = opened(trial, dataset__root=str(other)).compare({}, QUICKLY)
    assert (found.trained_on, found.episodes) == ("unknown", (0, 1, 2))
    assert "not the one of the training" in found.provenance
    assert found.relative_mse is None, "the demonstrated actions do not vary"
    chosen = opened(trial, dataset__root=str(other), dataset__episodes=[1]).compare({}, QUICKLY)
    assert chosen.episodes == (1,)


def test_it_is_said_plainly_if_the_policy_was_trained_on_the_episodes(trial: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trial, tmp_path / "trial")
    for file in copy.glob("checkpoints/*/config.json"):
        whole = json.loads(file.read_text())
        whole["config"]["dataset.holdout_fraction"] = 0.0
        file.write_text(json.dumps(whole))
    found = opened(copy).compare({}, QUICKLY)
    assert (found.trained_on, len(found.episodes)) == ("yes", 8)
    assert "was trained on all of these" in found.provenance


def test_episodes_that_a_fraction_left_out_are_held_out(trial: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(trial, tmp_path / "trial")
    for file in copy.glob("checkpoints/*/config.json"):
        whole = json.loads(file.read_text())
        whole["config"] |= {"dataset.holdout_fraction": 0.0, "dataset.fraction": 0.75}
        file.write_text(json.dumps(whole))
    found = opened(copy).compare({}, QUICKLY)
    assert (found.trained_on, len(found.episodes)) == ("no", 2)


def test_a_checkpoint_that_does_not_say_what_it_was_trained_on(
    trial: Path,
) -> None:
    training = demonstrations.Training()
    policy = opened(trial)
    source, _ = demonstrations.open_demonstrations(
        policy.config, policy.features, training, EvaluationContext(trial / "cache")
    )
    assert (source.trained_on, len(source.episodes)) == ("unknown", 8)
    assert "does not say which episodes it was trained on" in source.provenance


def test_a_dataset_of_another_robot_is_refused(trial: Path, tmp_path: Path) -> None:
    other = write_vectors(tmp_path / "other", 3, 6)
    with pytest.raises(ConfigError) as caught:
        opened(trial, dataset__root=str(other)).check_demonstrations()
    words = str(caught.value)
    assert "observation.state of (3,), and the policy's is (2,)" in words
    assert "action of (6,), and the policy's is (2,)" in words
    with pytest.raises(DatasetError):
        opened(trial, dataset__root=str(tmp_path / "nowhere")).check_demonstrations()
    assert not opened(trial, dataset__root=None).check_demonstrations()


def test_the_same_starts_are_tried_again_with_other_noise(trial: Path) -> None:
    policy = opened(trial)
    first = policy.rollout({}, "look", [3, 5])
    again = policy.repeat({}, "look", [3, 5], 1)
    assert [record.seed for record in again] == [record.seed for record in first]
    assert policy.repeat({}, "look", [3, 5], 1) == again
    actions = [policy._results({}, "look", [3], noise=run)[0].actions for run in (0, 1, 2)]
    assert not np.array_equal(actions[0], actions[1])
    assert not np.array_equal(actions[1], actions[2])


def test_latency_says_what_computed(trial: Path) -> None:
    latency = opened(trial).latency({}, runs=9)
    assert (len(latency.times_ms), latency.device, latency.executed_steps) == (9, "cpu", 4)
    assert latency.threads >= 1
    assert min(latency.times_ms) <= latency.p50_ms <= latency.p95_ms <= max(latency.times_ms)


def test_the_denoising_is_drawn_for_a_demonstration_or_for_a_start(trial: Path, tmp_path: Path) -> None:
    picture, film = tmp_path / "a.png", tmp_path / "a.mp4"
    drawn = opened(trial).draw_denoising({}, picture, film)
    assert drawn is not None
    assert "of episode" in drawn.observation
    assert len(drawn.timesteps) == 4
    assert list(drawn.timesteps) == sorted(drawn.timesteps, reverse=True)
    with Image.open(picture) as read:
        image = np.asarray(read.convert("RGB"))
    assert image.shape[1] > 1000
    assert len(np.unique(image.reshape(-1, 3), axis=0)) > 100
    with av.open(str(film)) as container:
        frames = sum(1 for _ in container.decode(video=0))
    assert frames > 48
    start = opened(trial, dataset__root=None).draw_denoising({}, tmp_path / "b.png")
    assert start is not None
    assert start.observation == f"the start of an episode in {REACH}"
    assert start.film is None
    assert opened(trial, dataset__root=None, rollout__env=None).draw_denoising({}, picture) is None


def test_what_is_recorded_is_the_denoising_of_the_policy(trial: Path) -> None:
    policy = opened(trial)
    observation, _, _, _ = policy._demonstrated()
    recorded = record_denoising(policy.policy({}), observation, dimensions=("x", "y"), samples=3)
    assert recorded is not None
    assert recorded.noisy.shape == (4, 3, 8, 2)
    assert len(recorded.timesteps) == 4
    spread = [chunks.std() for chunks in recorded.noisy]
    assert spread[0] > 2 * recorded.chunks.std(axis=0).mean()
    assert (
        record_denoising(policy.policy({}), observation, dimensions=("x", "y"), samples=3, most_s=0.0) is None
    )


@pytest.mark.parametrize("dimensions", [1, 2, 6, 20])
def test_actions_of_any_size_are_drawn(dimensions: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    denoising = Denoising(
        noisy=rng.standard_normal((5, 3, 8, dimensions)),
        timesteps=(80, 60, 40, 20, 0),
        chunks=rng.standard_normal((3, 8, dimensions)),
        current=1,
        executed=4,
        dimensions=tuple(f"joint {number}" for number in range(dimensions)),
    )
    assert draw_picture(denoising, tmp_path / "a.png") == (80, 60, 20, 0)
    with Image.open(tmp_path / "a.png") as read:
        assert read.size[0] == 1500
    film_denoising(denoising, tmp_path / "a.mp4")
    assert (tmp_path / "a.mp4").stat().st_size > 1000
    broken = dataclasses.replace(denoising, chunks=np.full((3, 8, dimensions), np.nan))
    with pytest.raises(ValueError, match="not finite"):
        draw_picture(broken, tmp_path / "b.png")
    assert not (tmp_path / "b.png").exists()


def test_a_training_draws_its_denoising_once_at_the_end(circles: Path, tmp_path: Path) -> None:
    config = small_settings(circles) | {
        "eval.denoising_picture": True,
        "train.steps": 4,
        "train.eval_every": 2,
    }
    *others, last = TRAINABLE.train(config, TrainContext(tmp_path, tmp_path / "cache", threads=1))
    assert not any(report.artifacts for report in others)
    assert last.artifacts == {"denoising/picture": tmp_path / "denoising" / "000004.png"}
    with Image.open(last.artifacts["denoising/picture"]) as read:
        assert read.size == (1500, 370)


def test_a_training_does_not_wait_for_a_denoising_that_takes_long(
    circles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainables.diffusion_policy.training.evaluate.DENOISING_S", 0.0)
    config = small_settings(circles) | {"eval.denoising_picture": True, "train.steps": 4}
    *_, last = TRAINABLE.train(config, TrainContext(tmp_path, tmp_path / "cache", threads=1))
    assert last.final
    assert last.artifacts == {}


@pytest.mark.parametrize(
    ("policy", "dataset"), [("policy_tiny", "pusht_v30"), ("policy_tiny_state", "pusht_keypoints_v30")]
)
def test_checkpoints_of_lerobot_are_looked_into(
    shared: Path, tmp_path: Path, policy: str, dataset: str
) -> None:
    config = {"dataset.root": str(shared / "data" / "small" / dataset)}
    checkpoint = shared / "reference" / policy
    opened = TRAINABLE.open_policy(checkpoint, config, EvaluationContext(tmp_path / "cache"))
    quick = {"policy.sampler": "DDIM", "policy.num_inference_steps": 2}
    found = opened.compare(quick, QUICKLY)
    assert (found.trained_on, len(found.episodes)) == ("unknown", 12)
    assert found.dimensions == ("motor_0", "motor_1")
    assert found.mse > 0
    drawn = opened.draw_denoising(quick, tmp_path / "a.png")
    assert len(drawn.timesteps) == 2
