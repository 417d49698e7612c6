from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import optimize, special

from sweeper.evidence.anytime import anytime_interval, confidence_sequence
from sweeper.evidence.intervals import success_interval


@pytest.mark.parametrize(("successes", "episodes"), [(0, 10), (10, 10), (3, 10), (70, 100), (150, 200)])
def test_for_successes_it_is_robbins_mixture(successes: int, episodes: int) -> None:
    failures = episodes - successes

    def log_fortune(rate: float) -> float:
        mixture = special.betaln(successes + 0.5, failures + 0.5) - special.betaln(0.5, 0.5)
        return float(mixture - special.xlogy(successes, rate) - special.xlog1py(failures, -rate))

    limit, rate = math.log(20), successes / episodes
    low = optimize.brentq(lambda m: log_fortune(m) - limit, 1e-9, rate) if successes else 0.0
    high = optimize.brentq(lambda m: log_fortune(m) - limit, rate, 1 - 1e-9) if failures else 1.0
    found = anytime_interval([1] * successes + [0] * failures, (0.0, 1.0))
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-7)


def test_it_is_about_as_tight_as_hedged_capital_and_tighter_than_empirical_bernstein() -> None:
    values = np.tile([1, 0, 1, 1, 0, 1, 0, 1, 1, 1], 10)
    found = anytime_interval(values, (0.0, 1.0))
    # confseq 0.0.11 (its Python part): betting.hedged_cs and predmix.predmix_empbern_twosided_cs.
    hedged, bernstein = 0.8265 - 0.5479, 0.8562 - 0.5317
    assert hedged < 2 * found.half_width < 1.1 * hedged < bernstein


def test_looking_at_any_time_costs_a_wider_interval() -> None:
    fixed = success_interval(30, 50)
    found = anytime_interval([1] * 30 + [0] * 20, (0.0, 1.0))
    assert 1.3 * fixed.half_width < found.half_width < 1.8 * fixed.half_width


def test_other_bounds_are_another_scale() -> None:
    values = np.random.default_rng(0).random(30)
    unit, wide = anytime_interval(values, (0.0, 1.0)), anytime_interval(10 * values - 5, (-5.0, 5.0))
    assert (wide.low, wide.high) == pytest.approx((10 * unit.low - 5, 10 * unit.high - 5), abs=1e-6)


def test_rewards_that_vary_little_have_a_narrow_interval() -> None:
    differences = np.random.default_rng(0).normal(0.05, 0.1, 100)
    found = anytime_interval(differences, (-1.0, 1.0))
    assert found.low > 0
    assert found.half_width < 0.05


def test_the_order_of_the_episodes_does_not_matter() -> None:
    values = np.random.default_rng(0).random(40)
    assert anytime_interval(values, (0.0, 1.0)) == anytime_interval(values[::-1], (0.0, 1.0))


@pytest.mark.slow
def test_a_sequence_never_widens() -> None:
    values = np.random.default_rng(4).random(200)
    found = confidence_sequence(values, (0.0, 1.0), range(0, 201, 10))
    assert (found[0].low, found[0].high) == (0.0, 1.0)
    for before, after in pairwise(found):
        assert before.low <= after.low <= after.high <= before.high


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="out of bounds"):
        anytime_interval([2.0], (0.0, 1.0))
    with pytest.raises(ValueError, match="not between 0 and 1"):
        anytime_interval([0.5], (0.0, 1.0), confidence=95)
    with pytest.raises(ValueError, match="expected the smaller one first"):
        anytime_interval([0.5], (1.0, 0.0))


@pytest.mark.slow
def test_looking_after_every_block_the_mean_is_covered() -> None:
    rng = np.random.default_rng(7)
    missed = 0
    for _ in range(600):
        values = rng.random(200) < 0.7
        looks = confidence_sequence(values, (0.0, 1.0), range(20, 201, 20))
        missed += any(not look.covers(0.7) for look in looks)
    # The same looks with Wilson's interval miss it in a fifth of the runs or more.
    assert missed / 600 <= 0.05
