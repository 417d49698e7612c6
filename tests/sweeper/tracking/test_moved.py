"""A sweep whose folder was moved, renamed or copied: its files follow, and the old place stays untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from played_sweeps import Sweep, client_of

from sweeper.layout import moved_path, trial_folder
from sweeper.records.summary import list_sweeps
from sweeper.records.sweep_state import find_sweep, read_sweep
from sweeper.tracking.server import serve


@pytest.mark.parametrize(
    ("path", "home", "now"),
    [
        ("/old/x/trials/3/a/b", "/old/x", "/new/y/trials/3/a/b"),
        ("/home/me/sweeps/x/trials/3/a", "sweeps/x", "/new/y/trials/3/a"),
        # A trial may keep files elsewhere.
        ("/data/films/3.mp4", "/old/x", "/data/films/3.mp4"),
        ("/data/bigsweeps/x/trials/3/a", "sweeps/x", "/data/bigsweeps/x/trials/3/a"),
        ("/old/x2/trials/3/a", "/old/x", "/old/x2/trials/3/a"),
    ],
)
def test_files_of_trials_are_found_in_the_present_folder_of_the_sweep(path: str, home: str, now: str) -> None:
    assert moved_path(path, home, Path("/new/y")) == now


def played(folder: Path) -> Sweep:
    """A sweep with a checkpoint and a film."""
    made = Sweep(folder)
    made.start()
    made.trial(0, status="")
    film = trial_folder(folder, 0) / "rollouts" / "film.mp4"
    film.parent.mkdir(parents=True)
    film.write_bytes(b"film")
    checkpoint = trial_folder(folder, 0) / "checkpoints" / "000004"
    checkpoint.mkdir(parents=True)
    made.report(0, 4, {"train/loss": 0.1}, artifacts={"rollout/film": str(film)}, checkpoint=str(checkpoint))
    return made


def test_two_sweeps_with_the_same_name_are_distinguished_by_their_folders(tmp_path: Path) -> None:
    played(tmp_path / "one").journal.close()
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    found, others = list_sweeps(tmp_path)
    assert {sweep.name for sweep in found} == {"one", "two"}
    assert others == []
    two = read_sweep(find_sweep("two", tmp_path)).trials[0]
    assert two.checkpoint == str(tmp_path / "two" / "trials" / "0" / "checkpoints" / "000004")
    assert two.artifacts == {"rollout/film": str(tmp_path / "two/trials/0/rollouts/film.mp4")}


def test_a_sweep_that_is_named_by_the_current_folder_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    played(tmp_path / "one").journal.close()
    monkeypatch.chdir(tmp_path / "one")
    assert read_sweep(find_sweep(".", Path("sweeps"))).name == "one"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kept", [False, True], ids=["moved", "copied"])
def test_mlflow_finds_and_writes_files_in_the_new_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "old", tmp_path / "elsewhere" / "new"
    played(old).journal.close()
    # In a separate process, because MLflow caches the place of a run's files in each process.
    sync = [sys.executable, "-m", "sweeper.cli", "sync", "old", "--sweeps", str(tmp_path)]
    subprocess.run(sync, check=True, capture_output=True)
    new.parent.mkdir()
    if kept:
        shutil.copytree(old, new)
    else:
        old.rename(new)
    before = sorted(old.rglob("*")) if kept else []

    # A film that was reported before the move, and is uploaded only after it.
    again = Sweep(new)
    late = trial_folder(new, 0) / "rollouts" / "late.mp4"
    late.write_bytes(b"late")
    again.report(
        0, 5, {"train/loss": 0.05}, artifacts={"rollout/late": str(late).replace(str(new), str(old))}
    )
    tracker, delivery = again.deliver()
    again.journal.close()
    assert delivery.complete
    assert delivery.refused == 0
    client = client_of(new)
    run = tracker.run_id(0)
    assert run is not None
    assert len(client.search_runs([tracker.experiment_id])) == 2  # the sweep and its trial, not sent again
    assert {file.path for file in client.list_artifacts(run, "rollout")} == {
        "rollout/film.mp4",
        "rollout/late.mp4",
    }
    assert client.get_run(run).info.artifact_uri.startswith((new / "artifacts").as_uri())
    assert (sorted(old.rglob("*")) if kept else []) == before
    assert old.exists() == kept


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_pages_of_a_read_only_sweep_can_be_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import urllib.request

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    made = played(tmp_path / "old")
    tracker, _ = made.deliver()
    made.journal.close()
    (tmp_path / "old").rename(tmp_path / "disk")
    (tmp_path / "readonly").mkdir()
    mount = ["mount", "-o", "bind,ro", str(tmp_path / "disk"), str(tmp_path / "readonly")]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount")
    try:
        names = sorted((tmp_path / "disk").rglob("*"))
        with serve(tmp_path / "readonly") as pages:
            url = f"{pages.url}/ajax-api/2.0/mlflow/artifacts/list?run_id={tracker.run_id(0)}&path=rollout"
            with urllib.request.urlopen(url, timeout=120) as answer:
                assert b"rollout/film.mp4" in answer.read()
        assert sorted((tmp_path / "disk").rglob("*")) == names
    finally:
        subprocess.run(["umount", str(tmp_path / "readonly")], check=True)
