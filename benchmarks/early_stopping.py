"""Which rule of early stopping ends with better policies: ``python -m benchmarks.early_stopping [--quick]``.

Prints the table of docs/spaces.md#early_stop. Sweeps are simulated with the rules that a real sweep uses. A
trial's success grows towards a level of its own at a speed of its own, and every evaluation is 50 episodes on
the same starts, so values are as noisy as real ones. Four trials run at a time until the budget of training
steps is used up: a rule that stops much can try much. Of the trials that reached their end the one with the
best last value is chosen, and judged by its true success. All rules meet the same trials.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from sweeper.search.pruners import make_rule
from sweeper.search.stopping_rules import Point
from sweeper.spec.sweep import EarlyStopSpec
from trainables.confidence import wilson_interval

METRIC = "rollout/success_rate"
EVERY, STEPS, FIRST = 1_000, 18_000, 2_000
"""Steps between evaluations, of a whole trial, and before the first decision."""
AT_ONCE = 4
RULES: Mapping[str, dict[str, Any] | None] = {
    "none": None,
    "asha": {"method": "asha"},
    "asha, confidence 0.8": {"method": "asha", "confidence": 0.8},
    "asha, confidence 0.9": {"method": "asha", "confidence": 0.9},
    "asha, confidence 0.975": {"method": "asha", "confidence": 0.975},
    "hyperband": {"method": "hyperband"},
    "successive_halving": {"method": "successive_halving"},
    "percentile": {"method": "percentile"},
    "median": {"method": "median"},
    "patient": {"method": "patient"},
    "wilcoxon": {"method": "wilcoxon"},
}


@dataclass
class Trials:
    """The trials that a sweep would meet, the same for every rule.

    Attributes:
        seed: Seed of the sweep.
        episodes: Episodes of an evaluation.
    """

    seed: int
    episodes: int
    _drawn: dict[int, tuple[float, float]] = field(default_factory=dict)
    _results: dict[tuple[int, int], Mapping[int, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # What is hard about a start is hard for every policy.
        self.starts = np.random.default_rng((self.seed, 0)).standard_normal(self.episodes)

    def success(self, number: int, step: int) -> float:
        """The true success rate of a trial after some steps."""
        if number not in self._drawn:
            rng = np.random.default_rng((self.seed, 1, number))
            self._drawn[number] = (float(rng.beta(1.5, 2.5)), float(rng.lognormal(np.log(4_000), 0.7)))
        level, speed = self._drawn[number]
        return level * (1 - float(np.exp(-step / speed)))

    def results(self, number: int, step: int) -> Mapping[int, float]:
        """The successes of the episodes, by the seed of the start (correlation 0.5 by the start)."""
        known = self._results.get((number, step))
        if known is not None:
            return known
        rng = np.random.default_rng((self.seed, 2, number, step))
        latent = np.sqrt(0.5) * self.starts + np.sqrt(0.5) * rng.standard_normal(self.episodes)
        rate = min(max(self.success(number, step), 1e-6), 1 - 1e-6)
        found = dict(enumerate((latent < special.ndtri(rate)).astype(float).tolist()))
        self._results[number, step] = found
        return found


def sweep(trials: Trials, rule: dict[str, Any] | None, budget: int) -> tuple[float, int, int]:
    """Play a sweep: the true success of the chosen trial, the trials begun, and those that were completed."""
    stop = rule and EarlyStopSpec(metric=METRIC, goal="maximize", min_steps=FIRST, max_steps=STEPS, **rule)
    judge = make_rule(stop, trials.results) if stop else None
    at: dict[int, int] = {}
    begun = spent = 0
    ends: dict[int, float] = {}
    while True:
        # New trials begin while there is a budget; those that run are finished, as a real sweep does.
        while len(at) < AT_ONCE and spent < budget:
            at[begun], begun = 0, begun + 1
        if not at:
            break
        for number in list(at):
            at[number] += EVERY
            spent += EVERY
            value = sum(trials.results(number, at[number]).values()) / trials.episodes
            low, high = wilson_interval(round(value * trials.episodes), trials.episodes)
            why = judge and judge.judge(Point(number, at[number], value, low, high))
            if at[number] >= STEPS:
                ends[number] = value
                if judge:
                    judge.complete(number)
            if at[number] >= STEPS or why:
                del at[number]
    chosen = max(ends, key=lambda number: (ends[number], -number))
    return trials.success(chosen, STEPS), begun, len(ends)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the sweeps")
    parser.add_argument("--sweeps", type=int, default=200)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--trials", type=int, default=16, help="budget, in whole trainings")
    options = parser.parse_args()
    count = options.sweeps // 10 if options.quick else options.sweeps
    began = time.time()
    print(f"{count} sweeps, budget of {options.trials} trainings, {options.episodes} episodes")
    found: dict[str, list[tuple[float, int, int]]] = {name: [] for name in RULES}
    for seed in range(count):
        trials = Trials(seed, options.episodes)
        for name, rule in RULES.items():
            found[name].append(sweep(trials, rule, options.trials * STEPS))
    print("| rule | trials begun | completed | true success of the chosen | against none |")
    print("|---|---|---|---|---|")
    for name, rule in RULES.items():
        chosen, started, completed = np.array(found[name]).T
        gain = "" if rule is None else _with_margin(chosen - np.array(found["none"])[:, 0], "+")
        print(f"| {name} | {started.mean():.0f} | {completed.mean():.1f} | {_with_margin(chosen)} | {gain} |")
    print(f"{time.time() - began:.0f} s")


def _with_margin(values: np.ndarray, sign: str = "") -> str:
    """Mean and half width of its 95 % interval."""
    margin = 1.96 * values.std(ddof=1) / np.sqrt(len(values))
    return f"{values.mean():{sign}.3f} ± {margin:.3f}"


if __name__ == "__main__":
    main()
