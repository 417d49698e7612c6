"""Which trials go on after they were cut off, how often, and with what."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import choice, sweep
from small_trainable import TRAINABLE

from sweeper.driver.ending import Ending
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.retry import Retries
from sweeper.driver.signals import Signals
from sweeper.layout import JOURNAL
from sweeper.records.journal import Journal
from sweeper.search.searcher import StudySearcher
from sweeper.search.study import Study
from sweeper.spec.sweep import FailureSpec

pytestmark = pytest.mark.slow  # importing Ray Tune takes seconds


class Sweep:
    """A sweep of one trial, without Ray."""

    def __init__(self, folder: Path, *parameters: Any, constraints: tuple[str, ...] = ()) -> None:
        made = sweep(
            folder,
            *(parameters or (choice("optimizer.lr", 0.1, 0.2),)),
            constraints=constraints,
            objectives={"train/loss": "minimize"},
            config={"train.steps": 20},
            defaults={"parts": 1},
        )
        self.spec = dataclasses.replace(made, failures=FailureSpec(retries=2, preemptions=3, lighten=2))
        self.study, self.journal = Study(self.spec), Journal(folder / JOURNAL)
        self.recorder = Recorder(self.study, self.journal, None, self.spec)
        self.recorder.start_sweep({})
        self.configs: list[dict[str, Any]] = []
        self.searcher = StudySearcher(self.study)
        self.ending = Ending(1, self.recorder.sweep, Signals())
        self.retries = Retries(self.spec, TRAINABLE, self.recorder, self.searcher, self.ending)
        self.begin(self.next_config())

    def next_config(self) -> Any:
        """The configuration that Tune would be given next."""
        suggested = self.searcher.suggest("id")
        assert isinstance(suggested, dict)
        assert suggested["trial"] == 0
        return suggested["config"]

    def begin(self, config: Any) -> None:
        self.recorder.start_trial(0, config)

    def fails(self, reason: str, message: str = "as told") -> Outcome | None:
        end = self.retries(0, Outcome("failed", reason, message))
        if end is None:
            self.configs.append(self.next_config())
            self.begin(self.configs[-1])
        return end

    @property
    def trial(self) -> Any:
        return self.recorder.sweep.trials[0]


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Sweep]:
    made = Sweep(tmp_path)
    yield made
    made.study.close()
    made.journal.close()


def test_lost_trials_go_on_a_bounded_number_of_times(one: Sweep) -> None:
    assert [one.fails(reason) for reason in ("lost", "timed_out")] == [None, None]
    end = one.fails("lost")
    assert end is not None
    assert end.status == "failed"
    assert end.message == "as told. That was attempt 3 of 3"


def test_preemptions_are_bounded_too_and_do_not_count_as_losses(one: Sweep) -> None:
    assert [one.fails("preempted") for _ in range(3)] == [None] * 3
    assert [one.fails("lost") for _ in range(2)] == [None] * 2
    assert one.fails("preempted") is not None
    assert one.trial.retries == {"preempted": 3, "lost": 2}


def test_each_lack_of_memory_halves_what_is_held_at_once_a_bounded_number_of_times(one: Sweep) -> None:
    assert one.fails("out_of_memory") is None
    assert one.fails("out_of_memory") is None
    assert [config["parts"] for config in one.configs] == [2, 4]
    assert one.trial.changes == {"parts": 4}
    end = one.fails("out_of_memory")
    assert end is not None
    assert "reduced 2 times" in end.message


@pytest.mark.parametrize(
    ("parameters", "constraints"),
    [((choice("parts", 1, 2),), ()), ((choice("optimizer.lr", 0.1, 0.2),), ("parts == 1",))],
)
def test_what_is_searched_or_constrained_is_not_made_lighter(
    tmp_path: Path, parameters: tuple[Any, ...], constraints: tuple[str, ...]
) -> None:
    one = Sweep(tmp_path, *parameters, constraints=constraints)
    assert one.fails("out_of_memory") == Outcome("failed", "out_of_memory", "as told")
    one.study.close()


@pytest.mark.parametrize("reason", ["error", "diverged", "data", "config", "environment"])
def test_what_training_raised_is_not_tried_again(one: Sweep, reason: str) -> None:
    assert one.fails(reason) == Outcome("failed", reason, "as told")


def test_a_full_disk_ends_the_sweep_and_fails_no_trial(one: Sweep) -> None:
    end = one.fails("out_of_disk")
    assert end is not None
    assert end.status == "interrupted"
    assert one.ending.check()
    assert (one.ending.status, one.ending.message) == (
        "failed",
        "There is no room to write: trial 0: as told. Free some space, then resume the sweep.",
    )


def test_a_trial_that_is_lost_with_its_ray_spends_no_retry(
    one: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.driver.retry.gone_process", lambda: "raylet")
    end = one.fails("lost")
    assert end is not None
    assert (end.status, one.configs, one.ending.status) == ("interrupted", [], "failed")
    assert one.ending.message.startswith("Ray's process raylet was killed or crashed")


def test_a_trial_that_is_lost_while_the_sweep_ends_is_left_for_the_next_driver(one: Sweep) -> None:
    one.ending.pause()
    end = one.fails("lost")
    assert end is not None
    assert end.status == "interrupted"
    assert one.configs == []


def test_the_next_driver_knows_how_often_a_trial_was_tried_and_with_what(one: Sweep) -> None:
    from sweeper.records.sweep_state import read_sweep

    one.fails("lost")
    one.fails("out_of_memory")
    found = read_sweep(one.spec.folder).trials[0]
    assert (found.retries, found.changes) == ({"lost": 1, "out_of_memory": 1}, {"parts": 2})
    assert found.config["parts"] == 2
    assert one.study.file.trials()[0].user_attrs["retries"] == {"lost": 1, "out_of_memory": 1}
