"""The study hands out legal trials that differ, and keeps what came of them."""

from __future__ import annotations

import dataclasses
import math

import optuna
import pytest
from small_sweeps import (
    BETA_END,
    DIMS,
    ERROR,
    HORIZON,
    LR,
    N_ACTION_STEPS,
    SCHEDULE,
    SUCCESS,
    as_optuna_reads_it,
    choice,
    sweep,
)
from study_trials import trials_of

from sweeper.errors import UserError
from sweeper.layout import STUDY
from sweeper.search.study import Study, config_hash
from sweeper.spec.space import Parameter
from sweeper.spec.taken import Taken, TakenTrial
from trainables.interface import Fault

GP = pytest.param("gp", marks=pytest.mark.slow)  # it imports torch, and fits a process for every suggestion
CMAES = pytest.param("cmaes", marks=pytest.mark.slow)
NUMBERS = (LR, Parameter("optimizer.weight_decay", "float", 1e-8, 1e-2, log=True), HORIZON)


def run(study, count, value=lambda config: -abs(math.log10(config["optimizer.lr"]) + 4)):
    """Ask for trials and complete each with the objective ``value(config)``."""
    suggestions = []
    for _ in range(count):
        suggestion = study.ask()
        assert suggestion is not None
        study.complete(suggestion.number, {SUCCESS: value(suggestion.config)})
        suggestions.append(suggestion)
    return suggestions


def states(study):
    return [trial.state for trial in trials_of(study)]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", CMAES, GP])
def test_every_sampler_stays_in_its_ranges_and_repeats_nothing(tmp_path, method):
    with Study(sweep(tmp_path, *NUMBERS, method=method, startup_trials=4)) as study:
        suggestions = run(study, 10)
    assert [suggestion.number for suggestion in suggestions] == list(range(10))
    for suggestion in suggestions:
        assert 1e-5 <= suggestion.config["optimizer.lr"] <= 1e-3
        assert suggestion.config["policy.horizon"] in (8, 16, 24, 32)
        assert isinstance(suggestion.config["policy.horizon"], int)
        assert suggestion.config["train.steps"] == 100
    assert len({config_hash(suggestion.config) for suggestion in suggestions}) == 10


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", CMAES, GP, "grid"])
def test_the_same_seed_asks_the_same_questions(tmp_path, method):
    parameters = (HORIZON, N_ACTION_STEPS)
    asked = []
    for name in ("one", "two"):
        with Study(sweep(tmp_path / name, *parameters, method=method, startup_trials=3, seed=5)) as study:
            asked.append(run(study, 5, value=lambda config: config["policy.horizon"]))
    assert asked[0] == asked[1]


@pytest.mark.slow
def test_tpe_learns_from_what_it_is_told(tmp_path):
    with Study(sweep(tmp_path, LR, method="tpe", startup_trials=8)) as study:
        suggestions = run(study, 40)
    late = [abs(math.log10(s.config["optimizer.lr"]) + 4) for s in suggestions[25:]]
    assert sum(late) / len(late) < 0.35  # a random search over two decades has 0.5


@pytest.mark.slow
def test_a_parameter_exists_only_where_its_condition_holds(tmp_path):
    with Study(sweep(tmp_path, SCHEDULE, BETA_END, LR, startup_trials=4)) as study:
        suggestions = run(study, 10)
    schedules = {suggestion.values["policy.beta_schedule"] for suggestion in suggestions}
    assert schedules == {"squaredcos_cap_v2", "linear"}
    for suggestion in suggestions:
        conditional = suggestion.config["policy.beta_schedule"] == "linear"
        assert ("policy.beta_end" in suggestion.values) == conditional
        assert ("policy.beta_end" in suggestion.config) == conditional


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", CMAES, GP, "grid"])
def test_violated_constraints_cost_no_trial_and_leave_no_gap_in_the_numbers(tmp_path, method):
    rule = "policy.n_action_steps <= policy.horizon - 8 + 1"
    spec = sweep(tmp_path, HORIZON, N_ACTION_STEPS, method=method, constraints=(rule,), startup_trials=3)
    with Study(spec) as study:
        suggestions = run(study, 10, value=lambda config: config["policy.n_action_steps"])
        assert states(study) == ["completed"] * 10
    assert [suggestion.number for suggestion in suggestions] == list(range(10))
    for suggestion in suggestions:
        assert suggestion.config["policy.n_action_steps"] <= suggestion.config["policy.horizon"] - 7


