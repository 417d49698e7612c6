"""Checks of whole configurations of a space, with the rules of the trainable.

All combinations of a small space are checked. Of a large one, these are the corners, every single value and a
random sample with a fixed seed. A value that no combination can use is a fault at its line. A combination
that cannot be trained although its values can is a warning: it is rejected before it starts, at no cost.
An inference value that no combination can use is a fault too. One that only some can use is not: the others
leave it out.
"""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sweeper.errors import ExpressionError
from sweeper.spec.space import Parameter, Space
from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.read_inference import value_places
from sweeper.spec.space_file.read_space import SpacePlaces
from sweeper.spec.sweep import trained_config
from sweeper.text import counted, describe_value
from trainables.interface import Fault

__all__ = ["check_combinations", "check_try_first"]

MAX_ENUMERATED = 1500
"""Combinations up to which all are checked; a check must take well under a second."""
RANDOM_DRAWS = 600
DRAWS_PER_VALUE = 4
MAX_VALUES = 40
"""Values of one parameter that are checked one by one."""
MAX_SETTINGS = 6000
"""Configurations that are checked with inference settings, in all."""


@dataclass(frozen=True)
class _Tried:
    """One configuration that satisfies the constraints, and its faults according to the trainable."""

    values: Mapping[str, Any]
    faults: tuple[Fault, ...]


def check_combinations(document: Document, space: Space, places: SpacePlaces, workers: int = 1) -> None:
    """Add faults and warnings about combinations, of trials of so many workers, to ``document``."""
    configs = list(_configs(space, document.config))
    _check_conditions(document, space, places, configs)
    kept = _keep_constraints(document, space, places, configs)
    if not kept or document.trainable is None:
        return
    tried = [_tried(document, space, config, workers) for config in kept]
    if all(trial.faults for trial in tried):
        tried = _all_illegal(document, space, places, tried)
        if all(trial.faults for trial in tried):
            return
    tried = _check_values(document, space, places, tried)
    _check_inference(document, [trial for trial in tried if not trial.faults], workers)
    _warn_of_clashes(document, tried)


