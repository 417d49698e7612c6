"""MLflow receives the whole journal, once, in batches, also after an outage, and training never waits for it.

Importing MLflow takes seconds, and every test here needs its own database.
"""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
from played_sweeps import Sweep, client_of, history, wait_until
from small_sweeps import SUCCESS

from sweeper.errors import UserError
from sweeper.layout import DATABASE, STATE
from sweeper.machines.ssh import unused_port
from sweeper.records.events import EventKind
from sweeper.records.sweep_state import read_sweep
from sweeper.tracking.state import read_state
from sweeper.tracking.tracker import Tracker, tracking_uri

pytestmark = [
    pytest.mark.slow,
    # MLflow's own imports and its use of SQLAlchemy cause warnings, which this project cannot fix.
    pytest.mark.filterwarnings("default"),
]


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name in (
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
        "MLFLOW_HTTP_REQUEST_TIMEOUT",
        "MLFLOW_DISABLE_TELEMETRY",
    ):
        monkeypatch.setenv(name, os.environ.get(name, "0" if name.endswith("RETRIES") else "120"))
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")


def parent_run_id(tracker):
    return tracker._state.parent


def test_a_run_says_where_the_values_of_its_trial_were_taken_from(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    fields = {"values": {"optimizer.lr": 1e-4}, "config": {"optimizer.lr": 1e-4}}
    played.journal.append(EventKind.TRIAL_START, trial=0, origin="trial 7 of old", **fields)
    played.trial(1)
    tracker, _ = played.deliver()
    runs = tracker._state.runs
    tags = [client_of(tmp_path).get_run(runs[number]).data.tags for number in ("0", "1")]
    assert [found.get("sweep.origin") for found in tags] == ["trial 7 of old", None]


def test_a_sweep_is_one_parent_run_with_a_child_for_each_trial(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, lr=1e-4)
    played.trial(1, lr=3e-4, steps=2, status="stopped_early", reason="asha")
    played.trial(2, lr=1e-3, steps=1, status="failed", reason="diverged")
    played.trial(3, status="interrupted", steps=2)
    played.finish()
    tracker, delivery = played.deliver()
    assert delivery.complete
    assert delivery.refused == 0
    client = client_of(tmp_path)

    parent = client.get_run(parent_run_id(tracker))
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["git.commit"] == parent.data.tags["mlflow.source.git.commit"] == "abc123"
    assert parent.data.tags["dataset.fingerprint"] == "f00d"
    assert parent.data.tags["dataset.split_hash"] == "beef"
    assert parent.data.tags["versions.torch"] == "2.14.1"
    assert parent.data.params["search.method"] == "tpe"
    assert json.loads(parent.data.params["space.optimizer.lr"]) == {"min": 1e-5, "max": 1e-3, "log": True}
    assert [step for step, _ in history(client, parent_run_id(tracker), f"best_final/{SUCCESS}")] == [
        1,
        2,
        3,
        4,
    ]

    runs = [client.get_run(tracker.run_id(number)) for number in range(4)]
    assert [run.info.status for run in runs] == ["FINISHED", "KILLED", "FAILED", "KILLED"]
    assert [run.data.tags["status"] for run in runs] == [
        "completed",
        "stopped_early",
        "failed",
        "interrupted",
    ]
    assert [run.data.tags.get("reason") for run in runs] == [None, "asha", "diverged", None]
    assert [run.data.tags.get("message") for run in runs][::2] == [None, "diverged at step 1"]
    assert not any(name.startswith("best/") for name in parent.data.metrics)
    assert {run.data.tags["mlflow.parentRunId"] for run in runs} == {parent_run_id(tracker)}
    assert runs[1].data.params["optimizer.lr"] == "0.0003"
    assert runs[1].data.params["policy.down_dims"] == "[32, 64]"
    assert runs[0].data.metrics[f"final/{SUCCESS}"] == pytest.approx(0.3)
    assert runs[0].data.metrics[f"best/{SUCCESS}"] == pytest.approx(0.3)
    assert history(client, runs[0].info.run_id, "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_tag_of_the_data_holds_for_every_trial(tmp_path):
    """If the split is searched, its sizes are those of some trials only."""
    described = [
        {"fields": {"dataset.holdout_fraction": part}, "dataset": "lab/pusht", "train_episodes": count}
        for part, count in ((0.1, 185), (0.2, 165))
    ]
    # A journal of an earlier version has the first combination's figures for all.
    first = {"dataset": "lab/pusht", "train_episodes": 185, "searched": described}
    played = Sweep(tmp_path)
    played.start(info={"data": first})
    tracker, _ = played.deliver()
    tags = client_of(tmp_path).get_run(parent_run_id(tracker)).data.tags
    assert {name: value for name, value in tags.items() if name.startswith("data.")} == {
        "data.dataset": "lab/pusht"
    }


def test_what_was_found_after_the_search_stands_in_the_runs(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0)
    played.trial(1)
    played.tuned(0, {"policy.n_action_steps": 4}, value=1.5, untuned=0.3)
    played.confirmed((0, 0.75, 0.9), (1, 0.6, 0.1))
    played.judged((1, 0.8, {}), ("old:3", 0.6, {}), (0, 0.4, {}))
    played.finish()
    played.deliver()
    client, state = client_of(tmp_path), read_state(tmp_path / STATE)
    tuned, parent = client.get_run(state.runs["0"]).data, client.get_run(state.parent).data
    assert tuned.metrics[f"tuned/{SUCCESS}"] == tuned.metrics[f"final/{SUCCESS}"] == 1.5
    assert tuned.tags["tuned.policy.n_action_steps"] == "4"
    assert tuned.metrics[f"confirmed/{SUCCESS}"] == 0.75
    assert tuned.metrics["p_best"] == 0.9
    assert parent.metrics[f"confirmed/{SUCCESS}_low"] == 0.65
    assert parent.tags["confirmed.verdict"] == "Trial 0 is the best."
    assert (tuned.metrics["real/score"], tuned.metrics["real/p_best"]) == (0.4, 0.5)
    assert parent.metrics["real/score"] == 0.8
    assert (parent.tags["real.winner"], parent.tags["real.judged_by"]) == ("1", "a person")

    # A policy that is not a trial has no run, but its result is the sweep's if it wins.
    played.judged(("old:3", 0.9, {}), (1, 0.7, {}))
    played.deliver()
    parent = client.get_run(state.parent).data
    assert (parent.tags["real.winner"], parent.metrics["real/score"]) == ("old:3", 0.9)
    assert parent.tags["real.verdict"] == "Policy old:3 leads after 30 starts."
    assert client.get_run(state.runs["1"]).data.metrics["real/score"] == 0.7
    runs = client.search_runs([client.get_run(state.parent).info.experiment_id])
    assert {run.info.run_id for run in runs} == {state.parent, state.runs["0"], state.runs["1"]}


def test_the_default_database_is_in_the_sweeps_folder_whatever_its_name(tmp_path):
    folder = tmp_path / 'it\'s a 100% "folder" #1'
    video = tmp_path / "rollout 5.mp4"
    video.write_bytes(b"film")
    played = Sweep(folder)
    played.start()
    played.trial(0, status="")
    played.report(0, 10, {"train/loss": 0.1}, artifacts={"rollout/video": str(video)})
    played.end(0, 10)
    tracker, delivery = played.deliver()
    assert delivery.complete
    assert (folder / DATABASE).exists()
    client = client_of(folder)
    assert {file.path for file in client.list_artifacts(parent_run_id(tracker))} == {
        "space.yaml",
        "spec.json",
        "info.json",
    }
    run = tracker.run_id(0)
    assert [file.path for file in client.list_artifacts(run, "rollout")] == ["rollout/rollout 5.mp4"]
    stored = [path for path in (folder / "artifacts").rglob("*") if path.is_file()]
    assert {path.name for path in stored} >= {"config.json", "rollout 5.mp4", "space.yaml"}


def test_nothing_of_a_trials_files_is_kept_when_they_are_uploaded(tmp_path):
    from mlflow.store.artifact.artifact_repo import ArtifactRepository

    def kept():
        gc.collect()
        return sum(isinstance(one, ArtifactRepository) for one in gc.get_objects())

    before = kept()
    played = Sweep(tmp_path)
    played.start()
    for number in range(12):
        played.trial(number, steps=1)
    tracker, delivery = played.deliver()
    assert delivery.complete
    config = client_of(tmp_path).list_artifacts(tracker.run_id(11))
    assert [file.path for file in config] == ["config.json"]
    assert len(list((tmp_path / "artifacts").rglob("config.json"))) == 12
    # `list_artifacts` above makes one.
    assert kept() - before <= 1


def test_a_restarted_tracker_continues_with_the_same_runs(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="")
    first, _ = played.deliver()
    runs = parent_run_id(first), first.run_id(0)
    played.start(trials=99)  # a larger budget: MLflow would refuse to change the parameter
    played.report(0, 4, {"train/loss": 0.25})
    played.end(0, 4)
    second, delivery = played.deliver()
    assert delivery.complete
    assert delivery.refused == 0
    assert (parent_run_id(second), second.run_id(0)) == runs
    client = client_of(tmp_path)
    assert history(client, runs[1], "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert len(client.search_runs([second.experiment_id])) == 2


@pytest.mark.parametrize("at_once", [True, False])
def test_a_trial_that_completes_after_an_interruption_has_no_reason(tmp_path, at_once):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="interrupted", reason="lost")
    if not at_once:
        tracker, _ = played.deliver()
        assert client_of(tmp_path).get_run(tracker.run_id(0)).data.tags["reason"] == "lost"
    played.trial(0, steps=4)
    tracker, delivery = played.deliver()
    assert (delivery.complete, delivery.refused) == (True, 0)
    tags = client_of(tmp_path).get_run(tracker.run_id(0)).data.tags
    assert tags["status"] == "completed"
    assert not {"reason", "message"} & set(tags)


def test_data_that_is_sent_twice_is_recorded_once(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0)
    played.finish()
    first, _ = played.deliver()
    (tmp_path / "mlflow.json").unlink()  # as if the driver died before it recorded what was sent
    second, delivery = played.deliver()
    assert delivery.complete
    assert (parent_run_id(second), second.run_id(0)) == (parent_run_id(first), first.run_id(0))
    client = client_of(tmp_path)
    assert len(client.search_runs([second.experiment_id])) == 2
    assert history(client, second.run_id(0), "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3)]


def test_a_lost_database_is_restored_from_the_journal(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0)
    played.deliver()
    (tmp_path / DATABASE).unlink()
    played.trial(1)
    # In a new process, because in this one MLflow still has the deleted file open.
    script = (
        "import sys; from pathlib import Path; from sweeper.tracking.tracker import Tracker\n"
        "tracker = Tracker(Path(sys.argv[1]), None, 'small'); print(tracker.start(), tracker.close(300))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True)
    assert done.stdout.strip() == "MLflow is up to date.", done.stderr
    tracker = played.tracker()
    count = "SELECT COUNT(*) FROM metrics WHERE key = 'train/loss' AND run_uuid = ?"
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as database:
        for number in (0, 1):
            assert database.execute(count, (tracker.run_id(number),)).fetchone() == (3,)


def test_names_and_values_that_mlflow_rejects_affect_nothing_else(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="", note="x" * 9000)
    odd = {"/root": 1.0, "a//b": 2.0, "../up": 3.0, "per%cent{}": 4.0, "y" * 400: 5.0, "fine": 6.0}
    played.report(0, 5, {**odd, "diverged": math.nan, "exploded": math.inf})
    tracker, delivery = played.deliver()
    assert delivery.complete
    assert delivery.refused == 0
    run = client_of(tmp_path).get_run(tracker.run_id(0))
    assert sorted(value for value in run.data.metrics.values() if value >= 1) == [1, 2, 3, 4, 5, 6]
    assert math.isnan(run.data.metrics["diverged"])
    assert math.isnan(run.data.metrics["exploded"])
    assert len(run.data.params["note"]) == 6000


def test_requests_that_are_too_large_are_split(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="", **{f"field_{number}": number for number in range(250)})
    for step in range(30):
        played.report(0, 10 + step, {f"metric_{number}": float(step) for number in range(50)})
    tracker, delivery = played.deliver()
    assert delivery.complete
    assert delivery.refused == 0
    client = client_of(tmp_path)
    run = client.get_run(tracker.run_id(0))
    assert len(run.data.params) == 252
    assert len(history(client, tracker.run_id(0), "metric_49")) == 30


def test_a_run_that_the_user_deleted_does_not_block_the_others(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="")
    tracker, _ = played.deliver()
    client = client_of(tmp_path)
    client.delete_run(tracker.run_id(0))
    played.report(0, 9, {"train/loss": 0.0})
    played.trial(1)
    tracker, delivery = played.deliver()
    assert delivery.complete
    assert delivery.refused == 1
    assert "It rejected 1 requests" in str(delivery)
    assert len(history(client, tracker.run_id(1), "train/loss")) == 3


def test_a_missing_file_is_reported_and_skipped(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="")
    played.report(0, 9, {"train/loss": 0.0}, artifacts={"rollout/video": "/nowhere/film.mp4"})
    _, delivery = played.deliver()
    assert delivery.complete
    assert delivery.refused == 1
    assert "/nowhere/film.mp4" in delivery.problem


def test_events_that_the_driver_appends_meanwhile_all_arrive(tmp_path):
    played = Sweep(tmp_path)
    tracker = played.tracker()
    assert tracker.start() == ""
    played.start()
    for number in range(5):
        played.trial(number)
        tracker.notify()
    assert tracker.close(300.0).complete
    client = client_of(tmp_path)
    assert [len(history(client, tracker.run_id(number), "train/loss")) for number in range(5)] == [3] * 5


@pytest.mark.parametrize(
    ("uri", "message"),
    [("nonsense://host", "cannot be written"), ("sqlite:////dev/null/x.db", "cannot be")],
)
def test_an_invalid_address_is_refused_before_any_trial(tmp_path, uri, message):
    with pytest.raises(UserError, match=message):
        Tracker(tmp_path, uri, "small").start()


def test_a_deleted_experiment_is_a_clear_error(tmp_path):
    played = Sweep(tmp_path)
    tracker, _ = played.deliver()
    client_of(tmp_path).delete_experiment(tracker.experiment_id)
    with pytest.raises(UserError, match="'small' was deleted"):
        played.tracker().start()


def test_the_address_is_the_users_then_the_environments_then_the_folder(tmp_path, monkeypatch):
    assert tracking_uri(tmp_path, None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
    assert tracking_uri(tmp_path, None) == "http://server:5000"
    assert tracking_uri(tmp_path, "http://mine:1") == "http://mine:1"


@pytest.mark.parametrize("named", ["./mlruns", "file:///tmp/mlruns", "server:5000"])
def test_an_address_of_the_environment_that_is_none_is_refused(tmp_path, monkeypatch, named):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", named)
    with pytest.raises(
        UserError, match=r"^MLFLOW_TRACKING_URI: .* is not the address .* or unset the variable"
    ):
        tracking_uri(tmp_path, None)
    assert tracking_uri(tmp_path, "http://mine:1") == "http://mine:1"


def test_the_objective_is_the_first_metric_of_a_run_and_unknown_until_the_end(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="")
    played.deliver()
    played.end(0, 3)
    played.trial(1, status="")
    tracker, _ = played.deliver()
    client = client_of(tmp_path)
    ended, running = (client.get_run(tracker.run_id(number)).data.metrics for number in (0, 1))
    # MLflow's comparison starts with the first metric; summaries at step 0 are drawn as bars.
    assert next(iter(ended)) == next(iter(running)) == f"final/{SUCCESS}"
    assert ended[f"final/{SUCCESS}"] == pytest.approx(0.3)
    assert math.isnan(running[f"final/{SUCCESS}"])
    assert {step for step, _ in history(client, tracker.run_id(0), f"final/{SUCCESS}")} == {0}


class Server:
    """A real MLflow server that can be killed and restarted on the same port with the same data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = unused_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self):
        arguments = [
            *("--backend-store-uri", f"sqlite:///{self.folder}/server.db"),
            *("--artifacts-destination", str(self.folder / "files")),
            *("--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"),
        ]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", *arguments],
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until = time.monotonic() + 300
        while time.monotonic() < until:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=10):
                    return
            except OSError:
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.2)
        raise AssertionError("the server did not start")

    def kill(self):
        if self.process is not None:
            os.killpg(self.process.pid, 9)
            self.process.wait()
            self.process = None


@pytest.fixture
def server(tmp_path):
    folder = tmp_path / "server"
    folder.mkdir()
    running = Server(folder)
    yield running
    running.kill()


def test_an_outage_of_the_server_loses_no_data(tmp_path, server):
    played = Sweep(tmp_path / "sweep")
    tracker = played.tracker(server.uri)
    # The server is down when the sweep starts: this is reported, and the sweep continues.
    assert "127.0.0.1" in tracker.start()
    played.start()
    played.trial(0)
    tracker.notify()
    server.start()
    # The run of trial 0 exists before its reports are sent.
    wait_until(lambda: tracker.delivery().complete and tracker.problem == "")
    # It dies in the middle of a trial, and the driver continues to append.
    server.kill()
    played.trial(1, status="")
    tracker.notify()
    wait_until(lambda: tracker.problem != "")
    delivery = tracker.close(deadline_s=1.0)
    assert (delivery.complete, delivery.events) == (False, 4)
    assert "MLflow is missing 4 events" in str(delivery)
    assert "127.0.0.1" in delivery.problem
    # For the next driver the server is up again, and everything arrives once.
    server.start()
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")
    played.report(1, 4, {"train/loss": 0.25}, artifacts={"rollout/video": str(film)})
    played.end(1, 4)
    played.finish()
    tracker, delivery = played.deliver(server.uri, deadline_s=300.0)
    assert delivery.complete
    client = client_of(played.folder, server.uri)
    runs = client.search_runs([tracker.experiment_id])
    assert len(runs) == 3
    assert history(client, tracker.run_id(1), "train/loss") == [(1, 1.0), (2, 0.5), (3, 1 / 3), (4, 0.25)]
    assert client.get_run(parent_run_id(tracker)).info.status == "FINISHED"
    assert [file.path for file in client.list_artifacts(tracker.run_id(1), "rollout")] == ["rollout/film.mp4"]
    links = tracker.links(read_sweep(played.folder))
    assert links.comparison.startswith(f"{server.uri}/#/compare-runs?runs=")
