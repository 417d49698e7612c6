"""Sends the journal of a sweep to MLflow.

The journal is the only source. A thread reads what was appended to it and writes that to MLflow in batches,
so training never waits for a server. When the server does not answer, the thread tries again, ever more
slowly, from where it was; the place is kept in ``mlflow.json`` beside the journal, so that a new driver, too,
continues from there and knows the runs that exist. Nothing waits in memory but one stretch of the journal.

Whatever is sent twice is the same thing twice: runs are found by their tags before they are made, and MLflow
drops a metric that it has. Only `MlflowClient` is used, no run is ever the active one.
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

from sweeper.errors import UserError
from sweeper.layout import DATABASE, JOURNAL, STATE, TRIALS, moved_path, write_whole
from sweeper.masking import safe_uri
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import SweepState
from sweeper.tracking.client import OutageError, attempt, one_line, quieten
from sweeper.tracking.database import (
    artifacts_uri,
    own_database,
    own_database_uri,
    update_artifact_locations,
)
from sweeper.tracking.runs import Batch
from sweeper.tracking.state import Delivery, State, read_state
from sweeper.tracking.urls import EXPERIMENT_TAGS, Links, links_to

__all__ = ["Tracker", "tracking_uri"]

CHUNK_BYTES = 500_000
"""How much of the journal is sent at a time: it bounds the memory, and what an outage has done again."""

GATHER_S = 1.0
"""Events are gathered for this long before they are sent."""

FIRST_PAUSE_S = 1.0

LONGEST_PAUSE_S = 60.0

_log = logging.getLogger(__name__)


def tracking_uri(folder: Path, uri: str | None) -> str:
    """Where the runs of a sweep go: ``uri``, else MLFLOW_TRACKING_URI, else SQLite in the sweep's folder."""
    return uri or os.environ.get("MLFLOW_TRACKING_URI") or own_database_uri(folder)


class Tracker:
    """Sends a sweep's journal to MLflow.

    Args:
        folder: The sweep's folder, with its journal.
        uri: MLflow server or database; None as `tracking_uri` says.
        experiment: Name of the MLflow experiment; made if it is missing.
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
            What is wrong with the server, in one line, if it does not answer: the sweep may continue. Empty
            where all is well.

        Raises:
            UserError: If MLflow can never be written under this address or experiment name.
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
        """Say that the journal has grown. Never waits."""
        self._wake.set()

    @property
    def problem(self) -> str:
        """Why nothing can be sent at the moment, in one line; empty if all is well."""
        return self._problem

    @property
    def experiment_id(self) -> str:
        """MLflow's id of the experiment; empty while the server has not answered yet."""
        return self._state.experiment_id

    def run_id(self, number: int) -> str | None:
        """MLflow's id of a trial's run, or None while it does not exist yet."""
        return self._state.runs.get(str(number))

    def links(self, sweep: SweepState) -> Links | None:
        """MLflow's pages for the sweep; None if MLflow has none of its trials yet."""
        return links_to(sweep, self._state)

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
            except (OutageError, UserError, OSError) as outage:
                # OSError: the journal or the state cannot be read or written, as on a disk that is full.
                self._problem = one_line(outage)
                self._rest(min(pause_s, 1.0) if self._closing.is_set() else pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                busy = True
            except Exception as error:
                # A fault of ours must not end the training that it watches.
                _log.exception("the tracker cannot go on")
                self._problem = one_line(error)
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
            client = attempt(lambda: MlflowClient(tracking_uri=self._login_uri))
            experiment_id = attempt(lambda: self._find_experiment(client))
        except MlflowException as error:
            raise UserError(f"tracking.uri: {self.uri} cannot be written: {one_line(error)}") from error
        self._client = client
        if self._state.parent and not self._knows_sweep():
            self._state = State(self.uri, self._experiment)
        self._state.experiment_id = experiment_id

    def _find_experiment(self, client: Any) -> str:
        """The id of the experiment, which is made if it is missing."""
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
        # A database of the user may contain several sweeps: their files are stored beside them.
        return artifacts_uri(self._folder if self._is_own else self._folder.parent)

    @property
    def _is_own(self) -> bool:
        """Whether the runs are in the database in the sweep's folder."""
        return self.uri == own_database_uri(self._folder)

    def _send_chunk(self) -> bool:
        """Send the next stretch of the journal; whether there was anything to do."""
        journal = self._folder / JOURNAL
        if self._state.offset > (journal.stat().st_size if journal.exists() else 0):
            self._begin_again("the journal is another one")
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
        return self._send_artifact() or moved

    def _send_artifact(self) -> bool:
        """Send one of the files that wait; whether there was one."""
        if not self._state.artifacts:
            return False
        item = self._state.artifacts.pop(0)
        try:
            self._upload(item)
        except OutageError:
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
            return
        path = item["path"]
        if not Path(path).is_file():
            # The folder may have been moved since the trial reported the file.
            home = path.rpartition(f"/{TRIALS}/{item['trial']}/")[0]
            path = moved_path(path, home, self._folder)
        if Path(path).is_file():
            self._send(lambda: self._client.log_artifact(run_id, path, item["folder"] or None))
        else:
            self._refuse(f"the file {item['path']} of trial {item['trial']} is missing")

    def _send(self, request: Callable[[], object]) -> bool:
        """Send a request; whether it was accepted. One that never will be is left out, and counted."""
        from mlflow.exceptions import MlflowException

        try:
            attempt(request)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST" and not self._knows_sweep():
                self._begin_again("the server has lost the runs of this sweep")
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
        # Not a warning: that would be printed over the table on the terminal. `close` says it.
        _log.info("MLflow does not get everything: %s", why)
        self._state.refused += 1
        self._refusal = why

    def _begin_again(self, why: str) -> None:
        """Forget what was sent, so that everything is sent anew."""
        self._state = State(self.uri, self._experiment)
        self._client = None
        raise OutageError(f"{why}; everything is sent again")

    # What is kept

    def _load_state(self) -> State:
        state = read_state(self._folder / self._state_name)
        if state is None:
            return State(self.uri, self._experiment)
        if self._is_own and state.uri.startswith("sqlite:") and Path(state.uri).name == DATABASE:
            # The same database, perhaps in a folder that was moved. `_connect` checks that it has the runs.
            state.uri = self.uri
        if (state.uri, state.experiment) != (self.uri, self._experiment):
            # Sent elsewhere: everything is sent from the beginning.
            return State(self.uri, self._experiment)
        return state

    def _save_state(self) -> None:
        write_whole(self._folder / self._state_name, json.dumps(asdict(self._state), indent=1))
