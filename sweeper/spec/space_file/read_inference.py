"""The sections `inference` and `confirm`: what is done with trained policies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.fields import coerce, value_problem
from sweeper.spec.space_file.yaml_nodes import FaultList, Node, Place, parse_override
from sweeper.spec.sweep import ConfirmSpec, Goal, InferenceSpec, Objective
from sweeper.text import nearest, shortened
from trainables.interface import ConfigError, EvaluatesPolicies, Fault, Trainable

__all__ = [
    "EPISODE_METRICS",
    "ERROR_METRICS",
    "LIMITS",
    "MOST_SETTINGS",
    "read_confirm",
    "read_inference",
    "read_settings",
    "value_places",
]

EPISODE_METRICS = ("rollout/success_rate", "rollout/avg_max_reward", "rollout/avg_sum_reward")
"""What settings can be compared by in a simulator: these are means of episodes."""
ERROR_METRICS = ("eval/action_mse",)
"""What they can be compared by without one."""
LIMITS: Mapping[str, Goal] = {"eval/chunk_latency_ms": "minimize", "eval/action_rate_hz": "maximize"}
"""What can be limited: the largest latency of a chunk, the smallest rate of actions."""
MOST_SETTINGS = 256
"""More settings than this are a mistake: each needs episodes before it can be dropped."""
_PATH = "inference"


def read_inference(document: Document, objectives: tuple[Objective, ...]) -> InferenceSpec | None:
    """Read the section; None if there is none, or if it has faults."""
    entries = document.section(_PATH)
    if entries is None:
        return None
    before = len(document.faults)
    if document.trainable is not None and not isinstance(document.trainable, EvaluatesPolicies):
        problem = f"{document.trainable.name} cannot evaluate trained policies with other settings."
        remedy = "Remove the section, or give the trainable open_policy (docs/custom_trainables.md)."
        document.faults.add(document.place(_PATH), _PATH, problem, remedy)
        return None
    parameters = _parameters(document)
    metric = _metric(document, entries, objectives)
    limits = _limits(document)
    low_high = _reward_range(document, entries)
    if metric is not None and metric.name in ERROR_METRICS and "policy.n_action_steps" in parameters:
        problem = "the held-out error compares the same actions for every value of it."
        remedy = "Remove it, or set rollout.env and compare by a metric of rollouts."
        name = f"{_PATH}.parameters.policy.n_action_steps"
        document.faults.add(document.place(_PATH, "parameters"), name, problem, remedy)
    if len(document.faults) > before or metric is None:
        return None
    found = InferenceSpec(
        parameters=parameters,
        metric=metric.name,
        goal=metric.goal,
        episodes=entries["episodes"].value if "episodes" in entries else 100,
        limits=limits,
        reward_range=low_high,
    )
    return found if _are_few(document, found) else None


def read_confirm(document: Document) -> ConfirmSpec | None:
    """Read the section `confirm`; None if there is none, or if it has faults."""
    entries = document.section("confirm")
    if entries is None:
        return None
    trainable, place = document.trainable, document.place("confirm")
    if trainable is None:
        return None
    if not isinstance(trainable, EvaluatesPolicies):
        remedy = "Remove the section, or give the trainable open_policy (docs/custom_trainables.md)."
        document.faults.add(place, "confirm", f"{trainable.name} cannot evaluate trained policies.", remedy)
        return None
    needs = [metric.needs for name in EPISODE_METRICS if (metric := trainable.metrics.get(name)) is not None]
    missing = [field for field in needs if field is not None and not document.is_set(field)]
    if missing:
        remedy = f"Set {missing[0]} in config, or remove the section."
        document.faults.add(place, "confirm", "needs a simulator, and there is none.", remedy)
        return None
    return ConfirmSpec(**{key: node.value for key, node in entries.items()})


def read_settings(
    trainable: Trainable,
    config: Mapping[str, Any],
    objective: Objective,
    arguments: Sequence[str],
    limits: Sequence[str] = (),
    *,
    episodes: int = 100,
    reward_range: tuple[float, float] = (0.0, 1.0),
) -> InferenceSpec:
    """Read ``FIELD=A,B,C`` arguments as the section, with its checks.

    Args:
        trainable: Knows the fields; its aliases are accepted.
        config: The environment and the dataset of the policy, which decide what it can be compared by.
        objective: What settings are compared by.
        arguments: As they were typed; if a field is given twice, the last values count.
        limits: ``METRIC=BOUND``, as they were typed.
        episodes: Most episodes of a setting.
        reward_range: The least and the largest reward.

    Raises:
        ConfigError: With every argument that is wrong.
    """
    place, faults = Place("the command line"), FaultList()
    parameters: dict[str, Node] = {}
    document = Document({}, place, faults, trainable, config=dict(config))
    for argument in arguments:
        override = parse_override(_as_list(argument), faults)
        if override is None:
            continue
        key = override.key.removeprefix(f"{_PATH}.parameters.").removesuffix(".values")
        parameters[document.own_name(key) or key] = Node(override.place, {"values": override.value})
    bounds = [parse_override(limit, faults) for limit in limits]
    entries = {
        "parameters": Node(place, parameters),
        "limits": Node(place, {bound.key: bound.value for bound in bounds if bound is not None}),
        "episodes": Node(place, episodes),
        "metric": Node(place, objective.name),
        "reward_range": Node(place, [Node(place, value) for value in reward_range]),
    }
    document.root[_PATH] = Node(place, entries)
    found = read_inference(document, (objective,)) if parameters or not len(faults) else None
    if found is None or len(faults):
        # There is no space file: the arguments are named as they were typed.
        typed = {
            fault: fault.name.removeprefix(f"{_PATH}.parameters.").removesuffix(".values") for fault in faults
        }
        raise ConfigError([Fault(name or one.place, one.problem, one.remedy) for one, name in typed.items()])
    return found


def value_places(document: Document) -> dict[str, list[Place]]:
    """Where each value of a section without faults is written, by the trainable's own names of the fields."""
    entries = document.root[_PATH].value["parameters"].value
    return {
        own: [element.place for element in entry.value["values"].value]
        for key, entry in entries.items()
        if (own := document.own_name(key)) is not None
    }


