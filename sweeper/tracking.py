"""MLflow: one parent run for a sweep, one child run for each trial.

The journal is the only source. A thread reads what was appended to it and writes that to MLflow in batches,
so training never waits for a server. When the server does not answer, the thread tries again, ever more
slowly, from where it was; the place is kept in ``mlflow.json`` beside the journal, so that a new driver, too,
goes on from there and knows the runs that exist. Nothing waits in memory but one stretch of the journal.

Whatever is sent twice is the same thing twice: runs are found by their tags before they are made, and MLflow
drops a metric that it has. Only `MlflowClient` is used, no run is ever the active one.
"""

from __future__ import annotations

import getpass
import json
import logging
import math
import os
import posixpath
import re
import threading
import time
import urllib.parse
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sweeper.errors import UserError
from sweeper.failure import ERROR_TEXT
from sweeper.files import write_whole
from sweeper.journal import JOURNAL, Event, EventKind, read_journal
from sweeper.masking import masked
from sweeper.sweep import Objective
from sweeper.trial import trial_folder

__all__ = [
    "DATABASE",
    "STATE",
    "Delivery",
    "Tracker",
    "charts_url",
    "comparison_url",
    "read_state",
    "safe_uri",
    "tracking_uri",
]

DATABASE = "mlflow.db"
ARTIFACTS = "artifacts"
STATE = "mlflow.json"

CHUNK_BYTES = 500_000
"""How much of the journal is sent at a time: it bounds the memory, and what an outage has done again."""
METRICS_PER_BATCH = 1000
PARAMS_PER_BATCH = 100
PARAM_LENGTH = 6000
TAG_LENGTH = 8000
KEY_LENGTH = 250
GATHER_S = 1.0
"""Events are gathered for this long before they are sent."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
HTTP_TIMEOUT_S = 20

EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}
"""So that MLflow's pages show an experiment as training runs, not as conversations with a language model."""
PAGES_MODE = "workflowType=machine_learning"
"""The same, for the menus beside the page."""
FIRST_GROUPS = ("final", "best", "rollout", "eval", "train")
LAST_GROUP = "system"

STATUS = {
    "completed": "FINISHED",
    "stopped_early": "KILLED",
    "interrupted": "KILLED",
    "failed": "FAILED",
    "done": "FINISHED",
}
"""The status of a run for each way in which a trial or sweep ends; the tag ``status`` has our word."""

_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE"}
"""Answers of a server that will be the same the next time."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Delivery:
    """What of a journal MLflow has.

    Attributes:
        complete: Whether it has everything.
        events: Events that it lacks.
        artifacts: Files that it lacks.
        refused: Requests that it will never accept.
        problem: Why, or what it refused last, in one line; empty where it has everything.
    """

    complete: bool
    events: int = 0
    artifacts: int = 0
    refused: int = 0
    problem: str = ""

    def __str__(self) -> str:
        refused = f" It refused {self.refused} requests: {self.problem}." if self.refused else ""
        if self.complete:
            return f"MLflow has everything.{refused}"
        return (
            f"MLflow lacks {self.events} events and {self.artifacts} files of this sweep ({self.problem}). "
            f"The journal has them; `sweeper sync` sends them.{refused}"
        )


@dataclass
class _State:
    """How far the journal was sent, and where to."""

    uri: str
    experiment: str
    experiment_id: str = ""
    sweep_id: str = ""
    objectives: list[str] = field(default_factory=list)
    offset: int = 0
    parent: str = ""
    runs: dict[str, str] = field(default_factory=dict)
    artifacts: list[dict[str, str]] = field(default_factory=list)
    refused: int = 0


def read_state(path: Path) -> _State | None:
    """How far a journal was sent; None where nothing was, or the file is damaged."""
    try:
        state = _State(**json.loads(path.read_text()))
        sound = (
            all(isinstance(text, str) for text in (state.uri, state.experiment, state.experiment_id))
            and all(isinstance(text, str) for text in (state.sweep_id, state.parent, *state.objectives))
            and all(isinstance(number, int) and number >= 0 for number in (state.offset, state.refused))
            and all(isinstance(run, str) for run in state.runs.values())
            and all(_is_file(item) for item in state.artifacts)
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return state if sound else None


def _is_file(item: Mapping[str, str]) -> bool:
    """Whether something that waits to be sent is a text under a name, or a file with its folder."""
    names = {"trial", "name", "text"} if "text" in item else {"trial", "path", "folder"}
    return set(item) == names and all(isinstance(value, str) for value in item.values())


class _OutageError(Exception):
    """MLflow does not answer, or not now."""


def tracking_uri(folder: Path, uri: str | None) -> str:
    """Where the runs of a sweep go: ``uri``, else MLFLOW_TRACKING_URI, else SQLite in the sweep's folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or _own_database(folder)


