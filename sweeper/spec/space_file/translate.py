"""Names and forms of other tools in a space file: each is a fault with what to write and the user's value.

What was understood is also put in its place, so that the rest of the file is checked as if it were written
there. `habits` has the names, `other_forms` the forms.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.fields import PARAMETER_KEYS, SECTIONS, SETTINGS, value_problem
from sweeper.spec.space_file.habits import (
    HOURS,
    METRICS,
    NO_METRIC,
    NOT_HERE,
    NOT_IN_THE_POLICY,
    SETTINGS_OF_OTHERS,
    VALUES,
    WRAPPERS,
    by_word,
)
from sweeper.spec.space_file.other_forms import Form, augmentation_of, is_form, number_in, our_form
from sweeper.spec.space_file.read_sections import folder_name
from sweeper.spec.space_file.yaml_nodes import Node, Place
from sweeper.spec.stopper_options import REDUCING, STOPPER_OPTIONS
from sweeper.text import describe_value, shortened
from trainables import registry
from trainables.interface import EVAL_EVERY, FieldInfo

__all__ = [
    "Evaluations",
    "Translation",
    "field_value",
    "translate_document",
    "translated_argument",
    "yaml_text",
]

_SETTINGS, _METRICS = by_word(SETTINGS_OF_OTHERS), by_word(METRICS)
_NO_METRIC = by_word(NO_METRIC)
_WRAPPERS = frozenset(WRAPPERS.split())
_NOT_HERE, _NOT_IN_THE_POLICY = (
    {name: sentence for names, sentence in table.items() for name in names.split()}
    for table in (NOT_HERE, NOT_IN_THE_POLICY)
)
_VALUES = {
    path: {word: ours for ours, words in table.items() for word in words.split()}
    for path, table in VALUES.items()
}
Where = Literal["top", "config", "parameters", "argument"]


@dataclass(frozen=True)
class Evaluations:
    """A number of evaluations after which early stopping begins, as W&B counts.

    Attributes:
        count: How many.
        every: Steps between two.
    """

    count: int
    every: int

    @property
    def steps(self) -> int:
        """The same in optimiser steps."""
        return self.count * self.every

    @property
    def sentence(self) -> str:
        """What a user should know."""
        word = "the first evaluation" if self.count == 1 else f"{self.count} evaluations"
        return f"min_steps counts optimiser steps: {word}, one every {self.every} steps."


@dataclass
class Translation:
    """What was understood of a name and its value.

    Attributes:
        entries: Plain values by path: ``config.FIELD``, ``parameters.FIELD`` (a form), ``SECTION.SETTING``.
        remarks: What is dropped and why, or what to know about a value, in a sentence each.
        unknown: Names for which there is nothing here.
        sources: For each path of ``entries`` the other tool's name.
        about: For each place in ``remarks`` the other tool's name that it is about.
        values: What the other tool's names have as their values.
        evaluations: What ``early_stop.min_steps`` was computed from; None if the other tool states steps.
    """

    entries: dict[str, Any] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    sources: dict[str, str] = field(default_factory=dict)
    about: dict[int, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    evaluations: Evaluations | None = None

    def __bool__(self) -> bool:
        return bool(self.entries or self.remarks)

    def name_rest(self, name: str) -> None:
        """Record the other tool's name for whatever has none yet."""
        for path in self.entries:
            self.sources.setdefault(path, name)
        for place in range(len(self.remarks)):
            self.about.setdefault(place, name)


def translate_document(document: Document) -> list[Translation]:
    """Find what is written as in another tool; add a fault for each, and put it where it belongs.

    Returns:
        What was understood of each name.
    """
    found_all: list[Translation] = []
    for key, node in list(document.root.items()):
        if key not in SECTIONS:
            found = _translated(document, key, node, searched=False)
            _report(document, node.place, key, "is not a section.", found, "top")
            if found:
                del document.root[key]
                _adopt(document, node.place, found)
                found_all.append(found)
    for section in ("config", "parameters"):
        found_all += _translate_fields(document, section)
    for section in SETTINGS:
        found_all += _translate_short(document, section)
        found_all += _translate_settings(document, section)
    return found_all


def translated_argument(document: Document, key: str, value: Node) -> str:
    """The remedy for ``key=value`` of the command line whose key has no meaning here; empty if unknown."""
    found = _translated(document, key, value, searched=False)
    if not found:
        return ""
    _adopt(document, value.place, found)
    return _remedy(found, "argument")


