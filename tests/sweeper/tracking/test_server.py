"""MLflow's pages for a sweep, on this machine only."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil
import pytest
from played_sweeps import Sweep

from sweeper.errors import SweepNotFoundError, UserError
from sweeper.layout import STATE
from sweeper.records.sweep_state import find_sweep
from sweeper.tracking.server import HOST, free_port, serve
from sweeper.tracking.state import State


def test_a_used_port_is_skipped() -> None:
    with socket.socket() as taken:
        taken.bind((HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert port < free_port(port) < port + 100


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_an_invalid_port_is_refused(port: int) -> None:
    with pytest.raises(UserError, match="1 to 65535"):
        free_port(port)


def test_a_sweep_is_found_by_name_or_by_path(tmp_path: Path) -> None:
    folder = tmp_path / "sweeps" / "a name"
    folder.mkdir(parents=True)
    (folder / "journal.jsonl").touch()
    assert find_sweep("a name", tmp_path / "sweeps") == folder
    assert find_sweep(str(folder), tmp_path / "elsewhere") == folder


def test_the_error_about_a_missing_sweep_suggests_the_nearest_name(tmp_path: Path) -> None:
    (tmp_path / "pusht-quick").mkdir()
    (tmp_path / "pusht-quick" / "journal.jsonl").touch()
    with pytest.raises(SweepNotFoundError, match=r"'pusht-quik'.*Did you mean 'pusht-quick'\?"):
        find_sweep("pusht-quik", tmp_path)
    with pytest.raises(SweepNotFoundError, match="has no sweeps"):
        find_sweep("any", tmp_path / "pusht-quick")


def test_what_is_inside_a_sweep_is_answered_with_the_sweep(tmp_path: Path) -> None:
    sweep = tmp_path / "x"
    trial = sweep / "trials" / "3"
    trial.mkdir(parents=True)
    (sweep / "journal.jsonl").touch()
    with pytest.raises(
        SweepNotFoundError, match=f"It is inside a sweep: name the folder {re.escape(str(sweep))}"
    ):
        find_sweep(str(trial), tmp_path)
    with pytest.raises(SweepNotFoundError, match=r"'x:3'.* Did you mean 'x'\?"):
        find_sweep("x:3", tmp_path)


def test_a_folder_without_runs_is_not_served(tmp_path: Path) -> None:
    with pytest.raises(SweepNotFoundError, match=r"mlflow\.db is missing"), serve(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_pages_are_served_only_to_this_machine_and_only_within_the_context(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    note = tmp_path / "note.txt"
    note.write_text("a rollout's video would be here")
    client.log_artifact(run, str(note))
    with serve(tmp_path, 5600) as pages:
        with urllib.request.urlopen(pages.url) as page:
            assert b"MLflow" in page.read()
        with urllib.request.urlopen(f"{pages.url}/get-artifact?path=note.txt&run_uuid={run}") as artifact:
            assert artifact.read() == note.read_bytes()
        children = psutil.Process(pages._process.pid).children(recursive=True)
        listening = []
        for process in (psutil.Process(pages._process.pid), *children):
            with contextlib.suppress(psutil.Error):  # a helper that has ended meanwhile
                listening += [
                    connection.laddr.ip
                    for connection in process.net_connections()
                    if connection.status == psutil.CONN_LISTEN
                ]
        assert set(listening) == {HOST}
        assert children
    assert psutil.wait_procs(children, timeout=120)[1] == []
    assert pages._process.poll() is not None


def write_sweep(place: Path) -> None:
    """Write a sweep that says that it has a run in MLflow, with an empty database."""
    folder = place / "sweeps" / "small"
    played = Sweep(folder)
    played.start()
    played.trial(0)
    (folder / "mlflow.db").touch()
    sent = State("sqlite:///mlflow.db", "small", "7", "0123", runs={"0": "run-of-0"})
    (folder / STATE).write_text(json.dumps(dataclasses.asdict(sent)))


@pytest.mark.slow
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGHUP])
def test_the_server_does_not_outlive_the_command(tmp_path: Path, sign: signal.Signals) -> None:
    write_sweep(tmp_path)
    program = [sys.executable, "-c", "from sweeper.cli import main; main()", "ui", "small", "--port", "5650"]
    with subprocess.Popen(program, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        assert re.match(r"Chart all trials: http://127.0.0.1:56[5-9]\d/#/", command.stdout.readline())
        assert re.match(r"Compare the best trials: http://127.0.0.1:56[5-9]\d/#/", command.stdout.readline())
        assert re.match(r"All runs: http://.*/#/experiments/\d+/runs\?", command.stdout.readline())
        started = psutil.Process(command.pid).children(recursive=True)
        assert started
        command.send_signal(sign)
        assert command.wait(200) == 0
    _, alive = psutil.wait_procs(started, timeout=120)
    assert alive == []


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "opened"), [([], True), (["--no-browser"], False)])
def test_a_browser_on_a_desktop_opens_the_chart(tmp_path: Path, arguments: list[str], opened: bool) -> None:
    write_sweep(tmp_path)
    browser, asked = tmp_path / "browser", tmp_path / "asked"
    # Whole or not at all: the file is read as soon as it is there.
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {asked}.new && mv {asked}.new {asked}\n')
    browser.chmod(0o755)
    environment = {name: text for name, text in os.environ.items() if name != "SSH_CONNECTION"}
    program = [sys.executable, "-c", "from sweeper.cli import main; main()", "ui", "small", "--port", "5660"]
    reader, terminal = os.openpty()
    with subprocess.Popen(
        [*program, *arguments],
        cwd=tmp_path,
        stdout=terminal,
        env={**environment, "BROWSER": f"{browser} %s", "TERM": "xterm", "COLUMNS": "500"},
    ) as command:
        os.close(terminal)
        shown = b""
        while b"Ctrl-C" not in shown:
            shown += os.read(reader, 10_000)
        until = time.monotonic() + (120 if opened else 1)
        while not asked.exists() and time.monotonic() < until:
            time.sleep(0.1)
        command.send_signal(signal.SIGTERM)
        assert command.wait(200) == 0
    os.close(reader)
    assert asked.exists() == opened
    if opened:
        assert "compareRunsMode=CHART" in asked.read_text()
