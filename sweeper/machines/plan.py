"""What a sweep would do on a machine: sizes, resources, disk. Starts nothing and prints nothing."""

from __future__ import annotations

import math
import os
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sweeper.evidence.planning import detectable_difference
from sweeper.machines.gpu_share import GpuShare, gpu_share
from sweeper.machines.machine import Machine, find_machine
from sweeper.spec.alerts import variable_of
from sweeper.spec.space_file.fields import is_path
from sweeper.spec.sweep import ConfirmSpec, KeepSpec, SettledResources, SweepSpec, trained_config
from sweeper.text import counted, describe_size, is_there
from trainables import registry
from trainables.interface import (
    PRECISION,
    STEPS,
    DerivesNumbers,
    SlimsCheckpoints,
    StartsFromCheckpoints,
    Trainable,
    is_url,
)

__all__ = ["DerivedRange", "Plan", "Prices", "doubts", "make_plan", "without_likes"]

DRAWS = 1000
"""Random configurations by which the share that keeps the constraints is estimated: ± 3 %."""
DISK_DRAWS = 20
REMARKED_DRAWS = 100
MAX_COUNTED = 2000
"""Spaces of at most this many combinations are counted, larger ones estimated."""
ENVIRONMENT, EPISODES, FINAL_EPISODES = "rollout.env", "rollout.episodes", "rollout.final_episodes"
"""By convention the fields of rollouts."""
SINGLE_WORKER = (("train.evaluation", "beside"), ("train.compile", "graph"))
"""By convention values of fields that have no effect in trials of several workers."""
NUMBER = re.compile(r"\d[\d.,]*(?:e[+-]?\d+)?")
FEW_KEPT = 5
WORTH_SAVING = 0.7
WORTH_SAVING_GB = 1.0
"""A smaller ``keep`` is proposed if a sweep needs more than this, and would need this share of it or less."""
RARE = 0.05
"""Below this share of kept constraints, random draws waste their time."""


@dataclass(frozen=True)
class Prices:
    """What a sweep would cost.

    Attributes:
        currency: What amounts are in.
        trial: An hour of a trial.
        together: An hour of all trials that run at once.
        most: The most that all trials may cost; None if no limit says so.
        limit: The limit of the budget that says so.
        node_types: An hour of a trial on machines that have their own prices.
    """

    currency: str
    trial: float
    together: float
    most: float | None
    limit: str
    node_types: Mapping[str, float]


@dataclass(frozen=True)
class DerivedRange:
    """A number that follows from the fields, in the trials of a sweep.

    Attributes:
        name: What it is.
        low: Its least value in random combinations.
        high: Its greatest value in them.
        words: What follows it in a line.
    """

    name: str
    low: float
    high: float
    words: str


