"""A checkpoint is exported with moments of its dataset and episodes in its simulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from checkpoint_files import own_checkpoint
from small_policy import small_policy, small_settings

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.formats.errors import FormatError
from trainables.interface import EvaluationContext, ExportsFormats, FormatOptions, TrainContext

REACH = "reach_simulator:make_reach"


@pytest.fixture(scope="module")
def trained(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a policy with a dataset and a simulator."""
    folder = tmp_path_factory.mktemp("trial")
    config = small_settings(circles) | {
        "rollout.env": REACH,
        "rollout.episodes": 2,
        "rollout.max_steps": 9,
        "rollout.video": "never",
        "train.eval_every": 12,
    }
    list(TRAINABLE.train(config, TrainContext(folder, folder / "cache", threads=1)))
    return folder / "checkpoints" / "000012"


def test_the_trainable_exports_formats() -> None:
    assert isinstance(TRAINABLE, ExportsFormats)
    assert list(TRAINABLE.formats) == ["onnx", "torch"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (FormatOptions("onnx", precisions=("fp16",), episodes=2), "names no simulator"),
        (FormatOptions("onnx", precisions=("int8",)), "no recorded observations to calibrate"),
    ],
)
def test_what_cannot_be_checked_is_not_written(tmp_path: Path, options: FormatOptions, said: str) -> None:
    checkpoint = own_checkpoint(small_policy(environment=2), tmp_path / "trial")
    with pytest.raises(FormatError, match=said):
        TRAINABLE.export_format(checkpoint, tmp_path / "out", options, EvaluationContext(tmp_path / "cache"))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (FormatOptions("onnx", precisions=("int8",)), "Say with --episodes N"),
        (FormatOptions("onnx", episodes=2), "only fp16 and int8 are played"),
    ],
)
def test_episodes_are_neither_forgotten_nor_ignored(
    trained: Path, tmp_path: Path, options: FormatOptions, said: str
) -> None:
    with pytest.raises(FormatError, match=said):
        TRAINABLE.export_format(trained, tmp_path / "out", options, EvaluationContext(tmp_path / "cache"))


@pytest.mark.slow
def test_int8_is_judged_on_moments_of_its_own_and_in_episodes(trained: Path, tmp_path: Path) -> None:
    context = EvaluationContext(tmp_path / "cache")
    options = FormatOptions("onnx", precisions=("fp32", "int8"), episodes=3)
    report = TRAINABLE.export_format(trained, tmp_path / "out", options, context)
    assert "32 moments of held-out episodes" in report["compared_on"]
    exact, rounded = report["variants"]
    assert exact["action_error"] is None
    assert exact["episodes"] is None
    error = rounded["action_error"]
    assert error["moments"] > 0
    assert error["mean_squared"] == pytest.approx(error["policy_mean_squared"] + error["difference"])
    played = rounded["episodes"]
    assert played["episodes"] == 3
    # The same policy on the same starts plays these episodes.
    own = TRAINABLE.open_policy(trained, {}, context).rollout({}, "look", range(3))
    assert played["max_reward"]["policy_mean"] == pytest.approx(sum(record.max_reward for record in own) / 3)
    assert report["notes"] == []


@pytest.mark.slow
def test_without_the_dataset_the_comparison_says_so(tmp_path: Path) -> None:
    checkpoint = own_checkpoint(small_policy(environment=2, num_inference_steps=2), tmp_path / "trial")
    context = EvaluationContext(tmp_path / "cache")
    report = TRAINABLE.export_format(checkpoint, tmp_path / "out", FormatOptions("torch"), context)
    assert "random observations, because the dataset cannot be opened" in report["compared_on"]
    assert report["notes"]


@pytest.mark.slow
def test_a_warm_start_is_left_out_and_said_so(tmp_path: Path) -> None:
    policy = small_policy(environment=2, num_inference_steps=3, warm_start_steps=2)
    checkpoint = own_checkpoint(policy, tmp_path / "trial")
    context = EvaluationContext(tmp_path / "cache")
    report = TRAINABLE.export_format(checkpoint, tmp_path / "out", FormatOptions("torch"), context)
    assert report["notes"][0] == "policy.warm_start_steps 2 is left out: every chunk begins from noise."
    assert report["policy"]["setting"]["policy.warm_start_steps"] == 0


@pytest.mark.slow
def test_too_few_moments_to_calibrate_with_are_counted(trained: Path, tmp_path: Path) -> None:
    opened = TRAINABLE.open_policy(trained, {}, EvaluationContext(tmp_path / "cache"))
    count = len(opened.heldout)
    numbers, words = opened.moments(fewest=count + 1)
    assert not len(numbers)
    assert words == f"the held-out episodes have {count} moments, and {count + 1} are needed"
