"""What makes one sweep another: the differences that forbid to continue it under the same name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from sweeper.spec.space import Parameter, Space
from sweeper.text import describe_value

__all__ = ["differences", "written_form"]


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The differences between two sweeps (`SweepSpec.to_dict`), each in a few words.

    Budget, machines, sampler and tracking may differ; not so the earlier sweeps that a search takes from.
    """
    found = [] if before["trainable"] == now["trainable"] else [_was("trainable", before, now)]
    old, new = before["config"], now["config"]
    found += [_was(f"config.{name}", old, new, name) for name in _changed(old, new)]
    found += _space_differences(Space.from_dict(before["space"]), Space.from_dict(now["space"]))
    old_goals, new_goals = (_objectives(plain["objectives"]) for plain in (before, now))
    if old_goals != new_goals:
        found.append(f"metric was {old_goals} and is now {new_goals}")
    sources = [plain["search"].get("from", []) for plain in (before, now)]
    if sources[0] != sources[1]:
        found.append(f"search.from was {_value(sources[0])} and is now {_value(sources[1])}")
    for section in ("early_stop", "inference"):
        found += _section_differences(section, before.get(section), now.get(section))
    return found


def written_form(parameter: Parameter) -> dict[str, Any]:
    """A parameter as it is written in a space file."""
    form: dict[str, Any]
    if parameter.kind == "categorical":
        form = {"values": list(parameter.values)}
    else:
        form = {"min": parameter.low, "max": parameter.high}
        if parameter.log:
            form["log"] = True
        if parameter.step is not None:
            form["step"] = parameter.step
    if parameter.when is not None:
        form["when"] = parameter.when.text
    return form


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    return [name for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _was(path: str, old: Mapping[str, Any], new: Mapping[str, Any], key: str | None = None) -> str:
    key = path if key is None else key
    return f"{path} was {_value(old.get(key))} and is now {_value(new.get(key))}"


def _value(value: Any) -> str:
    return describe_value(value)


def _space_differences(before: Space, now: Space) -> Iterator[str]:
    old = {parameter.name: written_form(parameter) for parameter in before.parameters}
    new = {parameter.name: written_form(parameter) for parameter in now.parameters}
    for name in dict.fromkeys((*old, *new)):
        if name not in new:
            yield f"{name} is no longer searched"
        elif name not in old:
            yield f"{name} is searched now"
        elif old[name] != new[name]:
            yield _was(f"parameters.{name}", old, new, name)
    if [*old] != [*new] and {*old} == {*new}:
        yield "the parameters have another order"
    constraints = [[constraint.text for constraint in space.constraints] for space in (before, now)]
    yield from (
        f"the constraint `{text}` is missing" for text in constraints[0] if text not in constraints[1]
    )
    yield from (f"the constraint `{text}` is new" for text in constraints[1] if text not in constraints[0])
    for name in _changed(before.defaults, now.defaults):
        if name in before.defaults and name in now.defaults:
            yield _was(f"the default of {name}", before.defaults, now.defaults, name)


def _objectives(objectives: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{objective['name']} ({objective['goal']})" for objective in objectives)


def _section_differences(
    section: str, before: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> Iterator[str]:
    """The differences of a section that may be missing."""
    if before is None or now is None:
        if before != now:
            yield _was(section, {section: before}, {section: now})
        return
    yield from (_was(f"{section}.{name}", before, now, name) for name in _changed(before, now))