def safe_uri(uri: str) -> str:
    """An address as it may be shown: without a user's name and password."""
    return re.sub(r"://[^/@\s]+@", "://", uri)


def _own_database(folder: Path) -> str:
    return f"sqlite:///{(folder / DATABASE).absolute()}"


def comparison_url(base: str, experiment_id: str, run_ids: Sequence[str]) -> str:
    """The address at which MLflow's pages compare runs.

    Args:
        base: Where the pages are served, e.g. ``http://127.0.0.1:5000``.
        experiment_id: The experiment of the runs.
        run_ids: The runs, best first.
    """
    runs = urllib.parse.quote(json.dumps(list(run_ids), separators=(",", ":")))
    experiments = urllib.parse.quote(json.dumps([experiment_id]))
    return f"{base.rstrip('/')}/#/compare-runs?runs={runs}&experiments={experiments}&{PAGES_MODE}"


def charts_url(base: str, experiment_id: str, sweep_id: str, objective: Objective) -> str:
    """The address at which MLflow's pages chart the trials of a sweep, sorted by their objective.

    Args:
        base: Where the pages are served, e.g. ``http://127.0.0.1:5000``.
        experiment_id: The experiment of the runs.
        sweep_id: The sweep, as its journal calls it.
        objective: What the trials are sorted by, the best first.
    """
    options = {
        "compareRunsMode": "CHART",
        "searchFilter": f"tags.`sweep.id` = '{sweep_id}' and tags.`sweep.kind` = 'trial'",
        # Sorted by anything but their creation, runs are shown without the sweeps that they lie below.
        "orderByKey": f"metrics.`{_key(f'final/{objective.name}')}`",
        "orderByAsc": "false" if objective.goal == "maximize" else "true",
    }
    query = "&".join(f"{name}={urllib.parse.quote(value)}" for name, value in options.items())
    return f"{base.rstrip('/')}/#/experiments/{experiment_id}/runs?{PAGES_MODE}&{query}"


