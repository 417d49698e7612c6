from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.evidence import paired_successes
from sweeper.evidence.race import Race, RaceRule, RaceState, replay

NAMES = tuple("abcdefgh")


def records(outcomes: np.ndarray) -> dict[str, dict[int, float]]:
    return {name: dict(enumerate(column.tolist())) for name, column in zip(NAMES, outcomes.T, strict=False)}


def run(rates: list[float], rule: RaceRule, seed: int) -> Race[str]:
    outcomes = records(paired_successes(np.random.default_rng(seed), rates, rule.budget))
    return replay(NAMES[: len(rates)], outcomes, rule)


def test_the_clearly_worse_leave_and_the_best_is_left() -> None:
    race = run([0.2, 0.9, 0.5, 0.4], RaceRule(budget=400), seed=0)
    assert (race.state, race.leader, race.remaining) == (RaceState.DECIDED, "b", ("b",))
    assert {departure.arm for departure in race.departures} == {"a", "c", "d"}
    assert race.departures[0].arm == "a"
    assert all(before.episodes <= after.episodes for before, after in pairwise(race.departures))
    assert race.departures[-1].rival == "b"
    assert race.episodes < 200
    assert not race.next_block


def test_an_arm_that_left_needs_no_further_episodes() -> None:
    race = run([0.2, 0.7, 0.7], RaceRule(budget=100), seed=1)
    assert len(race.outcomes("a")) == race.departures[0].episodes < 100
    assert len(race.outcomes("b")) == race.episodes == 100
    assert race.state == RaceState.BUDGET_USED


def test_a_fortune_is_the_product_of_its_bets() -> None:
    race = Race(["a", "b"], RaceRule(budget=40, block=5, delta=0.05))
    # One bet of a share s wins 1 + s each time: the mean over all bets reaches 2 / 0.05 at the sixth episode.
    shares = np.linspace(0.03, 0.9, 30)
    assert np.mean((1 + shares) ** 5) < 40 < np.mean((1 + shares) ** 10)
    assert race.add_block({"a": [1] * 5, "b": [0] * 5}) == []
    left = race.add_block({"a": [1] * 5, "b": [0] * 5})
    assert [departure.arm for departure in left] == ["b"]


def test_equals_are_not_told_apart_within_epsilon() -> None:
    race = run([0.7, 0.7, 0.7], RaceRule(budget=4000, epsilon=0.1), seed=3)
    assert race.state == RaceState.WITHIN_EPSILON
    assert set(race.remaining) == {"a", "b", "c"}
    assert 100 < race.episodes < 2000
    assert run([0.7, 0.7, 0.7], RaceRule(budget=race.episodes), seed=3).state == RaceState.BUDGET_USED


def test_rewards_race_with_given_bounds() -> None:
    rng = np.random.default_rng(0)
    start = rng.random((400, 1))
    outcomes = 100 * np.clip(0.5 * start + np.array([0.1, 0.2, 0.25]) + 0.1 * rng.random((400, 3)), 0, 1)
    race = replay(NAMES[:3], records(outcomes), RaceRule(bounds=(0.0, 100.0)))
    assert (race.state, race.leader) == (RaceState.DECIDED, "c")
    difference = race.difference("c", "b")
    assert 0 < difference.low < 5 < difference.high < 15
    assert race.interval("c").covers(float(np.mean(race.outcomes("c"))))
    shifted = replay(NAMES[:3], records(outcomes - 300), RaceRule(bounds=(-300.0, -200.0)))
    assert [d.episodes for d in shifted.departures] == [d.episodes for d in race.departures]


def test_a_race_is_a_function_of_its_records() -> None:
    outcomes = records(paired_successes(np.random.default_rng(5), [0.6, 0.75, 0.4, 0.7], 400))
    rule = RaceRule()
    whole = replay(NAMES[:4], outcomes, rule)
    # The same records arrive in another order, and the driver dies before a block is complete.
    rng = np.random.default_rng(0)
    shuffled = {arm: {int(n): found[int(n)] for n in rng.permutation(400)} for arm, found in outcomes.items()}
    assert replay(NAMES[:4], shuffled, rule).departures == whole.departures
    for known in (0, 19, 45, 110):
        part = {arm: {n: v for n, v in found.items() if n < known} for arm, found in outcomes.items()}
        race = replay(NAMES[:4], part, rule)
        assert race.episodes == min(known - known % 20, whole.episodes)
        while block := race.next_block:
            race.add_block({arm: [outcomes[arm][n] for n in block] for arm in race.remaining})
        assert race.departures == whole.departures
        assert (race.state, race.leader) == (whole.state, whole.leader)


