"""`sweeper sync` uploads missing data to MLflow, once, also to another server."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from played_sweeps import Sweep, client_of, history, wait_until
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.layout import DATABASE, LOCK
from sweeper.tracking.sync import sync_sweep

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep that was never uploaded, with a trial that was retried and one that failed."""
    folder = tmp_path_factory.mktemp("sweeps") / "small"
    made = Sweep(folder)
    made.start()
    made.trial(0, steps=2, status="")
    made.journal.append(
        "trial_retry", trial=0, reason="lost", message="gone", step=2, retry=1, changes={"train.parts": 2}
    )
    made.journal.append(
        "trial_start", trial=0, values={"optimizer.lr": 1e-4}, config={"optimizer.lr": 1e-4, "train.parts": 2}
    )
    made.report(0, 3, {"train/loss": 1 / 3})
    made.end(0, 3)
    made.trial(1, status="failed", reason="diverged")
    error = folder / "trials" / "1" / "error.txt"
    error.parent.mkdir(parents=True)
    error.write_text("diverged: the loss is nan\n")
    made.finish()
    return made


def sync(played: Any, *arguments: str) -> Any:
    command = ["sync", "small", "--sweeps", str(played.folder.parent), "--json", *arguments]
    return CliRunner().invoke(app, command)


def test_missing_data_is_uploaded_once(played: Any) -> None:
    for _ in range(2):
        answer = sync(played)
        assert answer.exit_code == 0, answer.output
        assert json.loads(answer.stdout)["complete"]
    client = client_of(played.folder)
    experiment = client.get_experiment_by_name("small").experiment_id
    runs = {run.data.tags.get("sweep.trial"): run for run in client.search_runs([experiment])}
    assert len(runs) == 3
    assert history(client, runs["0"].info.run_id, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]
    tags = runs["0"].data.tags
    assert (tags["retries"], tags["retry.1"], tags["changed.train.parts"]) == ("1", "lost: gone", "2")
    assert "train.parts" not in runs["0"].data.params
    files = [file.path for file in client.list_artifacts(runs["1"].info.run_id)]
    assert "error.txt" in files


def test_another_server_receives_everything_and_the_own_state_is_unchanged(
    played: Any, tmp_path: Path
) -> None:
    state = (played.folder / "mlflow.json").read_bytes()
    other = f"sqlite:///{tmp_path / 'other.db'}"
    assert sync(played, "--to", other).exit_code == 0
    assert sync(played, "--to", other).exit_code == 0
    client = client_of(played.folder, other)
    experiment = client.get_experiment_by_name("small").experiment_id
    assert len(client.search_runs([experiment])) == 3
    assert (played.folder / "mlflow.json").read_bytes() == state


def test_while_the_sweep_runs_its_driver_uploads_missing_data(played: Any) -> None:
    with FileLock(played.folder / LOCK):
        result = sync_sweep(played.folder, None, print)
    assert result.by_driver
    assert "its driver uploads" in str(result)


@pytest.mark.parametrize("uri", ["a/folder", "ftp://server/x"])
def test_an_unsupported_address_is_refused(played: Any, uri: str) -> None:
    answer = sync(played, "--to", uri)
    assert answer.exit_code == 1
    assert "is not an address of an MLflow server or database" in str(answer.exception)


def test_a_database_locked_by_another_process_is_written_once_it_is_free(tmp_path: Path) -> None:
    made = Sweep(tmp_path)
    made.start()
    tracker = made.tracker()
    assert tracker.start() == ""
    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("begin exclusive")
    made.trial(0)
    tracker.notify()
    wait_until(lambda: "locked" in tracker.problem)
    other.execute("rollback")
    other.close()
    assert tracker.close(300.0).complete
    assert len(history(client_of(tmp_path), tracker.run_id(0), "train/loss")) == 3