class Tracker:
    """Sends a sweep's journal to MLflow.

    Args:
        folder: The sweep's folder, with its journal.
        uri: MLflow server or database; None as `tracking_uri` says.
        experiment: Name of the MLflow experiment; made where it is missing.
        state: Name of the file beside the journal that says how far it was sent.

    Attributes:
        uri: Where the runs go, without a user's name and password.
    """

    def __init__(self, folder: Path, uri: str | None, experiment: str, *, state: str = STATE) -> None:
        self._login_uri = tracking_uri(folder, uri)
        self.uri = safe_uri(self._login_uri)
        self._state_name = state
        self._folder = folder
        self._experiment = experiment
        self._state = self._load_state()
        self._client: Any = None
        self._problem = ""
        self._refusal = ""
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._deadline = math.inf
        self._thread: threading.Thread | None = None

    # What the driver calls

    def start(self) -> str:
        """Open MLflow, make the experiment, and begin to send.

        The database of a sweep that has no server is made here, before there is a second process that could
        make it too.

        Returns:
            What is wrong with the server, in one line, where it does not answer: the sweep may go on. Empty
            where all is well.

        Raises:
            UserError: Where MLflow can never be written under this address or experiment name.
        """
        _quieten()
        try:
            self._connect()
        except _OutageError as outage:
            if self.uri.startswith("sqlite:") and "locked" not in str(outage):
                raise UserError(
                    f"tracking.uri: the database {self.uri} cannot be opened: {outage}."
                ) from outage
            self._problem = str(outage)
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()
        return self._problem

    def notify(self) -> None:
        """Say that the journal has grown. Never waits."""
        self._wake.set()

    @property
    def problem(self) -> str:
        """Why nothing can be sent at the moment, in one line; empty where all is well."""
        return self._problem

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment; empty while the server has not answered yet."""
        return self._state.experiment_id

    @property
    def parent_run_id(self) -> str:
        """MLflow's id of the sweep's run; empty while it does not exist yet."""
        return self._state.parent

    def run_id(self, number: int) -> str | None:
        """MLflow's id of a trial's run, or None while it does not exist yet."""
        return self._state.runs.get(str(number))

    def comparison_url(self, numbers: Sequence[int], base: str | None = None) -> str | None:
        """The address at which trials are compared, or None where MLflow has none of their runs.

        Args:
            numbers: The trials, best first.
            base: Where MLflow's pages are served; None for the server that the runs go to.
        """
        base = base or (self.uri if self.uri.startswith("http") else None)
        found = [run_id for run_id in map(self.run_id, numbers) if run_id is not None]
        if base is None or not found:
            return None
        return comparison_url(base, self.experiment_id, found)

    def charts_url(self, objective: Objective, base: str | None = None) -> str | None:
        """The address at which all trials are charted, or None where MLflow has none of their runs.

        Args:
            objective: What the trials are sorted by, the best first.
            base: Where MLflow's pages are served; None for the server that the runs go to.
        """
        base = base or (self.uri if self.uri.startswith("http") else None)
        if base is None or not self._state.runs:
            return None
        return charts_url(base, self.experiment_id, self._state.sweep_id, objective)

    def send_all(self, waiting: Callable[[Delivery], object], patience_s: float = 20.0) -> Delivery:
        """Send everything, however long it takes, unless MLflow does not answer for ``patience_s`` seconds.

        Args:
            waiting: Told every now and then what is still missing.
            patience_s: How long the server may be away.
        """
        self.notify()
        since = time.monotonic()
        while not (delivery := self.delivery()).complete:
            alive = self._thread is not None and self._thread.is_alive()
            if not self._problem:
                since = time.monotonic()
            if not alive or time.monotonic() - since > patience_s:
                break
            waiting(delivery)
            self._closing.wait(0.2)
        return self.close(1.0)

    def close(self, deadline_s: float = 30.0) -> Delivery:
        """Send what is left, for at most ``deadline_s`` seconds, and stop."""
        self._deadline = time.monotonic() + deadline_s
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=deadline_s)
        return self.delivery()

    def delivery(self) -> Delivery:
        """Say what MLflow still lacks."""
        left = len(read_journal(self._folder / JOURNAL, self._state.offset).events)
        files, refused = len(self._state.artifacts), self._state.refused
        if not left and not files:
            return Delivery(True, refused=refused, problem=self._refusal)
        return Delivery(False, left, files, refused, self._problem or "there was no time left")

    # The thread

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self._connect()
                busy = self._send_chunk()
                self._problem = ""
                pause_s = FIRST_PAUSE_S
            except (_OutageError, UserError, OSError) as outage:
                # OSError: the journal or the state cannot be read or written, as on a disk that is full.
                self._problem = _one_line(outage)
                self._rest(min(pause_s, 1.0) if self._closing.is_set() else pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                busy = True
            except Exception as error:
                # A fault of ours must not end the training that it watches.
                _log.exception("the tracker cannot go on")
                self._problem = _one_line(error)
                return
            if self._closing.is_set() and (not busy or time.monotonic() >= self._deadline):
                return
            if not busy:
                self._wake.wait()
                self._wake.clear()
                self._rest(GATHER_S)

    def _rest(self, seconds: float) -> None:
        """Wait, but no longer than until the driver wants to leave."""
        if self._closing.is_set():
            time.sleep(max(0.0, min(seconds, 1.0, self._deadline - time.monotonic())))
        else:
            self._closing.wait(seconds)

    def _connect(self) -> None:
        if self._client is not None:
            return
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient

        try:
            client = _attempt(lambda: MlflowClient(tracking_uri=self._login_uri))
            experiment_id = _attempt(lambda: self._find_experiment(client))
        except MlflowException as error:
            raise UserError(f"tracking.uri: {self.uri} cannot be written: {_one_line(error)}") from error
        self._client = client
        if self._state.parent and not self._knows_sweep():
            self._state = _State(self.uri, self._experiment)
        self._state.experiment_id = experiment_id

    def _find_experiment(self, client: Any) -> str:
        """The id of the experiment, which is made where it is missing."""
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            return str(
                client.create_experiment(
                    self._experiment, artifact_location=self._artifacts(), tags=EXPERIMENT_TAGS
                )
            )
        if found.lifecycle_stage != "active":
            raise UserError(
                f"tracking.experiment: {self._experiment!r} was deleted on {self.uri}. "
                "Restore it there, or give tracking.experiment another name."
            )
        return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """Where the files of a new experiment go; a server knows that itself."""
        if self.uri.startswith(("http:", "https:", "databricks")):
            return None
        # A database of the user's may hold several sweeps: their files go beside them.
        own = self.uri == _own_database(self._folder)
        return ((self._folder if own else self._folder.parent) / ARTIFACTS).absolute().as_uri()

    def _send_chunk(self) -> bool:
        """Send the next stretch of the journal; whether there was anything to do."""
        journal = self._folder / JOURNAL
        if self._state.offset > (journal.stat().st_size if journal.exists() else 0):
            self._begin_again("the journal is another one")
        chunk = read_journal(journal, self._state.offset, CHUNK_BYTES)
        moved = chunk.offset > self._state.offset
        if moved:
            batch = _Batch(self._state, self._client, self._send, self._folder)
            for event in chunk.events:
                batch.add(event)
            batch.send()
            self._state.sweep_id, self._state.parent = batch.sweep_id, batch.parent
            self._state.objectives = batch.objectives
            self._state.runs |= batch.runs
            self._state.artifacts += batch.artifacts
            self._state.offset = chunk.offset
            self._save_state()
        return self._send_artifact() or moved

    def _send_artifact(self) -> bool:
        """Send one of the files that wait; whether there was one."""
        if not self._state.artifacts:
            return False
        item = self._state.artifacts.pop(0)
        try:
            self._upload(item)
        except _OutageError:
            # A file that cannot be sent must not hold up those behind it.
            self._state.artifacts.append(item)
            raise
        finally:
            self._save_state()
        return True

    def _upload(self, item: Mapping[str, str]) -> None:
        run_id = self._state.runs.get(item["trial"]) if item["trial"] else self._state.parent
        if "text" in item:
            self._send(lambda: self._client.log_text(run_id, item["text"], item["name"]))
        elif Path(item["path"]).is_file():
            self._send(lambda: self._client.log_artifact(run_id, item["path"], item["folder"] or None))
        else:
            self._refuse(f"the file {item['path']} of trial {item['trial']} is gone")

    def _send(self, request: Callable[[], object]) -> bool:
        """Send a request; whether it was accepted. One that never will be is left out, and counted."""
        from mlflow.exceptions import MlflowException

        try:
            _attempt(request)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not self._knows_sweep():
                self._begin_again("the server has lost the runs of this sweep")
            self._refuse(_one_line(error))
            return False
        return True

    def _knows_sweep(self) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            _attempt(lambda: self._client.get_run(self._state.parent))
        except MlflowException:
            return False
        return True

    def _refuse(self, why: str) -> None:
        # Not a warning: that would be printed over the table on the terminal. `close` says it.
        _log.info("MLflow does not get everything: %s", why)
        self._state.refused += 1
        self._refusal = why

    def _begin_again(self, why: str) -> None:
        """Forget what was sent, so that everything is sent anew."""
        self._state = _State(self.uri, self._experiment)
        self._client = None
        raise _OutageError(f"{why}; everything is sent again")

    # What is kept

    def _load_state(self) -> _State:
        state = read_state(self._folder / self._state_name)
        if state is None or (state.uri, state.experiment) != (self.uri, self._experiment):
            # Never sent, or sent elsewhere: everything is sent from the beginning.
            return _State(self.uri, self._experiment)
        return state

    def _save_state(self) -> None:
        write_whole(self._folder / self._state_name, json.dumps(asdict(self._state), indent=1))


class _Batch:
    """Requests for a stretch of the journal, gathered by run.

    Runs that are missing are made at once; everything else waits for `send`. Nothing is kept when that
    fails: the same stretch is then read and gathered again.

    Attributes:
        sweep_id: The sweep's own id, as the journal has it.
        objectives: Names of its objectives.
        parent: MLflow's id of the sweep's run.
        runs: MLflow's id of each trial's run.
        artifacts: Files to send later.
    """

    def __init__(
        self, state: _State, client: Any, send: Callable[[Callable[[], object]], bool], folder: Path
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self.sweep_id = state.sweep_id
        self.objectives = state.objectives
        self.parent = state.parent
        self.runs = dict(state.runs)
        self.artifacts: list[dict[str, str]] = []
        self._experiment_id = state.experiment_id
        self._folder = folder
        self._client = client
        self._send = send
        self._metric, self._param, self._tag = Metric, Param, RunTag
        self._metrics: dict[str, list[Any]] = defaultdict(list)
        self._params: dict[str, dict[str, str]] = defaultdict(dict)
        self._tags: dict[str, dict[str, str]] = defaultdict(dict)
        self._status: dict[str, tuple[str, int]] = {}

    def add(self, event: Event) -> None:
        """Take up one event; events that MLflow has no use for are passed over."""
        match event["event"]:
            case EventKind.SWEEP_START:
                self._sweep_start(event)
            case EventKind.TRIAL_START:
                self._trial_start(event)
            case EventKind.REPORT:
                self._report(event)
            case EventKind.TRIAL_RETRY:
                self._trial_retry(event)
            case EventKind.CHECKPOINTS_DROPPED:
                self._tags[self.runs[str(event["trial"])]]["checkpoints.dropped"] = _text(event["folders"])
            case EventKind.TRIAL_END:
                self._trial_end(event)
            case EventKind.SWEEP_END:
                self._status[self.parent] = (event["status"], _milliseconds(event))
                self._tags[self.parent] |= {"status": event["status"], "message": event["message"]}

    def _sweep_start(self, event: Event) -> None:
        spec, info = event["spec"], event["info"]
        first = not self.parent
        self.sweep_id = event["sweep_id"]
        self.objectives = [objective["name"] for objective in spec["objectives"]]
        tags = {"sweep.name": event["sweep"], "sweep.id": event["sweep_id"], "sweep.kind": "sweep"}
        parent = self._run(event["sweep"], tags, event)
        self.parent = parent
        self._tags[parent] |= {"status": "running", **_info_tags(info)}
        if first:
            # MLflow keeps the parameters of a run for good; a sweep that goes on may have a larger budget.
            self._params[parent] |= _sweep_params(spec)
        self._status[parent] = ("running", 0)
        self.artifacts += [
            {"trial": "", "name": "space.yaml", "text": event["space"]},
            {"trial": "", "name": "spec.json", "text": json.dumps(spec, indent=1)},
            {"trial": "", "name": "info.json", "text": json.dumps(info, indent=1)},
        ]

    def _trial_start(self, event: Event) -> None:
        number = str(event["trial"])
        tags = {
            "mlflow.parentRunId": self.parent,
            "sweep.id": self.sweep_id,
            "sweep.kind": "trial",
            "sweep.trial": number,
        }
        first = number not in self.runs
        run = self.runs.get(number) or self._run(f"trial {number}", tags, event)
        self.runs[number] = run
        self._tags[run]["status"] = "running"
        if first:
            # MLflow keeps parameters for good: what a retry changes stands in tags.
            self._params[run] |= {name: _text(value) for name, value in event["config"].items()}
            # MLflow's comparison begins with the metric that a run got first: that is to be the objective.
            self._add_metrics(run, _prefixed("final", dict.fromkeys(self.objectives, math.nan)), 0, event)
        self._status[run] = ("running", 0)
        self.artifacts.append(
            {"trial": number, "name": "config.json", "text": json.dumps(event["config"], indent=1)}
        )

    def _report(self, event: Event) -> None:
        number = str(event["trial"])
        self._add_metrics(self.runs[number], event["metrics"], event["step"], event)
        for name, path in event.get("artifacts", {}).items():
            folder = name.rpartition("/")[0]
            self.artifacts.append({"trial": number, "path": path, "folder": folder})

    def _trial_retry(self, event: Event) -> None:
        tags = self._tags[self.runs[str(event["trial"])]]
        tags["retries"] = str(event["retry"])
        tags[f"retry.{event['retry']}"] = f"{event['reason']}: {event['message']}"
        tags |= {f"changed.{name}": _text(value) for name, value in event["changes"].items()}

    def _trial_end(self, event: Event) -> None:
        number = str(event["trial"])
        run = self.runs[number]
        error = trial_folder(self._folder, event["trial"]) / ERROR_TEXT
        if event["status"] == "failed" and error.exists():
            self.artifacts.append({"trial": number, "path": str(error), "folder": ""})
        # At step 0: MLflow then draws them as bars to compare runs by, not as lines of one point.
        self._add_metrics(run, _prefixed("final", event["final"]), 0, event)
        self._add_metrics(run, _prefixed("best", event["best"]), 0, event)
        self._add_metrics(self.parent, _prefixed("best", event["sweep_best"]), event["ended"], event)
        if "gpu_hours" in event:
            self._add_metrics(run, {"cost/gpu_hours": event["gpu_hours"]}, 0, event)
            taken = {"cost/gpu_hours": event["sweep_gpu_hours"]}
            self._add_metrics(self.parent, taken, event["ended"], event)
        self._tags[run] |= {name: event[name] for name in ("status", "reason", "message")}
        self._status[run] = (event["status"], _milliseconds(event))

    def _run(self, name: str, tags: Mapping[str, str], event: Event) -> str:
        """The run with these tags, which is made where it is missing."""
        wanted = " and ".join(
            f"tags.`{key}` = '{tags[key]}'"
            for key in ("sweep.id", "sweep.kind", "sweep.trial")
            if key in tags
        )
        experiment = self._experiment_id
        found = _attempt(lambda: self._client.search_runs([experiment], wanted, max_results=1))
        if found:
            return str(found[0].info.run_id)
        run = _attempt(
            lambda: self._client.create_run(
                experiment, start_time=_milliseconds(event), tags={**tags, **_origin()}, run_name=name
            )
        )
        return str(run.info.run_id)

    def _add_metrics(self, run: str, metrics: Mapping[str, Any], step: int, event: Event) -> None:
        for name, value in sorted(metrics.items(), key=_prominence):
            number = float(value)
            # MLflow knows NaN and would turn an infinity into the largest number, which spoils the chart.
            number = number if math.isfinite(number) else math.nan
            self._metrics[run].append(self._metric(_key(name), number, _milliseconds(event), step))

    def send(self) -> None:
        """Send everything that was gathered, numbers first and the ends of runs last."""
        for run, metrics in self._metrics.items():
            for batch in _batches(metrics, METRICS_PER_BATCH):
                self._log(run, metrics=batch)
        for run, texts in self._params.items():
            params = [self._param(_key(name), text[:PARAM_LENGTH]) for name, text in texts.items()]
            for batch in _batches(params, PARAMS_PER_BATCH):
                self._log(run, params=batch)
        for run, texts in self._tags.items():
            tags = [self._tag(_key(name), text[:TAG_LENGTH]) for name, text in texts.items()]
            for batch in _batches(tags, PARAMS_PER_BATCH):
                self._log(run, tags=batch)
        for run, (status, end) in self._status.items():
            self._end(run, status, end)

    def _log(self, run: str, **entities: Sequence[Any]) -> None:
        self._send(lambda: self._client.log_batch(run, **entities))

    def _end(self, run: str, status: str, end: int) -> None:
        if status == "running":
            self._send(lambda: self._client.update_run(run, status="RUNNING"))
        else:
            self._send(lambda: self._client.set_terminated(run, STATUS[status], end_time=end))


def _origin() -> dict[str, str]:
    """What MLflow's pages show as the user and the source of a run."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        user = str(os.getuid())
    return {"mlflow.user": user, "mlflow.source.name": "sweeper", "mlflow.source.type": "JOB"}


