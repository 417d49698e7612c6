"""Fixtures of the service's tests."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from golden_files import GoldenFiles

# Workers of a Ray started here find small_trainable by the path of the process that started it.
sys.path.insert(0, str(Path(__file__).parent))

# A report takes some seconds at the end of every sweep. Tests of it switch it on.
os.environ["SWEEPER_REPORT"] = "off"


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """One Ray on this machine for all tests that need it, with two CPUs whatever the machine has."""
    os.environ.pop("RAY_ADDRESS", None)
    # A token of the user's is for clusters of theirs; what tests start beside this one brings none.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    from sweeper.machines.connection import connect, disconnect

    found = connect(cpus=2)
    from sweeper.driver import run

    # Trials that fail on purpose would fill the terminal with Tune's tracebacks.
    logging.getLogger("ray").setLevel(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as patch:
        # A busy machine may need longer than half a minute for what MLflow is still to receive at the end.
        patch.setattr(run, "DELIVERY_S", 400.0)
        yield found
    disconnect()


@pytest.fixture(scope="session", autouse=True)
def migrations_are_read_once() -> Iterator[None]:
    """Have Optuna read the history of its database schema once, not twice for every study that is opened.

    The history is a folder of Optuna's that never changes; reading it is half the cost of opening a study.
    """
    if "optuna" not in sys.modules:  # None of the collected tests opens a study in this process.
        yield
        return
    from alembic.script import ScriptDirectory

    read = ScriptDirectory.from_config
    kept: dict[str | None, Any] = {}

    def from_config(config: Any) -> Any:
        folder = config.get_main_option("script_location")
        if folder not in kept:
            kept[folder] = read(config)
        return kept[folder]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ScriptDirectory, "from_config", from_config)
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> GoldenFiles:
    """Compares what is printed with golden files; ``--remake-golden`` writes them instead."""
    folder = Path(__file__).parent / "golden"
    return GoldenFiles(folder, remake=bool(request.config.getoption("--remake-golden")))


@pytest.fixture
def settles() -> Callable[[Callable[[], bool]], bool]:
    """Wait until something that is under way becomes true; whether it did, even on a busy machine."""

    def wait(condition: Callable[[], bool]) -> bool:
        until = time.monotonic() + 200
        while not condition():
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    return wait


@pytest.fixture
def processes() -> Callable[[str], list[str]]:
    """The processes below this one whose name or command line contains a text."""

    def find(text: str) -> list[str]:
        found = []
        for process in psutil.Process().children(recursive=True):
            try:
                line = " ".join(process.cmdline())
                if text in line and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(line)
            except psutil.Error:
                continue  # it ended while we looked
        return found

    return find


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of three megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a disk of a chosen size")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)