# Sections


def _translate_fields(document: Document, section: Literal["config", "parameters"]) -> list[Translation]:
    node = document.root.get(section)
    found_all: list[Translation] = []
    if node is None or not isinstance(node.value, dict):
        return found_all
    searched = section == "parameters"
    for key, entry in list(node.value.items()):
        own = key if document.trainable is None else document.own_name(key)
        if own is None:
            found = _translated(document, key, entry, searched=searched)
            problem = "is not a field."
        else:
            found = _translated_field(document, own, entry, searched=searched)
            problem = _form_problem(entry.plain(), searched=searched)
        found.name_rest(key)
        _report(document, entry.place, f"{section}.{key}", problem, found, section)
        if found:
            del node.value[key]
            _adopt(document, entry.place, found)
            found_all.append(found)
        elif own is None and document.trainable is not None:
            document.faults.add(entry.place, f"{section}.{key}", problem, document.field_hint(key))
            near = document.near_field(key)
            del node.value[key]
            found = _misspelt(document, key, near)
            if near is not None and not _is_written(document, near):
                form = _translated_field(document, near, entry, searched=searched)
                if form:
                    _adopt(document, entry.place, form)
                    found.remarks += form.remarks
                    found.name_rest(key)
                else:
                    node.value[near] = entry
            found_all.append(found)
    return found_all


def _misspelt(document: Document, key: str, near: str | None) -> Translation:
    """A name that only resembles one of ours, or none."""
    if near is None:
        return Translation(unknown=[key])
    remark = f"{key}: {document.field_hint(key)}"
    return Translation(remarks=[remark], sources={f"config.{near}": key}, about={0: key})


def _form_problem(plain: Any, *, searched: bool) -> str:
    if searched:
        return f"`{_short(plain)}` is the form of another tool."
    if is_form(plain) or isinstance(plain, list) or "," in str(plain):
        return f"`{_short(plain)}` is not a value."
    return f"`{_short(plain)}` is what another tool writes."


def _short(plain: Any) -> str:
    return shortened(plain if isinstance(plain, str) else yaml_text(plain), 60)


def _translated_field(document: Document, own: str, entry: Node, *, searched: bool) -> Translation:
    """A field of ours whose value has the form of another tool."""
    found = Translation()
    plain, info = entry.plain(), _info(document, own)
    range_or_list = is_form(plain) or _are_choices(info, plain)
    if not searched and (info is None or info.kind == "dict" or not range_or_list):
        value = field_value(info, own, plain)
        if value is not plain and value != plain:
            found.entries[f"config.{own}"] = value
        return found
    form = our_form(plain, _kind(info))
    if form is None and not searched and isinstance(plain, dict):
        form = Form(plain)
    if form is not None:
        _put_form(found, own, form, info)
    return found


_SHORT = {
    "metric": "metric.name",
    "search": "search.method",
    "early_stop": "early_stop.method",
    "budget": "budget.trials",
    "resources": "resources.max_concurrent",
    "failures": "failures.retries",
    "keep": "keep.trials",
    "tracking": "tracking.uri",
}
"""The setting that is meant if a section is a single value."""


def _translate_short(document: Document, section: str) -> list[Translation]:
    """A section that is a single value in place of a mapping."""
    node = document.root.get(section)
    if section not in _SHORT or node is None or node.value is None or isinstance(node.value, (dict, list)):
        return []
    value = _setting_value(document, _SHORT[section], "", node.value)
    if value is None:
        return []
    found = Translation({_SHORT[section]: value}, sources={_SHORT[section]: section})
    _report(document, node.place, section, f"is {yaml_text(node.value)}, not a mapping.", found, "top")
    del document.root[section]
    _adopt(document, node.place, found)
    return [found]


def _translate_settings(document: Document, section: str) -> list[Translation]:
    """The settings of a section of fixed shape."""
    found_all: list[Translation] = []
    nodes = {section: document.root.get(section)}
    objectives = document.root.get("objectives")
    if section == "metric" and objectives is not None and isinstance(objectives.value, list):
        nodes |= {f"objectives[{number}]": node for number, node in enumerate(objectives.value)}
    for name, node in nodes.items():
        if node is None or not isinstance(node.value, dict):
            continue
        for key, entry in list(node.value.items()):
            found_all += _translate_setting(document, section, name, node.value, key, entry)
    return found_all


