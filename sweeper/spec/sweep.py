"""A complete description of a sweep: what is searched, for how long, with which resources.

`sweeper.spec.space_file.load` reads one from a space file. Nothing here imports torch, ray, optuna or mlflow.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweeper.spec.alerts import AlertsSpec
from sweeper.spec.cost import CostSpec
from sweeper.spec.space import Space
from trainables.interface import EvaluatesPolicies, Trainable

__all__ = [
    "BudgetSpec",
    "ConfirmSpec",
    "EarlyStopSpec",
    "FailureSpec",
    "Goal",
    "InferenceSpec",
    "KeepSpec",
    "Objective",
    "ResourceSpec",
    "SearchSpec",
    "SettledResources",
    "SweepSpec",
    "TrackingSpec",
    "is_store",
    "legal_draws",
    "objective_fault",
    "trained_config",
]

Goal = Literal["minimize", "maximize"]

Auto = Literal["auto"]

StopMethod = Literal["asha", "hyperband", "successive_halving", "percentile", "median", "patient", "wilcoxon"]

MAX_AUTO_CPUS = 8
"""Processes of a trial beyond this many CPUs no longer train faster; the rest is for other trials."""

AUTO_TRIALS_AT_ONCE = 8
"""Without GPUs the CPUs are shared by this many trials at most: a search learns from finished trials."""


@dataclass(frozen=True)
class Objective:
    """A metric and the direction that is better."""

    name: str
    goal: Goal


@dataclass(frozen=True)
class SearchSpec:
    """How the next trial is chosen.

    Attributes:
        method: The sampler.
        seed: Seed of the sampler.
        startup_trials: Trials drawn at random before the sampler learns; random and grid have no use for it.
        options: Further arguments of the sampler, under Optuna's names.
        try_first: Values of parameters that are tried before any other, a trial each. The sampler chooses
            those that are missing.
        from_sweeps: Earlier sweeps whose trials inform this one (``from`` in a space file), by name or path.
    """

    method: Literal["tpe", "random", "grid", "cmaes", "gp"] = "tpe"
    seed: int = 0
    startup_trials: int = 10
    options: Mapping[str, Any] = field(default_factory=dict)
    try_first: tuple[Mapping[str, Any], ...] = ()
    from_sweeps: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The search as plain types."""
        plain = dataclasses.asdict(self) | {"options": dict(self.options)}
        plain["try_first"] = [dict(values) for values in self.try_first]
        plain["from"] = list(plain.pop("from_sweeps"))
        # As sweeps recorded it before these existed.
        return {name: value for name, value in plain.items() if value or name not in ("try_first", "from")}

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> SearchSpec:
        """The search that `to_dict` wrote."""
        own = {name: value for name, value in plain.items() if name != "from"}
        own["try_first"], own["from_sweeps"] = (tuple(plain.get(name, ())) for name in ("try_first", "from"))
        return SearchSpec(**own)


@dataclass(frozen=True)
class EarlyStopSpec:
    """When a bad trial is stopped early.

    Attributes:
        method: ``asha``, or one of Optuna's pruners.
        metric: What is compared; may differ from the objective.
        goal: The direction that is better.
        min_steps: Optimiser steps that every trial may take. The first rung of methods with rungs.
        reduction: Methods with rungs: each rung keeps one trial in this many, and is this many times further.
        max_steps: Optimiser steps of a whole trial.
        options: Further arguments of Optuna's pruner, under its names.
        confidence: asha: how sure it must be that a trial is worse than the others, from the interval of its
            value; None to compare the values alone.
    """

    method: StopMethod
    metric: str
    goal: Goal
    min_steps: int
    reduction: int = 3
    max_steps: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    confidence: float | None = None

    def rungs(self) -> tuple[int, ...]:
        """Steps at which trials are compared; empty for methods that compare at every report.

        Each trial of hyperband has only a later part of them.
        """
        if self.method not in ("asha", "hyperband", "successive_halving"):
            return ()
        rungs = []
        step = self.min_steps * self.reduction ** self.options.get("min_early_stopping_rate", 0)
        while step < self.max_steps:
            rungs.append(step)
            step *= self.reduction
        return tuple(rungs)

    def to_dict(self) -> dict[str, Any]:
        """The section as plain types. Settings that earlier versions do not have are left out if not set."""
        plain = dataclasses.asdict(self) | {"options": dict(self.options)}
        return {name: value for name, value in plain.items() if name not in _LATER or value not in (None, {})}


