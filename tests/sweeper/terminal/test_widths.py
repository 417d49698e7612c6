"""Tables use the width of the terminal, and lose nothing in a narrow one."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
from command_line import ended, plain_console, printed, run_in
from played_sweeps import Sweep
from small_sweeps import LR, choice

from sweeper.machines.machine import Machine
from sweeper.machines.plan import make_plan
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.space_file.load import load_spec
from sweeper.terminal.plan import print_plan
from sweeper.terminal.tables import print_ranking, ranking_table, sweeps_table

SCHEDULE = "squaredcos_cap_v2"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep with long names and values."""
    played = Sweep(tmp_path / "a-sweep-with-a-long-name")
    played.start(LR, choice("policy.beta_schedule", SCHEDULE, "linear"))
    played.trial(0)
    played.journal.append("trial_start", trial=1, values={"policy.beta_schedule": SCHEDULE}, config={})
    return played.folder


def lines_of(folder: Path, width: int) -> list[str]:
    """The lines of the ranking in a terminal of this width."""
    console = plain_console(width, terminal=True)
    print_ranking(console, read_sweep(folder))
    return printed(console).splitlines()


def test_names_are_broken_only_as_far_as_the_terminal_requires(folder):
    wide, medium, narrow = (lines_of(folder, width) for width in (120, 70, 52))
    assert "rollout/success_rate ↑" in wide[1]
    assert "beta_schedule" in wide[1]
    assert any(SCHEDULE in line for line in wide)
    assert len(wide) == 1 + 2 + 2
    assert not any("rollout/success_rate" in line for line in medium)
    assert any("squaredcos_cap_" in line for line in medium)
    assert any("squaredcos_ " in line for line in narrow)
    assert not any("squaredcos_cap_" in line for line in narrow)


@pytest.mark.parametrize("width", [120, 60, 52, 40])
def test_no_line_is_longer_than_the_terminal(folder, width):
    assert max(map(len, lines_of(folder, width))) <= width


def test_a_table_in_a_file_is_as_narrow_as_in_a_narrow_terminal(folder):
    columns = [str(column.header) for column in ranking_table(read_sweep(folder)).columns]
    assert "beta_\nschedule" in columns


@pytest.mark.parametrize("width", [100, 60, 40])
def test_the_list_of_sweeps_is_not_cut_off(folder, width):
    console = plain_console(width, terminal=True)
    console.print(sweeps_table([read_sweep(folder)], width))
    lines = printed(console).splitlines()
    assert max(map(len, lines)) <= width
    # Words are folded, so the lines of one are not together: count its letters.
    found, wanted = Counter("".join(lines)), Counter("a-sweep-with-a-long-name rollout/success_rate")
    assert wanted <= found
    assert "…" not in found


def test_a_narrow_plan_names_every_value(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    console = plain_console(50)
    print_plan(console, make_plan(load_spec("pusht_image"), Machine(4, 1, disk_gb=500.0)))
    table = printed(console).partition("space  ")[0]
    assert "policy.beta_schedule" in table
    assert not re.search(r"\w…", table)


@pytest.mark.parametrize("words", [["list"], ["logs"], ["data", "check"], ["data"], []])
def test_the_help_shows_flags_without_a_value(capsys, monkeypatch, tmp_path, words):
    run_in(tmp_path, monkeypatch)
    assert ended(*words, "--help") == 0
    out = capsys.readouterr().out
    assert "--help" in out
    assert "<bool>" not in out
