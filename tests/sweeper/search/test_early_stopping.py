"""Bad trials are stopped, by the trial's own step; good ones, and those at their end, never."""

from __future__ import annotations

import pickle
import random

import pytest

from sweeper.errors import UserError
from sweeper.layout import trial_folder
from sweeper.spec.stopper_options import STOPPER_OPTIONS
from sweeper.spec.sweep import EarlyStopSpec
from sweeper.trial.exchange import numbers_as_sent
from trainables.episodes import EpisodeFile, EpisodeRecord, Evaluated

# Importing Ray Tune takes seconds.
pytestmark = pytest.mark.slow

METRIC = "rollout/avg_max_reward"


class Trial:
    """What our scheduler needs of a trial of Tune."""

    def __init__(self, number):
        self.trial_id = f"tune {number}"
        self.config = {"trial": number, "config": {}}


class Sweep:
    """Plays trials under a scheduler that follows a journal, as the driver does.

    A new driver reads the whole journal again: pass the former one's.
    """

    def __init__(self, journal=(), episodes=None, **settings):
        from sweeper.search.early_stopping import make_scheduler

        self.journal = list(journal)
        self._read = 0
        self.early_stop = None
        if settings.get("method", "") is not None:
            settings = {"method": "asha", "goal": "maximize", "min_steps": 100, "max_steps": 900} | settings
            self.early_stop = EarlyStopSpec(metric=settings.pop("metric", METRIC), **settings)
        results = {} if episodes is None else {"episodes": episodes}
        self.scheduler = make_scheduler(self.early_stop, self._news, **results)

    def _news(self):
        news, self._read = self.journal[self._read :], len(self.journal)
        return news

    def report(self, number, step, value, width=None, **extra):
        """Report a value; whether the trial is stopped."""
        from sweeper.search.early_stopping import Reported

        metric = METRIC if self.early_stop is None else self.early_stop.metric
        metrics = {"train/loss": 1.0} | ({} if value is None else {metric: value})
        if width is not None:
            metrics |= {f"{metric}_low": value - width, f"{metric}_high": value + width}
        result = {"trial/step": step, "training_iteration": 1, **numbers_as_sent(metrics), **extra}
        decision = self.scheduler.on_trial_result(None, Trial(number), result)
        self.journal.append(Reported(number, step, metrics))
        assert decision in ("CONTINUE", "STOP")
        return decision == "STOP"

    def end(self, number, completed=True):
        from sweeper.search.early_stopping import Ended

        self.scheduler.on_trial_complete(None, Trial(number), {})
        self.journal.append(Ended(number, completed))

    def play(self, number, points, **extra):
        """Report (step, value) points until the trial is stopped; the step at which it was, or None."""
        self.scheduler.on_trial_add(None, Trial(number))
        for step, value in points:
            if self.report(number, step, value, **extra):
                self.end(number, completed=False)
                return step
        self.end(number)
        return None

    def why(self, number):
        return self.scheduler.stopped(f"tune {number}")


RULES = ("asha", "hyperband", "successive_halving", "percentile", "median", "patient", "wilcoxon")
EAGER = {
    "asha": {},
    "hyperband": {},
    "successive_halving": {},
    "percentile": {"options": {"percentile": 50.0, "n_startup_trials": 1}},
    "median": {"options": {"n_startup_trials": 1}},
    "patient": {"options": {"patience": 0}},
    "wilcoxon": {},
}
"""Settings with which each method stops a bad trial after few others."""


def steps(value, every=50, until=900):
    return [(step, value) for step in range(every, until + 1, every)]


def falling(value=0.6, every=50, until=900):
    return [(step, value - step / 2000) for step in range(every, until + 1, every)]


def some_episodes(level):
    """Results of 15 episodes per trial, whose mean is about ``level[trial]``."""
    return lambda trial, step: {seed: level[trial] + (seed % 3) / 100 for seed in range(15)}


LEVELS = (0.8, 0.85, 0.8, 0.9, 0.8, 0.75, 0.1)
"""Of each trial; the last one is bad."""


def play_levels(sweep):
    return [sweep.play(number, falling(level)) for number, level in enumerate(LEVELS)]


@pytest.mark.parametrize("method", RULES)
def test_every_method_stops_a_bad_trial_and_says_why(method):
    sweep = Sweep(method=method, episodes=some_episodes(LEVELS), **EAGER[method])
    ends = play_levels(sweep)
    assert ends[-1] is not None
    assert 100 <= ends[-1] < 900
    assert f"{METRIC} = " in sweep.why(len(LEVELS) - 1)
    assert "\n" not in sweep.why(len(LEVELS) - 1)
    assert ends[1] is None or method == "patient"


