"""The ranking says which trial is best, and why the others are not."""

from __future__ import annotations

import json
import math
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import plain_console, printed
from filelock import FileLock
from small_sweeps import DIMS, ERROR, LR, SCHEDULE, SUCCESS, begin, sweep, this_process

from sweeper.errors import SweepNotFoundError, UserError
from sweeper.layout import JOURNAL, LOCK
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from sweeper.records.summary import list_sweeps
from sweeper.records.sweep_state import find_sweep, read_sweep, update_sweep
from sweeper.spec.sweep import EarlyStopSpec
from sweeper.terminal.as_json import to_json
from sweeper.terminal.tables import (
    clock_text,
    duration_text,
    ranking_table,
    short_names,
    stacked,
    sweeps_table,
)


class Played:
    """A journal written by hand, with a clock of its own."""

    def __init__(self, folder, monkeypatch, **changes) -> None:
        self.folder = folder
        self.now = 1_000_000.0
        monkeypatch.setattr("sweeper.records.journal.time.time", lambda: self.now)
        self.journal = Journal(folder / JOURNAL)
        self.spec = sweep(folder, LR, SCHEDULE, DIMS, **changes)

    def start(self, driver=None):
        begin(self.journal, self.spec, driver=driver or this_process(), info={"versions": {}})

    def trial(self, number, points, status="completed", reason="", objective=SUCCESS, lr=1e-4, **extra):
        values = {"optimizer.lr": lr, "policy.beta_schedule": "linear", "policy.down_dims": [32, 64]}
        self.journal.append(EventKind.TRIAL_START, trial=number, values=values, config=values)
        for step, value in points:
            self.now += 10
            metrics = {objective: value} if isinstance(value, float) else value
            self.journal.append(EventKind.REPORT, trial=number, step=step, metrics=metrics, **extra)
        if status != "running":
            self.journal.append(
                EventKind.TRIAL_END, trial=number, status=status, reason=reason, message=reason
            )


@pytest.fixture
def played(tmp_path, monkeypatch):
    played = Played(tmp_path, monkeypatch)
    played.start()
    return played


def ranking(folder):
    return [trial.number for trial in read_sweep(folder).ranking()]


def text_of(table, width=160):
    console = plain_console(width=width)
    console.print(table)
    return printed(console)


def test_trials_are_ranked_by_their_last_evaluation_and_the_best_stands_beside(played, tmp_path):
    played.trial(0, [(10, 0.9), (20, 0.4)])
    played.trial(1, [(10, 0.3), (20, 0.6)])
    found = read_sweep(tmp_path)
    assert ranking(tmp_path) == [1, 0]
    assert found.best_trial().number == 1
    assert found.best_so_far() == {SUCCESS: 0.6}
    assert found.trials[0].best == {SUCCESS: 0.9}
    assert found.trials[0].final == {SUCCESS: 0.4}


def test_completed_trials_come_first_then_those_that_came_further_then_failures(played, tmp_path):
    played.trial(0, [(10, 0.9)], "failed", "diverged")
    played.trial(1, [(10, 0.8)], "stopped_early", "early_stop")
    played.trial(2, [(10, 0.1), (20, 0.1)], "stopped_early", "early_stop")
    played.trial(3, [(10, 0.2)], "running")
    played.trial(4, [(10, 0.1), (30, 0.05)])
    played.trial(5, [(10, 0.5)], "interrupted")
    assert ranking(tmp_path) == [4, 3, 2, 1, 5, 0]


def test_smaller_is_better_where_the_goal_says_so(tmp_path, monkeypatch):
    played = Played(tmp_path, monkeypatch, objectives={ERROR: "minimize"})
    played.start()
    for number, value in enumerate((3.0, 1.0, 2.0)):
        played.trial(number, [(10, value), (20, value + 1)], objective=ERROR)
    assert ranking(tmp_path) == [1, 2, 0]
    assert read_sweep(tmp_path).trials[1].best == {ERROR: 1.0}


