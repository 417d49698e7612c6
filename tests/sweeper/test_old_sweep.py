"""A sweep that an earlier version left behind is read, ranked, exported and continued as before.

`fixtures/make_old_sweep.py` made it, and says how. The first line of its journal has the versions. The golden
files of this test are made again with

    python -m pytest tests/sweeper/test_old_sweep.py --remake-golden
"""

from __future__ import annotations

import json
import tarfile
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from golden_files import GoldenFiles

from sweeper.layout import JOURNAL
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import SweepState, read_sweep

ARCHIVE = Path(__file__).parent / "fixtures" / "old_sweep.tar.gz"
TEXTS = (".json", ".jsonl", ".log", ".txt", ".yaml")
CHECKPOINT_OF_4 = 641
"""The step of the checkpoint from which the interrupted trial continues."""

# MLflow and Ray Data warn of their own habits.
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the sweep, unpacked as if it had been made here."""
    sweeps = tmp_path / "sweeps"
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(sweeps, filter="data")
    found = sorted(path for path in sweeps.rglob("*") if path.is_file())
    assert len(found) > 40, "the archive is not complete"
    for path in found:
        if path.suffix in TEXTS:
            text = path.read_text().replace("@SWEEPS@", str(sweeps)).replace("@CHECKOUT@", "/checkout")
            path.write_text(text)
    run_in(tmp_path, monkeypatch)
    return sweeps / "old"


def statuses(sweep: SweepState) -> dict[int, str]:
    return {number: trial.status for number, trial in sweep.trials.items()}


def events_of(folder: Path, kind: str, trial: int) -> list[dict[str, Any]]:
    events = read_journal(folder / JOURNAL).events
    return [event for event in events if event["event"] == kind and event.get("trial") == trial]


def test_its_status_and_results_are_printed_as_before(old, golden: GoldenFiles, capsys, monkeypatch):
    heard = read_sweep(old).heard
    monkeypatch.setattr(time, "time", lambda: heard + 3600)
    words = {str(old.parent.parent): "FOLDER"}
    for name, *arguments in (
        ("old_sweep_status.txt", "status", "old"),
        ("old_sweep_status_json.txt", "status", "old", "--json"),
        ("old_sweep_results.txt", "results", "old"),
        ("old_sweep_results_json.txt", "results", "old", "--json"),
    ):
        assert ended(*arguments) == 0
        golden.compare(name, capsys.readouterr().out, made_with=("rich",), words=words)


def test_its_trials_are_ranked_as_before(old):
    sweep = read_sweep(old)
    assert statuses(sweep) == {
        0: "completed",
        1: "completed",
        2: "failed",
        3: "stopped_early",
        4: "interrupted",
    }
    assert [trial.number for trial in sweep.ranking()] == [1, 0, 3, 4, 2]
    assert (sweep.trials[2].reason, sweep.trials[3].reason) == ("diverged", "stopped")
    assert sweep.ended_trials == 4
    # Only the winner's checkpoint stayed, and those that the interrupted trial continues from.
    has = {number: trial.checkpoint or trial.best_checkpoint for number, trial in sweep.trials.items()}
    assert [number for number, checkpoint in has.items() if checkpoint] == [1, 4]
    assert sweep.trials[4].checkpoint == str(old / "trials" / "4" / "checkpoints" / "000641")


@pytest.mark.slow
def test_its_best_trial_is_exported_as_before(old, capsys):
    from safetensors.torch import load_file

    assert ended("export", "old", "--to", "out") == 0
    assert "trial 1 of old, the best of its ranking" in capsys.readouterr().out
    config = json.loads(Path("out/config.json").read_text())
    assert (config["horizon"], config["n_action_steps"], config["down_dims"]) == (8, 2, [8])
    written = load_file("out/model.safetensors")
    averaged = load_file(old / "trials" / "1" / "checkpoints" / "000040" / "ema.safetensors")
    assert set(averaged) - set(written) == {"num_updates"}
    assert all(bool((written[name] == averaged[name]).all()) for name in written)
    size = sum(value.double().abs().sum().item() for value in written.values())
    assert size == pytest.approx(593.6026505522914, rel=1e-9)


@pytest.mark.ray
@pytest.mark.slow
def test_it_is_continued_to_its_end(old, cluster, capsys):
    reports = len(events_of(old, "report", 4))
    assert ended("resume", "old") == 0, capsys.readouterr()
    sweep = read_sweep(old)
    assert sweep.status == "done"
    assert statuses(sweep) == {
        0: "completed",
        1: "completed",
        2: "failed",
        3: "stopped_early",
        4: "completed",
        5: "completed",
    }
    # The interrupted trial continues from its checkpoint, with the parameters it had.
    steps = [event["step"] for event in events_of(old, "report", 4)[reports:]]
    assert CHECKPOINT_OF_4 < steps[0] <= 680
    assert steps[-1] == 800
    started = events_of(old, "trial_start", 4)
    assert len(started) == 2
    assert started[0]["values"] == started[1]["values"]
    # The trial that is new is what the seed, its number and the records give; the version that made the sweep
    # drew 0.003.
    assert sweep.trials[5].values == {
        "train.steps": 800,
        "optimizer.lr": 0.001,
        "policy.n_action_steps": 3,
    }
    # Another processor may round otherwise; what was learned is the same.
    final = {number: sweep.trials[number].final["eval/action_mse"] for number in (4, 5)}
    assert final == pytest.approx({4: 15980, 5: 13580}, rel=0.02)
    assert [trial.number for trial in sweep.ranking()] == [5, 4, 1, 0, 3, 2]
    # MLflow is sent everything, also what an earlier driver had sent to a database that is gone.
    assert json.loads((old / "mlflow.json").read_text())["offset"] == (old / JOURNAL).stat().st_size
