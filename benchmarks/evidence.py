"""How well the statistics keep their promises: ``python -m benchmarks.evidence [--quick]``.

Prints the tables of docs/evidence.md. Coverage of intervals of success rates is exact: all results are
enumerated. The rest is simulated with fixed seeds. Two minutes of one core; ``--quick`` has a fifth of the
repetitions.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy import special, stats

from sweeper.evidence.anytime import anytime_interval, confidence_sequence
from sweeper.evidence.intervals import mean_interval, success_interval
from sweeper.evidence.leader import not_told_apart
from sweeper.evidence.paired import mcnemar_p_value, tango_ends
from sweeper.evidence.planning import episodes_needed, paired_episodes_needed
from sweeper.evidence.race import BETS, Race, RaceRule, RaceState, replay
from sweeper.evidence.shrinkage import expected_best_of_equals
from sweeper.evidence.unpaired import barnard_p_value, compare_values, newcombe_interval

Values = NDArray[np.float64]
Drawn = Callable[[np.random.Generator, tuple[int, ...]], Values]

RATES = np.linspace(0.05, 0.95, 37)


def _some_succeed(share: float, a: float, b: float) -> Drawn:
    """Rewards as of Push-T: 1 for success, the coverage reached otherwise."""
    return lambda rng, shape: np.where(rng.random(shape) < share, 1.0, rng.beta(a, b, shape))


REWARDS: dict[str, tuple[Drawn, float]] = {
    "uniform": (lambda rng, shape: rng.random(shape), 0.5),
    "Beta(2, 5)": (lambda rng, shape: rng.beta(2, 5, shape), 2 / 7),
    "20 % succeed, others Beta(1, 4)": (_some_succeed(0.2, 1, 4), 0.2 + 0.8 / 5),
    "50 % succeed, others Beta(2, 3)": (_some_succeed(0.5, 2, 3), 0.5 + 0.5 * 0.4),
    "80 % succeed, others Beta(2, 3)": (_some_succeed(0.8, 2, 3), 0.8 + 0.2 * 0.4),
    "95 % succeed, others Beta(2, 3)": (_some_succeed(0.95, 2, 3), 0.95 + 0.05 * 0.4),
}
"""How rewards are distributed, and their mean."""


def paired_successes(
    rng: np.random.Generator, rates: Sequence[float], episodes: int, correlation: float = 0.5
) -> Values:
    """Successes of one policy per column; the difficulty of a start is shared (a Gaussian copula)."""
    shared = rng.standard_normal((episodes, 1))
    own = rng.standard_normal((episodes, len(rates)))
    latent = np.sqrt(correlation) * shared + np.sqrt(1 - correlation) * own
    return np.asarray(latent < special.ndtri(np.asarray(rates)), dtype=np.float64)


def wilson_coverage(episodes: int) -> tuple[float, float]:
    """Mean and least coverage over true rates of 0.05 to 0.95."""
    ends = [success_interval(s, episodes) for s in range(episodes + 1)]
    low, high = (np.array([getattr(end, side) for end in ends]) for side in ("low", "high"))
    found = [
        float(stats.binom.pmf(np.arange(episodes + 1), episodes, rate)[(low <= rate) & (rate <= high)].sum())
        for rate in RATES
    ]
    return float(np.mean(found)), min(found)


def newcombe_coverage(episodes: int) -> tuple[float, float]:
    """Mean and least coverage over pairs of true rates, of independent policies."""
    counts = range(episodes + 1)
    ends = [[newcombe_interval(a, episodes, b, episodes) for b in counts] for a in counts]
    low, high = (np.array([[getattr(end, side) for end in row] for row in ends]) for side in ("low", "high"))
    chances = {rate: stats.binom.pmf(np.arange(episodes + 1), episodes, rate) for rate in RATES[::3]}
    found = []
    for first, of_a in chances.items():
        for second, of_b in chances.items():
            covered = (low <= first - second) & (first - second <= high)
            found.append(float(of_a @ covered @ of_b))
    return float(np.mean(found)), min(found)


TRUE_PAIRS = [
    (only_a, only_b)
    for only_a in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
    for only_b in (0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
]
"""True shares of starts on which only one policy succeeds."""


def paired_coverage(pairs: int, runs: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Mean and least coverage of Tango's and of Newcombe's interval for paired success, over `TRUE_PAIRS`."""
    rng = np.random.default_rng(seed)
    z = NormalDist().inv_cdf(0.975)
    found: dict[str, list[float]] = {"Tango": [], "Newcombe, paired": []}
    for only_a, only_b in TRUE_PAIRS:
        both = (1 - only_a - only_b) * 0.6
        counts = rng.multinomial(pairs, [both, only_a, only_b, 1 - both - only_a - only_b], size=runs)
        for method, ends in (
            ("Tango", tango_ends(counts[:, 1], counts[:, 2], pairs, z)),
            ("Newcombe, paired", _newcombe_paired(counts.T.astype(float), pairs, z)),
        ):
            covered = (ends[0] <= only_a - only_b + 1e-9) & (only_a - only_b - 1e-9 <= ends[1])
            found[method].append(float(covered.mean()))
    return {method: (float(np.mean(values)), min(values)) for method, values in found.items()}


