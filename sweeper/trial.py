"""One trial: a Tune function that runs a Ray Train worker group over a trainable.

The function runs in a Tune actor that is used again for the next trial; the workers are fresh processes. What
a worker prints goes to ``worker.log`` in the trial's folder, what it reports to ``reports.jsonl``, why it
failed to ``error.json``. A trial that lost a worker ends, and whoever runs the sweep starts it again from its
checkpoint.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import sys
import time
import traceback
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import TrialError
from sweeper.failure import (
    Failure,
    failure_of,
    failure_of_group,
    forget_failure,
    read_failure,
    write_failure,
)
from sweeper.layout import LOG, RAY, trial_folder, write_whole
from sweeper.places import Withdrawn
from sweeper.system import system_metrics
from sweeper.watchdog import Watchdog
from trainables.interface import Report, TrainContext, silent

__all__ = [
    "ARTIFACTS",
    "ATTEMPT",
    "CHECKPOINT",
    "FINAL",
    "PROGRESS",
    "STEP",
    "STOP",
    "TIME",
    "TrialSettings",
    "group_prefix",
    "progress_of",
    "read_reports",
    "request_stop",
    "run_trial",
]

STEP = "trial/step"
"""Key of a result: optimiser steps done."""

TIME = "wall_time_s"
"""Key of a result: when the worker reported, in seconds since 1970."""

ARTIFACTS = "artifacts"
"""Key of a result: paths of files by name."""

CHECKPOINT = "checkpoint"
"""Key of a result: path of the checkpoint written at this step."""

FINAL = "final"
"""Key of a result: whether the trainable says that this is its last report."""

ATTEMPT = "attempt.json"
"""Who trains at the moment: a worker of an attempt that is over must not write beside its successor."""

REPORTS = "reports.jsonl"
"""What the first worker reported, written before anybody else hears of it."""

PROGRESS = "progress.json"

STOP = "stop.request"

POLL_S = 0.5
"""How often a worker looks whether it is to stop, and says how it gets on, at most."""

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


@dataclass(frozen=True)
class TrialSettings:
    """What all trials of a sweep share.

    Attributes:
        group: What the placement groups of the sweep's trials are called by, and of no other's.
        trainable: Name in `trainables.registry`, or ``module:attribute``.
        folder: The sweep's folder, the same on every machine.
        cache: Folder for what the trials of a machine share.
        workers: Processes of a trial.
        gpu_per_worker: GPUs of each.
        cpu_per_worker: CPUs of each.
        objective: The metric and direction by which a trial's best checkpoint is chosen.
        python_path: Where the launching process finds modules; workers look there after their own path.
        hang_s: Seconds without a sign of life after which a worker is ended; None for never.
    """

    group: str
    trainable: str
    folder: Path
    cache: Path
    workers: int = 1
    gpu_per_worker: float = 0.0
    cpu_per_worker: float = 1.0
    objective: tuple[str, Literal["minimize", "maximize"]] | None = None
    python_path: tuple[str, ...] = ()
    hang_s: float | None = None

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, math.floor(self.cpu_per_worker))


def group_prefix(group: str, number: int | None = None) -> str:
    """How the names of the placement groups of a trial begin, or of all trials of a sweep."""
    return f"sweeper/{group}/" if number is None else f"sweeper/{group}/{number}/"


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """What the trial in ``folder`` reported, as Tune gets it; a line that a crash cut short is left out.

    A worker that began again from a checkpoint repeats what came after it.
    """
    reports = []
    with contextlib.suppress(FileNotFoundError):
        for line in (folder / REPORTS).read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                report = json.loads(line)
                if isinstance(report, dict) and STEP in report:
                    reports.append(report)
    return reports


def request_stop(folder: Path) -> None:
    """Ask the trial in ``folder`` to end after a checkpoint."""
    with contextlib.suppress(FileNotFoundError):
        (folder / STOP).touch()


def progress_of(folder: Path) -> str:
    """What the trial in ``folder`` last said about itself between reports; empty where it said nothing."""
    try:
        return str(json.loads((folder / PROGRESS).read_text())["message"])
    except (OSError, ValueError, KeyError):
        return ""


def run_trial(config: Mapping[str, Any], settings: TrialSettings) -> None:
    """Run one trial; Tune's function trainable. Reports every `Report` of the trainable to Tune.

    Args:
        config: ``trial``, its number, and ``config``, its whole configuration.
        settings: What all trials share.

    Raises:
        TrialError: Where the trial failed, with the reason, or was interrupted (reason ``interrupted``).
    """
    for name, value in TRAIN_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    number = int(config["trial"])
    folder = trial_folder(settings.folder, number)
    folder.mkdir(parents=True, exist_ok=True)
    forget_failure(folder)
    write_whole(folder / "config.json", json.dumps(dict(config["config"]), indent=1))
    try:
        interrupted = _train(number, dict(config["config"]), settings)
    except Exception as error:
        failure = failure_of_group(error, read_failure(folder), folder / LOG)
        if failure != read_failure(folder):
            forget_failure(folder)
        write_failure(folder, failure)
        raise TrialError(failure.message, failure.reason) from None
    finally:
        (folder / PROGRESS).unlink(missing_ok=True)
    if interrupted:
        raise TrialError("the trial was asked to stop and did", "interrupted")


def _train(number: int, config: dict[str, Any], settings: TrialSettings) -> bool:
    """Run the worker group; whether it stopped because it was asked to."""
    import ray.train
    from ray import tune

    from sweeper.process_group import NetworkConfig
    from sweeper.trainer import TrialTrainer

    folder = trial_folder(settings.folder, number)
    attempt = uuid.uuid4().hex

    def on_start() -> None:
        forget_failure(folder)
        (folder / PROGRESS).unlink(missing_ok=True)
        write_whole(
            folder / ATTEMPT,
            json.dumps({"attempt": attempt, "host": socket.gethostname(), "pid": os.getpid()}),
        )

    resources = {"CPU": settings.cpu_per_worker}
    if settings.gpu_per_worker:
        resources["GPU"] = settings.gpu_per_worker
    trainer = TrialTrainer(
        train_worker,
        train_loop_config={"number": number, "config": config, "settings": settings, "attempt": attempt},
        torch_config=NetworkConfig(),
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
                # Workers that were lost are replaced by a new attempt, which is counted and told of.
                max_failures=0,
                max_preemption_failures=0,
                controller_failure_limit=START_ATTEMPTS - 1,
            ),
            worker_runtime_env={"env_vars": _worker_environment(settings)},
        ),
        group_name=group_prefix(settings.group, number).rstrip("/"),
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


def train_worker(loop: Mapping[str, Any]) -> str:
    """Train in one process of the worker group, and report.

    Args:
        loop: ``number`` and ``config`` of the trial, the ``settings`` of the sweep, and the ``attempt`` that
            this worker belongs to.

    Returns:
        ``interrupted`` where the run ended because it was asked to, else ``done``.
    """
    import ray.train

    settings: TrialSettings = loop["settings"]
    folder = trial_folder(settings.folder, loop["number"])
    rank = ray.train.get_context().get_world_rank()
    log = folder / (LOG if rank == 0 else f"worker-{rank}.log")
    _print_to(log)
    sys.path += [place for place in settings.python_path if place not in sys.path and Path(place).exists()]
    stop = _Watch(folder, loop["attempt"])

    def tell_of_hang(message: str) -> None:
        if not stop.superseded():
            write_failure(folder, Failure("hung", message, log=str(log)))

    watchdog = Watchdog(settings.hang_s, tell_of_hang)
    progress = _Progress(folder / PROGRESS) if rank == 0 else silent

    def stop_requested() -> bool:
        watchdog.alive()
        return stop()

    def tell_progress(message: str) -> None:
        watchdog.alive()
        progress(message)

    context = TrainContext(
        folder=folder,
        cache=settings.cache,
        rank=rank,
        world_size=ray.train.get_context().get_world_size(),
        device=_device(settings),
        threads=settings.threads,
        objective=settings.objective,
        stop_requested=stop_requested,
        progress=tell_progress,
    )
    try:
        final = False
        with watchdog.watching():
            for report in _reports(settings.trainable, loop["config"], context):
                final = report.final
                result = _metrics(report) if rank == 0 else {}
                if rank == 0:
                    _append(folder / REPORTS, result)
                # Here ranks wait for each other, and rank 0 may be at its rollouts.
                with watchdog.paused():
                    ray.train.report(result)
                # What was said before the report is history.
                (folder / PROGRESS).unlink(missing_ok=True)
    except Exception as error:
        traceback.print_exc()
        if not stop.superseded():
            write_failure(folder, failure_of(error, log))
        raise
    return "interrupted" if stop.seen and not final else "done"


def _reports(trainable: str, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
    from trainables import registry

    reports = registry.load(trainable).train(config, context)
    try:
        yield from reports
    finally:
        if hasattr(reports, "close"):  # a generator; any other iterator has nothing to clean up
            reports.close()


def _metrics(report: Report) -> dict[str, Any]:
    """A report as Tune gets it.

    Raises:
        TrialError: Where a number is not finite (reason ``diverged``).
    """
    for name, value in report.metrics.items():
        if not math.isfinite(value):
            raise TrialError(f"{name} is {value} at step {report.step}", "diverged")
    result: dict[str, Any] = {name: float(value) for name, value in report.metrics.items()}
    result.update(system_metrics())
    result[STEP] = report.step
    result[TIME] = time.time()
    result[FINAL] = report.final
    if report.artifacts:
        result[ARTIFACTS] = {name: str(path) for name, path in report.artifacts.items()}
    if report.checkpoint is not None:
        result[CHECKPOINT] = str(report.checkpoint)
    return result


def _device(settings: TrialSettings) -> str:
    if not settings.gpu_per_worker:
        return "cpu"
    from ray.train.torch import get_device

    return str(get_device())


def _print_to(log: Path) -> None:
    """Send what this process, its libraries and its children print to a file."""
    import faulthandler
    import logging

    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
        with contextlib.suppress(Exception):
            stream.flush()
        os.dup2(file, descriptor)
    os.close(file)
    # Ray put its own streams in their place; the new ones write each line at once.
    sys.stdout, sys.stderr = (
        os.fdopen(number, "w", 1, errors="backslashreplace", closefd=False) for number in (1, 2)
    )
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        force=True,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in logging.root.manager.loggerDict:
        # Ray Train repeats every report; some of its loggers are named by their file.
        if name == "ray" or f"{os.sep}ray{os.sep}" in name:
            logging.getLogger(name).setLevel(logging.WARNING)
    faulthandler.enable(file=sys.stderr)


class _Watch:
    """Whether the trial is to stop; looks at the disk every now and then.

    A worker whose machine was cut off may live on when its trial has been started again elsewhere: it ends as
    soon as it sees that, before it writes into its successor's checkpoints.
    """

    def __init__(self, folder: Path, attempt: str) -> None:
        self._folder = folder
        self._attempt = attempt
        self._next_look = -math.inf
        self.seen = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.seen and now >= self._next_look:
            if self.superseded():
                raise SystemExit("another attempt at this trial has begun; this one ends")
            self.seen = (self._folder / STOP).exists()
            self._next_look = now + POLL_S
        return self.seen

    def superseded(self) -> bool:
        """Whether another attempt at the trial has begun."""
        try:
            return bool(json.loads((self._folder / ATTEMPT).read_text())["attempt"] != self._attempt)
        except (OSError, ValueError, KeyError):
            return False


class _Progress:
    """Leaves a trainable's words where the driver can read them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_write = -math.inf

    def __call__(self, message: str) -> None:
        now = time.monotonic()
        if now >= self._next_write:
            self._next_write = now + POLL_S
            write_whole(self._path, json.dumps({"time": time.time(), "message": message}))


def _append(path: Path, result: Mapping[str, Any]) -> None:
    """Add a line to a file of JSON lines, whatever a crash left at its end."""
    line = json.dumps(result).encode() + b"\n"
    with path.open("ab+") as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            line = line if file.read(1) == b"\n" else b"\n" + line
        file.write(line)