@pytest.mark.parametrize("method", RULES)
def test_a_driver_that_restarts_makes_the_decisions_of_the_former_one(method):
    """Trials run side by side and end in any order; another driver takes over now and then."""
    settings = {"method": method, "episodes": some_episodes((*LEVELS, *LEVELS)), **EAGER[method]}
    straight, restarted = Sweep(**settings), Sweep(**settings)
    draw = random.Random(3)
    running, waiting = {}, list(range(2 * len(LEVELS)))
    stopped = []
    while running or waiting:
        while waiting and len(running) < 3:
            number = waiting.pop(0)
            level = (*LEVELS, *LEVELS)[number]
            running[number] = iter([(step, level - draw.random() / 5) for step in range(100, 901, 100)])
        number = draw.choice(list(running))
        point = next(running[number], None)
        if draw.random() < 0.1:
            restarted = Sweep(restarted.journal, **settings)
        over = point is None
        if point is not None:
            decisions = [sweep.report(number, *point) for sweep in (straight, restarted)]
            assert decisions[0] == decisions[1], (number, point)
            over = decisions[0]
            stopped += [number] * over
        if over:
            del running[number]
            for sweep in (straight, restarted):
                sweep.end(number, completed=point is None)
    assert stopped


@pytest.mark.parametrize("method", RULES)
def test_a_decision_that_a_killed_driver_did_not_carry_out_is_carried_out_by_the_next(method):
    sweep = Sweep(method=method, episodes=some_episodes(LEVELS), **EAGER[method])
    for number, level in enumerate(LEVELS[:-1]):
        sweep.play(number, falling(level))
    bad = len(LEVELS) - 1
    stopped_at = next(step for step, value in falling(0.1) if sweep.report(bad, step, value))
    # The report is in the journal, the end of the trial is not: it is retried from its checkpoint.
    after = Sweep(sweep.journal, method=method, episodes=some_episodes(LEVELS), **EAGER[method])
    assert after.report(bad, stopped_at, 0.1)
    assert after.why(bad) == sweep.why(bad)
    # A trial at its end has nothing to save.
    at_end = Sweep(sweep.journal, method=method, episodes=some_episodes(LEVELS), **EAGER[method])
    assert not at_end.report(bad, 900, 0.1)
    assert not at_end.report(bad, stopped_at, 0.1, final=True)


def test_an_end_that_was_recorded_leaves_nothing_to_carry_out():
    sweep = Sweep()
    sweep.play(0, steps(0.9))
    assert sweep.play(1, steps(0.1)) == 100
    assert not Sweep(sweep.journal).report(1, 100, 0.1)


@pytest.mark.parametrize("method", ["asha", "median"])
def test_the_level_that_a_trial_starts_from_neither_saves_nor_stops_it(method):
    good = [(0, 0.5), (100, 0.6), (300, 0.8), (600, 0.8)]
    sweep = Sweep(method=method, reduction=2)
    for number in range(6):
        assert sweep.play(number, good) is None
    assert sweep.play(6, [(0, 0.9), (100, 0.1), (300, 0.1)]) == 100
    assert sweep.play(7, [(0, 0.0), *good[1:]]) is None


def test_asha_stops_the_worse_at_the_first_rung_and_lets_the_best_run_to_the_end():
    sweep = Sweep()
    assert sweep.play(0, steps(0.9)) is None
    assert sweep.play(1, steps(0.1)) == 100
    assert sweep.play(2, steps(0.95)) is None
    assert "0.1 at step 100 is not among the best 1/3" in sweep.why(1)
    assert sweep.why(0) is None


@pytest.mark.parametrize("method", ["asha", "hyperband", "successive_halving"])
def test_the_goal_may_be_to_minimise(method):
    sweep = Sweep(method=method, goal="minimize")
    assert sweep.play(0, steps(0.1)) is None
    ends = [sweep.play(number, steps(0.5 + number / 100)) for number in range(1, 8)]
    assert any(ends) if method == "hyperband" else set(ends) == {100}


def test_asha_never_stops_a_trial_at_its_last_step():
    # Rungs are at 100 and 300; at 900 trials end anyway.
    sweep = Sweep()
    assert sweep.play(0, steps(0.9)) is None
    assert sweep.play(1, [*steps(0.95, until=850), (900, 0.0)]) is None
    assert sweep.why(1) is None


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_asha_decides_as_that_of_ray_tune_does(goal):
    from ray.tune.schedulers import AsyncHyperBandScheduler

    theirs = AsyncHyperBandScheduler(
        time_attr="trial/step",
        metric=METRIC,
        mode="max" if goal == "maximize" else "min",
        max_t=900,
        grace_period=100,
        reduction_factor=3,
        stop_last_trials=False,
    )
    draw, ours, decisions = random.Random(1), Sweep(goal=goal), []
    for number in range(60):
        theirs.on_trial_add(None, Trial(number))
        for step in range(draw.choice((50, 100, 150)), 900, draw.choice((50, 120, 250))):
            value = draw.random()
            said = theirs.on_trial_result(None, Trial(number), {"trial/step": step, METRIC: value})
            decisions.append(said)
            assert ours.report(number, step, value) == (said == "STOP"), (number, step)
            if said == "STOP":
                ours.end(number, completed=False)
                break
    assert 20 < decisions.count("STOP") < 60


