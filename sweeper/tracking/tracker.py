"""Uploads the journal of a sweep to MLflow.

The journal is the only source. A thread reads new events and sends them to MLflow in batches, so training
never waits for a server. If the server does not answer, the thread retries from the same position after
increasing pauses. The position and the ids of the runs are stored in ``mlflow.json`` beside the journal, so
a new driver continues from there. At most one chunk of the journal is held in memory.

Sending data twice does no harm: runs are looked up by their tags before they are created, and MLflow ignores
a metric that it already has. Only `MlflowClient` is used; there is never an active run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError, UserError
from sweeper.layout import DATABASE, JOURNAL, REPORT, STATE, TRIALS, trial_folder, write_whole
from sweeper.masking import masked, safe_uri
from sweeper.records.events import EventKind
from sweeper.records.journal import read_journal
from sweeper.records.summary import read_summary
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import is_store
from sweeper.tracking.client import OutageError, attempt, log_file, log_text, one_line, quieten
from sweeper.tracking.database import (
    artifacts_uri,
    own_database,
    own_database_uri,
    update_artifact_locations,
)
from sweeper.tracking.description import DESCRIPTION, SIGNATURE, describe
from sweeper.tracking.runs import TAG_LENGTH, Batch
from sweeper.tracking.state import Delivery, State, read_state
from sweeper.tracking.urls import EXPERIMENT_TAGS, Links, links_to

__all__ = ["Tracker", "tracking_uri"]

CHUNK_BYTES = 500_000
"""How much of the journal is sent at a time. It bounds the memory, and what is sent again after an outage."""

DESCRIBED = (
    EventKind.SWEEP_START,
    EventKind.TRIAL_END,
    EventKind.SWEEP_END,
    EventKind.CONFIRMED,
    EventKind.JUDGED,
)
"""The description of the sweep's run is updated after these events."""

DESCRIBE_S = 60.0
"""Seconds between two updates of the description while a sweep runs."""

GATHER_S = 1.0
"""Events are collected for this long before they are sent."""

FIRST_PAUSE_S = 1.0

LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


def tracking_uri(folder: Path, uri: str | None) -> str:
    """The address for a sweep's runs: ``uri``, else MLFLOW_TRACKING_URI, else SQLite in its folder.

    Raises:
        UserError: If MLFLOW_TRACKING_URI is not the address of a server or database.
    """
    named = os.environ.get("MLFLOW_TRACKING_URI")
    if uri is None and named and not is_store(named):
        raise UserError(
            f"MLFLOW_TRACKING_URI: {masked(named)!r} is not the address of an MLflow server or database. "
            "Use http://HOST:5000, sqlite:///PATH/mlflow.db or postgresql://..., or unset the variable: "
            "then the runs are in the sweep's folder. A folder is not supported."
        )
    return uri or named or own_database_uri(folder)


