"""Ray Tune runs what the study suggests, and the study learns what came of it. Real trials, real Tune."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_sweeps import LR, SUCCESS, choice, sweep
from study_trials import trials_of

from sweeper.driver.recorder import Outcome, Recorder
from sweeper.layout import JOURNAL
from sweeper.records.journal import Journal, read_journal
from sweeper.records.sweep_state import read_sweep
from sweeper.search.study import Study
from sweeper.spec.sweep import EarlyStopSpec

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("default")]

KINDS = ("good", "bad", "raises", "nan", "silent", "says why", "dies")


def train(config, folder):
    """A trial that does what its configuration says, in four steps."""
    import os

    from ray import tune

    from sweeper.errors import TrialError
    from sweeper.layout import trial_folder
    from sweeper.trial.failure import Failure, write_failure

    kind = config["config"]["kind"]
    for step in (10, 20, 30, 40):
        metrics = {"trial/step": step, "train/loss": 1 / step, "wall_time_s": time.time()}
        if kind == "raises" and step == 20:
            raise ValueError("as it was told to")
        if kind == "says why" and step == 20:
            where = trial_folder(Path(folder), config["trial"])
            write_failure(where, Failure("out_of_memory", "CUDA out of memory", "", "worker.log"))
            raise RuntimeError("what Tune sees")
        if kind == "dies" and step == 20:
            os._exit(1)
        if kind == "interrupted" and step == 20:
            raise TrialError("asked to stop", "interrupted")
        if kind != "silent" and step % 20 == 0:
            value = {"bad": 0.1, "nan": float("nan")}.get(kind, 0.9)
            metrics[SUCCESS] = value + step / 1000
        tune.report(metrics)
        if kind == "good" and step == 20:
            tune.report(metrics)  # what workers do that start again


def run(spec, first=(), at_once=1):
    from ray import cloudpickle, tune

    from sweeper.driver.callbacks import RecorderCallback
    from sweeper.search.early_stopping import make_scheduler
    from sweeper.search.searcher import StudySearcher

    # Tune's actors cannot import this file.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    with Study(spec) as study, Journal(spec.folder / JOURNAL) as journal:
        recorder = Recorder(study, journal, None, spec)
        recorder.start_sweep({})
        scheduler = make_scheduler(spec.early_stop)
        searcher = StudySearcher(study, first=list(study.unfinished()) if first is None else first)
        callback = RecorderCallback(recorder, scheduler)
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(train_of(spec.folder)), {"CPU": 1}),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=spec.budget.trials,
                max_concurrent_trials=at_once,
                reuse_actors=False,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(spec.folder.absolute() / "ray"), callbacks=[callback], verbose=0
            ),
        )
        tuner.fit()
        recorder.end_sweep("done")
        return searcher, trials_of(study)


def train_of(folder):
    where = str(folder)

    def one_trial(config):
        train(config, where)

    return one_trial


def test_every_way_in_which_a_trial_ends_reaches_study_and_journal(cluster, tmp_path):
    stop = EarlyStopSpec("asha", SUCCESS, "maximize", 20, reduction=2, max_steps=40)
    spec = sweep(tmp_path, choice("kind", *KINDS), method="grid", early_stop=stop, trials=10)
    # `good` first: whatever is worse at its rung is then stopped.
    spec_first = sweep(
        tmp_path, choice("kind", *KINDS), method="grid", early_stop=stop, trials=10, seed=_seed()
    )
    searcher, trials = run(spec_first)
    assert searcher.exhausted
    assert searcher.error is None
    found = {trial.config["kind"]: trial for trial in trials}
    assert len(trials) == len(KINDS) < spec.budget.trials
    assert {kind: (trial.state, trial.reason) for kind, trial in found.items()} == {
        "good": ("completed", ""),
        "bad": ("stopped_early", ""),
        "raises": ("failed", "error"),
        "nan": ("failed", "diverged"),
        "silent": ("failed", "no_objective"),
        "says why": ("failed", "out_of_memory"),
        "dies": ("failed", "lost"),
    }
    assert found["good"].objectives == pytest.approx((0.94,))
    assert found["good"].reports == pytest.approx({20: 0.92, 40: 0.94})
    # The report at which it was stopped is the one that says how good it was.
    assert found["bad"].reports == {20: pytest.approx(0.12)}
    assert found["says why"].message == "CUDA out of memory"
    assert "as it was told to" in found["raises"].message
    results = read_sweep(tmp_path)
    assert results.status == "done"
    assert results.ranking()[0].number == found["good"].number
    assert results.trials[found["bad"].number].reason == "early_stop"
    reports = [event for event in read_journal(tmp_path / JOURNAL).events if event["event"] == "report"]
    assert [e["step"] for e in reports if e["trial"] == found["good"].number] == [10, 20, 30, 40]


def _seed():
    """A seed with which the grid begins with `good`: the rung must have something good to compare with."""
    import random

    for seed in range(1000):
        order = [{"kind": kind} for kind in KINDS]
        random.Random(seed).shuffle(order)
        if order[0]["kind"] == "good":
            return seed
    raise AssertionError("no seed puts it first")


def test_an_interrupted_trial_is_run_again_under_its_number_by_the_next_driver(cluster, tmp_path):
    spec = sweep(tmp_path, choice("kind", "interrupted"), method="grid", trials=1)
    _, trials = run(spec)
    assert [trial.state for trial in trials] == ["running"]
    assert read_sweep(tmp_path).trials[0].status == "interrupted"
    _, trials = run(spec, first=None)
    assert [trial.number for trial in trials] == [0]
    starts = [event for event in read_journal(tmp_path / JOURNAL).events if event["event"] == "trial_start"]
    assert [event["trial"] for event in starts] == [0, 0]


def test_a_study_that_fails_ends_the_search_and_is_said(cluster, tmp_path):
    spec = sweep(tmp_path, LR, constraints=("optimizer.lr > 1",), trials=3)
    searcher, trials = run(spec)
    assert trials == []
    assert "violates optimizer.lr > 1" in str(searcher.error)


@pytest.mark.parametrize(
    ("ends", "status", "reason"),
    [
        ("interrupted", "stopped_early", "stopped"),
        ("lost", "stopped_early", "stopped"),
        # What it came to by itself before it heard of the wish counts.
        ("completed", "completed", ""),
        ("diverged", "failed", "diverged"),
    ],
)
def test_a_trial_that_was_asked_to_stop_ends_as_stopped_unless_it_ended_by_itself(
    tmp_path, ends, status, reason
):
    from ray import cloudpickle

    from sweeper.driver.callbacks import RecorderCallback
    from sweeper.errors import TrialError
    from sweeper.search.early_stopping import make_scheduler

    error_file = tmp_path / "error.pkl"
    error_file.write_bytes(cloudpickle.dumps(TrialError("it ended", ends)))

    class TuneTrial:
        trial_id = "abc"
        config = {"trial": 0, "config": {"kind": "good"}}  # noqa: RUF012
        pickled_error_file = str(error_file)
        run_metadata = SimpleNamespace()
        placement_group_factory = None

    spec = sweep(tmp_path, choice("kind", "good"), method="grid")
    with Study(spec) as study, Journal(tmp_path / JOURNAL) as journal:
        recorder = Recorder(study, journal, None, spec)
        recorder.start_sweep({})
        assert study.ask().number == 0
        expected = {}
        callback = RecorderCallback(recorder, make_scheduler(None), expected)
        callback.on_trial_start(trial=TuneTrial(), iteration=0, trials=[])
        callback.on_trial_result(
            trial=TuneTrial(), iteration=0, trials=[], result={"trial/step": 1, SUCCESS: 1.0}
        )
        expected[0] = Outcome("stopped_early", "stopped", "stopped by request")
        if ends == "completed":
            callback.on_trial_complete(trial=TuneTrial(), iteration=0, trials=[])
        else:
            callback.on_trial_error(trial=TuneTrial(), iteration=0, trials=[])
        assert not study.is_running(0)
        ended = recorder.sweep.trials[0]
        assert (ended.status, ended.reason) == (status, reason)
