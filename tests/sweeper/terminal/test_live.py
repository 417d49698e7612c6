"""What a person sees of a running sweep."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from small_sweeps import LR, SUCCESS, choice, sweep

from sweeper.layout import trial_folder
from sweeper.records.events import EventKind
from sweeper.records.forecast import Forecast
from sweeper.records.sweep_state import SweepState
from sweeper.spec.sweep import BudgetSpec
from sweeper.terminal.live import Display, trials_table

T0 = 1_000_000.0
OTHERS = ("horizon", "down_dims", "n_groups", "kernel_size", "crop", "dropout")


class Story:
    """A sweep that is told event by event."""

    def __init__(self, folder: Path, *, terminal: bool = False, at_once: int = 2, **budget: Any) -> None:
        parameters = (LR, *(choice(f"policy.{name}", 1, 2, 16) for name in OTHERS))
        spec = sweep(folder, *parameters, trials=4, config={"train.steps": 100})
        if budget:
            spec = dataclasses.replace(spec, budget=BudgetSpec(**budget))
        self.sweep = SweepState(folder)
        self.board = Forecast(self.sweep, at_once)
        self.output = io.StringIO()
        console = Console(file=self.output, force_terminal=terminal, width=140, height=40, color_system=None)
        self.display = Display(console, self.board)
        self.now = T0
        self.tell(
            EventKind.SWEEP_START,
            sweep="small",
            sweep_id="1",
            spec=spec.to_dict(),
            space="",
            info={},
            driver={},
        )

    def tell(self, kind: EventKind, **fields: Any) -> None:
        event = {"event": str(kind), "time": self.now, **fields}
        self.sweep.apply(event)
        self.display.tell(event)

    def start(self, number: int, **values: Any) -> None:
        values = {"optimizer.lr": 1e-4, "policy.horizon": 16, "policy.down_dims": 1, **values}
        self.tell(EventKind.TRIAL_START, trial=number, values=values, config={"train.steps": 100, **values})

    def report(self, number: int, step: int, **metrics: float) -> None:
        named = {name.replace("__", "/"): value for name, value in metrics.items()}
        self.tell(EventKind.REPORT, trial=number, step=step, metrics=named)

    def end(self, number: int, status: str, reason: str = "", message: str = "") -> None:
        self.tell(EventKind.TRIAL_END, trial=number, status=status, reason=reason, message=message)

    def rendered(self) -> str:
        console = Console(file=io.StringIO(), width=140, height=40, color_system=None)
        console.print(self.display.render())
        return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.fixture
def story(tmp_path: Path) -> Story:
    return Story(tmp_path)


def test_without_a_terminal_each_change_and_evaluation_prints_one_line(story: Story) -> None:
    story.start(0)
    story.report(0, 10, train__loss=0.5)
    story.report(0, 50, train__loss=0.25, rollout__success_rate=0.4)
    story.now += 75
    story.end(0, "completed")
    story.start(1, **{"optimizer.lr": 3e-4})
    story.end(1, "failed", "diverged", "the loss is nan at step 3")
    story.display.say("Interrupted.")
    assert story.output.getvalue().splitlines() == [
        "trial 0 started: optimizer.lr=0.0001, policy.horizon=16, policy.down_dims=1",
        "trial 0 step 50/100: train/loss 0.25, rollout/success_rate 0.4",
        "trial 0 completed at step 50/100 after 1 min 15 s: train/loss 0.25, rollout/success_rate 0.4",
        "trial 1 started: optimizer.lr=0.0003, policy.horizon=16, policy.down_dims=1",
        "trial 1 failed (diverged) at step 0/100 after 0 s",
        "    the loss is nan at step 3",
        "Interrupted.",
    ]


def test_the_table_shows_states_varying_parameters_losses_and_the_best_trial(story: Story) -> None:
    story.start(0)
    story.start(1, **{"optimizer.lr": 3e-4})
    story.report(0, 50, train__loss=0.25, train__grad_norm=1.5, rollout__success_rate=0.4)
    story.report(1, 50, train__loss=0.2, train__grad_norm=1.25, rollout__success_rate=0.6)
    story.end(0, "stopped_early", "early_stop")
    lines = story.rendered().splitlines()
    assert lines[1].strip() == "in the lead: rollout/success_rate 0.6 (trial 1, still running)"
    assert lines[2].split() == ["success_"]  # long names stand in two lines
    assert lines[3].split() == ["trial", "state", "lr", "step", "loss", "grad_norm", "rate", "time"]
    assert lines[4].split()[:-1] == ["0", "stopped", "early", "0.0001", "50/100", "0.25", "1.5", "0.4"]
    assert lines[5].split()[:2] == ["★", "1"]
    # Of many parameters those that are the same in every trial take no room.
    assert "horizon" not in lines[2] + lines[3]


def test_progress_of_trials_and_a_warning_are_below_the_table(tmp_path: Path) -> None:
    story = Story(tmp_path)
    story.display._problem = lambda: "MLflow does not answer"
    story.start(0)
    folder = trial_folder(tmp_path, 0)
    folder.mkdir(parents=True)
    (folder / "progress.json").write_text(json.dumps({"message": "decoding observation.image 40 %"}))
    story.display._notice = "Stopping."
    text = story.rendered()
    assert "trial 0: decoding observation.image 40 %" in text
    assert "! MLflow does not answer" in text
    assert text.rstrip().endswith("Stopping.")


@pytest.mark.slow
def test_nothing_is_kept_of_the_progress_of_trials_that_ended(tmp_path: Path) -> None:
    story = Story(tmp_path)
    for number in range(20):
        story.start(number)
        folder = trial_folder(tmp_path, number)
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text(json.dumps({"message": f"decoding {number} %"}))
        assert f"decoding {number} %" in story.rendered()
        if number < 19:
            story.end(number, "completed", "")
    assert len(story.display._progress_of._read) == 1


def test_time_left_is_estimated_from_ended_and_running_trials(story: Story) -> None:
    assert story.board.left_s(story.now) is None
    story.start(0)
    story.start(1)
    story.now += 30
    assert story.board.left_s(story.now) is None  # nothing reported yet
    story.report(0, 0, train__loss=1.0)
    assert story.board.left_s(story.now) is None  # nor can a first report say how fast it goes
    story.now += 10
    story.report(0, 50, train__loss=1.0)
    # After 30 s of start-up it takes 20 s: 10 s are left of each of the two trials, and two are to come.
    assert story.board.left_s(story.now) == pytest.approx((10 + 10 + 2 * 50) / 2)
    story.now += 20
    story.end(0, "completed")
    story.end(1, "failed")
    # One that failed at once says nothing of how long the others take.
    assert story.board.left_s(story.now) == pytest.approx(2 * 60 / 2)


def test_time_left_is_no_longer_than_the_budget(tmp_path: Path) -> None:
    story = Story(tmp_path, trials=100, hours=0.1)
    story.start(0)
    story.now += 60
    story.end(0, "completed")
    assert story.board.left_s(story.now) == pytest.approx(300)


def test_of_many_trials_the_running_and_the_best_are_shown(story: Story) -> None:
    for number in range(8):
        story.start(number)
        story.report(number, 100, rollout__success_rate=number / 10)
        if number != 2:
            story.end(number, "completed")
    assert [trial.number for trial in story.board.shown(3)] == [2, 6, 7]
    assert [trial.number for trial in story.board.shown(20)] == list(range(8))


def test_a_table_without_any_value_can_be_drawn(story: Story) -> None:
    story.start(0)
    table = trials_table(story.board, story.board.trials(), story.now)
    assert table.row_count == 1
    assert story.board.best() is None
    assert SUCCESS not in story.rendered().splitlines()[0]


def test_on_a_terminal_the_last_table_stays_visible(tmp_path: Path) -> None:
    story = Story(tmp_path, terminal=True)
    with story.display:
        story.start(0)
        story.report(0, 50, train__loss=0.25)
    assert "50/100" in story.output.getvalue()
    assert "trial 0 started" not in story.output.getvalue()


def test_a_value_that_may_still_get_worse_is_not_called_the_best_so_far(story: Story) -> None:
    story.start(0)
    story.report(0, 100, rollout__success_rate=0.5)
    story.end(0, "completed")
    story.start(1)
    story.report(1, 50, rollout__success_rate=0.75)
    assert "in the lead: rollout/success_rate 0.75 (trial 1, still running)" in story.rendered()
    story.report(1, 100, rollout__success_rate=0.25)
    assert "best so far: rollout/success_rate 0.5 (trial 0)" in story.rendered()


@pytest.mark.slow
def test_a_silent_sweep_shows_when_it_last_reported_and_not_that_no_time_is_left(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    story.start(0)
    story.report(0, 10, train__loss=0.5)
    story.now += 10
    story.end(0, "completed")
    story.start(1)
    monkeypatch.setattr("sweeper.terminal.live.time.time", lambda: story.now)
    story.now += 120  # it has not reported yet: what it does is shown instead
    assert "last report" not in story.rendered()
    story.report(1, 10, train__loss=0.5)
    assert story.board.left_s(story.now + 1) is not None
    for number in (2, 3):
        story.start(number)
        story.end(number, "completed")
    story.now += 120
    title = story.rendered().splitlines()[0]
    assert "left" not in title
    assert title.endswith("last report 2 min 00 s ago")


def test_a_log_shows_each_phase_before_the_first_report_once(
    story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.terminal.live.LOOK_S", 0.0)
    story.start(0)
    folder = trial_folder(story.sweep.folder, 0)
    folder.mkdir(parents=True)
    messages = ["opening the dataset", "decoding image: 10 of 99", "decoding image: 20 of 99", "building"]
    for message in messages:
        (folder / "progress.json").write_text(json.dumps({"message": message}))
        story.display.look()
        story.display.look()
    story.report(0, 10, train__loss=0.5)
    (folder / "progress.json").write_text(json.dumps({"message": "step 10: rollout"}))
    story.display.look()
    assert story.output.getvalue().splitlines()[1:] == [
        "trial 0: opening the dataset",
        "trial 0: decoding image: 10 of 99",
        "trial 0: building",
    ]
