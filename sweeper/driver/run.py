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
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.schedulers import TrialScheduler
from rich.console import Console

from sweeper.alerts.sender import Alerts
from sweeper.driver.callbacks import FreeSlots, RecorderCallback, make_stopper, trial_name
from sweeper.driver.closing import DELIVERY_S, verdict
from sweeper.driver.ending import Ending, Phase
from sweeper.driver.opening import OpenSweep
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.requests import RequestLoop
from sweeper.driver.retry import Retries
from sweeper.driver.signals import Signals
from sweeper.errors import SweeperError, TrackingError
from sweeper.layout import DRIVER_LOG, JOURNAL, RAY, trial_folder
from sweeper.machines.cluster import Cluster
from sweeper.machines.local_ray import gone_process
from sweeper.machines.machine import cache_folder
from sweeper.machines.outage import outage, ray_is_gone
from sweeper.records.events import EventKind
from sweeper.records.forecast import Forecast
from sweeper.records.journal import read_journal
from sweeper.records.limits import stagnation_reached
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.report.remake import remake_report
from sweeper.search.early_stopping import Ended, Recorded, Reported, make_scheduler
from sweeper.search.pruners import recorded_episodes
from sweeper.search.searcher import StudySearcher
from sweeper.search.suggestion import Suggestion
from sweeper.spec.sweep import SettledResources, SweepSpec
from sweeper.steering.entrance import open_entrance
from sweeper.terminal.live import RESUME_HINT, Display
from sweeper.terminal.result import SweepResult
from sweeper.tracking.also.feeder import Feeders
from sweeper.trial.exchange import request_stop
from sweeper.trial.inference import InferencePlan
from sweeper.trial.placement import free_groups
from sweeper.trial.run import run_trial
from sweeper.trial.worker import TrialSettings
from trainables.interface import STEPS, SlimsCheckpoints, Trainable

__all__ = ["SweepRun", "recorded_in"]

HASTY_DELIVERY_S = 3.0
"""How long the end waits for MLflow after a second Ctrl-C."""
ALERTS_S = 15.0
"""How long the end waits until the last alert was sent."""
PAUSED_POLL_S = 0.2
SIGNAL_S = 0.3
"""How long a signal takes to arrive that was sent to several processes."""