def test_with_several_objectives_no_trial_stands_before_one_that_beats_it_in_everything(
    tmp_path, monkeypatch
):
    played = Played(tmp_path, monkeypatch, objectives={SUCCESS: "maximize", ERROR: "minimize"})
    played.start()
    points = [(0.5, 5.0), (0.9, 9.0), (0.1, 1.0), (0.4, 6.0), (0.05, 20.0)]
    for number, (success, error) in enumerate(points):
        played.trial(number, [(10, {SUCCESS: success, ERROR: error})])
    assert ranking(tmp_path) == [1, 0, 2, 3, 4]  # 1, 0 and 2 are the front
    shown = text_of(ranking_table(read_sweep(tmp_path)))
    assert shown.count("rate ↑") == 1
    assert shown.count("mse ↓") == 1


def test_the_metric_of_early_stopping_is_followed_too(tmp_path, monkeypatch):
    reward = "rollout/avg_max_reward"
    stop = EarlyStopSpec("asha", reward, "maximize", 10, max_steps=100)
    played = Played(tmp_path, monkeypatch, early_stop=stop)
    played.start()
    played.trial(0, [(10, {reward: 0.5}), (20, {reward: 0.3})], "stopped_early")
    found = read_sweep(tmp_path)
    assert found.trials[0].best == {reward: 0.5}
    assert found.trials[0].series == {reward: [(10, 0.5), (20, 0.3)]}


def test_a_sweep_that_was_read_is_brought_up_to_date(played, tmp_path):
    played.trial(0, [(10, 0.1), (20, 0.2)])
    found = read_sweep(tmp_path)
    played.trial(1, [(10, 0.3)], "running")
    update_sweep(found)
    update_sweep(found)  # nothing is applied twice
    assert found == read_sweep(tmp_path)
    assert [found.trials[number].series[SUCCESS] for number in (0, 1)] == [
        [(10, 0.1), (20, 0.2)],
        [(10, 0.3)],
    ]


def test_the_table_shows_objective_parameters_step_time_and_reason(played, tmp_path):
    played.trial(0, [(10, 0.25), (20, 0.5)], lr=3e-4)
    played.trial(1, [(10, 0.1)], "failed", "diverged")
    shown = text_of(ranking_table(read_sweep(tmp_path)))
    assert "1 completed, 1 failed" in shown
    row = next(line for line in shown.splitlines()[2:] if "completed" in line)
    for word in ("0", "0.5", "0.0003", "linear", "32,64", "20", "0:20"):
        assert word in row.split()
    assert "failed: diverged" in shown


def test_nothing_is_cut_off_in_eighty_columns(played, tmp_path):
    played.trial(0, [(10, 0.25), (20, 0.5)], lr=3e-4)
    played.trial(1, [(10, 0.1)], "stopped_early", "early_stop")
    console = plain_console(width=80)
    console.print(ranking_table(read_sweep(tmp_path), width=80))
    shown = printed(console)
    assert "…" not in shown
    assert "stopped early" in shown
    assert "0:20" in shown


def test_a_narrow_terminal_loses_the_columns_that_say_least(played, tmp_path):
    played.trial(0, [(10, 0.25), (20, 0.5)], lr=3e-4)
    table = ranking_table(read_sweep(tmp_path), width=50)
    headers = [str(column.header) for column in table.columns]
    assert "time" not in headers
    assert {"trial", "state", "lr"} <= set(headers)


def test_long_names_are_broken_between_their_words():
    assert stacked("squaredcos_cap_v2") == "squaredcos_\ncap_v2"
    assert stacked("rollout/avg_max_reward ↑") == "rollout/\navg_max_\nreward ↑"
    assert stacked("lr") == "lr"
    assert stacked("unbreakablyLong") == "unbreakablyLong"


def test_a_reason_with_square_brackets_is_shown_as_it_is(played, tmp_path):
    played.trial(0, [], "failed", "[bold]lost[/bold]")
    assert "[bold]lost[/bold]" in text_of(ranking_table(read_sweep(tmp_path)))