def _as_list(argument: str) -> str:
    """The argument with its values as a list of YAML: ``key=1,2`` becomes ``key=[1,2]``."""
    key, separator, raw = argument.partition("=")
    listed = raw.strip().startswith("[")
    return argument if listed or not raw.strip() else f"{key}{separator}[{raw}]"


def _parameters(document: Document) -> dict[str, tuple[Any, ...]]:
    place, name = document.place(_PATH, "parameters"), f"{_PATH}.parameters"
    section = document.root[_PATH].value
    node = section.get("parameters") if isinstance(section, dict) else None
    if node is None or not isinstance(node.value, dict) or not node.value:
        remedy = "List fields and their values, e.g. `policy.num_inference_steps: {values: [4, 8, 16]}`."
        document.faults.add(place, name, "names no field.", remedy)
        return {}
    found: dict[str, tuple[Any, ...]] = {}
    for key, entry in node.value.items():
        own = document.own_name(key)
        if document.trainable is None:
            continue
        if own is None:
            document.faults.add(entry.place, f"{name}.{key}", "is not a field.", document.field_hint(key))
        elif document.trainable.fields[own].phase != "inference":
            known = [field.name for field in document.trainable.fields.values() if field.phase == "inference"]
            remedy = f"Search it under parameters. Inference fields are {', '.join(known)}."
            document.faults.add(
                entry.place, f"{name}.{key}", "cannot be changed on a trained policy.", remedy
            )
        elif own in found:
            document.faults.add(entry.place, f"{name}.{key}", "is listed twice.", "Remove one of them.")
        else:
            found[own] = _values(document, own, f"{name}.{key}", entry)
    return found


