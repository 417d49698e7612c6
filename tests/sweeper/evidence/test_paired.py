from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from sweeper.evidence.paired import (
    compare_paired_successes,
    compare_paired_values,
    mcnemar_p_value,
    shared_episodes,
    sign_flip_p_value,
    tango_interval,
)


def successes(both: int, only_a: int, only_b: int, neither: int) -> tuple[list[int], list[int]]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    return a, [1] * both + [0] * only_a + [1] * only_b + [0] * neither


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 12), (12, 5), (10, 10), (150, 90)])
def test_mcnemar_is_the_binomial_test_of_discordant_pairs(only_a: int, only_b: int) -> None:
    expected = stats.binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    assert mcnemar_p_value(only_a, only_b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("only_a", "only_b", "pairs", "low", "high"),
    # fieldtrial 0.3.0, fieldtrial.stats.paired.tango_interval.
    [
        (8, 0, 10, 0.3004409602468005, 0.9433178485456256),
        (0, 0, 10, -0.27753279986288926, 0.2775327998628892),
        (10, 0, 10, 0.44493440027422154, 1.0),
        (12, 3, 50, 0.031386257825415785, 0.32988776706227574),
        (1, 9, 40, -0.3570718449746306, -0.055140974943718106),
        (90, 60, 400, 0.01512873589821328, 0.1346214304886969),
    ],
)
def test_tango_is_that_of_fieldtrial(only_a: int, only_b: int, pairs: int, low: float, high: float) -> None:
    found = tango_interval(only_a, only_b, pairs)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-9)
    mirrored = tango_interval(only_b, only_a, pairs)
    assert (mirrored.low, mirrored.high) == pytest.approx((-high, -low), abs=1e-9)


@pytest.mark.slow
def test_tango_excludes_zero_when_mcnemars_score_is_significant() -> None:
    for only_a in range(12):
        for only_b in range(only_a):
            score = (only_a - only_b) / math.sqrt(only_a + only_b)
            assert (tango_interval(only_a, only_b, 60).low > 0) == (score > stats.norm.ppf(0.975))


def test_flipping_signs_is_scipys_permutation_test() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 4, 9, 12):
        differences = rng.normal(0.2, 0.4, n)
        expected = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=5000
        )
        assert sign_flip_p_value(differences) == pytest.approx(expected.pvalue, abs=0.002), n


def test_flipping_signs_of_successes_is_mcnemars_test() -> None:
    for only_a, only_b in ((10, 3), (0, 7), (4, 4), (120, 80)):
        differences = [1] * only_a + [-1] * only_b + [0] * 20
        assert sign_flip_p_value(differences) == pytest.approx(mcnemar_p_value(only_a, only_b), rel=1e-9)


def test_a_small_p_value_has_no_floor() -> None:
    assert sign_flip_p_value([0.3] * 40) == pytest.approx(2 * 0.5**40)
    assert sign_flip_p_value([0.0] * 40) == sign_flip_p_value([]) == 1.0


def test_pairs_of_successes_are_compared() -> None:
    found = compare_paired_successes(*successes(20, 12, 3, 15))
    assert (found.a, found.b, found.difference) == pytest.approx((0.64, 0.46, 0.18))
    assert (found.only_a, found.only_b, found.episodes, found.paired) == (12, 3, (50, 50), True)
    assert found.p_value == pytest.approx(stats.binomtest(12, 15).pvalue)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.0313863, 0.3298878), abs=1e-7)
    # 15 discordant starts, 12 for A: the share of A has the posterior Beta(13, 4).
    assert found.a_is_better == pytest.approx(stats.beta(13, 4).sf(0.5))
    assert found.variance == pytest.approx(0.3 - 0.18**2)


def test_starts_on_which_both_do_the_same_change_no_p_value() -> None:
    few, many = (compare_paired_successes(*successes(n, 9, 2, n)) for n in (0, 200))
    assert few.p_value == many.p_value
    assert many.interval.half_width < few.interval.half_width / 4


def test_pairs_of_values_are_compared() -> None:
    rng = np.random.default_rng(1)
    start = rng.random(40)
    a, b = 0.5 * start + 0.3 + 0.1 * rng.random(40), 0.5 * start + 0.27 + 0.1 * rng.random(40)
    found = compare_paired_values(a, b, bounds=(0.0, 1.0))
    assert found.difference == pytest.approx(float(np.mean(a - b)))
    assert found.p_value < 0.01 < stats.ttest_ind(a, b).pvalue, "pairs show what separate starts do not"
    assert found.interval.low > 0
    assert found.a_is_better == pytest.approx(1 - stats.ttest_rel(a, b, alternative="greater").pvalue)


def test_values_out_of_bounds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.5 is out of bounds"):
        compare_paired_values([0.1, 1.5], [0.2, 0.3], bounds=(0.0, 1.0))
    with pytest.raises(ValueError, match="compare_paired_values"):
        compare_paired_successes([1, 0.5], [1, 0])
    with pytest.raises(ValueError, match="not pairs"):
        compare_paired_values([0.1], [0.2, 0.3])


def test_nothing_is_known_without_episodes_or_without_a_difference() -> None:
    for found in (compare_paired_successes([], []), compare_paired_values([], [], bounds=(0.0, 1.0))):
        assert (found.p_value, found.a_is_better) == (1.0, 0.5)
        assert (found.interval.low, found.interval.high) == (-1.0, 1.0)
    same = compare_paired_values([0.2, 0.4], [0.2, 0.4])
    assert (same.p_value, same.a_is_better, same.further_episodes()) == (1.0, 0.5, None)
    constant = compare_paired_values([0.5, 0.5, 0.5], [0.25, 0.25, 0.25])
    assert constant.a_is_better == pytest.approx(1 - 0.5**4)


def test_further_episodes_would_tell_two_apart() -> None:
    found = compare_paired_successes(*successes(20, 9, 4, 17))
    # (1.960 √0.26 + 0.842 √(0.26 - 0.01))² / 0.01 = 201.7
    assert found.further_episodes() == 202 - 50
    assert compare_paired_successes(*successes(20, 14, 1, 15)).further_episodes() == 0


def test_outcomes_are_aligned_by_their_seeds() -> None:
    a, b = shared_episodes({3: 1.0, 1: 0.0, 2: 0.5}, {1: 0.25, 3: 0.75, 9: 1.0})
    assert (a.tolist(), b.tolist()) == ([1.0, 0.0], [0.75, 0.25])