def test_with_a_confidence_asha_stops_only_what_is_surely_worse():
    sweep, plain = Sweep(confidence=0.9), Sweep()
    for each in (sweep, plain):
        for number in range(3):
            assert not each.report(number, 100, 0.8 + number / 1000, width=0.15)
    assert plain.report(3, 100, 0.75, width=0.15)
    assert not sweep.report(3, 100, 0.75, width=0.15)
    assert sweep.report(4, 100, 0.5, width=0.15)
    assert "with 90 % confidence" in sweep.why(4)
    # Without an interval the values are compared alone.
    assert sweep.report(5, 100, 0.75)


def test_the_confidence_is_one_sided_and_knows_the_goal():
    """A 95 % interval reaches 1.96 standard deviations; 97.5 % on one side are the end of it."""
    for goal, sign in (("maximize", 1), ("minimize", -1)):
        sweep = Sweep(goal=goal, confidence=0.975)
        sweep.report(0, 100, 0.5, width=0.1)
        assert not sweep.report(1, 100, 0.5 - sign * 0.099, width=0.1)
        other = Sweep(goal=goal, confidence=0.975)
        other.report(0, 100, 0.5, width=0.1)
        assert other.report(1, 100, 0.5 - sign * 0.101, width=0.1)


def test_a_trial_that_says_it_is_final_is_not_stopped_whatever_its_step():
    sweep = Sweep()
    sweep.play(0, steps(0.9))
    assert sweep.play(1, [(100, 0.1)], final=True) is None


def test_reports_without_the_metric_decide_nothing():
    sweep = Sweep()
    sweep.play(0, steps(0.9))
    evaluated = [(step, 0.1 if step % 200 == 0 else None) for step in range(50, 901, 50)]
    assert sweep.play(1, evaluated) == 200
    assert sweep.play(2, steps(None)) is None


@pytest.mark.parametrize("method", RULES)
def test_values_that_are_no_numbers_decide_nothing(method):
    sweep = Sweep(method=method, **EAGER[method])
    assert sweep.play(0, steps(float("nan"))) is None
    assert sweep.play(1, steps(float("inf"))) is None


@pytest.mark.parametrize("method", ["asha", "median", "patient", "successive_halving"])
def test_a_trial_that_starts_again_and_repeats_its_steps_is_judged_once(method):
    sweep = Sweep(method=method)
    for number in range(6):
        sweep.play(number, steps(0.5))
    again = [*steps(0.6, until=400), *steps(0.0, until=400), *steps(0.6)]
    assert sweep.play(6, again) is None


@pytest.mark.parametrize("method", ["asha", "median", "patient"])
def test_no_trial_is_stopped_before_its_first_steps_are_done(method):
    sweep = Sweep(method=method, min_steps=500, **EAGER[method])
    sweep.play(0, steps(0.9))
    assert sweep.play(1, falling(0.5)) == 500


def test_hyperband_gives_trials_brackets_with_later_rungs():
    sweep = Sweep(method="hyperband")
    ends = [sweep.play(number, steps(1 - number / 100)) for number in range(20)]
    assert {100, 300} <= set(ends)
    other = Sweep(method="hyperband")
    assert [other.play(number, steps(1 - number / 100)) for number in range(20)] == ends


def test_successive_halving_may_begin_later():
    sweep = Sweep(method="successive_halving", options={"min_early_stopping_rate": 1})
    sweep.play(0, steps(0.9))
    assert sweep.play(1, steps(0.1)) == 300


def test_median_and_percentile_compare_with_completed_trials_only():
    for method, share in (("median", "the median"), ("percentile", "the best 25 %")):
        sweep = Sweep(method=method, options={"n_startup_trials": 2})
        assert sweep.play(0, steps(0.8)) is None
        for number in range(1, 4):
            assert sweep.play(number, steps(0.8, until=500)) is None
            sweep.journal.pop()  # these still run
        again = Sweep(sweep.journal, method=method, options={"n_startup_trials": 2})
        assert again.play(4, steps(0.1)) is None
        assert again.play(5, steps(0.2)) == 100
        assert share in again.why(5)


def test_median_compares_the_best_so_far():
    sweep = Sweep(method="median", options={"n_startup_trials": 1})
    sweep.play(0, [(100, 0.5), (200, 0.5), (300, 0.5)])
    assert sweep.play(1, [(100, 0.6), (200, 0.0), (300, 0.0)]) is None