@pytest.mark.slow
def test_a_constraint_that_hardly_ever_holds_is_met_all_the_same(tmp_path):
    a, b = Parameter("a", "float", 0.0, 1.0), Parameter("b", "float", 0.0, 1.0)
    spec = sweep(tmp_path, a, b, constraints=("a + b <= 0.05",), startup_trials=3)
    with Study(spec) as study:
        suggestions = run(study, 6, value=lambda config: config["a"])
    assert all(suggestion.config["a"] + suggestion.config["b"] <= 0.05 for suggestion in suggestions)


@pytest.mark.slow
def test_a_constraint_that_never_holds_is_a_clear_error(tmp_path):
    a = Parameter("a", "float", 0.0, 1.0)
    with (
        Study(sweep(tmp_path, a, constraints=("a > 2",))) as study,
        pytest.raises(UserError, match=r"100.0%  violates a > 2"),
    ):
        study.ask()


def test_a_finite_space_without_a_legal_point_is_a_clear_error(tmp_path):
    with (
        Study(sweep(tmp_path, HORIZON, constraints=("policy.horizon > 99",))) as study,
        pytest.raises(UserError, match="no combination of the parameters satisfies the constraints"),
    ):
        study.ask()


@pytest.mark.slow
def test_what_the_trainable_refuses_costs_no_trial(tmp_path):
    def accept(config):
        return [Fault("policy.horizon", "is odd here.")] if config["policy.horizon"] == 16 else []

    with Study(sweep(tmp_path, HORIZON, method="random"), accept=accept) as study:
        suggestions = run(study, 3, value=lambda config: 1.0)
        assert study.ask() is None
    assert sorted(suggestion.config["policy.horizon"] for suggestion in suggestions) == [8, 24, 32]


@pytest.mark.slow
def test_the_trainables_refusals_are_named_when_nothing_is_left(tmp_path):
    refuse = [Fault("dataset.root", "is missing.", "Name it.")]
    with (
        Study(sweep(tmp_path, LR), accept=lambda config: refuse) as study,
        pytest.raises(UserError, match=r"dataset\.root: is missing\. Name it\."),
    ):
        study.ask()


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", "grid"])
def test_a_finite_space_is_searched_once_through_and_then_exhausted(tmp_path, method):
    spec = sweep(tmp_path, DIMS, HORIZON, method=method, startup_trials=3)
    with Study(spec) as study:
        suggestions = run(study, 8, value=lambda config: config["policy.horizon"])
        assert study.ask() is None
        assert study.ask() is None
    seen = {config_hash(suggestion.config) for suggestion in suggestions}
    assert len(seen) == 8
    assert {str(s.config["policy.down_dims"]) for s in suggestions} == {"[32, 64]", "[64, 128]"}


@pytest.mark.slow
def test_a_grid_knows_conditions_and_counts_no_point_twice(tmp_path):
    beta_end = Parameter("policy.beta_end", "float", 0.01, 0.03, step=0.01, when=BETA_END.when)
    with Study(sweep(tmp_path, SCHEDULE, beta_end, method="grid")) as study:
        suggestions = run(study, 4, value=lambda config: 1.0)
        assert study.ask() is None
    betas = [s.config.get("policy.beta_end") for s in suggestions]
    assert sorted(betas, key=lambda beta: beta or 0) == [None, 0.01, 0.02, 0.03]


@pytest.mark.slow
def test_a_conditional_parameter_may_have_a_fixed_value_where_it_is_not_searched(tmp_path):
    spec = sweep(tmp_path, SCHEDULE, BETA_END, config={"policy.beta_end": 0.5}, method="random")
    with Study(spec) as study:
        suggestions = run(study, 6, value=lambda config: 1.0)
    assert suggestions
    for suggestion in suggestions:
        searched = suggestion.config["policy.beta_schedule"] == "linear"
        assert (suggestion.config["policy.beta_end"] < 0.06) == searched
        assert ("policy.beta_end" in suggestion.values) == searched


@pytest.mark.slow
def test_choices_that_are_equal_in_python_stay_apart(tmp_path):
    with Study(sweep(tmp_path, choice("a", 1, True, "1", None, 1.5), method="grid")) as study:
        values = [suggestion.config["a"] for suggestion in run(study, 5, value=lambda config: 1.0)]
    assert sorted(map(repr, values)) == sorted(map(repr, [1, True, "1", None, 1.5]))
    with as_optuna_reads_it(tmp_path) as recorded:
        assert len({repr(trial.params["a"]) for trial in recorded.trials}) == 5