def _translate_setting(
    document: Document, section: str, shown: str, settings: dict[str, Node], key: str, entry: Node
) -> list[Translation]:
    path, plain = f"{section}.{key}", entry.plain()
    if key in SETTINGS[section]:
        if path in ("metric.name", "early_stop.metric", "inference.metric") and isinstance(plain, str):
            name, remark = _metric_name(document, plain)
            if name != plain:
                problem = f"{plain!r} is not a metric of {_trainable(document)}."
                remedy = f"Write `{key}: {name}`. {remark}".strip()
                document.faults.add(entry.place, f"{shown}.{key}", problem, remedy)
                settings[key] = Node(entry.place, name)
                said = f"{plain} is {name} here. {remark}".strip()
                return [Translation(remarks=[said], sources={path: path}, about={0: path})]
            return []
        ours = _VALUES.get(path, {}).get(str(plain).lower())
        info = SETTINGS[section][key]
        if ours is not None and value_problem(info, plain) is not None:
            problem, expected = value_problem(info, plain) or ("", "")
            document.faults.add(entry.place, f"{shown}.{key}", problem, f"Write `{key}: {ours}`. {expected}")
            settings[key] = Node(entry.place, ours)
        return []
    found = Translation()
    target = _SETTINGS.get(path.lower()) or _SETTINGS.get(key.lower()) or ""
    value = _setting_value(document, target, key.lower(), plain) if target.startswith(section) else None
    if value is not None:
        found.entries[target] = value
        found.sources[target] = path
    else:
        found = _translated(document, key, entry, searched=False)
        found.entries = {
            path: value for path, value in found.entries.items() if not path.startswith("config.")
        }
        if not found and path in _NOT_HERE:
            found = Translation(remarks=[_NOT_HERE[path]], about={0: path})
    if found:
        _report(document, entry.place, f"{shown}.{key}", f"is not a setting of {shown}.", found, "top")
        del settings[key]
        here = [target for target in found.entries if target.rpartition(".")[0] == section]
        for target in here:
            settings.setdefault(target.rpartition(".")[2], _node(entry.place, found.entries.pop(target)))
        _adopt(document, entry.place, found)
        return [found]
    return []


def _metric_name(document: Document, name: str) -> tuple[str, str]:
    """The trainable's metric for the name of another tool, and a remark; the same name if there is none."""
    known = {} if document.trainable is None else document.trainable.metrics
    if name in known:
        return name, ""
    plain = name.lower()
    if _METRICS.get(plain) in known:
        return _METRICS[plain], "It is a share from 0 to 1." if "pc_" in plain else ""
    if _NO_METRIC.get(plain) in known:
        ours = _NO_METRIC[plain]
        return (
            ours,
            "A loss cannot be compared between horizons and noise schedules; the error of actions can.",
        )
    return name, ""


def _trainable(document: Document) -> str:
    return "the trainable" if document.trainable is None else document.trainable.name


# Names


def _translated(document: Document, path: str, node: Node, *, searched: bool) -> Translation:
    """Translate a name that is not ours, with all that is below it."""
    found = Translation()
    path = path.lstrip("+~")  # of Hydra
    name = path.lower()
    known = document.listed_field(name) or _setting_of(name) or _not_here(document, name)
    if "." in path and not known and document.near_field(path) not in (None, document.own_name(path)):
        return found  # a misspelling
    _collect(document, found, _segments(path), node, searched=searched)
    return found


def _segments(path: str) -> list[str]:
    """The parts of a dotted name; there is at least one."""
    parts = [part for part in re.split(r"[./]", path.strip().lstrip("-+~").replace("-", "_")) if part]
    return parts or [path]


def _collect(document: Document, found: Translation, path: list[str], node: Node, *, searched: bool) -> None:
    """Collect what is understood of a name, and record the name with it."""
    found.values.setdefault(".".join(path), node.plain())
    _collect_named(document, found, path, node, searched=searched)
    found.name_rest(".".join(path))


