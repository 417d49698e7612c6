"""Early stopping learns from the journal, from its beginning and while it grows."""

from __future__ import annotations

import pytest
from played_sweeps import Sweep
from small_sweeps import LR, sweep

from sweeper.layout import JOURNAL
from sweeper.spec.sweep import EarlyStopSpec, SweepSpec

pytestmark = pytest.mark.slow  # importing Ray Tune takes seconds

METRIC = "rollout/avg_max_reward"
STOP = EarlyStopSpec("median", METRIC, "maximize", 10, max_steps=100, options={"n_startup_trials": 2})


def test_what_is_recorded_is_read_once_and_in_order(tmp_path):
    from sweeper.driver.run import recorded_in
    from sweeper.search.early_stopping import Ended, Reported

    played = Sweep(tmp_path)
    played.start(early_stop=STOP)
    news = recorded_in(tmp_path / JOURNAL)
    assert list(news()) == []
    for number, status in enumerate(("completed", "stopped_early", "failed", "interrupted", "running")):
        played.report(number, 10, {METRIC: number / 10})
        if status != "running":
            played.end(number, 10, status)
    found = list(news())
    assert [(one.trial, one.step, one.metrics[METRIC]) for one in found if isinstance(one, Reported)] == [
        (number, 10, number / 10) for number in range(5)
    ]
    # An interrupted trial continues, so it has not ended.
    assert [one for one in found if isinstance(one, Ended)] == [
        Ended(0, True),
        Ended(1, False),
        Ended(2, False),
    ]
    assert list(news()) == []
    played.report(5, 10, {METRIC: 0.5})
    assert [one.trial for one in news()] == [5]


def test_a_driver_that_resumes_knows_what_was_good(tmp_path):
    from sweeper.driver.run import recorded_in
    from sweeper.search.early_stopping import make_scheduler

    class Trial:
        trial_id = "new"
        config = {"trial": 3}  # noqa: RUF012

    played = Sweep(tmp_path)
    played.start(early_stop=STOP)
    for number in range(3):
        for step in (10, 20):
            played.report(number, step, {METRIC: 0.8})
        played.end(number, 20)
    report = {"trial/step": 20, METRIC: 0.1}
    resumed = make_scheduler(STOP, recorded_in(tmp_path / JOURNAL))
    assert resumed.on_trial_result(None, Trial, report) == "STOP"
    assert make_scheduler(STOP).on_trial_result(None, Trial, report) == "CONTINUE"


def test_a_sweep_of_an_earlier_version_has_the_same_early_stopping(tmp_path):
    """It has neither options nor confidence, and continues if the space file has none."""
    old = {"method": "median", "metric": METRIC, "goal": "maximize", "min_steps": 10, "reduction": 3}
    spec = EarlyStopSpec(**old, max_steps=100)
    assert spec.to_dict() == {**old, "max_steps": 100}
    for stop in (spec, STOP, EarlyStopSpec("asha", METRIC, "maximize", 10, confidence=0.9)):
        assert SweepSpec.from_dict(sweep(tmp_path, LR, early_stop=stop).to_dict()).early_stop == stop
