"""The description of a sweep's run in MLflow: what it says, when it is updated, and whose text it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
from played_sweeps import Sweep, client_of
from small_sweeps import LR, SUCCESS, choice

from sweeper.records.sweep_state import read_sweep
from sweeper.tracking.description import DESCRIPTION, SIGNATURE, describe
from sweeper.tracking.state import State

RUNS = {"0": "run-of-0", "1": "run-of-1", "2": "run-of-2"}


def description(folder: Path) -> str:
    """The description of the sweep in a folder whose runs are `RUNS`."""
    return describe(read_sweep(folder), State("", "small", experiment_id="7", sweep_id="0123", runs=RUNS))


def test_it_names_the_best_trial_what_was_searched_and_the_pages(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, lr=1e-4)
    played.trial(1, lr=3e-4)
    played.trial(2, steps=1, status="stopped_early")
    played.finish()
    text = description(tmp_path)
    first, best, links, table = text.split("\n\n")[:4]
    assert first == (
        f"**{tmp_path.name}**: maximize `{SUCCESS}`. Trials: 2 completed, 1 stopped early. The sweep is done."
    )
    assert best == (
        "Best: [trial 1](#/experiments/7/runs/run-of-1?workflowType=machine_learning), "
        f"`{SUCCESS}` 1.3 at step 3."
    )
    assert "[Chart all trials](#/experiments/7/runs?" in links
    assert "[Compare the best 3 trials](#/compare-runs?runs=%5B%22run-of-1%22%2C%22run-of-0%22" in links
    assert "| `optimizer.lr` | 1e-05 … 0.001 | log | 0.0003 |" in table.splitlines()
    assert "`final/step` is the step at which a trial ended" in text
    assert text.endswith(SIGNATURE)


def test_a_confirmed_winner_comes_first(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, lr=1e-4)
    played.trial(1, lr=3e-4)
    verdict = "Trial 0 leads. --episodes 800 continues."
    played.confirmed((0, 0.8, 0.9), (1, 0.7, 0.1), verdict=verdict)
    played.judged((1, 0.9, {}), (0, 0.2, {}))
    _, confirmed, best, judged, _, table = description(tmp_path).split("\n\n")[:6]
    assert confirmed == (
        "Confirmed: [trial 0](#/experiments/7/runs/run-of-0?workflowType=machine_learning), "
        f"`{SUCCESS}` 0.8 in 400 episodes on fresh starts. Trial 0 leads. "
        f"`sweeper confirm {tmp_path.name} --episodes 800` continues."
    )
    assert best.startswith("Best in the search: [trial 1]")
    assert judged == "On the real robot, judged by a person: Trial 1 leads after 30 starts."
    assert "| `optimizer.lr` | 1e-05 … 0.001 | log | 0.0001 |" in table.splitlines()


def test_a_sweep_without_a_completed_trial_has_no_best(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0, status="")
    text = description(tmp_path)
    assert "1 running. The sweep is running." in text
    assert "Best:" not in text
    assert "| `optimizer.lr` | 1e-05 … 0.001 | log |  |" in text


def test_values_do_not_break_the_table(tmp_path):
    played = Sweep(tmp_path)
    played.start(LR, choice("optimizer.name", "a|b", "line\nbreak", "x" * 300))
    table = next(part for part in description(tmp_path).split("\n\n") if part.startswith("| parameter"))
    assert [line.replace("\\|", "").count("|") for line in table.splitlines()] == [5] * 4
    assert max(map(len, table.splitlines())) < 200


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_it_is_updated_until_the_user_writes_another_text(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0)
    tracker, _ = played.deliver()
    client, run = client_of(tmp_path), tracker._state.parent

    def note() -> str:
        return client.get_run(run).data.tags[DESCRIPTION]

    assert "1 completed. The sweep is running." in note()
    played.trial(1, lr=3e-4)
    played.finish()
    played.deliver()
    assert "2 completed. The sweep is done." in note()
    assert f"runs/{tracker._state.runs['0']}" not in note().split("\n\n")[1]
    played.confirmed((0, 0.8, 0.9), (1, 0.7, 0.1))
    played.deliver()
    assert "Confirmed: [trial 0]" in note()
    client.set_tag(run, DESCRIPTION, "Only half of the data.")
    played.start(trials=99)
    played.trial(2)
    played.finish()
    played.deliver()
    assert note() == "Only half of the data."


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_run_says_at_which_step_a_trial_was_cut_short(tmp_path):
    played = Sweep(tmp_path)
    played.start()
    played.trial(0)
    played.trial(1, steps=2, status="stopped_early", reason="asha")
    played.trial(2, steps=1, status="interrupted")
    tracker, _ = played.deliver()
    client = client_of(tmp_path)

    def runs():
        return [client.get_run(tracker.run_id(number)) for number in range(3)]

    assert [run.info.run_name for run in runs()] == [
        "trial 0",
        "trial 1 (stopped at 2)",
        "trial 2 (interrupted at 1)",
    ]
    assert [run.data.metrics["final/step"] for run in runs()] == [3, 2, 1]
    # It continues with a new driver, and then runs to its end.
    played.start()
    played.trial(2, steps=4)
    played.deliver()
    assert runs()[2].info.run_name == "trial 2"
    assert runs()[2].data.metrics["final/step"] == 4