def _collect_named(
    document: Document, found: Translation, path: list[str], node: Node, *, searched: bool
) -> None:
    plain = node.plain()
    name = ".".join(path).lower()
    searched = searched or path[-1].lower() in ("parameters", "params", "search_space")
    if name.endswith("early_terminate") or _setting_of(name) == "early_stop":
        _early_stop(document, found, plain)
        return
    if path[-1].lower() == "command" and isinstance(plain, list):
        _command(document, found, plain)
        return
    if path[-1].lower() == "image_transforms" and isinstance(plain, dict):
        _augmentation(document, found, path, plain)
        return
    if path[-1].lower() == "env" and isinstance(plain, dict) and {"type", "task"} <= set(plain):
        # LeRobot names a simulator in two parts.
        plain = {**plain, "type": f"gym_{plain['type']}/{plain['task']}"}
        del plain["task"]
        node = _node(node.place, plain)
    if isinstance(node.value, dict) and node.value and not is_form(plain) and _own(document, path) is None:
        sentence = _not_here(document, name)
        if sentence is not None and not _has_known(document, path, node):
            found.remarks.append(_about(path, sentence))
            return
        for key, entry in node.value.items():
            _collect(document, found, [*path, *_segments(key)], entry, searched=searched)
        return
    _collect_leaf(document, found, path, plain, searched=searched)


def _has_known(document: Document, path: list[str], node: Node) -> bool:
    """Whether anything below a group of settings can be translated."""
    inner = Translation()
    for key, entry in node.value.items():
        _collect(document, inner, [*path, *_segments(key)], entry, searched=False)
    return bool(inner.entries)


def _collect_leaf(
    document: Document, found: Translation, path: list[str], plain: Any, *, searched: bool
) -> None:
    name = ".".join(path).lower()
    own = _own(document, path)
    setting = _setting_of(name) if own is None else None
    if setting == "metric.goal" and isinstance(plain, list) and len(plain) > 1:
        goals = ", ".join(f"{{name: ..., goal: {_VALUES[setting].get(str(goal), goal)}}}" for goal in plain)
        found.remarks.append(_about(path, f"Write `objectives: [{goals}]`."))
        return
    value = None if setting is None else _setting_value(document, setting, path[-1].lower(), plain)
    if setting is not None and value is not None:
        found.entries.setdefault(setting, value)
        if setting == "metric.goal":
            _choose_metric(document, found, value)
        return
    sentence = _not_here(document, name) if own is None else None
    if sentence is not None:
        found.remarks.append(_about(path, sentence))
        return
    own = own or _field_of(document, name)
    if own is not None:
        _put_field(document, found, own, plain, searched=searched)
    elif plain is not None and path[-1] != "_target_":
        found.unknown.append(".".join(path))


def _choose_metric(document: Document, found: Translation, goal: str) -> None:
    """A direction without a metric: suggest one that has it."""
    metrics = [] if document.trainable is None else document.trainable.metrics.values()
    fitting = [metric for metric in metrics if metric.goal == goal]
    fitting = [metric for metric in fitting if metric.every == "eval"] or fitting
    # A goal of policies, as other tools have them, rather than a speed.
    fitting = [metric for metric in fitting if metric.name in METRICS] or fitting
    if "metric" not in document.root and "metric.name" not in found.entries and fitting:
        del found.entries["metric.goal"]
        found.entries |= {"metric.name": fitting[0].name, "metric.goal": goal}
        found.remarks.append("Choose the metric; docs/metrics.md lists them.")


def _about(path: list[str], sentence: str) -> str:
    return f"{'.'.join(path)}: {sentence}"


def _own(document: Document, path: list[str]) -> str | None:
    """The field that a path names once the groups that have no meaning here are left out."""
    for start in range(len(path)):
        own = document.own_name(".".join(path[start:]))
        if own is not None:
            return own
        if path[start].lower() not in _WRAPPERS:
            break
    inner = [part for part in path if part.lower() not in ("parameters", "params")]
    return document.own_name(".".join(inner)) if inner else None


def _ends(name: str) -> Iterator[str]:
    """The name and each of its ends: ``a.b.c``, ``b.c``, ``c``."""
    parts = name.split(".")
    return (".".join(parts[start:]) for start in range(len(parts)))


def _field_of(document: Document, name: str) -> str | None:
    """The field that another tool calls so; only a field that the trainable has."""
    if document.trainable is None:
        return None
    listed = document.listed_field(name)
    if listed is not None:
        return listed
    last = name.rpartition(".")[2]
    tails = [full for full in document.trainable.fields if full.rpartition(".")[2] == last]
    return tails[0] if len(tails) == 1 else None


