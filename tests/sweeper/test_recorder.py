"""Every report passes once: into the journal first, then into the study; and every trial has one end."""

from __future__ import annotations

import math

import pytest
from small_sweeps import BETA_END, ERROR, LR, SCHEDULE, SUCCESS, sweep

from sweeper.journal import JOURNAL, Journal, read_journal
from sweeper.recorder import Outcome, Recorder
from sweeper.results import read_sweep
from sweeper.study import Study


class Driver:
    """A driver of a sweep, without trials of its own."""

    def __init__(self, spec, info=None) -> None:
        self.spec = spec
        self.study = Study(spec)
        self.journal = Journal(spec.folder / JOURNAL)
        self.heard = []
        self.recorder = Recorder(self.study, self.journal, None, spec, listener=self.heard.append)
        self.recorder.start_sweep(info or {"versions": {"torch": "2.14"}})

    def trial(self):
        suggestion = self.study.ask()
        self.recorder.start_trial(suggestion.number, suggestion.config)
        return suggestion.number

    def report(self, number, step, **metrics):
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        return self.recorder.report(number, {"trial/step": step, **named})

    def die(self):
        """Leave as a killed process does: without a word."""
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
    return {trial.number: (trial.state, trial.reason) for trial in driver.study.trials()}


def test_a_completed_trial_has_its_last_value_in_the_study_and_its_best_beside_it(driver):
    number = driver.trial()
    for step, value in ((10, 0.2), (20, 0.9), (30, 0.6)):
        driver.report(number, step, rollout__success_rate=value, train__loss=1.0)
    driver.recorder.end_trial(number, Outcome("completed"))
    (trial,) = driver.study.trials()
    assert (trial.state, trial.objectives) == ("completed", (0.6,))
    assert trial.reports == {10: 0.2, 20: 0.9, 30: 0.6}
    (end,) = driver.events("trial_end")
    assert (end["final"], end["best"], end["sweep_best"]) == ({SUCCESS: 0.6}, {SUCCESS: 0.9}, {SUCCESS: 0.6})
    assert (end["status"], end["step"], end["ended"]) == ("completed", 30, 1)


def test_repeated_and_older_steps_are_dropped_everywhere(driver):
    number = driver.trial()
    assert driver.report(number, 10, rollout__success_rate=0.2)
    assert driver.report(number, 20, rollout__success_rate=0.3)
    assert not driver.report(number, 20, rollout__success_rate=0.3)
    assert not driver.report(number, 10, rollout__success_rate=0.2, train__loss=0.5)
    assert driver.report(number, 30, rollout__success_rate=0.4)
    assert [event["step"] for event in driver.events("report")] == [10, 20, 30]
    assert driver.study.trials()[0].reports == {10: 0.2, 20: 0.3, 30: 0.4}
    assert len(driver.heard) == 5


def test_an_evaluation_may_follow_a_report_of_the_same_step(driver):
    number = driver.trial()
    assert driver.report(number, 10, train__loss=0.5)
    assert driver.report(number, 10, train__loss=0.5, rollout__success_rate=0.2)
    assert not driver.report(number, 10, rollout__success_rate=0.2)
    _first, second = driver.events("report")
    assert second["metrics"] == {SUCCESS: 0.2}
    assert driver.study.trials()[0].reports == {10: 0.2}


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


def test_only_the_parameters_that_exist_count_as_searched(driver):
    for _ in range(6):
        driver.trial()
    for event in driver.events("trial_start"):
        conditional = event["config"]["policy.beta_schedule"] == "linear"
        assert ("policy.beta_end" in event["values"]) == conditional
        assert "train.steps" in event["config"]
        assert "train.steps" not in event["values"]


def test_a_trial_stopped_early_is_pruned(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    driver.recorder.end_trial(number, Outcome("stopped_early", "early_stop", "too bad"))
    assert told(driver) == {number: ("stopped_early", "")}
    assert driver.recorder.sweep.trials[number].reason == "early_stop"


def test_a_failed_trial_has_its_reason_in_study_and_journal(driver):
    number = driver.trial()
    driver.recorder.end_trial(number, Outcome("failed", "diverged", "loss is NaN at step 7"))
    assert told(driver) == {number: ("failed", "diverged")}
    (end,) = driver.events("trial_end")
    assert (end["reason"], end["message"]) == ("diverged", "loss is NaN at step 7")


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


def test_only_the_first_end_counts_and_nothing_is_reported_after_it(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    driver.recorder.end_trial(number, Outcome("failed", "lost", "gone"))
    driver.recorder.end_trial(number, Outcome("completed"))
    assert not driver.report(number, 20, rollout__success_rate=0.9)
    assert told(driver) == {number: ("failed", "lost")}
    assert len(driver.events("trial_end")) == 1


def test_a_trial_that_its_cluster_starts_again_goes_on_as_the_same(driver):
    number = driver.trial()
    driver.report(number, 10, rollout__success_rate=0.2)
    driver.recorder.start_trial(number, driver.recorder.sweep.trials[number].config)
    driver.report(number, 20, rollout__success_rate=0.3)
    assert len(driver.events("trial_start")) == 1
    assert [event["trial"] for event in driver.events("note")] == [number]
    assert driver.recorder.sweep.trials[number].best == {SUCCESS: 0.3}


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
        assert second.study.trials()[0].objectives == (0.4,)


def test_several_objectives_are_all_kept(tmp_path):
    with Driver(sweep(tmp_path, LR, objectives={SUCCESS: "maximize", ERROR: "minimize"})) as driver:
        number = driver.trial()
        driver.report(number, 10, rollout__success_rate=0.4, eval__action_mse=3.0)
        driver.report(number, 20, rollout__success_rate=0.3, eval__action_mse=5.0)
        driver.recorder.end_trial(number, Outcome("completed"))
        assert driver.study.trials()[0].objectives == (0.3, 5.0)
        (end,) = driver.events("trial_end")
    assert end["best"] == {SUCCESS: 0.4, ERROR: 3.0}
    assert end["sweep_best"] == {SUCCESS: 0.3, ERROR: 5.0}