def _newcombe_paired(counts: Values, pairs: int, z: float) -> tuple[Values, Values]:
    """Newcombe (1998), Statistics in Medicine 17, 2635-2650, method 10."""
    both, only_a, only_b, neither = counts

    def wilson(successes: Values) -> tuple[Values, Values]:
        rate = successes / pairs
        spread = z * np.sqrt(rate * (1 - rate) / pairs + z * z / (4 * pairs**2))
        centre, scale = rate + z * z / (2 * pairs), 1 + z * z / pairs
        return (centre - spread) / scale, (centre + spread) / scale

    a, b = (both + only_a) / pairs, (both + only_b) / pairs
    (low_a, high_a), (low_b, high_b) = wilson(both + only_a), wilson(both + only_b)
    product = both * neither - only_a * only_b
    product = np.where(product > pairs / 2, product - pairs / 2, np.where(product >= 0, 0.0, product))
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    phi = np.where(margins > 0, product / np.sqrt(np.maximum(margins, 1.0)), 0.0)
    down = (a - low_a) ** 2 - 2 * phi * (a - low_a) * (high_b - b) + (high_b - b) ** 2
    up = (high_a - a) ** 2 - 2 * phi * (high_a - a) * (b - low_b) + (b - low_b) ** 2
    return a - b - np.sqrt(np.maximum(down, 0)), a - b + np.sqrt(np.maximum(up, 0))


def mean_coverage(name: str, episodes: int, runs: int, seed: int = 0) -> float:
    """Coverage of the interval of a mean reward."""
    draw, mean = REWARDS[name]
    values = draw(np.random.default_rng(seed), (runs, episodes))
    return float(np.mean([mean_interval(row).covers(mean) for row in values]))


def other_mean_coverage(name: str, episodes: int, runs: int, seed: int = 0) -> tuple[float, float]:
    """Coverage of Student's t and of the BCa bootstrap of scipy, with 2,000 resamples."""
    draw, mean = REWARDS[name]
    values = draw(np.random.default_rng(seed), (runs, episodes))
    t = stats.t.ppf(0.975, episodes - 1) * values.std(axis=1, ddof=1) / math.sqrt(episodes)
    student = float(np.mean(np.abs(values.mean(axis=1) - mean) <= t))
    few, covered = runs // 5, 0
    with warnings.catch_warnings():
        # Equal values have no such interval, which counts as a miss.
        warnings.simplefilter("ignore")
        for row in values[:few]:
            ends = stats.bootstrap((row,), np.mean, n_resamples=2000, batch=500, rng=1).confidence_interval
            covered += ends.low <= mean <= ends.high
    return student, covered / few


def paired_mean_coverage(episodes: int, runs: int, seed: int = 0) -> float:
    """Coverage of the interval of a paired difference of rewards; the start explains part of them."""
    rng = np.random.default_rng(seed)
    start = rng.random((runs, episodes))
    better = np.where(rng.random((runs, episodes)) < 0.5 * start, 1.0, rng.beta(2, 3, (runs, episodes)))
    worse = np.where(rng.random((runs, episodes)) < 0.3 * start, 1.0, rng.beta(2, 3, (runs, episodes)))
    # The successes take the place of a mean of 0.4, with probabilities of 0.25 and 0.15.
    mean = 0.6 * (0.25 - 0.15)
    return float(np.mean([mean_interval(row).covers(mean) for row in better - worse]))


def welch_coverage(episodes: int, runs: int, seed: int = 0) -> float:
    """Coverage of Welch's interval of the difference of two mean rewards on different starts."""
    rng = np.random.default_rng(seed)
    first, mean = REWARDS["50 % succeed, others Beta(2, 3)"]
    second, other = REWARDS["uniform"]
    pairs = zip(first(rng, (runs, episodes)), second(rng, (runs, episodes)), strict=True)
    return float(np.mean([compare_values(a, b).interval.covers(mean - other) for a, b in pairs]))