def _setting_of(name: str) -> str | None:
    parts = name.split(".")
    while len(parts) > 1 and parts[0] in _WRAPPERS:
        parts.pop(0)
    whole = ".".join(parts)
    if whole in _SETTINGS:
        return _SETTINGS[whole]
    return next((_SETTINGS[end] for end in _ends(name) if "." in end and end in _SETTINGS), None)


def _not_here(document: Document, name: str) -> str | None:
    policy = document.trainable is not None and document.trainable.name in registry.names()
    table = {**_NOT_HERE, **_NOT_IN_THE_POLICY} if policy else _NOT_HERE
    return next((table[end] for end in _ends(name) if end in table), None)


# Values


def _info(document: Document, own: str) -> FieldInfo | None:
    return None if document.trainable is None else document.trainable.fields.get(own)


def _kind(info: FieldInfo | None) -> str:
    return "float" if info is None else info.kind


def _put_field(document: Document, found: Translation, own: str, plain: Any, *, searched: bool) -> None:
    info = _info(document, own)
    form = our_form(plain, _kind(info)) if searched or is_form(plain) or _are_choices(info, plain) else None
    if form is None and isinstance(plain, str) and is_form(plain):
        found.remarks.append(
            f"{own}: list the values of {plain}: `{own}: {{values: [...]}}` under parameters."
        )
        return
    if form is None and isinstance(plain, dict) and plain and set(plain) <= set(PARAMETER_KEYS):
        form = Form(plain)
    if form is not None:
        _put_form(found, own, form, info)
    elif not isinstance(plain, dict):
        value = field_value(info, own, plain)
        problem = None if info is None else value_problem(info, value)
        if problem is None:
            found.entries[f"config.{own}"] = value
        else:
            words = f"{problem[0][:1].upper()}{problem[0][1:]} {problem[1]}"
            found.remarks.append(f"It is called `{own}` here. {words}")


def _are_choices(info: FieldInfo | None, plain: Any) -> bool:
    """Whether a field of a single value was given a list of them, also as in Hydra: ``8,16``."""
    kind = "" if info is None else info.kind
    if isinstance(plain, str) and kind in ("int", "float"):
        parts = plain.split(",")
        # `20,000` and `0,001` are numbers with a comma, not a list.
        comma = any(re.match(r"0\d", part) for part in parts[1:])
        return len(parts) > 1 and not comma and all(number_in(part) is not None for part in parts)
    return kind in ("int", "float", "bool", "str") and isinstance(plain, list) and len(plain) > 1


def _put_form(found: Translation, own: str, form: Form, info: FieldInfo | None) -> None:
    if "value" in form.settings:
        found.entries[f"config.{own}"] = field_value(info, own, form.settings["value"])
    else:
        settings = dict(form.settings)
        if isinstance(settings.get("values"), list):
            settings["values"] = [field_value(info, own, value) for value in settings["values"]]
        found.entries[f"parameters.{own}"] = settings
    if form.remark:
        found.remarks.append(form.remark)


def field_value(info: FieldInfo | None, own: str, plain: Any) -> Any:
    """A value of another tool in our words; the same value if it is legal here or unknown."""
    if info is not None and value_problem(info, plain) is None and own != "rollout.env":
        return plain
    if info is not None and info.kind == "list[int]" and isinstance(plain, int) and own.endswith("_shape"):
        return [plain, plain]
    choices = {str(choice).lower(): choice for choice in (info.choices if info else None) or ()}
    word = str(plain).lower()
    return _VALUES.get(own, {}).get(word, choices.get(word, plain))


def _setting_value(document: Document, setting: str, theirs: str, plain: Any) -> Any:
    """The value of a setting in our words; None if it cannot be one."""
    if setting == "metric.name" and isinstance(plain, str):
        return _metric_name(document, plain)[0]
    if isinstance(plain, (dict, list)):
        return None
    value: Any = _VALUES.get(setting, {}).get(str(plain).lower(), plain)
    if theirs in HOURS and isinstance(plain, (int, float)):
        value = float(f"{plain / HOURS[theirs]:.3g}")
    section, _, key = setting.rpartition(".")
    if setting == "name":
        return folder_name(str(value)) if value is not None else None
    info = SETTINGS.get(section, {}).get(key)
    if info is not None and value != "auto" and value_problem(info, value) is not None:
        return None
    return value


