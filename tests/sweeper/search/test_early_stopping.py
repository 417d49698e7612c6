"""Bad trials are stopped, by the trial's own step; good ones, and those at their end, never."""

from __future__ import annotations

import pickle
from dataclasses import dataclass

import pytest

from sweeper.errors import UserError
from sweeper.spec.sweep import EarlyStopSpec

# Importing Ray Tune takes seconds.
pytestmark = pytest.mark.slow

METRIC = "rollout/avg_max_reward"


@dataclass(frozen=True)
class Trial:
    """What Tune's rules look at in a trial."""

    trial_id: str


class Controller:
    """Tune's controller: there is always a trial that waits, which tempts Tune's rules to pause others."""

    def get_live_trials(self):
        @dataclass
        class Waiting:
            status: str = "PENDING"

        return [Waiting()]


def rule(method="asha", goal="maximize", min_steps=100, max_steps=900, history=None, **changes):
    from sweeper.search.early_stopping import make_scheduler

    early_stop = EarlyStopSpec(method, METRIC, goal, min_steps, max_steps=max_steps, **changes)
    return make_scheduler(early_stop, history)


def play(scheduler, name, points, **extra):
    """Report (step, value) points until the trial is stopped; the step at which it was, or None."""
    trial = Trial(name)
    scheduler.on_trial_add(Controller(), trial)
    for step, value in points:
        result = {"trial/step": step, "train/loss": 1.0, "training_iteration": 1, **extra}
        if value is not None:
            result[METRIC] = value
        decision = scheduler.on_trial_result(Controller(), trial, result)
        assert decision in ("CONTINUE", "STOP")
        if decision == "STOP":
            scheduler.on_trial_complete(Controller(), trial, result)
            return step
    scheduler.on_trial_complete(Controller(), trial, {})
    return None


@pytest.mark.parametrize("method", ["asha", "median"])
def test_the_level_that_a_trial_starts_from_neither_saves_nor_stops_it(method):
    scheduler = rule(method, reduction=2)
    good = [(0, 0.5), (100, 0.6), (300, 0.8), (600, 0.8)]
    for number in range(4):
        assert play(scheduler, f"good {number}", good) is None
    assert play(scheduler, "spoilt", [(0, 0.9), (100, 0.1), (300, 0.1)]) is not None
    assert play(scheduler, "begins low", [(0, 0.0), *good[1:]]) is None
    earlier = dict.fromkeys(range(4), good)
    assert play(rule(method, reduction=2, history=earlier), "spoilt", [(0, 0.9), (100, 0.1)]) == 100


def steps(value, every=50, until=900):
    return [(step, value) for step in range(every, until + 1, every)]


def test_asha_stops_the_worse_at_the_first_rung_and_lets_the_best_run_to_the_end():
    scheduler = rule()
    assert play(scheduler, "good", steps(0.9)) is None
    assert play(scheduler, "bad", steps(0.1)) == 100
    assert play(scheduler, "better", steps(0.95)) is None
    assert "0.1 at step 100 is not among the best 1/3" in scheduler.stopped("bad")
    assert scheduler.stopped("good") is None


def test_asha_minimises_where_the_goal_says_so():
    scheduler = rule(goal="minimize")
    assert play(scheduler, "good", steps(0.1)) is None
    assert play(scheduler, "bad", steps(0.9)) == 100


def test_asha_never_stops_a_trial_at_its_last_step():
    # Rungs lie at 100, 300 and 900, the last of them where trials end anyway.
    scheduler = rule()
    assert play(scheduler, "first", steps(0.9)) is None
    assert play(scheduler, "falls", [*steps(0.95, until=850), (900, 0.0)]) is None
    assert scheduler.stopped("falls") is None


def test_a_trial_that_says_it_is_final_is_not_stopped_whatever_its_step():
    scheduler = rule()
    play(scheduler, "good", steps(0.9))
    assert play(scheduler, "short", [(100, 0.1)], final=True) is None


def test_reports_without_the_metric_decide_nothing():
    scheduler = rule()
    play(scheduler, "good", steps(0.9))
    evaluated = [(step, 0.1 if step % 200 == 0 else None) for step in range(50, 901, 50)]
    assert play(scheduler, "bad", evaluated) == 200
    assert play(scheduler, "silent", steps(None)) is None


