"""`sweeper watch` and `sweeper logs` follow a journal, here one that is written by hand."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from small_sweeps import LR, SUCCESS, begin, sweep, this_process
from typer.testing import CliRunner, Result

from sweeper.cli import app
from sweeper.commands import steering
from sweeper.layout import DRIVER_LOG, JOURNAL
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal, read_journal

VALUES = {"optimizer.lr": 1e-4}


@pytest.fixture
def journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Journal:
    monkeypatch.setattr(steering, "FOLLOW_S", 0.01)
    (tmp_path / "small").mkdir()
    return Journal(tmp_path / "small" / JOURNAL)


def begin_trial(journal: Journal, folder: Path, **driver: Any) -> None:
    begin(journal, sweep(folder, LR), driver=this_process() | driver)
    journal.append(EventKind.TRIAL_START, trial=0, values=VALUES, config=VALUES)


def report(journal: Journal, step: int) -> None:
    journal.append(EventKind.REPORT, trial=0, step=step, metrics={SUCCESS: 0.5})


def end(journal: Journal) -> None:
    journal.append(EventKind.SWEEP_END, status="done", message="Over.")


def shown(command: str, folder: Path, *more: str) -> Result:
    return CliRunner().invoke(app, [command, "small", "--sweeps", str(folder), *more])


@pytest.mark.parametrize("options", [["--json"], []])
def test_what_comes_while_a_sweep_is_watched_is_told_until_it_ends(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    begin_trial(journal, tmp_path / "small")
    report(journal, 10)
    rest = [lambda: report(journal, 20), lambda: report(journal, 30), lambda: end(journal)]
    # Whenever the journal holds nothing new, it grows by one event.
    monkeypatch.setattr(steering, "time", SimpleNamespace(sleep=lambda _seconds: rest.pop(0)()))
    done = shown("watch", tmp_path, *options)
    assert done.exit_code == 0, done.output
    assert rest == []
    if options:
        events = read_journal(tmp_path / "small" / JOURNAL).events
        assert [json.loads(line) for line in done.stdout.splitlines()] == events
    else:
        assert "trial 0 step 20" in done.stdout
        assert "trial 0 step 30" in done.stdout
        assert done.stdout.rstrip().endswith("Over.")


@pytest.mark.parametrize("options", [["--json"], []])
def test_a_driver_that_died_without_a_word_is_watched_no_longer(
    journal: Journal, tmp_path: Path, options: list[str]
) -> None:
    begin_trial(journal, tmp_path / "small", started=0.0)
    report(journal, 10)
    done = shown("watch", tmp_path, *options)
    assert done.exit_code == 0, done.output
    if options:
        events = read_journal(tmp_path / "small" / JOURNAL).events
        assert [json.loads(line) for line in done.stdout.splitlines()] == events
    else:
        assert "The driver of this sweep died." in done.stdout


def test_a_journal_of_many_stretches_is_told_whole(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.steering.operations.LARGEST_STRETCH", 1500)
    begin_trial(journal, tmp_path / "small")
    for step in range(10, 210, 10):
        report(journal, step)
    end(journal)
    events = read_journal(tmp_path / "small" / JOURNAL).events
    done = shown("watch", tmp_path, "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == events
    (tmp_path / "small" / DRIVER_LOG).write_text("said\n")
    told = json.loads(shown("logs", tmp_path, "--json").stdout)["happened"]
    assert "step 10:" in told[1]
    assert "step 200:" in told[-1]
