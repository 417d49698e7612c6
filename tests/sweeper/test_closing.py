"""A sweep whose driver was killed in its last moments is ended by the next one, without Ray."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console
from small_sweeps import choice, sweep
from small_trainable import TRAINABLE

from sweeper import results
from sweeper.errors import UserError
from sweeper.journal import JOURNAL, read_journal
from sweeper.recorder import Outcome, Recorder
from sweeper.records import open_records
from sweeper.results import read_sweep
from sweeper.resume import resume
from sweeper.sweep import SweepSpec

LOSS = "train/loss"
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    """A sweep of two trials: both came to their end, and then the driver was killed."""
    made = sweep(
        tmp_path / "small", choice("optimizer.lr", 0.1, 0.2), objectives={LOSS: "minimize"}, trials=2
    )
    spec = dataclasses.replace(made, trainable="small_trainable:TRAINABLE")
    with open_records(spec, TRAINABLE, None) as records:
        recorder = Recorder(records.study, records.journal, None, spec)
        recorder.start_sweep({"python": "3.11"})
        for loss in (0.5, 0.25):
            suggestion = records.study.ask()
            assert suggestion is not None
            recorder.start_trial(suggestion.number, suggestion.config)
            recorder.report(suggestion.number, {"trial/step": 5, LOSS: loss})
            recorder.end_trial(suggestion.number, Outcome("completed"))
    monkeypatch.setattr(results, "driver_runs", lambda _driver: False)
    return spec


def go_on(spec: SweepSpec, *changes: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=120)
    code, _ = resume(spec.name, changes, spec.folder.parent, None, console)
    assert isinstance(console.file, io.StringIO)
    return code, console.file.getvalue()


def test_the_next_driver_closes_the_books_and_mlflow_has_everything(cut_off: SweepSpec) -> None:
    from mlflow.tracking import MlflowClient

    assert read_sweep(cut_off.folder).state == "interrupted"
    code, text = go_on(cut_off)
    assert code == 0
    assert "All 2 trials ended." in text
    assert read_sweep(cut_off.folder).status == "done"
    client = MlflowClient(f"sqlite:///{cut_off.folder / 'mlflow.db'}")
    runs = [run for one in client.search_experiments() for run in client.search_runs([one.experiment_id])]
    assert [run.info.status for run in runs] == ["FINISHED"] * 3


def test_once_they_are_closed_nothing_is_left_to_do(cut_off: SweepSpec) -> None:
    go_on(cut_off)
    before = (cut_off.folder / JOURNAL).read_bytes()
    with pytest.raises(UserError, match="is complete: 2 of 2 trials ended"):
        go_on(cut_off)
    assert (cut_off.folder / JOURNAL).read_bytes() == before


def test_where_every_trial_failed_it_says_so(cut_off: SweepSpec) -> None:
    journal = cut_off.folder / JOURNAL
    lines = journal.read_text().replace('"status": "completed"', '"status": "failed"')
    journal.write_text(lines.replace('"status":"completed"', '"status":"failed"'))
    code, text = go_on(cut_off)
    assert (code, read_sweep(cut_off.folder).status) == (1, "failed")
    assert "Every trial failed." in text
    assert [event["event"] for event in read_journal(journal).events][-1] == "sweep_end"
