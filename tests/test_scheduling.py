"""How `make test` shares the tests among its processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
HOOK = "from tests.conftest import pytest_xdist_make_scheduler\n"
ENDS_ITS_PROCESS = """
import os

def test_before(): pass
def test_ends_its_process(): os._exit(3)
def test_after(): pass
"""


def test_a_test_that_ends_its_process_is_reported_once_and_the_others_run(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(f"import sys\n\nsys.path.insert(0, {str(ROOT)!r})\n{HOOK}")
    (tmp_path / "test_one.py").write_text(ENDS_ITS_PROCESS)
    (tmp_path / "test_two.py").write_text("def test_another(): pass\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-n",
        "2",
        "--dist",
        "loadscope",
        ".",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout
    assert "1 failed, 3 passed" in done.stdout
    assert done.stdout.count("FAILED test_one.py::test_ends_its_process") == 1