def misses_at_any_look(rate: float, looks: Sequence[int], runs: int, seed: int = 0) -> tuple[float, float]:
    """How often any look misses the rate: by the confidence sequence, and by Wilson's interval."""
    rng = np.random.default_rng(seed)
    sequence = wilson = 0
    for _ in range(runs):
        values = (rng.random(looks[-1]) < rate).astype(float)
        sequence += not all(look.covers(rate) for look in confidence_sequence(values, (0.0, 1.0), looks))
        wilson += not all(success_interval(values[:look].sum(), look).covers(rate) for look in looks)
    return sequence / runs, wilson / runs


def hedged_capital(values: Values, confidence: float = 0.95) -> float:
    """Half width by the hedged capital of Waudby-Smith and Ramdas (2024, section 4), with running bounds."""
    grid = np.linspace(0, 1, 1001)[1:-1]
    alpha = 1 - confidence
    bets = _plug_in_bets(values, 2 / alpha)
    steps = values[None, :] - grid[:, None]
    up = np.cumprod(1 + np.minimum(bets[None, :], 0.5 / grid[:, None]) * steps, axis=1)
    down = np.cumprod(1 - np.minimum(bets[None, :], 0.5 / (1 - grid[:, None])) * steps, axis=1)
    inside = grid[(np.maximum(up, down).max(axis=1) / 2) < 1 / alpha]
    return float(inside[-1] - inside[0]) / 2


def empirical_bernstein(values: Values, confidence: float = 0.95) -> float:
    """Half width by the predictable plug-in empirical Bernstein bound (2024, section 3.2)."""
    alpha = 1 - confidence
    bets = np.minimum(_plug_in_bets(values, 2 / alpha), 0.5)
    n = np.arange(1, len(values) + 1)
    before = np.concatenate([[0.5], ((0.5 + np.cumsum(values)) / (n + 1))[:-1]])
    spread = 4 * (values - before) ** 2 * (-np.log1p(-bets) - bets) / 4
    centre = np.cumsum(bets * values) / np.cumsum(bets)
    margin = (math.log(2 / alpha) + np.cumsum(spread)) / np.cumsum(bets)
    return float(np.min(centre + margin) - np.max(centre - margin)) / 2


