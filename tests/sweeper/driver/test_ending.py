"""When a sweep ends before its trials are used up."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from small_sweeps import LR, sweep

from sweeper.driver import ending
from sweeper.driver.ending import Ending, Phase, Step
from sweeper.driver.signals import Signals, ended_by_signals, interrupted_by_sigterm
from sweeper.layout import trial_folder
from sweeper.records.sweep_state import SweepState
from sweeper.records.trial_state import TrialState
from sweeper.spec.sweep import BudgetSpec, SweepSpec
from sweeper.trial.exchange import STOP


def make(folder: Path, statuses: list[str], *, gpus: float = 0.0, at_once: int = 2, **budget: Any) -> Any:
    spec: SweepSpec = dataclasses.replace(sweep(folder, LR), budget=BudgetSpec(trials=20, **budget))
    state = SweepState(folder, spec=spec.to_dict())
    state._ran_s = 3600.0
    state.info = {"resources": {"workers": 1, "gpu_per_worker": gpus}}
    signals = Signals()
    sweep_ending = Ending(at_once, state, signals)
    for number, status in enumerate(statuses):
        trial = TrialState(number, {}, {}, started=0.0, status=status, reason="diverged", message="nan")
        trial.ended = float(number)
        trial._ran_s = 1800.0
        state.trials[number] = trial
        trial_folder(folder, number).mkdir(parents=True)
    return sweep_ending, state, signals


def test_a_sweep_goes_on_while_nothing_speaks_against_it(tmp_path: Path) -> None:
    sweep_ending, _, _ = make(tmp_path, ["completed", "failed", "failed", "failed", "running"])
    assert not sweep_ending.check()
    assert not sweep_ending.is_over()


def test_ctrl_c_asks_running_trials_to_stop_and_waits_for_them(tmp_path: Path) -> None:
    sweep_ending, state, signals = make(tmp_path, ["completed", "running"])
    signals(signal.SIGINT, None)
    assert sweep_ending.check()
    assert not sweep_ending.check()  # said once
    assert not sweep_ending.is_over()
    assert (trial_folder(tmp_path, 1) / STOP).exists()
    assert not (trial_folder(tmp_path, 0) / STOP).exists()
    assert "1 trial to write a checkpoint" in sweep_ending.notice()
    state.trials[1].status = "interrupted"
    assert sweep_ending.is_over()
    assert (sweep_ending.status, sweep_ending.message) == ("interrupted", "Interrupted.")


def test_a_trial_that_does_not_stop_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "GRACE_S", -1.0)
    sweep_ending, _, signals = make(tmp_path, ["running"])
    signals(signal.SIGTERM, None)
    sweep_ending.check()
    assert sweep_ending.is_over()


def test_a_second_ctrl_c_does_not_wait() -> None:
    before = signal.getsignal(signal.SIGINT)
    with ended_by_signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.count == 1
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("statuses", "gpus", "budget", "status", "words"),
    [
        (["running"], 0, {"hours": 1}, "done", "budget.hours: the 1 hours are used up"),
        (["completed", "completed"], 2, {"gpu_hours": 2}, "done", "budget.gpu_hours: the 2 GPU-hours"),
        (
            ["completed", "failed", "failed"],
            0,
            {"max_failed": 2},
            "failed",
            "2 trials failed. The last one, trial 2: diverged: nan",
        ),
        (["failed"] * 3, 0, {}, "failed", "All of the first 3 trials failed the same way (diverged)."),
    ],
)
def test_each_limit_of_the_budget_ends_the_sweep_in_words(
    tmp_path: Path, statuses: list[str], gpus: float, budget: dict[str, Any], status: str, words: str
) -> None:
    sweep_ending, _, _ = make(tmp_path, statuses, gpus=gpus, **budget)
    assert sweep_ending.check()
    assert sweep_ending.status == status
    assert words in sweep_ending.message


@pytest.mark.parametrize(
    ("statuses", "gpus", "at_once", "budget"),
    [
        (["running"], 0, 2, {"hours": 5}),
        (["completed"], 2, 2, {"gpu_hours": 2}),
        # Trials without a GPU use none up.
        (["completed"] * 9, 0, 2, {"gpu_hours": 1}),
        (["completed", "failed"], 0, 2, {"max_failed": 2}),
        (["failed", "failed"], 0, 2, {}),
        # With eight at once, three failures say little yet.
        (["failed"] * 3, 0, 8, {}),
    ],
)
def test_a_limit_that_is_not_reached_ends_nothing(
    tmp_path: Path, statuses: list[str], gpus: float, at_once: int, budget: dict[str, Any]
) -> None:
    sweep_ending, _, _ = make(tmp_path, statuses, gpus=gpus, at_once=at_once, **budget)
    assert not sweep_ending.check()


def test_a_pause_has_trials_stop_and_goes_on_when_told(tmp_path: Path) -> None:
    sweep_ending, state, _ = make(tmp_path, ["running", "completed"])
    sweep_ending.pause()
    assert sweep_ending.stopping
    assert not sweep_ending.is_over()
    assert (trial_folder(tmp_path, 0) / STOP).exists()
    state.trials[0].status = "interrupted"
    assert sweep_ending.is_over()
    assert sweep_ending.phase == Phase.PAUSED
    assert not sweep_ending.check()
    sweep_ending.resume()
    assert sweep_ending.phase != Phase.PAUSED
    assert sweep_ending.try_continue()
    assert not sweep_ending.stopping


def test_ctrl_c_ends_a_paused_sweep(tmp_path: Path) -> None:
    sweep_ending, _, signals = make(tmp_path, ["interrupted"])
    sweep_ending.pause()
    signals(signal.SIGINT, None)
    assert sweep_ending.check()
    assert sweep_ending.phase != Phase.PAUSED
    assert not sweep_ending.try_continue()
    assert (sweep_ending.status, sweep_ending.message) == ("interrupted", "Interrupted.")


def test_a_cancelled_sweep_waits_for_no_checkpoint_even_if_it_was_to(tmp_path: Path) -> None:
    sweep_ending, _, signals = make(tmp_path, ["running"])
    signals(signal.SIGTERM, None)
    assert sweep_ending.check()
    assert not sweep_ending.is_over()
    sweep_ending.cancel()
    assert sweep_ending.check()
    assert sweep_ending.is_over()
    assert sweep_ending.status == "interrupted"


@pytest.mark.parametrize("first", [(), ("stop",), ("stop", "pause", "resume"), ("pause", "stop")])
def test_a_paused_sweep_that_is_stopped_ends_whatever_came_before(
    tmp_path: Path, first: tuple[str, ...]
) -> None:
    sweep_ending, _, _ = make(tmp_path, ["interrupted"])
    for request in (*first, "pause"):
        getattr(sweep_ending, request)()
    assert sweep_ending.phase == Phase.PAUSED
    sweep_ending.stop()
    assert sweep_ending.draining
    assert not sweep_ending.try_continue()
    assert not sweep_ending.stopping  # no reason other than the request


@pytest.mark.parametrize("request_", ["pause", "resume", "stop"])
def test_an_end_cannot_be_undone_by_a_request(tmp_path: Path, request_: str) -> None:
    sweep_ending, _, signals = make(tmp_path, ["running"])
    signals(signal.SIGINT, None)
    sweep_ending.check()
    getattr(sweep_ending, request_)()
    assert sweep_ending.phase == Phase.ENDING
    assert not sweep_ending.try_continue()


def test_every_phase_but_the_last_leads_to_the_end() -> None:
    table = ending._NEXT
    assert set(table) == set(Phase)
    assert [phase for phase in Phase if table[phase].get(Step.END) != Phase.ENDING] == [Phase.ENDING]
    # Only a pause that was lifted ends when all trials have stopped.
    assert {phase for phase in Phase if Step.STOPPED in table[phase]} == {Phase.RESUMING, Phase.LEAVING}


def test_failures_of_an_earlier_driver_do_not_end_the_next_one_at_once(tmp_path: Path) -> None:
    earlier, state, signals = make(tmp_path, ["failed"] * 3)
    assert earlier.check()
    assert not Ending(2, state, signals).check()


def test_trials_that_fail_in_several_ways_are_given_longer(tmp_path: Path) -> None:
    sweep_ending, state, _ = make(tmp_path, ["failed"] * 8)
    state.trials[0].reason = "data"
    assert not sweep_ending.check()
    extra, other, _ = make(tmp_path / "more", ["failed"] * 9)
    other.trials[0].reason = "data"
    assert extra.check()
    assert "All of the first 9 trials failed in several ways." in extra.message


def test_a_sweep_that_cannot_go_on_asks_its_trials_for_a_checkpoint_and_ends(tmp_path: Path) -> None:
    sweep_ending, state, _ = make(tmp_path, ["running"])
    sweep_ending.give_up("The disk is full.")
    sweep_ending.give_up("Something else, later.")
    assert sweep_ending.check()
    assert not sweep_ending.is_over()
    assert (trial_folder(tmp_path, 0) / STOP).exists()
    state.trials[0].status = "interrupted"
    assert sweep_ending.is_over()
    assert (sweep_ending.status, sweep_ending.message) == ("failed", "The disk is full.")


def test_sigterm_interrupts_what_is_being_started() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_interrupts_even_where_ray_took_the_signal_for_itself() -> None:
    def start_ray() -> None:
        signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(number))
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_sigterm():
        start_ray()
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(SystemExit), interrupted_by_sigterm():
        sys.exit(2)


def test_the_cost_of_a_sweep_is_counted_when_a_trial_ends_and_once_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep_ending, state, _ = make(tmp_path, ["completed", "running"], gpus=1.0, cost=100.0)
    looks: list[None] = []
    monkeypatch.setattr(ending, "limit_reached", lambda *_: looks.append(None))
    for _ in range(50):
        assert not sweep_ending.check()
    assert len(looks) == 1
    state.trials[1].status = "completed"
    sweep_ending.check()
    assert len(looks) == 2
    sweep_ending._next_check = 0.0
    sweep_ending.check()
    assert len(looks) == 3
