"""A ranking says which trials may be the best, from records alone, and invents nothing without them."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import ended, plain_console, printed, run_in
from played_sweeps import Sweep
from small_sweeps import SUCCESS

from sweeper.certainty.requirement import read_requirement
from sweeper.certainty.standing import Standing, standing_of
from sweeper.errors import UserError
from sweeper.records.sweep_state import read_sweep
from sweeper.terminal.tables import print_ranking
from trainables.confidence import mean_interval, wilson_interval

REWARD = "rollout/avg_max_reward"


def wins(count: int, of: int = 50) -> list[float]:
    return [1.0] * count + [0.0] * (of - count)


def played(folder: Path, *outcomes: list[float], metric: str = SUCCESS, goal: str = "maximize") -> Sweep:
    """A sweep in which each trial ended with these episodes."""
    made = Sweep(folder)
    made.start(objectives={metric: goal})
    for number, found in enumerate(outcomes):
        made.trial(number, steps=0, status="")
        made.report(number, 3, {metric: sum(found) / len(found)})
        made.end(number, 3)
        made.episodes(number, *found)
    made.finish()
    return made


def standing(folder: Path, **options: int) -> Standing:
    sweep = read_sweep(folder)
    return standing_of(sweep, sweep.ranking(), **options)


def test_trials_that_may_be_the_best_are_marked_and_the_others_are_told_apart(tmp_path):
    played(tmp_path, wins(40), wins(37), wins(10))
    found = standing(tmp_path)
    assert (found.leader, found.not_told_apart, found.told_apart) == (0, (1,), (2,))
    # Three starts that only the leader solved: 2 · (1/2)³, and the adjustment leaves the larger of two alone.
    assert found.of(1).p_value == pytest.approx(0.25)
    assert found.of(2).p_value == pytest.approx(2 * 2 * 0.5**30)
    assert [found.of(number).may_be_best for number in range(3)] == [True, True, False]
    assert sum(found.of(number).p_best for number in range(3)) == pytest.approx(1.0)
    assert found.of(0).p_best > found.of(1).p_best > found.of(2).p_best
    assert (found.of(0).low, found.of(0).high) == wilson_interval(40, 50)


def test_the_interval_that_a_trial_reported_counts_unless_it_belongs_to_another_value(tmp_path):
    made = played(tmp_path, wins(40), wins(30))
    made.report(0, 4, {f"{SUCCESS}_low": 0.7, f"{SUCCESS}_high": 0.9})
    made.report(1, 4, {f"{SUCCESS}_low": 0.7, f"{SUCCESS}_high": 0.9})
    found = standing(tmp_path)
    assert (found.of(0).low, found.of(0).high) == (0.7, 0.9)
    assert (found.of(1).low, found.of(1).high) == wilson_interval(30, 50)


def test_rewards_are_compared_by_their_paired_differences(tmp_path):
    better = [0.5 + 0.01 * number for number in range(30)]
    played(tmp_path, better, [value - 0.001 for value in better], metric=REWARD)
    found = standing(tmp_path)
    assert found.told_apart == (1,)
    assert found.of(0).p_best > 0.99
    assert (found.of(0).low, found.of(0).high) == mean_interval(better)


def test_of_a_metric_that_is_minimised_the_smaller_one_is_better(tmp_path):
    low = [0.1 + 0.001 * number for number in range(30)]
    played(tmp_path, [value + 0.5 for value in low], low, metric=REWARD, goal="minimize")
    found = standing(tmp_path)
    assert (found.leader, found.told_apart) == (1, (0,))
    assert found.of(1).p_best > 0.99


def test_only_starts_that_both_have_are_compared(tmp_path):
    made = played(tmp_path, wins(40), wins(20))
    made.episodes(1, *wins(20), first=500_000)
    found = standing(tmp_path)
    assert found.of(1).may_be_best is None
    assert (found.told_apart, found.uncompared) == ((), 1)


def test_the_episodes_are_those_of_the_chosen_setting_and_the_last_step(tmp_path):
    made = played(tmp_path, wins(40), wins(20))
    made.tuned(0, {"luck": 0.1}, 0.9, 0.8)
    made.episodes(0, *wins(45), setting={"luck": 0.1})
    made.episodes(1, *wins(1), step=2)
    found = standing(tmp_path)
    assert (found.of(0).low, found.of(0).high) == wilson_interval(45, 50)
    assert (found.of(1).low, found.of(1).high) == wilson_interval(20, 50)


def test_trials_further_down_count_for_the_adjustment_and_their_records_are_not_read(tmp_path):
    played(tmp_path, wins(40), wins(30), wins(29), wins(5))
    few, all_of_them = standing(tmp_path, most=2), standing(tmp_path)
    assert few.uncompared == 2
    assert few.of(1).p_value == pytest.approx(3 * 2 * 0.5**10)
    assert few.of(2).episodes == 0
    assert all_of_them.of(3).episodes == 50


def test_an_old_sweep_without_records_has_no_marks(tmp_path):
    made = Sweep(tmp_path)
    made.start()
    made.trial(0)
    made.trial(1)
    made.finish()
    assert standing(tmp_path) == Standing(SUCCESS)
    console = plain_console(100, terminal=True)
    print_ranking(console, read_sweep(tmp_path))
    assert "P(best)" not in printed(console)
    assert "interval" not in printed(console)


def test_damaged_records_are_as_good_as_none(tmp_path):
    made = played(tmp_path, wins(40), wins(30))
    made.episodes(0, *wins(40)).write_text("nonsense\n")
    assert standing(tmp_path).leader is None


@pytest.mark.slow
def test_scipy_is_loaded_only_if_there_are_records(tmp_path):
    program = (
        "import sys; from pathlib import Path\n"
        "from sweeper.commands.results import results\n"
        "results({folder!r})\n"
        "print('LOADED', *sorted(set(sys.modules) & {{'numpy', 'scipy', 'torch', 'ray'}}))\n"
    )
    played(tmp_path / "with", wins(40), wins(30))
    made = Sweep(tmp_path / "without")
    made.start()
    made.trial(0)
    made.finish()
    for name, loaded in (("with", "LOADED numpy scipy"), ("without", "LOADED")):
        run = subprocess.run(
            [sys.executable, "-c", program.format(folder=str(tmp_path / name))],
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.splitlines()[-1].strip() == loaded


# The command


@pytest.fixture
def folder(tmp_path, monkeypatch):
    run_in(tmp_path, monkeypatch)
    played(Path("sweeps/small"), wins(40), wins(37), wins(10))
    return Path("sweeps/small")


def test_json_and_csv_have_what_the_table_shows(folder, capsys):
    assert ended("results", "small", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["leader"], plain["not_told_apart"], plain["not_compared"]) == (0, [1], 0)
    assert [one["may_be_best"] for one in plain["trials"]] == [True, True, False]
    assert ended("results", "small", "--csv", "--top", "2") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["trial"] for row in rows] == ["0", "1"]
    assert rows[1]["may_be_best"] == "true"
    assert float(rows[0][f"{SUCCESS}_low"]) == plain["trials"][0]["interval"][0]
    assert float(rows[0]["optimizer.lr"]) == 1e-4
    assert ended("results", "small", "--csv", "--json") == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("condition", "code", "sentence"),
    [
        (
            "rollout/success_rate>=0.8",
            0,
            "Met: rollout/success_rate >= 0.8: trial 0 has 0.8 (of the search).",
        ),
        ("rollout/success_rate > 0.8", 1, "Not met: rollout/success_rate > 0.8: trial 0 has 0.8"),
        ("rollout/success_rate_low<0.7", 0, "trial 0 has 0.6696"),
        ("rollout/success_rate_low>=0.7", 1, "Not met"),
        ("rollout/success_rate==0.8", 0, "Met"),
        ("rollout/success_rate<=0.79", 1, "Not met"),
        ("p_best>=0.6", 0, "Met"),
    ],
)
def test_a_condition_on_the_best_trial_sets_the_exit_code(folder, capsys, condition, code, sentence):
    assert ended("results", "small", "--require", condition) == code
    assert sentence in capsys.readouterr().out
    assert ended("results", "small", "--json", "--require", condition) == code
    out, err = capsys.readouterr()
    json.loads(out)
    assert sentence in err


def test_every_condition_must_be_met(folder, capsys):
    met, unmet = "rollout/success_rate>0.1", "rollout/success_rate>0.9"
    assert ended("results", "small", "--require", met, "--require", unmet) == 1
    out = capsys.readouterr().out
    assert "Met: " in out
    assert "Not met: " in out


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("rollout/success_rate", "not a condition. Expected METRIC OPERATOR NUMBER"),
        ("rollout/success_rate=>0.6", "not a condition"),
        ("rollout/success_rate>=much", "'much' is not a number"),
        ("rollout/success_rate>=nan", "'nan' is not a number"),
        (">=0.5", "not a condition"),
    ],
)
def test_what_is_not_a_condition_is_refused(condition, message):
    with pytest.raises(UserError, match="--require") as caught:
        read_requirement(condition)
    assert message in str(caught.value)
    assert ">=, <=, ==, >, <" in str(caught.value)


def test_a_mistyped_metric_is_refused_with_those_that_exist(folder, capsys):
    assert ended("results", "small", "--require", "rollout/sucess_rate>=0.6") == 2
    assert "Did you mean 'rollout/success_rate'?" in " ".join(capsys.readouterr().err.split())


def test_confirmed_values_are_shown_and_count_for_conditions(folder, capsys):
    made = Sweep(folder)
    made.confirmed((1, 0.7, 0.8), (0, 0.6, 0.2))
    assert ended("results", "small", "--require", "rollout/success_rate_low>=0.59") == 0
    out = capsys.readouterr().out
    assert "trial 1 has 0.6 (confirmed on fresh starts)" in out
    assert "Confirmation: Trial 1 is the best." in out
    assert "con-" in out
    assert ended("results", "small", "--require", "p_best>0.79", "--require", "confirmed/episodes==400") == 0


def test_without_a_completed_trial_no_condition_is_met(tmp_path, monkeypatch, capsys):
    run_in(tmp_path, monkeypatch)
    made = Sweep(Path("sweeps/small"))
    made.start()
    made.trial(0, status="failed", reason="diverged")
    made.finish()
    assert ended("results", "small", "--require", f"{SUCCESS}>=0.1") == 1
    assert "no trial of small has completed" in capsys.readouterr().out
