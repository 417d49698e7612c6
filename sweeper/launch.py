"""Run a sweep: checks first, then trials under Ray until the budget is used up or somebody says stop.

The study, the journal and MLflow are written by this process alone. Whatever ends it, the same command goes
on where it stopped: trials that were cut off run again under their numbers, from their checkpoints.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import math
import os
import platform
import random
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.console import Console
from rich.text import Text

from sweeper.cluster import Cluster, connect, disconnect, free_placement_groups, settle, this_machine
from sweeper.ending import Ending, Signals, Status, common_reason, ended_by_signals
from sweeper.errors import ResourceError, SweepExistsError, SweepNotFoundError, UserError
from sweeper.journal import Event, Journal
from sweeper.live import Board, Display
from sweeper.plan import describe_size, find_machine
from sweeper.recorder import Recorder
from sweeper.results import Sweep, read_series, read_sweep
from sweeper.settings import STEPS
from sweeper.study import Study
from sweeper.sweep import SettledResources, SweepSpec
from sweeper.tables import print_ranking
from sweeper.tracking import Delivery, Tracker
from sweeper.trial import RAY, STOP, TrialSettings, group_prefix, run_trial, trial_folder
from sweeper.ui import HOST, PORT
from trainables import registry
from trainables.interface import ConfigError, Fault, Trainable

if TYPE_CHECKING:
    from ray.tune.experiment import Trial

__all__ = ["SweepResult", "cache_folder", "launch", "run_sweep"]

CHECKING_EVERY_S = 10.0
"""How often a log is told how far the checks before a sweep are."""
COMPARED = 5
"""Trials that the link to MLflow compares."""
DELIVERY_S = 30.0
HASTY_DELIVERY_S = 3.0
"""How long the end waits for MLflow to take what it lacks, and when somebody is in a hurry."""
DRAWS = 2000
DATA_VARIANTS = 16
"""Combinations of searched data fields that are checked before the sweep starts."""

EXIT_CODES: Mapping[Status, int] = {"done": 0, "failed": 1, "interrupted": 130}

TUNE_ENVIRONMENT = {
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The old output engine is the one that can be silent.
    "RAY_AIR_NEW_OUTPUT": "0",
    # The study is what a sweep goes on from; Tune's own snapshots are never read.
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_THRESHOLD_S": "60",
}


@dataclass(frozen=True)
class SweepResult:
    """How a sweep ended.

    Attributes:
        sweep: What came of it.
        status: ``done``, ``failed`` or ``interrupted``.
        message: Why, in a sentence.
        delivery: What MLflow has of it.
        url: Address that compares the best trials in MLflow's pages; None where MLflow has none of them.
        charts: Address that charts all trials, the best first; None where MLflow has none of them.
        served: Whether these addresses are served already.
    """

    sweep: Sweep
    status: Status
    message: str
    delivery: Delivery
    url: str | None = None
    charts: str | None = None
    served: bool = False

    @property
    def exit_code(self) -> int:
        """What the command line ends with."""
        return EXIT_CODES[self.status]


def launch(spec: SweepSpec, *, address: str | None = None, console: Console | None = None) -> int:
    """Run a sweep, show it, and say what came of it.

    Args:
        spec: The sweep.
        address: Ray cluster; None for RAY_ADDRESS, or a Ray of our own on this machine.
        console: Where to show it.

    Returns:
        0 where the sweep is done, 1 where it failed, 130 where it was interrupted.

    Raises:
        UserError: Where something that the user gave is wrong; nothing is left behind then.
        ConfigError: The same, as the trainable says it.
        SweeperError: Where the sweep cannot be recorded.
    """
    console = console or Console(highlight=False)
    result = run_sweep(spec, address=address, console=console)
    print_result(console, result)
    return result.exit_code


def run_sweep(spec: SweepSpec, *, address: str | None = None, console: Console) -> SweepResult:
    """Run a sweep and show it while it runs; arguments and errors as for `launch`."""
    trainable = registry.load(spec.trainable)
    earlier = _earlier(spec)
    left = spec.budget.trials - (0 if earlier is None else earlier.ended_trials)
    if earlier is not None and left <= 0:
        return _nothing_left(earlier)
    cluster = None
    remote = address or os.environ.get("RAY_ADDRESS")
    if not remote or remote == "local":
        settle(spec.resources, this_machine(spec.folder), left)
    cache = _usable_cache()
    with _checking(console, spec.name) as progress:
        base = preflight(spec, trainable, cache, progress)
        data = trainable.describe(base, cache)
    _check_disk(spec, trainable.disk_gb(base), left, console)
    with contextlib.ExitStack() as stack:
        if remote:
            cluster = _connected(stack, address)
            settle(spec.resources, cluster, left)
        records = stack.enter_context(_records(spec, trainable, earlier))
        with ThreadPoolExecutor(1) as pool:
            # MLflow makes its database while Ray starts: both take seconds.
            opened = pool.submit(records.tracker.start)
            console.print("Starting Ray …", style="dim")
            cluster = cluster or _connected(stack, address)
            resources = settle(spec.resources, cluster, left)
            opened.result()
        # Ray takes SIGTERM for itself when it starts; only now is it ours.
        signals = stack.enter_context(ended_by_signals())
        run = _Run(spec, trainable, records, cluster, resources, signals)
        info = _information(data, cluster)
        return run.to_the_end(console, info, left)


def _connected(stack: contextlib.ExitStack, address: str | None) -> Cluster:
    import ray

    ours = not ray.is_initialized()
    cluster = connect(address)
    if ours:
        stack.callback(disconnect)
    return cluster


# Before anything is made


def cache_folder() -> Path:
    """Where decoded frames and built-in datasets lie on each machine: SWEEPER_CACHE, or below ~/.cache."""
    named = os.environ.get("SWEEPER_CACHE")
    if named:
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser().absolute() / "diffusion-policy-sweeper"


def _usable_cache() -> Path:
    """The cache folder, made and found writable: every trial needs it.

    Raises:
        UserError: Where nothing can be written there.
    """
    named = os.environ.get("SWEEPER_CACHE")
    where = "The cache" if not named else "SWEEPER_CACHE"
    remedy = "Set SWEEPER_CACHE to a folder on a disk with room."
    try:
        cache = cache_folder()
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=cache):
            return cache
    except OSError as error:
        raise UserError(f"{where}: {cache} cannot be written: {error.strerror}. {remedy}") from error
    except RuntimeError as error:  # `~somebody`, whom this machine does not know
        raise UserError(f"{where}: there is no home folder for {named or '~'!r}. {remedy}") from error


@contextlib.contextmanager
def _checking(console: Console, name: str) -> Iterator[Callable[[str], None]]:
    """Show that the sweep is checked; gives what shows a dataset that is fetched or built meanwhile."""
    console.print(f"Checking {name} …", style="dim")
    if not console.is_terminal:
        last_s = -math.inf

        def line(message: str) -> None:
            nonlocal last_s
            if time.monotonic() - last_s >= CHECKING_EVERY_S:
                last_s = time.monotonic()
                console.print(Text(message, style="dim"), soft_wrap=True)

        yield line
        return
    with console.status("") as status:
        yield lambda message: status.update(Text(message, style="dim"))


def preflight(
    spec: SweepSpec,
    trainable: Trainable,
    cache: Path,
    progress: Callable[[str], None] = lambda _message: None,
) -> dict[str, Any]:
    """Check the sweep against its dataset and environment; a legal configuration of the space.

    Where fields that decide what is read are searched, each of their combinations is checked.

    Raises:
        ConfigError: With all faults, where there are any.
    """
    generator = random.Random(spec.search.seed)
    data_fields = [name for name in spec.space.names if trainable.fields[name].phase == "data"]
    checked: dict[str, dict[str, Any]] = {}
    refused: list[Fault] = []
    for _ in range(DRAWS if data_fields else DRAWS // 10):
        config = spec.space.draw(generator, spec.config)
        if spec.space.violated(config):
            continue
        faults = trainable.faults(config, spec.resources.workers)
        if faults:
            refused = refused or faults
            continue
        checked.setdefault(repr([config.get(name) for name in data_fields]), config)
        if not data_fields or len(checked) == DATA_VARIANTS:
            break
    if not checked:
        raise ConfigError(refused or [_NO_POINT])
    found = dict.fromkeys(
        fault for config in checked.values() for fault in trainable.preflight(config, cache, progress)
    )
    if found:
        raise ConfigError(list(found))
    return next(iter(checked.values()))


_NO_POINT = Fault(
    "constraints", "no combination of the parameters keeps them.", "Widen a range or drop a constraint."
)


def _check_disk(spec: SweepSpec, trial_gb: float, left: int, console: Console) -> None:
    """Refuse a sweep of which not one trial fits on the disk; warn where not all of them do.

    Raises:
        ResourceError: Where there is no room for a single trial.
    """
    free_gb = find_machine(spec.folder).disk_gb
    free = describe_size(free_gb)
    if trial_gb > free_gb:
        raise ResourceError(
            f"{spec.folder}: a trial needs about {describe_size(trial_gb)} of disk, and {free} are free. "
            "Make room, or name another folder with --sweeps."
        )
    if trial_gb * left > free_gb:
        needed = f"All {left} trials may need {describe_size(trial_gb * left)}"
        console.print(f"! {needed}, and {free} are free in {spec.folder}.", style="yellow")


def _earlier(spec: SweepSpec) -> Sweep | None:
    """What an earlier driver left in the sweep's folder, or None where there is nothing.

    Raises:
        SweepExistsError: Where the folder holds something else than this sweep.
    """
    if not spec.folder.exists() or (spec.folder.is_dir() and not any(spec.folder.iterdir())):
        return None
    remedy = f"Give this one another name, e.g. `name={_free_name(spec)}` behind the space file."
    if not spec.folder.is_dir():
        raise SweepExistsError(f"{spec.folder} exists already and is no folder. {remedy}")
    try:
        earlier = read_sweep(spec.folder)
    except SweepNotFoundError:
        raise SweepExistsError(
            f"{spec.folder} exists already, is not empty, and holds no sweep. {remedy}"
        ) from None
    changed = _changes(earlier.spec, spec.to_dict())
    if changed:
        raise SweepExistsError(
            f"{spec.folder} holds another sweep of the name {spec.name} ({earlier.ended_trials} trials): "
            f"{'; '.join(changed)}. {remedy} `sweeper results {spec.name}` shows the one that is there."
        )
    return earlier


def _free_name(spec: SweepSpec) -> str:
    number = 2
    while (spec.folder.parent / f"{spec.name}-{number}").exists():
        number += 1
    return f"{spec.name}-{number}"


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What makes a sweep another one. Its budget, machines, sampler and tracking may change as it goes on."""
    changes = []
    for section in ("trainable", "config", "space", "objectives", "early_stop"):
        old, new = before.get(section), now[section]
        if isinstance(old, Mapping) and isinstance(new, Mapping) and section == "config":
            names = sorted(set(old) | set(new))
            changes += [
                f"config.{name} was {old.get(name)!r} and is now {new.get(name)!r}"
                for name in names
                if old.get(name) != new.get(name)
            ]
        elif old != new:
            changes.append(f"its {section} differ" if section == "objectives" else f"its {section} differs")
    return changes


