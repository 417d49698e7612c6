from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.evidence.intervals import mean_interval, success_interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Newcombe (1998), Statistics in Medicine 17, 857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_gives_the_published_intervals(successes: int, episodes: int, low: float, high: float) -> None:
    found = success_interval(successes, episodes)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.method == "Wilson"


@pytest.mark.parametrize(("successes", "episodes"), [(0, 1), (3, 7), (50, 50), (199, 400)])
def test_wilson_is_that_of_scipy(successes: int, episodes: int) -> None:
    found = success_interval(successes, episodes, 0.9)
    expected = stats.binomtest(successes, episodes).proportion_ci(0.9, "wilson")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_no_episodes_say_nothing() -> None:
    assert (success_interval(0, 0).low, success_interval(0, 0).high) == (0.0, 1.0)
    assert (mean_interval([]).low, mean_interval([3.0]).high) == (-math.inf, math.inf)
    one = mean_interval([0.4], bounds=(0.0, 2.0))
    # One value of a known range says a little: Wilson's interval of 0.2 successes in one episode.
    assert (one.low, one.high) == pytest.approx(
        tuple(2 * end for end in wilson_interval_of_a_fifth()), abs=1e-9
    )


def wilson_interval_of_a_fifth() -> tuple[float, float]:
    z = stats.norm.ppf(0.975)
    centre, spread = 0.2 + z * z / 2, z * math.sqrt(0.16 + z * z / 4)
    return (centre - spread) / (1 + z * z), (centre + spread) / (1 + z * z)


def test_equal_values_are_not_taken_for_certainty_if_the_range_is_known() -> None:
    found = mean_interval([1.0] * 50, bounds=(0.0, 1.0))
    assert (found.low, found.high) == pytest.approx((0.9287, 1.0), abs=5e-5)
    without = mean_interval([1.0] * 50)
    assert (without.low, without.high) == (1.0, 1.0)


def test_symmetric_values_get_students_t() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    found = mean_interval(values)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_skewed_values_shift_the_interval_towards_the_tail() -> None:
    values = np.array([0.0, 0.0, 0.1, 0.1, 0.2, 0.2, 0.3, 1.0, 1.5, 3.0])
    found, plain = mean_interval(values), stats.ttest_1samp(values, 0).confidence_interval(0.95)
    shift = stats.skew(values) * values.std(ddof=1) / 10 * (1 + 2 * 1.96**2) / 6
    assert shift > 0.2
    assert (found.low, found.high) == pytest.approx((plain.low + shift, plain.high + shift), abs=1e-4)


def test_the_interval_of_a_mean_is_that_of_the_accelerated_bootstrap_with_many_values() -> None:
    values = np.random.default_rng(3).beta(1, 4, 300)
    found = mean_interval(values)
    # scipy 1.17.1: scipy.stats.bootstrap((values,), np.mean, n_resamples=99_999, rng=0), method BCa.
    assert (found.low, found.high) == pytest.approx((0.17951, 0.21409), abs=4e-4)


@pytest.mark.parametrize("values", [[0.1, math.nan], [0.1, math.inf], [0.1, 1.2], [[0.1], [0.2]]])
def test_values_that_cannot_be_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"has the value|out of bounds|one value per episode"):
        mean_interval(values, bounds=(0.0, 1.0))


@pytest.mark.parametrize(("successes", "episodes"), [(-1, 5), (6, 5)])
def test_impossible_counts_are_refused(successes: int, episodes: int) -> None:
    with pytest.raises(ValueError, match="expected 0 to 5"):
        success_interval(successes, episodes)


@pytest.mark.parametrize("confidence", [0.0, 1.0, 95])
def test_a_confidence_is_between_0_and_1(confidence: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        success_interval(1, 2, confidence)
