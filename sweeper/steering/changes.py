"""Changes to a sweep that has started: its budget, its resources, and the bounds of its ranges.

Any other change would make it a different sweep, to which the results of the ended trials do not apply.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

from sweeper.errors import SpecError, SpecFault
from sweeper.spec.differences import written_form
from sweeper.spec.space import Parameter
from sweeper.spec.space_file.fields import (
    AUTO,
    PARAMETER_KEYS,
    SETTINGS,
    coerce,
    from_the_root,
    no_home_folder,
    value_problem,
)
from sweeper.spec.space_file.yaml_nodes import FaultList, Override, parse_override
from sweeper.spec.sweep import BudgetSpec, ResourceSpec, SweepSpec
from sweeper.text import nearest
from trainables.interface import FieldInfo, NamesPlaces, Trainable

__all__ = ["budget_words", "changed_budget", "changed_sweep", "require_prices"]

_RELATIVE = re.compile(r"[+-](?=[0-9.])")
_ENDS = {"min": "low", "max": "high"}
_ABSENT: Mapping[str, object] = {"log": False}
"""Settings of a range that may be written although they say nothing."""
_ANOTHER_SWEEP = "For other changes launch a new sweep under another name."

_Section = Literal["budget", "resources"]
_Settings = TypeVar("_Settings", BudgetSpec, ResourceSpec)
_WORDS: Mapping[_Section, tuple[str, str]] = {
    "budget": ("is not a limit of a budget.", "The limits are"),
    "resources": ("is not a resource.", "Resources are"),
}
"""For each section, the message for an unknown setting, and the words before the list of the known ones."""


def changed_budget(budget: BudgetSpec, changes: Sequence[str]) -> BudgetSpec:
    """A budget after changes such as ``trials=+20``, ``hours=12`` or ``budget.gpu_hours=null``.

    A number with a sign is added to the present value.

    Raises:
        SpecError: If changes are faulty; contains every fault.
    """
    faults: list[SpecFault] = []
    for override in _parsed(changes, faults):
        key = override.key.removeprefix("budget.")
        budget = _with_setting("budget", budget, key, override, faults)
    _raise_any(faults)
    return budget


def budget_words(before: BudgetSpec, now: BudgetSpec) -> str:
    """What changed from one budget to another, e.g. ``trials 8 → 28``; empty if nothing did."""
    old, new = dataclasses.asdict(before), dataclasses.asdict(now)
    return ", ".join(
        f"{name.replace('_', ' ')} {_word(old[name])} → {_word(new[name])}"
        for name in old
        if old[name] != new[name]
    )


def changed_sweep(spec: SweepSpec, changes: Sequence[str], trainable: Trainable) -> SweepSpec:
    """A sweep with changes to its budget, its resources and the bounds of its ranges.

    Args:
        spec: The sweep as it was.
        changes: ``budget.…``, ``resources.…``, ``parameters.NAME.min``, ``parameters.NAME.max``, and
            ``config.NAME`` of a field that names the place of the data. The driver checks that the data
            are the same.
        trainable: What is trained; knows which values are legal.

    Raises:
        SpecError: If changes are faulty; contains every fault.
    """
    faults: list[SpecFault] = []
    budget, resources, config = spec.budget, spec.resources, dict(spec.config)
    parameters = {parameter.name: parameter for parameter in spec.space.parameters}
    for override in _parsed(changes, faults):
        section, _, rest = override.key.partition(".")
        if section == "budget" and rest:
            budget = _with_setting("budget", budget, rest, override, faults)
        elif section == "resources" and rest:
            resources = _with_setting("resources", resources, rest, override, faults)
        elif section == "parameters" and rest:
            _change_range(parameters, rest, override, trainable, faults)
        elif section == "config" and rest:
            _change_place(config, spec, rest, override, trainable, faults)
        else:
            faults.append(
                _fault(
                    override,
                    "cannot be changed in a sweep that has started.",
                    "Only budget.…, resources.…, parameters.NAME.min, parameters.NAME.max and the place of "
                    "the same data (config.dataset.root) can be changed. For other changes launch a new "
                    "sweep under another name.",
                )
            )
    for parameter in parameters.values():
        faults += _order_faults(parameter)
    _raise_any(faults)
    require_prices(budget, spec.cost is not None)
    space = dataclasses.replace(spec.space, parameters=tuple(parameters.values()))
    return dataclasses.replace(
        spec,
        config=config,
        budget=budget,
        resources=resources,
        space=space,
        overrides=(*spec.overrides, *changes),
    )


def require_prices(budget: BudgetSpec, has_prices: bool) -> None:
    """Check that a limit in money can be kept.

    Raises:
        SpecError: If the sweep has no prices.
    """
    if budget.cost is not None and not has_prices:
        problem = "needs prices, and this sweep was started without a section cost."
        remedy = (
            "Limit budget.hours or budget.gpu_hours, or add prices to the space file and launch it again."
        )
        raise SpecError([SpecFault("the changes", 0, "budget.cost", problem, remedy)])


def _parsed(changes: Sequence[str], faults: list[SpecFault]) -> list[Override]:
    found = FaultList()
    overrides = [parse_override(change, found) for change in changes]
    faults += found
    return [override for override in overrides if override is not None]


def _raise_any(faults: Sequence[SpecFault]) -> None:
    if faults:
        raise SpecError(list(dict.fromkeys(faults)))


def _fault(override: Override, problem: str, remedy: str = "") -> SpecFault:
    return SpecFault(override.place.label, 0, override.key, problem, remedy)


def _with_setting(
    section: _Section, settings: _Settings, key: str, override: Override, faults: list[SpecFault]
) -> _Settings:
    """The settings of a section with one of them changed; unchanged if the change is faulty."""
    known, (unknown, known_are) = SETTINGS[section], _WORDS[section]
    value = override.value.plain()
    if key not in known:
        near = nearest(key, known)
        remedy = f"Did you mean {near}?" if near else f"{known_are} {', '.join(known)}."
        faults.append(_fault(override, unknown, remedy))
        return settings
    if value == "auto" and key in AUTO:
        return dataclasses.replace(settings, **{key: value})
    if section == "budget" and _RELATIVE.match(override.raw.strip()) and isinstance(value, (int, float)):
        before = getattr(settings, key)
        if before is None:
            problem = f"{override.raw} cannot be added: this sweep has no limit of {key.replace('_', ' ')}."
            faults.append(_fault(override, problem, "Give the new limit, without a sign."))
            return settings
        value = before + value
    problem_and_remedy = value_problem(known[key], value)
    if problem_and_remedy is not None:
        faults.append(_fault(override, *problem_and_remedy))
        return settings
    return dataclasses.replace(settings, **{key: coerce(known[key], value)})


def _change_range(
    parameters: dict[str, Parameter],
    rest: str,
    override: Override,
    trainable: Trainable,
    faults: list[SpecFault],
) -> None:
    """Change the bounds of a range: ``NAME.min=...``, or ``NAME={min: ..., max: ...}``."""
    whole = trainable.aliases.get(rest, rest)
    name, _, setting = rest.rpartition(".")
    name = trainable.aliases.get(name, name)
    if whole in parameters or whole in trainable.fields:
        name, changes = whole, override.value.value
    else:
        changes = {setting: override.value}
    parameter = parameters.get(name)
    if parameter is None:
        faults.append(_not_searched(name or rest, parameters, override, trainable))
    elif not isinstance(changes, dict):
        problem = "a searched field cannot be fixed: the search could not compare its trials any more."
        faults.append(_fault(override, problem, _bounds_or_another_sweep(parameter)))
    else:
        for key, node in changes.items():
            _change_setting(
                parameters, name, key, dataclasses.replace(override, value=node), trainable, faults
            )


def _not_searched(
    name: str, parameters: Mapping[str, Parameter], override: Override, trainable: Trainable
) -> SpecFault:
    near = None if name in trainable.fields else nearest(name, parameters)
    remedy = f"Did you mean {near}?" if near else f"It searches {', '.join(parameters)}. {_ANOTHER_SWEEP}"
    return _fault(override, f"{name} is not searched by this sweep.", remedy)


def _change_setting(
    parameters: dict[str, Parameter],
    name: str,
    key: str,
    override: Override,
    trainable: Trainable,
    faults: list[SpecFault],
) -> None:
    parameter = parameters[name]
    if written_form(parameter).get(key, _ABSENT.get(key)) == override.value.plain():
        return  # as it was
    if parameter.kind == "categorical":
        problem = f"{name} is a choice, and choices cannot be changed once a search has started."
        faults.append(_fault(override, problem, _ANOTHER_SWEEP))
    elif key not in _ENDS:
        known = key in PARAMETER_KEYS
        problem = f"{key} cannot be changed: the search could not compare its trials any more."
        problem = problem if known else f"{key} is not a setting of a parameter."
        faults.append(_fault(override, problem, _bounds_or_another_sweep(parameter)))
    else:
        value = _end_of(parameter, trainable.fields[name], override, faults)
        if value is not None:
            parameters[name] = dataclasses.replace(parameter, **{_ENDS[key]: value})


def _bounds_or_another_sweep(parameter: Parameter) -> str:
    """What can be done instead of a change that is not allowed."""
    if parameter.kind == "categorical":
        return _ANOTHER_SWEEP
    return f"Change parameters.{parameter.name}.min or .max. {_ANOTHER_SWEEP}"


def _change_place(
    config: dict[str, Any],
    spec: SweepSpec,
    rest: str,
    override: Override,
    trainable: Trainable,
    faults: list[SpecFault],
) -> None:
    """Change the place of the data or of the checkpoint. The driver checks that the content is the same."""
    places = trainable.places if isinstance(trainable, NamesPlaces) else ()
    name = trainable.aliases.get(rest, rest)
    if name not in places:
        allowed = ", ".join(f"config.{place}" for place in places)
        remedy = f"The place of the same data may change: {allowed}. " if places else ""
        problem = "cannot be changed in a sweep that has started: its trials could not be compared."
        faults.append(_fault(override, problem, f"{remedy}Launch a new sweep under another name."))
        return
    if name in spec.space.names:
        remedy = "Put the data back, or launch a new sweep under another name."
        faults.append(_fault(override, "is searched by this sweep, so it cannot be changed.", remedy))
        return
    value, field = override.value.plain(), trainable.fields[name]
    problem_and_remedy = value_problem(field, value)
    if problem_and_remedy is None:
        try:
            config[name] = from_the_root(field, coerce(field, value))
        except RuntimeError:
            problem_and_remedy = no_home_folder(value)
    if problem_and_remedy is not None:
        faults.append(_fault(override, *problem_and_remedy))


def _end_of(
    parameter: Parameter, field: FieldInfo, override: Override, faults: list[SpecFault]
) -> Any | None:
    value = override.value.plain()
    problem_and_remedy = value_problem(field, value)
    if problem_and_remedy is None and not isinstance(value, (int, float)):
        problem_and_remedy = (f"{value!r} is not a number.", "Give a number for min or max.")
    if problem_and_remedy is None and parameter.log and value <= 0:
        problem_and_remedy = (
            f"{value!r} has no logarithm.",
            "Give a number above 0, because this range has log: true.",
        )
    if problem_and_remedy is not None:
        faults.append(_fault(override, *problem_and_remedy))
        return None
    return coerce(field, value)


def _order_faults(parameter: Parameter) -> list[SpecFault]:
    if parameter.kind == "categorical" or parameter.low is None or parameter.high is None:
        return []
    if parameter.low <= parameter.high:
        return []
    problem = f"its min {parameter.low:g} is above its max {parameter.high:g}."
    return [SpecFault("the changes", 0, f"parameters.{parameter.name}", problem, "Change both.")]


def _word(value: Any) -> str:
    return "no limit" if value is None else f"{value:g}"
