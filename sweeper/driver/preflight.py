"""Checks before a sweep starts: find everything that can be found before anything is created."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console
from rich.text import Text

from sweeper.errors import ResourceError, UserError
from sweeper.gpus import smallest_gpu_gb
from sweeper.machines.identity import FIELDS, SEARCHED, DataChange, data_changes, data_of_all
from sweeper.machines.machine import find_machine
from sweeper.machines.plan import without_likes
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import (
    AUTO_TRIALS_AT_ONCE,
    KeepSpec,
    SettledResources,
    SweepSpec,
    legal_draws,
    trained_config,
)
from sweeper.text import describe_size
from trainables.interface import (
    ConfigError,
    EstimatesMemory,
    Fault,
    SlimsCheckpoints,
    StartsFromCheckpoints,
    Trainable,
    TrainableError,
)

__all__ = [
    "check_disk",
    "check_memory",
    "check_same_data",
    "describe_data",
    "ended_gb",
    "preflight",
    "remark",
    "warn",
]

DRAWS = 2000
DATA_VARIANTS = 16
"""Combinations of searched data fields that are checked before the sweep starts."""

REMARKED_DRAWS = 50
REMARKED = 4
"""Configurations whose dataset is opened for remarks: each opening takes time."""

PROCESS_GB = 0.6
"""Memory of a Python process with torch and Ray before it trains anything."""


def preflight(
    spec: SweepSpec,
    trainable: Trainable,
    cache: Path,
    progress: Callable[[str], None] = lambda _message: None,
) -> list[dict[str, Any]]:
    """Check a sweep against its dataset and environment.

    Returns:
        Legal configurations of the space that were checked: at least one, and one for each combination of
        searched fields that decide which data is read.

    Raises:
        ConfigError: With all faults, if there are any.
    """
    checked = _variants(spec, trainable)
    found = dict.fromkeys(
        fault for config in checked for fault in trainable.preflight(config, cache, progress)
    )
    if found:
        raise ConfigError(list(found))
    return checked


def describe_data(
    spec: SweepSpec, trainable: Trainable, checked: Sequence[Mapping[str, Any]], cache: Path
) -> dict[str, Any]:
    """Identify the data of a sweep, and those of each combination of the data fields that it searches.

    What differs between these combinations is in their own descriptions only.

    Args:
        spec: The sweep.
        trainable: What is trained.
        checked: What `preflight` returned.
        cache: For datasets.
    """
    described = [trainable.describe(config, cache) for config in checked]
    names = _data_fields(spec, trainable)
    if not names:
        return dict(described[0])
    searched = [
        {FIELDS: {name: config.get(name) for name in names}, **one}
        for config, one in zip(checked, described, strict=True)
    ]
    return {**data_of_all({SEARCHED: searched}), SEARCHED: searched}


def check_same_data(earlier: SweepState, data: Mapping[str, Any], spec: SweepSpec, console: Console) -> None:
    """Refuse to continue a sweep whose data have changed; report data that have only moved.

    Args:
        earlier: The sweep as it was.
        data: What `describe_data` says now.
        spec: The sweep as it is to continue.
        console: Where a move is reported.

    Raises:
        UserError: Names both datasets or checkpoints, and what to do.
    """
    before = earlier.info.get("data")
    if not earlier.trials or not isinstance(before, Mapping):
        return
    changes = data_changes(before, data)
    for change in changes:
        if not change.same:
            raise UserError(_changed(change, spec))
    for change in changes:
        text = (
            f"The {change.what} has the same content as before: it was {change.before} and is {change.now}."
        )
        console.print(Text(text), soft_wrap=True)


def _changed(change: DataChange, spec: SweepSpec) -> str:
    field = "policy.path" if change.what == "checkpoint" else "dataset.root"
    pinned = " (on the hub: `config.dataset.revision=COMMIT`)"
    revision = "" if change.what == "checkpoint" else pinned
    return (
        f"{spec.name}: the {change.what} has changed since its trials ran. It was {change.before}, "
        f"and is now {change.now}. Trials of two {change.what}s cannot be ranked together. "
        "Restore the earlier one, or continue with a copy of it: "
        f"`sweeper resume {spec.name} config.{field}=FOLDER`{revision}. "
        f"For the changed one launch a new sweep: `name={spec.name}-2` after the space file."
    )


def _data_fields(spec: SweepSpec, trainable: Trainable) -> list[str]:
    return [name for name in spec.space.names if trainable.fields[name].phase == "data"]


def _variants(spec: SweepSpec, trainable: Trainable) -> list[dict[str, Any]]:
    """Legal configurations of a space, one for each combination of the data fields that it searches.

    Raises:
        ConfigError: If there is none.
    """
    generator = random.Random(spec.search.seed)
    data_fields = _data_fields(spec, trainable)
    checked: dict[str, dict[str, Any]] = {}
    refused: list[Fault] = []
    for _ in range(DRAWS if data_fields else DRAWS // 10):
        config = dict(trained_config(spec.space.draw(generator, spec.config), spec.inference, trainable))
        if spec.space.violated(config):
            continue
        faults = trainable.faults(config, spec.resources.workers)
        if faults:
            refused = refused or faults
            continue
        checked.setdefault(repr([config.get(name) for name in data_fields]), config)
        if not data_fields or len(checked) == DATA_VARIANTS:
            break
    if not checked:
        raise ConfigError(refused or [_NO_POINT])
    return list(checked.values())


def remark(
    spec: SweepSpec, trainable: Trainable, config: Mapping[str, Any], cache: Path, console: Console
) -> None:
    """Show the trainable's remarks before anything is trained.

    Args:
        spec: The sweep.
        trainable: What is trained.
        config: A legal configuration of the space. Others are looked at if they raise other remarks, as
            they do if the space searches the normalisation.
        cache: For datasets.
        console: Where the remarks go.
    """
    if not isinstance(trainable, StartsFromCheckpoints):
        return
    legal = legal_draws(spec, trainable, random.Random(spec.search.seed), REMARKED_DRAWS)
    chosen: dict[tuple[str, ...], Mapping[str, Any]] = {}
    for one in (config, *legal):
        chosen.setdefault(tuple(without_likes(trainable.remarks(one))), one)
    looked_at = list(chosen.values())[:REMARKED]
    said: list[str] = []
    for one in looked_at:
        # Another dataset than the one of ``config`` may be damaged; its own trials report that.
        with contextlib.suppress(TrainableError):
            said += trainable.remarks(one, cache)
    warn(without_likes(said), console)


def warn(texts: Iterable[str], console: Console) -> None:
    """Show warnings, each as a paragraph."""
    for text in texts:
        console.print(Text(f"! {text}", style="yellow"))


_NO_POINT = Fault(
    "constraints", "no combination of the parameters satisfies them.", "Widen a range or drop a constraint."
)


def ended_gb(trainable: Trainable, config: Mapping[str, Any], keep: KeepSpec) -> float:
    """Most disk of a trial that ended and whose checkpoints are kept, in GB."""
    if isinstance(trainable, SlimsCheckpoints):
        return trainable.slim_gb(config, keep.per_trial)
    return trainable.disk_gb(config)


def check_disk(
    spec: SweepSpec,
    trial_gb: float,
    ended_gb: float,
    left: int,
    console: Console,
    *,
    settled: SettledResources | None = None,
) -> None:
    """Refuse a sweep if not even one trial fits on the disk; warn if not all of them fit.

    Args:
        spec: The sweep.
        trial_gb: Most disk of a trial that may continue.
        ended_gb: Most disk of one that ended and whose checkpoints are kept.
        left: Trials that are left to run.
        console: Where a warning goes.
        settled: What a trial gets on this machine, and how many run at once; None on a cluster.

    Raises:
        ResourceError: If there is no room for a single trial.
    """
    free_gb = find_machine(spec.folder).disk_gb
    free = describe_size(free_gb)
    if trial_gb > free_gb:
        raise ResourceError(
            f"{spec.folder}: a trial needs about {describe_size(trial_gb)} of disk, and {free} are free. "
            "Free some space, or choose another folder with --sweeps."
        )
    wanted = spec.resources.max_concurrent
    at_once = AUTO_TRIALS_AT_ONCE if wanted == "auto" else wanted
    at_once = at_once if settled is None else settled.at_once
    stay = spec.keep.at_most(left, at_once)
    all_gb = spec.keep.disk_gb(left, at_once, running_gb=trial_gb, ended_gb=ended_gb)
    if all_gb > free_gb:
        which = (
            f"All {left} trials"
            if stay == left
            else f"The {stay} trials whose checkpoints are kept at a time"
        )
        needed = f"{which} may need {describe_size(all_gb)}"
        warn([f"{needed}, and {free} are free in {spec.folder}."], console)


def check_memory(
    trainable: Trainable, config: Mapping[str, Any], resources: SettledResources, console: Console
) -> None:
    """Refuse a sweep if not even one trial fits into memory; warn if not all that run at once do.

    There is no check for a trainable that does not estimate its memory, or for a GPU that reports none.

    Args:
        trainable: What is trained.
        config: A configuration of the space.
        resources: What a trial gets on this machine.
        console: Where a warning goes.

    Raises:
        ResourceError: If there is no room for a single trial.
    """
    if not isinstance(trainable, EstimatesMemory):
        return
    held_gb = trainable.memory_gb(config)
    if resources.gpu_per_worker:
        there_gb, where = smallest_gpu_gb(), "GPU memory"
        on_each = math.floor(1 / resources.gpu_per_worker + 1e-9)
        one_gb, all_gb = held_gb, min(on_each, resources.at_once) * held_gb
    else:
        there_gb, where = _host_gb(), "memory"
        one_gb = resources.workers * (held_gb + PROCESS_GB)
        all_gb = resources.at_once * one_gb
    if there_gb is None:
        return
    free = f"of {where}, and {describe_size(there_gb)} are available"
    if one_gb > there_gb:
        raise ResourceError(
            f"resources: a trial needs at least {describe_size(one_gb)} {free}. "
            "Use a smaller policy or a larger machine."
        )
    if all_gb > there_gb:
        needed = f"Trials that share it need at least {describe_size(all_gb)} {free}."
        warn([f"{needed} Lower resources.max_concurrent."], console)


def _host_gb() -> float | None:
    """Memory that this machine, or the container of this process, has for new processes, in GB."""
    free = float(psutil.virtual_memory().available)
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        free = min(free, max(0, limit - int(Path("/sys/fs/cgroup/memory.current").read_text())))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or one without a limit
    return free / 1e9