def _configs(space: Space, fixed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Distinct configurations to look at; some may violate constraints."""
    candidates = {parameter.name: _candidates(parameter) for parameter in space.parameters}
    seen: set[str] = set()
    for values in _value_sets(candidates):
        config = space.complete(values, fixed)
        key = repr([config.get(name) for name in candidates])
        if key not in seen:
            seen.add(key)
            yield config


def _candidates(parameter: Parameter) -> Sequence[Any]:
    """The values of a parameter that are checked: all if they are few, else the bounds and some between."""
    generator = random.Random(parameter.name)
    size = parameter.size()
    if parameter.kind == "categorical":
        few = len(parameter.values) <= MAX_VALUES
        return parameter.values if few else generator.sample(parameter.values, MAX_VALUES)
    if size is not None and size <= MAX_VALUES:
        return parameter.grid()
    low, high = parameter.bounds()
    ends = [int(low), int(high)] if parameter.kind == "int" else [low, high]
    count = 1 if size is None else MAX_VALUES - 2
    drawn = [parameter.draw(generator) for _ in range(count)]
    return sorted({*ends, *drawn})


def _value_sets(candidates: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    names = list(candidates)
    if math.prod(len(values) for values in candidates.values()) <= MAX_ENUMERATED:
        for combination in itertools.product(*candidates.values()):
            yield dict(zip(names, combination, strict=True))
        return
    generator = random.Random(0)
    for number in range(RANDOM_DRAWS):
        # The first draws take ends only: a space fails at its corners.
        corner = number < RANDOM_DRAWS // 4
        yield {
            name: generator.choice([values[0], values[-1]] if corner else values)
            for name, values in candidates.items()
        }
    for pinned, choices in candidates.items():
        for value, _ in itertools.product(choices, range(DRAWS_PER_VALUE)):
            drawn = {name: generator.choice(values) for name, values in candidates.items()}
            yield {**drawn, pinned: value}


def _check_conditions(
    document: Document, space: Space, places: SpacePlaces, configs: Sequence[Mapping[str, Any]]
) -> None:
    """Find parameters whose condition is always false: a mistake."""
    for parameter in space.parameters:
        if parameter.when is None:
            continue
        if not any(space.exists(parameter, config) for config in configs):
            problem = (
                f"`{parameter.when}` is false for all of the {len(configs)} combinations that were checked."
            )
            remedy = "The parameter would never be searched. Correct the condition, or remove the parameter."
            name = f"parameters.{parameter.name}.when"
            document.faults.add(places.parameters[parameter.name], name, problem, remedy)


def _keep_constraints(
    document: Document, space: Space, places: SpacePlaces, configs: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The configurations that satisfy the constraints; adds faults for constraints that are always false."""
    counts: Counter[str] = Counter()
    kept = []
    for config in configs:
        violated = space.violated(config)
        counts.update(set(violated))
        if not violated:
            kept.append(config)
    before = len(document.faults)
    for number, constraint in enumerate(space.constraints):
        place, name = places.constraints[number], f"constraints[{number}]"
        error = _first_error(space, number, configs)
        if error is not None:
            document.faults.add(place, name, error)
        elif counts[constraint.text] == len(configs):
            problem = f"`{constraint}` is false for all of the {len(configs)} combinations that were checked."
            document.faults.add(place, name, problem, _ranges(document, space, constraint.names))
    if not kept and len(document.faults) == before:
        problem = (
            f"none of {len(configs)} combinations satisfies all constraints; each alone can be satisfied."
        )
        document.faults.add(document.place("constraints"), "constraints", problem, "Widen the space.")
    return kept


def _first_error(space: Space, number: int, configs: Sequence[Mapping[str, Any]]) -> str | None:
    for config in configs:
        try:
            space.constraints[number].holds({**space.defaults, **config})
        except ExpressionError as error:
            return str(error)
    return None


def _ranges(document: Document, space: Space, names: Sequence[str]) -> str:
    """The values that the names of an expression can have, in words."""
    searched = {parameter.name: parameter for parameter in space.parameters}
    words = []
    for name in names:
        if name in searched:
            words.append(f"{name} is {_span(searched[name])}")
        else:
            words.append(f"{name} is {document.config.get(name, space.defaults.get(name))}")
    return f"Here {', '.join(words)}."


def _span(parameter: Parameter) -> str:
    if parameter.kind == "categorical":
        return "one of " + ", ".join(map(str, parameter.values))
    low, high = parameter.bounds()
    return f"{low:g} to {high:g}"


def _tried(document: Document, space: Space, config: dict[str, Any], workers: int) -> _Tried:
    assert document.trainable is not None
    searched = {
        parameter.name: config[parameter.name]
        for parameter in space.parameters
        if space.exists(parameter, config)
    }
    trained = trained_config(config, document.inference, document.trainable)
    return _Tried(searched, tuple(document.trainable.faults(trained, workers)))


def _check_inference(document: Document, legal: Sequence[_Tried], workers: int) -> None:
    """Find inference values that no policy of the space can use.

    A value that some policies can use is not a fault: the others leave it out.
    """
    inference = document.inference
    if inference is None or not legal:
        return
    places, settings = value_places(document), inference.settings()
    attempts = MAX_SETTINGS // sum(map(len, inference.parameters.values()))
    for name, values in inference.parameters.items():
        for place, value in zip(places[name], values, strict=True):
            chosen = [setting for setting in settings if setting[name] == value]
            configs = list(_with_settings(document, legal, chosen, attempts))
            fault = _fault_in_all(document, configs, name, workers)
            if fault is not None:
                problem = (
                    f"{describe_value(value)} cannot be used on any policy of this space "
                    f"({counted(len(configs), 'combination')} checked), e.g. {fault.problem}"
                )
                document.faults.add(place, f"inference.parameters.{name}.values", problem, fault.remedy)


def _with_settings(
    document: Document, legal: Sequence[_Tried], settings: Sequence[Mapping[str, Any]], most: int
) -> Iterator[dict[str, Any]]:
    """Each legal configuration with each setting; a random sample if these are too many."""
    count = len(legal) * len(settings)
    numbers = range(count) if count <= most else random.Random(0).sample(range(count), most)
    for number in numbers:
        trial, setting = legal[number // len(settings)], settings[number % len(settings)]
        yield {**document.config, **trial.values, **setting}


def _fault_in_all(
    document: Document, configs: Sequence[Mapping[str, Any]], name: str, workers: int
) -> Fault | None:
    """A fault of one field if it has one in every configuration; None if it has none in any of them."""
    assert document.trainable is not None
    fault = None
    for config in configs:
        faults = document.trainable.faults(config, workers)
        fault = next((fault for fault in faults if fault.where == name), None)
        if fault is None:
            return None
    return fault


def check_try_first(
    document: Document, space: Space, first: Sequence[Mapping[str, Any]], workers: int
) -> None:
    """Find trials of ``search.try_first`` that cannot be tried; those with values to draw are left out."""
    place = document.place("search", "try_first")
    for number, values in enumerate(first):
        name = f"search.try_first[{number}]"
        try:
            config = space.complete(values, document.config)
        except KeyError:
            continue
        absent = [own for own in values if own not in config]
        if absent:
            problem = f"{', '.join(absent)} is not searched with these values, because its `when` is false."
            document.faults.add(place, name, problem, "Leave it out.")
        for constraint in space.violated(config):
            remedy = "Change the values or the constraint."
            document.faults.add(place, name, f"the values violate `{constraint}`.", remedy)
        for fault in _tried(document, space, config, workers).faults:
            document.faults.add(place, name, f"{fault.where} {fault.problem}", fault.remedy)


def _all_illegal(
    document: Document, space: Space, places: SpacePlaces, tried: Sequence[_Tried]
) -> list[_Tried]:
    """Add faults for the fields that are wrong in all combinations, or else for the most frequent one.

    Returns:
        The trials without the faults of these fields: those would remain after a correction.
    """
    counts = Counter(where for trial in tried for where in {fault.where for fault in trial.faults})
    always = [where for where, count in counts.items() if count == len(tried)]
    said = always or [counts.most_common(1)[0][0]]
    for where in said:
        fault = next(fault for trial in tried for fault in trial.faults if fault.where == where)
        if where in places.parameters:
            values = _values_of(where, tried)
            if len(values) > 1 and where in always:
                _add_illegal_values(document, space, places, where, values, tried)
                continue
            document.faults.add(places.parameters[where], f"parameters.{where}", fault.problem, fault.remedy)
        else:
            place = document.config_places.get(where, document.place("config"))
            remedy = f"{fault.remedy} {_default(document, where)}".strip()
            document.faults.add(place, f"config.{where}", fault.problem, remedy)
    return [_Tried(t.values, tuple(fault for fault in t.faults if fault.where not in said)) for t in tried]


def _default(document: Document, where: str) -> str:
    """For a field that the file does not set, the value that it has and its source."""
    assert document.trainable is not None
    field = document.trainable.fields.get(where)
    if field is None or where in document.config_places:
        return ""
    if where in document.config:
        value = describe_value(document.config[where])
        return f"Not set here, {where} is {value}, as in the checkpoint."
    return "" if field.default is None else f"Not set here, {where} is {describe_value(field.default)}."


def _values_of(name: str, tried: Sequence[_Tried]) -> list[Any]:
    values: list[Any] = []
    for trial in tried:
        if name in trial.values and trial.values[name] not in values:
            values.append(trial.values[name])
    return values


def _check_values(document: Document, space: Space, places: SpacePlaces, tried: list[_Tried]) -> list[_Tried]:
    """Find values that no combination can use; returns the trials without them.

    First the values that are at fault themselves, then those that clash with whatever is left.
    """
    for own in (True, False):
        for parameter in space.parameters:
            name = parameter.name
            illegal = [value for value in _values_of(name, tried) if _never(tried, name, value, own)]
            if illegal:
                _add_illegal_values(document, space, places, name, illegal, tried)
                tried = [t for t in tried if name not in t.values or t.values[name] not in illegal]
    return tried


def _never(tried: Sequence[_Tried], name: str, value: Any, own: bool) -> bool:
    """Whether no combination with this value is legal (and, with ``own``, each because of this field)."""
    using = [trial for trial in tried if name in trial.values and trial.values[name] == value]
    if not own:
        return all(trial.faults for trial in using)
    return all(any(fault.where == name for fault in trial.faults) for trial in using)


def _add_illegal_values(
    document: Document,
    space: Space,
    places: SpacePlaces,
    name: str,
    illegal: Sequence[Any],
    tried: Sequence[_Tried],
) -> None:
    parameter = next(parameter for parameter in space.parameters if parameter.name == name)
    if parameter.kind == "categorical":
        for value in illegal:
            fault = _fault_of(tried, name, value)
            place = places.values[name][parameter.values.index(value)]
            own = fault.where == name
            problem = fault.problem if own else f"{value} cannot be used: {fault.where}: {fault.problem}"
            document.faults.add(place, f"parameters.{name}", problem, fault.remedy)
        return
    legal = [value for value in _values_of(name, tried) if value not in illegal]
    first = min(illegal)
    fault = _fault_of(tried, name, first)
    remedy = _legal_form(legal) or fault.remedy
    words = fault.problem if fault.where == name else f"{fault.where}: {fault.problem}"
    if len(illegal) == 1:
        problem = f"{first:g} cannot be used in any trial: {words}"
    else:
        total = len(illegal) + len(legal)
        problem = f"{len(illegal)} of {total} checked numbers cannot be used in any trial. {first:g}: {words}"
    document.faults.add(places.parameters[name], f"parameters.{name}", problem, remedy)


def _fault_of(tried: Sequence[_Tried], name: str, value: Any) -> Fault:
    faults = [f for t in tried if name in t.values and t.values[name] == value for f in t.faults]
    return next((fault for fault in faults if fault.where == name), faults[0])


def _legal_form(legal: Sequence[Any]) -> str:
    """How to write the integers that can be used; empty if there is no short form."""
    numbers = sorted(legal)
    if not numbers or not all(isinstance(number, int) for number in numbers):
        return ""
    if len(numbers) == 1:
        return f"Only {numbers[0]} can be used."
    steps = {later - earlier for earlier, later in itertools.pairwise(numbers)}
    if len(steps) == 1:
        step = steps.pop()
        ending = "" if step == 1 else f", step: {step}"
        return f"Use {{min: {numbers[0]}, max: {numbers[-1]}{ending}}}."
    return f"Use {{values: [{', '.join(map(str, numbers))}]}}." if len(numbers) <= MAX_VALUES // 2 else ""


def _warn_of_clashes(document: Document, tried: Sequence[_Tried]) -> None:
    """Combinations that cannot be trained although each of their values can."""
    clashing = [trial for trial in tried if trial.faults]
    if not clashing:
        return
    examples: dict[str, Fault] = {}
    for trial in clashing:
        for fault in trial.faults:
            examples.setdefault(fault.where, fault)
    share = len(clashing) / len(tried)
    said = " ".join(f"{fault.where}: {fault.problem} {fault.remedy}".strip() for fault in examples.values())
    document.warnings.append(
        f"{share:.0%} of the checked combinations cannot be trained. They are skipped at no cost. "
        f"It is better to exclude them with constraints. {said}"
    )
