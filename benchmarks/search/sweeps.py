"""A simulated sweep: the sampler and the rules of a real one, with trials that report simulated curves."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from optuna.trial import TrialState

from benchmarks.learning_curves import ERROR, EVERY, SPACE, STEPS
from benchmarks.search.curves import Curves
from benchmarks.search.promotion import Promotion
from sweeper.search.pruners import make_rule
from sweeper.search.sampler import Codec
from sweeper.search.stopping_rules import Point, StoppingRule
from sweeper.search.suggester import Suggester
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import (
    BudgetSpec,
    EarlyStopSpec,
    Objective,
    ResourceSpec,
    SearchSpec,
    SweepSpec,
    TrackingSpec,
)

__all__ = ["AT_ONCE", "FIRST", "SAMPLERS", "STOPPERS", "Played", "play"]

AT_ONCE = 4
FIRST = EVERY
"""The first rung: a ninth of a whole trial."""
SAMPLERS = ("random", "grid", "tpe", "cmaes", "gp")
SECOND, LATER = 2 * EVERY, 3 * EVERY
"""First rungs that are further up: two ninths and a third of a whole trial."""
STOPPERS: Mapping[str, tuple[str, int]] = {
    "none": ("", 0),
    "asha": ("asha", FIRST),
    "asha, second": ("asha", SECOND),
    "asha, later": ("asha", LATER),
    "hyperband": ("hyperband", FIRST),
    "successive_halving": ("successive_halving", FIRST),
    "percentile": ("percentile", FIRST),
    "median": ("median", FIRST),
    "patient": ("patient", FIRST),
    "promotion": ("asha", FIRST),
    "promotion, later": ("asha", LATER),
}
"""Rules of early stopping, and the step from which on each may stop or pause a trial.

