"""Training: its promises, on a dataset small enough to learn in seconds."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from small_policy import small_settings
from training_runs import context, run, tensors_of, untimed

from trainables.dataset.policy_statistics import policy_statistics
from trainables.diffusion_policy import TRAINABLE, lerobot
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.data import open_data
from trainables.diffusion_policy.fraction import BUILTIN_EPISODES, training_episodes
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.checkpoint import CheckpointError, Checkpoints
from trainables.diffusion_policy.training.progress import DivergedError
from trainables.interface import ConfigError, Report
from trainables.pusht.demonstrations import load_demonstrations


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Trained(NamedTuple):
    """A run that was not interrupted."""

    folder: Path
    reports: list[Report]

    def copy_to(self, folder: Path) -> Path:
        shutil.copytree(self.folder, folder)
        return folder


@pytest.fixture(scope="module")
def straight(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """The run of the small configuration, once for all tests; its folder must not be changed."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    torch.set_num_threads(1)
    return Trained(folder, run(small_settings(circles), folder))


@pytest.mark.slow
def test_reports_come_at_every_logging_step_and_every_evaluation(straight: Trained) -> None:
    reports = straight.reports

    assert [report.step for report in reports] == [3, 6, 9, 12]
    assert [report.final for report in reports] == [False, False, False, True]
    assert ["eval/action_mse" in report.metrics for report in reports] == [False, True, False, True]
    for report in reports:
        assert set(report.metrics) <= set(TRAINABLE.metrics)
        assert all(math.isfinite(value) for value in report.metrics.values())
        assert report.metrics["trial/step"] == report.step


