"""Files and folders get their name after they are on the disk, so a power cut leaves no empty ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from trainables.files import put_in_place, write_json


@pytest.fixture
def steps(monkeypatch):
    """The disk's operations, in order: files and folders that are synced, names that are given."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        seen.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def record_replace(source, target):
        seen.append(f"name {Path(target).name}")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    return seen


def test_json_is_on_the_disk_before_it_has_its_name(tmp_path, steps):
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    write_json(folder / "last.json", {"step": 4})
    assert steps == [f"sync .last.json.{os.getpid()}.writing", "name last.json", "sync checkpoints"]


def test_all_files_of_a_folder_are_on_the_disk_before_it_has_its_name(tmp_path, steps):
    beside = tmp_path / "beside"
    (beside / "meta").mkdir(parents=True)
    (beside / "weights").write_bytes(b"1")
    (beside / "meta" / "info.json").write_text("{}")
    put_in_place(beside, tmp_path / "whole")
    assert sorted(steps[:3]) == ["sync info.json", "sync meta", "sync weights"]
    assert steps[3:] == ["sync beside", "name whole", f"sync {tmp_path.name}"]
    assert (tmp_path / "whole" / "meta" / "info.json").read_text() == "{}"
