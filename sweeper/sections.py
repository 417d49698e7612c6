"""The sections of a space file, each turned into its part of a sweep; every fault goes to one list."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from sweeper.masking import has_password, masked
from sweeper.settings import (
    AUTO,
    ELSEWHERE,
    EVAL_EVERY,
    LOG_EVERY,
    NEEDS_PACKAGE,
    OPTIONS,
    SECTIONS,
    SETTINGS,
    STEPS,
)
from sweeper.source import FaultList, Node, Place, nearest
from sweeper.space import Space
from sweeper.sweep import (
    BudgetSpec,
    EarlyStopSpec,
    FailureSpec,
    Goal,
    KeepSpec,
    Objective,
    ResourceSpec,
    SearchSpec,
    TrackingSpec,
)
from trainables.interface import FieldInfo, Trainable

__all__ = ["Reading", "coerce", "is_path", "is_store", "value_problem"]

LARGEST_INT = 2**63 - 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")
_STORES = re.compile(
    r"(?:https?|sqlite|postgresql|mysql|mssql)(?:\+\w+)?://\S+|databricks(?:://\S+)?|databricks-uc\S*"
)


@dataclass
class Reading:
    """What has been read so far, and what was found wrong.

    Attributes:
        root: The file's mapping, after the overrides.
        whole: The place of faults that have no line.
        faults: Every fault.
        trainable: The trainable, or None where it cannot be loaded.
        notes: What was changed on the way.
        warnings: What is legal and yet probably not meant.
        config: Fixed values under their own names.
        config_places: Where each of them was written.
    """

    root: dict[str, Node]
    whole: Place
    faults: FaultList = field(default_factory=FaultList)
    trainable: Trainable | None = None
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    config_places: dict[str, Place] = field(default_factory=dict)

    def place(self, *keys: str) -> Place:
        """Where a key was written; where it is not, the nearest key above it."""
        place, at = self.whole, self.root
        for key in keys:
            if key not in at:
                break
            place = at[key].place
            if not isinstance(at[key].value, dict):
                break
            at = at[key].value
        return place

    def check_sections(self) -> None:
        """Find sections that do not exist."""
        for key, node in self.root.items():
            if key in SECTIONS:
                continue
            remedy = ELSEWHERE.get(key)
            if remedy is None and self.trainable is not None and self.own_name(key) is not None:
                remedy = f"Put {key} under config (a fixed value) or parameters (searched)."
            if remedy is None:
                near = nearest(key, SECTIONS)
                remedy = f"Did you mean {near}?" if near else f"Sections: {', '.join(SECTIONS)}."
            self.faults.add(node.place, key, "no section has this name.", remedy)

    def own_name(self, name: str) -> str | None:
        """The trainable's own name for a field or alias; None where there is none."""
        if self.trainable is None:
            return None
        own = self.trainable.aliases.get(name, name)
        return own if own in self.trainable.fields else None

    def field_hint(self, name: str) -> str:
        """What to say about a name that no field has."""
        if self.trainable is None:
            return ""
        if any(full.startswith(name + ".") for full in self.trainable.fields):
            return f"Write dotted names: `{name}.<field>: value`."
        near = nearest(name, [*self.trainable.fields, *self.trainable.aliases])
        if near is not None:
            return f"Did you mean {self.own_name(near)}?"
        return "See docs/configuration.md for every field."

    def section(self, name: str) -> dict[str, Node] | None:
        """The entries of a section of fixed shape, faulty ones left out; None where the section is absent."""
        node = self.root.get(name)
        if node is None or node.value is None:
            return None
        if not isinstance(node.value, dict):
            self.faults.add(
                node.place,
                name,
                f"is {node.plain()!r}, not a mapping.",
                f"Keys: {', '.join(SETTINGS[name])}.",
            )
            return {}
        return self.entries(name, node.value, SETTINGS[name])

    def entries(
        self, path: str, found: Mapping[str, Node], known: Mapping[str, FieldInfo]
    ) -> dict[str, Node]:
        """The entries that are known and legal."""
        legal = {}
        for key, node in found.items():
            name = f"{path}.{key}"
            if key in known and node.value is None and not known[key].nullable:
                continue  # null is as good as left out, so that the command line can take a setting back
            if key not in known:
                near = nearest(key, known)
                remedy = f"Did you mean {near}? " if near else ""
                remedy += f"Known: {', '.join(known)}." if known else "There is none."
                self.faults.add(node.place, name, "no setting has this name.", remedy)
            elif key in AUTO and node.value == "auto":
                legal[key] = node
            else:
                problem = value_problem(known[key], node.plain())
                if problem is None:
                    legal[key] = Node(node.place, coerce(known[key], node.plain()))
                else:
                    expected = ", or auto" if key in AUTO else ""
                    self.faults.add(
                        node.place, name, problem[0], problem[1].removesuffix(".") + expected + "."
                    )
        return legal

    # Each of the following reads one section.

    def name(self, default: str) -> str:
        """The sweep's name; it becomes a folder."""
        node = self.root.get("name")
        value = default if node is None or node.value is None else node.plain()
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if isinstance(value, str) and _NAME.fullmatch(value):
            return value
        place = self.place("name")
        remedy = "Use letters, digits, `.`, `_` and `-`, at most 80, beginning with a letter or digit."
        self.faults.add(place, "name", f"{value!r} cannot name a folder.", remedy)
        return "unnamed"

    def objectives(self) -> tuple[Objective, ...]:
        """The metric, or the several objectives."""
        single, several = (self.root.get(key) for key in ("metric", "objectives"))
        if single is not None and single.value is None:
            single = None
        if several is not None and several.value is None:
            several = None
        if single is not None and several is not None:
            self.faults.add(several.place, "objectives", "stands beside metric.", "Keep one of them.")
            return ()
        if single is None and several is None:
            known = "" if self.trainable is None else ", e.g. " + self._example_metric()
            self.faults.add(self.whole, "metric", "is missing.", f"Say what is optimised{known}.")
            return ()
        if single is not None:
            found = [self._objective(single, "metric")]
        elif several is not None and isinstance(several.value, list) and several.value:
            found = [self._objective(node, f"objectives[{i}]") for i, node in enumerate(several.value)]
        else:
            remedy = "Write `[{name: rollout/success_rate, goal: maximize}, ...]`."
            self.faults.add(self.place("objectives"), "objectives", "is no list of metrics.", remedy)
            found = []
        objectives = tuple(objective for objective in found if objective is not None)
        names = [objective.name for objective in objectives]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.faults.add(
                self.place("objectives"), "objectives", f"{name} stands twice.", "Keep one of them."
            )
        return objectives

    def _example_metric(self) -> str:
        metrics = [] if self.trainable is None else [m for m in self.trainable.metrics.values() if m.goal]
        judged = [metric for metric in metrics if metric.every == "eval"] or metrics
        return f"`metric: {{name: {judged[0].name}, goal: {judged[0].goal}}}`" if judged else ""

    def _objective(self, node: Node, path: str) -> Objective | None:
        if not isinstance(node.value, dict):
            remedy = "Write `{name: ..., goal: maximize}`."
            self.faults.add(node.place, path, f"is {node.plain()!r}, not a mapping.", remedy)
            return None
        entries = self.entries(path, node.value, SETTINGS["metric"])
        if "name" not in entries:
            if "name" not in node.value:
                self.faults.add(node.place, path, "has no name.", f"E.g. {self._example_metric()}.")
            return None
        name = entries["name"].value
        goal = entries["goal"].value if "goal" in entries else None
        return self.metric(entries["name"].place, f"{path}.name", name, goal, entries.get("goal"))

    def metric(
        self, place: Place, path: str, name: str, goal: Goal | None, goal_node: Node | None
    ) -> Objective | None:
        """Check a metric against those of the trainable."""
        if self.trainable is None:
            return None if goal is None else Objective(name, goal)
        known = self.trainable.metrics.get(name)
        if known is None:
            near = nearest(name, self.trainable.metrics)
            useful = [metric.name for metric in self.trainable.metrics.values() if metric.goal is not None]
            remedy = f"Did you mean {near}?" if near else f"Metrics with a goal: {', '.join(useful)}."
            self.faults.add(place, path, f"{self.trainable.name} reports no metric {name!r}.", remedy)
            return None
        if known.needs is not None and not self.is_set(known.needs):
            others = [
                m.name
                for m in self.trainable.metrics.values()
                if m.every == "eval" and m.goal and (m.needs is None or self.is_set(m.needs))
            ]
            instead = f", or use {others[0]}" if others else ""
            remedy = f"Set config {known.needs}{instead}."
            zero = " and not 0" if self.config.get(known.needs) == 0 else ""
            problem = f"{name} is only reported when {known.needs} is set{zero}."
            self.faults.add(place, path, problem, remedy)
        if goal is None and known.goal is None:
            self.faults.add(
                place, path, f"{name} has no better direction of its own.", "Add goal: minimize or maximize."
            )
            return None
        if goal is not None and known.goal is not None and goal != known.goal:
            where = place if goal_node is None else goal_node.place
            self.warnings.append(f"{where.label}: {name} is usually to {known.goal}, and here to {goal}.")
        return Objective(name, goal or cast(Goal, known.goal))

    def is_set(self, name: str) -> bool:
        """Whether a field has a value other than null and 0: fixed, searched or by default."""
        if self.config.get(name) not in (None, 0) or name in self.searched_names():
            return True
        if self.trainable is None or name in self.config:
            return False
        info = self.trainable.fields.get(name)
        return info is not None and info.default not in (None, 0)

    def searched_names(self, *, conditional: bool = True) -> set[str]:
        """Own names of the fields under parameters; without ``conditional``, of those that have no `when`."""
        node = self.root.get("parameters")
        if node is None or not isinstance(node.value, dict):
            return set()
        return {
            own
            for key, form in node.value.items()
            if (own := self.own_name(key)) is not None
            and (conditional or not (isinstance(form.value, dict) and "when" in form.value))
        }

    def search(self, space: Space) -> SearchSpec:
        """How trials are chosen."""
        entries = self.section("search") or {}
        method: Any = entries["method"].value if "method" in entries else "tpe"
        package = NEEDS_PACKAGE.get(method)
        if package is not None and importlib.util.find_spec(package) is None:
            problem = f"{method} needs the package {package}, which is not installed."
            remedy = "pip install 'diffusion-policy-sweeper[samplers]', or use tpe."
            self.faults.add(self.place("search", "method"), "search.method", problem, remedy)
        if method in ("random", "grid") and "startup_trials" in entries:
            self.notes.append(f"search.startup_trials has no meaning for {method}.")
        return SearchSpec(
            method=method,
            seed=entries["seed"].value if "seed" in entries else 0,
            startup_trials=entries["startup_trials"].value if "startup_trials" in entries else 10,
            options=self._search_options(method, space),
        )

    def _search_options(self, method: str, space: Space) -> dict[str, Any]:
        section = self.root.get("search")
        written = section.value if section is not None and isinstance(section.value, dict) else {}
        node = written.get("options")
        if node is None or not isinstance(node.value, dict):
            return {}
        here = {info.name: info for info in OPTIONS[method]}
        elsewhere = {info.name for infos in OPTIONS.values() for info in infos} - set(here)
        meant = {}
        for key, value in node.value.items():
            if key in elsewhere:
                self.notes.append(f"search.options.{key} has no meaning for {method}.")
            else:
                meant[key] = value
        found = self.entries("search.options", meant, here)
        options = {key: value.value for key, value in found.items()}
        if options.get("group") and options.get("multivariate") is False:
            place = found["group"].place
            self.faults.add(place, "search.options.group", "needs multivariate.", "Set multivariate: true.")
        if method == "cmaes":
            # Whole numbers and steps need the margin, so it is on for them unless it is switched off.
            discrete = any(parameter.size() is not None for parameter in space.parameters)
            options.setdefault("with_margin", discrete)
            clash = [key for key in ("use_separable_cma", "with_margin", "lr_adapt") if options.get(key)]
            if len(clash) > 1:
                problem = f"{' and '.join(clash)} exclude each other."
                place = self.place("search", "options")
                self.faults.add(place, "search.options", problem, "Set all but one to false.")
        return options

    def early_stop(self, objectives: tuple[Objective, ...]) -> EarlyStopSpec | None:
        """When trials are stopped early."""
        entries = self.section("early_stop")
        if entries is None:
            return None
        whole = self.place("early_stop")
        found = self.root["early_stop"].value
        written = found if isinstance(found, dict) else {}
        for key in ("method", "min_steps"):
            if key not in written or written[key].value is None:
                remedy = (
                    "Choose asha or median."
                    if key == "method"
                    else "Say after how many steps trials compare."
                )
                self.faults.add(whole, f"early_stop.{key}", "is missing.", remedy)
        objective = self._stop_metric(entries, objectives, whole)
        method = entries["method"].value if "method" in entries else None
        if method == "median" and "reduction" in entries:
            self.notes.append("early_stop.reduction has no meaning for median.")
        if method is None or "min_steps" not in entries or objective is None:
            return None
        max_steps = self._max_steps(entries, whole)
        stop = EarlyStopSpec(
            method=method,
            metric=objective.name,
            goal=objective.goal,
            min_steps=entries["min_steps"].value,
            reduction=entries["reduction"].value if "reduction" in entries else 3,
            max_steps=max_steps,
        )
        self._check_stop(stop)
        return stop

    def _stop_metric(
        self, entries: Mapping[str, Node], objectives: tuple[Objective, ...], whole: Place
    ) -> Objective | None:
        goal = entries["goal"].value if "goal" in entries else None
        if "metric" in entries:
            node = entries["metric"]
            for objective in objectives:
                if objective.name == node.value and goal is None:
                    goal = objective.goal
            return self.metric(node.place, "early_stop.metric", node.value, goal, entries.get("goal"))
        if len(objectives) == 1:
            return Objective(objectives[0].name, goal or objectives[0].goal)
        if objectives:
            names = ", ".join(objective.name for objective in objectives)
            self.faults.add(
                whole,
                "early_stop.metric",
                "is missing, and there are several objectives.",
                f"E.g. one of {names}.",
            )
        return None

    def _max_steps(self, entries: Mapping[str, Node], whole: Place) -> int:
        numbers = self.numbers(STEPS)
        if numbers:
            return int(max(numbers))
        if "max_steps" in entries:
            return int(entries["max_steps"].value)
        if self.trainable is None:
            return 0
        self.faults.add(
            whole, "early_stop.max_steps", "is missing.", "Say how many steps a whole trial takes."
        )
        return 0

    def _check_stop(self, stop: EarlyStopSpec) -> None:
        place = self.place("early_stop", "min_steps")
        if stop.max_steps and stop.min_steps >= stop.max_steps:
            problem = f"{stop.min_steps} steps are a whole trial ({stop.max_steps}): nothing can be stopped."
            remedy = f"Lower it below {STEPS}, or leave early_stop out."
            self.faults.add(place, "early_stop.min_steps", problem, remedy)
            return
        metric = None if self.trainable is None else self.trainable.metrics.get(stop.metric)
        if metric is None:
            return
        every = EVAL_EVERY if metric.every == "eval" else LOG_EVERY
        intervals = self.numbers(every)
        if not intervals or not stop.max_steps:
            return
        interval = int(min(intervals))
        if interval >= stop.max_steps:
            problem = (
                f"{stop.metric} is only known at the end: {every} is {interval}, "
                f"and a trial takes {stop.max_steps} steps."
            )
            remedy = f"Set {every} to at most {stop.max_steps // 2}, or leave early_stop out."
            self.faults.add(self.place("early_stop", "metric"), "early_stop.metric", problem, remedy)
        elif stop.min_steps % interval and len(intervals) == 1:
            seen = -(-stop.min_steps // interval) * interval
            self.notes.append(
                f"early_stop.min_steps {stop.min_steps} is no multiple of {every} = {interval}: "
                f"trials are first compared at step {seen}."
            )

    def numbers(self, name: str) -> list[float]:
        """The numbers that a field can have in this sweep: fixed, searched (its bounds), or the default."""
        if self.trainable is None or name not in self.trainable.fields:
            return []
        found = self.root.get("parameters")
        if found is not None and isinstance(found.value, dict):
            for key, node in found.value.items():
                if self.own_name(key) == name and (numbers := possible_numbers(node)):
                    return numbers
        value = self.config.get(name, self.trainable.fields[name].default)
        return [value] if isinstance(value, (int, float)) else []

    def budget(self, grid_size: int | None, may_be_missing: bool) -> BudgetSpec:
        """When the sweep is over.

        Args:
            grid_size: Points of a grid search; the number of trials where none is said.
            may_be_missing: Whether the number of trials may be left out.
        """
        values = {key: node.value for key, node in (self.section("budget") or {}).items()}
        section = self.root.get("budget")
        written = section.value if section is not None and isinstance(section.value, dict) else {}
        said = "trials" in written and written["trials"].value is not None
        if not said and not may_be_missing:
            remedy = "Say how many trials to run, e.g. `budget: {trials: 64}`."
            self.faults.add(self.place("budget"), "budget.trials", "is missing.", remedy)
        values.setdefault("trials", grid_size or 1)
        return BudgetSpec(**values)

    def resources(self) -> ResourceSpec:
        """What a trial gets."""
        values = {key: node.value for key, node in (self.section("resources") or {}).items()}
        resources = ResourceSpec(**values)
        gpu = resources.gpu_per_worker
        if resources.workers > 1 and gpu != "auto" and 0 < gpu < 1:
            problem = (
                f"{gpu:g} of a GPU cannot serve {resources.workers} workers: NCCL refuses two on one GPU."
            )
            remedy = "Use workers: 1, or gpu_per_worker: 1."
            self.faults.add(
                self.place("resources", "gpu_per_worker"), "resources.gpu_per_worker", problem, remedy
            )
        return resources

    def failures(self) -> FailureSpec:
        """How often a trial is tried again."""
        return FailureSpec(**{key: node.value for key, node in (self.section("failures") or {}).items()})

    def keep(self) -> KeepSpec:
        """Which checkpoints stay."""
        return KeepSpec(**{key: node.value for key, node in (self.section("keep") or {}).items()})

    def tracking(self, name: str) -> TrackingSpec:
        """Where MLflow keeps the runs."""
        entries = self.section("tracking") or {}
        uri = entries["uri"].value if "uri" in entries else None
        if uri is not None and not is_store(uri):
            problem = f"{masked(uri)!r} is no address of an MLflow store."
            remedy = (
                "Use http://HOST:5000, sqlite:///PATH/mlflow.db or postgresql://...; a folder will not do."
            )
            self.faults.add(_masked_place(entries["uri"].place), "tracking.uri", problem, remedy)
        elif uri is not None and has_password(uri):
            self.faults.add(
                _masked_place(entries["uri"].place),
                "tracking.uri",
                "holds a login, and what a space says is written into the sweep's folder and to MLflow.",
                "Set MLFLOW_TRACKING_URI instead, or, for http, MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD beside the plain address.",
            )
        experiment = entries["experiment"].value if "experiment" in entries else name
        if not experiment.strip():
            self.faults.add(
                entries["experiment"].place, "tracking.experiment", "is empty.", "Leave it out for the name."
            )
        return TrackingSpec(uri, experiment)


def _masked_place(place: Place) -> Place:
    """A place without a password: that of an override is the override as it was typed."""
    return dataclasses.replace(place, label=masked(place.label))


def is_store(uri: str) -> bool:
    """Whether a text is the address of an MLflow server or database."""
    return _STORES.fullmatch(uri) is not None


def possible_numbers(parameter: Node) -> list[float]:
    """The numbers above 0 among a parameter's values, or its bounds; nonsense is left out."""
    plain = parameter.plain()
    if not isinstance(plain, dict):
        return []
    values = plain.get("values")
    listed = values if isinstance(values, list) else [plain.get(key) for key in ("min", "max", "value")]
    numbers = [value for value in listed if isinstance(value, (int, float)) and not isinstance(value, bool)]
    return [number for number in numbers if 0 < number <= LARGEST_INT]


def value_problem(info: FieldInfo, value: Any) -> tuple[str, str] | None:
    """What is wrong with a value for a field, and what is expected; None where nothing is."""
    flat = value if isinstance(value, list) else [value]
    if any(isinstance(number, int) and abs(number) > LARGEST_INT for number in flat):
        return ("is larger than a computer counts.", f"Expected {info.expected()}.")
    if any(isinstance(number, float) and not math.isfinite(number) for number in flat):
        return (f"{value!r} is not a finite number.", f"Expected {info.expected()}.")
    faults = info.faults(value)
    if not faults:
        return None
    if info.choices is not None and isinstance(value, str):
        near = nearest(value, [str(choice) for choice in info.choices])
        if near is not None:
            return (faults[0].problem, f"Did you mean {near}? {faults[0].remedy}")
    if info.kind in ("str", "texts") and isinstance(value, (int, float)):
        return (faults[0].problem, f"{faults[0].remedy.removesuffix('.')}: put it in quotes.")
    return (faults[0].problem, faults[0].remedy)


def coerce(info: FieldInfo, value: Any) -> Any:
    """A legal value in the field's own type: 16.0 is 16 for an int, 1 is 1.0 for a float."""
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
    return float(value) if kind == "float" else value


def is_path(info: FieldInfo) -> bool:
    """Whether a field names a folder or file; such values are made absolute, for trials run elsewhere."""
    return info.unit == "path" or info.name == "dataset.root"