Without wilcoxon: it compares episodes, and the recorded trials have none.
"""
GRID = Space(
    (
        Parameter("optimizer.lr", "categorical", values=(1e-4, 4e-4, 1.6e-3, 6e-3, 2.5e-2)),
        SPACE.parameters[1],
        Parameter("ema.power", "categorical", values=(0.5, 0.7, 0.9)),
        Parameter("lr_scheduler.warmup_steps", "categorical", values=(10, 50, 250)),
    ),
    (),
)
"""What a user would list for a grid in this space: 180 combinations."""


@dataclass
class _Trial:
    asked: int
    values: Mapping[str, Any]
    curve: Sequence[float]
    errors: list[float] = field(default_factory=list)
    state: Literal["running", "paused", "stopped", "completed"] = "running"

    @property
    def step(self) -> int:
        return len(self.errors) * EVERY


@dataclass(frozen=True)
class Played:
    """How a simulated sweep ended.

    Attributes:
        error: The true error of the chosen trial.
        begun: Trials that began.
        completed: Trials that reached their end.
        ends: Reported and true error of the trials that ended, in this order; infinite if stopped early.
    """

    error: float
    begun: int
    completed: int
    ends: tuple[tuple[float, float], ...]


def play(curves: Curves, sampler: str, stopper: str, seed: int, trainings: int) -> Played:
    """Play a sweep until its budget is used up; of the trials completed by then the best is chosen.

    Args:
        curves: What trials report.
        sampler: One of `SAMPLERS`.
        stopper: One of `STOPPERS`.
        seed: Seed of the search and of the noise. Random trials are the same for every stopper.
        trainings: The budget, in whole trainings. Every optimiser step counts, those of stopped trials too.
    """
    sweep = _Sweep(curves, sampler, stopper, seed)
    sweep.run(trainings * STEPS)
    return sweep.played()


class _Sweep:
    def __init__(self, curves: Curves, sampler: str, stopper: str, seed: int) -> None:
        self._curves, self._seed = curves, seed
        self._rule: StoppingRule | None = None
        self._promotion: Promotion | None = None
        stop: EarlyStopSpec | None = None
        method: Any
        method, first = STOPPERS[stopper]
        if method:
            stop = EarlyStopSpec(method, ERROR, "minimize", min_steps=first, max_steps=STEPS)
            if stopper.startswith("promotion"):
                self._promotion = Promotion(stop.rungs(), stop.reduction)
            else:
                self._rule = make_rule(stop, lambda _trial, _step: {})
        spec = _spec(sampler, stop, seed)
        codecs = {parameter.name: Codec(parameter) for parameter in spec.space.parameters}
        self._suggester = Suggester(spec, codecs, ())
        self._grid = _grid(seed) if sampler == "grid" else None
        self._trials: list[_Trial] = []
        self._ended: list[int] = []

    def run(self, budget: int) -> None:
        """Train `AT_ONCE` trials at a time, in turns of one evaluation, until the steps are used up."""
        running: list[int] = []
        while True:
            for slot in range(AT_ONCE):
                if budget <= 0:
                    return
                if slot == len(running):
                    running.append(self._next())
                elif self._trials[running[slot]].state != "running":
                    running[slot] = self._next()
                self._advance(running[slot])
                budget -= EVERY

    def _next(self) -> int:
        """A paused trial that continues, or a new one."""
        promoted = None if self._promotion is None else self._promotion.promote()
        if promoted is not None:
            self._trials[promoted].state = "running"
            return promoted
        number = len(self._trials)
        if self._grid is not None:
            asked, values = self._suggester.adopt(next(self._grid))
        else:
            # As `Study` seeds a suggestion.
            seed = random.Random(f"{self._seed} {number} 0").getrandbits(32)
            asked, values = self._suggester.suggest(seed)
        curve = self._curves.reported(values, (self._seed, number))
        self._trials.append(_Trial(asked, values, [float(error) for error in curve]))
        return number

    def _advance(self, number: int) -> None:
        """Train a trial to its next evaluation, and report that as the driver does."""
        trial = self._trials[number]
        error = trial.curve[len(trial.errors)]
        trial.errors.append(error)
        self._suggester.report(trial.asked, trial.step, error)
        why = None if self._rule is None else self._rule.judge(Point(number, trial.step, error))
        if trial.step >= STEPS:
            trial.state = "completed"
            self._ended.append(number)
            self._suggester.end(trial.asked, TrialState.COMPLETE, [error])
            if self._rule is not None:
                self._rule.complete(number)
        elif why is not None:
            trial.state = "stopped"
            self._ended.append(number)
            self._suggester.end(trial.asked, TrialState.PRUNED)
        elif self._promotion is not None and self._promotion.pauses(number, trial.step, error):
            trial.state = "paused"

    def played(self) -> Played:
        """Choose a trial: of those that came furthest the one with the least reported error."""
        trials = self._trials
        chosen = min((trial for trial in trials if trial.errors), key=lambda t: (-t.step, t.errors[-1]))
        true = self._curves.true(chosen.values)[len(chosen.errors) - 1]
        completed = sum(trial.state == "completed" for trial in trials)
        return Played(float(true), len(trials), completed, tuple(map(self._end, self._ended)))

    def _end(self, number: int) -> tuple[float, float]:
        trial = self._trials[number]
        if trial.state != "completed":
            return math.inf, math.inf
        return trial.errors[-1], float(self._curves.true(trial.values)[-1])


def _grid(seed: int) -> Iterator[dict[str, Any]]:
    """The combinations in the order in which `Study` tries them."""
    points = list(GRID.points({}))
    random.Random(seed).shuffle(points)
    return iter(points)


def _spec(sampler: str, stop: EarlyStopSpec | None, seed: int) -> SweepSpec:
    method: Any = sampler
    return SweepSpec(
        name="simulated",
        trainable="diffusion_policy",
        config={},
        space=GRID if sampler == "grid" else SPACE,
        objectives=(Objective(ERROR, "minimize"),),
        search=SearchSpec(method, seed),
        early_stop=stop,
        budget=BudgetSpec(trials=1),
        resources=ResourceSpec(),
        tracking=TrackingSpec(None, "simulated"),
        folder=Path("simulated"),
        source="",
    )