@pytest.mark.slow
def test_a_range_that_its_step_does_not_fill_stays_in_bounds(tmp_path):
    spec = sweep(tmp_path, Parameter("a", "int", 8, 31, step=8), Parameter("b", "float", 0.0, 0.95, step=0.3))
    with Study(spec) as study:
        suggestions = run(study, 12, value=lambda config: config["a"])
    assert {s.config["a"] for s in suggestions} <= {8, 16, 24}
    assert {round(s.config["b"], 6) for s in suggestions} <= {0.0, 0.3, 0.6, 0.9}


@pytest.mark.parametrize(
    ("method", "parameters", "objectives", "message"),
    [
        ("grid", (LR, HORIZON), None, "a continuous range: optimizer.lr"),
        ("cmaes", (LR, HORIZON, SCHEDULE), None, "a list of values: policy.beta_schedule"),
        ("cmaes", (LR,), None, "CMA-ES needs at least 2 parameters"),
        ("cmaes", (LR, HORIZON), {SUCCESS: "maximize", ERROR: "minimize"}, "CMA-ES optimises one objective"),
        ("gp", (SCHEDULE, BETA_END), None, "a conditional parameter: policy.beta_end"),
    ],
)  # fmt: skip
def test_what_a_method_cannot_search_is_said_before_anything_runs(
    tmp_path, method, parameters, objectives, message
):
    with pytest.raises(UserError, match=message):
        Study(sweep(tmp_path, *parameters, method=method, objectives=objectives))
    assert not (tmp_path / STUDY).exists()


@pytest.mark.slow
def test_options_reach_the_sampler_and_wrong_ones_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"n_candidates: is not an option of tpe"):
        Study(sweep(tmp_path, LR, options={"n_candidates": 3}))
    asked = []
    for candidates in (1, 48):
        options = {"n_ei_candidates": candidates}
        spec = sweep(tmp_path / str(candidates), LR, startup_trials=2, options=options)
        with Study(spec) as study:
            asked.append(run(study, 4))
    assert asked[0][:2] == asked[1][:2]
    assert asked[0] != asked[1]


@pytest.mark.slow
def test_a_trial_stopped_early_is_pruned_with_what_it_reported(tmp_path):
    with Study(sweep(tmp_path, LR)) as study:
        number = study.ask().number
        study.report(number, 10, 0.1)
        study.report(number, 20, 0.3)
        study.report(number, 20, 0.9)  # told twice
        study.report(number, 15, 0.9)  # an earlier step, after a restart
        study.report(number, 30, math.nan)
        study.prune(number)
        (trial,) = trials_of(study)
    assert trial.state == "stopped_early"
    assert trial.reports == {10: 0.1, 20: 0.3}
    assert trial.objectives == (0.3,)


@pytest.mark.slow
def test_a_trial_may_be_stopped_before_it_reported_the_objective(tmp_path):
    with Study(sweep(tmp_path, LR)) as study:
        study.prune(study.ask().number)
        assert [(trial.state, trial.objectives) for trial in trials_of(study)] == [("stopped_early", ())]
        assert study.ask() is not None


@pytest.mark.slow
def test_a_failed_trial_keeps_its_reason(tmp_path):
    with Study(sweep(tmp_path, LR)) as study:
        study.fail(study.ask().number, "out_of_memory", "CUDA out of memory")
        (trial,) = trials_of(study)
    assert (trial.state, trial.reason, trial.message) == ("failed", "out_of_memory", "CUDA out of memory")


@pytest.mark.slow
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_no_number_fails_the_trial_as_diverged(tmp_path, value):
    with Study(sweep(tmp_path, LR)) as study:
        study.complete(study.ask().number, {SUCCESS: value})
        (trial,) = trials_of(study)
        assert study.ask() is not None
    assert (trial.state, trial.reason) == ("failed", "diverged")
    assert SUCCESS in trial.message