def test_patient_stops_what_does_not_improve():
    sweep = Sweep(method="patient", options={"patience": 2})
    assert sweep.play(0, [(100, 0.5), (200, 0.4), (300, 0.6), (400, 0.5), (500, 0.5), (600, 0.5)]) == 600
    assert "its last 3 values are worse than its best" in sweep.why(0)
    assert sweep.play(1, steps(0.5)) is None  # equal is not worse
    slight = Sweep(method="patient", options={"patience": 2, "min_delta": 0.2})
    assert slight.play(0, [(100, 0.5), *steps(0.4)[2:]]) is None


def test_wilcoxon_compares_episodes_on_the_same_starts():
    """Trial 2 is not clearly worse than the best; trial 3 is, on each start a little."""
    starts = range(20)
    results = {
        0: {seed: seed / 20 for seed in starts},
        1: {seed: seed / 20 + 0.05 for seed in starts},
        2: {seed: seed / 20 + (0.08 if seed % 2 else 0.02) for seed in starts},
        3: {seed: seed / 20 - 0.01 for seed in starts},
        4: {seed + 1000: 0.0 for seed in starts},
        5: dict(results_of(1, starts)),
    }
    sweep = Sweep(method="wilcoxon", episodes=lambda trial, step: results.get(trial, {}))
    ends = [sweep.play(number, steps(0.5, until=200)) for number in range(7)]
    assert ends == [None, None, None, 100, None, None, None]
    assert "worse than that of trial 1 on the same 20 starts (p < 0.1)" in sweep.why(3)


def results_of(_trial, starts):
    return {seed: seed / 20 + 0.05 for seed in starts}


def test_wilcoxon_minimises_and_needs_enough_episodes():
    results = {0: dict.fromkeys(range(14), 1.0), 1: {seed: 2.0 + seed for seed in range(14)}}
    settings = {"method": "wilcoxon", "goal": "minimize", "episodes": lambda trial, step: results[trial]}
    for needed, end in ((14, 100), (15, None)):
        sweep = Sweep(options={"n_startup_steps": needed}, **settings)
        assert sweep.play(0, steps(1.0)) is None
        assert sweep.play(1, steps(5.0)) == end


def test_episodes_are_read_from_the_folders_of_trials(tmp_path):
    from sweeper.search.pruners import recorded_episodes

    records = [EpisodeRecord(n, 7 + n, n > 0, n / 10, 2.0 * n, 30, 1.0) for n in range(3)]
    folder = trial_folder(tmp_path, 4) / "episodes"
    EpisodeFile(folder, Evaluated("search", 100, {}, "gym_pusht/PushT-v0")).write(records)
    assert recorded_episodes(tmp_path, "rollout/success_rate")(4, 100) == {7: 0.0, 8: 1.0, 9: 1.0}
    assert recorded_episodes(tmp_path, METRIC)(4, 100) == {7: 0.0, 8: 0.1, 9: 0.2}
    assert recorded_episodes(tmp_path, METRIC)(4, 200) == {}
    (folder / "000100-search.jsonl").write_text("no record")
    assert recorded_episodes(tmp_path, METRIC)(4, 100) == {}


@pytest.mark.parametrize("method", RULES)
def test_the_options_of_a_method_reach_its_pruner(method):
    from sweeper.search.pruners import make_pruner

    for info in STOPPER_OPTIONS[method]:
        for value in (info.default, info.default + 1):
            stop = EarlyStopSpec(
                method,
                METRIC,
                "maximize",
                100,
                3,
                900,
                {info.name: min(value, 0.5)} if info.maximum == 0.5 else {info.name: value},
            )
            assert make_pruner(stop) is not None


def test_without_early_stopping_nothing_is_stopped():
    from sweeper.search.early_stopping import StepScheduler

    sweep = Sweep(method=None)
    assert not isinstance(sweep.scheduler, StepScheduler)
    assert not sweep.report(0, 100, 0.0)


def test_tune_may_ask_for_its_metric_and_pickle_it():
    scheduler = Sweep().scheduler
    assert scheduler.metric is None
    assert scheduler.set_search_properties(None, None)
    pickle.dumps(scheduler)


@pytest.mark.parametrize(("min_steps", "max_steps"), [(900, 900), (1000, 900), (0, 900), (100, 0)])
def test_a_rule_that_could_never_stop_a_trial_is_refused(min_steps, max_steps):
    with pytest.raises(UserError, match=r"early_stop\.min_steps"):
        Sweep(min_steps=min_steps, max_steps=max_steps)


def test_a_metric_without_a_slash_is_compared_too():
    sweep = Sweep(metric="loss", goal="minimize")
    ends = [sweep.play(number, [(100, loss)]) for number, loss in enumerate((0.1, 0.5, 0.6, 0.05))]
    assert ends == [None, 100, 100, None]
