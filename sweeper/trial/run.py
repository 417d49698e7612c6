"""One trial: a Tune function that runs a Ray Train worker group over a trainable.

The function runs in a Tune actor that is used again for the next trial, and so are the workers after a trial
that ended well (`sweeper.trial.slot`). What a worker prints goes to ``worker.log`` in the trial's folder,
what it reports to ``reports.jsonl``, why it failed to ``error.json``. A trial that lost a worker ends, and
the caller that runs the sweep starts it again from its checkpoint.
"""

from __future__ import annotations

import functools
import json
import os
import socket
import uuid
from collections.abc import Mapping
from typing import Any

from sweeper.errors import TrialError
from sweeper.layout import LOG, RAY, trial_folder, write_whole
from sweeper.trial.exchange import ATTEMPT, PROGRESS, STOP, ProgressFile
from sweeper.trial.failure import (
    clear_failure,
    failure_of_group,
    read_failure,
    write_failure,
)
from sweeper.trial.placement import Withdrawn, group_prefix
from sweeper.trial.worker import TrialSettings, WorkerTask, train_worker

__all__ = ["run_trial"]

START_TIMEOUT_S = 600
"""How long a trial waits for its workers: an autoscaler may have to start machines first."""
START_ATTEMPTS = 3
HEALTH_TIMEOUT_S = 600
COLLECTIVE_TIMEOUT_S = 3600
"""How long ranks wait for each other at a report: rank 0 may be at its rollouts."""
TRAIN_ENVIRONMENT = {
    # Reports reach Tune at this interval; the default of 2 s would hold up trainables that report often.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(START_TIMEOUT_S),
    "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": str(HEALTH_TIMEOUT_S),
    # Ranks wait for each other at every report; one that left its loop must not hold the others for ever.
    "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": str(COLLECTIVE_TIMEOUT_S),
    # The watcher is a process per trial; without it a preempted machine shows when it is gone: soon enough.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    # worker.log has what workers print; Ray's structured logs would take it there only in part.
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_WORKER_STRUCTURED_LOGGING": "0",
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
    # Relative paths in a configuration mean the folder that the sweep was launched from.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    # How long Tune waits for a trial that it stopped before it starts another process for the next one.
    "TUNE_FUNCTION_THREAD_TIMEOUT_S": "15",
}
"""Settings of Ray Train, for the trial and its workers. The caller's environment wins."""


def run_trial(config: Mapping[str, Any], settings: TrialSettings) -> None:
    """Run one trial; Tune's function trainable. Reports every `Report` of the trainable to Tune.

    Args:
        config: ``trial``, its number, and ``config``, its whole configuration.
        settings: What all trials share.

    Raises:
        TrialError: If the trial failed, with the reason, or was interrupted (reason ``interrupted``).
    """
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    number = int(config["trial"])
    folder = trial_folder(settings.folder, number)
    folder.mkdir(parents=True, exist_ok=True)
    clear_failure(folder)
    write_whole(folder / "config.json", json.dumps(dict(config["config"]), indent=1))
    try:
        interrupted = _train(number, dict(config["config"]), settings)
    except Exception as error:
        failure = failure_of_group(error, read_failure(folder), folder / LOG)
        if failure != read_failure(folder):
            clear_failure(folder)
        write_failure(folder, failure)
        raise TrialError(failure.message, failure.reason) from None
    finally:
        (folder / PROGRESS).unlink(missing_ok=True)
    if interrupted:
        raise TrialError("the trial was asked to stop and did", "interrupted")


def _train(number: int, config: dict[str, Any], settings: TrialSettings) -> bool:
    """Run the worker group; whether it stopped because it was asked to."""
    import ray
    import ray.train
    from ray import tune

    from sweeper.trial.trainer import TrialTrainer

    folder = trial_folder(settings.folder, number)
    attempt = uuid.uuid4().hex
    slot = str(ray.get_runtime_context().get_actor_id())

    def on_start() -> None:
        clear_failure(folder)
        write_whole(
            folder / ATTEMPT,
            json.dumps({"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid(), "slot": slot}),
        )
        ProgressFile(folder / PROGRESS)(
            "starting the worker" if settings.workers == 1 else "starting the workers"
        )

    resources = {"CPU": settings.cpu_per_worker}
    if settings.gpu_per_worker:
        resources["GPU"] = settings.gpu_per_worker
    trainer = TrialTrainer(
        functools.partial(train_worker, WorkerTask(number, config, settings, attempt)),
        scaling_config=ray.train.ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu_per_worker > 0,
            resources_per_worker=resources,
        ),
        run_config=ray.train.RunConfig(
            # The same for every attempt at a trial, and so is its storage.
            name=f"trial-{number}",
            storage_path=str(settings.folder.absolute() / RAY / "train"),
            failure_config=ray.train.FailureConfig(
                # Workers that were lost are replaced by a new attempt, which is counted and reported.
                max_failures=0,
                max_preemption_failures=0,
                controller_failure_limit=START_ATTEMPTS - 1,
            ),
            worker_runtime_env={"env_vars": _worker_environment(settings)},
        ),
        group_name=group_prefix(settings.group, slot).rstrip("/"),
        trials_per_process=settings.trials_per_process,
        folder=folder,
        given_up=(folder / STOP).exists,
        on_start=on_start,
        on_report=lambda metrics: tune.report(dict(metrics)),
    )
    try:
        return trainer.fit().return_value == "interrupted"
    except Withdrawn:
        if not (folder / STOP).exists():
            raise  # by Tune, which waits for no answer
        return True


def _worker_environment(settings: TrialSettings) -> dict[str, str]:
    threads = str(settings.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "NUMEXPR_NUM_THREADS": threads,
        **{name: os.environ[name] for name in TRAIN_ENVIRONMENT},
    }


# In the worker
