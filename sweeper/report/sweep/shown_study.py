"""A sweep as an Optuna study in memory, for Optuna's figures and importances.

It is made from the journal and not from ``study.db``. So a running driver is not disturbed, the values are
those of the ranking (also after inference settings were chosen later), and the parameters have the short
names that tables use.
"""

from __future__ import annotations

import datetime
import html
import math
import warnings
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from optuna.trial import TrialState as OptunaState

from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.search.sampler import Codec
from sweeper.spec.space import Parameter
from sweeper.spec.sweep import SweepSpec

__all__ = ["importances", "shown_study"]

STATES = {
    TrialStatus.COMPLETED: OptunaState.COMPLETE,
    TrialStatus.STOPPED_EARLY: OptunaState.PRUNED,
    TrialStatus.FAILED: OptunaState.FAIL,
}
"""Trials in other states are not finished, and Optuna draws none of them."""


LEAST_TRIALS = 8
"""Completed trials below which an importance would be chance."""


def shown_study(sweep: SweepState, names: Mapping[str, str]) -> optuna.Study:
    """Build a study in memory with every trial of a sweep, under its number.

    Args:
        sweep: The sweep, read with the series of its trials.
        names: The name that each searched parameter has in the study.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=[objective.goal for objective in sweep.objectives])
    parameters = SweepSpec.from_dict(sweep.spec).space.parameters
    trials = [sweep.trials.get(number) for number in range(max(sweep.trials, default=-1) + 1)]
    with warnings.catch_warnings():
        # A choice that is neither a number nor a text is stored as JSON by the codec.
        warnings.simplefilter("ignore")
        study.add_trials([_shown(trial, sweep, parameters, names) for trial in trials])
    return study


def importances(study: optuna.Study, objective: int = 0) -> dict[str, float]:
    """The share of each parameter in the difference between good trials and all (PED-ANOVA).

    Args:
        study: A study of `shown_study`.
        objective: Position of the objective.

    Returns:
        The most important first; empty if there are too few trials to say.
    """
    if sum(trial.state is OptunaState.COMPLETE for trial in study.trials) < LEAST_TRIALS:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = optuna.importance.get_param_importances(
                study, evaluator=evaluator, target=lambda trial: trial.values[objective]
            )
        except (ValueError, RuntimeError):
            return {}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _shown(
    trial: TrialState | None, sweep: SweepState, parameters: tuple[Parameter, ...], names: Mapping[str, str]
) -> FrozenTrial:
    nothing = optuna.trial.create_trial(state=OptunaState.FAIL)
    if trial is None:
        return nothing
    values = [trial.final.get(objective.name, math.nan) for objective in sweep.objectives]
    state = STATES.get(trial.status, OptunaState.FAIL)
    if state is OptunaState.COMPLETE and not all(map(math.isfinite, values)):
        state = OptunaState.FAIL
    params: dict[str, Any] = {}
    distributions: dict[str, optuna.distributions.BaseDistribution] = {}
    for parameter in parameters:
        if parameter.name in trial.values:
            codec = Codec(parameter)
            value, distribution = codec.encode(trial.values[parameter.name]), codec.distribution()
            if codec.choices is not None:
                # Figures interpret a few elements of HTML in texts.
                value = _escaped(value)
                distribution = optuna.distributions.CategoricalDistribution(
                    [_escaped(choice) for choice in codec.choices]
                )
            params[names[parameter.name]], distributions[names[parameter.name]] = value, distribution
    series = trial.series.get(sweep.objectives[0].name, []) if len(sweep.objectives) == 1 else []
    try:
        made = optuna.trial.create_trial(
            state=state,
            values=values if state is OptunaState.COMPLETE else None,
            params=params,
            distributions=distributions,
            intermediate_values={step: value for step, value in series if math.isfinite(value)},
        )
    except ValueError:  # a value outside of its range: the journal was written by hand
        return nothing
    made.datetime_start = datetime.datetime.fromtimestamp(trial.started)
    made.datetime_complete = datetime.datetime.fromtimestamp(trial.ended or trial.started)
    return made


def _escaped(choice: Any) -> Any:
    return html.escape(choice, quote=False) if isinstance(choice, str) else choice
