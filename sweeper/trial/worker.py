"""One process of a trial's worker group: it trains and reports.

What it prints goes to ``worker.log`` in the trial's folder, what it reports to ``reports.jsonl``, and
the reason of a failure to ``error.json``.
"""

from __future__ import annotations

import contextlib
import dataclasses
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
from sweeper.layout import LOG, trial_folder
from sweeper.trial.exchange import (
    ARTIFACTS,
    ATTEMPT,
    CHECKPOINT,
    FINAL,
    POLL_S,
    PROGRESS,
    REPORTS,
    STEP,
    STOP,
    TIME,
    TUNED,
    ProgressFile,
    append_report,
    numbers_as_sent,
)
from sweeper.trial.failure import Failure, failure_of, write_failure
from sweeper.trial.inference import InferencePlan, NoSettingError, PolicyMeasures, choose_setting
from sweeper.trial.process import begin, left_trial, loading
from sweeper.trial.system_metrics import system_metrics
from sweeper.trial.watchdog import Watchdog
from trainables import registry
from trainables.episodes import EPISODES, read_episodes
from trainables.interface import EvaluatesPolicies, EvaluationContext, Report, TrainContext, silent

__all__ = ["TrialSettings", "WorkerTask", "train_worker"]

LOADING = "the worker has started: loading the trainable"
"""The first progress of a worker."""


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
        python_path: The launching process's paths of modules; workers search them after their own path.
        hang_s: Seconds without a sign of life after which a worker is ended; None for never.
        inference: Which inference settings are examined on a trained policy; None for none.
        trials_per_process: Trials after which the workers' processes are replaced by new ones.
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
    inference: InferencePlan | None = None
    trials_per_process: int = 1

    @property
    def threads(self) -> int:
        """Threads of each worker."""
        return max(1, math.floor(self.cpu_per_worker))


@dataclass(frozen=True)
class WorkerTask:
    """What the workers of one trial train.

    Attributes:
        number: Number of the trial.
        config: Its whole configuration.
        settings: What all trials of the sweep share.
        attempt: Identifies this start of the worker group.
    """

    number: int
    config: Mapping[str, Any]
    settings: TrialSettings
    attempt: str


def train_worker(task: WorkerTask) -> str:
    """Train in one process of the worker group, and report; the process may train another trial later.

    Returns:
        ``interrupted`` if the run ended because it was asked to, else ``done``.
    """
    import ray.train

    begin()
    settings = task.settings
    folder = trial_folder(settings.folder, task.number)
    rank = ray.train.get_context().get_world_rank()
    log = folder / (LOG if rank == 0 else f"worker-{rank}.log")
    _print_to(log)
    sys.path += [place for place in settings.python_path if place not in sys.path and Path(place).exists()]
    stop = _Watch(folder, task.attempt)

    def tell_of_hang(message: str) -> None:
        if not stop.superseded():
            write_failure(folder, Failure("hung", message, log=str(log)))

    watchdog = Watchdog(settings.hang_s, tell_of_hang)
    progress = ProgressFile(folder / PROGRESS, _log_line) if rank == 0 else silent
    progress(LOADING)

    def stop_requested() -> bool:
        _leave_if_stopped()
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
            for report in _reports(settings.trainable, task.config, context):
                final = report.final
                result = _metrics(report) if rank == 0 else {}
                if rank == 0 and final and settings.inference is not None:
                    # The other ranks wait at their report, and nothing says that this one lives.
                    with watchdog.paused():
                        result |= _tuned(report, settings, context)
                if rank == 0:
                    append_report(folder / REPORTS, result)
                    _log_line(_report_text(report))
                # Here ranks wait for each other, and rank 0 may be at its rollouts.
                with watchdog.paused():
                    ray.train.report(result)
                # What was said before the report is history.
                (folder / PROGRESS).unlink(missing_ok=True)
                _leave_if_stopped()
        # The ranks leave together if one of them was told to stop, whether or not this one has looked since.
        ended = "interrupted" if not final and stop.asked() else "done"
        _log_line(ended)
    except Exception as error:
        traceback.print_exc()
        if not stop.superseded():
            write_failure(folder, failure_of(error, log))
        raise
    return ended


def _log_line(text: str) -> None:
    """Write a line about the course of the trial into its log."""
    with contextlib.suppress(OSError):  # a full disk shows at the next report or checkpoint
        print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def _report_text(report: Report) -> str:
    numbers = ", ".join(f"{name} {value:.4g}" for name, value in report.metrics.items())
    saved = "" if report.checkpoint is None else "; checkpoint written"
    return f"step {report.step}: {numbers}{saved}"


def _reports(trainable: str, config: Mapping[str, Any], context: TrainContext) -> Iterator[Report]:
    with loading():
        reports = registry.load(trainable).train(config, context)
    try:
        yield from reports
    finally:
        if hasattr(reports, "close"):  # a generator; any other iterator has nothing to clean up
            reports.close()


def _tuned(report: Report, settings: TrialSettings, context: TrainContext) -> dict[str, Any]:
    """Choose the inference setting of the trained policy; what the last result has of it.

    The metrics of the chosen setting replace those of the setting of the training. If none can be chosen,
    they stay, and the result says why.
    """
    trainable = registry.load(settings.trainable)
    if settings.inference is None or report.checkpoint is None:
        return {}
    if not isinstance(trainable, EvaluatesPolicies):
        return {}
    evaluation = EvaluationContext(settings.cache, context.device, settings.threads, context.progress)
    policy = trainable.open_policy(report.checkpoint, {}, evaluation)
    measures = PolicyMeasures(policy, context.folder / EPISODES)
    recorded = report.artifacts.get("rollout/episodes")
    judged = settings.inference.episodes if recorded is None else len(read_episodes(recorded)[1])
    try:
        choice = choose_setting(measures, settings.inference, judged, context.progress)
    except NoSettingError as error:
        return {TUNED: {"problem": str(error)}}
    return {**choice.metrics, TUNED: dataclasses.asdict(choice)}


def _metrics(report: Report) -> dict[str, Any]:
    """A report as Tune gets it.

    Raises:
        TrialError: If a number is not finite (reason ``diverged``).
    """
    for name, value in report.metrics.items():
        if not math.isfinite(value):
            raise TrialError(f"{name} is {value} at step {report.step}", "diverged")
    result = numbers_as_sent(report.metrics)
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


def _leave_if_stopped() -> None:
    """End the training at once if its trial has been stopped, so that the process is free for another.

    Raises:
        SystemExit: If it has been.
    """
    if left_trial():
        raise SystemExit("the trial has been stopped")


class _Watch:
    """Whether the trial is to stop; looks at the disk every now and then.

    A worker whose machine was cut off may live on when its trial has been started again elsewhere: it ends as
    soon as it sees that, before it writes into its successor's checkpoints.
    """

    def __init__(self, folder: Path, attempt: str) -> None:
        self._folder = folder
        self._attempt = attempt
        self._next_look = -math.inf
        self._seen = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._seen and now >= self._next_look:
            if self.superseded():
                raise SystemExit("another attempt at this trial has begun; this one ends")
            self._seen = self.asked()
            self._next_look = now + POLL_S
        return self._seen

    def asked(self) -> bool:
        """Whether the trial has been told to stop by now."""
        return self._seen or (self._folder / STOP).exists()

    def superseded(self) -> bool:
        """Whether another attempt at the trial has begun."""
        try:
            return bool(json.loads((self._folder / ATTEMPT).read_text())["attempt"] != self._attempt)
        except (OSError, ValueError, KeyError):
            return False
