"""What a sweep takes from earlier sweeps (``search.from``): selected at its launch, then kept in its folder.

The values of an earlier sweep are compared with new ones only if they answer the same question: the same
objectives on the same fixed configuration. Then the sampler learns from its trials. Otherwise only the order
of its trials is used: its best configurations are tried first, and the sampler learns from their new values.

The values of another dataset have another scale and another noise, and a sampler cannot know how far they
apply. As first trials, the best configurations of like datasets are measured again, and are wrong at the cost
of these trials at most: Feurer, Springenberg and Hutter (2015), Initializing Bayesian Hyperparameter
Optimization via Meta-Learning, AAAI.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import SweepDamagedError, SweepNotFoundError, UserError
from sweeper.layout import EARLIER, JOURNAL, write_whole
from sweeper.records.status import TrialStatus
from sweeper.records.summary import read_summary
from sweeper.records.sweep_state import SweepState, find_sweep
from sweeper.records.trial_state import TrialState
from sweeper.spec.space import Parameter
from sweeper.spec.sweep import SweepSpec, trained_config
from sweeper.spec.taken import Source, Taken, TakenTrial
from sweeper.text import counted, describe_value
from trainables.interface import EVAL_EVERY, LOG_EVERY, HasPresets, NamesPlaces, Trainable

__all__ = ["DataChanged", "earlier_for_plan", "read_taken", "store_taken", "take_earlier"]

LEARNS = ("tpe", "gp")
"""Methods whose sampler learns from trials that it did not suggest itself."""
BEST_SHARE = 4
"""The best one in this many trials of a sweep are tried first."""
BUDGET_SHARE = 5
"""One in this many trials of the budget, at most, is one of them."""
MOST_FIRST = 10
"""They are at most this many."""
NOT_COMPARED = (EVAL_EVERY, LOG_EVERY, "train.seed")
"""Fields that do not change what a trial's last value means. By convention ``train.seed`` is the seed."""

DataChanged = Callable[[SweepState], bool | None]
"""Whether the data of an earlier sweep have another content than those of this one; None if unknown."""


def take_earlier(
    spec: SweepSpec, trainable: Trainable, data_changed: DataChanged = lambda _sweep: None
) -> Taken:
    """Select what a sweep takes from the sweeps that ``search.from`` names.

    Args:
        spec: The sweep.
        trainable: What it trains.
        data_changed: Compares the data. If it does not know, data in the same place are the same.

    Raises:
        UserError: If a sweep cannot be found or read, or nothing of it can be taken.
    """
    selections: list[_Selection] = []
    for named in spec.search.from_sweeps:
        sweep = _read(named, spec)
        if any(sweep.folder.resolve() == other.sweep.folder.resolve() for other in selections):
            raise UserError(f"search.from: {named} names {sweep.name} again. Remove one of them.")
        selections.append(_select(named, sweep, spec, trainable, data_changed))
    first = _best_of([one for one in selections if one.source.differs], spec)
    counts = Counter(source for source, _ in first)
    sources = [
        dataclasses.replace(one.source, taken=counts[one.source.named]) if one.source.differs else one.source
        for one in selections
    ]
    known = [trial for one in selections if not one.source.differs for trial in one.trials]
    return Taken(tuple(sources), tuple(known), tuple(trial for _, trial in first))