def _nothing_left(sweep: Sweep) -> SweepResult:
    message = (
        f"This sweep is complete: {sweep.ended_trials} trials ended before. Raise budget.trials for more of "
        "it; give a name for a new one."
    )
    return SweepResult(sweep, "done", message, Delivery(complete=True))


def _information(data: Mapping[str, Any], cluster: Cluster) -> dict[str, Any]:
    """What a sweep was run with."""
    packages = ("diffusion-policy-sweeper", "ray", "torch", "diffusers", "optuna", "mlflow", "numpy")
    versions = {"python": platform.python_version()}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "versions": versions,
        "git": _git(),
        "data": dict(data),
        "cluster": str(cluster),
        "command": shlex.join(sys.argv),
    }


def _git() -> dict[str, Any]:
    """Commit of the folder that the sweep is launched from, and whether it has changes; empty without git."""

    def ask(*arguments: str) -> str:
        answer = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)
        return answer.stdout.strip()

    try:
        return {"commit": ask("rev-parse", "HEAD"), "dirty": bool(ask("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


# What is made


@dataclass(frozen=True)
class _Records:
    """What a sweep is recorded in."""

    study: Study
    journal: Journal
    tracker: Tracker


@contextlib.contextmanager
def _records(spec: SweepSpec, trainable: Trainable, earlier: Sweep | None) -> Iterator[_Records]:
    """Open the sweep's folder; where nothing came of it, a new one is taken away again."""
    existed = spec.folder.exists()
    try:
        spec.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{spec.folder}: the sweep's folder cannot be made: {error.strerror}.") from error
    try:
        defaults = {name: field.default for name, field in trainable.fields.items()}
        accept = partial(trainable.faults, workers=spec.resources.workers)
        with (
            Study(spec, accept=accept, defaults=defaults) as study,
            Journal(spec.folder / "journal.jsonl") as journal,
        ):
            _write_spec(spec)
            yield _Records(study, journal, Tracker(spec.folder, spec.tracking.uri, spec.tracking.experiment))
    finally:
        if earlier is None and not _has_begun(spec.folder):
            for path in spec.folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not existed:
                spec.folder.rmdir()


def _has_begun(folder: Path) -> bool:
    try:
        return bool(read_sweep(folder).trials)
    except SweepNotFoundError:
        return False


def _write_spec(spec: SweepSpec) -> None:
    beside = spec.folder / "spec.yaml.new"
    beside.write_text(yaml.safe_dump(spec.to_dict(), sort_keys=False, allow_unicode=True))
    beside.replace(spec.folder / "spec.yaml")


# While it runs


class _Run:
    """One driver's part of a sweep."""

    def __init__(
        self,
        spec: SweepSpec,
        trainable: Trainable,
        records: _Records,
        cluster: Cluster,
        resources: SettledResources,
        signals: Signals,
    ) -> None:
        self._spec = spec
        self._records = records
        self._cluster = cluster
        self._resources = resources
        self._recorder = Recorder(records.study, records.journal, records.tracker, spec, listener=self._tell)
        self._sweep = self._recorder.sweep
        self._ending = Ending(spec, resources, self._sweep, signals)
        self._display: Display | None = None
        field = trainable.fields.get(STEPS)
        self._steps = None if field is None else field.default

    def _tell(self, event: Event) -> None:
        if self._display is not None:
            self._display.tell(event)

    def to_the_end(self, console: Console, info: Mapping[str, Any], left: int) -> SweepResult:
        """Run trials until the sweep ends, and close the books."""
        tracker = self._records.tracker
        self._recorder.start_sweep(info)
        board = Board(self._sweep, self._resources.at_once, self._steps)
        status: Status = "failed"
        message = "the driver failed"
        patience_s = DELIVERY_S
        try:
            with (
                Display(console, board, lambda: tracker.problem) as self._display,
                _quiet_ray(self._spec.folder),
            ):
                self._tune(left)
            status, message = self._verdict()
        except KeyboardInterrupt:
            status, message = "interrupted", "Interrupted at once."
            patience_s = HASTY_DELIVERY_S
        except BaseException as error:
            message = str(error)
            raise
        finally:
            free_placement_groups(group_prefix(self._spec.name))
            self._recorder.end_sweep(status, message)
            delivery = tracker.close(patience_s)
            # What Ray keeps there is for a restore that we never do.
            shutil.rmtree(self._spec.folder / RAY, ignore_errors=True)
        return SweepResult(self._sweep, status, message, delivery, *self._pages())

    def _tune(self, left: int) -> None:
        for name, value in TUNE_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        from ray import tune

        from sweeper.schedule import make_scheduler
        from sweeper.search import RecorderCallback, StudySearcher

        if self._ending.check():
            return  # somebody said stop while Ray started
        spec, study = self._spec, self._records.study
        stop = spec.early_stop
        history = read_series(spec.folder, stop.metric) if stop is not None and self._sweep.trials else None
        scheduler = make_scheduler(stop, history)
        searcher = StudySearcher(study, study.unfinished())
        settings = TrialSettings(
            sweep=spec.name,
            trainable=spec.trainable,
            folder=spec.folder.absolute(),
            cache=cache_folder(),
            workers=self._resources.workers,
            gpu_per_worker=self._resources.gpu_per_worker,
            cpu_per_worker=self._resources.cpu_per_worker,
            objective=(spec.objectives[0].name, spec.objectives[0].goal),
            python_path=tuple(place or str(Path.cwd()) for place in sys.path),
        )
        trainable = tune.with_parameters(run_trial, settings=settings)
        tune.Tuner(
            tune.with_resources(trainable, self._cluster.driver_resources()),
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                scheduler=scheduler,
                num_samples=left,
                max_concurrent_trials=self._resources.at_once,
                reuse_actors=True,
                trial_name_creator=_trial_name,
                trial_dirname_creator=_trial_name,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(spec.folder.absolute() / RAY),
                verbose=0,
                stop=_stopper(self._ending, searcher, self._say),
                callbacks=[_groups_freed(spec, self._ending), RecorderCallback(self._recorder, scheduler)],
            ),
        ).fit()
        if searcher.error is not None:
            raise searcher.error
        if searcher.exhausted and not self._ending.begun:
            self._recorder.note("the space has no more configurations")

    def _say(self, text: str) -> None:
        if self._display is not None:
            self._display.say(text)

    def _verdict(self) -> tuple[Status, str]:
        sweep, ending = self._sweep, self._ending
        if ending.begun:
            return ending.status, ending.message
        failed, ended = sweep.count("failed"), sweep.ended_trials
        if ended and failed == ended:
            return "failed", f"Every trial failed. {common_reason(sweep)}"
        if ended < self._spec.budget.trials:
            return "done", f"The space has no more configurations: {ended} trials ended."
        return "done", f"All {ended} trials ended."

    def _pages(self) -> tuple[str | None, str | None, bool]:
        """Where MLflow's pages compare and chart the trials, and whether anybody serves them already."""
        tracker = self._records.tracker
        served = tracker.uri.startswith("http")
        base = None if served else f"http://{HOST}:{PORT}"
        ranked = [trial for trial in self._sweep.ranking() if trial.final] or self._sweep.ranking()
        compared = tracker.comparison_url([trial.number for trial in ranked[:COMPARED]], base)
        return compared, tracker.charts_url(self._spec.objectives[0], base), served


def _trial_name(trial: Trial) -> str:
    return f"trial-{trial.config['trial']}"


def _stopper(ending: Ending, searcher: Any, say: Any) -> Any:
    from ray import tune

    class EndSweep(tune.Stopper):
        """Asked by Tune in every turn of its loop."""

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:  # noqa: ARG002
            return False

        def stop_all(self) -> bool:
            if ending.check():
                searcher.finish()
                say(ending.notice())
            return ending.over()

        def __reduce__(self) -> Any:
            # Tune pickles its settings for a restore that we never do.
            return (tune.Stopper, ())

    return EndSweep()


def _groups_freed(spec: SweepSpec, ending: Ending) -> Any:
    from ray import tune

    class FreeGroups(tune.Callback):
        """Gives the workers of a trial that ended back at once, however it ended."""

        def on_trial_start(self, *, trial: Trial, **_info: Any) -> None:
            if not ending.begun:
                (trial_folder(spec.folder, trial.config["trial"]) / STOP).unlink(missing_ok=True)

        def on_trial_complete(self, *, trial: Trial, **_info: Any) -> None:
            free_placement_groups(group_prefix(spec.name, trial.config["trial"]))

        def on_trial_error(self, *, trial: Trial, **_info: Any) -> None:
            free_placement_groups(group_prefix(spec.name, trial.config["trial"]))

        def __reduce__(self) -> Any:
            return (tune.Callback, ())

    return FreeGroups()


@contextlib.contextmanager
def _quiet_ray(folder: Path) -> Iterator[None]:
    """Send what Ray logs in this process to ``ray.log`` in the sweep's folder instead of the terminal."""
    logger = logging.getLogger("ray")
    before, propagated, level = logger.handlers[:], logger.propagate, logger.level
    handler = logging.FileHandler(folder / "ray.log")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.handlers, logger.propagate = before, propagated
        logger.setLevel(level)
        handler.close()


# At the end


def print_result(console: Console, result: SweepResult) -> None:
    """Print what came of a sweep: the ranking, where everything lies, and how to look closer or go on."""
    sweep = result.sweep
    console.print()
    if sweep.trials:
        print_ranking(console, sweep)
        console.print()
    style = {"done": "bold green", "failed": "bold red", "interrupted": "bold magenta"}[result.status]
    console.print(Text(result.message, style=style))
    if not sweep.folder.exists():
        console.print("No trial had begun, so nothing is left behind.")
        return
    console.print(f"Everything lies in {sweep.folder}", soft_wrap=True)
    if not result.delivery.complete:
        console.print(Text(str(result.delivery), style="yellow"), soft_wrap=True)
    option = (
        "" if sweep.folder.parent == Path("sweeps") else f" --sweeps {shlex.quote(str(sweep.folder.parent))}"
    )
    if result.url is not None:
        if not result.served:
            console.print(
                f"MLflow's pages: `sweeper ui {shlex.quote(sweep.name)}{option}`, then", soft_wrap=True
            )
        console.print(f"Compare the best trials: {result.url}", soft_wrap=True)
        console.print(f"Chart all trials: {result.charts}", soft_wrap=True)
    if result.status == "interrupted":
        console.print(f"To go on where it stopped: {_same_command(sweep)}", soft_wrap=True)


def _same_command(sweep: Sweep) -> str:
    if Path(sys.argv[0]).name in ("sweeper", "sweeper.exe"):
        return f"`{shlex.join(['sweeper', *sys.argv[1:]])}`"
    return f"launch the same sweep again ({sweep.name})"