@dataclass(frozen=True)
class Plan:
    """What a sweep would do.

    Attributes:
        spec: The sweep.
        machine: Where it would run.
        resources: What a trial gets there.
        share: How many trials share a GPU there.
        combinations: Distinct combinations that keep the constraints; None for a continuous space.
        size: Combinations before conditions and constraints; None for a continuous space.
        kept_share: Share of random combinations that keep the constraints.
        steps: Fewest and most optimiser steps of a trial; None if the trainable does not say.
        rungs: Steps at which trials are compared.
        disk_per_trial_gb: Most disk that a trial needs.
        disk_per_ended_gb: The same of a trial that ended, by the number of checkpoints that stay.
        derived: Numbers that follow from the fields.
        final_episodes: Fewest episodes of a trial's last evaluation; None if there are no rollouts.
        warnings: What is legal and yet probably not meant, or will not run here.
        notes: What was changed on the way.
    """

    spec: SweepSpec
    machine: Machine
    resources: SettledResources
    share: GpuShare
    combinations: int | None
    size: int | None
    kept_share: float
    steps: tuple[int, int] | None
    rungs: tuple[int, ...]
    disk_per_trial_gb: float
    disk_per_ended_gb: Mapping[int, float]
    derived: tuple[DerivedRange, ...]
    final_episodes: int | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def trials(self) -> int:
        """Trials that the sweep can run: its budget, or fewer if the space has fewer points."""
        budget = self.spec.budget.trials
        return budget if self.combinations is None else min(budget, self.combinations)

    @property
    def confirm_episodes(self) -> int:
        """Most episodes of each trial in a confirmation: by the space file, or by default."""
        return (self.spec.confirm or ConfirmSpec()).most_episodes

    @property
    def disk_gb(self) -> float:
        """Most disk that the whole sweep needs, in GB."""
        return self._disk_gb(self.spec.keep)

    @property
    def smaller_keep(self) -> tuple[KeepSpec, float] | None:
        """A ``keep`` that saves much of the disk, and the disk that it needs; None if this one is small."""
        smaller = KeepSpec(trials=FEW_KEPT)
        if self.spec.keep.trials is not None or self.disk_gb < WORTH_SAVING_GB:
            return None
        needed = self._disk_gb(smaller)
        return (smaller, needed) if needed < WORTH_SAVING * self.disk_gb else None

    @property
    def prices(self) -> Prices | None:
        """What the sweep would cost; None if it has no prices."""
        cost, budget, resources = self.spec.cost, self.spec.budget, self.resources
        if cost is None:
            return None
        gpus, cpus, at_once = resources.gpu_per_trial, resources.cpu_per_trial, max(1, resources.at_once)
        by_type = {name: price.per_hour(gpus, cpus) for name, price in cost.node_types.items()}
        trial = cost.price().per_hour(gpus, cpus)
        dearest = max([trial, *by_type.values()])
        limits = [("cost", budget.cost)] if budget.cost is not None else []
        limits += [("hours", budget.hours * at_once * dearest)] if budget.hours is not None else []
        if budget.gpu_hours is not None and gpus:
            limits.append(("gpu_hours", budget.gpu_hours / gpus * dearest))
        limit, most = min(limits, key=lambda one: one[1] or 0.0, default=("", None))
        return Prices(cost.currency, trial, at_once * dearest, most, limit, by_type)

    def _disk_gb(self, keep: KeepSpec) -> float:
        ended = self.disk_per_ended_gb.get(keep.per_trial, self.disk_per_trial_gb)
        return keep.disk_gb(
            self.trials, self.resources.at_once, running_gb=self.disk_per_trial_gb, ended_gb=ended
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON types."""
        spec = self.spec.to_dict()
        machine = asdict(self.machine)
        if not math.isfinite(self.machine.disk_gb):
            machine["disk_gb"] = None
        return {
            "sweep": {
                key: value for key, value in spec.items() if key not in ("source", "notes", "warnings")
            },
            "trials": self.trials,
            "combinations": self.combinations,
            "kept_share": round(self.kept_share, 4),
            "steps_per_trial": None if self.steps is None else list(self.steps),
            "derived": [asdict(one) for one in self.derived],
            "rungs": list(self.rungs),
            "evidence": None
            if self.final_episodes is None
            else {
                "final_episodes": self.final_episodes,
                "tells_apart": round(detectable_difference(self.final_episodes), 3),
                "confirm_episodes": self.confirm_episodes,
                "confirm_tells_apart": round(detectable_difference(self.confirm_episodes), 3),
            },
            "resources": {
                **asdict(self.resources),
                "gpu_per_trial": self.resources.gpu_per_trial,
                "cpu_per_trial": self.resources.cpu_per_trial,
            },
            "gpu_share": asdict(self.share),
            "machine": machine,
            "cost": None if self.prices is None else asdict(self.prices),
            "disk_per_trial_gb": round(self.disk_per_trial_gb, 3),
            "disk_gb": round(self.disk_gb, 3),
            "warnings": list(self.warnings),
            "notes": list(self.notes),
        }


def make_plan(spec: SweepSpec, machine: Machine | None = None, trainable: Trainable | None = None) -> Plan:
    """Say what a sweep would do.

    Args:
        spec: The sweep.
        machine: Where it would run; this machine by default.
        trainable: Used instead of the one that the sweep names.
    """
    machine = find_machine(spec.folder) if machine is None else machine
    trainable = registry.load(spec.trainable) if trainable is None else trainable
    size = spec.space.size()
    counted = size is not None and size <= MAX_COUNTED
    combinations = sum(1 for _ in spec.space.points(spec.config)) if counted else size
    share = gpu_share(spec, trainable, machine)
    resources = share.of(spec.resources).settled(machine.cpus, machine.gpus, spec.budget.trials)
    drawn = _draws(spec, trainable)
    kept = [config for config in drawn if not spec.space.violated(config)]
    disk = max((_disk_gb(trainable, config, resources.workers) for config in kept[:DISK_DRAWS]), default=0.0)
    sized = kept[:DISK_DRAWS]
    ended = {
        count: max((_ended_gb(trainable, one, resources.workers, count) for one in sized), default=0.0)
        for count in (1, 2)
    }
    plan = Plan(
        spec=spec,
        machine=machine,
        resources=resources,
        share=share,
        combinations=combinations,
        size=size,
        kept_share=len(kept) / len(drawn),
        steps=_steps(spec, trainable),
        rungs=() if spec.early_stop is None else spec.early_stop.rungs(),
        disk_per_trial_gb=disk,
        disk_per_ended_gb=ended,
        derived=_derived(trainable, kept[:REMARKED_DRAWS], resources.workers),
        final_episodes=_final_episodes(spec, trainable),
        warnings=(),
        notes=spec.notes,
    )
    warnings = (
        *_shortages(plan, trainable),
        *doubts(plan, trainable),
        *_remarks(trainable, kept[:REMARKED_DRAWS]),
    )
    return Plan(**{**vars(plan), "warnings": warnings})


def _draws(spec: SweepSpec, trainable: Trainable) -> list[Mapping[str, Any]]:
    generator = random.Random(0)
    count = DRAWS if spec.space.constraints else REMARKED_DRAWS
    drawn = [spec.space.draw(generator, spec.config) for _ in range(count)]
    return [trained_config(config, spec.inference, trainable) for config in drawn]


def _disk_gb(trainable: Trainable, config: Mapping[str, Any], workers: int) -> float:
    # A combination that cannot be trained has no size; it takes no disk either.
    return 0.0 if trainable.faults(config, workers) else trainable.disk_gb(config)


def _ended_gb(trainable: Trainable, config: Mapping[str, Any], workers: int, checkpoints: int) -> float:
    if trainable.faults(config, workers):
        return 0.0
    if isinstance(trainable, SlimsCheckpoints):
        return trainable.slim_gb(config, checkpoints)
    return trainable.disk_gb(config)


def _steps(spec: SweepSpec, trainable: Trainable) -> tuple[int, int] | None:
    values = _values(spec, trainable, STEPS)
    return (int(min(values)), int(max(values))) if values else None


def _derived(
    trainable: Trainable, configs: Sequence[Mapping[str, Any]], workers: int
) -> tuple[DerivedRange, ...]:
    if not isinstance(trainable, DerivesNumbers):
        return ()
    found: dict[tuple[str, str], list[float]] = {}
    for config in configs:
        for one in () if trainable.faults(config, workers) else trainable.derived(config):
            found.setdefault((one.name, one.words), []).append(one.value)
    return tuple(
        DerivedRange(name, min(values), max(values), words) for (name, words), values in found.items()
    )


def _final_episodes(spec: SweepSpec, trainable: Trainable) -> int | None:
    """The fewest episodes of a trial's last evaluation; None if its trials are not rolled out."""
    if all(value is None for value in _values(spec, trainable, ENVIRONMENT)):
        return None
    final = [value for value in _values(spec, trainable, FINAL_EPISODES) if value is not None]
    episodes = final or _values(spec, trainable, EPISODES)
    return int(min(episodes)) if episodes else None


def _values(spec: SweepSpec, trainable: Trainable, name: str) -> Sequence[Any]:
    """The values of a field in the trials, or the ends of its range; empty if there is no such field."""
    if name not in trainable.fields:
        return ()
    searched = next((parameter for parameter in spec.space.parameters if parameter.name == name), None)
    if searched is None:
        return (spec.config.get(name, trainable.fields[name].default),)
    return searched.values if searched.kind == "categorical" else searched.bounds()


def doubts(plan: Plan, trainable: Trainable, *, elsewhere: bool = False) -> list[str]:
    """What is legal and probably not meant.

    Args:
        plan: The plan; its warnings are not used.
        trainable: The trainable of the sweep.
        elsewhere: Whether trials run on other machines, so that those about this one are left out.
    """
    here = [] if elsewhere else [*_useless_limits(plan), *_precision_warnings(plan, trainable)]
    return [
        *plan.spec.warnings,
        *here,
        *_space_warnings(plan),
        *_worker_warnings(plan, trainable),
        *_objective_warnings(plan.spec, trainable),
        *([] if elsewhere else _path_warnings(plan.spec, trainable)),
        *_alert_warnings(plan.spec),
    ]


def _remarks(trainable: Trainable, configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the trainable finds worth knowing of some combinations, each thing once."""
    if not isinstance(trainable, StartsFromCheckpoints):
        return []
    return without_likes(remark for config in configs for remark in trainable.remarks(config))


def without_likes(remarks: Iterable[str]) -> list[str]:
    """Remarks without those that only repeat an earlier one with the numbers of another combination."""
    alike: dict[str, list[str]] = {}
    for remark in dict.fromkeys(remarks):
        alike.setdefault(NUMBER.sub("", remark), []).append(remark)
    return [
        first if not others else f"{first} ({counted(len(others), 'other value')} of this space likewise.)"
        for first, *others in alike.values()
    ]


def _shortages(plan: Plan, trainable: Trainable) -> list[str]:
    """What this machine lacks; `launch` refuses or warns of it by itself."""
    machine, resources = plan.machine, plan.resources
    found = []
    if resources.gpu_per_trial > machine.gpus:
        on_cpus = " ".join(filter(None, ["resources.gpu_per_worker=0", _without_bf16(plan, trainable)]))
        found.append(
            f"A trial needs {counted(resources.gpu_per_trial, 'GPU')}, and this machine has {machine.gpus}. "
            f"Launch it on a cluster (--cluster, --address), or train on CPUs: {on_cpus}."
        )
    elif resources.cpu_per_trial > machine.cpus:
        found.append(
            f"A trial needs {counted(resources.cpu_per_trial, 'CPU')}, and this machine has {machine.cpus}. "
            "Launch it on a cluster (--cluster, --address), or set resources.cpu_per_worker=auto."
        )
    if plan.disk_gb > machine.disk_gb:
        found.append(
            f"The sweep may need {describe_size(plan.disk_gb)}, but only "
            f"{describe_size(machine.disk_gb)} are free on the disk of {plan.spec.folder}. "
            "Choose another folder with --sweeps, or fewer trials."
        )
    return found


def _useless_limits(plan: Plan) -> list[str]:
    found = []
    if plan.spec.budget.gpu_hours is not None and plan.resources.gpu_per_trial == 0:
        found.append("budget.gpu_hours has no effect: trials use no GPU.")
    if plan.prices is not None and not plan.prices.together:
        found.append("cost: trials hold no GPU here, and CPUs have no price (cost.per_cpu_hour).")
    return found


def _precision_warnings(plan: Plan, trainable: Trainable) -> list[str]:
    remedy = _without_bf16(plan, trainable)
    if remedy is None or plan.resources.gpu_per_trial:
        return []
    return [
        f"{PRECISION}: the CPU of this machine has no instructions for bf16 (AVX512-BF16 or AMX). Trials "
        f"on it are many times slower than with fp32. Set {remedy}."
    ]


def _without_bf16(plan: Plan, trainable: Trainable) -> str | None:
    """How to train without bf16, if trials may use it and the CPU here lacks its instructions; else None."""
    values = _values(plan.spec, trainable, PRECISION)
    if plan.machine.fast_bf16 is not False or "bf16" not in values:
        return None
    if all(parameter.name != PRECISION for parameter in plan.spec.space.parameters):
        return f"config.{PRECISION}=fp32"
    left = [value for value in values if value != "bf16"] or ["fp32"]
    return f"parameters.{PRECISION}.values=[{', '.join(left)}]"


def _alert_warnings(spec: SweepSpec) -> list[str]:
    name = None if spec.alerts is None else variable_of(spec.alerts.webhook)
    if name is None or os.environ.get(name):
        return []
    return [f"alerts.webhook: the environment variable {name} is not set here. Set it where the driver runs."]


def _space_warnings(plan: Plan) -> list[str]:
    spec, search, trials = plan.spec, plan.spec.search, plan.spec.budget.trials
    found = []
    if plan.combinations is not None and plan.combinations < trials:
        found.append(
            f"The space has only {counted(plan.combinations, 'combination')}: the sweep ends after them, "
            f"short of budget.trials = {trials}."
        )
    if plan.kept_share < RARE:
        found.append(
            f"Only {plan.kept_share:.1%} of random combinations keep the constraints: most of the space is "
            "out of reach. Narrow the ranges instead."
        )
    learns_at_once = bool(search.from_sweeps) and search.method != "cmaes"
    if search.method in ("tpe", "gp", "cmaes") and trials <= search.startup_trials and not learns_at_once:
        drawn = f"All {trials} trials are" if trials > 1 else "The only trial is"
        found.append(
            f"{drawn} drawn at random: search.startup_trials is {search.startup_trials}, so "
            f"{spec.search.method} never gets to learn."
        )
    return found


def _worker_warnings(plan: Plan, trainable: Trainable) -> list[str]:
    workers = plan.resources.workers
    if workers == 1:
        return []
    return [
        f"{name}: {value} has no effect with resources.workers = {workers}, only in trials of one worker."
        for name, value in SINGLE_WORKER
        if value in _values(plan.spec, trainable, name)
    ]


def _objective_warnings(spec: SweepSpec, trainable: Trainable) -> list[str]:
    names = [objective.name for objective in spec.objectives]
    return [
        f"{name} is measured on what a trial trains on, under the trial's own settings: trials cannot be "
        "compared by it. Prefer a metric of held-out data or of rollouts."
        for name in names
        if name.startswith("train/") and name in trainable.metrics
    ]


def _path_warnings(spec: SweepSpec, trainable: Trainable) -> list[str]:
    named = {name: spec.config.get(name) for name, info in trainable.fields.items() if is_path(info)}
    return [
        f"{name}: there is no {path} on this machine."
        for name, paths in named.items()
        for path in (paths if isinstance(paths, list) else [paths])
        if path is not None and not is_url(path) and not is_there(Path(path))
    ]
