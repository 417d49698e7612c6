"""Run a sweep: checks first, then trials under Ray until the budget is used up or somebody says stop.

The study, the journal and MLflow are written by this process alone. Whatever ends it, the same command goes
on where it stopped: trials that were cut off run again under their numbers, from their checkpoints.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import logging
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sweeper.closing import DELIVERY_S, close, is_used_up, pages, verdict
from sweeper.driver.opening import OpenSweep, open_sweep
from sweeper.driver.requests import RequestLoop
from sweeper.ending import Ending, Signals, ended_by_signals, interrupted_by_sigterm
from sweeper.errors import TrackingError
from sweeper.layout import DRIVER_LOG, RAY, trial_folder
from sweeper.machines.cluster import Cluster, settle, this_machine
from sweeper.machines.connection import connect, disconnect, is_connected
from sweeper.machines.identity import information
from sweeper.machines.machine import cache_folder, usable_cache
from sweeper.memory import check_memory
from sweeper.preflight import check_disk, earlier_sweep, preflight, remark
from sweeper.recorder import Outcome, Recorder
from sweeper.records.events import Event
from sweeper.records.forecast import Forecast
from sweeper.records.sweep_state import Status, SweepState, read_series
from sweeper.retry import Retries
from sweeper.search.suggestion import Suggestion
from sweeper.spec.space_file.fields import STEPS
from sweeper.spec.sweep import SettledResources, SweepSpec
from sweeper.steering.entrance import open_entrance
from sweeper.terminal.faults import checking
from sweeper.terminal.live import GO_ON, Display
from sweeper.terminal.result import SweepResult, print_result
from sweeper.trial.exchange import STOP, request_stop
from sweeper.trial.placement import free_groups
from sweeper.trial.run import run_trial
from sweeper.trial.worker import TrialSettings
from trainables import registry
from trainables.interface import Trainable

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

    from sweeper.search.searcher import RecorderCallback

__all__ = ["launch", "run_sweep"]

HASTY_DELIVERY_S = 3.0
"""How long the end waits for MLflow to take what it lacks when somebody is in a hurry."""
PAUSED_LOOK_S = 0.2
TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The old output engine is the one that can be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # The study is what a sweep goes on from; Tune's own snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}


def launch(
    spec: SweepSpec,
    *,
    address: str | None = None,
    console: Console | None = None,
    earlier: SweepState | None = None,
) -> int:
    """Run a sweep, show it, and say what came of it.

    Args:
        spec: The sweep.
        address: Ray cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        console: Where to show it.
        earlier: The sweep that this one goes on with, though it may have changed; None to look for one that
            has not.

    Returns:
        0 where the sweep is done, 1 where it failed, 130 where it was interrupted.

    Raises:
        UserError: Where something that the user gave is wrong; nothing is left behind then.
        ConfigError: The same, as the trainable says it.
        SweeperError: Where the sweep cannot be recorded.
    """
    console = console or Console(highlight=False)
    result = run_sweep(spec, address=address, console=console, earlier=earlier)
    print_result(console, result)
    return result.exit_code


def run_sweep(
    spec: SweepSpec, *, address: str | None = None, console: Console, earlier: SweepState | None = None
) -> SweepResult:
    """Run a sweep and show it while it runs; arguments and errors as for `launch`."""
    with interrupted_by_sigterm():
        return _run_sweep(spec, address, console, earlier)


def _run_sweep(
    spec: SweepSpec, address: str | None, console: Console, earlier: SweepState | None
) -> SweepResult:
    trainable = registry.load(spec.trainable)
    earlier = earlier or earlier_sweep(spec)
    left = spec.budget.trials - (0 if earlier is None else earlier.ended_trials)
    if earlier is not None and is_used_up(spec, earlier):
        return close(spec, trainable, earlier)
    cluster = settled = None
    remote = address or os.environ.get("RAY_ADDRESS")
    if not remote or remote == "local":
        settled = settle(spec.resources, this_machine(spec.folder), left)
    cache = usable_cache()
    with checking(console, spec.name) as progress:
        base = preflight(spec, trainable, cache, progress)
        data = trainable.describe(base, cache)
    remark(trainable, base, cache, console)
    check_disk(spec, trainable.disk_gb(base), left, console)
    if settled is not None:
        check_memory(trainable, base, settled, console)
    with contextlib.ExitStack() as stack:
        if remote:
            cluster = _connected(stack, address)
            settle(spec.resources, cluster, left)
        records = stack.enter_context(open_sweep(spec, trainable, earlier))
        with ThreadPoolExecutor(1) as pool:
            # MLflow makes its database while Ray starts: both take seconds.
            opened = pool.submit(records.tracker.start)
            console.print("Starting Ray …", style="dim")
            cluster = cluster or _connected(stack, address)
            # As many at once as there may be, though fewer are left: the budget may be raised.
            resources = settle(spec.resources, cluster)
            opened.result()
        # Ray takes SIGTERM for itself when it starts; only now is it ours.
        signals = stack.enter_context(ended_by_signals())
        run = _Run(spec, trainable, records, cluster, resources, signals)
        info = {
            **information(data, cluster),
            "resources": dataclasses.asdict(resources),
            "steps": None if STEPS not in trainable.fields else trainable.fields[STEPS].default,
        }
        return dataclasses.replace(run.to_the_end(console, info), address=address)


def _connected(stack: contextlib.ExitStack, address: str | None) -> Cluster:
    ours = not is_connected()
    cluster = connect(address)
    if ours:
        stack.callback(disconnect)
    return cluster


# While it runs


class _Run:
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
        status: Status = "failed"
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
            status, message = "interrupted", "Interrupted at once."
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
            if trial.status in ("running", "interrupted"):
                request_stop(trial_folder(self._spec.folder, trial.number))
        # Ray ends the drivers of trials that nobody refers to; what Tune leaves behind refers to itself.
        gc.collect()
        free_groups(self._group)

    def _paused(self) -> bool:
        """Wait for the end of a pause; whether the sweep goes on then."""
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
        for name, value in TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from ray import tune

        from sweeper.search.early_stopping import make_scheduler
        from sweeper.search.searcher import RecorderCallback, StudySearcher

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
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(spec.folder.absolute() / RAY),
                verbose=0,
                stop=_stopper(self._ending, searcher, look, self._say),
                callbacks=[_groups_freed(spec, self._group, self._ending), self._callback],
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

    def _verdict(self) -> tuple[Status, str]:
        sweep, ending = self._sweep, self._ending
        if ending.begun:
            return ending.status, ending.message
        ended = sweep.ended_trials
        if self._ending.stopping:
            return "done", f"Stopped by request: {ended} of {sweep.budget.trials} trials ended."
        if ended >= sweep.budget.trials or (ended and sweep.count("failed") == ended):
            return verdict(sweep)
        if not self._exhausted:
            log = self._spec.folder / DRIVER_LOG
            return "failed", f"Ray ended it after {ended} of {sweep.budget.trials} trials; {log} may say why."
        return "done", f"The space has no more configurations: {ended} trials ended."


def _trial_name(trial: Trial) -> str:
    return f"trial-{trial.config['trial']}"


def _stopper(ending: Ending, searcher: Any, look: Any, say: Any) -> Any:
    from ray import tune

    class EndSweep(tune.Stopper):
        """Asked by Tune in every turn of its loop."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            look()
            if ending.check():
                say(ending.notice())
            if ending.begun:
                searcher.finish()
            return ending.over()

        def __reduce__(self) -> Any:
            # Tune pickles its settings for a restore that we never do.
            return (tune.Stopper, ())

    return EndSweep()


def _groups_freed(spec: SweepSpec, group: str, ending: Ending) -> Any:
    from ray import tune

    class FreeGroups(tune.Callback):
        """Gives the workers of a trial that ended back at once, however it ended."""

        def on_trial_start(self, *, trial: Trial, **_info: Any) -> None:
            if not ending.begun:
                (trial_folder(spec.folder, trial.config["trial"]) / STOP).unlink(missing_ok=True)

        def on_trial_complete(self, *, trial: Trial, **_info: Any) -> None:
            free_groups(group, trial.config["trial"])

        def on_trial_error(self, *, trial: Trial, **_info: Any) -> None:
            free_groups(group, trial.config["trial"])

        def __reduce__(self) -> Any:
            return (tune.Callback, ())

    return FreeGroups()


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
