"""The options of early stopping: names, ranges and defaults of each method.

`STOPPER_OPTIONS` is the only table of them. The space file is checked against it, Optuna's pruners are built
from it, and the documentation lists it. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sweeper.spec.sweep import EarlyStopSpec
from trainables.interface import Fault, FieldInfo

__all__ = ["CONFIDENT", "REDUCING", "STOPPER_OPTIONS", "complete_stopper_options", "stopper_fault"]

_STARTUP_TRIALS = FieldInfo(
    "n_startup_trials", "int", 5, minimum=0, doc="no trial is stopped before this many are completed"
)
_MIN_TRIALS = FieldInfo(
    "n_min_trials", "int", 1, minimum=1, doc="completed trials with a value at the step that are needed"
)
_INTERVAL_STEPS = FieldInfo(
    "interval_steps", "int", 1, minimum=1, unit="steps", doc="steps from one comparison to the next"
)
_BOOTSTRAP_COUNT = FieldInfo(
    "bootstrap_count", "int", 0, minimum=0, doc="at each rung the first trials, this many, are stopped"
)

STOPPER_OPTIONS: Mapping[str, tuple[FieldInfo, ...]] = {
    "asha": (),
    "hyperband": (_BOOTSTRAP_COUNT,),
    "successive_halving": (
        FieldInfo(
            "min_early_stopping_rate",
            "int",
            0,
            minimum=0,
            maximum=20,
            doc="the first rung is at `min_steps` times `reduction` to this power",
        ),
        _BOOTSTRAP_COUNT,
    ),
    "percentile": (
        FieldInfo(
            "percentile", "float", 25.0, minimum=1, maximum=99, doc="percent of the trials that continue"
        ),
        _STARTUP_TRIALS,
        _MIN_TRIALS,
        _INTERVAL_STEPS,
    ),
    "median": (_STARTUP_TRIALS, _MIN_TRIALS, _INTERVAL_STEPS),
    "patient": (
        FieldInfo("patience", "int", 3, minimum=0, doc="reports without improvement that a trial may have"),
        FieldInfo(
            "min_delta", "float", 0.0, minimum=0, doc="how much worse the later values must be than the best"
        ),
    ),
    "wilcoxon": (
        FieldInfo(
            "p_threshold",
            "float",
            0.1,
            minimum=0.0001,
            maximum=0.5,
            doc="a trial is stopped if the p-value of the test is smaller",
        ),
        # For fewer pairs with ties scipy enumerates all signs, which takes seconds.
        FieldInfo("n_startup_steps", "int", 14, minimum=14, doc="episodes on equal starts that are needed"),
    ),
}
"""The options of each method, under the names of Optuna's pruners."""

REDUCING = ("asha", "hyperband", "successive_halving")
"""Methods with rungs, for which `EarlyStopSpec.reduction` has a meaning."""

CONFIDENT = ("asha",)
"""Methods for which `EarlyStopSpec.confidence` has a meaning."""


def complete_stopper_options(early_stop: EarlyStopSpec) -> dict[str, Any]:
    """Every option of the method: those that ``early_stop.options`` sets, and defaults for the others."""
    defaults = {info.name: info.default for info in STOPPER_OPTIONS[early_stop.method]}
    return defaults | dict(early_stop.options)


def stopper_fault(early_stop: EarlyStopSpec, interval: int | None = None) -> Fault | None:
    """Find an option with which no trial could ever be stopped.

    Args:
        early_stop: The rule.
        interval: Steps from one report of the metric to the next; None if unknown.
    """
    options, end = complete_stopper_options(early_stop), early_stop.max_steps
    if not end:
        return None
    if early_stop.method == "successive_halving" and not early_stop.rungs():
        rate = options["min_early_stopping_rate"]
        first = early_stop.min_steps * early_stop.reduction**rate
        return Fault(
            "min_early_stopping_rate",
            f"{rate} puts the first rung at step {first}, and a trial has {end} steps: "
            "nothing can be stopped.",
            "Lower it, or min_steps.",
        )
    patience = options.get("patience")
    # The last report is the end of the trial, and one value must be left to compare with.
    if patience is not None and interval and patience + 2 > (end - 1) // interval:
        return Fault(
            "patience",
            f"{patience} is too long: a trial has {end // interval} reports of {early_stop.metric}, "
            "so nothing can be stopped.",
            f"Lower it to at most {(end - 1) // interval - 2}."
            if (end - 1) // interval >= 2
            else "Report more often, or remove early_stop.",
        )
    return None