def _early_stop(document: Document, found: Translation, plain: Any) -> None:
    """Early stopping of W&B, Optuna or Ray, as our section."""
    if plain is None or plain is False:
        found.remarks.append("early stopping: Remove it: without `early_stop` every trial runs to its end.")
        return
    settings = plain if isinstance(plain, Mapping) else {"type": plain}
    word = next((str(settings[key]) for key in ("type", "method", "_target_", "name") if key in settings), "")
    method = str(_VALUES["early_stop.method"].get(word.lower(), word.lower()))
    reduction = next(
        (settings[key] for key in ("eta", "reduction_factor", "reduction") if key in settings), None
    )
    if method not in STOPPER_OPTIONS:
        others = ", ".join(name for name in STOPPER_OPTIONS if name != "asha")
        found.remarks.append(
            f"early stopping: Write `early_stop: {{method: asha, min_steps: ...}}`. Other methods: {others}."
        )
        return
    begin = _begin(document, settings, reduction)
    if isinstance(begin, Evaluations):
        found.evaluations = begin
    found.entries["early_stop.method"] = method
    found.entries["early_stop.min_steps"] = begin.steps if isinstance(begin, Evaluations) else begin
    if isinstance(reduction, int) and reduction > 1 and method in REDUCING:
        found.entries["early_stop.reduction"] = reduction
    options = {
        info.name: settings[info.name]
        for info in STOPPER_OPTIONS[method]
        if info.name in settings and value_problem(info, settings[info.name]) is None
    }
    if options:
        found.entries["early_stop.options"] = options
    counted = begin.sentence if isinstance(begin, Evaluations) else "min_steps counts optimiser steps."
    found.remarks.append(counted)


def _augmentation(document: Document, found: Translation, path: list[str], plain: Mapping[str, Any]) -> None:
    """LeRobot's changes of pictures in training, as our fields."""
    values, remarks = augmentation_of(plain)
    if any(_info(document, own) is None for own in values):
        found.unknown.append(".".join(path))
        return
    for own, value in values.items():
        _put_field(document, found, own, value, searched=False)
    found.remarks += [_about(path, remark) for remark in remarks]


