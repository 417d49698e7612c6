"""The results of a sweep, read from its journal: the ranking of its trials, as a table and as JSON.

The journal is written before the study and before MLflow, so it contains everything that they have, and
reading it needs neither Optuna nor a lock: `sweeper results` can read a sweep that another process runs.

*Final* is the value at a trial's last evaluation. The search and the ranking use it. *Best* is the best of
all evaluations and is shown beside it. Ranking by the best would favour trials that were evaluated often: the
maximum of noisy numbers grows with their count.
"""

from __future__ import annotations

import difflib
import math
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import psutil

from sweeper.errors import SweepDamagedError, SweepNotFoundError, SweepNotStartedError, UserError
from sweeper.layout import JOURNAL, LOCK, moved_path
from sweeper.records.events import Event, EventKind, event_fault
from sweeper.records.journal import events_in, line_of_event, read_lines
from sweeper.records.ranking import is_better, ranked
from sweeper.records.status import SweepStatus, TrialStatus
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import BudgetSpec, Objective

__all__ = [
    "STRETCH_BYTES",
    "Digest",
    "SweepState",
    "driver_runs",
    "events_after",
    "find_sweep",
    "interned",
    "not_a_sweep",
    "not_started",
    "read_sweep",
    "update_sweep",
]


STRETCH_BYTES = 256 * 1024
"""Bytes of a journal that are read at a time: few enough that their events fit the cache of a processor."""


OVER = (TrialStatus.COMPLETED, TrialStatus.STOPPED_EARLY, TrialStatus.FAILED)
"""The statuses of a trial that has ended by itself, and never runs again."""


@dataclass(frozen=True)
class _Census:
    """The trials of a sweep by whether they are over.

    Attributes:
        seen: How many trials were looked at, in the order in which they started.
        over: How many of them have each status of `OVER`.
        over_s: Seconds for which these ran.
        others: The other ones.
    """

    seen: int = 0
    over: Mapping[TrialStatus, int] = field(default_factory=dict)
    over_s: float = 0.0
    others: tuple[TrialState, ...] = ()


class Digest(Protocol):
    """A digest of `hashlib`."""

    def update(self, data: bytes, /) -> None:
        """Add some bytes."""


