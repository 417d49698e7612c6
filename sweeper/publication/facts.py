"""What is known of a policy that leaves this machine: confirmed figures, and why there are none.

Figures belong to a checkpoint with an inference setting. Those of a confirmation are given only for the very
checkpoint and setting that were confirmed.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from sweeper.certainty.standing import standing_of
from sweeper.gpus import first_device
from sweeper.machines.identity import data_of_trial
from sweeper.records.checkpoints import Source
from sweeper.records.status import TrialStatus
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.records.trial_state import TrialState
from sweeper.text import counted
from trainables import registry
from trainables.deployment.bundle import is_bundle, open_bundle
from trainables.deployment.card import BUILT_IN, Confirmed, Figure, PolicyFacts, SearchResult, Speed
from trainables.episodes import OUTCOMES
from trainables.interface import (
    ENVIRONMENT,
    EvaluatesPolicies,
    EvaluationContext,
    InspectablePolicy,
    NamesPlaces,
    OpenPolicy,
    silent,
)

__all__ = ["facts_of", "on_hub", "versions"]

RUNS, MOST_S = 20, 5.0
BUSY_S = 0.5
PACKAGES = ("diffusion-policy-sweeper", "torch", "torchvision", "diffusers", "numpy", "safetensors")
HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
BASE = "policy.path"
"""By convention the field that names the checkpoint from which a training starts."""


def facts_of(source: Source, cache: Path, progress: Callable[[str], None] = silent) -> PolicyFacts:
    """Gather what is known of a policy; its latency is measured here.

    Args:
        source: The policy.
        cache: Folder for what is shared on this machine.
        progress: Receives a message for each step.

    Raises:
        TrainableError: If the checkpoint cannot be read.
    """
    progress("timing predictions")
    opened = _open(source, cache)
    speed = None if opened is None else _speed(opened, source.setting)
    setting = dict(source.setting) if opened is None else {**opened.trained_setting, **source.setting}
    measured: dict[str, Any] = {
        "trainable": source.trainable,
        "step": 0 if opened is None else opened.step,
        "setting": setting,
        "changed": tuple(source.setting),
        "speed": speed,
    }
    if source.sweep is None or source.folder is None or source.trial is None:
        return _without_sweep(source, measured)
    sweep = read_sweep(source.folder.parents[1])
    return _of_trial(sweep, sweep.trial(source.trial), source, measured)


def versions() -> dict[str, str]:
    """The versions of what runs here."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


# Measured here


def _open(source: Source, cache: Path) -> OpenPolicy | None:
    trainable = registry.load(source.trainable)
    if not isinstance(trainable, EvaluatesPolicies):
        return None
    # Without a simulator: the one of the training need not be installed here.
    config = {ENVIRONMENT: None} if ENVIRONMENT in trainable.fields else {}
    context = EvaluationContext(cache, first_device())
    return trainable.open_policy(source.checkpoint, config, context)


def _speed(policy: OpenPolicy, setting: Mapping[str, Any]) -> Speed | None:
    if not isinstance(policy, InspectablePolicy):
        return None
    busy = psutil.cpu_percent(BUSY_S) / 100
    latency = policy.latency(setting, RUNS, MOST_S)
    hardware = latency.device
    if hardware == "cpu":
        threads = f"{latency.threads} thread" + ("s" if latency.threads != 1 else "")
        hardware = f"{_processor()}, {threads}"
    return Speed(
        latency.p50_ms, latency.p95_ms, len(latency.times_ms), hardware, latency.executed_steps, busy
    )


