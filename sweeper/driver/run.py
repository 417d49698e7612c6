"""Run the trials of a sweep with Ray Tune until the sweep ends.

A pause ends the Tune run; resuming starts another one in the same driver. The Optuna study and the journal
hold the state, so nothing of Tune's own is ever restored.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ray import tune
from rich.console import Console

from sweeper.driver.callbacks import RecorderCallback, free_groups_at_end, make_stopper, trial_name
from sweeper.driver.closing import DELIVERY_S, pages, verdict
from sweeper.driver.ending import Ending
from sweeper.driver.opening import OpenSweep
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.requests import RequestLoop
from sweeper.driver.retry import Retries
from sweeper.driver.signals import Signals
from sweeper.errors import TrackingError
from sweeper.layout import DRIVER_LOG, RAY, trial_folder
from sweeper.machines.cluster import Cluster
from sweeper.machines.machine import cache_folder
from sweeper.records.events import Event
from sweeper.records.forecast import Forecast
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.sweep_state import read_series
from sweeper.search.early_stopping import make_scheduler
from sweeper.search.searcher import StudySearcher
from sweeper.search.suggestion import Suggestion
from sweeper.spec.sweep import SettledResources, SweepSpec
from sweeper.steering.entrance import open_entrance
from sweeper.terminal.live import GO_ON, Display
from sweeper.terminal.result import SweepResult
from sweeper.trial.exchange import request_stop
from sweeper.trial.placement import free_groups
from sweeper.trial.run import run_trial
from sweeper.trial.worker import TrialSettings
from trainables.interface import STEPS, Trainable

__all__ = ["SweepRun"]

HASTY_DELIVERY_S = 3.0
"""How long the end waits for MLflow to take what it lacks when somebody is in a hurry."""
PAUSED_LOOK_S = 0.2


class SweepRun:
    """One driver's part of a sweep."""

    def __init__(
        self,
        spec: SweepSpec,
        trainable: Trainable,
        records: OpenSweep,
        cluster: Cluster,
        resources: SettledResources,
        signals: Signals,
    ) -> None:
        self._spec = spec
        self._trainable = trainable
        self._records = records
        self._cluster = cluster
        self._resources = resources
        self._recorder = Recorder(records.study, records.journal, records.tracker, spec, listener=self._tell)
        self._sweep = self._recorder.sweep
        self._ending = Ending(resources, self._sweep, signals)
        self._steering = RequestLoop(
            self._recorder,
            self._ending,
            free=lambda number: free_groups(self._group, number),
            expect=self._expect,
            say=self._say,
        )
        self._callback: RecorderCallback | None = None
        self._display: Display | None = None
        self._exhausted = False
        field = trainable.fields.get(STEPS)
        self._steps = None if field is None else field.default

    @property
    def _group(self) -> str:
        """What its placement groups are called by: on a cluster there may be another sweep of its name."""
        return f"{self._spec.name}-{self._sweep.sweep_id[:8]}"

    def _tell(self, event: Event) -> None:
        if self._display is not None:
            self._display.tell(event)

    def _expect(self, number: int, outcome: Outcome) -> None:
        if self._callback is not None:
            self._callback.expect(number, outcome)

    def to_the_end(self, console: Console, info: Mapping[str, Any]) -> SweepResult:
        """Run trials until the sweep ends, and close the books."""
        tracker = self._records.tracker
        self._recorder.start_sweep(info)
        board = Forecast(self._sweep, self._resources.at_once, self._steps)
        entrance = None if self._cluster.local else open_entrance(self._sweep)
        status: SweepStatus = SweepStatus.FAILED
        message = "the driver failed"
        patience_s = DELIVERY_S
        try:
            with (
                Display(console, board, lambda: tracker.problem) as self._display,
                _quiet_ray(self._spec.folder),
            ):
                self._tune()
                while self._paused():
                    self._tune()
            status, message = self._verdict()
        except KeyboardInterrupt:
            status, message = SweepStatus.INTERRUPTED, "Interrupted at once."
            patience_s = HASTY_DELIVERY_S
        except BaseException as error:
            message = str(error)
            raise
        finally:
            self._let_go()
            with contextlib.suppress(TrackingError):  # what the next driver will see for itself
                self._recorder.end_sweep(status, message)
            self._steering.close()
            delivery = tracker.close(patience_s)
            # A trial that was just being started may have taken its place after all.
            self._let_go()
            # What Ray keeps there is for a restore that we never do.
            shutil.rmtree(self._spec.folder / RAY, ignore_errors=True)
            del entrance
        return SweepResult(self._sweep, status, message, delivery, *pages(self._sweep, self._records.tracker))

    def _let_go(self) -> None:
        """Take away what trials still hold, and have those end that do not know yet that it is over."""
        for trial in self._sweep.trials.values():
            if trial.status in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED):
                request_stop(trial_folder(self._spec.folder, trial.number))
        # Ray ends the drivers of trials that nobody refers to; what Tune leaves behind refers to itself.
        gc.collect()
        free_groups(self._group)

    def _paused(self) -> bool:
        """Wait for the end of a pause; whether the sweep continues then."""
        if not self._ending.paused:
            return False
        # Whatever was cut off holds nothing while nobody knows how long this lasts.
        free_groups(self._group)
        if self._ending.waiting:
            self._recorder.steer("paused", f"Paused. {GO_ON.format(shlex.quote(self._spec.name))}")
        while self._ending.waiting:
            self._steering.look()
            self._ending.check()
            time.sleep(PAUSED_LOOK_S)
        return self._ending.go_on()

    def _left(self) -> int:
        """How many more trials may come to their end."""
        return 0 if self._ending.stopping else self._sweep.budget.trials - self._sweep.ended_trials

    def _tune(self) -> None:
        if self._ending.check() or self._left() <= 0:
            return  # somebody said stop while Ray started
        spec, study = self._spec, self._records.study
        stop = spec.early_stop
        history = read_series(spec.folder, stop.metric) if stop is not None and self._sweep.trials else None
        scheduler = make_scheduler(stop, history)
        searcher = StudySearcher(study, self._unfinished(), self._left())
        retries = Retries(
            spec,
            self._trainable,
            self._recorder,
            again=searcher.again,
            ending=lambda: self._ending.begun,
            stop=self._ending.give_up,
        )
        self._callback = RecorderCallback(self._recorder, scheduler, retries)
        begun_with = self._sweep.ended_trials

        def look() -> None:
            self._steering.look()
            self._watch_disk()
            searcher.limit = 0 if self._ending.stopping else self._sweep.budget.trials - begun_with

        settings = TrialSettings(
            group=self._group,
            trainable=spec.trainable,
            folder=spec.folder.absolute(),
            cache=cache_folder(),
            workers=self._resources.workers,
            gpu_per_worker=self._resources.gpu_per_worker,
            cpu_per_worker=self._resources.cpu_per_worker,
            objective=(spec.objectives[0].name, spec.objectives[0].goal),
            python_path=tuple(place or str(Path.cwd()) for place in sys.path),
            hang_s=None if spec.failures.hang_minutes is None else 60 * spec.failures.hang_minutes,
        )
        trainable = tune.with_parameters(run_trial, settings=settings)
        tune.Tuner(
            tune.with_resources(trainable, self._cluster.driver_resources()),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=-1,
                max_concurrent_trials=self._resources.at_once,
                reuse_actors=True,
                trial_name_creator=trial_name,
                trial_dirname_creator=trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(spec.folder.absolute() / RAY),
                verbose=0,
                stop=make_stopper(self._ending, searcher, look, self._say),
                callbacks=[free_groups_at_end(spec, self._group, self._ending), self._callback],
            ),
        ).fit()
        if searcher.error is not None:
            raise searcher.error
        self._exhausted = searcher.exhausted
        if searcher.exhausted and not self._ending.begun:
            self._recorder.note("the space has no more configurations")

    def _unfinished(self) -> list[Suggestion]:
        """Trials that were handed out and never ended, as their last attempt had them."""
        trials = self._sweep.trials
        return [
            dataclasses.replace(left, config={**left.config, **trials[left.number].changes})
            if left.number in trials
            else left
            for left in self._records.study.unfinished()
        ]

    def _watch_disk(self) -> None:
        """End the sweep where nothing more can be written down, and tell the study what it has missed."""
        if self._records.journal.problem:
            self._ending.give_up(self._records.journal.problem)
        self._recorder.tell_study()

    def _say(self, text: str) -> None:
        if self._display is not None:
            self._display.say(text)

    def _verdict(self) -> tuple[SweepStatus, str]:
        sweep, ending = self._sweep, self._ending
        if ending.begun:
            return ending.status, ending.message
        ended = sweep.ended_trials
        if self._ending.stopping:
            return SweepStatus.DONE, f"Stopped by request: {ended} of {sweep.budget.trials} trials ended."
        if ended >= sweep.budget.trials or (ended and sweep.count(TrialStatus.FAILED) == ended):
            return verdict(sweep)
        if not self._exhausted:
            log = self._spec.folder / DRIVER_LOG
            return (
                SweepStatus.FAILED,
                f"Ray ended it after {ended} of {sweep.budget.trials} trials; {log} may say why.",
            )
        return SweepStatus.DONE, f"The space has no more configurations: {ended} trials ended."


@contextlib.contextmanager
def _quiet_ray(folder: Path) -> Iterator[None]:
    """Send what Ray logs in this process to ``ray.log`` in the sweep's folder instead of the terminal."""
    logger = logging.getLogger("ray")
    before, propagated, level = logger.handlers[:], logger.propagate, logger.level
    handler = logging.FileHandler(folder / DRIVER_LOG)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated
        logger.setLevel(level)
        handler.close()
