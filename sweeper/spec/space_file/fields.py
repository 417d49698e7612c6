"""The sections of a space file and what each can contain: tables for checks, messages and documentation."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from sweeper.spec.alerts import EVENTS, FORMATS
from sweeper.spec.sampler_options import SAMPLER_OPTIONS
from sweeper.spec.search_methods import TRACKERS
from sweeper.spec.slips import NOTHING, meant_choice, meant_list, meant_number, meant_truth
from sweeper.spec.space_file.yaml_nodes import Grouped, Node
from sweeper.spec.stopper_options import STOPPER_OPTIONS
from sweeper.text import is_there, nearest
from trainables.interface import STEPS, FieldInfo, is_url

__all__ = [
    "AUTO",
    "METHODS",
    "PARAMETER_KEYS",
    "PARAMETER_WORDS",
    "SECTIONS",
    "SETTINGS",
    "coerce",
    "from_the_root",
    "is_path",
    "no_home_folder",
    "possible_numbers",
    "unfilled_variable",
    "value_problem",
]

PATH_OR_HUB = "path or hub id"
"""Unit of a field that names a folder or, if that does not exist, a repository on the hub."""

SECTIONS = (
    "name",
    "trainable",
    "config",
    "parameters",
    "constraints",
    "metric",
    "objectives",
    "search",
    "early_stop",
    "budget",
    "resources",
    "failures",
    "keep",
    "inference",
    "confirm",
    "cost",
    "alerts",
    "tracking",
)
METHODS = tuple(SAMPLER_OPTIONS)
STOPPERS = tuple(STOPPER_OPTIONS)
SETTINGS: Mapping[str, Mapping[str, FieldInfo]] = {
    section: {info.name: info for info in fields}
    for section, fields in {
        "metric": (
            FieldInfo("name", "str", None, doc="A metric of the trainable (docs/metrics.md)."),
            FieldInfo(
                "goal",
                "str",
                None,
                choices=("minimize", "maximize"),
                doc="The direction that is better; left out: the metric's own.",
            ),
        ),
        "search": (
            FieldInfo("method", "str", "tpe", choices=METHODS, doc="How the next trial is chosen."),
            FieldInfo("seed", "int", 0, minimum=0, maximum=2**32 - 1, doc="Seed of the sampler."),
            FieldInfo(
                "startup_trials", "int", 10, minimum=0, doc="Trials at random before the sampler learns."
            ),
            FieldInfo("options", "dict", {}, doc="Further arguments of the sampler, under Optuna's names."),
            FieldInfo(
                "try_first",
                "list[any]",
                [],
                doc="Trials before all others: {field: value, ...} or the name of a preset, each.",
            ),
            FieldInfo(
                "from", "texts", [], doc="Earlier sweeps whose trials inform this one, by name or path."
            ),
        ),
        "early_stop": (
            FieldInfo(
                "method",
                "str",
                None,
                choices=STOPPERS,
                doc="Which trials are stopped.",
            ),
            FieldInfo("metric", "str", None, doc="What is compared; left out: the objective."),
            FieldInfo(
                "goal",
                "str",
                None,
                choices=("minimize", "maximize"),
                doc="The direction that is better; left out: the metric's own.",
            ),
            FieldInfo("min_steps", "int", None, minimum=1, unit="steps", doc="No trial is stopped before."),
            FieldInfo("reduction", "int", 3, minimum=2, doc="Each rung keeps one trial in this many."),
            FieldInfo(
                "confidence",
                "float",
                None,
                nullable=True,
                minimum=0.5,
                maximum=0.999,
                doc="asha: how sure it must be; null: values are compared without their intervals.",
            ),
            FieldInfo("options", "dict", {}, doc="Further arguments of Optuna's pruner, under its names."),
            FieldInfo(
                "max_steps",
                "int",
                None,
                minimum=2,
                unit="steps",
                doc=f"Steps of a whole trial, for a trainable without {STEPS}.",
            ),
        ),
        "budget": (
            FieldInfo("trials", "int", None, minimum=1, doc="Trials to run; a grid may leave it out."),
            FieldInfo(
                "hours",
                "float",
                None,
                nullable=True,
                minimum=0.01,
                unit="h",
                doc="Hours it runs, pauses left out.",
            ),
            FieldInfo(
                "gpu_hours",
                "float",
                None,
                nullable=True,
                minimum=0.01,
                unit="h",
                doc="Hours times GPUs held.",
            ),
            FieldInfo(
                "max_failed", "int", None, nullable=True, minimum=1, doc="Failed trials that end the sweep."
            ),
            FieldInfo(
                "cost",
                "float",
                None,
                nullable=True,
                minimum=0.01,
                doc="Money spent on what trials hold; needs the section cost.",
            ),
            FieldInfo(
                "stagnation",
                "int",
                None,
                nullable=True,
                minimum=1,
                doc="Trials in a row without a gain after which no other one starts.",
            ),
        ),
        "resources": (
            FieldInfo("workers", "int", 1, minimum=1, doc="Processes that train one trial together."),
            FieldInfo(
                "gpu_per_worker",
                "float",
                "auto",
                minimum=0,
                maximum=1,
                doc="0, a share of a GPU, or 1; auto: 1 if there is a GPU, or a share if trials are small.",
            ),
            FieldInfo(
                "cpu_per_worker",
                "float",
                "auto",
                minimum=0.1,
                doc="CPUs of each process; auto: a fair share of the machine.",
            ),
            FieldInfo(
                "max_concurrent", "int", "auto", minimum=1, doc="Most trials at once; auto: as many as fit."
            ),
            FieldInfo(
                "trials_per_process",
                "int",
                20,
                minimum=1,
                doc="Trials one after the other in a worker process; 1: each in a new one.",
            ),
        ),
        "failures": (
            FieldInfo(
                "retries",
                "int",
                2,
                minimum=0,
                maximum=100,
                doc="Times that a trial is retried after it lost a process or a machine.",
            ),
            FieldInfo(
                "preemptions",
                "int",
                10,
                minimum=0,
                maximum=1000,
                doc="Times that a trial is retried after its machine was preempted.",
            ),
            FieldInfo(
                "lighten",
                "int",
                3,
                minimum=0,
                maximum=10,
                doc="Times that a trial out of memory continues with half the batch in twice as many passes.",
            ),
            FieldInfo(
                "hang_minutes",
                "float",
                60.0,
                nullable=True,
                minimum=0.05,
                doc="Minutes of silence after which a worker is ended and its trial retried; null: never.",
            ),
        ),
        "keep": (
            FieldInfo(
                "checkpoints",
                "str",
                "best+last",
                choices=("best+last", "best", "last"),
                doc="Which checkpoints of a trial that ended stay.",
            ),
            FieldInfo(
                "trials",
                "int",
                None,
                nullable=True,
                minimum=1,
                doc="Of how many trials, the best; null: of all.",
            ),
        ),
        "inference": (
            FieldInfo("parameters", "dict", None, doc="Values of inference fields."),
            FieldInfo("metric", "str", None, doc="What settings are compared by; left out: the objective."),
            FieldInfo("episodes", "int", 100, minimum=2, doc="Most episodes of a setting."),
            FieldInfo("limits", "dict", {}, doc="Bounds that a setting must keep, by metric."),
            FieldInfo(
                "reward_range", "list[float]", [0.0, 1.0], doc="The least and the largest possible reward."
            ),
        ),
        "confirm": (
            FieldInfo("top", "int", 8, minimum=2, doc="How many of the best trials are confirmed."),
            FieldInfo("episodes", "int", 384, minimum=1, doc="Most episodes of each trial, in blocks of 32."),
            FieldInfo(
                "seeds",
                "int",
                1,
                minimum=1,
                maximum=100,
                doc="How often each configuration is trained, its own training included.",
            ),
            FieldInfo(
                "epsilon",
                "float",
                0.0,
                minimum=0.0,
                doc="It ends if the leader is at most this much worse than any other; 0: never.",
            ),
        ),
        "cost": (
            FieldInfo("currency", "str", "USD", doc="What amounts are in. It is only shown."),
            FieldInfo("per_gpu_hour", "float", 0.0, minimum=0, doc="Price of a GPU held for an hour."),
            FieldInfo("per_cpu_hour", "float", 0.0, minimum=0, doc="Price of a CPU held for an hour."),
            FieldInfo(
                "node_types",
                "dict",
                {},
                doc="Prices of kinds of machines, by node type of the cluster or by GPU type.",
            ),
        ),
        "alerts": (
            FieldInfo(
                "webhook",
                "str",
                None,
                nullable=True,
                doc="$NAME, an environment variable with the address; or an address without secrets.",
            ),
            FieldInfo("format", "str", "auto", choices=FORMATS, doc="What it receives; auto: by its host."),
            FieldInfo("command", "str", None, nullable=True, doc="A command for the shell."),
            FieldInfo("on", "list[str]", list(EVENTS), doc=f"Of which events: {', '.join(EVENTS)}."),
            FieldInfo(
                "silent_minutes",
                "float",
                30.0,
                minimum=0.1,
                doc="Minutes without a sign of running trials that count as silence.",
            ),
        ),
        "tracking": (
            FieldInfo(
                "uri",
                "str",
                None,
                nullable=True,
                doc="MLflow server or database; null: SQLite in the sweep's folder, or MLFLOW_TRACKING_URI.",
            ),
            FieldInfo("experiment", "str", None, doc="MLflow experiment; left out: the sweep's name."),
            FieldInfo("also", "list[str]", [], doc=f"Trackers beside MLflow: {', '.join(TRACKERS)}."),
        ),
    }.items()
}
"""What each section of fixed shape can contain."""
AUTO = ("gpu_per_worker", "cpu_per_worker", "max_concurrent")
"""Settings that may be `auto`."""
PARAMETER_KEYS = ("values", "min", "max", "log", "step", "when", "value")
PARAMETER_WORDS = {
    "low": "Write `min`.",
    "lower": "Write `min`.",
    "high": "Write `max`.",
    "upper": "Write `max`.",
    "choices": "Write `values: [...]`.",
    "choice": "Write `values: [...]`.",
    "q": "Write `step`.",
    "distribution": "Write `{min: ..., max: ..., log: true}` or `{values: [...]}`.",
    "type": "Remove it: the field defines the type.",
    "if": "Write `when`.",
    "condition": "Write `when`.",
}
"""Settings of parameters in other tools, and what to write instead."""
LARGEST_INT = 2**63 - 1
_VARIABLE = re.compile(r"\$(?:\w+|\{[^}]*\})")


def value_problem(info: FieldInfo, value: Any) -> tuple[str, str] | None:
    """What is wrong with a value for a field, and what is expected; None if nothing is."""
    flat = value if isinstance(value, list) else [value]
    if any(isinstance(number, int) and abs(number) > LARGEST_INT for number in flat):
        return ("is too large for a 64-bit integer.", f"Expected {info.expected()}.")
    if any(isinstance(number, float) and not math.isfinite(number) for number in flat):
        return (f"{value!r} is not a finite number.", f"Expected {info.expected()}.")
    for number in flat:
        if isinstance(number, Grouped) and info.kind in ("int", "list[int]"):
            few, many = f"{number:g}", f"{number * 1000:.0f}"
            return f"{number:.3f} may mean {few} or {many}.", f"Write {many} or {few}."
    faults = info.faults(value)
    if not faults:
        return _nothing_problem(info, value)
    if info.choices is not None and isinstance(value, str):
        near = nearest(value, [str(choice) for choice in info.choices])
        if near is not None:
            return (faults[0].problem, f"Did you mean {near}? {faults[0].remedy}")
    meant = _meant(info, value)
    if meant:
        return (faults[0].problem, f"{faults[0].remedy} {meant}")
    if info.kind in ("str", "texts") and isinstance(value, (int, float)):
        return (faults[0].problem, f"{faults[0].remedy.removesuffix('.')}: put it in quotes.")
    return (faults[0].problem, faults[0].remedy)


def _nothing_problem(info: FieldInfo, value: Any) -> tuple[str, str] | None:
    """A legal text that is most likely meant as null: it would be taken for a name."""
    named = isinstance(value, str) and value.strip().lower() in (*NOTHING, "")
    if not named or not info.nullable or info.choices is not None:
        return None
    kind = "a text" if value.strip() else "an empty text"
    return f"{value!r} is {kind} here, not null.", "Write null."


def _meant(info: FieldInfo, value: Any) -> str:
    """What to write for a text that is not a legal value, as a sentence; empty if that is not clear."""
    if isinstance(value, str) and info.nullable and value.strip().lower() in NOTHING:
        return "Write null."
    if isinstance(value, str) and info.kind.startswith("list["):
        meant = meant_list(value) if info.kind != "list[str]" else None
        return f"Write {meant}." if meant else ""
    wrong = [text for text in (value if isinstance(value, list) else [value]) if isinstance(text, str)]
    for text in wrong:
        meant = None
        if info.kind == "bool":
            meant = meant_truth(text)
        elif info.kind == "ranges":
            meant = meant_choice(text)
        elif info.kind in ("int", "float", "list[int]", "list[float]"):
            meant = meant_number(text, info.unit)
            number = 0.0 if meant is None else float(meant)
            if info.kind in ("int", "float") and info.faults(number):
                meant = None  # that would be the next fault
        if meant:
            return f"Write {meant} without quotes." if meant == text.strip() else f"Write {meant}."
    return ""


def unfilled_variable(info: FieldInfo, value: Any) -> tuple[str, str] | None:
    """What is wrong with a text that contains a variable of the shell or of Hydra; None if nothing is."""
    for text in value if isinstance(value, list) else [value]:
        found = _VARIABLE.search(text) if isinstance(text, str) else None
        if found is None or (is_path(info) and is_there(Path(text))):
            continue
        if is_path(info) or info.unit == PATH_OR_HUB or found[0].startswith("${"):
            problem = f"{text!r} contains {found[0]}, and variables are not filled in."
            return problem, "Write the value itself."
    return None


def coerce(info: FieldInfo, value: Any) -> Any:
    """A legal value in the field's own type: 16.0 is 16 for an int, 1 is 1.0 for a float."""
    if isinstance(value, dict):
        return {key: coerce(info, entry) for key, entry in value.items()}
    if isinstance(value, list):
        kind: Literal["int", "float", ""] = (
            "int" if info.kind == "list[int]" else "float" if info.kind == "list[float]" else ""
        )
        return [_number(kind, element) for element in value]
    return _number(info.kind, value)


