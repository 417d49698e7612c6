from __future__ import annotations

import numpy as np
import pytest

from sweeper.evidence.shrinkage import (
    expected_best_of_equals,
    shrinkage_of_successes,
    shrinkage_of_values,
    shrunk,
)


def test_the_best_of_32_equal_policies_shows_65_percent() -> None:
    assert expected_best_of_equals(32, 50, 0.5) == pytest.approx(0.65, abs=0.005)
    draws = np.random.default_rng(0).binomial(50, 0.5, (10_000, 32)).max(axis=1) / 50
    assert expected_best_of_equals(32, 50, 0.5) == pytest.approx(draws.mean(), abs=0.002)
    assert expected_best_of_equals(1, 50, 0.3) == pytest.approx(0.3)
    assert (expected_best_of_equals(9, 9, 0.0), expected_best_of_equals(9, 9, 1.0)) == (0.0, 1.0)
    with pytest.raises(ValueError, match="0 policies"):
        expected_best_of_equals(0, 50, 0.5)


def test_the_drop_from_search_to_confirmation_has_an_interval() -> None:
    found = shrinkage_of_successes((40, 50), (260, 400))
    assert found.drop == pytest.approx(0.8 - 0.65)
    # Newcombe's interval of 40 of 50 against 260 of 400, by fieldtrial 0.3.0.
    assert (found.interval.low, found.interval.high) == pytest.approx(
        (0.01204378312574128, 0.249840493649578), abs=1e-9
    )
    values = shrinkage_of_values([0.8, 0.9, 0.7], [0.5, 0.6, 0.7, 0.6])
    assert values.drop == pytest.approx(0.2)
    assert values.interval.covers(0.2)


def test_shrunken_search_values_predict_the_confirmation() -> None:
    # Efron and Morris (1975), Journal of the American Statistical Association 70, table 1: 18 batters after
    # 45 times at bat, in the arcsine scale, with standard error 1.
    observed = np.array([18, 17, 16, 15, 14, 14, 13, 12, 11, 11, 10, 10, 10, 10, 10, 9, 8, 7])
    rest = [0.346, 0.298, 0.276, 0.222, 0.273, 0.270, 0.263, 0.210, 0.269, 0.230, 0.264, 0.256, 0.303, 0.264]
    season = np.array([*rest, 0.226, 0.286, 0.316, 0.200])
    scale = [np.sqrt(45) * np.arcsin(2 * rate - 1) for rate in (observed / 45, season)]
    found = shrunk(scale[0], np.ones(18))
    # They report a total squared error of 17.56 for the averages and 5.01 for the shrunken values.
    assert np.sum((scale[0] - scale[1]) ** 2) == pytest.approx(17.56, abs=0.3)
    assert np.sum((found - scale[1]) ** 2) == pytest.approx(5.01, abs=0.5)


def test_the_order_stays_and_the_extremes_move() -> None:
    values = np.array([0.9, 0.7, 0.6, 0.5, 0.45])
    found = shrunk(values, [0.07] * 5)
    assert (np.diff(found) < 0).all()
    assert 0.6 < found[0] < 0.9
    assert found[-1] > 0.45
    certain = shrunk(values, [1e-6] * 5)
    assert certain == pytest.approx(values, abs=1e-6)
    assert shrunk([0.9, 0.1], [0.3, 0.3]).tolist() == [0.9, 0.1]