_LATER = ("options", "confidence")
"""Settings of early stopping that sweeps of earlier versions do not have."""


@dataclass(frozen=True)
class BudgetSpec:
    """When the sweep ends: at the first of these limits.

    Attributes:
        trials: Trials that ended by themselves (done, stopped early or failed).
        hours: Hours for which drivers run the sweep, pauses left out.
        gpu_hours: Hours times GPUs held.
        max_failed: Failed trials that end the sweep.
        cost: Money spent on what trials held, in the currency of the section ``cost``.
        stagnation: Trials in a row without a gain after which no other trial starts. Running trials continue,
            and if one of them brings a gain, so does the sweep.
    """

    trials: int
    hours: float | None = None
    gpu_hours: float | None = None
    max_failed: int | None = None
    cost: float | None = None
    stagnation: int | None = None


@dataclass(frozen=True)
class FailureSpec:
    """How often a trial is retried in total before it has failed, and when it counts as hung.

    Attributes:
        retries: After a worker, a driver or a machine was lost or did not answer.
        preemptions: After its machine was preempted by the provider.
        lighten: After it ran out of memory, each time with a configuration that needs less.
        hang_minutes: How long a worker can be silent before it is ended and the trial retried; None for
            any time.
    """

    retries: int = 2
    preemptions: int = 10
    lighten: int = 3
    hang_minutes: float | None = 60.0


@dataclass(frozen=True)
class KeepSpec:
    """Which checkpoints stay on the disk. Those of a trial that may still continue always do.

    Attributes:
        checkpoints: Of a trial that ended: the one of its best evaluation, the last one, or both.
        trials: Of this many trials, the best that ended; None for all. Of a trial that failed the last
            checkpoint stays, for the caller that looks into it.
    """

    checkpoints: Literal["best+last", "best", "last"] = "best+last"
    trials: int | None = None

    @property
    def per_trial(self) -> int:
        """Checkpoints that stay of a trial that ended."""
        return 2 if self.checkpoints == "best+last" else 1

    def at_most(self, trials: int, at_once: int) -> int:
        """Of how many trials there are checkpoints at the same time, those that run included."""
        return trials if self.trials is None else min(trials, self.trials + at_once)

    def disk_gb(self, trials: int, at_once: int, *, running_gb: float, ended_gb: float) -> float:
        """Most disk that a sweep needs.

        Args:
            trials: Trials of the sweep.
            at_once: Trials that run at once.
            running_gb: Most disk of a trial that may continue.
            ended_gb: Most disk of one that ended and whose checkpoints are kept.
        """
        running = min(trials, max(1, at_once))
        return running * running_gb + (self.at_most(trials, running) - running) * ended_gb


