"""A Ray of our own that does not come up in time is started again; a machine that cannot have one is told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from sweeper.errors import SweeperError
from sweeper.machines import local_ray as own_ray
from sweeper.machines.local_ray import ATTEMPTS, start_ray, stop_ray


@pytest.fixture
def slow_machine(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A machine on which Ray's processes take too long, as often as the list says."""
    import ray

    started: list[Any] = []

    def init(**_options: Any) -> str:
        if len(started) == init.succeeds_at:  # type: ignore[attr-defined]
            return "context"
        # What Ray leaves running when it gives up, and does not look after.
        line = "import time; time.sleep(60)"
        started.append(subprocess.Popen([sys.executable, "-c", line, "/ray/core/src/ray/gcs_server"]))
        raise Exception("The current node timed out during startup. This could happen because …")

    init.succeeds_at = 2  # type: ignore[attr-defined]
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(own_ray, "PAUSE_S", 0.0)
    # The Ray that other tests share has a reaper of its own, which is not to do its work now.
    monkeypatch.setattr(own_ray, "_reapers", [])
    return started


def test_it_is_started_again_and_nothing_of_the_failed_attempts_is_left(slow_machine: list[Any]) -> None:
    assert start_ray({}) == "context"
    assert [process.wait(10) for process in slow_machine] == [-9, -9]
    stop_ray()


def test_after_some_attempts_an_error_of_ours_says_what_may_be_wrong(
    slow_machine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray.init, "succeeds_at", 100)
    with pytest.raises(SweeperError, match=r"does not start .* timed out during startup"):
        start_ray({})
    assert len(slow_machine) == ATTEMPTS
    assert [process.wait(10) for process in slow_machine] == [-9] * ATTEMPTS