def test_a_larger_budget_repeats_the_decisions() -> None:
    outcomes = records(paired_successes(np.random.default_rng(6), [0.3, 0.6, 0.7], 400))
    short, long = (replay(NAMES[:3], outcomes, RaceRule(budget=budget)) for budget in (90, 400))
    assert short.episodes == 80, "whole blocks only: a part of a block would be another decision"
    assert short.departures == long.departures[: len(short.departures)]
    assert len(short.departures) >= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": 0}, "expected 1 to the budget"),
        ({"budget": 10, "block": 20}, "expected 1 to the budget"),
        ({"delta": 0.0}, "delta"),
        ({"epsilon": -0.1}, "epsilon"),
        ({"epsilon": 1.0}, "epsilon"),
        ({"bounds": (1.0, 0.0)}, "smaller one first"),
    ],
)
def test_a_rule_that_cannot_be_is_refused(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RaceRule(**settings)  # type: ignore[arg-type]


def test_a_block_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="two different arms"):
        Race(["a"], RaceRule())
    with pytest.raises(ValueError, match="two different arms"):
        Race(["a", "a"], RaceRule())
    race = Race(["a", "b"], RaceRule(budget=4, block=2))
    with pytest.raises(ValueError, match="lacks the outcomes of b"):
        race.add_block({"a": [1, 1]})
    with pytest.raises(ValueError, match="3 outcomes in a block of 2"):
        race.add_block({"a": [1, 1], "b": [0, 0, 0]})
    with pytest.raises(ValueError, match="out of bounds"):
        race.add_block({"a": [1, 1], "b": [0, 2]})
    assert race.episodes == 0
    race.add_block({"a": [1, 1], "b": [1, 1]})
    race.add_block({"a": [1, 1], "b": [1, 1]})
    with pytest.raises(ValueError, match="the race has ended: budget used"):
        race.add_block({"a": [1, 1], "b": [1, 1]})


@pytest.mark.slow
@pytest.mark.parametrize(("rates", "correlation"), [([0.5] * 8, 0.5), ([0.7] * 2 + [0.6] * 2, 0.2)])
def test_no_best_arm_leaves_in_2000_races_though_every_block_decides(
    rates: list[float], correlation: float
) -> None:
    rng = np.random.default_rng(11)
    rule = RaceRule(budget=200, block=20, delta=0.05)
    best = {name for name, rate in zip(NAMES, rates, strict=False) if rate == max(rates)}
    wrong = 0
    for _ in range(2000):
        outcomes = paired_successes(rng, rates, rule.budget, correlation)
        race = replay(NAMES[: len(rates)], records(outcomes), rule)
        # A departure is final, so a race stopped after any block made no other mistake than the whole one.
        wrong += any(departure.arm in best for departure in race.departures)
    assert wrong / 2000 <= rule.delta


@pytest.mark.slow
def test_the_answer_is_right_within_epsilon() -> None:
    rng = np.random.default_rng(12)
    rule = RaceRule(budget=1000, block=50, delta=0.2, epsilon=0.1)
    rates, wrong, ended = [0.6, 0.71, 0.6, 0.6], 0, 0
    for _ in range(300):
        race = replay(NAMES[:4], records(paired_successes(rng, rates, rule.budget)), rule)
        ended += race.state in (RaceState.DECIDED, RaceState.WITHIN_EPSILON)
        wrong += race.state != RaceState.BUDGET_USED and race.leader != "b"
    assert ended > 250
    assert wrong / 300 <= rule.delta


def test_further_episodes_are_those_that_decide_if_they_are_like_those_before() -> None:
    rule = RaceRule(budget=400, block=1)
    pattern = {"a": [1, 0, 1, 1, 0], "b": [0, 0, 1, 0, 0], "c": [0, 1, 0, 0, 0]}
    repeated = {arm: dict(enumerate(found * 80)) for arm, found in pattern.items()}
    whole = replay("abc", repeated, rule)
    assert whole.state == RaceState.DECIDED
    part = {arm: dict(list(found.items())[:10]) for arm, found in repeated.items()}
    race = replay("abc", part, rule)
    further = race.further_episodes()
    assert further is not None
    # The first one that leaves lowers the bar for the second, so the race is not longer than planned.
    assert whole.episodes - 5 <= 10 + further <= whole.episodes + 10
    assert whole.further_episodes() == 0


def test_equals_have_no_useful_number_of_further_episodes() -> None:
    even = {"a": {0: 1.0, 1: 0.0}, "b": {0: 0.0, 1: 1.0}}
    assert replay("ab", even, RaceRule(block=1)).further_episodes() is None
    assert Race("ab", RaceRule()).further_episodes() is None
    close = {"a": dict(enumerate([1.0] * 501 + [0.0] * 499)), "b": dict(enumerate([0.0] * 500 + [1.0] * 500))}
    found = replay("ab", {arm: dict(list(one.items())) for arm, one in close.items()}, RaceRule(1000, 1000))
    assert found.further_episodes(most=100) is None
