"""One trial: a Tune function that runs a Ray Train worker group over a trainable.

The function runs in a Tune actor that is used again for the next trial; the workers are fresh processes. What
a worker prints goes to ``worker.log`` in the trial's folder, why it failed to ``error.json``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import TrialError
from sweeper.system import system_metrics
from trainables.interface import Report, TrainableError, TrainContext, silent

__all__ = [
    "ARTIFACTS",
    "CHECKPOINT",
    "ERROR",
    "FINAL",
    "PROGRESS",
    "STEP",
    "STOP",
    "TIME",
    "Failure",
    "TrialSettings",
    "failure_of",
    "group_prefix",
    "progress_of",
    "read_failure",
    "request_stop",
    "run_trial",
    "trial_folder",
    "write_failure",
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

ERROR = "error.json"
ERROR_TEXT = "error.txt"
LOG = "worker.log"
PROGRESS = "progress.json"
STOP = "stop.request"
RAY = "ray"
"""Folder in the sweep's folder for what Ray writes of its own."""

TRACEBACK_LINES = 40
POLL_S = 0.5
"""How often a worker looks whether it is to stop, and says how it gets on, at most."""
LOST_WORKER_RETRIES = 2
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
    # The watcher is a process per trial; without it a preempted machine shows as a lost worker: retried.
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
        sweep: Name of the sweep.
        trainable: Name in `trainables.registry`, or ``module:attribute``.
        folder: The sweep's folder, the same on every machine.
        cache: Folder for what the trials of a machine share.
        workers: Processes of a trial.
        gpu_per_worker: GPUs of each.
        cpu_per_worker: CPUs of each.
        objective: The metric and direction by which a trial's best checkpoint is chosen.
        python_path: Where the launching process finds modules; workers look there after their own path.
    """

    sweep: str
    trainable: str
    folder: Path
    cache: Path
    workers: int = 1
    gpu_per_worker: float = 0.0
    cpu_per_worker: float = 1.0
    objective: tuple[str, Literal["minimize", "maximize"]] | None = None
    python_path: tuple[str, ...] = ()

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, math.floor(self.cpu_per_worker))


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        reason: One stable word, as in `trainables.interface.TrainableError`, or ``lost`` for lost workers.
        message: What went wrong, for a person.
        traceback: The end of the traceback; empty where there is none.
        log: Path of the worker's log.
    """

    reason: str
    message: str
    traceback: str = ""
    log: str = ""


def trial_folder(sweep_folder: Path, number: int) -> Path:
    """The folder of a trial."""
    return sweep_folder / "trials" / str(number)


def group_prefix(sweep: str, number: int | None = None) -> str:
    """How the names of the placement groups of a trial begin, or of all trials of a sweep."""
    return f"sweeper/{sweep}/" if number is None else f"sweeper/{sweep}/{number}/"


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


def read_failure(folder: Path) -> Failure | None:
    """Why the trial in ``folder`` failed, where a worker wrote it down."""
    try:
        return Failure(**json.loads((folder / ERROR).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def write_failure(folder: Path, failure: Failure) -> None:
    """Write down why the trial failed, unless somebody did so before: the first fault causes the others."""
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"{ERROR}.{os.getpid()}.new"
    beside.write_text(json.dumps(vars(failure), indent=1))
    try:
        os.link(beside, folder / ERROR)
    except FileExistsError:
        return
    finally:
        beside.unlink()
    parts = [f"{failure.reason}: {failure.message}", failure.traceback, f"The worker's log: {failure.log}"]
    _write(folder / ERROR_TEXT, "\n\n".join(part for part in parts if part) + "\n")


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
    _write(folder / "config.json", json.dumps(dict(config["config"]), indent=1))
    try:
        interrupted = _train(number, dict(config["config"]), settings)
    except Exception as error:
        failure = read_failure(folder) or _failure_of_group(error, folder)
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

    from sweeper.trainer import TrialTrainer

    folder = trial_folder(settings.folder, number)
    last_step = -1

    def on_start() -> None:
        # An earlier attempt failed, and this one may not.
        for name in (ERROR, ERROR_TEXT, PROGRESS):
            (folder / name).unlink(missing_ok=True)

    def on_report(metrics: Mapping[str, Any]) -> None:
        nonlocal last_step
        # Workers that were lost and began again from a checkpoint repeat what was reported before. A step may
        # have two reports.
        if metrics[STEP] >= last_step:
            last_step = metrics[STEP]
            tune.report(dict(metrics))

    resources = {"CPU": settings.cpu_per_worker}
    if settings.gpu_per_worker:
        resources["GPU"] = settings.gpu_per_worker
    trainer = TrialTrainer(
        train_worker,
        train_loop_config={"number": number, "config": config, "settings": settings},
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
                max_failures=LOST_WORKER_RETRIES,
                max_preemption_failures=LOST_WORKER_RETRIES,
                controller_failure_limit=START_ATTEMPTS - 1,
            ),
            worker_runtime_env={"env_vars": _worker_environment(settings)},
        ),
        group_name=group_prefix(settings.sweep, number).rstrip("/"),
        on_start=on_start,
        on_report=on_report,
    )
    return trainer.fit().return_value == "interrupted"


