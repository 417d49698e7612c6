"""Every report passes once: into the journal first, then into the study; and every trial has one end."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import sqlite3
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_sweeps import BETA_END, ERROR, LR, SCHEDULE, SUCCESS, sweep
from study_trials import trials_of

from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import StudyBusyError
from sweeper.layout import INDEX, JOURNAL, trial_folder
from sweeper.records import summary, sweep_state
from sweeper.records.journal import Journal, read_journal
from sweeper.records.sweep_state import read_sweep
from sweeper.search.study import Study
from sweeper.spec.sweep import KeepSpec
from trainables import registry


class Driver:
    """A driver of a sweep, without trials of its own."""

    def __init__(self, spec, info=None, slim=None) -> None:
        self.spec = spec
        self.study = Study(spec)
        self.journal = Journal(spec.folder / JOURNAL)
        self.heard = []
        self.recorder = Recorder(self.study, self.journal, None, spec, viewers=(self,), slim=slim)
        self.recorder.start_sweep(info or {"versions": {"torch": "2.14"}})

    def tell(self, event):
        self.heard.append(event)

    def trial(self):
        suggestion = self.study.ask()
        self.recorder.start_trial(suggestion.number, suggestion.config)
        return suggestion.number

    def report(self, number, step, **metrics):
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        return self.recorder.report(number, {"trial/step": step, **named})

    def die(self):
        """End like a killed process: without any cleanup."""
        self.study.close()
        self.journal.close()

    def events(self, kind):
        return [event for event in read_journal(self.journal.path).events if event["event"] == kind]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.die()


@pytest.fixture
def driver(tmp_path):
    with Driver(sweep(tmp_path, LR, SCHEDULE, BETA_END)) as driver:
        yield driver


def told(driver):
    return {trial.number: (trial.state, trial.reason) for trial in trials_of(driver.study)}


@pytest.mark.slow
def test_a_completed_trial_has_its_last_value_in_the_study_and_its_best_beside_it(driver):
    number = driver.trial()
    for step, value in ((10, 0.2), (20, 0.9), (30, 0.6)):
        driver.report(number, step, rollout__success_rate=value, train__loss=1.0)
    driver.recorder.end_trial(number, Outcome("completed"))
    (trial,) = trials_of(driver.study)
    assert (trial.state, trial.objectives) == ("completed", (0.6,))
    assert trial.reports == {10: 0.2, 20: 0.9, 30: 0.6}
    (end,) = driver.events("trial_end")
    assert (end["final"], end["best"], end["sweep_best"]) == ({SUCCESS: 0.6}, {SUCCESS: 0.9}, {SUCCESS: 0.6})
    assert (end["status"], end["step"], end["ended"]) == ("completed", 30, 1)


@pytest.mark.slow
def test_repeated_and_older_steps_are_dropped_everywhere(driver):
    number = driver.trial()
    assert driver.report(number, 10, rollout__success_rate=0.2)
    assert driver.report(number, 20, rollout__success_rate=0.3)
    assert not driver.report(number, 20, rollout__success_rate=0.3)
    assert not driver.report(number, 10, rollout__success_rate=0.2, train__loss=0.5)
    assert driver.report(number, 30, rollout__success_rate=0.4)
    assert [event["step"] for event in driver.events("report")] == [10, 20, 30]
    assert trials_of(driver.study)[0].reports == {10: 0.2, 20: 0.3, 30: 0.4}
    assert len(driver.heard) == 5


@pytest.mark.slow
def test_an_evaluation_may_follow_a_report_of_the_same_step(driver):
    number = driver.trial()
    assert driver.report(number, 10, train__loss=0.5)
    assert driver.report(number, 10, train__loss=0.5, rollout__success_rate=0.2)
    assert not driver.report(number, 10, rollout__success_rate=0.2)
    _first, second = driver.events("report")
    assert second["metrics"] == {SUCCESS: 0.2}
    assert trials_of(driver.study)[0].reports == {10: 0.2}


@pytest.mark.slow
def test_what_tune_adds_to_a_result_is_left_out(driver):
    number = driver.trial()
    driver.recorder.report(
        number,
        {
            "trial/step": 10,
            "train/loss": 0.5,
            "training_iteration": 1,
            "config": {"a": 1},
            "done": False,
            "a/text": "x",
            "artifacts": {"rollout/video": "film.mp4"},
            "checkpoint": "somewhere/000010",
        },
    )
    (event,) = driver.events("report")
    assert event["metrics"] == {"train/loss": 0.5, "trial/step": 10.0}
    assert event["artifacts"] == {"rollout/video": "film.mp4"}
    assert event["checkpoint"] == "somewhere/000010"


@pytest.mark.slow
def test_only_the_parameters_that_exist_count_as_searched(driver):
    for _ in range(6):
        driver.trial()
    events = driver.events("trial_start")
    assert {event["config"]["policy.beta_schedule"] for event in events} == {"squaredcos_cap_v2", "linear"}
    for event in events:
        conditional = event["config"]["policy.beta_schedule"] == "linear"
        assert ("policy.beta_end" in event["values"]) == conditional
        assert "train.steps" in event["config"]
        assert "train.steps" not in event["values"]


@pytest.mark.slow
def test_a_trial_stopped_early_is_pruned(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    driver.recorder.end_trial(number, Outcome("stopped_early", "early_stop", "too bad"))
    assert told(driver) == {number: ("stopped_early", "")}
    assert driver.recorder.sweep.trials[number].reason == "early_stop"


@pytest.mark.slow
def test_a_failed_trial_has_its_reason_in_study_and_journal(driver):
    number = driver.trial()
    driver.recorder.end_trial(number, Outcome("failed", "diverged", "loss is NaN at step 7"))
    assert told(driver) == {number: ("failed", "diverged")}
    (end,) = driver.events("trial_end")
    assert (end["reason"], end["message"]) == ("diverged", "loss is NaN at step 7")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reports", "reason"),
    [([], "no_objective"), ([(10, 0.5), (20, math.nan)], "diverged"), ([(10, math.inf)], "diverged")],
)
def test_a_trial_that_ends_without_a_finite_objective_failed(driver, reports, reason):
    number = driver.trial()
    driver.report(number, 5, train__loss=1.0)
    for step, value in reports:
        driver.report(number, step, rollout__success_rate=value)
    driver.recorder.end_trial(number, Outcome("completed"))
    assert told(driver) == {number: ("failed", reason)}
    assert driver.events("trial_end")[0]["reason"] == reason


@pytest.mark.slow
def test_only_the_first_end_counts_and_nothing_is_reported_after_it(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    driver.recorder.end_trial(number, Outcome("failed", "lost", "gone"))
    driver.recorder.end_trial(number, Outcome("completed"))
    assert not driver.report(number, 20, rollout__success_rate=0.9)
    assert told(driver) == {number: ("failed", "lost")}
    assert len(driver.events("trial_end")) == 1


@pytest.mark.slow
def test_a_trial_that_its_cluster_starts_again_goes_on_as_the_same(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    driver.recorder.start_trial(number, driver.recorder.sweep.trials[number].config)
    driver.report(number, 20, rollout__success_rate=0.3)
    assert len(driver.events("trial_start")) == 1
    assert [event["trial"] for event in driver.events("note")] == [number]
    assert driver.recorder.sweep.trials[number].best == {SUCCESS: 0.3}


@pytest.mark.slow
def test_an_interrupted_sweep_leaves_its_trials_to_the_next_driver(tmp_path):
    spec = sweep(tmp_path, LR)
    with Driver(spec) as first:
        done, cut = first.trial(), first.trial()
        first.report(done, 10, rollout__success_rate=0.2)
        first.recorder.end_trial(done, Outcome("completed"))
        first.report(cut, 10, rollout__success_rate=0.3)
        first.recorder.end_sweep("interrupted", "Ctrl-C")
    assert read_sweep(tmp_path).trials[cut].status == "interrupted"
    with Driver(spec) as second:
        (left,) = second.study.unfinished()
        assert left.number == cut
        second.recorder.start_trial(left.number, left.config)
        assert not second.report(cut, 10, rollout__success_rate=0.3)
        assert second.report(cut, 20, rollout__success_rate=0.5)
        second.recorder.end_trial(cut, Outcome("completed"))
        second.recorder.end_sweep("done")
        assert [state for state, _ in told(second).values()] == ["completed", "completed"]
        assert second.events("trial_end")[-1]["ended"] == 2
    found = read_sweep(tmp_path)
    assert (found.status, found.trials[cut].best) == ("done", {SUCCESS: 0.5})
    assert len({event["sweep_id"] for event in second.events("sweep_start")}) == 1


@pytest.mark.slow
def test_an_end_that_a_dying_driver_wrote_but_did_not_tell_is_told_by_the_next(tmp_path):
    spec = sweep(tmp_path, LR)
    with Driver(spec) as first:
        ends = {
            first.trial(): Outcome("completed"),
            first.trial(): Outcome("stopped_early", "early_stop"),
            first.trial(): Outcome("failed", "diverged", "NaN"),
        }
        for number, outcome in ends.items():
            first.report(number, 10, rollout__success_rate=0.4)
            # It dies between the journal and the study.
            first.recorder._tell_study = lambda *_: None
            first.recorder.end_trial(number, outcome)
        lost = first.trial()
        assert len(first.study.unfinished()) == 4
    with Driver(spec) as second:
        assert [trial.number for trial in second.study.unfinished()] == [lost]
        assert [state for state, _ in told(second).values()] == [
            "completed",
            "stopped_early",
            "failed",
            "running",
        ]
        assert trials_of(second.study)[0].objectives == (0.4,)


@pytest.mark.slow
@pytest.mark.parametrize("ended", [False, True])
def test_reports_that_a_dying_driver_wrote_but_did_not_tell_are_told_by_the_next(
    tmp_path, monkeypatch, ended
):
    spec = sweep(tmp_path, LR)
    with Driver(spec) as first:
        number = first.trial()
        first.report(number, 10, rollout__success_rate=0.1)
        with monkeypatch.context() as dying:
            dying.setattr(first.recorder, "_to_study", lambda tell: None)
            for step in (20, 30):
                first.report(number, step, rollout__success_rate=step / 100)
            if ended:
                first.recorder.end_trial(number, Outcome("completed"))
    with Driver(spec) as second:
        (trial,) = trials_of(second.study)
        assert trial.reports == {10: 0.1, 20: 0.2, 30: 0.3}
        assert trial.state == ("completed" if ended else "running")


@pytest.mark.slow
def test_several_objectives_are_all_kept(tmp_path):
    with Driver(sweep(tmp_path, LR, objectives={SUCCESS: "maximize", ERROR: "minimize"})) as driver:
        number = driver.trial()
        driver.report(number, 10, rollout__success_rate=0.4, eval__action_mse=3.0)
        driver.report(number, 20, rollout__success_rate=0.3, eval__action_mse=5.0)
        driver.recorder.end_trial(number, Outcome("completed"))
        assert trials_of(driver.study)[0].objectives == (0.3, 5.0)
        (end,) = driver.events("trial_end")
    assert end["best"] == {SUCCESS: 0.4, ERROR: 3.0}
    assert end["sweep_best"] == {SUCCESS: 0.3, ERROR: 5.0}


# When the study cannot be written


@contextlib.contextmanager
def locked(driver):
    """Somebody else holds the study's file."""
    other = sqlite3.connect(driver.study.file.path, isolation_level=None)
    other.execute("begin exclusive")
    try:
        yield
    finally:
        other.execute("rollback")
        other.close()