@pytest.mark.slow
def test_a_trial_that_never_reported_its_objective_fails(tmp_path):
    with Study(sweep(tmp_path, LR)) as study:
        study.complete(study.ask().number, {"train/loss": 0.1})
        (trial,) = trials_of(study)
    assert (trial.state, trial.reason) == ("failed", "no_objective")


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", GP])
def test_several_objectives_take_no_reports_and_keep_every_value(tmp_path, method):
    objectives = {SUCCESS: "maximize", ERROR: "minimize"}
    spec = sweep(tmp_path, LR, HORIZON, method=method, objectives=objectives, startup_trials=3)
    with Study(spec) as study:
        for index in range(6):
            number = study.ask().number
            study.report(number, 10, 0.5)
            if index == 3:
                study.prune(number)
            else:
                study.complete(number, {ERROR: 2.0 - index, SUCCESS: 0.1 * index})
        trials = trials_of(study)
    assert [trial.state for trial in trials].count("completed") == 5
    assert trials[1].objectives == (0.1, 1.0)
    assert trials[3].state == "stopped_early"


@pytest.mark.slow
def test_a_study_that_is_opened_again_knows_its_trials_and_repeats_none(tmp_path):
    spec = sweep(tmp_path, DIMS, HORIZON, method="random")
    with Study(spec) as study:
        before = run(study, 5, value=lambda config: 1.0)
    with Study(spec) as study:
        assert states(study) == ["completed"] * 5
        after = run(study, 3, value=lambda config: 1.0)
        assert study.ask() is None
    assert [suggestion.number for suggestion in after] == [5, 6, 7]
    assert len({config_hash(s.config) for s in before + after}) == 8


@pytest.mark.slow
def test_trials_that_a_dead_driver_left_are_known_with_their_configurations(tmp_path):
    spec = sweep(tmp_path, SCHEDULE, DIMS, HORIZON)
    with Study(spec) as study:
        run(study, 2, value=lambda config: 1.0)
        left = study.ask()
        study.report(left.number, 10, 0.25)
    with Study(spec) as study:
        assert study.unfinished() == [left]
        assert study.is_running(left.number)
        study.report(left.number, 10, 0.9)  # it repeats a step when it is run again
        study.report(left.number, 20, 0.5)
        study.complete(left.number, {SUCCESS: 0.5})
        assert study.unfinished() == []
        assert trials_of(study)[left.number].reports == {10: 0.25, 20: 0.5}
        assert study.ask().number == left.number + 1


@pytest.mark.slow
def test_a_study_opened_again_does_not_draw_its_first_suggestions_anew(tmp_path):
    spec = sweep(tmp_path, LR, method="random")
    with Study(spec) as study:
        first = run(study, 3)
    with Study(spec) as study:
        second = run(study, 3)
        suggested = len(study.suggester.trials())
    assert not {s.config["optimizer.lr"] for s in first} & {s.config["optimizer.lr"] for s in second}
    assert suggested == 6


@pytest.mark.slow
def test_a_study_keeps_its_objective_and_its_choices_and_may_change_its_ranges(tmp_path):
    with Study(sweep(tmp_path, LR, SCHEDULE)) as study:
        run(study, 3, value=lambda config: 1.0)
    with pytest.raises(UserError, match=r"another objective: maximize rollout/success_rate"):
        Study(sweep(tmp_path, LR, SCHEDULE, objectives={ERROR: "minimize"}))
    with pytest.raises(UserError, match=r"the values \['squaredcos_cap_v2', 'linear'\]"):
        Study(sweep(tmp_path, LR, choice("policy.beta_schedule", "linear", "scaled_linear")))
    wider = Parameter("optimizer.lr", "float", 1e-3, 1e-2, log=True)
    with Study(sweep(tmp_path, wider, SCHEDULE)) as study:
        assert study.ask().config["optimizer.lr"] >= 1e-3


@pytest.mark.slow
def test_wider_ranges_keep_all_that_the_search_was_told(tmp_path):
    with Study(sweep(tmp_path, LR, HORIZON, SCHEDULE)) as study:
        for _ in range(6):
            suggestion = study.ask()
            study.complete(suggestion.number, {SUCCESS: suggestion.values["optimizer.lr"]})
    wider = dataclasses.replace(LR, high=1e-2)
    narrower = dataclasses.replace(HORIZON, high=8)
    with Study(sweep(tmp_path, wider, narrower, SCHEDULE)) as study:
        known = study.suggester.trials()
        assert [trial.values for trial in known] == [[trial.params["optimizer.lr"]] for trial in known]
        # Together with those to come, as if the range had always been this wide.
        together = optuna.search_space.intersection_search_space(known)
        assert together["optimizer.lr"].high == 1e-2
        assert "policy.beta_schedule" in together
        # What lies outside a range that became narrower was not drawn from it.
        for trial in known:
            inside = trial.params["policy.horizon"] == 8
            assert trial.distributions["policy.horizon"].high == (8 if inside else 32)
        for _ in range(5):
            assert study.ask().values["policy.horizon"] == 8