def _processor() -> str:
    """The name of the processor."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            lines = Path("/proc/cpuinfo").read_text().splitlines()
            names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
            if names and names[0]:
                return names[0]
    return platform.processor() or f"{os.cpu_count()} CPUs ({platform.machine()})"


# Recorded


def _without_sweep(source: Source, measured: Mapping[str, Any]) -> PolicyFacts:
    name = source.checkpoint.absolute().name.removesuffix(".zip")
    if is_bundle(source.checkpoint):
        with contextlib.suppress(TypeError, LookupError):
            known = PolicyFacts.from_json(open_bundle(source.checkpoint).facts)
            return PolicyFacts.from_json({**known.to_json(), "speed": None} | _plain_speed(measured))
    return PolicyFacts(
        name=name,
        origin="It was exported from a checkpoint that was named by its path.",
        unconfirmed="Nothing is known of this checkpoint's training and evaluation.",
        versions=versions(),
        **measured,
    )


def _plain_speed(measured: Mapping[str, Any]) -> dict[str, Any]:
    speed = measured["speed"]
    return {} if speed is None else {"speed": vars(speed)}


def _of_trial(
    sweep: SweepState, trial: TrialState, source: Source, measured: Mapping[str, Any]
) -> PolicyFacts:
    confirmed, reason = _confirmed(sweep, trial, source)
    completed = sweep.count(TrialStatus.COMPLETED)
    config = {**sweep.spec["config"], **trial.values, **trial.config}
    # By convention the fields that name a dataset; the trainable's own description comes first.
    root, repo = config.get("dataset.root"), config.get("dataset.repo_id")
    trials = counted(len(sweep.trials), "trial")
    return PolicyFacts(
        name=f"{sweep.name}, trial {trial.number}",
        origin=f"It is trial {trial.number} of a sweep of {trials} ({sweep.name}).",
        environment=str(config.get(ENVIRONMENT) or ""),
        confirmed=confirmed,
        unconfirmed=reason,
        search=_searched(sweep, trial, source, completed),
        data={"dataset": root or repo, **data_of_trial(sweep.info.get("data") or {}, config)},
        base=str(config.get(BASE) or ""),
        on_hub=on_hub(config),
        # Paths tell nothing of the policy, and something of the machine.
        trained={name: value for name, value in config.items() if name not in _places(source.trainable)},
        searched=sweep.varying,
        versions=dict(sweep.info.get("versions", {})),
        **measured,
    )


def on_hub(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The datasets and the checkpoint of a configuration that are on the hub, not on this machine."""
    named = config.get("dataset.repo_id") if config.get("dataset.root") is None else None
    names = [str(name) for name in (named if isinstance(named, (list, tuple)) else [named]) if name]
    base = config.get(BASE)
    # A folder is found before a name on the hub.
    names += [str(base)] if base and not Path(str(base)).exists() else []
    return tuple(name for name in names if HUB_NAME.fullmatch(name) and not name.startswith(BUILT_IN))


def _places(name: str) -> Sequence[str]:
    """The fields of a trainable that only name places."""
    trainable = registry.load(name)
    return trainable.places if isinstance(trainable, NamesPlaces) else ()


def _confirmed(sweep: SweepState, trial: TrialState, source: Source) -> tuple[Confirmed | None, str]:
    """The figures of the last confirmation, if they are those of this checkpoint with this setting.

    Returns:
        The figures or None; and why there are none, in a sentence.
    """
    confirmation = sweep.confirmation
    found = [one for one in confirmation.get("finalists", ()) if one["trial"] == trial.number]
    name = sweep.name
    if not confirmation.get("verdict"):
        return None, f"No confirmation of {name} has been done (`sweeper confirm {name}`)."
    if not found or not found[0].get("metrics"):
        return None, f"Trial {trial.number} was not among the finalists that were confirmed."
    row = found[0]
    if dict(row.get("setting", {})) != dict(source.setting):
        return None, "The confirmation measured this policy with another inference setting."
    if trial.checkpoint is None or Path(trial.checkpoint).name != source.checkpoint.name:
        return None, "The confirmation measured the trial's last checkpoint, and this is another one."
    metrics: Mapping[str, float] = row["metrics"]
    options = confirmation.get("options", {})
    first = str(options.get("metric", sweep.objectives[0].name))
    names = [one for one in dict.fromkeys((first, *OUTCOMES)) if one in metrics]
    if not names or row.get("state") == "failed":
        return None, "The confirmation could not measure this policy."
    return Confirmed(
        figures=tuple(_figure(one, metrics) for one in names),
        episodes=int(metrics.get("episodes", 0)),
        finalists=len(confirmation["finalists"]),
        seeds=int(metrics.get("seeds", 1)),
        verdict=str(confirmation["verdict"]),
        complete=bool(confirmation.get("complete")),
    ), ""


def _searched(sweep: SweepState, trial: TrialState, source: Source, completed: int) -> SearchResult | None:
    """The values by which the trial was ranked; those of another checkpoint are left out."""
    best = trial.best_checkpoint is not None and Path(trial.best_checkpoint).name == source.checkpoint.name
    last = trial.checkpoint is not None and Path(trial.checkpoint).name == source.checkpoint.name
    values = trial.final if last or not best else trial.best
    objective = sweep.objectives[0].name
    known = standing_of(sweep, sweep.ranking()).of(trial.number)
    figures = []
    for one in sweep.objectives:
        if one.name in values:
            ends = {"low": known.low, "high": known.high} if one.name == objective and last else {}
            figures.append(Figure(one.name, values[one.name], **ends))
    return SearchResult(tuple(figures), known.episodes if last else 0, max(completed, 1))


def _figure(name: str, metrics: Mapping[str, float]) -> Figure:
    return Figure(name, metrics[name], metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))
