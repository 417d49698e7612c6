"""A Ray of our own that does not come up in time is started again; a machine that cannot have one is told."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from sweeper.errors import SweeperError, UserError
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
        line = "import time; time.sleep(3600)"
        started.append(subprocess.Popen([sys.executable, "-c", line, "/ray/core/src/ray/gcs_server"]))
        raise Exception("The current node timed out during startup. This could happen because …")

    init.succeeds_at = 2  # type: ignore[attr-defined]
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(own_ray, "PAUSE_S", 0.0)
    # The Ray that other tests share has a reaper of its own, which is not to do its work now.
    monkeypatch.setattr(own_ray, "_reapers", [])
    return started


@pytest.mark.slow
def test_it_is_started_again_and_nothing_of_the_failed_attempts_is_left(slow_machine: list[Any]) -> None:
    assert start_ray({}) == "context"
    assert [process.wait(200) for process in slow_machine] == [-9, -9]
    stop_ray()


@pytest.mark.slow
def test_a_process_whose_command_line_is_not_there_yet_is_recognised(
    slow_machine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real, asked = psutil.Process.cmdline, set()

    def cmdline(process: psutil.Process) -> list[str]:
        first = process.pid not in asked
        asked.add(process.pid)
        return [] if first else real(process)

    monkeypatch.setattr(psutil.Process, "cmdline", cmdline)
    assert start_ray({}) == "context"
    assert [process.wait(200) for process in slow_machine] == [-9, -9]
    stop_ray()


def test_after_some_attempts_an_error_of_ours_says_what_may_be_wrong(
    slow_machine: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr(ray.init, "succeeds_at", 100)
    with pytest.raises(SweeperError, match=r"does not start .* timed out during startup"):
        start_ray({})
    assert len(slow_machine) == ATTEMPTS
    assert [process.wait(200) for process in slow_machine] == [-9] * ATTEMPTS


@pytest.mark.parametrize("name", ["RAY_TMPDIR", "TMPDIR"])
def test_a_temporary_folder_with_too_long_a_path_is_refused_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for other in ("RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(other, raising=False)
    folder = tmp_path / ("long" * 20)
    monkeypatch.setenv(name, str(folder))
    with pytest.raises(UserError, match=rf"from {name}.*characters too long for a socket.*Set RAY_TMPDIR"):
        start_ray({})
    assert not folder.exists()


def test_the_longest_path_of_ray_that_is_accepted_fits_into_a_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import socket

    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        left = own_ray.SOCKET_BYTES - own_ray.SESSION_BYTES - len(f"{short}//ray")
        place = Path(short) / ("x" * left)
        monkeypatch.setenv("RAY_TMPDIR", str(place))
        assert own_ray.temporary_fault() == ""
        # Only Ray creates its folder, with permissions for all users of the machine.
        assert list(Path(short).iterdir()) == []
        monkeypatch.setenv("RAY_TMPDIR", f"{place}x")
        assert "1 characters too long" in own_ray.temporary_fault()
        # The system agrees about the limit.
        for extra, fits in (("", True), ("x", False)):
            path = Path(f"{place}{extra}/ray/{'s' * (own_ray.SESSION_BYTES - 1)}")
            path.parent.mkdir(parents=True, exist_ok=True)
            with socket.socket(socket.AF_UNIX) as bound:
                if fits:
                    bound.bind(str(path))
                else:
                    with pytest.raises(OSError, match="too long"):
                        bound.bind(str(path))


def test_a_temporary_folder_that_cannot_be_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ray").write_text("a file")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    # Another limit of the system, which the folder of this test may exceed.
    monkeypatch.setattr(own_ray, "SOCKET_BYTES", 1000)
    with pytest.raises(UserError, match=r"ray \(from RAY_TMPDIR\) cannot be written: .*Set RAY_TMPDIR"):
        start_ray({})


PRIVATE = """
import sys
import psutil
from sweeper.machines.connection import connect, disconnect
cluster = connect(cpus=1)
below = psutil.Process().children(recursive=True)
lines = [" ".join(process.cmdline()) for process in below if process.name() != "raylet"]
print(sum("default_worker" in line or line.startswith("ray::IDLE") for line in lines))
import ray
ray.get(ray.remote(lambda: None).remote())
print(cluster.address, flush=True)
sys.stdin.read()
disconnect()
"""
STRANGER = """
import ray, sys
ray.init(address=sys.argv[1], log_to_driver=False)
print("in:", ray.cluster_resources())
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_private_ray_listens_on_loopback_and_wants_its_token_and_starts_no_process_early(
    tmp_path: Path,
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", PRIVATE],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment,
    )
    assert driver.stdout is not None
    try:
        assert driver.stdout.readline() == "0\n"
        address = driver.stdout.readline().strip()
        assert address
        processes = [psutil.Process(driver.pid), *psutil.Process(driver.pid).children(recursive=True)]
        listening = []
        for process in processes:
            with contextlib.suppress(psutil.Error):  # it has ended meanwhile
                listening += [
                    (process.name(), connection.laddr.ip)
                    for connection in process.net_connections("inet")
                    if connection.status == psutil.CONN_LISTEN
                ]
        assert own_ray.TOKEN.expanduser().stat().st_mode & 0o077 == 0
        assert {"gcs_server", "raylet"} <= {name for name, _ in listening}
        assert {ip.removeprefix("::ffff:") for _, ip in listening} == {"127.0.0.1"}
        stranger = subprocess.run(
            [sys.executable, "-c", STRANGER, address],
            # It knows the address, and has not the token, which Ray keeps in the home of the user.
            env={
                **environment,
                **own_ray.LOCAL_ENVIRONMENT,
                "RAY_AUTH_MODE": "disabled",
                "HOME": str(tmp_path),
            },
            capture_output=True,
            text=True,
            timeout=400,
            check=False,
        )
        assert stranger.returncode != 0
        assert "in:" not in stranger.stdout
        assert "authentication" in stranger.stderr.lower()
    finally:
        driver.communicate("")
    assert driver.returncode == 0
