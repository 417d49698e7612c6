"""Evaluation beside training: training goes on while another process evaluates a checkpoint.

Reports keep the order of their steps: those that follow an evaluated step wait for its evaluation. One
evaluation runs at a time; the next one waits, so training is never more than one evaluation ahead.

What is in flight is part of every checkpoint (`Progress.due`): a run that was killed evaluates the same
checkpoint again, and no report is lost.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.training.beside.evaluator import CheckpointEvaluator
from trainables.diffusion_policy.training.beside.evaluator_process import EvaluatorLostError, EvaluatorProcess
from trainables.diffusion_policy.training.beside.spare import CpuMeter, why_inline
from trainables.diffusion_policy.training.checkpoint import Checkpoints
from trainables.diffusion_policy.training.progress import Progress
from trainables.interface import Report, TrainContext

__all__ = ["DueReport", "Evaluations"]

ATTEMPTS = 2
"""Processes that try an evaluation before training does it itself."""
SPACING_S = 0.25
"""Seconds between reports that waited: the service accepts a few a second, and training would wait for it."""


@dataclass
class DueReport:
    """A report that is not given yet.

    Attributes:
        step: Optimiser steps done.
        metrics: Its metrics; those of the evaluation are added when they are known.
        artifacts: Its files.
        evaluating: Whether its evaluation is still to come.
    """

    step: int
    metrics: dict[str, float]
    artifacts: dict[str, Path] = field(default_factory=dict)
    evaluating: bool = False

    def to_json(self) -> dict[str, Any]:
        """The report as JSON values."""
        artifacts = {name: str(path) for name, path in self.artifacts.items()}
        return {
            "step": self.step,
            "metrics": self.metrics,
            "artifacts": artifacts,
            "evaluating": self.evaluating,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> DueReport:
        """Restore a report from JSON values."""
        artifacts = {name: Path(path) for name, path in values["artifacts"].items()}
        return DueReport(
            int(values["step"]), dict(values["metrics"]), artifacts, bool(values.get("evaluating", False))
        )


class Evaluations:
    """The evaluations of a run, and the reports that wait for one; a context manager.

    Args:
        config: The run's configuration.
        context: Folders, rank and device of this process.
    """

    def __init__(self, config: DiffusionConfig, context: TrainContext) -> None:
        self._config = config
        self._context = context
        self._meter = CpuMeter()
        self._told = ""
        self._inline_s: float | None = None
        self._process: EvaluatorProcess | None = None
        self._failed = 0
        self._given_up = ""
        self._waiting: deque[DueReport] = deque()
        self._next_report_s = -math.inf
        self._expected: int | None = None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_process()

    def begin(self, store: Checkpoints, progress: Progress, settle: Callable[[], None]) -> Iterator[Report]:
        """Begin with the reports that an earlier process of the run may not have given; yields what it can.

        Args:
            store: The run's checkpoints.
            progress: The run's progress, in which the best value is kept.
            settle: Waits until no checkpoint is being written.
        """
        self._store, self._progress, self._settle = store, progress, settle
        self._waiting = deque(DueReport.from_json(values) for values in progress.due)
        beside = self._config.train.evaluation != "inline" and self._context.world_size == 1
        if beside and self._evaluated is not None:
            self._hand_over()
        else:
            yield from self.finished()

    @contextmanager
    def inline(self) -> Iterator[None]:
        """Measure how long an evaluation takes for which training waits."""
        self._end_process()
        since_s = time.perf_counter()
        yield
        self._inline_s = time.perf_counter() - since_s
        self._meter.restart()

    def run_beside(self) -> bool:
        """Decide whether the next evaluation runs beside training; the decision is told when it changes."""
        reason = self._given_up or why_inline(
            self._config, self._context, self._inline_s, self._meter, is_beside=self._process is not None
        )
        told = f"evaluations run inline: {reason}" if reason else "evaluations run beside training"
        if told != self._told:
            self._told = told
            self._context.progress(told)
        return not reason

    def due_at(self, report: DueReport) -> list[dict[str, Any]]:
        """What a checkpoint keeps: the reports that wait, and its own."""
        return [one.to_json() for one in (*self._waiting, report)]

    def expect(self, step: int) -> None:
        """Learn that the report of a step, which is passed on next, needs an evaluation."""
        self._expected = step

    def passed(self, reports: Iterator[Report]) -> Iterator[Report]:
        """Pass on reports whose checkpoints are on the disk, unless they must wait for an evaluation."""
        for report in reports:
            evaluating = report.step == self._expected
            if not evaluating and not self._waiting:
                yield report
                continue
            due = DueReport(report.step, dict(report.metrics), dict(report.artifacts), evaluating)
            self._waiting.append(due)
            if evaluating:
                self._expected = None
                self._hand_over()

    def ready(self) -> Iterator[Report]:
        """The next report that waited, if it waits no longer; does not wait for it."""
        if self._waiting and time.monotonic() >= self._next_report_s:
            self._look(wait=False)
            if not self._waiting[0].evaluating:
                yield from self._next()

    def evaluated(self) -> Iterator[Report]:
        """Wait for the evaluation, and give the reports that have a checkpoint, and those before them."""
        while any(self._store.at(due.step) for due in self._waiting):
            self._look(wait=True)
            yield from self._next()

    def finished(self) -> Iterator[Report]:
        """Wait for the evaluation, and give all reports."""
        while self._waiting:
            self._look(wait=True)
            yield from self._next()

    @property
    def _evaluated(self) -> DueReport | None:
        """The report whose evaluation is still to come."""
        return next((due for due in self._waiting if due.evaluating), None)

    def _next(self) -> Iterator[Report]:
        yield self._next_report()
        self._waiting.popleft()
        self._next_report_s = time.monotonic() + SPACING_S
        # A checkpoint that is being written may be the next to evaluate: it must be kept until it was.
        if not self._waiting and self._expected is None and self._context.rank == 0:
            self._settle()
            self._store.release()

    def _next_report(self) -> Report:
        due = self._waiting[0]
        checkpoint = self._store.at(due.step) if self._context.rank == 0 else None
        final = due.step >= self._config.train.steps
        return Report(due.step, due.metrics, due.artifacts, checkpoint, final=final)

    # The process

    def _hand_over(self) -> None:
        self._failed = 0
        self._order()

    def _order(self) -> None:
        due = self._evaluated
        assert due is not None
        if self._process is None:
            self._process = EvaluatorProcess(self._config, self._context)
        self._process.order(due.step, self._checkpoint_of(due))

    def _checkpoint_of(self, due: DueReport) -> Path:
        return self._store.folder / f"{due.step:06d}"

    def _look(self, *, wait: bool) -> None:
        """Take the result of the evaluation for which the next report waits, if there is one yet."""
        due = self._waiting[0]
        while due.evaluating:
            if self._process is None:
                self._take(due, *self._evaluated_here(due))
                return
            try:
                answer = self._process.answer(due.step, wait=wait)
            except EvaluatorLostError as error:
                self._replace(due, error)
                continue
            if answer is None:
                return
            artifacts = {name: Path(path) for name, path in answer["artifacts"].items()}
            self._take(due, answer["metrics"], artifacts)

    def _replace(self, due: DueReport, error: EvaluatorLostError) -> None:
        """Let another process try, or nobody but training itself."""
        self._end_process()
        self._failed += 1
        if error.again and self._failed < ATTEMPTS:
            self._context.progress(f"step {due.step}: {error}: evaluating again in another process")
            self._order()
            return
        self._given_up = f"the process beside it failed at step {due.step} ({error})"

    def _evaluated_here(self, due: DueReport) -> tuple[dict[str, float], dict[str, Path]]:
        if self._given_up:
            self._context.progress(f"step {due.step}: evaluating inline: {self._given_up}")
        return CheckpointEvaluator(self._config, self._context).evaluate(self._checkpoint_of(due), due.step)

    def _take(self, due: DueReport, metrics: Mapping[str, float], artifacts: Mapping[str, Path]) -> None:
        due.metrics |= metrics
        due.artifacts |= artifacts
        due.evaluating = False
        self._settle()
        best = self._progress.improves(due.metrics, self._context.objective)
        said = due.to_json()
        self._progress.due = [said if one["step"] == due.step else one for one in self._progress.due]
        if self._context.rank == 0:
            changes = {"due": self._progress.due, "best": self._progress.best}
            self._store.judge(due.step, changes, best=best)
        self._meter.restart()

    def _end_process(self) -> None:
        if self._process is not None:
            self._process.close()
            self._process = None
