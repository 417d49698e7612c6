from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from benchmarks.evidence import paired_successes
from sweeper.evidence.leader import holm, not_told_apart
from sweeper.evidence.paired import mcnemar_p_value, sign_flip_p_value


def test_holm_is_the_textbook_procedure() -> None:
    # statsmodels 0.15.0: multipletests([0.01, 0.04, 0.03, 0.005], method="holm")[1].
    assert holm([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]).tolist() == []
    assert holm([0.9, 0.8]).tolist() == [1.0, 1.0]


def test_the_clearly_worse_are_told_apart_from_the_leader() -> None:
    outcomes = paired_successes(np.random.default_rng(0), [0.3, 0.85, 0.8, 0.1], 50)
    found = not_told_apart(list(outcomes.T), "success", paired=True)
    assert (found.leader, found.not_told_apart) == (1, (2,))
    worst = outcomes[:, 1] - outcomes[:, 3]
    assert found.p_values[3] == pytest.approx(
        3 * mcnemar_p_value(int((worst > 0).sum()), int((worst < 0).sum()))
    )
    assert found.p_values[1] == 1.0


def test_rewards_and_separate_starts_have_tests_of_their_own() -> None:
    rng = np.random.default_rng(1)
    start = rng.random(40)
    a, b, c = (0.5 * start + rng.normal(mean, 0.05, 40) for mean in (0.3, 0.27, 0.1))
    pairs = not_told_apart([a, b, c], "value", paired=True)
    assert pairs.p_values[1] == pytest.approx(sign_flip_p_value(a - b))
    separate = not_told_apart([a, b, c], "value", paired=False)
    assert separate.p_values[1] == pytest.approx(stats.ttest_ind(a, b, equal_var=False).pvalue)
    assert (pairs.not_told_apart, separate.not_told_apart) == ((), (1,))
    successes = not_told_apart([[1] * 30, [0] * 25, [1] * 27 + [0]], "success", paired=False)
    assert (successes.leader, successes.not_told_apart) == (0, (2,))


def test_a_policy_without_episodes_is_not_told_apart() -> None:
    found = not_told_apart([[], [1, 1, 1], [0, 0, 0]], "success", paired=True)
    assert (found.leader, found.not_told_apart) == (1, (0, 2))
    with pytest.raises(ValueError, match="no policy has episodes"):
        not_told_apart([[], []], "success", paired=True)
    with pytest.raises(ValueError, match="same episodes"):
        not_told_apart([[1, 0], [1, 0, 1]], "success", paired=True)


def test_the_caller_may_name_the_leader() -> None:
    found = not_told_apart([[1] * 20, [0] * 20], "success", paired=True, leader=1)
    assert (found.leader, found.not_told_apart) == (1, ())


@pytest.mark.slow
def test_the_best_is_hardly_ever_told_apart_though_the_leader_was_chosen() -> None:
    rng = np.random.default_rng(5)
    for rates in ([0.5] * 8, [0.6] + [0.55] * 7):
        lost = 0
        for _ in range(2000):
            outcomes = paired_successes(rng, rates, 50)
            found = not_told_apart(list(outcomes.T), "success", paired=True)
            lost += found.leader != 0 and 0 not in found.not_told_apart
        assert lost / 2000 <= 0.025, rates