def _info_tags(info: Mapping[str, Any]) -> dict[str, str]:
    """Tags of the sweep's run: what it was run with. Nested names are joined by dots."""
    tags: dict[str, str] = {}
    for name, value in info.items():
        if isinstance(value, Mapping):
            tags |= {f"{name}.{inner}": text for inner, text in _info_tags(value).items()}
        elif value is not None:
            tags[name] = _text(value)
    if "git.commit" in tags:
        tags["mlflow.source.git.commit"] = tags["git.commit"]
    return tags


def _sweep_params(spec: Mapping[str, Any]) -> dict[str, str]:
    """Parameters of the sweep's run: how it searches, and over what."""
    params = {"trainable": spec["trainable"]}
    for section in ("search", "early_stop", "budget", "resources"):
        for name, value in (spec[section] or {}).items():
            params[f"{section}.{name}"] = _text(value)
    for objective in spec["objectives"]:
        params[f"objective.{objective['name']}"] = objective["goal"]
    for parameter in spec["space"]["parameters"]:
        rest = {key: value for key, value in parameter.items() if key not in ("name", "kind")}
        params[f"space.{parameter['name']}"] = _text(rest)
    for number, text in enumerate(spec["space"]["constraints"]):
        params[f"constraint.{number}"] = text
    for name, value in spec["config"].items():
        params[f"config.{name}"] = _text(value)
    return params


