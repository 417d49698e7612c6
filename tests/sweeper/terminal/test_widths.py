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
from sweeper.spec.sweep import ConfirmSpec
from sweeper.terminal.finalists.confirmation import confirmation_table
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


@pytest.mark.slow
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


def test_the_ranking_shows_the_inference_setting_with_which_each_policy_acts(tmp_path):
    played = Sweep(tmp_path / "tuned")
    played.start(LR)
    for number in range(3):
        played.trial(number, **{"policy.n_action_steps": 4})
    played.tuned(0, {"policy.n_action_steps": 8}, 0.9, 0.5)
    played.tuned(1, {}, 0.8, 0.8)
    lines = lines_of(played.folder, 120)
    place = lines[1].index("n_action_steps")
    shown = {line.split()[0]: line[place : place + len("n_action_steps")].strip() for line in lines[3:6]}
    assert shown == {"0": "8", "1": "4", "2": ""}  # the last one was not examined


def test_a_searched_parameter_that_was_chosen_again_has_both_values(tmp_path):
    played = Sweep(tmp_path / "tuned")
    played.start(LR)
    played.trial(0, lr=1e-4)
    played.tuned(0, {"optimizer.lr": 3e-4}, 0.9, 0.5)
    lines = lines_of(played.folder, 120)
    assert re.search(r"\blr\b.*\blr chosen\b", lines[1])
    assert re.search(r"0\.0001 .*0\.0003", lines[3])


def test_a_confirmation_shows_the_trained_value_of_what_was_not_changed(tmp_path):
    played = Sweep(tmp_path / "confirmed")
    played.start(LR)
    for number, steps in enumerate((4, 7)):
        played.trial(number, **{"policy.n_action_steps": steps})
    played.confirmed((1, 0.9, 0.9), (0, 0.8, 0.1), settings={0: {"policy.n_action_steps": 8}})
    table = confirmation_table(read_sweep(played.folder), "rollout/success_rate")
    assert [cell.plain for cell in table.columns[-1].cells] == ["7", "8"]
    assert [cell.plain for cell in table.columns[1].cells] == ["best", "worse"]


def test_the_hint_at_a_confirmation_is_for_sweeps_that_do_not_make_one(tmp_path):
    for name, space, hinted in (("plain", {}, True), ("confirms", {"confirm": ConfirmSpec()}, False)):
        played = Sweep(tmp_path / name)
        played.start(LR, **space)
        for number in range(2):
            played.trial(number)
            played.episodes(number, 1, 0, 1, 1, 0, 1)
        text = "\n".join(lines_of(played.folder, 120))
        assert "do not tell trial" in text
        assert ("sweeper confirm" in text) == hinted
