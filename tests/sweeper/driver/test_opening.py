"""What lies in a sweep's folder while its driver starts, and what a driver that was killed then leaves."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from filelock import FileLock
from small_sweeps import choice, sweep
from small_trainable import TRAINABLE

from sweeper.driver.opening import earlier_sweep, is_stillborn, open_sweep
from sweeper.driver.recorder import Recorder
from sweeper.errors import SweepExistsError, UserError
from sweeper.layout import DATABASE, EARLIER, JOURNAL, LOCK, RESERVE, STUDY
from sweeper.records.events import EventKind
from sweeper.spec.sweep import SweepSpec


def small(folder: Path) -> SweepSpec:
    return sweep(folder, choice("optimizer.lr", 0.1, 0.2), config={"train.steps": 20})


@pytest.fixture
def stillborn(tmp_path: Path) -> Path:
    """The folder of a driver that was killed while it made its databases."""
    for name in (
        LOCK,
        RESERVE,
        EARLIER,
        f"{EARLIER}.new",
        "spec.yaml.new",
        JOURNAL,
        DATABASE,
        f"{DATABASE}-journal",
    ):
        (tmp_path / name).touch()
    with contextlib.closing(sqlite3.connect(tmp_path / STUDY)) as database:
        database.execute("create table studies (study_id integer)")
    return tmp_path


@pytest.mark.slow
def test_what_a_driver_leaves_that_was_killed_while_it_started_is_no_obstacle(stillborn: Path) -> None:
    spec = small(stillborn)
    assert earlier_sweep(spec) is None
    with open_sweep(spec, TRAINABLE, None) as records:
        assert records.study.ask() is not None
        assert not (stillborn / DATABASE).exists()
        assert not (stillborn / f"{DATABASE}-journal").exists()


def test_whatever_else_lies_in_the_folder_is(stillborn: Path) -> None:
    (stillborn / "thesis.tex").touch()
    assert not is_stillborn(stillborn)
    with pytest.raises(SweepExistsError, match="does not contain a sweep"):
        earlier_sweep(small(stillborn))


@pytest.mark.slow
def test_of_two_that_launch_one_sweep_the_later_leaves_the_folder_of_the_first_alone(tmp_path: Path) -> None:
    spec = small(tmp_path / "one")
    with open_sweep(spec, TRAINABLE, None) as records:
        before = sorted(spec.folder.iterdir())
        with (
            pytest.raises(UserError, match="another process is running this sweep"),
            open_sweep(spec, TRAINABLE, None),
        ):
            pass
        assert sorted(spec.folder.iterdir()) == before
        records.journal.append(EventKind.NOTE, text="still here")
        assert records.study.ask() is not None
    assert not spec.folder.exists()


def test_while_somebody_starts_nothing_of_it_is_cleared(stillborn: Path) -> None:
    with (
        FileLock(stillborn / LOCK),
        pytest.raises(UserError, match="another process"),
        open_sweep(small(stillborn), TRAINABLE, None),
    ):
        pass
    assert (stillborn / DATABASE).exists()


@pytest.mark.slow
def test_a_sweep_whose_study_is_gone_does_not_number_its_trials_anew(tmp_path: Path) -> None:
    spec = small(tmp_path / "one")
    with open_sweep(spec, TRAINABLE, None) as records:
        recorder = Recorder(records.study, records.journal, None, spec)
        recorder.start_sweep({})
        suggestion = records.study.ask()
        assert suggestion is not None
        recorder.start_trial(suggestion.number, suggestion.config)
    (spec.folder / STUDY).unlink()
    earlier = earlier_sweep(spec)
    assert earlier is not None
    with pytest.raises(UserError, match=r"study\.db is missing"), open_sweep(spec, TRAINABLE, earlier):
        pass
    assert not (spec.folder / STUDY).exists()