class Tracker:
    """Uploads a sweep's journal to MLflow.

    Args:
        folder: The sweep's folder, with its journal.
        uri: MLflow server or database; None for the default of `tracking_uri`.
        experiment: Name of the MLflow experiment; created if it is missing.
        state: Name of the file beside the journal that records how much was sent.

    Attributes:
        uri: The server or database, without user name and password.
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
        self._outdated = True
        self._described = -math.inf

    # Called by the driver

    def start(self) -> str:
        """Open MLflow, create the experiment, and start the thread.

        The database of a sweep without a server is created here, before a second process exists that could
        create it at the same time.

        Returns:
            Why the server does not answer, in one line; the sweep may continue then. Empty if it answers.

        Raises:
            UserError: If MLflow cannot be used at this address or with this experiment name.
        """
        quieten()
        if self._is_own:
            # A database that cannot be written is reported below.
            with contextlib.suppress(sqlite3.Error):
                update_artifact_locations(own_database(self._folder), self._folder)
        try:
            self._connect()
        except OutageError as outage:
            if self.uri.startswith("sqlite:") and "locked" not in str(outage):
                raise UserError(
                    f"tracking.uri: the database {self.uri} cannot be opened: {outage}."
                ) from outage
            self._problem = str(outage)
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()
        return self._problem

    def notify(self) -> None:
        """Report that the journal has new events. Never blocks."""
        self._wake.set()

    @property
    def problem(self) -> str:
        """Why nothing can be sent at the moment, in one line; empty if there is no problem."""
        return self._problem

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment; empty until the server has answered."""
        return self._state.experiment_id

    def run_id(self, number: int) -> str | None:
        """MLflow's id of a trial's run; None if it does not exist yet."""
        return self._state.runs.get(str(number))

    def links(self, sweep: SweepState) -> Links | None:
        """MLflow's pages for the sweep; None if MLflow has none of its trials yet."""
        return links_to(sweep, self._state)

    def send_all(self, waiting: Callable[[Delivery], object], patience_s: float = 20.0) -> Delivery:
        """Send everything, without a time limit, unless MLflow does not answer for ``patience_s`` seconds.

        Args:
            waiting: Called repeatedly with what is still missing.
            patience_s: How long the server may be unavailable.
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
        """Send the remaining events and files for at most ``deadline_s`` seconds, and stop."""
        self._deadline = time.monotonic() + deadline_s
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=deadline_s)
        return self.delivery()

    def delivery(self) -> Delivery:
        """What MLflow is still missing."""
        left = len(read_journal(self._folder / JOURNAL, self._state.offset).events)
        files = len(self._state.artifacts) + (self._report_time() > 0)
        refused = self._state.refused
        if not left and not files:
            return Delivery(True, refused=refused, problem=self._refusal)
        return Delivery(False, left, files, refused, self._problem or "there was not enough time")

    # The thread

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                self._connect()
                busy = self._send_chunk()
                self._problem = ""
                pause_s = FIRST_PAUSE_S
            except (OutageError, UserError, OSError) as outage:
                # OSError: the journal or the state cannot be read or written, e.g. because the disk is full.
                self._problem = one_line(outage)
                self._rest(min(pause_s, 1.0) if self._closing.is_set() else pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                busy = True
            except Exception as error:
                # A bug in the tracker must not end the training.
                _log.exception("the upload to MLflow cannot continue")
                self._problem = one_line(error)
                return
            if self._closing.is_set() and (not busy or time.monotonic() >= self._deadline):
                return
            if not busy:
                self._wake.wait()
                self._wake.clear()
                self._rest(GATHER_S)

    def _rest(self, seconds: float) -> None:
        """Wait, but not past the deadline of a driver that ends."""
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
            client = attempt(lambda: MlflowClient(tracking_uri=self._login_uri))
            experiment_id = attempt(lambda: self._find_experiment(client))
        except MlflowException as error:
            raise UserError(f"tracking.uri: {self.uri} cannot be written: {one_line(error)}") from error
        self._client = client
        if self._state.parent and not self._knows_sweep():
            self._state = State(self.uri, self._experiment)
        self._state.experiment_id = experiment_id

    def _find_experiment(self, client: Any) -> str:
        """The id of the experiment, which is created if it is missing."""
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
                "Restore it there, or set tracking.experiment to another name."
            )
        return str(found.experiment_id)

    def _artifacts(self) -> str | None:
        """The place for the files of a new experiment; None for a server, which chooses it itself."""
        if self.uri.startswith(("http:", "https:", "databricks")):
            return None
        # A database of the user may contain several sweeps: their files are stored beside them.
        return artifacts_uri(self._folder if self._is_own else self._folder.parent)

    @property
    def _is_own(self) -> bool:
        """Whether the runs are in the database in the sweep's folder."""
        return self.uri == own_database_uri(self._folder)

    def _send_chunk(self) -> bool:
        """Send the next chunk of the journal or one file. Returns whether there was anything to send."""
        journal = self._folder / JOURNAL
        if self._state.offset > (journal.stat().st_size if journal.exists() else 0):
            self._restart("the journal was replaced")
        chunk = read_journal(journal, self._state.offset, CHUNK_BYTES)
        moved = chunk.offset > self._state.offset
        if moved:
            batch = Batch(self._state, self._client, self._send, self._folder)
            for event in chunk.events:
                batch.add(event)
            batch.send()
            self._state.sweep_id, self._state.parent = batch.sweep_id, batch.parent
            self._state.objectives = batch.objectives
            self._state.runs |= batch.runs
            self._state.artifacts += batch.artifacts
            self._state.offset = chunk.offset
            self._save_state()
            self._outdated |= any(event["event"] in DESCRIBED for event in chunk.events)
        described = not moved and self._must_describe() and self._send_description()
        return described or self._send_artifact() or moved or self._send_report()

    def _must_describe(self) -> bool:
        """Whether to update the description. A large sweep takes a second to read: not after every trial."""
        recent = time.monotonic() < self._described + DESCRIBE_S
        return self._outdated and (self._closing.is_set() or not recent)

    def _send_description(self) -> bool:
        """Update the description of the sweep's run. Returns whether it was sent."""
        from mlflow.exceptions import MlflowException

        self._outdated, self._described = False, time.monotonic()
        if not self._state.parent:
            return False
        try:
            run = attempt(lambda: self._client.get_run(self._state.parent))
            before = run.data.tags.get(DESCRIPTION, "")
            if before and SIGNATURE not in before:
                return False  # the user's own text
            text = describe(read_summary(self._folder), self._state)
            attempt(lambda: self._client.set_tag(self._state.parent, DESCRIPTION, text[:TAG_LENGTH]))
        except OutageError:
            self._outdated = True
            raise
        except (MlflowException, SweeperError) as error:
            # The sweep is recorded without it.
            _log.info("the description of the sweep's run was not updated: %s", one_line(error))
            return False
        return True

    def _report_time(self) -> int:
        """When the report of the sweep was written, in ns; 0 if MLflow has it, or if there is none."""
        try:
            written = (self._folder / REPORT).stat().st_mtime_ns
        except OSError:
            return 0
        return 0 if written == self._state.report else written

    def _send_report(self) -> bool:
        """Upload the report of the sweep if MLflow has none or an older one. Returns whether it did."""
        written = self._report_time()
        if not written or not self._state.parent:
            return False
        self._send(lambda: log_file(self._client, self._state.parent, self._folder / REPORT))
        self._state.report = written
        self._save_state()
        return True

    def _send_artifact(self) -> bool:
        """Upload one of the pending files. Returns whether there was one."""
        if not self._state.artifacts:
            return False
        item = self._state.artifacts.pop(0)
        try:
            self._upload(item)
        except OutageError:
            # A file that cannot be uploaded must not block the others.
            self._state.artifacts.append(item)
            raise
        finally:
            self._save_state()
        return True

    def _upload(self, item: Mapping[str, str]) -> None:
        run_id = self._state.runs.get(item["trial"]) if item["trial"] else self._state.parent
        if "text" in item:
            self._send(lambda: log_text(self._client, str(run_id), item["text"], item["name"]))
            return
        path = Path(item["path"])
        if not path.is_file():
            # The folder of the sweep may have been moved since the trial reported the file.
            inside = item["path"].rpartition(f"/{TRIALS}/{item['trial']}/")[2]
            path = trial_folder(self._folder, int(item["trial"])) / inside
        if path.is_file():
            self._send(lambda: log_file(self._client, str(run_id), path, item["folder"]))
        else:
            self._refuse(f"the file {item['path']} of trial {item['trial']} is missing")

    def _send(self, request: Callable[[], object]) -> bool:
        """Send a request. Returns False if MLflow rejects it for good; it is then skipped and counted."""
        from mlflow.exceptions import MlflowException

        try:
            attempt(request)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not self._knows_sweep():
                self._restart("the server has lost the runs of this sweep")
            self._refuse(one_line(error))
            return False
        return True

    def _knows_sweep(self) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            attempt(lambda: self._client.get_run(self._state.parent))
        except MlflowException:
            return False
        return True

    def _refuse(self, why: str) -> None:
        # Not a warning, which would be printed over the table on the terminal. `close` reports it.
        _log.info("MLflow rejected a request: %s", why)
        self._state.refused += 1
        self._refusal = why

    def _restart(self, why: str) -> None:
        """Reset the state, so that everything is sent again."""
        self._state = State(self.uri, self._experiment)
        self._client = None
        raise OutageError(f"{why}; everything is sent again")

    # The state file

    def _load_state(self) -> State:
        state = read_state(self._folder / self._state_name)
        if state is None:
            return State(self.uri, self._experiment)
        if self._is_own and state.uri.startswith("sqlite:") and Path(state.uri).name == DATABASE:
            # The same database, perhaps in a folder that was moved. `_connect` checks that it has the runs.
            state.uri = self.uri
        if (state.uri, state.experiment) != (self.uri, self._experiment):
            # The state belongs to another server: everything is sent from the start.
            return State(self.uri, self._experiment)
        return state

    def _save_state(self) -> None:
        write_whole(self._folder / self._state_name, json.dumps(asdict(self._state), indent=1))
