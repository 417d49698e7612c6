from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, ttest_1samp

from trainables.confidence import mean_interval, wilson_interval


def test_interval_agrees_with_published_values() -> None:
    # Newcombe (1998), table I: 81 of 263, 15 of 148, 1 of 29.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson_interval(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_interval_is_not_empty_if_everything_fails_or_succeeds() -> None:
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    low, high = wilson_interval(20, 20)
    assert low == pytest.approx(0.8389, abs=5e-5)
    assert high == 1.0


def test_without_trials_the_interval_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_more_confidence_is_a_wider_interval() -> None:
    narrow, wide = wilson_interval(7, 20, confidence=0.8), wilson_interval(7, 20, confidence=0.99)
    assert wide[0] < narrow[0] < 0.35 < narrow[1] < wide[1]


@pytest.mark.parametrize(
    ("successes", "n", "confidence"), [(3, 2, 0.95), (-1, 2, 0.95), (1, 2, 1.0), (1, 2, 0)]
)
def test_impossible_counts_are_refused(successes: int, n: int, confidence: float) -> None:
    with pytest.raises(ValueError, match=r"successes|confidence"):
        wilson_interval(successes, n, confidence)


@pytest.mark.slow
def test_interval_of_a_mean_is_students_and_follows_skew() -> None:
    symmetric = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    reference = ttest_1samp(symmetric, 0).confidence_interval(0.95)
    assert mean_interval(symmetric) == pytest.approx((reference.low, reference.high), abs=1e-12)
    rewards = np.random.default_rng(3).beta(0.6, 0.4, size=50)
    low, high = mean_interval(rewards) or (0.0, 0.0)
    bca = bootstrap((rewards,), np.mean, method="BCa", n_resamples=50_000, rng=1).confidence_interval
    assert (low, high) == pytest.approx((bca.low, bca.high), abs=0.006)
    assert low < rewards.mean() < high


@pytest.mark.slow
def test_interval_of_a_mean_covers_it_about_as_often_as_promised() -> None:
    rng = np.random.default_rng(0)
    covered = [
        low <= 0.6 <= high for low, high in (mean_interval(rng.beta(0.6, 0.4, 50)) for _ in range(2000))
    ]
    assert 0.925 <= np.mean(covered) <= 0.965


def test_values_without_spread_have_no_interval() -> None:
    assert mean_interval(np.array([0.7])) is None
    assert mean_interval(np.full(32, 0.7)) is None
    with pytest.raises(ValueError, match="confidence"):
        mean_interval(np.array([0.0, 1.0]), confidence=95)