def _worker_environment(settings: TrialSettings) -> dict[str, str]:
    threads = str(settings.threads)
    return {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "OPENBLAS_NUM_THREADS": threads,
        "NUMEXPR_NUM_THREADS": threads,
        **{name: os.environ[name] for name in TRAIN_ENVIRONMENT},
    }


def _failure_of_group(error: BaseException, folder: Path) -> Failure:
    """Say why a group failed in which no worker could write down a reason."""
    text = str(error)
    log = str(folder / LOG)
    if "memory" in text.lower() and ("OutOfMemory" in text or "memory pressure" in text):
        message = "a worker was killed because its machine ran out of memory"
        return Failure("out_of_memory", message, _tail(text), log)
    if "timed out" in text.lower() and "start" in text.lower():
        message = f"its workers could not be started within {START_TIMEOUT_S} s, {START_ATTEMPTS} times"
        return Failure("lost", message, _tail(text), log)
    last = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), type(error).__name__)
    return Failure("lost", f"a worker died: {last}", _tail(text), log)


# In the worker


def train_worker(loop: Mapping[str, Any]) -> str:
    """Train in one process of the worker group, and report.

    Args:
        loop: ``number`` and ``config`` of the trial, and the ``settings`` of the sweep.

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
    stop = _StopFile(folder / STOP)
    context = TrainContext(
        folder=folder,
        cache=settings.cache,
        rank=rank,
        world_size=ray.train.get_context().get_world_size(),
        device=_device(settings),
        threads=settings.threads,
        objective=settings.objective,
        stop_requested=stop,
        progress=_Progress(folder / PROGRESS) if rank == 0 else silent,
    )
    try:
        final = False
        for report in _reports(settings.trainable, loop["config"], context):
            final = report.final
            ray.train.report(_metrics(report) if rank == 0 else {})
            # What was said before the report is history.
            (folder / PROGRESS).unlink(missing_ok=True)
    except Exception as error:
        traceback.print_exc()
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


def failure_of(error: BaseException, log: Path) -> Failure:
    """Sort what a trainable raised by its reason."""
    message = f"{type(error).__name__}: {str(error).strip()}".rstrip(": ")
    if isinstance(error, (TrainableError, TrialError)):
        reason = error.reason
        message = str(error).strip() or message
    elif isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        reason = "out_of_memory"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        reason = "disk"
    else:
        reason = "error"
    return Failure(reason, message, _tail("".join(traceback.format_exception(error))), str(log))


def _tail(text: str) -> str:
    return "\n".join(text.rstrip().splitlines()[-TRACEBACK_LINES:])


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


class _StopFile:
    """Whether the trial is to stop; looks at the disk every now and then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_look = -math.inf
        self.seen = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self.seen and now >= self._next_look:
            self.seen = self._path.exists()
            self._next_look = now + POLL_S
        return self.seen


class _Progress:
    """Leaves a trainable's words where the driver can read them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._next_write = -math.inf

    def __call__(self, message: str) -> None:
        now = time.monotonic()
        if now >= self._next_write:
            self._next_write = now + POLL_S
            _write(self._path, json.dumps({"time": time.time(), "message": message}))


def _write(path: Path, text: str) -> None:
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.replace(path)