@pytest.mark.parametrize("value", ["[/]", "[bold]", "a[red]b", ":smile:"])
def test_a_value_that_looks_like_markup_is_shown_as_it_is(played, tmp_path, value):
    played.trial(0, [(10, 0.5)], lr=value)
    assert value in text_of(ranking_table(read_sweep(tmp_path)))


def test_json_has_everything_and_is_strict(played, tmp_path):
    played.trial(0, [(10, 0.5)], checkpoint="trials/0/checkpoints/000010")
    played.trial(1, [(10, float("nan"))], "failed", "diverged")
    plain = json.loads(json.dumps(to_json(read_sweep(tmp_path)), allow_nan=False))
    best, failed = plain["trials"]
    assert (best["rank"], best["trial"], best["final"]) == (1, 0, {SUCCESS: 0.5})
    assert best["best_checkpoint"] == best["checkpoint"] == "trials/0/checkpoints/000010"
    assert best["folder"] == str(tmp_path / "trials" / "0")
    assert best["values"]["policy.down_dims"] == [32, 64]
    assert (failed["rank"], failed["final"], failed["reason"]) == (None, {SUCCESS: None}, "diverged")
    assert plain["gpu_hours"] == {"so_far": 0.0, "expected": None}


def test_the_best_checkpoint_is_that_of_the_best_value(played, tmp_path):
    played.trial(0, [], "running")
    for step, value in ((10, 0.2), (20, 0.7), (30, 0.4)):
        played.journal.append(
            EventKind.REPORT, trial=0, step=step, metrics={SUCCESS: value}, checkpoint=f"c/{step}"
        )
    trial = read_sweep(tmp_path).trials[0]
    assert (trial.best_checkpoint, trial.checkpoint) == ("c/20", "c/30")


def test_time_between_drivers_does_not_count(played, tmp_path):
    played.trial(0, [(10, 0.1), (20, 0.1)], "interrupted")
    played.now += 100_000
    played.start()
    played.trial(0, [(30, 0.1)])
    found = read_sweep(tmp_path)
    assert found.trials[0].duration_s() == pytest.approx(30)
    assert found.trials[0].status == "completed"


def test_a_driver_that_died_is_noticed(tmp_path, monkeypatch):
    played = Played(tmp_path, monkeypatch)
    played.start()
    assert read_sweep(tmp_path).is_alive()
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    played.start({"host": socket.gethostname(), "pid": dead.pid, "started": 1.0})
    assert not read_sweep(tmp_path).is_alive()
    played.start({"host": "another-machine", "pid": 1, "started": 1.0})
    assert read_sweep(tmp_path).is_alive()


def test_sweeps_are_listed_latest_first_and_other_folders_passed_over(tmp_path, monkeypatch):
    for day, name in enumerate(("older", "newer")):
        played = Played(tmp_path / name, monkeypatch)
        played.now += 86_400 * day
        played.start()
        played.trial(0, [(10, 0.5)])
        played.journal.append(EventKind.SWEEP_END, status="done", message="")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / JOURNAL).write_text("")
    sweeps, _ = list_sweeps(tmp_path)
    assert [found.folder.name for found in sweeps] == ["newer", "older"]
    shown = text_of(sweeps_table(sweeps))
    assert "1/8" in shown
    assert "done" in shown
    assert list_sweeps(tmp_path / "nowhere") == ([], [])


def test_a_folder_without_a_sweep_is_a_clear_error(tmp_path):
    with pytest.raises(SweepNotFoundError, match="not a sweep's folder"):
        read_sweep(tmp_path)


def test_a_trial_that_is_not_there_is_a_clear_error(played, tmp_path):
    for number, known in enumerate(("none yet", "0", "0 to 1")):
        with pytest.raises(UserError, match=rf"there is no trial 99\. Its trials: {known}\."):
            read_sweep(tmp_path).trial(99)
        played.trial(number, [(10, 0.9)])
    assert read_sweep(tmp_path).trial(2).number == 2