def _prominence(metric: tuple[str, Any]) -> tuple[int, str]:
    """Sorts metrics: MLflow's comparison begins with the metric that a run got first."""
    name = metric[0]
    group = name.partition("/")[0]
    if group in FIRST_GROUPS:
        return (FIRST_GROUPS.index(group), "" if name == "train/loss" else name)
    return (len(FIRST_GROUPS) + (group == LAST_GROUP), name)


def _prefixed(prefix: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{prefix}/{name}": value for name, value in metrics.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _key(name: str) -> str:
    """A name as MLflow allows it: one that it does not like would cost the whole batch."""
    name = re.sub(r"[^\w\-./: ]", "_", name)[:KEY_LENGTH]
    return name if posixpath.normpath(name) == name and name[0] not in "./" else re.sub(r"\W", "_", name)


def _milliseconds(event: Event) -> int:
    return int(event["time"] * 1000)


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _attempt(request: Callable[[], T]) -> T:
    """Send a request.

    Raises:
        _OutageError: Where it may well succeed another time.
        MlflowException: Where it never will.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        return request()
    except MlflowException as error:
        if error.error_code in _PERMANENT:
            raise
        raise _OutageError(_one_line(error)) from error
    except (OSError, SQLAlchemyError) as error:
        raise _OutageError(_one_line(error)) from error


def _one_line(error: BaseException) -> str:
    lines = masked(str(error)).strip().splitlines() or [type(error).__name__]
    return lines[0] if len(lines[0]) <= 300 else lines[0][:297] + "..."


def _quieten() -> None:
    """Settle how MLflow's client behaves in this process, before it is imported."""
    # Our thread tries again itself; the client would hold one request for minutes.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(HTTP_TIMEOUT_S))
    # A sweep tells nobody about itself unless it was asked to.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # It prints a page for every statement that fails, onto a terminal that shows a table.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