class SweepRun:
    """One driver's part of a sweep.

    Args:
        spec: The sweep.
        trainable: What its trials train.
        records: Its journal, study and tracker.
        cluster: Where its trials run.
        resources: What each trial holds.
        signals: Counts Ctrl-C and SIGTERM.
        console: Where the sweep is shown.
    """

    def __init__(
        self,
        spec: SweepSpec,
        trainable: Trainable,
        records: OpenSweep,
        cluster: Cluster,
        resources: SettledResources,
        signals: Signals,
        console: Console,
    ) -> None:
        self._spec = spec
        self._trainable = trainable
        self._records = records
        self._cluster = cluster
        self._resources = resources
        self._sweep = sweep = records.sweep
        # On a cluster there may be another sweep of the same name.
        sweep.sweep_id = sweep.sweep_id or uuid.uuid4().hex
        self._group = f"{spec.name}-{sweep.sweep_id[:8]}"
        steps = trainable.fields[STEPS].default if STEPS in trainable.fields else None
        board = Forecast(sweep, resources.at_once, steps)
        self._alerts = Alerts(spec.alerts, sweep)
        self._feeders = Feeders(spec.folder, spec.tracking.also)
        self._display = Display(console, board, self._problem)
        self._recorder = Recorder(
            records.study,
            records.journal,
            records.tracker,
            spec,
            sweep=sweep,
            viewers=(self._display, self._alerts),
            slim=trainable.slim if isinstance(trainable, SlimsCheckpoints) else None,
        )
        self._ending = Ending(resources.at_once, sweep, signals)
        self._expected: dict[int, Outcome] = {}
        self._requests = RequestLoop(self._recorder, self._ending, self._expected, self._group)

    def to_the_end(self, info: Mapping[str, Any]) -> SweepResult:
        """Run trials until the sweep ends, record the end, and return the result."""
        tracker = self._records.tracker
        self._recorder.start_sweep(info)
        self._alerts.start()
        self._feeders.start()
        entrance = None if self._cluster.local else open_entrance(self._sweep)
        status: SweepStatus = SweepStatus.FAILED
        message = "the driver failed"
        patience_s = DELIVERY_S
        try:
            with self._display:
                exhausted = self._tune()
                while self._continues():
                    exhausted = self._tune()
            status, message = self._verdict(exhausted)
        except KeyboardInterrupt:
            status, message = SweepStatus.INTERRUPTED, "Interrupted at once."
            if self._ending.status == SweepStatus.FAILED:
                status, message = self._ending.status, self._ending.message
            patience_s = HASTY_DELIVERY_S
        except BaseException as error:
            message = str(error)
            raise
        finally:
            self._let_go()
            with contextlib.suppress(TrackingError):  # the next driver will find the same fault
                self._recorder.end_sweep(status, message)
            self._alerts.ended(status, message)
            self._requests.close()
            report, fault = (None, "") if patience_s == HASTY_DELIVERY_S else self._report()
            delivery = tracker.close(patience_s)
            missing = self._feeders.close(patience_s)
            self._alerts.close(min(patience_s, ALERTS_S))
            # A trial that was just being started may have taken its place after all.
            self._let_go()
            # What Ray keeps there is for a restore that we never do.
            shutil.rmtree(self._spec.folder / RAY, ignore_errors=True)
            del entrance
        links = tracker.links(self._sweep)
        return SweepResult(
            self._sweep, status, message, delivery, links, report=report, report_fault=fault, missing=missing
        )

    def _problem(self) -> str:
        """What is wrong beside the trials, in a line; empty if nothing is."""
        return self._records.tracker.problem or self._feeders.problem or self._alerts.problem

    def _report(self) -> tuple[Path | None, str]:
        """Write the report of a sweep that has trials."""
        if not self._sweep.trials:
            return None, ""
        self._display.say("Writing the report …")
        return remake_report(self._spec.folder)

    def _let_go(self) -> None:
        """Free what trials still hold, and stop those that have not noticed yet that the sweep is over."""
        for trial in self._sweep.trials.values():
            if trial.status in (TrialStatus.RUNNING, TrialStatus.INTERRUPTED):
                request_stop(trial_folder(self._spec.folder, trial.number))
        if gone_process():
            return  # its trials ended with it, and a request to it would wait for an answer
        # Ray ends the drivers of trials to which no reference is left; what Tune leaves refers to itself.
        gc.collect()
        free_groups(self._group)

    def _continues(self) -> bool:
        """If the sweep is paused, wait for the end of the pause; whether trials run again then."""
        if not self._ending.paused:
            return False
        # A trial that was cut off must not hold anything: the pause may be long.
        free_groups(self._group)
        if self._ending.phase == Phase.PAUSED:
            self._recorder.steer("paused", f"Paused. {RESUME_HINT.format(shlex.quote(self._spec.name))}")
        while self._ending.phase == Phase.PAUSED:
            self._requests.poll()
            self._check_ray()
            self._ending.check()
            time.sleep(PAUSED_POLL_S)
        return self._ending.try_continue()

    def _limit(self, ended_before: int, unfinished: int) -> int:
        """The number of trials that a Tune run may start.

        Args:
            ended_before: The number of trials that had ended when it began.
            unfinished: The number of trials that had begun and not ended then; they are started first.
        """
        if self._ending.draining:
            return 0
        if stagnation_reached(self._sweep.budget, self._sweep) is not None:
            return unfinished
        return self._sweep.budget.trials - ended_before

    def _tune(self) -> bool:
        """Run trials with Tune until the sweep ends or pauses; whether the space has no more configurations.

        Raises:
            SweeperError: If the study cannot suggest more trials.
        """
        ended_before, unfinished = self._sweep.ended_trials, self._unfinished()
        limit = self._limit(ended_before, len(unfinished))
        if self._ending.check() or limit <= 0:
            return False  # a signal came while Ray started
        scheduler = self._scheduler()
        searcher = StudySearcher(self._records.study, unfinished, limit)
        retries = Retries(self._spec, self._trainable, self._recorder, searcher, self._ending)
        tuner = self._tuner(
            searcher,
            scheduler,
            make_stopper(lambda: self._turn(searcher, ended_before, len(unfinished))),
            [
                FreeSlots(self._spec.folder, self._group, lambda: self._ending.stopping),
                RecorderCallback(self._recorder, scheduler, self._expected, retries),
            ],
        )
        self._fit(tuner)
        if searcher.error is not None:
            raise searcher.error
        if searcher.exhausted and not self._ending.stopping:
            self._recorder.note("the space has no more configurations")
        return searcher.exhausted

    def _scheduler(self) -> TrialScheduler:
        """The scheduler of a Tune run: early stopping begins with what the journal has."""
        stop, folder = self._spec.early_stop, self._spec.folder
        if stop is None:
            return make_scheduler(None)
        return make_scheduler(stop, recorded_in(folder / JOURNAL), recorded_episodes(folder, stop.metric))

    def _fit(self, tuner: tune.Tuner) -> None:
        """Run Tune. If it cannot continue because a disk is full or Ray is gone, the sweep ends in order."""
        try:
            tuner.fit()
        except SweeperError:
            raise
        except Exception as error:
            why = outage(error, self._spec.folder)
            if not why and self._ending.phase != Phase.ENDING:
                raise
            logging.getLogger("ray").error("Tune ended with an error", exc_info=True)
            if why:
                self._ending.give_up(why)
                self._ending.check()

    def _tuner(
        self,
        searcher: StudySearcher,
        scheduler: TrialScheduler,
        stopper: tune.Stopper,
        callbacks: list[tune.Callback],
    ) -> tune.Tuner:
        trainable = tune.with_parameters(run_trial, settings=self._settings())
        return tune.Tuner(
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
                storage_path=str(self._spec.folder.absolute() / RAY),
                verbose=0,
                stop=stopper,
                callbacks=callbacks,
            ),
        )

    def _settings(self) -> TrialSettings:
        spec, resources = self._spec, self._resources
        return TrialSettings(
            group=self._group,
            trainable=spec.trainable,
            folder=spec.folder.absolute(),
            cache=cache_folder(),
            workers=resources.workers,
            gpu_per_worker=resources.gpu_per_worker,
            cpu_per_worker=resources.cpu_per_worker,
            objective=(spec.objectives[0].name, spec.objectives[0].goal),
            python_path=tuple(place or str(Path.cwd()) for place in sys.path),
            hang_s=None if spec.failures.hang_minutes is None else 60 * spec.failures.hang_minutes,
            inference=None if spec.inference is None else InferencePlan(**spec.inference.as_plan()),
            trials_per_process=spec.resources.trials_per_process,
        )

    def _turn(self, searcher: StudySearcher, ended_before: int, unfinished: int) -> bool:
        """What the driver does in every turn of Tune's loop; whether the Tune run is over.

        Args:
            searcher: That of the Tune run; its limit follows the budget.
            ended_before: The number of trials that had ended when the Tune run started.
            unfinished: The number of trials that had begun and not ended then.
        """
        self._check_ray()
        self._requests.poll()
        self._display.look()
        if self._records.journal.problem:
            self._ending.give_up(self._records.journal.problem)
        self._recorder.tell_study()
        searcher.limit = self._limit(ended_before, unfinished)
        if self._ending.check():
            self._display.say(self._ending.notice())
        if self._ending.stopping:
            searcher.finish()
        return self._ending.is_over()

    def _check_ray(self) -> None:
        """End the sweep at once if the private Ray cannot continue: Tune itself would wait for it.

        Raises:
            KeyboardInterrupt: If it cannot. Tune passes this on without cleaning up, for which it needs Ray.
        """
        gone = gone_process()
        if gone:
            # SIGTERM for the whole process group, as services send it, ends Ray and reaches this one, too.
            time.sleep(SIGNAL_S)
            if not self._ending.interrupted:
                self._ending.give_up(ray_is_gone(gone))
            self._ending.check()
            raise KeyboardInterrupt

    def _unfinished(self) -> list[Suggestion]:
        """Trials that were suggested and never ended, with the configuration of their last attempt."""
        trials = self._sweep.trials
        return [
            dataclasses.replace(left, config={**left.config, **trials[left.number].changes})
            if left.number in trials
            else left
            for left in self._records.study.unfinished()
        ]

    def _verdict(self, exhausted: bool) -> tuple[SweepStatus, str]:
        sweep, ending = self._sweep, self._ending
        if ending.phase == Phase.ENDING:
            return ending.status, ending.message
        ended = sweep.ended_trials
        if ending.draining:
            return SweepStatus.DONE, f"Stopped by request: {ended} of {sweep.budget.trials} trials ended."
        if ended >= sweep.budget.trials or (ended and sweep.count(TrialStatus.FAILED) == ended):
            return verdict(sweep)
        stagnation = stagnation_reached(sweep.budget, sweep)
        if stagnation is not None:
            return stagnation.status, stagnation.message
        if not exhausted:
            log = self._spec.folder / DRIVER_LOG
            return (
                SweepStatus.FAILED,
                f"Ray ended it after {ended} of {sweep.budget.trials} trials; {log} may say why.",
            )
        return SweepStatus.DONE, f"The space has no more configurations: {ended} trials ended."


def recorded_in(journal: Path) -> Recorded:
    """Make the function with which early stopping follows a journal."""
    offset = 0

    def news() -> list[Reported | Ended]:
        nonlocal offset
        chunk = read_journal(journal, offset)
        offset = chunk.offset
        found: list[Reported | Ended] = []
        for event in chunk.events:
            if event["event"] == EventKind.REPORT:
                metrics = {name: float(value) for name, value in event["metrics"].items()}
                found.append(Reported(event["trial"], event["step"], metrics))
            elif event["event"] == EventKind.TRIAL_END and event["status"] != TrialStatus.INTERRUPTED:
                found.append(Ended(event["trial"], event["status"] == TrialStatus.COMPLETED))
        return found

    return news
