"""A clip of predicted actions that cuts demonstrated ones is reported, with the range that the data needs."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from checkpoint_files import OUTPUT_STATE, change_tensors, lerobot_folder, to_buffers
from small_policy import small_policy

from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.diffusion_policy import TRAINABLE, lerobot

MEAN_STD = {"policy.normalization_action": "MEAN_STD"}


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Actions 0, 0, 0, 10 in one dimension, constant in the other: mean 2.5, deviation 4.33."""
    root = tmp_path_factory.mktemp("data") / "steps"
    vector = DatasetFeature("float32", (2,), ["x", "grip"])
    with DatasetWriter(root, fps=10, features={"observation.state": vector, "action": vector}) as writer:
        for _ in range(4):
            action = np.zeros((40, 2), np.float32)
            action[3::4, 0] = 10
            action[:, 1] = 7
            writer.add_episode({"observation.state": action, "action": action}, task="Step.")
    return root


def said(root: Path | str, cache: Path | None = None, **config: Any) -> str:
    flat = {"dataset.root": str(root), **{name.replace("__", "."): value for name, value in config.items()}}
    return "\n".join(TRAINABLE.remarks(flat, cache))


def test_a_check_names_the_range_from_the_recorded_statistics(steps: Path) -> None:
    text = said(steps, **MEAN_STD)
    assert "clip_sample_range: 1.74" in text
    assert "(dimension 0)" in text
    assert "MEAN_STD" in text


def test_a_launch_also_counts_the_demonstrated_values(steps: Path, tmp_path: Path) -> None:
    assert "25% of their values are beyond 1" in said(steps, tmp_path, **MEAN_STD)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {**MEAN_STD, "policy.clip_sample_range": 1.74},
        {**MEAN_STD, "policy.clip_sample": False},
        {"policy.normalization_action": "QUANTILES"},  # whose percentiles are the extremes here
        {"policy.normalization_action": "IDENTITY", "policy.clip_sample_range": 10.0},
    ],
)
def test_a_clip_that_cuts_nothing_is_not_reported(
    steps: Path, tmp_path: Path, config: dict[str, Any]
) -> None:
    assert said(steps, **config) == "" == said(steps, tmp_path, **config)


@pytest.mark.parametrize(
    ("config", "needed"),
    [
        ({"policy.normalization_action": "IDENTITY"}, "10"),
        ({"policy.clip_sample_range": 0.5}, "1"),
        ({**MEAN_STD, "policy.clip_sample_range": 1.5}, "1.74"),
    ],
)
def test_every_normalisation_is_compared_with_the_clip(
    steps: Path, tmp_path: Path, config: dict[str, Any], needed: str
) -> None:
    for text in (said(steps, **config), said(steps, tmp_path, **config)):
        assert f"Set policy.clip_sample_range: {needed}," in text


def test_without_statistics_the_clip_is_reported_without_a_number(tmp_path: Path) -> None:
    assert "largest normalised action of the dataset" in said(tmp_path / "elsewhere", **MEAN_STD)
    assert said(tmp_path / "elsewhere", **MEAN_STD, **{"policy.clip_sample_range": 5.0}) == ""


def test_renamed_actions_and_v21_statistics_are_found(steps: Path, tmp_path: Path) -> None:
    stats = json.loads((steps / "meta" / "stats.json").read_text())["action"]
    (tmp_path / "meta").mkdir()
    line = json.dumps({"episode_index": 0, "stats": {"actions": {**stats, "count": [160]}}})
    (tmp_path / "meta" / "episodes_stats.jsonl").write_text(line + "\n")
    text = said(tmp_path, **MEAN_STD, **{"dataset.features": {"actions": "action"}})
    assert "clip_sample_range: 1.74" in text


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_a_checkpoint_is_reported_when_it_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, old: bool
) -> None:
    folder = lerobot_folder(small_policy(environment=4, normalization_action="MEAN_STD"), tmp_path / "made")
    if old:
        to_buffers(folder)  # has mean and std of actions, but no extremes
    text = said("elsewhere", **{"policy.path": str(folder)})
    with caplog.at_level(logging.WARNING):
        lerobot.load(folder)
    for heard in (text, caplog.text):
        assert "policy.clip_sample_range" in heard
        assert old or "reach a normalised 2.62" in heard


@pytest.mark.slow
def test_a_checkpoints_statistics_are_compared_with_the_actions_of_the_dataset(
    steps: Path, tmp_path: Path
) -> None:
    """MIN_MAX by the checkpoint's extremes does not keep another dataset's actions within ±1."""
    folder = lerobot_folder(small_policy(environment=4), tmp_path / "made")
    config: dict[str, Any] = {"policy.path": str(folder), "policy.stats": "checkpoint"}
    config |= {"dataset.observations": ["observation.state"]}
    assert said(steps, **config) == ""  # the checkpoint was trained on actions from -100 to 100
    change_tensors(folder / OUTPUT_STATE, lambda found: {name: value / 25 for name, value in found.items()})
    for cache in (None, tmp_path):
        assert "clip_sample_range: 2.5," in said(steps, cache, **config)
