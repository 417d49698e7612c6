"""Small files are whole for whoever reads them, after a power cut too."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from sweeper.layout import ERROR, write_whole
from sweeper.trial.failure import Failure, read_failure, write_failure


@pytest.fixture
def steps(monkeypatch):
    """What is asked of the disk, in order: files and folders that are synced, names that are given."""
    seen = []
    fsync, replace, link = os.fsync, os.replace, os.link

    def record_fsync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        size = path.stat().st_size
        seen.append(f"sync {path.name}" if path.is_dir() else f"sync {path.name} ({size} bytes)")
        fsync(descriptor)

    def record_replace(source, target):
        seen.append(f"name {Path(target).name}")
        replace(source, target)

    def record_link(source, target):
        seen.append(f"name {Path(target).name}")
        link(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    monkeypatch.setattr(os, "link", record_link)
    return seen


def test_the_disk_has_the_content_before_the_name_and_then_the_name(tmp_path, steps):
    folder = tmp_path / "sweep"
    folder.mkdir()
    write_whole(folder / "spec.yaml", "name: x\n")
    assert steps == ["sync spec.yaml.new (8 bytes)", "name spec.yaml", "sync sweep"]
    assert (folder / "spec.yaml").read_text() == "name: x\n"
    assert [path.name for path in folder.iterdir()] == ["spec.yaml"]


def test_a_file_that_need_not_last_does_not_wait_for_the_disk(tmp_path, steps):
    write_whole(tmp_path / "progress.json", "{}", durable=False)
    assert steps == ["name progress.json"]
    assert (tmp_path / "progress.json").read_text() == "{}"


def test_why_a_trial_failed_lasts_too(tmp_path, steps):
    folder = tmp_path / "0"
    write_failure(folder, Failure("data", "a frame is missing"))
    assert steps.index(f"name {ERROR}") == 1
    assert steps[0].startswith(f"sync {ERROR}.")
    assert not steps[0].endswith("(0 bytes)")
    assert read_failure(folder) == Failure("data", "a frame is missing")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP])
def test_a_file_system_that_cannot_sync_folders_is_good_enough(tmp_path, monkeypatch, number):
    refuse_folders(monkeypatch, number)
    write_whole(tmp_path / "spec.yaml", "name: x\n")
    assert (tmp_path / "spec.yaml").read_text() == "name: x\n"


def test_a_broken_disk_is_an_error(tmp_path, monkeypatch):
    refuse_folders(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="refused"):
        write_whole(tmp_path / "spec.yaml", "name: x\n")


def refuse_folders(monkeypatch, number):
    fsync = os.fsync

    def refuse(descriptor):
        if Path(f"/proc/self/fd/{descriptor}").readlink().is_dir():
            raise OSError(number, "refused")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", refuse)