def _begin(document: Document, settings: Mapping[str, Any], reduction: Any) -> int | Evaluations:
    """When early stopping begins: in steps, or after evaluations, as the other tool counts."""
    steps = next(
        (
            settings[key]
            for key in ("n_warmup_steps", "min_resource", "grace_period", "min_steps")
            if isinstance(settings.get(key), int) and settings[key] > 0
        ),
        None,
    )
    if steps is not None:
        return int(steps)
    every = int(min(_numbers(document, EVAL_EVERY) or [1000]))
    reports = settings.get("min_iter")
    whole, brackets = settings.get("max_iter"), settings.get("s")
    eta = reduction if isinstance(reduction, int) and reduction > 1 else 3
    if not isinstance(reports, int) and isinstance(whole, int) and isinstance(brackets, int):
        reports = max(1, whole // eta**brackets)
    return Evaluations(reports if isinstance(reports, int) and reports > 0 else 1, every)


def _numbers(document: Document, name: str) -> list[float]:
    """The values of a field, before the configuration is read."""
    for section in ("config", "parameters"):
        at = document.root.get(section)
        for key, node in (at.value if at is not None and isinstance(at.value, dict) else {}).items():
            named = document.own_name(key) or _field_of(document, key.lower())
            value = node.value["value"].value if _is_fixed(node) else node.value
            if named == name and isinstance(value, int):
                return [value]
    return document.numbers(name)


def _is_fixed(node: Node) -> bool:
    return isinstance(node.value, dict) and set(node.value) == {"value"}


def _command(document: Document, found: Translation, command: list[Any]) -> None:
    """The arguments that a command of W&B passes to every run are values of fields."""
    found.remarks.append(_about(["command"], _NOT_HERE["command"]))
    found.name_rest("command")
    for word in command:
        name, equals, value = str(word).partition("=")
        if not equals or name.startswith("$") or not _segments(name):
            continue
        plain = our_form(value) or value
        node = _node(Place(""), _scalar(value) if plain is value else value)
        _collect(document, found, _segments(name), node, searched=False)


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# What is reported, and what is done with it


def _report(
    document: Document, place: Place, name: str, problem: str, found: Translation, where: Where
) -> None:
    if found:
        argument = not place.line and place.label.startswith("argument")
        document.faults.add(place, name, problem, _remedy(found, "argument" if argument else where))


def _remedy(found: Translation, where: Where) -> str:
    words = []
    if found.entries:
        words.append(_arguments(found) if where == "argument" else _written(found, where))
    remarks = found.remarks
    if not found.entries and len(remarks) == 1:
        remarks = [re.sub(r"^[\w.]+: (?=[A-Z`])", "", remarks[0])]
    words += remarks
    if found.unknown:
        words.append(f"There is nothing here for {', '.join(found.unknown)}.")
    apart = len(words) > 2 or any(re.match(r"[\w.]+: ", word) for word in words[1:]) or "\n" in words[0]
    return ("\n" if apart else " ").join(words)


def _arguments(found: Translation) -> str:
    typed = [f"{path}={yaml_text(value)}" for path, value in found.entries.items()]
    return (
        "Write "
        + " ".join(f"'{text}'" if re.search(r"[\s{}\[\]*?'\"]", text) else text for text in typed)
        + "."
    )


def _written(found: Translation, where: Where) -> str:
    """The lines to write, as YAML; on one line if there is a single one."""
    lines = _lines(found, where)
    if len(lines) == 1 and len(found.entries) >= 1:
        heading, line = lines[0]
        return f"Write `{line}`{f' {heading}' if heading else ''}."
    headings = list(dict.fromkeys(heading for heading, _ in lines))
    blocks = []
    for heading in headings:
        word = "Write dotted names" if where in ("config", "parameters") and not heading else "Write"
        blocks.append(f"{word} {heading}:".replace(" :", ":"))
        blocks += [f"  {line}" for other, line in lines if other == heading]
    return "\n".join(blocks)


def _lines(found: Translation, where: Where) -> list[tuple[str, str]]:
    """Each line to write, and where."""
    lines: list[tuple[str, str]] = []
    sections: dict[str, dict[str, Any]] = {}
    for path, value in found.entries.items():
        section, _, rest = path.partition(".")
        if section in ("config", "parameters"):
            lines.append(("" if section == where else f"under {section}", f"{rest}: {yaml_text(value)}"))
        elif not rest:
            lines.append(
                ("" if where == "top" else "at the top of the file", f"{section}: {yaml_text(value)}")
            )
        else:
            at = sections.setdefault(section, {})
            *groups, key = rest.split(".")
            for group in groups:
                at = at.setdefault(group, {})
            at[key] = value
    heading = "" if where == "top" else "at the top of the file"
    return [
        *((heading, f"{section}: {yaml_text(settings)}") for section, settings in sections.items()),
        *lines,
    ]


_WORDS_OF_YAML = ("true", "false", "null", "~")


def yaml_text(value: Any) -> str:
    """A value as it is written in a space file; texts that YAML would read otherwise are in quotes."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {yaml_text(entry)}' for key, entry in value.items())}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(yaml_text, value))}]"
    as_other = isinstance(value, str) and (number_in(value) is not None or value.lower() in _WORDS_OF_YAML)
    if isinstance(value, str) and (
        as_other or not value or re.search(r"[:#,\[\]{}&*!|>'\"%@`]|^[\s-]|\s$", value)
    ):
        return json.dumps(value, ensure_ascii=False)
    return describe_value(value)


def _adopt(document: Document, place: Place, found: Translation) -> None:
    """Put what was understood where it belongs, unless something is there."""
    for path, value in found.entries.items():
        section, _, rest = path.partition(".")
        if not rest:
            document.root.setdefault(section, _node(place, value))
            continue
        at = document.root.get(section)
        if at is None or at.value is None:
            at = document.root[section] = Node(place, {})
        if not isinstance(at.value, dict):
            continue
        if section not in ("config", "parameters"):
            *groups, rest = rest.split(".")
            for group in groups:
                at = at.value.setdefault(group, Node(place, {}))
        elif _is_written(document, rest):
            continue
        if isinstance(at.value, dict) and (rest not in at.value or at.value[rest].value is None):
            at.value[rest] = _node(place, value)


def _is_written(document: Document, own: str) -> bool:
    for section in ("config", "parameters"):
        node = document.root.get(section)
        written = node.value if node is not None and isinstance(node.value, dict) else {}
        if any(document.own_name(key) == own for key in written):
            return True
    return False


def _node(place: Place, value: Any) -> Node:
    if isinstance(value, Mapping):
        return Node(place, {key: _node(place, entry) for key, entry in value.items()})
    if isinstance(value, (list, tuple)):
        return Node(place, [_node(place, entry) for entry in value])
    return Node(place, value)