@pytest.mark.slow
@pytest.mark.parametrize("method", ["cmaes", "gp"])
@pytest.mark.parametrize("before", [5, 12])
@pytest.mark.slow
def test_a_narrower_range_is_still_searched_by_the_sampler(tmp_path, caplog, method, before):
    parts = (*NUMBERS[:2], N_ACTION_STEPS)
    with Study(sweep(tmp_path, *parts, method=method, startup_trials=1)) as study:
        run(study, before)
        running, stopped = study.ask(), study.ask()
    narrower = dataclasses.replace(N_ACTION_STEPS, high=4)
    optuna.logging.enable_propagation()
    caplog.clear()
    try:
        with Study(sweep(tmp_path, *parts[:2], narrower, method=method, startup_trials=1)) as study:
            run(study, 4)
            study.complete(running.number, {SUCCESS: 0.5})
            study.report(stopped.number, 10, 0.25)
            study.prune(stopped.number)
            run(study, 4)
            kept = trials_of(study)
    finally:
        optuna.logging.disable_propagation()
    # CMA-ES failed, and both drew the parameter, or all of them, at random.
    assert "does not support dynamic search space" not in caplog.text
    assert "sampled independently" not in caplog.text
    assert (kept[running.number].state, kept[running.number].objectives) == ("completed", (0.5,))
    assert (kept[stopped.number].state, kept[stopped.number].objectives) == ("stopped_early", (0.25,))


@pytest.mark.slow
def test_only_one_process_opens_a_study(tmp_path):
    spec = sweep(tmp_path, LR)
    with Study(spec), pytest.raises(UserError, match="another process is running this sweep"):
        Study(spec)
    with Study(spec) as study:
        assert study.ask() is not None


def test_a_folder_with_spaces_and_quotes_holds_a_study(tmp_path):
    folder = tmp_path / 'it\'s a "folder" with 100% & spaces #1'
    with Study(sweep(folder, LR)) as study:
        run(study, 1)
    assert (folder / STUDY).exists()


@pytest.mark.slow
def test_optuna_itself_can_read_the_study(tmp_path):
    with Study(sweep(tmp_path, LR)) as study:
        run(study, 2)
    with as_optuna_reads_it(tmp_path) as loaded:
        assert [trial.state.name for trial in loaded.trials] == ["COMPLETE", "COMPLETE"]
        assert loaded.direction.name == "MAXIMIZE"


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", "grid", CMAES, GP])
def test_an_interrupted_search_tries_what_an_undisturbed_one_tries(tmp_path, method):
    # A constraint, so that suggestions are refused: they must leave nothing that a resumed search lacks.
    parts = (HORIZON, N_ACTION_STEPS) if method == "grid" else (*NUMBERS, N_ACTION_STEPS)
    rule = "policy.n_action_steps <= policy.horizon - 14"

    def of(name):
        return sweep(tmp_path / name, *parts, method=method, constraints=(rule,), startup_trials=3, seed=7)

    def value(config):
        return config["policy.n_action_steps"] / config["policy.horizon"]

    with Study(of("undisturbed")) as study:
        expected = run(study, 11, value=value)
        refused = len(study.suggester.trials()) - 11
    found = []
    for part in (2, 1, 4, 4):
        with Study(of("interrupted")) as study:
            found += run(study, part, value=value)
    assert found == expected
    assert refused == 0


@pytest.mark.slow
def test_trials_that_run_when_a_driver_dies_do_not_change_what_comes_next(tmp_path):
    asked = []
    for name, interrupted in (("one", False), ("two", True)):
        spec = sweep(tmp_path / name, LR, HORIZON, method="random")
        study = Study(spec)
        first, second = study.ask(), study.ask()
        if interrupted:
            study.close()
            study = Study(spec)
        with study:
            study.complete(first.number, {SUCCESS: 0.5})
            asked.append([first, second, study.ask(), study.ask()])
    assert asked[0] == asked[1]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", "grid"])