@dataclass
class SweepState:
    """The state of a sweep according to its journal. `apply` updates it while it runs.

    Attributes:
        folder: Its folder.
        name: The name of its folder, by which commands find it; its recorded name if the folder is unknown.
        sweep_id: Distinguishes it from others of the same name.
        spec: Its specification, as plain types (`sweeper.spec.sweep.SweepSpec.to_dict`).
        info: Versions, git commit, identity of the data.
        driver: The process that ran it last: ``host``, ``pid``, ``started``.
        status: Its status.
        message: The message at the end.
        started: When it first started, in seconds since 1970.
        ended: When it last ended, or None.
        trials: Its trials, by number.
        steered: What the user requested while it runs: empty, ``pausing``, ``paused``, ``stopping`` or
            ``cancelling``.
        heard: Time of its last event, in seconds since 1970.
        confirmation: The last confirmation of finalists, with all fields of its events
            (`EventKind.CONFIRM_START` and `EventKind.CONFIRMED`); empty if there was none.
        judgement: The last judgement of finalists on a real robot, with all fields of its event
            (`EventKind.JUDGED`); empty if there was none.
        held_after: GPU-hours and CPU-hours that confirmations held.
        offset: Byte of the journal up to which `update_sweep` has read it.
        keeps_series: Whether the trials have every value of the metrics of `tracked` (`TrialState.series`). A
            driver that resumes a sweep needs the values; to show a sweep the last and the best suffice.
    """

    folder: Path
    name: str = ""
    sweep_id: str = ""
    spec: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    driver: Mapping[str, Any] = field(default_factory=dict)
    status: SweepStatus = SweepStatus.NEW
    message: str = ""
    started: float = 0.0
    ended: float | None = None
    trials: dict[int, TrialState] = field(default_factory=dict)
    steered: str = ""
    heard: float = 0.0
    confirmation: Mapping[str, Any] = field(default_factory=dict)
    judgement: Mapping[str, Any] = field(default_factory=dict)
    held_after: dict[str, float] = field(default_factory=dict)
    offset: int = 0
    keeps_series: bool = True
    _events_read: int = 0
    _lines_read: int = 0
    _tracked: tuple[Objective, ...] = field(default=(), repr=False, compare=False)
    _since: float | None = None
    _ran_s: float = 0.0
    _census: _Census = field(default_factory=_Census, repr=False, compare=False)

    def running_s(self, now: float | None = None) -> float:
        """Seconds for which drivers ran it, without pauses and the time between drivers."""
        if self._since is None:
            return self._ran_s
        now = time.time() if now is None else now
        return self._ran_s + max(0.0, now - self._since)

    def trials_s(self, now: float | None = None) -> float:
        """Seconds for which its trials ran, all together."""
        census = self._counted()
        return census.over_s + sum(trial.duration_s(now) for trial in census.others)

    @property
    def budget(self) -> BudgetSpec:
        """The present budget: it may be changed while the sweep runs."""
        return BudgetSpec(**self.spec["budget"])

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The objectives of the optimisation."""
        return tuple(Objective(**plain) for plain in self.spec["objectives"])

    @property
    def tracked(self) -> tuple[Objective, ...]:
        """The objectives, and the metric of early stopping if it is another one."""
        stop = self.spec["early_stop"]
        objectives = self.objectives
        if stop is None or stop["metric"] in [objective.name for objective in objectives]:
            return objectives
        return (*objectives, Objective(stop["metric"], stop["goal"]))

    @property
    def varying(self) -> tuple[str, ...]:
        """The searched parameters, in the order of the space."""
        return tuple(parameter["name"] for parameter in self.spec["space"]["parameters"])

    @property
    def examined(self) -> tuple[str, ...]:
        """The inference fields that were examined on trained policies, or chosen for one."""
        listed = (self.spec.get("inference") or {}).get("parameters", {})
        chosen = [name for trial in self.trials.values() for name in trial.setting]
        return tuple(dict.fromkeys([*listed, *chosen]))

    def trial(self, number: int) -> TrialState:
        """One of its trials.

        Raises:
            UserError: If it has no trial of this number; the message lists those that exist.
        """
        if number not in self.trials:
            many = len(self.trials)
            known = {0: "none yet", 1: "0"}.get(many, f"0 to {many - 1}")
            raise UserError(f"{self.name}: there is no trial {number}. Its trials: {known}.")
        return self.trials[number]

    def count(self, *statuses: TrialStatus) -> int:
        """How many trials have one of these statuses."""
        census = self._counted()
        over = sum(census.over.get(status, 0) for status in statuses)
        return over + sum(trial.status in statuses for trial in census.others)

    @property
    def ended_trials(self) -> int:
        """Trials that ended by themselves: completed, stopped early or failed."""
        return self.count(*OVER)

    def running(self) -> list[TrialState]:
        """The trials that run, by number."""
        return [trial for trial in self._counted().others if trial.status == TrialStatus.RUNNING]

    def _counted(self) -> _Census:
        """The trials by whether they are over.

        A driver asks this several times for every report. Therefore a trial that is over is looked at once.
        """
        before, trials = self._census, list(self.trials.values())
        others, over, over_s = [], before.over, before.over_s
        for trial in (*before.others, *trials[before.seen :]):
            if trial.status in OVER:
                over = {**over, trial.status: over.get(trial.status, 0) + 1}
                over_s += trial.duration_s()
            else:
                others.append(trial)
        # Several threads ask: what one of them has counted is replaced as a whole.
        census = self._census = _Census(len(trials), over, over_s, tuple(others))
        return census

    @property
    def is_closed(self) -> bool:
        """Whether a driver recorded its end, and nothing is left to do."""
        return self.status in (SweepStatus.DONE, SweepStatus.FAILED)

    def is_alive(self) -> bool:
        """Whether the driver runs; for a driver on another host the journal decides."""
        return self.status == SweepStatus.RUNNING and driver_runs(self.driver)

    @property
    def state(self) -> str:
        """Its present state in one word: `status`, `steered`, or ``interrupted`` without a driver."""
        if self.status != SweepStatus.RUNNING:
            return self.status
        return (self.steered or SweepStatus.RUNNING) if self.is_alive() else SweepStatus.INTERRUPTED

    def mark_interrupted(self) -> None:
        """If the driver died, mark its running trials as interrupted at the time of the last event."""
        if self.status == SweepStatus.RUNNING and not self.is_alive():
            self._stop_clock(self.heard)
            self._cut_off()

    # Following the journal

    def apply(self, event: Event) -> None:
        """Apply the next event of the journal.

        Raises:
            SweepDamagedError: If it cannot be the next one; the message contains the reason.
        """
        fault = event_fault(event, self.trials, begun=bool(self.spec))
        if fault:
            raise SweepDamagedError(fault)
        match event["event"]:
            case EventKind.REPORT:
                self._report(self.trials[event["trial"]], event)
            case EventKind.SWEEP_START:
                self._sweep_start(event)
            case EventKind.TRIAL_START:
                self._trial_start(event)
            case EventKind.TRIAL_END:
                trial = self.trials[event["trial"]]
                trial.stop_clock(event["time"])
                trial.status = TrialStatus(event["status"])
                trial.reason, trial.message = event["reason"], event["message"]
                trial.ended, trial.needs = event["time"], ""
            case EventKind.TRIAL_RETRY:
                self._trial_retry(self.trials[event["trial"]], event)
            case EventKind.CHECKPOINTS_DROPPED:
                self.trials[event["trial"]].drop([self._here(folder) for folder in event["folders"]])
            case EventKind.TRIAL_WAIT:
                trial = self.trials[event["trial"]]
                trial.stop_clock(event["time"])
                trial.needs = event["needs"]
            case EventKind.TRIAL_PLACED:
                self.trials[event["trial"]].node_types = event["node_types"]
            case EventKind.TUNED:
                self._tuned(self.trials[event["trial"]], event)
            case EventKind.CONFIRM_START:
                self.confirmation = {**event, "complete": False}
            case EventKind.CONFIRMED:
                self._confirmed(event)
            case EventKind.JUDGED:
                self._judged(event)
            case EventKind.STEER if "trial" not in event:
                self._steer(event)
            case EventKind.SWEEP_END:
                self.status = SweepStatus(event["status"])
                self.message, self.ended = event["message"], event["time"]
                self.steered = ""
                self._stop_clock(event["time"])
        self.heard = event["time"]

    def _sweep_start(self, event: Event) -> None:
        # The folder may have been renamed or copied since.
        self.name = self.folder.name or event["sweep"]
        self.sweep_id, self.spec = event["sweep_id"], event["spec"]
        self.info, self.driver = event["info"], event["driver"]
        self._tracked = ()
        self.started = self.started or event["time"]
        # A driver that was killed ran at least until its last event.
        self._stop_clock(self.heard)
        self._since = event["time"]
        self.status, self.message, self.ended, self.steered = SweepStatus.RUNNING, "", None, ""
        self._cut_off()

    def _cut_off(self) -> None:
        for trial in self.trials.values():
            if trial.status == TrialStatus.RUNNING:
                trial.stop_clock(self.heard)
                trial.status, trial.needs = TrialStatus.INTERRUPTED, ""

    def _stop_clock(self, now: float) -> None:
        self._ran_s = self.running_s(now)
        self._since = None

    def _steer(self, event: Event) -> None:
        match event["action"]:
            case "pause":
                self.steered = "pausing"
            case "paused":
                self.steered = "paused"
                self._stop_clock(event["time"])
            case "resume":
                self.steered = ""
                self._since = event["time"] if self._since is None else self._since
            case "stop":
                self.steered = "stopping"
            case "cancel":
                self.steered = "cancelling"
            case "budget":
                self.spec = {**self.spec, "budget": event["budget"]}

    def _trial_start(self, event: Event) -> None:
        number = event["trial"]
        if number not in self.trials:
            config = interned(event["config"])
            started = TrialState(number, event["values"], config, event["time"])
            started.origin = event.get("origin", "")
            self.trials[number] = started
        elif self.trials[number].status in OVER:
            self._census = _Census()  # no driver does this
        self.trials[number].start_clock(event["time"])

    def _trial_retry(self, trial: TrialState, event: Event) -> None:
        trial.stop_clock(event["time"])
        trial.status = TrialStatus.INTERRUPTED
        trial.reason, trial.message = event["reason"], event["message"]
        trial.ended, trial.needs = event["time"], ""
        trial.retries[event["reason"]] = trial.retries.get(event["reason"], 0) + 1
        trial.changes |= event["changes"]
        trial.config = {**trial.config, **event["changes"]}

    def _report(self, trial: TrialState, event: Event) -> None:
        step, metrics = event["step"], {name: float(value) for name, value in event["metrics"].items()}
        if step == trial.step:
            trial.at_last_step.update(metrics)
        else:
            trial.at_last_step = set(metrics)
        trial.step = step
        trial.first = trial.first or (event["time"], step)
        trial.metrics |= metrics
        if "artifacts" in event:
            trial.artifacts |= {name: self._here(path) for name, path in event["artifacts"].items()}
        checkpoint = self._here(event["checkpoint"]) if event.get("checkpoint") else None
        trial.checkpoint = checkpoint or trial.checkpoint
        self._tracked = self._tracked or self.tracked
        for position, objective in enumerate(self._tracked):
            if objective.name not in metrics:
                continue
            value = metrics[objective.name]
            trial.final[objective.name] = value
            if self.keeps_series:
                trial.series.setdefault(objective.name, []).append((step, value))
            if is_better(value, trial.best.get(objective.name), objective.goal):
                trial.best[objective.name] = value
                if position == 0:
                    trial.best_checkpoint = checkpoint or trial.best_checkpoint

    def _tuned(self, trial: TrialState, event: Event) -> None:
        metrics = {name: float(value) for name, value in event["metrics"].items()}
        trial.setting, trial.tried = event["setting"], event["tried"]
        trial.untuned = {name: float(value) for name, value in event["untuned"].items()}
        trial.metrics |= metrics
        trial.final |= {name: metrics[name] for name in trial.final if name in metrics}

    def _confirmed(self, event: Event) -> None:
        self.confirmation = {**self.confirmation, **event}
        for name, hours in event.get("held", {}).items():
            self.held_after[name] = self.held_after.get(name, 0.0) + hours
        for one in event["finalists"]:
            metrics = {name: float(value) for name, value in one.get("metrics", {}).items()}
            self.trials[one["trial"]].confirmed = metrics

    def _judged(self, event: Event) -> None:
        self.judgement = event
        for one in event["finalists"]:
            if one["trial"] is None:
                continue  # a policy that is not a trial of this sweep
            metrics = {name: float(value) for name, value in one.get("metrics", {}).items()}
            self.trials[one["trial"]].judged = metrics

    def _here(self, path: str) -> str:
        """A recorded path of a trial, in the sweep's present folder."""
        return moved_path(path, str(self.spec.get("folder", "")), self.folder)

    # Values

    def ranking(self) -> list[TrialState]:
        """The trials, best first, as `sweeper.records.ranking.ranked` sorts them."""
        return ranked(self.trials.values(), self.objectives)

    def best_trial(self) -> TrialState | None:
        """The first of the ranking, if it completed."""
        ranked = self.ranking()
        return ranked[0] if ranked and ranked[0].status == TrialStatus.COMPLETED else None

    def confirmed_trial(self) -> TrialState | None:
        """The winner of the last confirmation, if nothing of it is left to do."""
        if not self.confirmation.get("complete"):
            return None
        return self.trials[self.confirmation["winner"]]

    def acting_values(self, finalists: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """The inference values with which each finalist acts: of its setting, else of its training.

        The names are those that any of the finalists' settings has. A name that a finalist's configuration
        does not say is left out of its values.
        """
        names = dict.fromkeys(name for one in finalists for name in one.get("setting") or {})
        found = []
        for one in finalists:
            trial = self.trials.get(one["trial"])
            known = {**({} if trial is None else trial.config), **(one.get("setting") or {})}
            found.append({name: known[name] for name in names if name in known})
        return found

    def best_so_far(self, also: TrialState | None = None) -> dict[str, float]:
        """The best final value of each objective among completed trials, and one that is completing."""
        completed = [
            trial for trial in self.trials.values() if trial.status == TrialStatus.COMPLETED or trial is also
        ]
        best: dict[str, float] = {}
        for objective in self.objectives:
            for trial in completed:
                value = trial.final.get(objective.name, math.nan)
                if is_better(value, best.get(objective.name), objective.goal):
                    best[objective.name] = value
        return best


def read_sweep(folder: Path) -> SweepState:
    """Read a sweep from its folder.

    Raises:
        SweepNotFoundError: If the folder does not contain a sweep.
        SweepDamagedError: If its journal contradicts itself; names the line.
    """
    sweep = SweepState(folder)
    update_sweep(sweep)
    if not sweep.spec:
        raise not_a_sweep(folder)
    return sweep


def not_a_sweep(folder: Path) -> SweepNotFoundError:
    """Return the error for a folder without events."""
    return not_started(folder) or SweepNotFoundError(
        f"{folder}: not a sweep's folder: {JOURNAL} is missing or empty. `sweeper list` shows sweeps."
    )


def update_sweep(sweep: SweepState, digest: Digest | None = None) -> None:
    """Apply the events that were added to a sweep's journal since it was last read.

    The process that writes the journal applies its own events itself, and must not call this afterwards.

    Args:
        sweep: The sweep.
        digest: Receives every line whose event was applied.

    Raises:
        SweepDamagedError: If the journal contradicts itself; names the line.
    """
    path = sweep.folder / JOURNAL
    while lines := _lines_from(path, sweep.offset):
        for event in events_in(lines):
            try:
                sweep.apply(event)
            except SweepDamagedError as fault:
                line = line_of_event(path, sweep._events_read)
                raise SweepDamagedError(
                    f"{path}, line {line}: {fault}. The journal was damaged, or another program wrote into "
                    "it. Keep a copy of it and repair that line."
                ) from None
            sweep._events_read += 1
        if digest is not None:
            digest.update(lines)
        sweep._lines_read += lines.count(b"\n")
        sweep.offset += len(lines)


def events_after(sweep: SweepState, offset: int) -> int:
    """Count the events from a byte of the journal on; the sweep was read from the same journal."""
    path, found = sweep.folder / JOURNAL, 0
    while lines := _lines_from(path, offset):
        # Lines are counted much faster than they are parsed. Without a line that a crash cut short, each is
        # an event.
        whole = sweep._lines_read == sweep._events_read and offset + len(lines) <= sweep.offset
        found += lines.count(b"\n") if whole else len(events_in(lines))
        offset += len(lines)
    return found


def _lines_from(path: Path, offset: int) -> bytes:
    try:
        return read_lines(path, offset, STRETCH_BYTES)
    except OSError as error:
        raise SweepDamagedError(f"{path} cannot be read: {error.strerror}.") from error


def interned(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration whose names are stored once in memory: thousands of trials have the same names."""
    return {sys.intern(name): value for name, value in config.items()}


def driver_runs(driver: Mapping[str, Any]) -> bool:
    """Whether the driver of a journal still runs; one on another host is assumed to run."""
    if driver.get("host") != socket.gethostname():
        return True
    try:
        process = psutil.Process(int(driver["pid"]))
        return abs(process.create_time() - float(driver["started"])) < 2.0
    except (psutil.Error, KeyError, ValueError):
        return False


def not_started(folder: Path) -> SweepNotStartedError | None:
    """Return the error for a folder in which a launch has recorded nothing; None for any other folder."""
    if not (folder / LOCK).is_file():
        return None
    from filelock import FileLock, Timeout  # almost all other folders do not need it

    ended = f"{folder} has no trials: its launch ended before it started any. There is nothing to resume"
    try:
        with FileLock(folder / LOCK, timeout=0):
            return SweepNotStartedError(f"{ended}; launch the sweep again.", starting=False)
    except Timeout:
        message = f"{folder} is starting: its launch has not started a trial yet. Try again in a minute."
        return SweepNotStartedError(message, starting=True)
    except OSError:
        return SweepNotStartedError(f"{ended}, and the folder cannot be written.", starting=False)


def find_sweep(name: str, sweeps: Path) -> Path:
    """The folder of the sweep called ``name``, or the folder that ``name`` is the path of.

    Raises:
        SweepNotFoundError: If there is none; the message lists those that exist.
    """
    for folder in (sweeps / name, Path(name)):
        if (folder / JOURNAL).is_file():
            # `.` has no name.
            return folder if folder.name else folder.absolute()
        young = not_started(folder)
        if young is not None:
            raise young
    known = sorted(path.parent.name for path in sweeps.glob(f"*/{JOURNAL}"))
    without_trial = name.partition(":")[0]
    near = [without_trial] if without_trial in known else difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    around = next((one for one in Path(name).absolute().parents if (one / JOURNAL).is_file()), None)
    if around is not None:
        hint = f" It is inside a sweep: name the folder {around}."
    listed = f" There are: {', '.join(known)}."
    if not known:
        listed = f" {sweeps} has no sweeps. Run the command where the sweep was launched, or use --sweeps."
    raise SweepNotFoundError(f"no sweep is called {name!r} in {sweeps}.{hint}{listed}")