def _number(kind: str, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return value
    if kind == "int":
        return int(value)
    return float(value) if kind == "float" or isinstance(value, Grouped) else value


def is_path(info: FieldInfo) -> bool:
    """Whether a field names a folder or file; such values are made absolute, for trials in other folders."""
    return info.unit == "path" or info.name == "dataset.root"


def from_the_root(info: FieldInfo, value: Any) -> Any:
    """The value of a field with paths made absolute, as trials work in other folders.

    Raises:
        RuntimeError: If ``~user`` has no home folder (`no_home_folder`).
    """
    named = info.unit == PATH_OR_HUB and isinstance(value, str)
    # A name on the hub is not a folder, and does not begin like one.
    if not is_path(info) and not (named and (value[:1] in ("~", "/", ".") or is_there(Path(value)))):
        return value
    if isinstance(value, list):
        return [from_the_root(info, element) for element in value]
    if not isinstance(value, str) or is_url(value):
        return value
    return str(Path(value).expanduser().absolute())


def no_home_folder(value: Any) -> tuple[str, str]:
    """What is wrong with a path for which `from_the_root` raises an error, and what to do."""
    return f"{value!r} has no home folder on this machine.", "Write an absolute path: /home/..."


def possible_numbers(parameter: Node) -> list[float]:
    """The numbers above 0 among a parameter's values, or its bounds; other values are left out."""
    plain = parameter.plain()
    if not isinstance(plain, dict):
        return []
    values = plain.get("values")
    listed = values if isinstance(values, list) else [plain.get(key) for key in ("min", "max", "value")]
    numbers = [value for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return [number for number in numbers if 0 < number <= LARGEST_INT]
