"""Trackers beside MLflow receive the journal once: late, after a crash, and after a resume.

Every tracker is the real one, offline: TensorBoard's event files, Trackio's local database, offline runs of
Weights & Biases.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from played_sweeps import Sweep
from small_sweeps import SUCCESS
from tracked_runs import (
    TRACKERS,
    be_offline,
    records,
    tensorboard_scalars,
    trackio_logs,
    values,
    wandb_records,
)

from sweeper.errors import SpecError
from sweeper.spec import search_methods
from sweeper.spec.space_file.load import load_spec
from sweeper.spec.sweep import SweepSpec
from sweeper.tracking.also.__main__ import make_sink
from sweeper.tracking.also.feed import Feed, state_path
from sweeper.tracking.also.feeder import Feeders, missing_events

pytestmark = pytest.mark.filterwarnings("default")  # of the trackers' own


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    be_offline(tmp_path, monkeypatch)


@pytest.fixture
def played(tmp_path: Path) -> Sweep:
    """A sweep of one completed trial with a picture and a film, and one that runs."""
    from PIL import Image

    made = Sweep(tmp_path / "small")
    made.start()
    folder = made.folder / "trials" / "0"
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 6), "red").save(folder / "picture.png")
    Image.new("RGB", (8, 6), "red").save(
        folder / "film.gif", save_all=True, append_images=[Image.new("RGB", (8, 6), "blue")]
    )
    made.trial(0, status="", steps=2)
    files = {"eval/denoising": str(folder / "picture.png"), "rollout/video": str(folder / "film.gif")}
    made.report(0, 3, {"train/loss": 0.1, SUCCESS: 0.9}, artifacts=files)
    made.end(0, 3)
    made.trial(1, status="", steps=2)
    return made


def feed(folder: Path, tracker: str) -> None:
    """What the process of a tracker does until the journal ends: in a process, as trackers keep threads."""
    command = [sys.executable, "-m", "sweeper.tracking.also", str(folder), tracker]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_tracker_has_every_report_once_also_after_a_crash_and_a_resume(played: Sweep, tracker: str) -> None:
    folder = played.folder
    feed(folder, tracker)
    assert missing_events(folder, tracker) == 0
    before = state_path(folder, tracker).read_text()
    played.report(1, 3, {"train/loss": 0.3, SUCCESS: 1.3})
    feed(folder, tracker)
    # A process that was killed before it stored its position passes its last events again.
    state_path(folder, tracker).write_text(before)
    played.end(1, 3)
    played.finish()
    feed(folder, tracker)
    assert values(tracker, folder, 0, SUCCESS) == [(1, 0.1), (2, 0.2), (3, 0.9)]
    assert values(tracker, folder, 1, SUCCESS) == [(1, 1.1), (2, 1.2), (3, 1.3)]
    assert values(tracker, folder, 1, "train/loss") == [(1, 1.0), (2, 0.5), (3, 0.3)]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_the_driver_feeds_a_tracker_until_it_ends(played: Sweep, tracker: str) -> None:
    feeders = Feeders(played.folder, [tracker])
    feeders.start()
    played.end(1, 2)
    played.finish()
    assert feeders.close(500) == []
    assert feeders._processes[tracker].returncode == 0
    assert feeders.problem.startswith(f"{tracker} is not fed any more")
    assert values(tracker, played.folder, 1, SUCCESS)[-1] == (2, 1.2)


@pytest.mark.slow
def test_a_tracker_is_fed_after_its_driver_was_killed(played: Sweep) -> None:
    program = (
        "import os, sys; from pathlib import Path; from sweeper.tracking.also.feeder import Feeders\n"
        "f = Feeders(Path(sys.argv[1]), ['tensorboard']); f.start()\n"
        "print(f._processes['tensorboard'].pid, flush=True); os.kill(os.getpid(), 9)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(played.folder)], capture_output=True, text=True, check=False
    )
    assert done.returncode == -9
    with contextlib.suppress(psutil.NoSuchProcess):
        psutil.Process(int(done.stdout)).wait(300)
    assert missing_events(played.folder, "tensorboard") == 0


@pytest.mark.slow
def test_tensorboard_shows_pictures_notes_and_final_values(played: Sweep) -> None:
    feed(played.folder, "tensorboard")
    from tensorboardX.proto.event_pb2 import Event

    events = [
        Event.FromString(record)
        for path in (played.folder / "tensorboard" / "0").glob("events.*")
        for record in records(path)
    ]
    shown = {value.tag: value for event in events for value in event.summary.value}
    assert (shown["eval/denoising"].image.width, shown["eval/denoising"].image.height) == (8, 6)
    assert "Trial 0 of small" in shown["about/text_summary"].tensor.string_val[0].decode()
    assert shown[f"final/{SUCCESS}"].simple_value == pytest.approx(0.3)
    assert "_hparams_/experiment" in shown


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_tensorboard_itself_reads_the_files(played: Sweep) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    feed(played.folder, "tensorboard")
    read = EventAccumulator(str(played.folder / "tensorboard" / "0"))
    read.Reload()
    assert [(event.step, round(event.value, 3)) for event in read.Scalars(SUCCESS)] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.9),
    ]
    assert read.Tags()["images"] == ["eval/denoising"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("wandb") is None, reason="wandb is not installed")
def test_wandb_has_groups_tags_notes_pictures_and_films(played: Sweep) -> None:
    feed(played.folder, "wandb")
    every = [record for listed in wandb_records(played.folder) for record in listed]
    runs = {record.run.display_name: record.run for record in every if record.run.display_name}
    keys = {item.key or item.nested_key[0] for record in every for item in record.history.item}
    run = runs["small trial 0"]
    assert (run.project, run.run_group, run.job_type) == ("small", "small", "trial")
    assert set(run.tags) == {"trial", "diffusion_policy", "tpe"}
    assert run.notes.startswith("Trial 0 of small")
    assert {"eval/denoising", "rollout/video"} <= keys
    assert runs["small"].job_type == "sweep"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("trackio") is None, reason="trackio is not installed")
def test_trackio_has_pictures_films_and_final_values(played: Sweep) -> None:
    feed(played.folder, "trackio")
    logs = trackio_logs(played.folder, 0)
    shown = {name: value for log in logs for name, value in log.items()}
    assert "trackio.image" in json.dumps(shown["eval/denoising"])
    assert "trackio.video" in json.dumps(shown["rollout/video"])
    assert shown[f"final/{SUCCESS}"] == pytest.approx(0.3)


def test_trackers_are_checked_before_anything_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SpecError, match=r"'wandbb' is not a tracker. Did you mean wandb\?"):
        load_spec("pusht_quick", ["tracking.also=[wandbb]"])
    monkeypatch.setattr(search_methods, "TRACKERS", {"wandb": "no_such_package"})
    with pytest.raises(SpecError) as caught:
        load_spec("pusht_quick", ["tracking.also=[wandb]"])
    assert "wandb needs the package no_such_package" in str(caught.value)
    assert "diffusion-policy-sweeper[wandb]" in str(caught.value)


def test_trackers_survive_in_the_specification() -> None:
    spec = load_spec("pusht_quick", ["tracking.also=[tensorboard, tensorboard]"])
    assert spec.tracking.also == ("tensorboard",)
    assert SweepSpec.from_dict(spec.to_dict()) == spec
    plain = spec.to_dict()
    del plain["tracking"]["also"]  # of an earlier version
    assert SweepSpec.from_dict(plain).tracking.also == ()


@pytest.mark.slow
def test_a_confirmation_is_in_the_runs_of_the_finalists_and_of_the_sweep(played: Sweep) -> None:
    played.end(1, 2)
    played.finish()
    played.confirmed((0, 0.75, 0.9), (1, 0.5, 0.1))
    feed(played.folder, "tensorboard")
    confirmed = {
        run: tensorboard_scalars(played.folder, run, f"confirmed/{SUCCESS}") for run in ("0", "1", "sweep")
    }
    assert confirmed == {"0": [(3, 0.75)], "1": [(2, 0.5)], "sweep": [(2, 0.75)]}


@pytest.mark.slow
def test_a_report_passes_what_is_still_there(played: Sweep) -> None:
    """A picture that was deleted is left out, and so is a file that is no picture."""
    played.report(1, 3, {"train/loss": 0.2}, artifacts={"gone": "gone.png", "notes": "notes.txt"})
    feed(played.folder, "tensorboard")
    assert values("tensorboard", played.folder, 1, "train/loss")[-1] == (3, 0.2)


def test_a_damaged_position_starts_from_the_beginning(played: Sweep) -> None:
    state_path(played.folder, "tensorboard").write_text('{"events": "x"}')
    sink = make_sink("tensorboard", played.folder)
    reader = Feed(played.folder, "tensorboard", sink)
    while reader.step():
        pass
    sink.close()
    assert missing_events(played.folder, "tensorboard") == 0
    assert tensorboard_scalars(played.folder, "0", SUCCESS)[0] == (1, pytest.approx(0.1))