@pytest.mark.slow
def test_a_run_tells_what_it_does_before_its_first_report(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    told: list[str] = []
    reports = TRAINABLE.train(small_config, context(tmp_path, progress=told.append))
    next(iter(reports))
    assert told == ["opening the dataset", "building the policy", "training: steps 1 to 12"]


@pytest.mark.slow
def test_training_learns_to_predict_the_next_places(small_config: dict[str, Any], tmp_path: Path) -> None:
    config = small_config | {"train.steps": 200, "train.eval_every": 100, "optimizer.lr": 3e-3}
    reports = run(config, tmp_path)

    # Standing still is off by the 15 units of a step; guessing anywhere by about 80.
    assert reports[-1].metrics["eval/action_mae"] < 20
    assert reports[-1].metrics["train/loss"] < 0.3 * reports[0].metrics["train/loss"]


@pytest.mark.slow
def test_the_same_seed_gives_the_same_numbers_and_another_seed_others(
    small_config: dict[str, Any], straight: Trained, tmp_path: Path
) -> None:
    first, second = straight.reports, run(small_config, tmp_path / "again")
    other = run(small_config | {"train.seed": 1}, tmp_path / "other")

    assert [untimed(report) for report in first] == [untimed(report) for report in second]
    assert untimed(first[-1]) != untimed(other[-1])


@pytest.mark.slow
@pytest.mark.parametrize(
    "stop_after", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_a_resumed_run_equals_a_straight_one_bit_for_bit(
    small_config: dict[str, Any], straight: Trained, tmp_path: Path, stop_after: int
) -> None:
    # The process ends after this number of reports, like a killed one: nothing is closed or saved for it.
    early = list(itertools.islice(TRAINABLE.train(small_config, context(tmp_path / "cut")), stop_after))
    resumed = run(small_config, tmp_path / "cut")

    by_step = {report.step: untimed(report) for report in [*early, *resumed]}
    assert by_step == {report.step: untimed(report) for report in straight.reports}
    expected, found = tensors_of(straight.folder), tensors_of(tmp_path / "cut")
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
def test_a_run_resumes_between_two_updates_of_its_average(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    config = small_config | {"ema.every": 4}  # the checkpoint is of step 6
    straight = run(config, tmp_path / "straight")
    list(itertools.islice(TRAINABLE.train(config, context(tmp_path / "cut")), 2))
    resumed = run(config, tmp_path / "cut")

    assert untimed(resumed[-1]) == untimed(straight[-1])
    expected, found = tensors_of(tmp_path / "straight"), tensors_of(tmp_path / "cut")
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


@pytest.mark.slow
def test_the_report_of_a_checkpoint_is_given_again_after_a_restart(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    before = list(itertools.islice(TRAINABLE.train(small_config, context(tmp_path)), 2))
    again = next(iter(TRAINABLE.train(small_config, context(tmp_path))))

    assert again.step == before[-1].step == 6
    assert again.metrics == before[-1].metrics


@pytest.mark.slow
def test_a_stop_request_leaves_a_checkpoint_to_go_on_from(
    small_config: dict[str, Any], straight: Trained, tmp_path: Path
) -> None:
    asked = iter([False] * 3 + [True])
    reports = run(small_config, tmp_path, stop_requested=lambda: next(asked))
    resumed = run(small_config, tmp_path)

    assert reports[-1].step == 4
    assert not reports[-1].final
    assert resumed[-1].final
    assert untimed(resumed[-1])["eval/action_mse"] == untimed(straight.reports[-1])["eval/action_mse"]


@pytest.mark.slow
def test_accumulated_gradients_equal_those_of_the_whole_batch(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    config = small_config | {"train.steps": 3, "train.log_every": 1, "optimizer.name": "adam"}
    whole = run(config, tmp_path / "whole")
    parts = run(config | {"train.gradient_accumulation_steps": 4}, tmp_path / "parts")

    for one, other in zip(whole, parts, strict=True):
        assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=1e-5)
        assert other.metrics["train/grad_norm"] == pytest.approx(one.metrics["train/grad_norm"], rel=1e-4)


@pytest.mark.slow
def test_a_run_that_continues_with_half_the_batch_at_once_gives_the_same_result(
    small_config: dict[str, Any], straight: Trained, tmp_path: Path
) -> None:
    list(itertools.islice(TRAINABLE.train(small_config, context(tmp_path / "cut")), 2))
    lighter = TRAINABLE.lighter(small_config)
    assert lighter is not None
    changed = {name: value for name, value in lighter.items() if small_config.get(name) != value}
    assert changed == {"train.gradient_accumulation_steps": 2}
    resumed = run(lighter, tmp_path / "cut")

    assert [report.step for report in resumed] == [6, 9, 12]
    for one, other in zip(straight.reports[-2:], resumed[-2:], strict=True):
        assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=1e-4)


def test_a_batch_is_halved_until_a_worker_has_one_sample_in_a_pass() -> None:
    config: Mapping[str, Any] | None = {"train.batch_size": 24}
    parts = []
    while (config := TRAINABLE.lighter(config, workers=2)) is not None:
        parts.append(config["train.gradient_accumulation_steps"])
    assert parts == [2, 4]  # 24 = 2 workers of 4 passes of 3 samples


@pytest.mark.slow
def test_masked_loss_weighs_parts_by_their_valid_actions(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    config = small_config | {"train.steps": 3, "train.log_every": 1, "policy.do_mask_loss_for_padding": True}
    whole = run(config, tmp_path / "whole")
    parts = run(config | {"train.gradient_accumulation_steps": 4}, tmp_path / "parts")

    for one, other in zip(whole, parts, strict=True):
        assert other.metrics["train/loss"] == pytest.approx(one.metrics["train/loss"], rel=1e-5)


@pytest.mark.slow
def test_a_huge_learning_rate_ends_as_diverged_with_step_and_advice(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    config = small_config | {"optimizer.lr": 1e3, "train.steps": 60}

    with pytest.raises(DivergedError, match=r"at step \d+.*optimizer\.lr"):
        run(config, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_every_precision_trains(small_config: dict[str, Any], tmp_path: Path, precision: str) -> None:
    reports = run(small_config | {"train.precision": precision, "train.steps": 3}, tmp_path)

    assert math.isfinite(reports[-1].metrics["train/loss"])


@pytest.mark.slow
def test_a_step_skipped_for_an_overflow_leaves_the_reports_of_fp16_finite(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    # Two samples a batch: the gradients are large enough for the first loss scale to overflow.
    config = small_config | {"train.batch_size": 2, "train.steps": 4, "train.log_every": 1}
    exact = run(config, tmp_path / "fp32")
    scaled = run(config | {"train.precision": "fp16"}, tmp_path / "fp16")

    norms = [report.metrics["train/grad_norm"] for report in scaled]
    assert 0.0 in norms, "no step overflowed"
    assert all(math.isfinite(norm) for norm in norms)
    assert norms[0] == pytest.approx(exact[0].metrics["train/grad_norm"], rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["cosine", *(pytest.param(name, marks=pytest.mark.slow) for name in ("constant", "linear"))]
)
def test_learning_rate_warms_up_and_follows_its_schedule(
    small_config: dict[str, Any], tmp_path: Path, name: str
) -> None:
    config = small_config | {
        "lr_scheduler.name": name,
        "lr_scheduler.warmup_steps": 4,
        "train.log_every": 1,
        "optimizer.lr": 1e-3,
    }
    rates = [report.metrics["train/lr"] for report in run(config, tmp_path)]

    assert rates[:4] == pytest.approx([0.0, 2.5e-4, 5e-4, 7.5e-4])
    after = {
        "constant": [1e-3] * 8,
        "linear": [1e-3 * (12 - step) / 8 for step in range(4, 12)],
        "cosine": [1e-3 * 0.5 * (1 + math.cos(math.pi * (step - 4) / 8)) for step in range(4, 12)],
    }
    assert rates[4:] == pytest.approx(after[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rule", "peak"), [("none", 1e-3), pytest.param("linear", 4e-3, marks=pytest.mark.slow), ("sqrt", 2e-3)]
)
def test_the_learning_rate_follows_the_batch_size_by_a_rule(
    small_config: dict[str, Any], tmp_path: Path, rule: str, peak: float
) -> None:
    config = small_config | {
        "lr_scheduler.name": "constant",
        "lr_scheduler.warmup_steps": 0,
        "optimizer.lr": 1e-3,
        "optimizer.lr_batch_rule": rule,
        "optimizer.lr_batch_reference": 4,
        "train.steps": 1,
        "train.log_every": 1,
        "train.gradient_accumulation_steps": 2,  # the batch is that of the optimiser's step
    }
    (report,) = run(config, tmp_path)
    assert report.metrics["train/lr"] == pytest.approx(peak)


@pytest.mark.slow
def test_only_best_and_last_checkpoints_are_kept(small_config: dict[str, Any], tmp_path: Path) -> None:
    config = small_config | {"train.steps": 15, "train.eval_every": 3}
    # The error falls all the time, so the largest is an early one, and best and last are two checkpoints.
    reports = run(config, tmp_path, objective=("eval/action_mse", "maximize"))

    store = Checkpoints(tmp_path / "checkpoints")
    best, last = store.find("best"), store.find("last")
    assert best is not None
    assert last is not None
    folders = {entry.name for entry in store.folder.iterdir() if entry.is_dir()}
    assert folders == {best.name, last.name}
    errors = {report.step: report.metrics["eval/action_mse"] for report in reports}
    assert int(best.name) == max(errors, key=lambda step: errors[step]) < 15
    assert int(last.name) == 15
    # No run continues from the best checkpoint, nor after the last step.
    assert not list(store.folder.rglob("optimizer.safetensors"))
    assert all((folder / "ema.safetensors").is_file() for folder in (best, last))


@pytest.mark.slow
def test_a_loaded_policy_predicts_what_the_trained_one_did(straight: Trained) -> None:
    last = Checkpoints(straight.folder / "checkpoints").find("last")
    assert last is not None
    observation = {"observation.state": torch.tensor([[[100.0, 0.0], [98.0, 8.0]]])}

    def chunk(*, ema: bool) -> torch.Tensor:
        return lerobot.load(last, ema=ema).predict_action(
            observation, generator=[torch.Generator().manual_seed(0)]
        )

    assert chunk(ema=True).shape == (1, 4, 2)
    assert torch.equal(chunk(ema=True), chunk(ema=True))
    assert not torch.equal(chunk(ema=True), chunk(ema=False))


@pytest.mark.slow
def test_a_checkpoint_of_another_configuration_is_refused(
    small_config: dict[str, Any], straight: Trained, tmp_path: Path
) -> None:
    folder = straight.copy_to(tmp_path / "run")

    with pytest.raises(ConfigError, match=r"optimizer\.lr"):
        run(small_config | {"optimizer.lr": 2e-3}, folder)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_reported(
    small_config: dict[str, Any], straight: Trained, tmp_path: Path
) -> None:
    folder = straight.copy_to(tmp_path / "run")
    last = Checkpoints(folder / "checkpoints").find("last")
    assert last is not None
    weights = last / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])

    with pytest.raises(CheckpointError, match=last.name):
        run(small_config, folder)


@pytest.mark.slow
def test_a_checkpoint_is_json_and_safetensors_only(straight: Trained) -> None:
    checkpoints_folder = straight.folder / "checkpoints"
    files = [file for file in checkpoints_folder.rglob("*") if file.is_file()]
    assert len(files) >= 7
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    pointer = json.loads((checkpoints_folder / "last.json").read_text())
    assert pointer == {"step": 12, "folder": "000012"}


def test_held_out_error_asks_every_horizon_the_same_question(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    from trainables.dataset.open import open_dataset
    from trainables.dataset.windows import Windows, split_episodes

    dataset = open_dataset(small_config["dataset.root"])
    split = split_episodes(dataset, 0.25, 0)

    def targets(n_obs_steps: int, horizon: int) -> torch.Tensor:
        windows = Windows(
            dataset,
            split.holdout,
            n_obs_steps=n_obs_steps,
            horizon=horizon,
            drop_n_last_frames=3,
            frames={},
        )
        first = n_obs_steps - 1
        return windows.gather(np.arange(len(windows)))["action"][:, first : first + 4]

    assert torch.equal(targets(2, 8), targets(1, 16))
    assert torch.equal(targets(2, 8), targets(3, 24))


@pytest.mark.slow
def test_a_fraction_trains_on_its_own_episodes_and_statistics_and_is_judged_on_the_same(
    small_config: dict[str, Any], circles: Path, tmp_path: Path
) -> None:
    fraction = {**small_config, "dataset.fraction": 0.5}
    opened = [
        open_data(DiffusionConfig.from_flat(config), tmp_path / "cache")
        for config in (small_config, fraction)
    ]
    whole, half = opened
    assert (len(whole.split.train), len(half.split.train)) == (6, 3)
    assert len(half.training_windows()) * 2 == len(whole.training_windows())
    targets = [
        data.heldout_windows().gather(np.arange(20))["action"] for data in opened if data.split.holdout
    ]
    assert torch.equal(*targets)
    described = TRAINABLE.describe(fraction, tmp_path / "cache")
    assert (described["train_episodes"], described["holdout_episodes"]) == (3, 2)

    reports = run(fraction, tmp_path / "run")
    assert reports[-1].metrics["trial/epoch"] == pytest.approx(12 * 16 / len(half.training_windows()))
    last = Checkpoints(tmp_path / "run" / "checkpoints").find("last")
    assert last is not None
    used = checkpoints.read(last).statistics["observation.state"]
    expected = policy_statistics(whole.dataset, half.split.train)["observation.state"]
    np.testing.assert_array_equal(used["mean"], expected["mean"])
    with pytest.raises(ConfigError, match=r"dataset\.fraction \(0\.5 -> 1\.0\)"):
        run(small_config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (6, 6)),
        ({"dataset.fraction": 0.5}, (3, 6)),
        ({"dataset.fraction": 0.5, "dataset.holdout_fraction": 0.0}, (4, 8)),
        ({"dataset.fraction": 0.5, "dataset.episodes": ["0-4"], "dataset.exclude_episodes": [1]}, (2, 3)),
        ({"dataset.fraction": 0.5, "dataset.root": None, "dataset.repo_id": "builtin/pusht"}, (75, 150)),
        ({"dataset.fraction": 0.5, "dataset.root": None, "dataset.repo_id": "someone/set"}, None),
    ],
)
def test_the_episodes_of_a_fraction_are_counted_without_opening_the_dataset(
    small_config: dict[str, Any], changes: dict[str, Any], expected: tuple[int, int] | None
) -> None:
    config = {**small_config, **changes}
    assert training_episodes(DiffusionConfig.from_flat(config).dataset) == expected
    shown = [(one.value, one.words) for one in TRAINABLE.derived(config)]
    named = expected is not None and "dataset.fraction" in config
    assert shown == ([(expected[0], f"of {expected[1]} training episodes")] if named and expected else [])


def test_the_built_in_demonstrations_are_as_many_as_is_said() -> None:
    assert len(load_demonstrations()) == BUILTIN_EPISODES


def test_a_fraction_of_no_episode_is_remarked_before_the_dataset_is_opened(
    small_config: dict[str, Any], tmp_path: Path
) -> None:
    config = {**small_config, "dataset.fraction": 0.01}
    (remark,) = TRAINABLE.remarks(config)
    assert remark.startswith(
        "dataset.fraction: 0.01 of 6 training episodes is less than one episode. Use 0.17"
    )
    (fault,) = TRAINABLE.preflight(config, tmp_path)
    assert str(fault).startswith("dataset.fraction")


@pytest.mark.slow
def test_a_run_resumes_on_a_copy_of_its_data_and_on_no_other(
    small_config: dict[str, Any], circles: Path, tmp_path: Path
) -> None:
    run(small_config, tmp_path / "run", stop_requested=lambda: True)
    copy = shutil.copytree(circles, tmp_path / "copy")
    with pytest.raises(ConfigError, match="its content has changed"):
        run({**small_config, "dataset.exclude_episodes": [0], "dataset.root": str(copy)}, tmp_path / "run")
    reports = run({**small_config, "dataset.root": str(copy)}, tmp_path / "run")
    assert reports[-1].step == small_config["train.steps"]
