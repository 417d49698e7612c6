from __future__ import annotations

import subprocess
import sys

import pytest

from benchmarks.evidence import power_of_mcnemar
from sweeper.evidence.planning import (
    detectable_difference,
    episodes_needed,
    further_episodes,
    paired_detectable_difference,
    paired_episodes_needed,
)


def test_50_episodes_tell_28_points_apart_and_20_points_need_98() -> None:
    assert round(100 * detectable_difference(50)) == 28
    assert episodes_needed(0.2) == 98
    # The textbook example of 60 % against 70 %: 356 with Fleiss' formula, which has two variances.
    assert episodes_needed(0.1, rate=0.65) == 357


def test_both_directions_agree() -> None:
    for difference in (0.05, 0.1, 0.3):
        assert detectable_difference(episodes_needed(difference)) == pytest.approx(difference, rel=0.02)
        pairs = paired_episodes_needed(difference, 0.4)
        assert paired_detectable_difference(pairs, 0.4) == pytest.approx(difference, rel=0.02)


def test_too_few_episodes_show_no_difference() -> None:
    assert detectable_difference(0) == detectable_difference(2) == 1.0
    assert paired_detectable_difference(0, 0.3) == 0.3
    assert paired_detectable_difference(3, 0.3) == 0.3


def test_pairs_need_as_many_as_separate_starts_if_outcomes_are_independent() -> None:
    # Of two independent policies at 0.6 and 0.4, exactly one succeeds on 0.6² + 0.4² of the starts.
    assert paired_episodes_needed(0.2, 0.52) == pytest.approx(episodes_needed(0.2), rel=0.03)
    assert paired_episodes_needed(0.2, 0.26) <= 0.5 * episodes_needed(0.2)


@pytest.mark.slow
def test_the_planned_pairs_have_the_stated_power() -> None:
    for difference, discordance in ((0.1, 0.3), (0.2, 0.4), (0.05, 0.2)):
        pairs = paired_episodes_needed(difference, discordance)
        only_a, only_b = (discordance + difference) / 2, (discordance - difference) / 2
        # The exact test is a little less powerful than the formula, which is that of the score test.
        assert 0.75 < power_of_mcnemar(only_a, only_b, pairs) < 0.81, (difference, pairs)
    # fieldtrial 0.3.0: fieldtrial.stats.power.mcnemar_power(0.3, 0.1, 76).
    assert power_of_mcnemar(0.3, 0.1, 76) == pytest.approx(0.7542288545780862, abs=1e-6)


def test_further_episodes_are_those_beyond_the_present_ones() -> None:
    assert further_episodes(50, 0.2, 0.5, paired=False) == 98 - 50
    assert further_episodes(500, 0.2, 0.5, paired=False) == 0
    assert further_episodes(50, 0.0, 0.5) is None
    # A wins on each of three starts: six are the fewest with which an exact test rejects.
    assert further_episodes(3, 1.0, 0.0) == 3


@pytest.mark.parametrize("difference", [0.0, -0.1, 1.1])
def test_a_difference_is_above_0(difference: float) -> None:
    with pytest.raises(ValueError, match=r"difference .* expected above 0"):
        episodes_needed(difference)
    with pytest.raises(ValueError, match="difference"):
        paired_episodes_needed(difference, 0.05)


def test_planning_needs_the_standard_library_only() -> None:
    program = "import sys, sweeper.evidence.planning; print({'numpy', 'scipy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"
