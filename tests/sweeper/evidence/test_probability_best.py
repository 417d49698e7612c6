from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sweeper.evidence.probability_best import best_mean_probabilities, best_rate_probabilities


def test_two_rates_have_the_probability_of_their_posteriors() -> None:
    found = best_rate_probabilities([35, 27], [50, 50])
    expected = stats.beta(36, 16).expect(stats.beta(28, 24).cdf)
    assert found[0] == pytest.approx(expected, abs=0.015)
    assert found.sum() == pytest.approx(1.0)


def test_equal_policies_share_the_probability() -> None:
    assert best_rate_probabilities([20] * 4, [40] * 4) == pytest.approx([0.25] * 4, abs=0.02)
    zeros = best_mean_probabilities([[0.0] * 9] * 5, paired=True)
    assert zeros == pytest.approx([0.2] * 5)
    twins = best_mean_probabilities([[0.9, 0.8], [0.9, 0.8], [0.1, 0.2]], paired=True)
    assert twins == pytest.approx([0.5, 0.5, 0.0])


def test_no_episodes_leave_the_prior() -> None:
    found = best_rate_probabilities([0, 50], [0, 100])
    assert found[0] == pytest.approx(0.5, abs=0.02)


def test_pairs_make_the_best_mean_more_certain() -> None:
    rng = np.random.default_rng(0)
    start = rng.random(50)
    better, worse = start + rng.normal(0.03, 0.05, 50), start + rng.normal(0.0, 0.05, 50)
    paired = best_mean_probabilities([better, worse], paired=True)[0]
    separate = best_mean_probabilities([better, worse], paired=False)[0]
    t = stats.ttest_rel(better, worse, alternative="greater").pvalue
    assert paired == pytest.approx(1 - t, abs=0.02)
    assert separate < 0.8 < 0.95 < paired


def test_the_seed_decides_the_draws() -> None:
    first, again, other = (best_rate_probabilities([5, 6], [9, 9], seed=seed) for seed in (1, 1, 2))
    assert first.tolist() == again.tolist() != other.tolist()


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="6 successes in 5"):
        best_rate_probabilities([6], [5])
    with pytest.raises(ValueError, match="needs episodes"):
        best_mean_probabilities([[0.1], []], paired=False)
    with pytest.raises(ValueError, match="paired ones the same"):
        best_mean_probabilities([[0.1], [0.1, 0.2]], paired=True)
    assert best_rate_probabilities([], []).tolist() == []
    assert best_mean_probabilities([], paired=True).tolist() == []
