"""Checkpoints written beside the training: nothing is reported before it is on the disk."""

from __future__ import annotations

import errno
import itertools
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot
from trainables.diffusion_policy.training.progress import DivergedError, Interval
from trainables.interface import Report, TrainContext

pytestmark = pytest.mark.slow

WAIT_S = 300.0


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def context(folder: Path, **changes: Any) -> TrainContext:
    return TrainContext(folder=folder, cache=folder / "cache", threads=1, **changes)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    names = ("model", "ema", "optimizer")
    files = [(name, folder / f"{name}.safetensors") for name in names]
    return {
        f"{name}/{key}": value
        for name, path in files
        if path.exists()
        for key, value in load_file(path).items()
    }


class Steps:
    """Counts the steps of a run; tells when one is done."""

    def __init__(self, wanted: int) -> None:
        self.done = 0
        self.wanted = wanted
        self.reached = threading.Event()

    def __call__(self) -> bool:
        self.done += 1
        if self.done == self.wanted:
            self.reached.set()
        return False


def test_training_continues_while_a_checkpoint_is_written_and_reports_wait_for_it(
    small_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = list(itertools.islice(TRAINABLE.train(small_config, context(tmp_path / "plain")), 2))
    expected = weights_of(tmp_path / "plain" / "checkpoints" / "000006")
    steps = Steps(10)
    save, continued = Checkpoints.save, []

    def slow_save(self: Checkpoints, snapshot: Snapshot, **how: Any) -> Path:
        if snapshot.step == 6:
            continued.append(steps.reached.wait(WAIT_S))
        return save(self, snapshot, **how)

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    reports = TRAINABLE.train(small_config, context(tmp_path / "beside", stop_requested=steps))
    first, second = itertools.islice(reports, 2)

    assert (first.step, second.step) == (3, 6)
    assert continued == [True], "the training waited for its checkpoint"
    assert second.checkpoint == tmp_path / "beside" / "checkpoints" / "000006"
    assert steps.done >= 10
    found = weights_of(second.checkpoint)
    assert found.keys() == expected.keys()
    # Written after step 10, with the numbers of step 6.
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert plain[1].metrics["eval/action_mse"] == second.metrics["eval/action_mse"]
    assert [report.step for report in reports] == [9, 12]


def test_a_full_disk_ends_the_run_and_its_checkpoint_is_not_reported(
    small_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_space(folder: Path, snapshot: Snapshot) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoints, "_write", no_space)
    told: list[Report] = []
    with pytest.raises(OSError, match="No space left"):
        told.extend(TRAINABLE.train(small_config, context(tmp_path)))
    assert [report.step for report in told] == [3]
    assert Checkpoints(tmp_path / "checkpoints").find("last") is None


def test_a_process_that_dies_while_it_writes_leaves_the_checkpoint_before(
    small_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config | {"train.checkpoint_every": 3}
    put, left = checkpoints.put_in_place, tmp_path / "left"

    def seen(beside: Path, path: Path) -> None:
        if path.name == "000009":
            # The disk as it is at this moment, as a process that is killed now leaves it.
            shutil.copytree(tmp_path / "straight", left)
        put(beside, path)

    monkeypatch.setattr(checkpoints, "put_in_place", seen)
    straight = list(TRAINABLE.train(config, context(tmp_path / "straight")))
    monkeypatch.undo()
    resumed = list(TRAINABLE.train(config, context(left)))

    assert [report.step for report in resumed] == [6, 9, 12]
    assert resumed[-1].metrics["train/loss"] == straight[-1].metrics["train/loss"]
    last = Path("checkpoints", "000012")
    expected, found = weights_of(tmp_path / "straight" / last), weights_of(left / last)
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert not list((left / "checkpoints").glob(".*.writing")), "the half-written one was not deleted"


def test_what_was_reported_before_a_divergence_is_not_lost(
    small_config: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = threading.Event()
    save, check = Checkpoints.save, Interval.check_finite

    def slow_save(self: Checkpoints, snapshot: Snapshot, **how: Any) -> Path:
        assert failing.wait(WAIT_S)
        return save(self, snapshot, **how)

    def diverges(self: Interval, step: int, *rest: Any, **more: Any) -> None:
        if step == 8:
            failing.set()
            raise DivergedError("the loss is not finite at step 8")
        check(self, step, *rest, **more)

    monkeypatch.setattr(Checkpoints, "save", slow_save)
    monkeypatch.setattr(Interval, "check_finite", diverges)
    told: list[Report] = []
    with pytest.raises(DivergedError, match="step 8"):
        told.extend(TRAINABLE.train(small_config, context(tmp_path)))

    assert [report.step for report in told] == [3, 6]
    assert told[-1].checkpoint is not None
    assert told[-1].checkpoint.is_dir()
