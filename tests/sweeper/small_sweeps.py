"""Small sweeps for tests, built without a space file."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from sweeper.layout import STUDY
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.spec.expressions import Expression
from sweeper.spec.space import Parameter, Space
from sweeper.spec.sweep import (
    BudgetSpec,
    ConfirmSpec,
    EarlyStopSpec,
    Objective,
    ResourceSpec,
    SearchSpec,
    SweepSpec,
    TrackingSpec,
)

SUCCESS = "rollout/success_rate"
ERROR = "eval/action_mse"

LR = Parameter("optimizer.lr", "float", 1e-5, 1e-3, log=True)
HORIZON = Parameter("policy.horizon", "int", 8, 32, step=8)
N_ACTION_STEPS = Parameter("policy.n_action_steps", "int", 1, 16)
SCHEDULE = Parameter("policy.beta_schedule", "categorical", values=("squaredcos_cap_v2", "linear"))
DIMS = Parameter("policy.down_dims", "categorical", values=([32, 64], [64, 128]))
BETA_END = Parameter(
    "policy.beta_end",
    "float",
    0.01,
    0.05,
    when=Expression("policy.beta_schedule != 'squaredcos_cap_v2'"),
)


def choice(name: str, *values: Any) -> Parameter:
    return Parameter(name, "categorical", values=values)


def sweep(
    folder: Path,
    *parameters: Parameter,
    method: str = "tpe",
    constraints: tuple[str, ...] = (),
    objectives: Mapping[str, str] | None = None,
    early_stop: EarlyStopSpec | None = None,
    config: Mapping[str, Any] | None = None,
    trials: int = 8,
    uri: str | None = None,
    defaults: Mapping[str, Any] | None = None,
    confirm: ConfirmSpec | None = None,
    **search: Any,
) -> SweepSpec:
    goals = objectives or {SUCCESS: "maximize"}
    return SweepSpec(
        name="small",
        trainable="diffusion_policy",
        config=dict(config or {"train.steps": 100}),
        space=Space(parameters, tuple(Expression(text) for text in constraints), dict(defaults or {})),
        objectives=tuple(Objective(name, goal) for name, goal in goals.items()),
        search=SearchSpec(method=method, **search),
        early_stop=early_stop,
        budget=BudgetSpec(trials=trials),
        resources=ResourceSpec(),
        confirm=confirm,
        tracking=TrackingSpec(uri=uri, experiment="small"),
        folder=folder,
        source="name: small\n",
    )


def this_process() -> dict[str, Any]:
    """This process as the driver of a sweep, so that the sweep counts as running."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def begin(
    journal: Journal,
    spec: SweepSpec,
    *,
    name: str = "small",
    sweep_id: str = "1",
    driver: Mapping[str, Any] | None = None,
    space: str = "",
    info: Mapping[str, Any] | None = None,
) -> None:
    """Write the first event of a sweep."""
    journal.append(
        EventKind.SWEEP_START,
        sweep=name,
        sweep_id=sweep_id,
        driver=dict(driver or {}),
        spec=spec.to_dict(),
        space=space,
        info=dict(info or {}),
    )


@contextlib.contextmanager
def as_optuna_reads_it(folder: Path) -> Iterator[Any]:
    """A sweep's study, opened by Optuna alone; its connections are closed at the end."""
    import optuna

    storage = optuna.storages.RDBStorage(f"sqlite:///{folder / STUDY}")
    try:
        yield optuna.load_study(study_name="sweep", storage=storage)
    finally:
        storage.remove_session()
        storage.engine.dispose()


def fill(folder: Path) -> None:
    """Leave no room on the disk of a folder."""
    with (folder / "full").open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(1000)):
            pass


LOSS = "train/loss"


def spec(folder: Path, *parameters: Parameter, trials: int = 4, **changes: Any) -> SweepSpec:
    """A sweep of the small trainable that runs with Ray; the grid of its parameters is searched."""
    config = {"train.steps": 40, "train.log_every": 5, **changes.pop("config", {})}
    made = SweepSpec(
        name=folder.name,
        trainable="small_trainable:TRAINABLE",
        config=config,
        space=Space(parameters),
        objectives=(Objective(LOSS, "minimize"),),
        search=SearchSpec(method="grid"),
        early_stop=None,
        budget=BudgetSpec(trials=trials),
        resources=ResourceSpec(1, 0, 1),
        tracking=TrackingSpec(uri=None, experiment="tests"),
        folder=folder,
        source="name: a test\n",
    )
    return dataclasses.replace(made, **changes)
