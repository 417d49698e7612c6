"""The sections of a space file, each turned into its part of a sweep; every fault goes to one list."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from sweeper.masking import has_password, masked
from sweeper.spec.alerts import EVENTS, AlertsSpec, secret_in, variable_of
from sweeper.spec.cost import PRICES, CostSpec, Price
from sweeper.spec.sampler_options import SAMPLER_OPTIONS, option_clash
from sweeper.spec.search_methods import TRACKERS, missing_package, missing_tracker
from sweeper.spec.space_file.document import Document
from sweeper.spec.space_file.fields import SETTINGS
from sweeper.spec.space_file.read_inference import EPISODE_METRICS
from sweeper.spec.space_file.yaml_nodes import Node, Place
from sweeper.spec.stopper_options import (
    CONFIDENT,
    REDUCING,
    STOPPER_OPTIONS,
    complete_stopper_options,
    stopper_fault,
)
from sweeper.spec.sweep import (
    BudgetSpec,
    EarlyStopSpec,
    FailureSpec,
    Goal,
    KeepSpec,
    Objective,
    ResourceSpec,
    SearchSpec,
    TrackingSpec,
    is_store,
)
from sweeper.text import nearest
from trainables.interface import EVAL_EVERY, LOG_EVERY, STEPS, FieldInfo

__all__ = [
    "folder_name",
    "read_alerts",
    "read_budget",
    "read_cost",
    "read_early_stop",
    "read_failures",
    "read_keep",
    "read_name",
    "read_objectives",
    "read_resources",
    "read_search",
    "read_tracking",
]

_EPISODES = "rollout.episodes"
LONGEST_CURRENCY = 8
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,79}")


def read_name(document: Document, default: str) -> str:
    """The sweep's name; it becomes a folder."""
    node = document.root.get("name")
    value = default if node is None or node.value is None else node.plain()
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, str) and _NAME.fullmatch(value):
        return value
    place = document.place("name")
    near = folder_name(value) if isinstance(value, str) else None
    remedy = "Use at most 80 letters, digits, `.`, `_` and `-`, and begin with a letter or digit"
    remedy += f", e.g. `name: {near}`." if near else "."
    document.faults.add(place, "name", f"{value!r} is not a valid name for the sweep's folder.", remedy)
    return "unnamed"


