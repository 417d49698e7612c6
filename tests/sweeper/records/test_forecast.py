"""What a sweep costs, and what it will cost, in GPU-hours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_sweeps import LR, sweep

from sweeper.driver.recorder import Outcome, Recorder
from sweeper.layout import JOURNAL
from sweeper.records.forecast import cost_of
from sweeper.records.journal import Journal, read_journal
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.records.trial_state import TrialState
from sweeper.search.study import Study
from sweeper.terminal.as_json import to_json
from sweeper.terminal.tables import ranking_table

HOUR = 3600.0


def trial(number: int, status: str, hours: float) -> TrialState:
    made = TrialState(number, {"optimizer.lr": 1e-4}, {}, 0.0, status=status)  # type: ignore[arg-type]
    made._ran_s = hours * HOUR
    made._segment = 10 * HOUR
    return made


def of(tmp_path: Path, *trials: TrialState, gpus: float = 2.0, **budget: Any) -> SweepState:
    spec = sweep(tmp_path, LR, trials=10).to_dict()
    spec["budget"] |= budget
    info = {"resources": {"workers": 2, "gpu_per_worker": gpus / 2, "cpu_per_worker": 1.0, "at_once": 2}}
    made = SweepState(tmp_path, name="costly", spec=spec, info=info, status="running")
    made.trials = {one.number: one for one in trials}
    return made


def test_gpu_hours_are_those_that_were_held_while_trials_ran(tmp_path: Path) -> None:
    found = of(tmp_path, trial(0, "completed", 1.0), trial(1, "stopped_early", 0.5), trial(2, "running", 0.0))
    cost = cost_of(found, now=10.25 * HOUR)
    assert cost.trials == pytest.approx({0: 2.0, 1: 1.0, 2: 0.5})
    assert cost.so_far == pytest.approx(3.5)


def test_scripts_read_the_cost_of_a_sweep_and_of_its_trials(tmp_path: Path) -> None:
    ended = of(tmp_path, trial(0, "completed", 1.0), trial(1, "stopped_early", 0.5))
    ended.status = "done"
    plain = to_json(ended)
    assert plain["gpu_hours"] == {"so_far": 3.0, "expected": 3.0}
    assert {one["trial"]: one["gpu_hours"] for one in plain["trials"]} == {0: 2.0, 1: 1.0}


def test_what_is_to_come_is_judged_by_what_ended(tmp_path: Path) -> None:
    trials = (trial(0, "completed", 1.0), trial(1, "stopped_early", 0.5), trial(2, "running", 0.0))
    # Seven are to come at 1.5 each, and the running one has one more to take.
    assert cost_of(of(tmp_path, *trials), 10.25 * HOUR).expected == pytest.approx(3.5 + 7 * 1.5 + 1.0)
    # The budget ends it sooner.
    assert cost_of(of(tmp_path, *trials, gpu_hours=5.0), 10.25 * HOUR).expected == pytest.approx(5.0)
    # Nothing can be said before the first has ended.
    assert cost_of(of(tmp_path, trial(0, "running", 0.0)), 10.5 * HOUR).expected is None


def test_trials_without_gpus_cost_nothing(tmp_path: Path) -> None:
    cost = cost_of(of(tmp_path, trial(0, "completed", 1.0), gpus=0.0))
    assert (cost.so_far, cost.expected) == (0.0, None)


def test_the_ranking_says_what_was_taken(tmp_path: Path) -> None:
    found = of(tmp_path, trial(0, "completed", 1.0))
    found.status = "done"
    table = ranking_table(found)
    assert table.title == "costly: 1 completed, 2 GPU-hours"
    assert [str(cell) for cell in table.columns[-1].cells] == ["2.00"]
    without = ranking_table(of(tmp_path, trial(0, "completed", 1.0), gpus=0.0))
    assert "GPU" not in str(without.title)


@pytest.mark.slow
@pytest.mark.parametrize("gpus", [0.0, 1.0])
def test_the_journal_has_the_cost_of_every_trial_that_ended(tmp_path: Path, gpus: float) -> None:
    spec = sweep(tmp_path, LR)
    info = {"resources": {"workers": 2, "gpu_per_worker": gpus, "cpu_per_worker": 1.0, "at_once": 1}}
    with Study(spec) as study, Journal(tmp_path / JOURNAL) as journal:
        recorder = Recorder(study, journal, None, spec)
        recorder.start_sweep(info)
        suggestion = study.ask()
        assert suggestion is not None
        recorder.start_trial(suggestion.number, suggestion.config)
        recorder.report(suggestion.number, {"trial/step": 5, "rollout/success_rate": 0.5})
        recorder.end_trial(suggestion.number, Outcome("completed"))
    (end,) = [event for event in read_journal(tmp_path / JOURNAL).events if event["event"] == "trial_end"]
    if not gpus:
        assert "gpu_hours" not in end
        return
    taken = read_sweep(tmp_path).trials[suggestion.number].duration_s()
    assert end["gpu_hours"] == pytest.approx(2 * taken / HOUR, rel=0.5, abs=1e-5)
    assert end["sweep_gpu_hours"] == end["gpu_hours"]