@pytest.fixture
def hasty(monkeypatch):
    monkeypatch.setattr("sweeper.search.study_file.BUSY_TIMEOUT_S", 0.05)
    # Optuna tries again after up to two seconds.
    monkeypatch.setattr("optuna.storages._rdb.storage.time", SimpleNamespace(sleep=lambda _seconds: None))


@pytest.mark.slow
def test_while_the_study_is_locked_the_journal_goes_on_and_the_study_is_told_later(tmp_path, hasty):
    with Driver(sweep(tmp_path, LR)) as driver:
        first, second = driver.trial(), driver.trial()
        with locked(driver):
            assert driver.report(first, 10, rollout__success_rate=0.2)
            driver.recorder.end_trial(first, Outcome("completed"))
            driver.recorder.end_trial(second, Outcome("failed", "diverged", "NaN"))
            assert [event["trial"] for event in driver.events("trial_end")] == [first, second]
            assert driver.study.is_running(first)
        driver.recorder._next_telling = 0.0  # it does not ask again at once
        driver.recorder.tell_study()
        assert told(driver) == {first: ("completed", ""), second: ("failed", "diverged")}
        assert trials_of(driver.study)[first].reports == {10: 0.2}


@pytest.mark.slow
def test_a_grid_loses_no_point_when_its_study_is_locked(tmp_path, hasty):
    with Driver(sweep(tmp_path, SCHEDULE, method="grid")) as driver:
        with locked(driver):
            for _ in range(3):
                with pytest.raises(StudyBusyError, match="locked"):
                    driver.study.ask()
        found = [driver.study.ask() for _ in range(3)]
    assert [trial and trial.number for trial in found] == [0, 1, None]
    assert {trial.config["policy.beta_schedule"] for trial in found[:2]} == set(SCHEDULE.values)


