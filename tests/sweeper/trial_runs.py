"""Runs trials under Tune for tests, without a sweep around them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from sweeper.trial.run import run_trial
from sweeper.trial.worker import TrialSettings


def settings(folder: Path, **changes: Any) -> TrialSettings:
    arguments: dict[str, Any] = {
        "group": folder.name,
        "trainable": "small_trainable:TRAINABLE",
        "folder": folder,
        "cache": folder / "cache",
        "python_path": tuple(sys.path),
        **changes,
    }
    return TrialSettings(**arguments)


class Observer:
    """A Tune callback that remembers what it is told, and may act on a result."""

    def __init__(self) -> None:
        self.results: dict[int, list[dict[str, Any]]] = {}
        self.errors: list[int] = []


def run(
    settings: TrialSettings,
    configs: list[dict[str, Any]],
    stop_at: int | None = None,
    at_once: int = 2,
    idle_s: float = 300.0,
) -> tuple[Any, Observer]:
    """Run one trial for each configuration, numbered from 0; those in question stop early at a step.

    Args:
        settings: What the trials share.
        configs: The configuration of each trial.
        stop_at: The step at which trials with a `pause_s` stop.
        at_once: The number of trials that run at once.
        idle_s: How long a slot may have no trial: on a busy machine the next one may take long to come.
    """
    from ray import tune

    from sweeper.driver import callbacks
    from sweeper.trial.placement import free_groups

    observer = Observer()

    class Tell(tune.Callback):
        def on_trial_result(self, iteration: int, trials: Any, trial: Any, result: Any, **_: Any) -> None:
            observer.results.setdefault(trial.config["trial"], []).append(dict(result))

        def on_trial_error(self, iteration: int, trials: Any, trial: Any, **_: Any) -> None:
            observer.errors.append(trial.config["trial"])

        def __reduce__(self) -> Any:
            return (tune.Callback, ())

    def stop(trial_id: str, result: dict[str, Any]) -> bool:
        slow = "pause_s" in result["config"]["config"]
        return slow and stop_at is not None and result["trial/step"] >= stop_at

    tuner = tune.Tuner(
        tune.with_resources(
            tune.with_parameters(run_trial, settings=settings), {"node:__internal_head__": 0.001}
        ),
        param_space={
            "trial": tune.grid_search(list(range(len(configs)))),
            "config": tune.sample_from(lambda spec: configs[spec.config.trial]),
        },
        tune_config=tune.TuneConfig(max_concurrent_trials=at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(settings.folder / "ray"),
            verbose=0,
            callbacks=[callbacks.FreeSlots(settings.folder, settings.group, lambda: False), Tell()],
            stop=stop,
        ),
    )
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(callbacks, "IDLE_S", idle_s)
            return tuner.fit(), observer
    finally:
        free_groups(settings.group)
