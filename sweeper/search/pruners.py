"""Optuna's pruners as rules for early stopping, each with a small study in memory.

The study of the search cannot serve: it has the values of the objective, and early stopping may compare
another metric. Only public functions of Optuna are used: a trial is asked for, reports, and says whether it
should be pruned.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

import optuna

from sweeper.layout import trial_folder
from sweeper.search.stopping_rules import Asha, Point, StoppingRule
from sweeper.spec.stopper_options import complete_stopper_options
from sweeper.spec.sweep import EarlyStopSpec
from trainables.episodes import EPISODES, OUTCOMES, Evaluated, read_episodes

__all__ = ["EpisodeValues", "PrunerRule", "WilcoxonRule", "make_pruner", "make_rule", "recorded_episodes"]

EpisodeValues = Callable[[int, int], Mapping[int, float]]
"""The results of the episodes of a trial's evaluation at a step, by the seed of the start; empty if there are
none."""


def make_pruner(early_stop: EarlyStopSpec) -> optuna.pruners.BasePruner:
    """Optuna's pruner for a rule of early stopping.

    Raises:
        ValueError: If the method is not one of Optuna's.
    """
    with warnings.catch_warnings():
        # Optuna calls some of them experimental.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return _pruner(early_stop, complete_stopper_options(early_stop))


def _pruner(early_stop: EarlyStopSpec, options: Mapping[str, Any]) -> optuna.pruners.BasePruner:
    match early_stop.method:
        case "hyperband":
            return optuna.pruners.HyperbandPruner(
                min_resource=early_stop.min_steps,
                max_resource=early_stop.max_steps,
                reduction_factor=early_stop.reduction,
                **options,
            )
        case "successive_halving":
            return optuna.pruners.SuccessiveHalvingPruner(
                min_resource=early_stop.min_steps, reduction_factor=early_stop.reduction, **options
            )
        case "percentile":
            return optuna.pruners.PercentilePruner(n_warmup_steps=early_stop.min_steps, **options)
        case "median":
            return optuna.pruners.MedianPruner(n_warmup_steps=early_stop.min_steps, **options)
        case "patient":
            return optuna.pruners.PatientPruner(None, **options)
        case "wilcoxon":
            return optuna.pruners.WilcoxonPruner(**options)
    raise ValueError(f"{early_stop.method} is not one of Optuna's pruners")


class PrunerRule:
    """A pruner that compares the values of trials."""

    def __init__(self, early_stop: EarlyStopSpec) -> None:
        self._early_stop = early_stop
        self._study = _study(early_stop)
        self._trials: list[optuna.Trial] = []
        self._last: dict[int, float] = {}

    def judge(self, point: Point) -> str | None:
        """Report the value, and ask the pruner from `EarlyStopSpec.min_steps` on."""
        trial = self._trial(point.trial)
        trial.report(point.value, point.step)
        self._last[point.trial] = point.value
        if point.step < self._early_stop.min_steps or not trial.should_prune():
            return None
        return f"{self._early_stop.metric} = {point.value:.4g} at step {point.step}{self._why()}"

    def complete(self, trial: int) -> None:
        """Percentiles are those of completed trials."""
        if trial in self._last:
            self._study.tell(self._trials[trial], self._last.pop(trial))

    def _trial(self, number: int) -> optuna.Trial:
        # Hyperband chooses the bracket of a trial by its number, so numbers are those of the sweep.
        while len(self._trials) <= number:
            self._trials.append(self._study.ask())
        return self._trials[number]

    def _why(self) -> str:
        options = complete_stopper_options(self._early_stop)
        share = f"is not among the best 1/{self._early_stop.reduction} of the trials"
        match self._early_stop.method:
            case "hyperband":
                return f" {share} of its bracket that came as far"
            case "percentile":
                return f": its best is not within the best {options['percentile']:g} % of completed trials"
            case "median":
                return ": its best is worse than the median of completed trials"
            case "patient":
                return f": its last {options['patience'] + 1} values are worse than its best"
        return f" {share} that came as far"


class WilcoxonRule:
    """Compares a trial's episodes with those of the best trial at the same step, on the same starts.

    Args:
        early_stop: The rule.
        episodes: Returns the results of episodes.
    """

    def __init__(self, early_stop: EarlyStopSpec, episodes: EpisodeValues) -> None:
        self._early_stop = early_stop
        self._episodes = episodes
        self._best: dict[int, tuple[int, Mapping[int, float]]] = {}

    def judge(self, point: Point) -> str | None:
        """Decide whether the trial is clearly worse than the best that was evaluated at this step."""
        if point.step < self._early_stop.min_steps:
            return None
        values = self._episodes(point.trial, point.step)
        if not values:
            return None
        number, best = self._best.get(point.step, (point.trial, values))
        sign = 1.0 if self._early_stop.goal == "maximize" else -1.0
        if number == point.trial or sign * fmean(values.values()) > sign * fmean(best.values()):
            self._best[point.step] = (point.trial, values)
        starts = sorted(values.keys() & best.keys())
        # The test has no answer for trials that do not differ.
        if all(values[start] == best[start] for start in starts) or not self._worse(starts, values, best):
            return None
        return (
            f"{self._early_stop.metric} = {point.value:.4g} at step {point.step} is worse than that of trial "
            f"{number} on the same {len(starts)} starts "
            f"(p < {complete_stopper_options(self._early_stop)['p_threshold']:g})"
        )

    def _worse(self, starts: list[int], values: Mapping[int, float], best: Mapping[int, float]) -> bool:
        study = _study(self._early_stop)
        compared = {start: best[start] for start in starts}
        study.add_trial(optuna.create_trial(value=fmean(compared.values()), intermediate_values=compared))
        trial = study.ask()
        for start in starts:
            trial.report(values[start], start)
        return trial.should_prune()

    def complete(self, trial: int) -> None:
        """Nothing: evaluations are compared, whether their trials have ended or not."""


def make_rule(early_stop: EarlyStopSpec, episodes: EpisodeValues) -> StoppingRule:
    """The rule for a method of early stopping."""
    if early_stop.method == "asha":
        return Asha(early_stop)
    if early_stop.method == "wilcoxon":
        return WilcoxonRule(early_stop, episodes)
    return PrunerRule(early_stop)


def recorded_episodes(folder: Path, metric: str) -> EpisodeValues:
    """The results of episodes that trials left in the folder of a sweep.

    Args:
        folder: The folder of the sweep.
        metric: A mean of episodes: ``rollout/success_rate`` and others.
    """
    field = OUTCOMES.get(metric)

    def values(trial: int, step: int) -> Mapping[int, float]:
        name = Evaluated("search", step, {}, "").name
        try:
            _, records = read_episodes(trial_folder(folder, trial) / EPISODES / name)
        except (OSError, ValueError):
            return {}  # a trainable without records, or a file that is damaged
        return {} if field is None else {record.seed: float(getattr(record, field)) for record in records}

    return values


def _study(early_stop: EarlyStopSpec) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        # Hyperband chooses brackets by this name, too.
        study_name="early_stop",
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=make_pruner(early_stop),
        direction=early_stop.goal,
    )