# What nobody heard


@pytest.mark.slow
def test_what_a_trial_reported_and_nobody_heard_is_read_from_its_folder_once(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    folder = trial_folder(driver.spec.folder, number)
    folder.mkdir(parents=True)
    # The worker began again from step 10 and repeated 20; the last line was cut short.
    lines = [json.dumps({"trial/step": step, SUCCESS: step / 100}) for step in (10, 20, 20, 30)]
    (folder / "reports.jsonl").write_text("\n".join([*lines, '{"trial/step": 40, "rollo']))
    driver.recorder.retry_trial(number, Outcome("failed", "lost", "gone"), {})
    assert [event["step"] for event in driver.events("report")] == [10, 20, 30]
    assert trials_of(driver.study)[0].reports == {10: 0.2, 20: 0.2, 30: 0.3}


# Checkpoints


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "reason", "kept"),
    [
        ("completed", "", False),
        ("stopped_early", "asha", False),
        ("failed", "diverged", True),
        ("interrupted", "", True),
    ],
)
def test_the_optimisers_state_is_kept_only_of_trials_that_may_continue(tmp_path, status, reason, kept):
    spec = sweep(tmp_path, LR)
    with Driver(spec, slim=registry.load("diffusion_policy").slim) as driver:
        number = driver.trial()
        folders = [trial_folder(spec.folder, number) / "checkpoints" / name for name in ("best", "last")]
        for step, folder in enumerate(folders, start=1):
            folder.mkdir(parents=True)
            for name in ("model.safetensors", "optimizer.safetensors"):
                (folder / name).write_bytes(b"0")
            driver.recorder.report(number, {"trial/step": step, SUCCESS: 1 / step, "checkpoint": str(folder)})
        driver.recorder.end_trial(number, Outcome(status, reason))
    assert [(folder / "optimizer.safetensors").exists() for folder in folders] == [kept, kept]
    assert all((folder / "model.safetensors").exists() for folder in folders)


