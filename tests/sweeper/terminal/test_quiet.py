"""What Ray logs and prints goes to a file; what the command shows stays on the terminal."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
from rich.console import Console

from sweeper.terminal.quiet import quiet_ray


def talk(console: Console) -> None:
    """Say something in every way that Ray uses, and on the console."""
    try:
        raise ValueError("of a trial")
    except ValueError:
        logging.getLogger("ray.tune").exception("Trial task failed")
    os.write(2, b"from C++\n")
    console.print("trial 0 started")


@pytest.mark.parametrize("stderr", [False, True])
def test_what_ray_says_goes_to_its_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], stderr: bool
) -> None:
    console = Console(stderr=stderr)
    with quiet_ray(tmp_path / "ray.log", console):
        talk(console)
        print("(raylet) Raylet is terminated.")
        print("a warning", file=sys.stderr)
    console.print("the end")
    printed = capfd.readouterr()
    assert (printed.err if stderr else printed.out) == "trial 0 started\nthe end\n"
    assert (printed.out if stderr else printed.err) == ""
    logged = (tmp_path / "ray.log").read_text()
    for text in ("ValueError: of a trial", "from C++", "Raylet is terminated", "a warning"):
        assert text in logged


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_log_that_a_full_disk_does_not_take_is_left_out(capfd: pytest.CaptureFixture[str]) -> None:
    console = Console()
    with quiet_ray(Path("/dev/full"), console):
        try:
            raise ValueError("of a trial")
        except ValueError:
            logging.getLogger("ray.tune").exception("Trial task failed")
        console.print("trial 0 started")
    assert capfd.readouterr() == ("trial 0 started\n", "")
