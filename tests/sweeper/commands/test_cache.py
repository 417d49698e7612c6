"""`sweeper cache`: what it lists, what it deletes, and that it deletes nothing that a process uses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import ended, run_in

from trainables.dataset import open_dataset
from trainables.dataset.format.schema import DatasetFeature
from trainables.dataset.format.write import DatasetWriter
from trainables.dataset.frames import open_frames
from trainables.pusht.demonstrations import ensure_dataset

CAMERA = "observation.images.front"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """A cache with the frames of two datasets, and with a built-in dataset."""
    run_in(tmp_path, monkeypatch)
    folder = tmp_path / "cache"
    for name in ("arm", "other"):
        open_frames(open_dataset(write(name)), CAMERA, None, folder)
    ensure_dataset(folder, images=False)
    return folder


def write(name: str) -> Path:
    """Write a dataset of two episodes with a camera."""
    vector = DatasetFeature("float32", (2,), ["x", "y"])
    picture = DatasetFeature("image", (16, 16, 3), ["height", "width", "channels"])
    features = {"observation.state": vector, "action": vector, CAMERA: picture}
    generator = np.random.default_rng(len(name))
    with DatasetWriter(Path(name), fps=10, features=features) as writer:
        for _ in range(2):
            path = generator.normal(size=(6, 2)).astype(np.float32)
            pictures = generator.integers(0, 255, (5, 16, 16, 3), np.uint8)
            columns = {"observation.state": path[:-1], "action": path[1:], CAMERA: pictures}
            writer.add_episode(columns, task="Move.")
    return Path(name)


def listed(capsys, *arguments: str) -> dict[str, list[str]]:
    """What the command lists: the contents of each dataset."""
    assert ended("cache", *arguments, "--json") == 0
    found: dict[str, list[str]] = {}
    for entry in json.loads(capsys.readouterr().out)["entries"]:
        assert entry["bytes"] == sum(size(Path(path)) for path in entry["paths"]) > 0
        found.setdefault(Path(entry["dataset"]).name, []).append(entry["what"])
    return found


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())


@pytest.mark.slow
def test_it_lists_the_folder_and_the_size_of_each_dataset(cache, capsys):
    frames = [f"frames of {CAMERA}-16x16"]
    assert listed(capsys) == {"builtin-pusht-states": ["files"], "arm": frames, "other": frames}
    assert ended("cache") == 0
    out = capsys.readouterr().out
    assert f"{cache}: 3 entries, " in out
    assert str(Path("arm").absolute()) in out
    assert "`sweeper cache --clear`" in out


@pytest.mark.slow
def test_one_dataset_is_deleted_and_made_again(cache, capsys):
    assert ended("cache", "arm", "--clear") == 0
    assert f"Deleted from {cache}: 1 entry" in capsys.readouterr().out
    assert set(listed(capsys)) == {"builtin-pusht-states", "other"}
    open_frames(open_dataset(Path("arm")), CAMERA, None, cache)
    assert set(listed(capsys)) == {"builtin-pusht-states", "other", "arm"}


@pytest.mark.slow
def test_everything_is_deleted(cache, capsys):
    (cache / "notes.txt").write_text("the user's own")
    assert ended("cache", "--clear") == 0
    capsys.readouterr()
    assert listed(capsys) == {}
    assert (cache / "notes.txt").exists()
    assert list((cache / "frames").glob("*.npy")) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["arm", "./arm", "arm/"])
def test_a_dataset_is_named_by_its_folder(cache, capsys, name):
    assert set(listed(capsys, name)) == {"arm"}


@pytest.mark.slow
def test_an_unknown_dataset_is_refused_with_those_that_there_are(cache, capsys):
    assert ended("cache", "rm", "--clear") == 2
    err = capsys.readouterr().err
    assert "'rm' is not in the cache" in err
    assert "builtin-pusht-states" in err
    assert len(listed(capsys)) == 3


READ = """
import sys, numpy
frames = numpy.load(sys.argv[1], mmap_mode="r")
print("open", flush=True)
sys.stdin.readline()
"""


@pytest.mark.slow
def test_what_a_process_uses_is_not_deleted(cache, capsys):
    (entry,) = [
        path for path in (cache / "frames").glob("*.npy") if "arm" in path.with_suffix(".json").read_text()
    ]
    command = [sys.executable, "-c", READ, str(entry)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "open\n"
        for arguments in (["--clear"], ["arm", "--clear"]):
            assert ended("cache", *arguments) == 2
            err = capsys.readouterr().err
            assert "In use by a running process" in err
            assert str(Path("arm").absolute()) in err
            assert str(Path("other").absolute()) not in err
        assert len(listed(capsys)) == 3
        assert ended("cache", "other", "--clear") == 0
        reader.communicate("\n")
    assert ended("cache", "arm", "--clear") == 0


@pytest.mark.slow
def test_frames_of_earlier_versions_are_listed_without_their_dataset(cache, capsys):
    for note in (cache / "frames").glob("*.json"):
        note.unlink()
    assert ended("cache") == 0
    assert capsys.readouterr().out.count("(unknown)") == 2
    assert ended("cache", "(unknown)", "--clear") == 0
    capsys.readouterr()
    assert set(listed(capsys)) == {"builtin-pusht-states"}


def test_an_empty_cache_is_not_created(tmp_path, monkeypatch, capsys):
    run_in(tmp_path, monkeypatch)
    assert ended("cache") == 0
    assert "0 entries" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