def test_names_are_shortened_where_they_stay_apart():
    names = ["optimizer.name", "lr_scheduler.name", "optimizer.lr"]
    assert list(short_names(names).values()) == ["optimizer.name", "lr_scheduler.name", "lr"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(5.4, "5 s"), (65, "1 min 05 s"), (3599, "59 min 59 s"), (7800, "2 h 10 min")]
)
def test_durations_are_readable(seconds, words):
    assert duration_text(seconds) == words


@pytest.mark.parametrize(("seconds", "words"), [(5.4, "0:05"), (65, "1:05"), (7800, "2:10:00")])
def test_durations_in_a_column_are_short(seconds, words):
    assert clock_text(seconds) == words


@pytest.mark.slow
def test_reading_results_loads_no_heavy_package():
    heavy = "{'torch', 'ray', 'mlflow', 'optuna', 'pandas', 'sqlalchemy'}"
    script = f"import sys, sweeper.records.sweep_state; print(sorted({heavy} & set(sys.modules)))"
    root = Path(__file__).parents[3]
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=root)
    assert found.stdout.strip() == "[]", found.stderr


def test_below_the_ranking_stand_the_reasons_of_failures_and_what_was_tried_again(played):
    from sweeper.terminal.tables import print_ranking

    played.trial(0, [(10, 0.5)], status="running")
    changes = {"train.gradient_accumulation_steps": 2}
    played.journal.append(
        EventKind.TRIAL_RETRY,
        trial=0,
        reason="out_of_memory",
        message="full",
        step=10,
        retry=1,
        changes=changes,
    )
    played.trial(0, [(20, 0.6)])
    played.trial(1, [], "failed", "diverged")
    error = played.folder / "trials" / "1" / "error.txt"
    error.parent.mkdir(parents=True)
    error.write_text("diverged\n")
    console = plain_console(width=80)
    print_ranking(console, read_sweep(played.folder))
    text = printed(console)
    assert "trial 1 failed: diverged: diverged\n" in text
    assert f"last lines and path of its log: {error}\n" in text
    assert "was retried after out_of_memory (1×), now with train.gradient_accumulation_steps = 2" in text
    (first, *_) = to_json(read_sweep(played.folder))["trials"]
    assert (first["retries"], first["changes"]) == ({"out_of_memory": 1}, changes)


@pytest.mark.parametrize(
    ("stopped", "said"), [((10, 0.4), False), ((10, 0.7), True), ((10, math.nan), False)]
)
def test_the_ranking_says_why_a_better_value_is_below_a_worse_one(played, stopped, said):
    from sweeper.terminal.tables import print_ranking

    played.trial(0, [(20, 0.6)])
    played.trial(1, [(20, 0.5)])
    played.trial(2, [(20, 0.3)], "interrupted")  # not compared: it may continue
    played.trial(3, [stopped], "stopped_early")
    console = plain_console(width=80)
    print_ranking(console, read_sweep(played.folder))
    assert ("Stopped trials rank below completed ones" in printed(console)) is said


def test_a_launch_that_has_not_recorded_anything_is_reported_as_that(tmp_path):
    folder = tmp_path / "young"
    folder.mkdir()
    (tmp_path / "no sweep at all").mkdir()
    with FileLock(folder / LOCK), pytest.raises(SweepNotFoundError, match="young is starting"):
        find_sweep("young", tmp_path)
    with pytest.raises(SweepNotFoundError, match="nothing to resume; launch the sweep again"):
        find_sweep("young", tmp_path)
    (folder / JOURNAL).touch()
    with pytest.raises(SweepNotFoundError, match="nothing to resume; launch the sweep again"):
        read_sweep(folder)
    sweeps, others = list_sweeps(tmp_path)
    assert (sweeps, [(other.name, other.status) for other in others]) == ([], [("young", "not started")])


def test_a_file_instead_of_the_folder_of_sweeps_is_refused(tmp_path):
    (tmp_path / "sweeps").touch()
    with pytest.raises(SweepNotFoundError, match="sweeps is not a folder"):
        list_sweeps(tmp_path / "sweeps")