def _plug_in_bets(values: Values, inverse: float) -> Values:
    n = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (n + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (n + 1)
    before = np.concatenate([[0.25], variances[:-1]])
    return np.asarray(np.sqrt(2 * math.log(inverse) / (before * n * np.log1p(n))))


def race_of(rates: Sequence[float], rule: RaceRule, seed: int) -> tuple[Race[int], int]:
    """A race of policies with given success rates, and the episodes of all together."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rates))
    outcomes = paired_successes(rng, [rates[arm] for arm in order], rule.budget)
    records = {int(arm): dict(enumerate(column)) for arm, column in zip(order, outcomes.T, strict=True)}
    race = replay(list(records), records, rule)
    return race, sum(len(race.outcomes(arm)) for arm in race.arms)


def race_by_all_pairs(rates: Sequence[float], rule: RaceRule, seed: int) -> int:
    """The episodes of a race in which arms leave by bounds of all pairs at ``delta / (k (k - 1) / 2)``."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(rates))
    outcomes = paired_successes(rng, [rates[arm] for arm in order], rule.budget)
    k, left, total = len(rates), np.ones(len(rates), bool), 0
    fortunes = np.zeros((k, k, len(BETS)))
    bar = math.log(k * (k - 1) / rule.delta)
    for begin in range(0, rule.budget, rule.block):
        block = outcomes[begin : begin + rule.block].T
        total += int(left.sum()) * rule.block
        gains = np.log1p((block[:, None] - block[None, :])[..., None] * BETS).sum(axis=2)
        fortunes += gains * (left[:, None] & left[None, :])[..., None]
        left &= ~(special.logsumexp(fortunes, axis=2) - math.log(len(BETS)) >= bar).any(axis=0)
        if left.sum() <= 1:
            break
    return total


def fixed_episodes(rates: Sequence[float], runs: int, share: float = 0.8, step: int = 10) -> int:
    """Episodes per policy with which Holm's tests against the leader mostly leave the best one only."""

    def is_enough(episodes: int) -> bool:
        alone = 0
        for seed in range(runs):
            outcomes = paired_successes(np.random.default_rng(seed), rates, episodes)
            found = not_told_apart(list(outcomes.T), "success", paired=True)
            alone += found.leader == int(np.argmax(rates)) and not found.not_told_apart
        return alone >= share * runs

    low, high = 0, step
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > step:
        middle = (low + high) // 2 // step * step
        low, high = (low, middle) if is_enough(middle) else (middle, high)
    return high


def power_of_barnard(a: float, b: float, episodes: int) -> float:
    """Exact power of Barnard's test at 95 %."""
    of_a, of_b = (stats.binom.pmf(np.arange(episodes + 1), episodes, rate) for rate in (a, b))
    likely = [(s, t) for s in range(episodes + 1) for t in range(episodes + 1) if of_a[s] * of_b[t] > 1e-6]
    return float(
        sum(of_a[s] * of_b[t] for s, t in likely if barnard_p_value(s, episodes, t, episodes) <= 0.05)
    )


def power_of_mcnemar(only_a: float, only_b: float, pairs: int) -> float:
    """Exact power of McNemar's exact test at 95 %."""
    power = 0.0
    for discordant in range(pairs + 1):
        a = np.arange(discordant + 1)
        told = [mcnemar_p_value(int(s), discordant - int(s)) <= 0.05 for s in a]
        chance = stats.binom.pmf(discordant, pairs, only_a + only_b)
        power += chance * float(stats.binom.pmf(a, discordant, only_a / (only_a + only_b))[told].sum())
    return power


def show_coverage(scale: float) -> None:
    """Print the coverage of every interval."""
    runs = int(6000 * scale)
    counts = (20, 50, 100, 400)
    rows: list[list[str]] = []
    for name, exact in (("success, Wilson", wilson_coverage), ("difference, Newcombe", newcombe_coverage)):
        rows.append([name, *(_mean_and_least(exact(n)) for n in counts)])
    both = [paired_coverage(n, runs) for n in counts]
    rows += [
        [f"paired difference, {name}", *(_mean_and_least(each[name]) for each in both)] for name in both[0]
    ]
    rows += [
        [f"mean reward, {name}", *(_percent(mean_coverage(name, n, runs)) for n in counts)]
        for name in REWARDS
    ]
    rows.append(["paired difference of rewards", *(_percent(paired_mean_coverage(n, runs)) for n in counts)])
    rows.append(["difference of mean rewards, Welch", *(_percent(welch_coverage(n, runs)) for n in counts)])
    title = "Coverage of 95 % intervals (mean; least of all true values)"
    _table(title, ["episodes", *map(str, counts)], rows)
    rows = []
    for name in REWARDS:
        others = [other_mean_coverage(name, n, int(6000 * scale)) for n in (20, 50)]
        cells = [_percent(value) for pair in others for value in pair]
        rows.append([name, *cells])
    _table("Other intervals of a mean", ["rewards", "t, 20", "BCa, 20", "t, 50", "BCa, 50"], rows)
    rows = [
        [f"{rate}", *map(_percent, misses_at_any_look(rate, range(20, 401, 20), int(500 * scale)))]
        for rate in (0.5, 0.9)
    ]
    _table("Missed at any of 20 looks", ["true rate", "confidence sequence", "Wilson"], rows)


def show_tightness(scale: float) -> None:
    """Print how wide intervals are that are valid at any time."""
    series: dict[str, Drawn] = {
        "success 0.5": lambda rng, shape: (rng.random(shape) < 0.5).astype(float),
        "success 0.9": lambda rng, shape: (rng.random(shape) < 0.9).astype(float),
        "paired success, 20 % : 10 %": lambda rng, shape: rng.choice([0, 0.5, 1], shape, p=[0.1, 0.7, 0.2]),
        "reward Beta(2, 3)": lambda rng, shape: rng.beta(2, 3, shape),
        "paired reward, deviation 0.15": lambda rng, shape: np.clip(rng.normal(0.525, 0.075, shape), 0, 1),
    }
    methods: dict[str, Callable[[Values], float]] = {
        "mixture": lambda values: anytime_interval(values, (0.0, 1.0)).half_width,
        "hedged": hedged_capital,
        "Bernstein": empirical_bernstein,
    }
    rows, spent = [], dict.fromkeys(methods, 0.0)
    for name, draw in series.items():
        data = draw(np.random.default_rng(0), (int(50 * scale), 400))
        row = [name]
        for n in (50, 400):
            for method, half_width in methods.items():
                begin = time.process_time()
                row.append(f"{np.mean([half_width(values[:n]) for values in data]):.3f}")
                spent[method] += (time.process_time() - begin) / len(data) / (2 * len(series))
        rows.append(row)
    rows.append(["time of one, ms", *([f"{1000 * seconds:.1f}" for seconds in spent.values()] * 2)])
    heads = [f"{method}, {n}" for n in (50, 400) for method in methods]
    _table("Half width of intervals that are valid at any time", ["values in [0, 1]", *heads], rows)


def show_races(scale: float) -> None:
    """Print what a race of eight needs, and how often it is wrong."""
    runs = int(150 * scale)
    rows = []
    for name, rates in RACES.items():
        found = [race_of(rates, RaceRule(budget=4000), seed) for seed in range(runs)]
        total = [episodes for _, episodes in found]
        fixed = fixed_episodes(rates, runs)
        pairs = np.mean([race_by_all_pairs(rates, RaceRule(budget=4000), seed) for seed in range(runs)])
        within = np.mean([race.episodes <= 400 for race, _ in found])
        rows.append(
            [
                name,
                f"{np.mean(total):,.0f}",
                f"{np.quantile(total, 0.8):,.0f}",
                _percent(float(within)),
                f"{pairs:,.0f}",
                f"{8 * fixed:,} ({fixed})",
            ]
        )
    heads = ["rates", "race, mean", "race, 80 % need less", "decided by 400 each", "all pairs", "fixed"]
    _table("Episodes of a race of eight, all together", heads, rows)
    rows = []
    for name, rates, rule in (
        ("eight equal", [0.5] * 8, RaceRule(budget=400)),
        ("two best, two 10 points below", [0.7, 0.7, 0.6, 0.6], RaceRule(budget=400)),
        ("best 2 points ahead, ε 5 points", [0.62, *[0.6] * 3], RaceRule(budget=4000, epsilon=0.05)),
    ):
        found = [race_of(rates, rule, seed) for seed in range(int(500 * scale))]
        best = {arm for arm, rate in enumerate(rates) if rate == max(rates)}
        lost = np.mean([any(departure.arm in best for departure in race.departures) for race, _ in found])
        wrong = np.mean([_is_wrong(race, rates, rule) for race, _ in found])
        missed = np.mean([not race.interval(race.leader).covers(rates[race.leader]) for race, _ in found])
        ends = [f"{np.mean([race.state == state for race, _ in found]):.0%}" for state in RaceState][1:]
        rows.append([name, *map(_percent, map(float, (lost, wrong, missed))), " / ".join(ends)])
    heads = ["race, δ = 5 %", "a best arm left", "wrong answer", "leader's interval missed"]
    _table("Errors of races", [*heads, "decided / within ε / budget used"], rows)


RACES = {
    "0.7, seven of 0.5": [0.7, *[0.5] * 7],
    "0.7, seven of 0.6": [0.7, *[0.6] * 7],
    "0.7, 0.6, six of 0.4": [0.7, 0.6, *[0.4] * 6],
}


def _is_wrong(race: Race[int], rates: Sequence[float], rule: RaceRule) -> bool:
    loss = max(rates) - rates[race.leader]
    if race.state == RaceState.DECIDED:
        return loss > 0
    return race.state == RaceState.WITHIN_EPSILON and loss > rule.epsilon


def show_plans() -> None:
    """Print the true power at the planned episodes, and the best of equal policies."""
    rows = []
    for difference in (0.3, 0.2):
        n = episodes_needed(difference)
        a, b = 0.5 + difference / 2, 0.5 - difference / 2
        rows.append([f"{100 * difference:.0f} points", str(n), _percent(power_of_barnard(a, b, n))])
    for difference, discordance in ((0.2, 0.4), (0.1, 0.3), (0.05, 0.2)):
        n = paired_episodes_needed(difference, discordance)
        power = power_of_mcnemar((discordance + difference) / 2, (discordance - difference) / 2, n)
        rows.append(
            [f"{100 * difference:.0f} points, paired, discordance {discordance}", str(n), _percent(power)]
        )
    _table("Exact power at the planned episodes (planned: 80 %)", ["difference", "episodes", "power"], rows)
    rows = [
        [str(policies), *(f"{expected_best_of_equals(policies, n, 0.5):.3f}" for n in (32, 50, 200))]
        for policies in (8, 32, 100)
    ]
    _table("Best of equal policies with a true rate of 0.5", ["policies", "32 episodes", "50", "200"], rows)


def _mean_and_least(coverage: tuple[float, float]) -> str:
    return f"{_percent(coverage[0])}; {_percent(coverage[1])}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _table(title: str, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    heads = list(heads)
    print(f"\n{title}\n\n| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a fifth of the repetitions")
    scale = 0.2 if parser.parse_args().quick else 1.0
    show_plans()
    show_races(scale)
    show_tightness(scale)
    show_coverage(scale)


if __name__ == "__main__":
    main()