@pytest.mark.slow
def test_losers_checkpoints_go_as_soon_as_they_are_losers(tmp_path):
    spec = dataclasses.replace(sweep(tmp_path, LR), keep=KeepSpec(checkpoints="best", trials=1))
    with Driver(spec) as driver:

        def finish(value, status="completed"):
            number = driver.trial()
            for step, name in ((10, "best"), (20, "last")):
                folder = trial_folder(spec.folder, number) / "checkpoints" / name
                folder.mkdir(parents=True)
                result = {"trial/step": step, SUCCESS: value - step / 1000, "checkpoint": str(folder)}
                driver.recorder.report(number, result)
            driver.recorder.end_trial(number, Outcome(status, "diverged" if status == "failed" else ""))
            return number

        def left():
            return sorted(
                f"{path.parent.parent.name}/{path.name}"
                for path in spec.folder.glob("trials/*/checkpoints/*")
            )

        finish(0.5)
        assert left() == ["0/best"]
        finish(0.2)
        assert left() == ["0/best"]
        finish(0.9, "failed")
        assert left() == ["0/best", "2/last"]
        finish(0.8)
        assert left() == ["2/last", "3/best"]
        cut = finish(0.1, "interrupted")
        assert left() == ["2/last", "3/best", f"{cut}/best", f"{cut}/last"]
        trials = read_sweep(tmp_path).trials
        pointers = [p for t in trials.values() for p in (t.checkpoint, t.best_checkpoint) if p is not None]
        assert len(pointers) == 4
        assert all(Path(pointer).is_dir() for pointer in pointers)
    # A driver that died had written that a folder goes, and left it there.
    gone = Path(trials[0].dropped[0])
    gone.mkdir()
    with Driver(spec):
        assert not gone.exists()


@pytest.mark.slow
def test_a_checkpoint_outside_its_trials_folder_is_never_removed(tmp_path):
    outside = tmp_path / "precious"
    outside.mkdir()
    spec = dataclasses.replace(sweep(tmp_path / "sweep", LR), keep=KeepSpec(checkpoints="best"))
    with Driver(spec) as driver:
        number = driver.trial()
        for step, folder in ((10, tmp_path / "best"), (20, outside)):
            result = {"trial/step": step, SUCCESS: 1 / step, "checkpoint": str(folder)}
            driver.recorder.report(number, result)
        driver.recorder.end_trial(number, Outcome("completed"))
        assert outside.is_dir()
        assert "was not deleted" in driver.events("note")[0]["text"]


@pytest.mark.slow
def test_the_first_reader_of_a_sweep_that_ended_finds_an_index(driver, monkeypatch):
    monkeypatch.setattr(summary, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(summary, "SPARE_BYTES", 0)
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.5)
    driver.recorder.end_sweep("interrupted", "stopped")
    assert (driver.spec.folder / INDEX).exists()
    read = []
    monkeypatch.setattr(sweep_state, "events_in", lambda lines: read.append(lines) or [])
    found = summary.read_summary(driver.spec.folder)
    assert found.trials[number].final == {SUCCESS: 0.5}
    assert found.message == "stopped"
    assert read == []


def test_a_sweep_ends_although_its_index_cannot_be_written(driver, monkeypatch):
    monkeypatch.setattr(summary, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(summary, "SPARE_BYTES", 0)
    (driver.spec.folder / INDEX).mkdir()
    driver.recorder.end_sweep("done")
    assert read_sweep(driver.spec.folder).status == "done"