@dataclass(frozen=True)
class ResourceSpec:
    """What one trial gets, and how many run at once. `settled` replaces ``auto`` for a machine.

    Attributes:
        workers: Processes that train one trial together.
        gpu_per_worker: 0, a share of a GPU below 1 (one worker only), or 1.
        cpu_per_worker: CPUs of each process.
        max_concurrent: Most trials at once.
        trials_per_process: Trials that a worker process trains one after the other before a new one follows.
    """

    workers: int = 1
    gpu_per_worker: float | Auto = "auto"
    cpu_per_worker: float | Auto = "auto"
    max_concurrent: int | Auto = "auto"
    trials_per_process: int = 20

    def settled(self, cpus: float, gpus: float, trials: int | None = None) -> SettledResources:
        """Settle every ``auto`` for a machine or cluster of ``cpus`` and ``gpus``.

        A worker gets a GPU if there is one, and its fair share of the CPUs. Whether trials share a GPU is
        decided before that (`sweeper.machines.gpu_share`).

        Args:
            cpus: CPUs that trials may use.
            gpus: GPUs that trials may use.
            trials: Trials of the sweep; no more than these run at once.
        """
        gpu = self.gpu_per_worker
        if gpu == "auto":
            gpu = 1.0 if gpus >= 1 else 0.0
        cpu = self.cpu_per_worker
        if cpu == "auto":
            slots = max(1, math.floor(gpus / gpu)) if gpu else AUTO_TRIALS_AT_ONCE * self.workers
            cpu = float(min(MAX_AUTO_CPUS, max(1, math.floor(cpus / slots))))
        fits = math.floor(cpus / (cpu * self.workers) + 1e-9)
        if gpu:
            # Shares of a GPU do not add up across GPUs: 0.4 fits twice into each.
            per_gpu = math.floor(1 / gpu + 1e-9) if gpu < 1 else 1 / gpu
            fits = min(fits, math.floor(math.floor(gpus) * per_gpu / self.workers + 1e-9))
        limits = [fits]
        if self.max_concurrent != "auto":
            limits.append(self.max_concurrent)
        if trials is not None:
            limits.append(trials)
        return SettledResources(self.workers, float(gpu), float(cpu), min(limits))


@dataclass(frozen=True)
class SettledResources:
    """Resources without ``auto``.

    Attributes:
        workers: Processes that train one trial together.
        gpu_per_worker: GPUs of each process.
        cpu_per_worker: CPUs of each process.
        at_once: Trials that fit at the same time; 0 if not even one does.
    """

    workers: int
    gpu_per_worker: float
    cpu_per_worker: float
    at_once: int

    @property
    def gpu_per_trial(self) -> float:
        """GPUs that one trial holds."""
        return self.workers * self.gpu_per_worker

    @property
    def cpu_per_trial(self) -> float:
        """CPUs that one trial holds."""
        return self.workers * self.cpu_per_worker


@dataclass(frozen=True)
class InferenceSpec:
    """Inference settings that are examined on each trained policy; no training is repeated.

    Attributes:
        parameters: The values of each inference field.
        metric: What settings are compared by: a metric of rollouts or the held-out action error.
        goal: The direction that is better.
        episodes: Most episodes (or held-out moments) of a setting.
        limits: Bounds that a setting must keep, by metric: the largest value of what is minimised, the
            smallest of what is maximised.
        reward_range: The least and the largest reward, for comparisons by rewards.
    """

    parameters: Mapping[str, tuple[Any, ...]]
    metric: str
    goal: Goal
    episodes: int = 100
    limits: Mapping[str, float] = field(default_factory=dict)
    reward_range: tuple[float, float] = (0.0, 1.0)

    def settings(self) -> list[dict[str, Any]]:
        """Every combination of values, in the order of the space file."""
        return [
            dict(zip(self.parameters, values, strict=True))
            for values in itertools.product(*self.parameters.values())
        ]

    def as_plan(self) -> dict[str, Any]:
        """The arguments of `sweeper.trial.inference.InferencePlan`, which knows no specification."""
        return {
            "settings": tuple(self.settings()),
            "metric": self.metric,
            "maximize": self.goal == "maximize",
            "episodes": self.episodes,
            "limits": dict(self.limits),
            "reward_range": self.reward_range,
        }

    def to_dict(self) -> dict[str, Any]:
        """The section as plain types; `from_dict` reads it back equal."""
        return {
            "parameters": {name: list(values) for name, values in self.parameters.items()},
            "metric": self.metric,
            "goal": self.goal,
            "episodes": self.episodes,
            "limits": dict(self.limits),
            "reward_range": list(self.reward_range),
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any]) -> InferenceSpec:
        """The section that `to_dict` wrote."""
        low, high = plain["reward_range"]
        return InferenceSpec(
            parameters={name: tuple(values) for name, values in plain["parameters"].items()},
            metric=plain["metric"],
            goal=plain["goal"],
            episodes=plain["episodes"],
            limits=dict(plain["limits"]),
            reward_range=(low, high),
        )


