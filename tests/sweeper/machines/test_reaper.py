"""Nothing of a Ray of our own is left, however its driver ended."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from benchmarks.chaos.arena import Arena, eventually, processes_of
from sweeper.machines.reaper import Reaper


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])


@pytest.mark.slow
def test_what_does_not_end_by_itself_is_ended() -> None:
    process = sleeper()
    Reaper([psutil.Process(process.pid)]).close()
    assert process.wait(200) == -9


@pytest.mark.slow
def test_what_lies_in_the_current_folder_takes_no_librarys_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "psutil.py").write_text("raise SystemExit('not the library')")
    monkeypatch.chdir(tmp_path)
    process = sleeper()
    Reaper([psutil.Process(process.pid)]).close()
    assert process.wait(200) == -9


def test_what_is_left_is_ended_even_if_the_reaper_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.machines.reaper.END_S", 0.0)
    process = sleeper()
    Reaper([psutil.Process(process.pid)]).close()
    assert process.wait(200) == -9


def test_a_process_that_only_has_the_number_of_another_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    process = sleeper()
    monkeypatch.setattr(psutil.Process, "create_time", lambda _self: time.time() - 1000.0)
    Reaper([psutil.Process(process.pid)]).close()
    assert process.poll() is None
    process.kill()
    process.wait()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("ended", ["killed", "in order"])
def test_a_driver_leaves_nothing(ended: str) -> None:
    arena = Arena()  # in a folder with a short name, which Ray's sockets need
    text = "from sweeper.machines import connection; connection.connect(cpus=1); "
    text += "print('all is there', flush=True); "
    text += "import time; time.sleep(600)" if ended == "killed" else "connection.disconnect()"
    process, log, mark = arena.start("driver", sys.executable, "-c", text)
    try:
        eventually(lambda: "all is there" in log.read_text() or process.poll() is not None)
        assert "all is there" in log.read_text(), log.read_text()
        if ended == "killed":
            assert len(processes_of(process.pid, mark)) > 4
            process.kill()
        process.wait(300)
        # Ray's own agents would take a minute.
        assert eventually(lambda: not processes_of(process.pid, mark), 45)
    finally:
        arena.close()