def _values(document: Document, own: str, name: str, node: Node) -> tuple[Any, ...]:
    assert document.trainable is not None
    if own in document.searched_names():
        problem = "is also searched by training (under parameters)."
        document.faults.add(node.place, name, problem, "Remove one of them; here no training is repeated.")
    if own == "policy.n_action_steps" and own in document.config_places:
        problem = "is also fixed in config: the training takes the largest of these values."
        document.faults.add(node.place, name, problem, "Remove it from config.")
    form = node.value
    listed = form.get("values") if isinstance(form, dict) and set(form) == {"values"} else None
    if listed is None or not isinstance(listed.value, list) or not listed.value:
        remedy = "Write `{values: [a, b, c]}`."
        document.faults.add(node.place, name, f"{shortened(repr(node.plain()), 60)} is not values.", remedy)
        return ()
    info = document.trainable.fields[own]
    values: list[Any] = []
    for element in listed.value:
        problem_remedy = value_problem(info, element.plain())
        if problem_remedy is not None:
            document.faults.add(element.place, f"{name}.values", *problem_remedy)
            continue
        value = coerce(info, element.plain())
        if any(type(value) is type(other) and value == other for other in values):
            document.faults.add(
                element.place, f"{name}.values", f"{value!r} is listed twice.", "Remove one of them."
            )
        values.append(value)
    return tuple(values)


def _metric(
    document: Document, entries: Mapping[str, Node], objectives: tuple[Objective, ...]
) -> Objective | None:
    """What settings are compared by: what is named, or the first objective that is possible."""
    if document.trainable is None:
        return None
    known = (*EPISODE_METRICS, *ERROR_METRICS)
    usable = [
        name
        for name in known
        if (metric := document.trainable.metrics.get(name)) is not None
        and (metric.needs is None or document.is_set(metric.needs))
    ]
    name = f"{_PATH}.metric"
    if "metric" in entries:
        wanted = entries["metric"].value
        if wanted in usable:
            goal = document.trainable.metrics[wanted].goal
            return Objective(wanted, goal or "maximize")
        near = nearest(wanted, usable)
        remedy = f"Did you mean {near}?" if near else f"Possible here: {', '.join(usable) or 'none'}."
        document.faults.add(
            entries["metric"].place, name, f"settings cannot be compared by {wanted!r}.", remedy
        )
        return None
    for objective in objectives:
        if objective.name in usable:
            return objective
    if objectives:
        remedy = f"Set it to one of {', '.join(usable)}." if usable else "Set rollout.env in config."
        problem = f"is missing, and settings cannot be compared by {objectives[0].name}."
        document.faults.add(document.place(_PATH), name, problem, remedy)
    return None


def _limits(document: Document) -> dict[str, float]:
    section = document.root[_PATH].value
    node = section.get("limits") if isinstance(section, dict) else None
    if node is None or not isinstance(node.value, dict):
        return {}
    found = {}
    for key, entry in node.value.items():
        value, name = entry.plain(), f"{_PATH}.limits.{key}"
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if key not in LIMITS:
            near = nearest(key, LIMITS)
            remedy = f"Did you mean {near}?" if near else f"Possible: {', '.join(LIMITS)}."
            document.faults.add(entry.place, name, "cannot be limited.", remedy)
        elif not number or not math.isfinite(value) or value <= 0:
            document.faults.add(entry.place, name, f"{value!r} is not a limit.", "Expected a number above 0.")
        else:
            found[key] = float(value)
    return found


def _reward_range(document: Document, entries: Mapping[str, Node]) -> tuple[float, float]:
    if "reward_range" not in entries:
        return (0.0, 1.0)
    value = entries["reward_range"].value
    if len(value) == 2 and value[0] < value[1]:
        return (value[0], value[1])
    problem = f"{value} is not a range."
    remedy = "Write [least, largest] reward of an episode."
    document.faults.add(entries["reward_range"].place, f"{_PATH}.reward_range", problem, remedy)
    return (0.0, 1.0)


def _are_few(document: Document, found: InferenceSpec) -> bool:
    """Whether there are not too many settings."""
    place = document.place(_PATH, "parameters")
    count = math.prod(len(values) for values in found.parameters.values())
    if count > MOST_SETTINGS:
        problem = f"{count:,} settings are too many; at most {MOST_SETTINGS}."
        document.faults.add(place, f"{_PATH}.parameters", problem, "List fewer values.")
        return False
    return True
