"""A sweep whose driver was killed in its last moments is ended by the next one, without Ray."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from command_line import plain_console, printed
from small_sweeps import choice, sweep
from small_trainable import TRAINABLE

from sweeper.cli import main
from sweeper.driver.closing import close
from sweeper.driver.opening import open_sweep
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.driver.resume import resume, without_driver
from sweeper.errors import UserError
from sweeper.layout import JOURNAL
from sweeper.records import sweep_state as results
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal, read_journal
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.sweep import SweepSpec

LOSS = "train/loss"
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepSpec:
    """A sweep of two trials: both came to their end, and then the driver was killed."""
    made = sweep(
        tmp_path / "small", choice("optimizer.lr", 0.1, 0.2), objectives={LOSS: "minimize"}, trials=2
    )
    spec = dataclasses.replace(made, trainable="small_trainable:TRAINABLE")
    with open_sweep(spec, TRAINABLE, None) as records:
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
    console = plain_console(width=120)
    code = resume(read_sweep(spec.folder), changes, None, console)
    return code, printed(console)


@pytest.mark.slow
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


@pytest.mark.slow
def test_the_driver_of_a_resumed_sweep_reads_the_journal_once(
    cut_off: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    lines_from = results._lines_from

    def counting(path: Path, offset: int) -> bytes:
        lines = lines_from(path, offset)
        if path.stat().st_size == size:  # what is read when the sweep has ended is for the next readers
            read.append(len(lines))
        return lines

    size = (cut_off.folder / JOURNAL).stat().st_size
    monkeypatch.setattr(results, "_lines_from", counting)
    go_on(cut_off)
    assert sum(read) == size


@pytest.mark.slow
def test_once_they_are_closed_nothing_is_left_to_do(cut_off: SweepSpec) -> None:
    go_on(cut_off)
    before = (cut_off.folder / JOURNAL).read_bytes()
    with pytest.raises(
        UserError, match=r"budget.trials: 2 of 2 trials ended. .*budget.trials=\+20` runs 20 more"
    ):
        go_on(cut_off)
    assert (cut_off.folder / JOURNAL).read_bytes() == before


@pytest.mark.slow
def test_where_every_trial_failed_it_says_so(cut_off: SweepSpec) -> None:
    journal = cut_off.folder / JOURNAL
    lines = journal.read_text().replace('"status": "completed"', '"status": "failed"')
    journal.write_text(lines.replace('"status":"completed"', '"status":"failed"'))
    code, text = go_on(cut_off)
    assert (code, read_sweep(cut_off.folder).status) == (1, "failed")
    assert "Every trial failed." in text
    assert [event["event"] for event in read_journal(journal).events][-1] == "sweep_end"


@pytest.mark.slow
def test_a_trial_that_the_killed_driver_left_running_is_ended_everywhere(
    cut_off: SweepSpec, tmp_path: Path
) -> None:
    from mlflow.tracking import MlflowClient

    with open_sweep(cut_off, TRAINABLE, read_sweep(cut_off.folder)) as records:
        recorder = Recorder(records.study, records.journal, None, cut_off)
        suggestion = records.study.ask()
        assert suggestion is None  # the grid has two points: the third trial is made by hand
        recorder.start_trial(2, {**cut_off.config, "optimizer.lr": 0.1})
    go_on(cut_off)
    ended = read_sweep(cut_off.folder)
    assert (ended.status, ended.trials[2].status) == ("done", "interrupted")
    assert ended.trials[2].ended is not None
    client = MlflowClient(f"sqlite:///{cut_off.folder / 'mlflow.db'}")
    runs = [run for one in client.search_experiments() for run in client.search_runs([one.experiment_id])]
    assert "RUNNING" not in [run.info.status for run in runs]


@pytest.mark.slow
def test_a_limit_that_is_used_up_ends_a_sweep_that_nobody_closed(cut_off: SweepSpec) -> None:
    journal = cut_off.folder / JOURNAL
    journal.write_text(journal.read_text().replace('"completed"', '"failed"'))
    code, text = go_on(cut_off, "budget.trials=5", "budget.max_failed=1")
    assert code == 1
    assert "budget.max_failed: 2 trials failed." in text
    assert read_sweep(cut_off.folder).status == "failed"
    with pytest.raises(
        UserError, match=r"budget.max_failed: 2 trials failed.*budget.max_failed=\+5` allows 5 more"
    ):
        go_on(cut_off)


@pytest.mark.slow
def test_what_failed_before_fails_again(cut_off: SweepSpec) -> None:
    journal = cut_off.folder / JOURNAL
    journal.write_text(journal.read_text().replace('"completed"', '"failed"'))
    go_on(cut_off)
    assert close(cut_off, TRAINABLE, read_sweep(cut_off.folder)).exit_code == 1


@pytest.mark.slow
def test_only_the_name_in_common_makes_no_sweep_driven(
    cut_off: SweepSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sweeper.steering import entrance as remote

    sweeps, ours = cut_off.folder.parent, read_sweep(cut_off.folder).sweep_id
    monkeypatch.setattr(remote, "leave", lambda: None)
    for sweep_id, driven in ((ours, True), ("another", False)):
        there = remote.RemoteSweep(cut_off.name, None, sweep_id)
        monkeypatch.setattr(remote, "find_remote", lambda *_, there=there: there)
        found = without_driver(cut_off.name, sweeps, "127.0.0.1:6379")
        assert (found is None) == driven


@pytest.mark.slow
def test_what_a_script_reads_of_a_sweep_whose_driver_is_gone_stands_still(
    cut_off: SweepSpec, capsys: pytest.CaptureFixture[str]
) -> None:
    with Journal(cut_off.folder / JOURNAL) as journal:
        config = {**cut_off.config, "optimizer.lr": 0.1}
        journal.append(EventKind.TRIAL_START, trial=2, config=config, values={"optimizer.lr": 0.1})
    with pytest.raises(SystemExit):
        main(["results", cut_off.name, "--sweeps", str(cut_off.folder.parent), "--json"])
    states = {one["trial"]: one["status"] for one in json.loads(capsys.readouterr().out)["trials"]}
    assert states[2] == "interrupted"