CONFIRM_BLOCK = 32
"""Episodes of a finalist between two decisions: as many as one batch of predictions has on a CPU."""


@dataclass(frozen=True)
class ConfirmSpec:
    """The confirmation of the best trials when the sweep is done.

    Attributes:
        top: How many trials are confirmed.
        episodes: Most episodes of each.
        seeds: How often each configuration is trained, its own training included.
        epsilon: It ends if the leader is at most this much worse than any other; 0 for never.
    """

    top: int = 8
    episodes: int = 384
    seeds: int = 1
    epsilon: float = 0.0

    @property
    def most_episodes(self) -> int:
        """The episodes of each that can be played: whole blocks, or all if they are fewer than one block."""
        block = min(CONFIRM_BLOCK, self.episodes)
        return self.episodes // block * block


@dataclass(frozen=True)
class TrackingSpec:
    """Where MLflow keeps the runs.

    Attributes:
        uri: Address of a server or database; None for SQLite in the sweep's folder (or MLFLOW_TRACKING_URI).
        experiment: Name of the MLflow experiment, and of the project of other trackers.
        also: Trackers beside MLflow.
    """

    uri: str | None
    experiment: str
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepSpec:
    """A sweep, with every name resolved and every default filled in.

    Attributes:
        name: Name of the sweep, fit for a folder.
        trainable: Name in `trainables.registry`, or ``module:attribute``.
        config: Fixed values of the trainable's fields, under their own names.
        space: What is searched.
        objectives: What is optimised; several make a multi-objective sweep.
        search: How trials are chosen.
        early_stop: How trials are stopped early; None for never.
        budget: When the sweep is over.
        resources: What a trial gets.
        tracking: Where MLflow keeps the runs.
        folder: The folder of the sweep.
        source: Text of the space file.
        failures: How often a trial is retried.
        keep: Which checkpoints stay.
        inference: Which inference settings are examined on each trained policy; None for none.
        confirm: How the best trials are confirmed when the sweep is done; None if they are not.
        cost: What trials cost; None if the sweep is not shown in money.
        alerts: Who receives alerts about the sweep; None: no one.
        overrides: What the command line changed, as it was typed.
        notes: Changes that the user did not ask for.
        warnings: Settings that are legal but probably a mistake.
    """

    name: str
    trainable: str
    config: Mapping[str, Any]
    space: Space
    objectives: tuple[Objective, ...]
    search: SearchSpec
    early_stop: EarlyStopSpec | None
    budget: BudgetSpec
    resources: ResourceSpec
    tracking: TrackingSpec
    folder: Path
    source: str
    failures: FailureSpec = FailureSpec()
    keep: KeepSpec = KeepSpec()
    inference: InferenceSpec | None = None
    confirm: ConfirmSpec | None = None
    cost: CostSpec | None = None
    alerts: AlertsSpec | None = None
    overrides: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The sweep as plain YAML and JSON types; `from_dict` reads it back equal."""
        return {
            "name": self.name,
            "trainable": self.trainable,
            "config": dict(self.config),
            "space": self.space.to_dict(),
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "search": self.search.to_dict(),
            "early_stop": None if self.early_stop is None else self.early_stop.to_dict(),
            "budget": dataclasses.asdict(self.budget),
            "resources": dataclasses.asdict(self.resources),
            "failures": dataclasses.asdict(self.failures),
            "keep": dataclasses.asdict(self.keep),
            "inference": None if self.inference is None else self.inference.to_dict(),
            "confirm": None if self.confirm is None else dataclasses.asdict(self.confirm),
            "cost": None if self.cost is None else self.cost.to_dict(),
            "alerts": None if self.alerts is None else self.alerts.to_dict(),
            "tracking": {**dataclasses.asdict(self.tracking), "also": list(self.tracking.also)},
            "folder": str(self.folder),
            "overrides": list(self.overrides),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "source": self.source,
        }

    @staticmethod
    def from_dict(plain: Mapping[str, Any], folder: Path | None = None) -> SweepSpec:
        """The sweep that `to_dict` wrote; ``folder`` is its present folder, if it was moved."""
        stop, inference, confirm = plain["early_stop"], plain.get("inference"), plain.get("confirm")
        cost, alerts = plain.get("cost"), plain.get("alerts")
        return SweepSpec(
            name=plain["name"],
            trainable=plain["trainable"],
            config=dict(plain["config"]),
            space=Space.from_dict(plain["space"]),
            objectives=tuple(Objective(**objective) for objective in plain["objectives"]),
            search=SearchSpec.from_dict(plain["search"]),
            early_stop=None if stop is None else EarlyStopSpec(**stop),
            budget=BudgetSpec(**plain["budget"]),
            resources=ResourceSpec(**plain["resources"]),
            # Sweeps of earlier versions have none of these.
            failures=FailureSpec(**plain.get("failures", {})),
            keep=KeepSpec(**plain.get("keep", {})),
            inference=None if inference is None else InferenceSpec.from_dict(inference),
            confirm=None if confirm is None else ConfirmSpec(**confirm),
            cost=None if cost is None else CostSpec.from_dict(cost),
            alerts=None if alerts is None else AlertsSpec.from_dict(alerts),
            tracking=TrackingSpec(**{**plain["tracking"], "also": tuple(plain["tracking"].get("also", ()))}),
            folder=Path(plain["folder"]) if folder is None else folder,
            overrides=tuple(plain["overrides"]),
            notes=tuple(plain["notes"]),
            warnings=tuple(plain["warnings"]),
            source=plain["source"],
        )


def trained_config(
    config: Mapping[str, Any], inference: InferenceSpec | None, trainable: Trainable
) -> Mapping[str, Any]:
    """The configuration that is trained of one that was searched.

    Inference fields whose values are examined later may have a part in the training, e.g. in which frames at
    an episode's end start a training window.
    """
    if inference is None or not isinstance(trainable, EvaluatesPolicies):
        return config
    return trainable.trained_for(config, inference.parameters)


def legal_draws(
    spec: SweepSpec, trainable: Trainable, generator: random.Random, count: int
) -> Iterator[Mapping[str, Any]]:
    """Of ``count`` random configurations of a sweep those that keep its constraints and can be trained."""
    for _ in range(count):
        config = trained_config(spec.space.draw(generator, spec.config), spec.inference, trainable)
        if not spec.space.violated(config) and not trainable.faults(config):
            yield config


def is_store(uri: str) -> bool:
    """Whether a text is the address of an MLflow server or database."""
    return _STORES.fullmatch(uri) is not None


_STORES = re.compile(
    r"(?:https?|sqlite|postgresql|mysql|mssql)(?:\+\w+)?://\S+|databricks(?:://\S+)?|databricks-uc\S*"
)


def objective_fault(objectives: Sequence[Objective], values: Mapping[str, float]) -> tuple[str, str] | None:
    """Why a trial cannot complete with its objective values: (reason, message), or None if it can."""
    for objective in objectives:
        value = values.get(objective.name)
        if value is None:
            others = ", ".join(sorted(name for name in values if not name.startswith(("system/", "trial/"))))
            said = f"; it reported {others}" if others else ""
            return "no_objective", f"the trial ended without reporting {objective.name}{said}"
        if not math.isfinite(value):
            return "diverged", f"{objective.name} is {value}"
    return None
