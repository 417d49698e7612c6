"""A sweep is resumed on the data that its trials ran on, wherever they are now; anything else is refused."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from small_sweeps import ERROR, LR, begin, choice, sweep

from sweeper.driver import launch as launching
from sweeper.driver.preflight import check_same_data, describe_data, preflight
from sweeper.driver.resume import resume
from sweeper.errors import SpecError, UserError
from sweeper.layout import JOURNAL
from sweeper.machines.identity import data_of_all, data_of_trial
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.sweep import SweepSpec
from sweeper.steering.changes import changed_sweep
from tests.trainables.diffusion_policy.checkpoint_files import header_of
from trainables import registry
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter

TRAINABLE = registry.load("diffusion_policy")
CHECKPOINT = {
    "type": "diffusion",
    "down_dims": [16, 32],
    "horizon": 8,
    "n_action_steps": 4,
    "input_features": {"observation.state": {"type": "STATE", "shape": [2]}},
    "output_features": {"action": {"type": "ACTION", "shape": [2]}},
}


def write_dataset(root: Path, episodes: int = 4, seed: int = 0) -> Path:
    vector = DatasetFeature("float32", (2,), ["x", "y"])
    with DatasetWriter(root, fps=10, features={"observation.state": vector, "action": vector}) as writer:
        for number in range(episodes):
            steps = np.random.default_rng([seed, number]).normal(size=(2, 30, 2)).astype(np.float32)
            writer.add_episode({"observation.state": steps[0], "action": steps[1]}, task="Move.")
    return root


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "data")


def begun(tmp_path: Path, data: Path, *searched: Any, trials: int = 1, **config: Any) -> SweepSpec:
    """A sweep of which one trial ran and was cut off."""
    fixed = {"dataset.root": str(data), "train.steps": 600, "eval.window_steps": 2, **config}
    spec = sweep(tmp_path / "sweeps" / "small", LR, *searched, objectives={ERROR: "minimize"}, config=fixed)
    checked = preflight(spec, TRAINABLE, tmp_path)
    spec.folder.mkdir(parents=True)
    with Journal(spec.folder / JOURNAL) as journal:
        info = {"data": describe_data(spec, TRAINABLE, checked, tmp_path)}
        begin(journal, spec, sweep_id="0123", space=spec.source, info=info)
        for number in range(trials):
            values = {"optimizer.lr": 1e-4}
            journal.append(EventKind.TRIAL_START, trial=number, values=values, config=values)
    return spec


def continued(tmp_path: Path, spec: SweepSpec, *changes: str) -> str:
    """What is printed if the sweep is continued after some changes.

    Raises:
        UserError: If it is refused.
    """
    console = Console(file=io.StringIO(), width=1000)
    now = changed_sweep(spec, changes, TRAINABLE)
    checked = preflight(now, TRAINABLE, tmp_path)
    check_same_data(read_sweep(spec.folder), describe_data(now, TRAINABLE, checked, tmp_path), now, console)
    return console.file.getvalue()  # type: ignore[attr-defined]


def refusal(tmp_path: Path, spec: SweepSpec, *changes: str) -> str:
    with pytest.raises(UserError) as caught:
        continued(tmp_path, spec, *changes)
    return str(caught.value)


def fingerprint(spec: SweepSpec) -> str:
    return str(read_sweep(spec.folder).info["data"]["fingerprint"])[:12]


@pytest.mark.slow
def test_unchanged_data_are_not_mentioned(tmp_path: Path, data: Path) -> None:
    assert continued(tmp_path, begun(tmp_path, data)) == ""


@pytest.mark.slow
def test_resume_refuses_a_changed_dataset_before_ray_starts(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = begun(tmp_path, data)
    shutil.rmtree(data)
    write_dataset(data, seed=1)

    def started(*_arguments: Any, **_named: Any) -> None:
        raise AssertionError("Ray was started")

    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(launching, "connect", started)
    with pytest.raises(UserError, match="has changed since its trials ran"):
        resume(read_sweep(spec.folder), [], None, Console(file=io.StringIO()))


def edit(root: Path) -> None:
    shutil.rmtree(root)
    write_dataset(root, seed=1)


def grow(root: Path) -> None:
    shutil.rmtree(root)
    write_dataset(root, episodes=5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [(edit, "4 episodes, 120 frames"), (grow, "5 episodes, 150 frames")],
)
def test_a_changed_dataset_is_refused_with_both_fingerprints_and_sizes(
    tmp_path: Path, data: Path, change: Callable[[Path], None], words: str
) -> None:
    spec = begun(tmp_path, data)
    change(data)
    text = refusal(tmp_path, spec)
    assert f"It was {data} (4 episodes, 120 frames, fingerprint {fingerprint(spec)})" in text
    assert words in text.partition("is now")[2]
    assert "sweeper resume small config.dataset.root=FOLDER" in text


def test_a_copy_elsewhere_is_accepted_and_reported(tmp_path: Path, data: Path) -> None:
    spec = begun(tmp_path, data)
    data.rename(tmp_path / "moved")
    text = continued(tmp_path, spec, f"config.dataset.root={tmp_path / 'moved'}")
    assert "same content" in text
    assert f"it was {data}" in text
    assert f"is {tmp_path / 'moved'}" in text


@pytest.mark.slow
def test_another_dataset_elsewhere_is_refused(tmp_path: Path, data: Path) -> None:
    other = write_dataset(tmp_path / "other", seed=1)
    assert str(other) in refusal(tmp_path, begun(tmp_path, data), f"config.dataset.root={other}")


def test_info_that_is_only_formatted_again_is_accepted(tmp_path: Path, data: Path) -> None:
    spec = begun(tmp_path, data)
    info = data / "meta" / "info.json"
    info.write_text(json.dumps(json.loads(info.read_text()), indent=7, sort_keys=True))
    assert "same content" in continued(tmp_path, spec)


@pytest.mark.slow
def test_a_sweep_without_trials_takes_any_data(tmp_path: Path, data: Path) -> None:
    spec = begun(tmp_path, data, trials=0)
    edit(data)
    assert continued(tmp_path, spec) == ""


@pytest.mark.slow
def test_searched_datasets_are_compared_one_by_one(tmp_path: Path, data: Path) -> None:
    other = write_dataset(tmp_path / "other", seed=1)
    spec = begun(tmp_path, data, choice("dataset.root", str(data), str(other)))
    assert continued(tmp_path, spec) == ""
    edit(other)  # with the same seed: the same content
    assert continued(tmp_path, spec) == ""
    grow(other)
    assert str(other) in refusal(tmp_path, spec)
    with pytest.raises(SpecError, match="is searched by this sweep"):
        changed_sweep(spec, [f"config.dataset.root={other}"], TRAINABLE)


@pytest.mark.slow
def test_what_the_search_decides_of_the_data_is_not_said_of_all_trials(tmp_path: Path, data: Path) -> None:
    spec = begun(tmp_path, data, choice("dataset.holdout_fraction", 0.25, 0.5))
    described = read_sweep(spec.folder).info["data"]
    assert described["episodes"] == 4
    assert not {"train_episodes", "holdout_episodes", "split_hash"} & set(described)
    sizes = {
        part: data_of_trial(described, {"dataset.holdout_fraction": part})["train_episodes"]
        for part in (0.25, 0.5)
    }
    assert sizes == {0.25: 3, 0.5: 2}
    assert "train_episodes" not in data_of_trial(described, {"dataset.holdout_fraction": 0.1})
    alone = {"train_episodes": 3}
    assert data_of_trial(alone, {}) == data_of_all(alone) == alone


@pytest.mark.parametrize(
    ("before", "now", "same"),
    [
        # A new commit on the hub, with and without another content.
        ({"fingerprint": "a", "content": "c"}, {"fingerprint": "b", "content": "d"}, False),
        ({"fingerprint": "a", "content": "c"}, {"fingerprint": "b", "content": "c"}, True),
        # An older journal knows no content.
        ({"fingerprint": "a"}, {"fingerprint": "b", "content": "c"}, False),
        ({"fingerprint": "a"}, {"fingerprint": "a", "content": "c"}, True),
        ({}, {"fingerprint": "a"}, True),
    ],
)
def test_a_revision_of_the_hub_is_judged_by_content_if_it_is_known(
    tmp_path: Path, before: dict[str, str], now: dict[str, str], same: bool
) -> None:
    earlier = SweepState(tmp_path, info={"data": {"dataset": "o/n", "revision": "aaa", **before}})
    earlier.trials[0] = None  # type: ignore[assignment]
    spec, console = sweep(tmp_path, LR), Console(file=io.StringIO(), width=1000)
    described = {"dataset": "o/n", "revision": "bbb", **now}
    if same:
        check_same_data(earlier, described, spec, console)
        return
    words = r"o/n at revision aaa .* o/n at revision bbb.*dataset\.revision=COMMIT"
    with pytest.raises(UserError, match=words):
        check_same_data(earlier, described, spec, console)


def write_checkpoint(folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CHECKPOINT | changes))
    header_of(folder)
    return folder


@pytest.mark.slow
def test_a_checkpoint_that_changed_is_refused_and_a_copy_accepted(tmp_path: Path, data: Path) -> None:
    start = write_checkpoint(tmp_path / "start")
    spec = begun(tmp_path, data, **{"policy.path": str(start)})
    assert continued(tmp_path, spec) == ""
    shutil.copytree(start, tmp_path / "copy")
    with (start / "model.safetensors").open("r+b") as file:
        file.seek(-4, io.SEEK_END)
        file.write(b"\1\2\3\4")
    text = refusal(tmp_path, spec)
    assert f"the checkpoint has changed since its trials ran. It was {start} (content" in text
    assert "config.policy.path=FOLDER" in text
    accepted = continued(tmp_path, spec, f"config.policy.path={tmp_path / 'copy'}")
    assert "The checkpoint has the same content" in accepted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("config.dataset.split_seed=3", "cannot be changed in a sweep that has started"),
        ("config.train.steps=7", "config.dataset.root"),
        ("config.dataset.root=[3]", "is not a text"),
        ("config.dataset.root=~nobody-of-this-name/x", "no home folder"),
    ],
)
def test_only_places_may_change(tmp_path: Path, change: str, words: str) -> None:
    spec = sweep(tmp_path, LR, config={"dataset.root": "/data"})
    with pytest.raises(SpecError, match=words):
        changed_sweep(spec, [change], TRAINABLE)


def test_a_new_place_is_written_from_the_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = sweep(tmp_path, LR, config={"dataset.root": "/data"})
    now = changed_sweep(spec, ["config.dataset.root=copies/data"], TRAINABLE)
    assert now.config["dataset.root"] == str(tmp_path / "copies" / "data")
