"""Every combination of sampler options that the check accepts makes a sampler, and defaults never clash."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterator
from typing import Any

import optuna
import pytest
from small_sweeps import BETA_END, DIMS, ERROR, HORIZON, LR, SCHEDULE, SUCCESS

from sweeper.errors import UserError
from sweeper.search.sampler import Codec, build_sampler
from sweeper.spec.sampler_options import SAMPLER_OPTIONS, SamplerOption, complete_options, option_faults
from sweeper.spec.search_methods import method_faults
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import Objective, SearchSpec

SAMPLERS = {
    "tpe": optuna.samplers.TPESampler,
    "cmaes": optuna.samplers.CmaEsSampler,
    "gp": optuna.samplers.GPSampler,
}
WEIGHT_DECAY = Parameter("optimizer.weight_decay", "float", 1e-8, 1e-2, log=True)
DROPOUT = Parameter("policy.dropout", "float", 0.0, 0.9, step=0.1)
SPACES = {
    "floats": Space((LR, WEIGHT_DECAY)),
    "integers": Space((LR, HORIZON)),
    "steps": Space((LR, DROPOUT)),
    "choices": Space((LR, DIMS, SCHEDULE)),
    "conditions": Space((LR, SCHEDULE, BETA_END)),
}
ONE = (Objective(SUCCESS, "maximize"),)
TWO = (*ONE, Objective(ERROR, "minimize"))


def some_values(option: SamplerOption) -> tuple[Any, ...]:
    if option.info.kind == "bool":
        return (True, False)
    assert option.info.minimum is not None
    return (int(option.info.minimum), 6)


def searches(method: str) -> Iterator[SearchSpec]:
    """The method without options, with each value of each option, and with each pair of them."""
    settings = [(option.name, value) for option in SAMPLER_OPTIONS[method] for value in some_values(option)]
    for number in range(3):
        for chosen in itertools.combinations(settings, number):
            if len(dict(chosen)) == number:
                yield SearchSpec(method=method, options=dict(chosen), startup_trials=1)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("objectives", [ONE, TWO], ids=["one objective", "two objectives"])
@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("method", SAMPLERS)
def test_options_make_a_sampler_exactly_if_the_check_accepts_them(method, space, objectives):
    tried = accepted = 0
    for search in searches(method):
        if method_faults(search, SPACES[space], objectives):
            continue
        tried += 1
        if not option_faults(search):
            build_sampler(search, SPACES[space], objectives, seed=0)
            accepted += 1
            continue
        # What the check refuses, the sampler refuses too.
        with pytest.raises(ValueError, match=r"`group`|prohibited|do not support"):
            SAMPLERS[method](**complete_options(search, SPACES[space], objectives))
        with pytest.raises(UserError, match=r"^search\.options\.\w+: "):
            build_sampler(search, SPACES[space], objectives, seed=0)
    assert accepted or not tried
    assert tried or method != "tpe"


@pytest.mark.parametrize("method", SAMPLERS)
def test_every_option_is_an_argument_of_the_sampler(method):
    arguments = inspect.signature(SAMPLERS[method].__init__).parameters
    names = [option.name for option in SAMPLER_OPTIONS[method]]
    assert names
    assert [name for name in names if name not in arguments] == []


@pytest.mark.parametrize(
    ("options", "objectives", "expected"),
    [
        ({}, ONE, {"multivariate": True, "group": True}),
        ({"multivariate": False}, ONE, {"multivariate": False, "group": False}),
        ({"group": False}, ONE, {"multivariate": True, "group": False}),
        ({}, TWO, {"multivariate": False, "group": False}),
        ({"group": True}, TWO, {"multivariate": True, "group": True}),
        ({"multivariate": True}, TWO, {"multivariate": True, "group": True}),
    ],
)
def test_tpe_groups_conditional_parameters_if_it_models_them_together(options, objectives, expected):
    complete = complete_options(SearchSpec(options=options), SPACES["conditions"], objectives)
    assert {name: complete[name] for name in expected} == expected
    assert (
        not complete_options(SearchSpec(options=options), SPACES["floats"], ONE)["group"]
        or "group" in options
    )


@pytest.mark.parametrize(
    ("options", "space", "margin"),
    [
        ({}, "integers", True),
        ({}, "steps", True),
        ({}, "floats", False),
        ({"with_margin": False}, "integers", False),
        ({"use_separable_cma": True}, "integers", False),
        ({"lr_adapt": True}, "steps", False),
    ],
)
def test_cmaes_has_a_margin_for_integers_unless_another_option_excludes_it(options, space, margin):
    search = SearchSpec(method="cmaes", options=options)
    assert complete_options(search, SPACES[space], ONE)["with_margin"] is margin


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tpe", {"n_candidates": 3}, r"n_candidates: is not an option of tpe\. Allowed: n_ei_candidates, "),
        ("random", {"group": True}, r"group: is not an option of random\. random has no options\."),
        ("tpe", {"n_ei_candidates": 0}, r"n_ei_candidates: 0 is too small\."),
        ("cmaes", {"popsize": "many"}, r"popsize: 'many' is not an int\."),
        (
            "tpe",
            {"group": True, "multivariate": False},
            r"group: is true, but multivariate is false\. Set multivariate: true, or remove group\.",
        ),
    ],
)
def test_a_wrong_option_is_refused_with_what_is_allowed(method, options, message):
    with pytest.raises(UserError, match=message):
        build_sampler(SearchSpec(method=method, options=options), SPACES["floats"], ONE, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("space", ["floats", "integers", "steps"])
def test_every_accepted_pair_of_options_of_cmaes_samples(space):
    accepted = [search for search in searches("cmaes") if not option_faults(search)]
    assert len(accepted) > 10
    for search in accepted:
        study = optuna.create_study(
            sampler=build_sampler(search, SPACES[space], ONE, seed=0), direction="maximize"
        )
        for _ in range(15):  # two generations
            trial = study.ask()
            values = [Codec(parameter).suggest(trial) for parameter in SPACES[space].parameters]
            study.tell(trial, sum(values))