def test_listed_trials_come_first_once_and_the_sampler_adds_what_they_leave_out(tmp_path, method):
    first = ({"policy.horizon": 24, "policy.n_action_steps": 5}, {"policy.horizon": 8})
    spec = sweep(tmp_path, HORIZON, N_ACTION_STEPS, method=method, startup_trials=1, try_first=first)
    with Study(spec) as study:
        (alone,) = run(study, 1, value=lambda config: config["policy.horizon"])
        assert alone.config == {"train.steps": 100, "policy.horizon": 24, "policy.n_action_steps": 5}
        assert study.ask().values["policy.horizon"] == 8
    # The second one was handed out: it is not tried again, whatever became of it.
    longer = dataclasses.replace(spec.search, try_first=({"policy.horizon": 32}, *first))
    with Study(dataclasses.replace(spec, search=longer)) as study:
        later = run(study, 6, value=lambda config: config["policy.horizon"])
    assert later[0].values["policy.horizon"] == 32
    asked = [alone, *later]
    assert len({config_hash(one.config) for one in asked}) == len(asked)


@pytest.mark.slow
def test_a_listed_trial_that_was_tried_or_is_refused(tmp_path):
    listed = {"policy.horizon": 8, "policy.n_action_steps": 1}
    spec = sweep(tmp_path, HORIZON, N_ACTION_STEPS, method="random", try_first=(listed,))

    def refuses(config):
        return [Fault("policy.horizon", "8 is too short.")] if config["policy.horizon"] == 8 else []

    with Study(spec, accept=refuses) as study, pytest.raises(UserError, match=r"try_first.*8 is too short"):
        study.ask()
    with Study(dataclasses.replace(spec, search=dataclasses.replace(spec.search, try_first=()))) as study:
        suggestions = run(study, 64, value=lambda config: config["policy.horizon"])
    assert listed in [one.values for one in suggestions]
    with Study(spec) as study:
        assert study.ask() is None


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", pytest.param("cmaes", marks=pytest.mark.slow)])
def test_an_interrupted_search_with_listed_trials_tries_what_an_undisturbed_one_tries(tmp_path, method):
    first = ({"optimizer.lr": 1e-4}, {"policy.horizon": 16})
    found = {}
    for name, sizes in (("undisturbed", [8]), ("interrupted", [1, 3, 4])):
        spec = sweep(tmp_path / name, *NUMBERS, method=method, startup_trials=2, try_first=first)
        found[name] = []
        for size in sizes:
            with Study(spec) as study:
                found[name] += run(study, size)
    assert found["undisturbed"] == found["interrupted"]


# What is taken from earlier sweeps


def known_at(rate: float, horizon: int, value: float, stopped_at: int | None = None) -> TakenTrial:
    """A trial of an earlier sweep from which the sampler learns."""
    values = {"optimizer.lr": rate, "optimizer.weight_decay": 1e-6, "policy.horizon": horizon}
    return TakenTrial("old", 0, values, (value,), stopped_at)


WELL_KNOWN = tuple(
    known_at(10 ** -(3 + place / 10), horizon, -abs(place / 10 - 0.2))
    for place in range(20)
    for horizon in (8, 16)
)
"""Trials of which those with a learning rate near 6e-4 are the best."""


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", GP])
def test_the_sampler_knows_trials_of_earlier_sweeps_from_the_first_one_on(tmp_path, method):
    asked = {}
    for name, known in (("with", WELL_KNOWN), ("without", ())):
        spec = sweep(tmp_path / name, *NUMBERS, method=method, startup_trials=5)
        with Study(spec, taken=Taken(known=known)) as study:
            asked[name] = run(study, 5)
            assert states(study) == ["completed"] * 5, "the file has the trials of this sweep only"
            assert len(study.suggester.trials()) == 5
    assert [one.number for one in asked["with"]] == list(range(5))
    rates = {name: [one.config["optimizer.lr"] for one in found] for name, found in asked.items()}
    assert min(rates["without"]) < 1e-4, "at random over two decades"
    assert min(rates["with"]) > 2e-4, "near the best that is known"


@pytest.mark.slow
def test_what_is_known_of_trials_that_were_stopped_early_counts_too(tmp_path):
    stopped = tuple(known_at(1e-5 * (1 + place), 8, 0.0, stopped_at=10) for place in range(30))
    good = tuple(known_at(5e-4 + 1e-5 * place, 8, 1.0) for place in range(8))
    asked = []
    for name, known in (("a", good), ("b", (*good, *stopped))):
        spec = sweep(tmp_path / name, *NUMBERS, startup_trials=10)
        with Study(spec, taken=Taken(known=known)) as study:
            asked += run(study, 1)
    assert asked[0] != asked[1], "eight trials are too few to begin with, and with those stopped they are not"
    assert asked[1].config["optimizer.lr"] > 3e-4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", GP])