def folder_name(text: str) -> str | None:
    """The name of a folder that is nearest to a text; None if nothing is left of it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-._")[:80] or None


def read_objectives(document: Document) -> tuple[Objective, ...]:
    """The metric, or the several objectives."""
    single, several = (document.root.get(key) for key in ("metric", "objectives"))
    if single is not None and single.value is None:
        single = None
    if several is not None and several.value is None:
        several = None
    if single is not None and several is not None:
        document.faults.add(
            several.place, "objectives", "cannot be used together with metric.", "Remove one of them."
        )
        return ()
    if single is None and several is None:
        known = "" if document.trainable is None else ", e.g. " + _example_metric(document)
        document.faults.add(document.whole, "metric", "is missing.", f"Set the metric to optimise{known}.")
        return ()
    if single is not None:
        found = [_objective(document, single, "metric")]
    elif several is not None and isinstance(several.value, list) and several.value:
        found = [_objective(document, node, f"objectives[{i}]") for i, node in enumerate(several.value)]
    else:
        remedy = "Write `[{name: rollout/success_rate, goal: maximize}, ...]`."
        document.faults.add(document.place("objectives"), "objectives", "is not a list of metrics.", remedy)
        found = []
    objectives = tuple(objective for objective in found if objective is not None)
    names = [objective.name for objective in objectives]
    for name in sorted({name for name in names if names.count(name) > 1}):
        document.faults.add(
            document.place("objectives"), "objectives", f"{name} is listed twice.", "Remove one of them."
        )
    return objectives


def _example_metric(document: Document) -> str:
    metrics = [] if document.trainable is None else [m for m in document.trainable.metrics.values() if m.goal]
    judged = [metric for metric in metrics if metric.every == "eval"] or metrics
    return f"`metric: {{name: {judged[0].name}, goal: {judged[0].goal}}}`" if judged else ""


def _objective(document: Document, node: Node, path: str) -> Objective | None:
    if not isinstance(node.value, dict):
        remedy = "Write `{name: ..., goal: maximize}`."
        document.faults.add(node.place, path, f"is {node.plain()!r}, not a mapping.", remedy)
        return None
    entries = document.entries(path, node.value, SETTINGS["metric"])
    if "name" not in entries:
        if "name" not in node.value:
            document.faults.add(node.place, path, "has no name.", f"Write e.g. {_example_metric(document)}.")
        return None
    name = entries["name"].value
    goal = entries["goal"].value if "goal" in entries else None
    return _metric(document, entries["name"].place, f"{path}.name", name, goal, entries.get("goal"))


def _metric(
    document: Document, place: Place, path: str, name: str, goal: Goal | None, goal_node: Node | None
) -> Objective | None:
    """Check a metric against those of the trainable."""
    if document.trainable is None:
        return None if goal is None else Objective(name, goal)
    known = document.trainable.metrics.get(name)
    if known is None:
        near = nearest(name, document.trainable.metrics)
        useful = [metric.name for metric in document.trainable.metrics.values() if metric.goal is not None]
        remedy = f"Did you mean {near}?" if near else f"Metrics with a goal: {', '.join(useful)}."
        document.faults.add(
            place, path, f"{document.trainable.name} does not report a metric {name!r}.", remedy
        )
        return None
    if known.needs is not None and not document.is_set(known.needs):
        others = [
            m.name
            for m in document.trainable.metrics.values()
            if m.every == "eval" and m.goal and (m.needs is None or document.is_set(m.needs))
        ]
        instead = f", or use {others[0]}" if others else ""
        remedy = f"Set config {known.needs}{instead}."
        zero = " and not 0" if document.config.get(known.needs) == 0 else ""
        problem = f"{name} is only reported when {known.needs} is set{zero}."
        document.faults.add(place, path, problem, remedy)
    if goal is None and known.goal is None:
        document.faults.add(place, path, f"{name} has no default goal.", "Add goal: minimize or maximize.")
        return None
    if goal is not None and known.goal is not None and goal != known.goal:
        where = place if goal_node is None else goal_node.place
        document.warnings.append(
            f"{where.label}: the goal of {name} is usually {known.goal}, and here it is {goal}."
        )
    return Objective(name, goal or cast(Goal, known.goal))


def read_search(document: Document, name: str) -> SearchSpec:
    """How trials of the sweep called ``name`` are chosen."""
    entries = document.section("search") or {}
    method: Any = entries["method"].value if "method" in entries else "tpe"
    package = missing_package(method)
    if package is not None:
        problem = f"{method} needs the package {package}, which is not installed."
        remedy = "Run pip install 'diffusion-policy-sweeper[samplers]', or use tpe."
        document.faults.add(document.place("search", "method"), "search.method", problem, remedy)
    if method in ("random", "grid") and "startup_trials" in entries:
        document.notes.append(f"search.startup_trials has no meaning for {method}.")
    return SearchSpec(
        method=method,
        seed=entries["seed"].value if "seed" in entries else 0,
        startup_trials=entries["startup_trials"].value if "startup_trials" in entries else 10,
        options=_search_options(document, method),
        from_sweeps=_earlier_sweeps(document, name),
    )


def _earlier_sweeps(document: Document, name: str) -> tuple[str, ...]:
    """The sweeps of ``search.from``. Whether they exist is checked when the sweep is launched."""
    entries = document.section("search") or {}
    if "from" not in entries:
        return ()
    node = entries["from"]
    found: list[str] = node.value if isinstance(node.value, list) else [node.value]
    for position, sweep in enumerate(found):
        if not sweep.strip():
            problem, remedy = (
                "an empty text is not a sweep.",
                "Write a name, or the path of a sweep's folder.",
            )
        elif sweep == name:
            problem, remedy = f"{sweep} is this sweep itself.", "Give this one another name."
        elif sweep in found[:position]:
            problem, remedy = f"{sweep} is listed twice.", "Remove one of them."
        else:
            continue
        document.faults.add(node.place, "search.from", problem, remedy)
    return tuple(found)


def _search_options(document: Document, method: str) -> dict[str, Any]:
    tables = {name: [option.info for option in options] for name, options in SAMPLER_OPTIONS.items()}
    found = _options(document, "search", method, tables)
    options = {key: value.value for key, value in found.items()}
    clash = option_clash(options)
    if clash is not None:
        place = found[clash.where].place
        document.faults.add(place, f"search.options.{clash.where}", clash.problem, clash.remedy)
    return options


def _options(
    document: Document, section: str, method: str, tables: Mapping[str, Sequence[FieldInfo]]
) -> dict[str, Node]:
    """The options of a method that are known and legal; those of other methods are noted and left out."""
    found = document.root.get(section)
    written = found.value if found is not None and isinstance(found.value, dict) else {}
    node = written.get("options")
    if node is None or not isinstance(node.value, dict):
        return {}
    here = {info.name: info for info in tables[method]}
    elsewhere = {info.name for infos in tables.values() for info in infos} - set(here)
    meant = {}
    for key, value in node.value.items():
        if key in elsewhere:
            document.notes.append(f"{section}.options.{key} has no meaning for {method}.")
        else:
            meant[key] = value
    return document.entries(f"{section}.options", meant, here)


def read_early_stop(document: Document, objectives: tuple[Objective, ...]) -> EarlyStopSpec | None:
    """When trials are stopped early."""
    entries = document.section("early_stop")
    if entries is None:
        return None
    whole = document.place("early_stop")
    found = document.root["early_stop"].value
    written = found if isinstance(found, dict) else {}
    for key in ("method", "min_steps"):
        if key not in written or written[key].value is None:
            remedy = (
                f"Choose one of {', '.join(STOPPER_OPTIONS)}."
                if key == "method"
                else "Set the step at which trials are first compared."
            )
            document.faults.add(whole, f"early_stop.{key}", "is missing.", remedy)
    objective = _stop_metric(document, entries, objectives, whole)
    method = entries["method"].value if "method" in entries else None
    for key, methods in (("reduction", REDUCING), ("confidence", CONFIDENT)):
        if method is not None and method not in methods and key in entries:
            document.notes.append(f"early_stop.{key} has no meaning for {method}.")
    if method is None or "min_steps" not in entries or objective is None:
        return None
    max_steps = _max_steps(document, entries, whole)
    stop = EarlyStopSpec(
        method=method,
        metric=objective.name,
        goal=objective.goal,
        min_steps=entries["min_steps"].value,
        reduction=entries["reduction"].value if "reduction" in entries else 3,
        max_steps=max_steps,
        options={
            key: node.value for key, node in _options(document, "early_stop", method, STOPPER_OPTIONS).items()
        },
        confidence=entries["confidence"].value if "confidence" in entries and method in CONFIDENT else None,
    )
    _check_stop(document, stop)
    return stop


def _stop_metric(
    document: Document, entries: Mapping[str, Node], objectives: tuple[Objective, ...], whole: Place
) -> Objective | None:
    goal = entries["goal"].value if "goal" in entries else None
    if "metric" in entries:
        node = entries["metric"]
        for objective in objectives:
            if objective.name == node.value and goal is None:
                goal = objective.goal
        return _metric(document, node.place, "early_stop.metric", node.value, goal, entries.get("goal"))
    if len(objectives) == 1:
        return Objective(objectives[0].name, goal or objectives[0].goal)
    if objectives:
        names = ", ".join(objective.name for objective in objectives)
        document.faults.add(
            whole,
            "early_stop.metric",
            "is missing, and there are several objectives.",
            f"Set it, e.g. to one of {names}.",
        )
    return None


def _max_steps(document: Document, entries: Mapping[str, Node], whole: Place) -> int:
    numbers = document.numbers(STEPS)
    if numbers:
        return int(max(numbers))
    if "max_steps" in entries:
        return int(entries["max_steps"].value)
    if document.trainable is None:
        return 0
    document.faults.add(whole, "early_stop.max_steps", "is missing.", "Set the steps of a whole trial.")
    return 0


def _check_stop(document: Document, stop: EarlyStopSpec) -> None:
    place = document.place("early_stop", "min_steps")
    if stop.max_steps and stop.min_steps >= stop.max_steps:
        problem = (
            f"{stop.min_steps} is not below the {stop.max_steps} steps of a trial: nothing can be stopped."
        )
        remedy = f"Lower it below {STEPS}, or remove early_stop."
        document.faults.add(place, "early_stop.min_steps", problem, remedy)
        return
    interval = _check_interval(document, stop)
    fault = stopper_fault(stop, interval)
    if fault is not None:
        where = f"early_stop.options.{fault.where}"
        document.faults.add(document.place("early_stop", "options"), where, fault.problem, fault.remedy)
    if stop.method == "wilcoxon":
        _check_episodes(document, stop)


def _check_interval(document: Document, stop: EarlyStopSpec) -> int | None:
    """Check how often the metric is reported; returns the fewest steps between two reports, if known."""
    metric = None if document.trainable is None else document.trainable.metrics.get(stop.metric)
    if metric is None:
        return None
    every = EVAL_EVERY if metric.every == "eval" else LOG_EVERY
    intervals = document.numbers(every)
    if not intervals or not stop.max_steps:
        return None
    interval = max(1, int(min(intervals)))  # a number below 1 is reported as a fault of its field
    if interval >= stop.max_steps:
        problem = (
            f"{stop.metric} is reported only at the end: {every} is {interval}, "
            f"and a trial has {stop.max_steps} steps."
        )
        remedy = f"Set {every} to at most {stop.max_steps // 2}, or remove early_stop."
        document.faults.add(document.place("early_stop", "metric"), "early_stop.metric", problem, remedy)
        return None
    if stop.min_steps % interval and len(intervals) == 1:
        seen = -(-stop.min_steps // interval) * interval
        document.notes.append(
            f"early_stop.min_steps {stop.min_steps} is not a multiple of {every} = {interval}: "
            f"trials are first compared at step {seen}."
        )
    return interval


def _check_episodes(document: Document, stop: EarlyStopSpec) -> None:
    """Check that wilcoxon has episodes to compare."""
    if stop.metric not in EPISODE_METRICS:
        document.faults.add(
            document.place("early_stop", "metric"),
            "early_stop.metric",
            f"{stop.metric} is not a mean of episodes, which wilcoxon compares one by one.",
            f"Use one of {', '.join(EPISODE_METRICS)}, or another method.",
        )
        return
    needed = complete_stopper_options(stop)["n_startup_steps"]
    episodes = document.numbers(_EPISODES)
    if episodes and max(episodes) < needed:
        document.faults.add(
            document.place("early_stop", "options"),
            "early_stop.options.n_startup_steps",
            f"{needed} is more than the {int(max(episodes))} episodes of an evaluation ({_EPISODES}): "
            "nothing can be stopped.",
            f"Raise {_EPISODES}, or lower n_startup_steps.",
        )


def read_budget(document: Document, grid_size: int | None, may_be_missing: bool) -> BudgetSpec:
    """Read when the sweep ends.

    Args:
        document: The space file.
        grid_size: Points of a grid search; the number of trials if the file does not set it.
        may_be_missing: Whether the number of trials may be left out.
    """
    values = {key: node.value for key, node in (document.section("budget") or {}).items()}
    section = document.root.get("budget")
    written = section.value if section is not None and isinstance(section.value, dict) else {}
    said = "trials" in written and written["trials"].value is not None
    if not said and not may_be_missing:
        remedy = "Set the number of trials, e.g. `budget: {trials: 64}`."
        document.faults.add(document.place("budget"), "budget.trials", "is missing.", remedy)
    values.setdefault("trials", grid_size or 1)
    return BudgetSpec(**values)


def read_resources(document: Document) -> ResourceSpec:
    """What a trial gets."""
    values = {key: node.value for key, node in (document.section("resources") or {}).items()}
    resources = ResourceSpec(**values)
    gpu = resources.gpu_per_worker
    if resources.workers > 1 and gpu != "auto" and 0 < gpu < 1:
        problem = (
            f"{resources.workers} workers cannot have {gpu:g} of a GPU each: NCCL refuses two on one GPU."
        )
        remedy = "Use workers: 1, or gpu_per_worker: 1."
        document.faults.add(
            document.place("resources", "gpu_per_worker"), "resources.gpu_per_worker", problem, remedy
        )
    return resources


def read_cost(document: Document, budget: BudgetSpec) -> CostSpec | None:
    """What trials cost; None if the file has no prices."""
    entries = document.section("cost")
    if entries is None:
        if budget.cost is not None:
            remedy = "Write e.g. `cost: {per_gpu_hour: 2.1, currency: EUR}`."
            document.faults.add(
                document.place("budget", "cost"), "budget.cost", "needs prices, and there are none.", remedy
            )
        return None
    values = {key: node.value for key, node in entries.items()} | {"node_types": _node_types(document)}
    cost = CostSpec(**values)
    if not any((cost.per_gpu_hour, cost.per_cpu_hour, *cost.node_types.values())):
        remedy = "Set per_gpu_hour, per_cpu_hour or both, or remove the section."
        document.faults.add(document.place("cost"), "cost", "has no price.", remedy)
    if not cost.currency.strip() or len(cost.currency) > LONGEST_CURRENCY:
        problem = f"{cost.currency!r} is not a currency."
        document.faults.add(document.place("cost", "currency"), "cost.currency", problem, "Write e.g. EUR.")
    return cost


def _node_types(document: Document) -> dict[str, Price]:
    section = document.root["cost"].value
    node = section.get("node_types") if isinstance(section, dict) else None
    if node is None or not isinstance(node.value, dict):
        return {}
    known = {name: SETTINGS["cost"][name] for name in PRICES}
    found = {}
    for name, prices in node.value.items():
        path = f"cost.node_types.{name}"
        if isinstance(prices.value, dict):
            entries = document.entries(path, prices.value, known)
            found[str(name)] = Price(**{key: entry.value for key, entry in entries.items()})
        else:
            remedy = "Write `{per_gpu_hour: 2.1}`."
            document.faults.add(prices.place, path, f"is {prices.plain()!r}, not a mapping.", remedy)
    return found


def read_alerts(document: Document) -> AlertsSpec | None:
    """Who hears of the sweep; None if the file does not say."""
    entries = document.section("alerts")
    if entries is None:
        return None
    values: dict[str, Any] = {key: node.value for key, node in entries.items()}
    if "on" in values:
        values["on"] = tuple(values["on"])
        for name in (name for name in values["on"] if name not in EVENTS):
            near = nearest(name, EVENTS)
            remedy = f"Did you mean {near}?" if near else f"Events: {', '.join(EVENTS)}."
            document.faults.add(entries["on"].place, "alerts.on", f"{name!r} is not an event.", remedy)
    alerts = AlertsSpec(**values)
    if alerts.webhook is None and alerts.command is None:
        remedy = "Set alerts.webhook, alerts.command or both, or remove the section."
        document.faults.add(document.place("alerts"), "alerts", "has no receiver.", remedy)
    if alerts.webhook is not None:
        _check_webhook(document, alerts.webhook)
    return alerts


def _check_webhook(document: Document, webhook: str) -> None:
    place, name = document.place("alerts", "webhook"), variable_of(webhook)
    if name is not None:
        if not _VARIABLE.fullmatch(name):
            problem = f"{webhook!r} does not name an environment variable."
            document.faults.add(place, "alerts.webhook", problem, "Write e.g. $SWEEPER_WEBHOOK.")
    elif has_password(webhook) or secret_in(webhook):
        document.faults.add(
            place,
            "alerts.webhook",
            "contains a secret, and the space file is copied to the sweep's folder and to MLflow.",
            "Write `webhook: $SWEEPER_WEBHOOK`, and set that environment variable to the address.",
        )
    elif not webhook.startswith(("http://", "https://")):
        problem = f"{masked(webhook)!r} is not the address of a webhook."
        document.faults.add(place, "alerts.webhook", problem, "Write $SWEEPER_WEBHOOK, or http://HOST/PATH.")


def read_failures(document: Document) -> FailureSpec:
    """How often a trial is tried again."""
    return FailureSpec(**{key: node.value for key, node in (document.section("failures") or {}).items()})


def read_keep(document: Document) -> KeepSpec:
    """Which checkpoints stay."""
    return KeepSpec(**{key: node.value for key, node in (document.section("keep") or {}).items()})


def read_tracking(document: Document, name: str) -> TrackingSpec:
    """Where MLflow keeps the runs."""
    entries = document.section("tracking") or {}
    uri = entries["uri"].value if "uri" in entries else None
    if uri is not None and not is_store(uri):
        problem = f"{masked(uri)!r} is not the address of an MLflow store."
        remedy = (
            "Use http://HOST:5000, sqlite:///PATH/mlflow.db or postgresql://... A folder is not supported."
        )
        document.faults.add(entries["uri"].place, "tracking.uri", problem, remedy)
    elif uri is not None and has_password(uri):
        document.faults.add(
            entries["uri"].place,
            "tracking.uri",
            "contains credentials, and the space file is copied to the sweep's folder and to MLflow.",
            "Set MLFLOW_TRACKING_URI instead, or, for http, MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD beside the plain address.",
        )
    experiment = entries["experiment"].value if "experiment" in entries else name
    if not experiment.strip():
        document.faults.add(
            entries["experiment"].place,
            "tracking.experiment",
            "is empty.",
            "Remove it to use the sweep's name.",
        )
    return TrackingSpec(uri, experiment, _also(document, entries.get("also")))


def _also(document: Document, node: Node | None) -> tuple[str, ...]:
    """The trackers beside MLflow, each of which must be installed."""
    if node is None:
        return ()
    names = list(dict.fromkeys(node.value))
    for name in names:
        if name not in TRACKERS:
            near = nearest(name, TRACKERS)
            remedy = f"Did you mean {near}?" if near else f"Trackers: {', '.join(TRACKERS)}."
            document.faults.add(node.place, "tracking.also", f"{name!r} is not a tracker.", remedy)
            continue
        package = missing_tracker(name)
        if package is not None:
            problem = f"{name} needs the package {package}, which is not installed."
            remedy = f"Run pip install 'diffusion-policy-sweeper[{name}]', or remove it from the list."
            document.faults.add(node.place, "tracking.also", problem, remedy)
    return tuple(names)
