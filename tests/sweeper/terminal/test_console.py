"""Commands in messages can be typed as they are printed."""

from __future__ import annotations

import io
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ended, run_in
from rich.text import Text

from sweeper.terminal.console import ShellConsole, program


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an environment with a `sweeper` in the current folder, which is not on the PATH."""
    run_in(tmp_path, monkeypatch)
    binaries = tmp_path / ".venv" / "bin"
    binaries.mkdir(parents=True)
    for name in ("python", "sweeper"):
        (binaries / name).write_text("#!/bin/sh\necho called\n")
        (binaries / name).chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(binaries / "python"))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    return binaries


def test_the_program_is_called_by_its_path_unless_it_is_on_the_path(environment, monkeypatch, tmp_path):
    assert program() == ".venv/bin/sweeper"
    (tmp_path / "below").mkdir()
    monkeypatch.chdir(tmp_path / "below")
    assert program() == shlex.quote(str(environment / "sweeper"))
    monkeypatch.setenv("PATH", f"{environment}:/usr/bin:/bin")
    assert program() == "sweeper"


def test_another_program_of_this_name_is_not_ours(environment, monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    (other / "sweeper").write_text("#!/bin/sh\n")
    (other / "sweeper").chmod(0o755)
    monkeypatch.setenv("PATH", f"{other}:/usr/bin:/bin")
    assert program() == ".venv/bin/sweeper"
    (other / "sweeper").unlink()
    (other / "sweeper").symlink_to(environment / "sweeper")
    assert program() == "sweeper"


def test_an_environment_without_the_script_is_called_by_its_python(environment):
    (environment / "sweeper").unlink()
    assert program() == f"{shlex.quote(sys.executable)} -m sweeper.cli"


@pytest.mark.parametrize(("columns", "width"), [("0", 80), ("1", 20), ("19", 20), ("20", 20), ("300", 300)])
def test_a_terminal_without_a_width_shows_the_text(monkeypatch, columns, width):
    monkeypatch.setenv("COLUMNS", columns)
    console = ShellConsole(file=io.StringIO())
    console.print("Hello")
    assert (console.width, console.file.getvalue()) == (width, "Hello\n")


@pytest.mark.parametrize(
    "message",
    [
        "Next:\n  sweeper confirm x\n  sweeper export x:3 --to DIR",
        Text("      sweeper launch x.yaml", style="bold"),
        "When it is filled in: sweeper judge x",
    ],
)
def test_a_command_without_quotes_can_be_typed_too(environment, message):
    console = ShellConsole(file=io.StringIO(), width=200)
    console.print(message)
    plain = message if isinstance(message, str) else message.plain
    assert console.file.getvalue() == plain.replace("sweeper", ".venv/bin/sweeper") + "\n"


def test_other_words_are_not_taken_for_the_command(environment):
    console = ShellConsole(file=io.StringIO(), width=200)
    text = "sweeper cannot do it: sweeper is a name, as sweeper launch is\nsweeper-1 is a folder"
    console.print(text)
    assert console.file.getvalue() == text + "\n"


@pytest.mark.parametrize("message", ["Run `sweeper ui x`.", Text("Run `sweeper ui x`.", style="bold")])
def test_a_printed_command_can_be_typed(environment, message):
    console = ShellConsole(file=io.StringIO(), width=100)
    console.print(message)
    out = console.file.getvalue()
    assert out == "Run `.venv/bin/sweeper ui x`.\n"
    command = out.partition("`")[2].rpartition("`")[0]
    answer = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert answer.stdout == "called\n"


def test_commands_and_errors_use_this_console(environment, capsys):
    assert ended("list") == 0
    assert "`.venv/bin/sweeper demo` starts" in capsys.readouterr().out
    Path("empty").mkdir()
    Path("empty/journal.jsonl").touch()
    assert ended("results", "empty") == 2
    assert "`.venv/bin/sweeper list` shows" in capsys.readouterr().err
