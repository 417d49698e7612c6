from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.evidence.unpaired import (
    barnard_p_value,
    compare_successes,
    compare_values,
    newcombe_interval,
)


@pytest.mark.parametrize(
    ("a", "n", "b", "m", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 873-890, table II, method 10.
    [
        (56, 70, 48, 80, 0.0524, 0.3339),
        (9, 10, 3, 10, 0.1705, 0.8090),
        (10, 10, 0, 20, 0.6791, 1.0),
        (0, 10, 0, 20, -0.1611, 0.2775),
    ],
)
def test_newcombe_gives_the_published_intervals(
    a: int, n: int, b: int, m: int, low: float, high: float
) -> None:
    found = newcombe_interval(a, n, b, m)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("a", "n", "b", "m"), [(7, 15, 12, 15), (3, 20, 12, 20), (7, 7, 0, 7), (30, 50, 35, 50), (5, 9, 20, 60)]
)
def test_barnard_is_that_of_scipy(a: int, n: int, b: int, m: int) -> None:
    expected = stats.barnard_exact([[a, b], [n - a, m - b]], n=128).pvalue
    assert barnard_p_value(a, n, b, m) == pytest.approx(expected, rel=2e-3)
    assert barnard_p_value(b, m, a, n) == pytest.approx(barnard_p_value(a, n, b, m), rel=1e-9)


def test_barnard_with_400_episodes() -> None:
    # scipy 1.17.1, barnard_exact([[240, 280], [160, 120]]); it takes 20 times as long.
    assert barnard_p_value(240, 400, 280, 400) == pytest.approx(0.003315873074693157, rel=1e-3)


def test_equal_rates_and_no_episodes_are_not_told_apart() -> None:
    assert barnard_p_value(5, 10, 5, 10) == pytest.approx(1.0)
    nothing = compare_successes(0, 0, 3, 5)
    assert (nothing.p_value, nothing.interval.low, nothing.interval.high) == (1.0, -1.0, 1.0)
    assert math.isnan(nothing.a)


def test_success_rates_are_compared() -> None:
    found = compare_successes(35, 50, 25, 50)
    assert found.difference == pytest.approx(0.2)
    assert (found.episodes, found.paired, found.only_a) == ((50, 50), False, None)
    assert found.variance == pytest.approx(0.7 * 0.3 + 0.25)
    # Both posteriors are uniform times binomial; the integral by scipy.
    a, b = stats.beta(36, 16), stats.beta(26, 26)
    expected = a.expect(b.cdf)
    assert found.a_is_better == pytest.approx(expected, abs=1e-4)
    # 7.849 · 0.4584 / 0.16² = 140.5
    assert compare_successes(35, 50, 27, 50).further_episodes() == 141 - 50
    assert compare_successes(45, 50, 25, 50).further_episodes() == 0


def test_means_are_compared_as_by_welch() -> None:
    rng = np.random.default_rng(2)
    a, b = rng.beta(4, 2, 30), rng.beta(2, 3, 45)
    found = compare_values(a, b)
    expected = stats.ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue, rel=1e-9)
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high), abs=1e-9)
    assert found.a_is_better == pytest.approx(1 - expected.pvalue / 2)


def test_means_without_a_spread_are_compared_by_the_order_of_the_groups() -> None:
    found = compare_values([1.0] * 3, [0.5] * 3)
    assert found.p_value == pytest.approx(2 / 20)
    assert found.a_is_better == pytest.approx(0.95)
    assert compare_values([1.0] * 3, [1.0] * 3).p_value == 1.0


def test_one_value_has_no_spread() -> None:
    found = compare_values([1.0], [0.5, 0.6])
    assert (found.p_value, found.interval.low) == (1.0, -math.inf)
