"""Why a sweep cannot continue: a disk that is full, or a process of Ray's that is gone."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from small_sweeps import fill

from sweeper.machines import local_ray
from sweeper.machines.outage import full_disk, outage


def test_a_full_disk_is_named(small_disk: Path, tmp_path: Path) -> None:
    assert full_disk([tmp_path, small_disk]) == ""
    fill(small_disk)
    found = full_disk([tmp_path, small_disk])
    assert found.startswith(f"There is no room left in {small_disk}: No space left on device.")
    assert "Free some space" in found
    assert not list(tmp_path.glob("tmp*"))  # nothing of the attempt is left


def test_an_error_by_a_full_disk_is_understood_although_the_disk_has_space_again(tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "/somewhere")
    assert "There is no room to write" in outage(error, tmp_path)
    assert outage(ValueError("of Tune"), tmp_path) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", local_ray.SERVERS)
def test_a_process_of_ray_that_was_killed_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settles: Callable[..., bool], name: str
) -> None:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    monkeypatch.setattr(local_ray, "_servers", {name: psutil.Process(process.pid)})
    assert local_ray.gone_process() == ""
    process.kill()
    # Ray does not wait for its processes either: they stay as zombies.
    assert settles(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
    assert local_ray.gone_process() == name
    assert f"Ray's process {name} was killed or crashed" in outage(RuntimeError("a socket closed"), tmp_path)
    process.wait()