def test_values_that_are_no_numbers_decide_nothing_and_spoil_no_rung():
    scheduler = rule()
    assert play(scheduler, "nan", steps(float("nan"))) is None
    assert play(scheduler, "inf", steps(float("inf"))) is None
    assert play(scheduler, "good", steps(0.9)) is None
    assert play(scheduler, "bad", steps(0.1)) == 100


@pytest.mark.parametrize("method", ["asha", "median"])
def test_a_trial_that_starts_again_and_repeats_its_steps_is_judged_once(method):
    scheduler = rule(method)
    for name in ("a", "b", "c", "d"):
        play(scheduler, name, steps(0.5))
    again = [*steps(0.6, until=400), *steps(0.0, until=400), *steps(0.6)]
    assert play(scheduler, "again", again) is None


def test_steps_that_a_trial_repeats_do_not_count_twice_in_its_mean():
    scheduler = rule("median")
    for name in ("a", "b", "c"):
        play(scheduler, name, [(100, 0.0), (200, 1.0), (200, 1.0), (200, 1.0)])
    # The others' mean is 0.5; with the repeated steps it would be 0.75.
    assert play(scheduler, "fair", [(100, 0.6), (200, 0.6)]) is None


def test_no_trial_is_stopped_before_its_first_steps_are_done():
    scheduler = rule(min_steps=500)
    play(scheduler, "good", steps(0.9))
    assert play(scheduler, "bad", steps(0.1)) == 500


def test_the_median_rule_stops_what_is_worse_than_half_and_never_pauses():
    scheduler = rule("median")
    for number in range(3):
        assert play(scheduler, f"good {number}", steps(0.8)) is None
    assert play(scheduler, "bad", steps(0.1)) == 100
    assert play(scheduler, "good", steps(0.9)) is None
    assert "worse than the median" in scheduler.stopped("bad")


def test_the_median_rule_waits_for_three_trials_and_minimises():
    scheduler = rule("median", goal="minimize")
    assert play(scheduler, "bad 1", steps(0.9)) is None
    for number in range(3):
        assert play(scheduler, f"good {number}", steps(0.1)) is None
    assert play(scheduler, "bad 2", steps(0.9)) == 100


def test_the_median_rule_compares_a_trials_best_with_the_others_means():
    scheduler = rule("median")
    for number in range(3):
        play(scheduler, f"noisy {number}", [(100, 1.0), (200, 0.0), (300, 0.5)])
    # The others' means are 1.0 at step 100 and 0.5 at steps 200 and 300.
    assert play(scheduler, "once good", [(100, 1.0), (200, 0.0), (300, 0.0)]) is None
    assert play(scheduler, "equal but for the last bits", [(100, 1.0 - 1e-12), (200, 0.0)]) is None
    assert play(scheduler, "never good", [(50, 0.4), (250, 0.4)]) == 250


@pytest.mark.parametrize("method", ["asha", "median"])
def test_a_sweep_that_goes_on_remembers_what_was_good(method):
    history = {number: steps(0.8) for number in range(4)}
    assert play(rule(method, history=history), "bad", steps(0.1)) == 100
    assert play(rule(method, history=None), "bad", steps(0.1)) is None


def test_without_early_stopping_nothing_is_stopped():
    from sweeper.search.early_stopping import StepScheduler, make_scheduler

    scheduler = make_scheduler(None)
    assert not isinstance(scheduler, StepScheduler)
    assert play(scheduler, "any", steps(0.0)) is None


def test_tune_may_ask_for_its_metric_and_pickle_it():
    scheduler = rule()
    assert scheduler.metric is None
    assert scheduler.set_search_properties(None, None)
    pickle.dumps(scheduler)


@pytest.mark.parametrize(("min_steps", "max_steps"), [(900, 900), (1000, 900), (0, 900), (100, 0)])
def test_a_rule_that_could_never_stop_a_trial_is_refused(min_steps, max_steps):
    with pytest.raises(UserError, match=r"early_stop\.min_steps"):
        rule(min_steps=min_steps, max_steps=max_steps)


def test_a_metric_without_a_slash_is_compared_too():
    from sweeper.search.early_stopping import make_scheduler

    scheduler = make_scheduler(EarlyStopSpec("asha", "loss", "minimize", 100, max_steps=900))
    ends = {
        name: play(scheduler, name, [(100, None)], metrics={"loss": loss}) for name, loss in LOSSES.items()
    }
    assert ends == {"a": None, "b": 100, "c": 100, "d": None}


LOSSES = {"a": 0.1, "b": 0.5, "c": 0.6, "d": 0.05}