def store_taken(folder: Path, taken: Taken) -> None:
    """Write what a sweep takes to its folder, atomically.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        write_whole(folder / EARLIER, json.dumps(taken.to_dict(), indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{folder / EARLIER} cannot be written: {error.strerror}.") from error


def read_taken(spec: SweepSpec) -> Taken:
    """What a sweep that has begun takes from others; nothing if ``search.from`` is empty.

    Raises:
        UserError: If the file is missing or damaged.
    """
    if not spec.search.from_sweeps:
        return Taken()
    path = spec.folder / EARLIER
    remedy = (
        "Without it the search would continue differently. Restore the file, or launch the rest under "
        "another name, e.g. with `name=...` after the space file."
    )
    try:
        return Taken.from_dict(json.loads(path.read_text()))
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError) as error:
        problem = f"is damaged: {error}"
    raise UserError(f"{path} {problem}. It contains what the sweep takes from earlier ones. {remedy}")


def earlier_for_plan(spec: SweepSpec, trainable: Trainable) -> Taken:
    """What a sweep took if it has begun, and what it would take otherwise; errors as for `take_earlier`."""
    journal = spec.folder / JOURNAL
    if (spec.folder / EARLIER).is_file() and journal.is_file() and journal.stat().st_size:
        taken = read_taken(spec)
        if tuple(source.named for source in taken.sources) == spec.search.from_sweeps:
            return taken
    return take_earlier(spec, trainable)


def _read(named: str, spec: SweepSpec) -> SweepState:
    try:
        folder = find_sweep(str(Path(named).expanduser()), spec.folder.parent)
        if folder.resolve() == spec.folder.resolve():
            raise UserError(
                f"search.from: {named} is this sweep itself. To continue it, launch it without search.from; "
                "for a new sweep choose another name."
            )
        return read_summary(folder)
    except SweepNotFoundError as error:
        raise SweepNotFoundError(f"search.from: {error}") from None
    except SweepDamagedError as error:
        raise UserError(f"search.from: {named}: {error}") from None
    except OSError as error:
        raise UserError(f"search.from: {named} cannot be read: {error.strerror}.") from error
    except RuntimeError:
        raise UserError(f"search.from: {named} has no home folder on this machine.") from None


@dataclass(frozen=True)
class _Selection:
    """The trials of an earlier sweep that fit, the best first if its values are not used."""

    sweep: SweepState
    source: Source
    trials: Sequence[TakenTrial]


def _select(
    named: str, sweep: SweepState, spec: SweepSpec, trainable: Trainable, data_changed: DataChanged
) -> _Selection:
    """The trials of a sweep that fit.

    Raises:
        UserError: If there are none.
    """
    _refuse_strangers(named, sweep, spec)
    differs = _differences(sweep, spec, trainable, data_changed(sweep))
    with_stopped = not differs and spec.search.method == "tpe" and len(spec.objectives) == 1
    ended = [trial for trial in sweep.ranking() if _has_result(trial, sweep, with_stopped)]
    if not ended:
        remedy = "Wait until trials of it have completed." if sweep.is_alive() else "Remove it."
        raise UserError(f"search.from: {named} has no completed trial. {remedy}")
    points = _Points(sweep, spec, trainable)
    left_out: Counter[str] = Counter()
    fitting: list[TakenTrial] = []
    for trial in ended:
        values, misfit = points.of(trial)
        if misfit:
            left_out[misfit] += 1
            continue
        numbers = () if differs else tuple(trial.final[one.name] for one in spec.objectives)
        stopped_at = None if trial.status == TrialStatus.COMPLETED else trial.step
        fitting.append(TakenTrial(sweep.name, trial.number, values, numbers, stopped_at))
    if not fitting:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in left_out.most_common())
        raise UserError(
            f"search.from: none of the {counted(len(ended), 'trial')} of {named} is in this space: "
            f"{reasons}. Widen the space, or remove {named} from search.from."
        )
    if not differs:
        fitting.sort(key=lambda one: one.number)
    source = Source(
        named=named,
        name=sweep.name,
        sweep_id=sweep.sweep_id,
        ended=len(ended),
        fitting=len(fitting),
        taken=len(fitting),
        differs=tuple(differs),
        left_out=dict(left_out.most_common()),
    )
    return _Selection(sweep, source, fitting)


def _refuse_strangers(named: str, sweep: SweepState, spec: SweepSpec) -> None:
    """Refuse a sweep whose trials say nothing about this one.

    Raises:
        UserError: Says why.
    """
    if sweep.spec["trainable"] != spec.trainable:
        raise UserError(
            f"search.from: {named} trains {sweep.spec['trainable']}, and this sweep trains {spec.trainable}. "
            "Name a sweep of the same trainable."
        )
    if not set(sweep.varying) & set(spec.space.names):
        raise UserError(
            f"search.from: {named} searched {', '.join(sweep.varying)}, and this sweep searches "
            f"{', '.join(spec.space.names)}. Name a sweep that searched at least one of these."
        )
    goals = {objective.name: objective.goal for objective in sweep.objectives}
    for objective in spec.objectives:
        if goals.get(objective.name, objective.goal) != objective.goal:
            raise UserError(
                f"search.from: the goal of {objective.name} was {goals[objective.name]} in {named}, and is "
                f"{objective.goal} here: its best trials are the worst of this sweep. Remove it."
            )


def _has_result(trial: TrialState, sweep: SweepState, with_stopped: bool) -> bool:
    """Whether a trial has a result that can be taken."""
    stopped = with_stopped and trial.status == TrialStatus.STOPPED_EARLY
    if not stopped and trial.status != TrialStatus.COMPLETED:
        return False
    return all(math.isfinite(trial.final.get(one.name, math.nan)) for one in sweep.objectives)


def _differences(
    sweep: SweepState, spec: SweepSpec, trainable: Trainable, data_changed: bool | None
) -> list[str]:
    """Why the values of a sweep cannot be used as values of this one; empty if they can."""
    found = []
    # An objective that both have has the same goal in both.
    optimised = [objective.name for objective in sweep.objectives]
    if set(optimised) != {objective.name for objective in spec.objectives}:
        found.append(f"it optimised {', '.join(optimised)}")
    places = set(trainable.places) if isinstance(trainable, NamesPlaces) else set()
    passed_over = {*NOT_COMPARED, *sweep.varying, *spec.space.names}
    passed_over |= {trainable.preset_field} if isinstance(trainable, HasPresets) else set()
    before, now = (_complete(trainable, config) for config in (sweep.spec["config"], spec.config))
    if data_changed is not None:  # then the content counts, and not its place
        passed_over |= {name for name in places if None not in (before[name], now[name])}
    if data_changed:
        found.append("its data have another content")
    found += [
        f"{name} was {describe_value(before[name])} and is {describe_value(now[name])}"
        for name in now
        if name not in passed_over and before[name] != now[name]
    ]
    inference = None if spec.inference is None else _plain(spec.inference.to_dict())
    if sweep.spec.get("inference") != inference:
        found.append("other inference settings are examined")
    if spec.search.method not in LEARNS:
        learns = "only from its own trials" if spec.search.method == "cmaes" else "from no trial"
        found.append(f"{spec.search.method} learns {learns}")
    return found


def _best_of(selections: Sequence[_Selection], spec: SweepSpec) -> list[tuple[str, TakenTrial]]:
    """The configurations that are tried first, the best of each sweep in turn, with the sweeps as named."""
    limit = max(len(selections), min(MOST_FIRST, spec.budget.trials // BUDGET_SHARE))
    limit = min(limit, spec.budget.trials - len(spec.search.try_first))
    best = [
        [(one.source.named, trial) for trial in one.trials[: math.ceil(len(one.trials) / BEST_SHARE)]]
        for one in selections
    ]
    distinct: dict[str, tuple[str, TakenTrial]] = {}
    for place in itertools.zip_longest(*best):
        for one in place:
            if one is not None:
                distinct.setdefault(json.dumps(one[1].values, sort_keys=True), one)
    return list(distinct.values())[: max(0, limit)]


class _Points:
    """Trials of an earlier sweep as points of another space.

    A parameter has the value that the trial was trained with: searched, fixed or the default.

    Args:
        sweep: The earlier sweep.
        spec: The other sweep.
        trainable: What both train.
    """

    def __init__(self, sweep: SweepState, spec: SweepSpec, trainable: Trainable) -> None:
        self._spec = spec
        self._trainable = trainable
        self._fixed_before = _complete(trainable, sweep.spec["config"])
        self._defaults = _complete(trainable, {})

    def of(self, trial: TrialState) -> tuple[dict[str, Any], str]:
        """The values of the parameters that exist at a trial's point; and why it does not fit, or ``""``."""
        spec, before = self._spec, {**self._fixed_before, **_plain(trial.values)}
        config, values = dict(spec.config), {}
        for parameter in spec.space.parameters:
            if spec.space.exists(parameter, config):
                found = _value_in(parameter, before[parameter.name])
                if not found:
                    return {}, f"{parameter.name} outside"
                values[parameter.name] = config[parameter.name] = found[0]
        now = {**self._defaults, **_plain(config)}
        for name in trial.values:
            if now.get(name) != before[name]:
                return {}, f"{name} not {describe_value(now.get(name))}"
        violated = spec.space.violated(config, self._defaults)
        if violated:
            return {}, f"`{violated[0]}` violated"
        faults = self._trainable.faults(
            trained_config(config, spec.inference, self._trainable), spec.resources.workers
        )
        return ({}, f"{faults[0].where} cannot be trained") if faults else (values, "")


def _value_in(parameter: Parameter, value: Any) -> tuple[Any, ...]:
    """A value as a parameter has it; empty if the parameter does not contain it."""
    if parameter.kind == "categorical":
        return tuple(
            one for one in parameter.values if type(_plain(one)) is type(value) and _plain(one) == value
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not parameter.contains(value):
        return ()
    if parameter.kind == "float":
        return (float(value),)
    return (int(value),) if value == int(value) else ()


def _complete(trainable: Trainable, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with the defaults of the fields that it does not set, as plain types."""
    return {name: _plain(config.get(name, info.default)) for name, info in trainable.fields.items()}


def _plain(value: Any) -> Any:
    """A value as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value