def test_an_interrupted_search_that_knows_earlier_trials_tries_what_an_undisturbed_one_tries(
    tmp_path, method
):
    rule = "policy.n_action_steps <= policy.horizon - 8 + 1"
    known = tuple(
        TakenTrial("old", number, {"policy.horizon": 24, "policy.n_action_steps": number}, (float(number),))
        for number in range(1, 12)
    )
    found = {}
    for name, sizes in (("undisturbed", [12]), ("interrupted", [1, 3, 8])):
        spec = sweep(
            tmp_path / name, HORIZON, N_ACTION_STEPS, method=method, startup_trials=3, constraints=(rule,)
        )
        found[name] = []
        for size in sizes:
            with Study(spec, taken=Taken(known=known)) as study:
                for _ in range(size):
                    asked = study.ask()
                    found[name].append(asked)
                    study.report(asked.number, 10, asked.config["policy.n_action_steps"])
                    if asked.number % 4 == 3:
                        study.prune(asked.number)
                    else:
                        study.complete(asked.number, {SUCCESS: asked.config["policy.n_action_steps"]})
    assert [one.number for one in found["interrupted"]] == list(range(12))
    assert found["interrupted"] == found["undisturbed"]


@pytest.mark.slow
def test_a_narrower_range_forgets_the_trials_outside_it(tmp_path):
    spec = sweep(tmp_path, *NUMBERS, startup_trials=5)
    with Study(spec, taken=Taken(known=WELL_KNOWN, first=(known_at(1e-3, 8, 0.0),))) as study:
        assert study.ask().values["optimizer.lr"] == 1e-3
    narrow = dataclasses.replace(LR, high=9e-5)
    spec = sweep(tmp_path, narrow, *NUMBERS[1:], startup_trials=5)
    first = (known_at(1e-3, 8, 0.0), known_at(5e-4, 8, 0.0), known_at(5e-5, 8, 0.0))
    with Study(spec, taken=Taken(known=WELL_KNOWN, first=first)) as study:
        asked = run(study, 3)
    assert asked[0].values["optimizer.lr"] == 5e-5
    assert all(one.config["optimizer.lr"] <= 9e-5 for one in asked)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["tpe", "random", "grid", CMAES])
def test_the_best_of_earlier_sweeps_come_after_what_the_user_listed_once(tmp_path, method):
    first = (
        TakenTrial("old", 7, {"policy.horizon": 24, "policy.n_action_steps": 5}),
        TakenTrial("old", 3, {"policy.horizon": 16, "policy.n_action_steps": 2}),
        TakenTrial("old", 4, {"policy.horizon": 16, "policy.n_action_steps": 9}),
    )
    listed = ({"policy.horizon": 8, "policy.n_action_steps": 1}, first[1].values)
    parts = {"method": method, "startup_trials": 1, "try_first": listed}
    spec = sweep(tmp_path, HORIZON, N_ACTION_STEPS, **parts)
    asked = []
    for size in (1, 2, 3):
        with Study(spec, taken=Taken(first=first)) as study:
            asked += run(study, size, value=lambda config: config["policy.horizon"])
            origins = [study.origin(number) for number in range(len(asked) + 1)]
    assert [one.values for one in asked[:4]] == [*listed, first[0].values, first[2].values]
    assert origins[:4] == ["search.try_first", "search.try_first", "trial 7 of old", "trial 4 of old"]
    assert origins[4:] == ["", "", ""]
    assert len({config_hash(one.config) for one in asked}) == 6


def test_a_configuration_of_an_earlier_sweep_that_is_refused_is_passed_over(tmp_path):
    first = (TakenTrial("old", 7, {"policy.horizon": 8}), TakenTrial("old", 3, {"policy.horizon": 24}))

    def refuses(config):
        return [Fault("policy.horizon", "8 is too short.")] if config["policy.horizon"] == 8 else []

    with Study(sweep(tmp_path, HORIZON), accept=refuses, taken=Taken(first=first)) as study:
        assert study.ask().values == {"policy.horizon": 24}
        assert study.origin(0) == "trial 3 of old"
