"""The search space: what a trial's configuration becomes, and what a space can count and draw."""

from __future__ import annotations

import math
import random
from collections import Counter

import pytest

from sweeper.spec.expressions import Expression
from sweeper.spec.space import Parameter, Space

SCHEDULE = Parameter("schedule", "categorical", values=("cosine", "linear"))
BETA_END = Parameter("beta_end", "float", 0.01, 0.03, step=0.01, when=Expression("schedule == 'linear'"))
BETA_START = Parameter("beta_start", "float", 0.0, 0.01, when=Expression("beta_end > 0.015"))
HORIZON = Parameter("horizon", "int", 8, 32, step=8)
ACTIONS = Parameter("actions", "int", 1, 16)
LR = Parameter("lr", "float", 1e-5, 1e-3, log=True)
WIDTHS = Parameter("widths", "categorical", values=([32, 64], [64, 128]))

SPACE = Space(
    (SCHEDULE, BETA_END, BETA_START, HORIZON, ACTIONS),
    (Expression("actions <= horizon - observations + 1"),),
    {"beta_end": 0.02, "beta_start": 1e-4, "observations": 2, "sampler": None},
)


def test_a_trial_has_the_fixed_values_and_the_parameters_that_exist():
    values = {"schedule": "linear", "beta_end": 0.03, "beta_start": 0.005, "horizon": 16, "actions": 8}
    assert SPACE.complete(values, {"steps": 5}) == {"steps": 5, **values}
    without = {"steps": 5, "schedule": "cosine", "beta_start": 0.005, "horizon": 16, "actions": 8}
    # beta_end keeps its default of 0.02 with the cosine, which is above 0.015.
    assert SPACE.complete({**values, "schedule": "cosine"}, {"steps": 5}) == without


def test_a_condition_sees_the_fixed_value_of_a_parameter_that_does_not_exist():
    values = {"schedule": "cosine", "beta_start": 0.005, "horizon": 16, "actions": 8}
    assert "beta_start" not in SPACE.complete(values, {"beta_end": 0.01})
    assert SPACE.complete(values, {"beta_end": 0.02})["beta_start"] == 0.005


def test_a_missing_value_is_an_error_only_where_the_parameter_exists():
    SPACE.complete({"schedule": "cosine", "beta_start": 0.0, "horizon": 8, "actions": 1}, {})
    with pytest.raises(KeyError, match="beta_end"):
        SPACE.complete({"schedule": "linear", "beta_start": 0.0, "horizon": 8, "actions": 1}, {})


def test_violated_constraints_are_named_by_their_text():
    assert SPACE.violated({"horizon": 8, "actions": 7}) == []
    assert SPACE.violated({"horizon": 8, "actions": 8}) == ["actions <= horizon - observations + 1"]
    assert SPACE.violated({"horizon": 8, "actions": 8, "observations": 1}) == []


def test_a_constraint_without_a_value_does_not_hold():
    space = Space((HORIZON,), (Expression("sampler < 3"),), {"sampler": None})
    assert space.violated({"horizon": 8}) == ["sampler < 3"]
    assert space.violated({"horizon": 8}, {"sampler": 1}) == []


@pytest.mark.parametrize(
    ("parameter", "size"),
    [
        (SCHEDULE, 2),
        (BETA_END, 3),
        (HORIZON, 4),
        (ACTIONS, 16),
        (LR, None),
        (Parameter("x", "int", 1, 9, log=True), 9),
    ],
)
def test_a_parameter_knows_how_many_values_it_has(parameter, size):
    assert parameter.size() == size
    if size is not None:
        assert len(set(map(str, parameter.grid()))) == size


def test_a_grid_has_no_rounding_of_repeated_addition():
    assert Parameter("x", "float", 0.1, 0.5, step=0.1).grid() == [0.1, 0.2, 0.3, 0.4, 0.5]


def test_a_continuous_range_has_no_grid():
    with pytest.raises(ValueError, match="lr"):
        LR.grid()
    with pytest.raises(ValueError, match="schedule"):
        SCHEDULE.bounds()
    assert Space((LR, HORIZON)).size() is None


@pytest.mark.parametrize(
    "parameter", [SCHEDULE, BETA_END, HORIZON, ACTIONS, LR, WIDTHS, Parameter("x", "int", 1, 100, log=True)]
)
def test_draws_are_legal_cover_the_ends_and_repeat_with_the_seed(parameter):
    generator = random.Random(3)
    drawn = [parameter.draw(generator) for _ in range(600)]
    size = parameter.size()
    if size is None:
        assert all(parameter.low <= value <= parameter.high for value in drawn)
        below = sum(value < math.sqrt(parameter.low * parameter.high) for value in drawn)
        assert 240 < below < 360  # half of them on a logarithmic scale
    elif parameter.log:
        assert Counter(value < 10 for value in drawn)[True] > 200
    else:
        assert all(value in parameter.grid() for value in drawn)
        assert len(set(map(str, drawn))) == size
    assert drawn[:5] == [parameter.draw(again) for again in [random.Random(3)] for _ in range(5)]


def test_points_are_distinct_keep_the_constraints_and_follow_the_order():
    space = Space((SCHEDULE, BETA_END, HORIZON, ACTIONS), SPACE.constraints, SPACE.defaults)
    points = list(space.points({"steps": 5}))
    # 7 + 15 + 16 + 16 pairs of horizon and actions; the cosine has no beta_end, linear has three.
    assert len(points) == 54 * (1 + 3)
    assert len({str(point) for point in points}) == len(points)
    assert points[0] == {"steps": 5, "schedule": "cosine", "horizon": 8, "actions": 1}
    assert all(not space.violated(point) for point in points)
    assert space.size() == 2 * 3 * 4 * 16


def test_a_space_survives_plain_types():
    space = Space((*SPACE.parameters, LR, WIDTHS), SPACE.constraints, SPACE.defaults)
    assert Space.from_dict(space.to_dict()) == space
    assert space.names == ("schedule", "beta_end", "beta_start", "horizon", "actions", "lr", "widths")
