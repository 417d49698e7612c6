"""The addresses of MLflow's pages in the output of commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from command_line import ended, run_in
from played_sweeps import Sweep

from sweeper.commands.on_cluster import _addresses
from sweeper.layout import STATE
from sweeper.tracking.state import State


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path, monkeypatch):
    run_in(tmp_path, monkeypatch)


def play(folder: Path, uri: str = "sqlite:///mlflow.db", runs: bool = True) -> None:
    """Write a sweep of one trial whose runs are in MLflow."""
    played = Sweep(folder)
    played.start()
    played.trial(0)
    played.finish()
    sent = State(uri, "small", "7", "0123", runs={"0": "run-of-0"} if runs else {})
    (folder / STATE).write_text(json.dumps(dataclasses.asdict(sent)))


@pytest.mark.parametrize("command", ["results", "status"])
@pytest.mark.parametrize(
    ("folder", "served_by"),
    [("sweeps/small", "`sweeper ui small`"), ("a b/small", "`sweeper ui small --sweeps 'a b'`")],
)
def test_commands_print_the_chart_the_comparison_and_what_serves_them(capsys, command, folder, served_by):
    play(Path(folder))
    assert ended(command, "small", "--sweeps", str(Path(folder).parent)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].replace(f"{Path.cwd()}/", "") == f"To see it in MLflow, run {served_by}, then open:"
    assert lines[-2].startswith("Chart all trials: http://127.0.0.1:5000/#/experiments/7/runs?")
    assert lines[-1].startswith("Compare the best trials: http://127.0.0.1:5000/#/compare-runs?")
    assert "run-of-0" in lines[-1]


@pytest.mark.parametrize("command", ["results", "status"])
def test_the_pages_of_a_server_need_no_command(capsys, command):
    play(Path("sweeps/small"), "http://mlflow.example:80")
    assert ended(command, "small") == 0
    out = capsys.readouterr().out
    assert "Chart all trials: http://mlflow.example:80/#/" in out
    assert "sweeper ui" not in out


@pytest.mark.parametrize("command", ["results", "status"])
def test_a_sweep_without_runs_has_no_links(capsys, command):
    play(Path("sweeps/small"), runs=False)
    assert ended(command, "small") == 0
    assert "#/" not in capsys.readouterr().out


def test_the_pages_of_a_cluster_are_opened_through_the_port_of_the_tunnel(capsys):
    play(Path("sweeps/small"), "http://127.0.0.1:5000/")
    assert ended("status", "small", "--json") == 0
    status = json.loads(capsys.readouterr().out)
    charts, comparison = _addresses(status, "http://127.0.0.1:5055")
    assert charts.startswith("Chart all trials: http://127.0.0.1:5055/#/experiments/7/runs?")
    assert comparison.startswith("Compare the best trials: http://127.0.0.1:5055/#/compare-runs?")
    assert _addresses({"mlflow": {"links": None}}, "http://127.0.0.1:5055") == []
