"""A sweep that takes from an earlier one keeps what it took, and continues the same without that one."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from command_line import plain_console, printed
from played_sweeps import Sweep
from small_sweeps import LR, SUCCESS, spec, sweep
from small_trainable import TRAINABLE

from sweeper.driver.launch import run_sweep
from sweeper.driver.opening import earlier_sweep, open_sweep
from sweeper.driver.recorder import Outcome, Recorder
from sweeper.errors import SweepExistsError, UserError
from sweeper.layout import EARLIER, JOURNAL, STUDY
from sweeper.records.earlier import read_taken, take_earlier
from sweeper.records.journal import read_journal
from sweeper.records.summary import read_summary
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.space import Parameter
from sweeper.spec.sweep import BudgetSpec, ResourceSpec, SearchSpec, SweepSpec
from sweeper.terminal.as_json import to_json
from sweeper.terminal.live import events_as_lines
from sweeper.terminal.tables import print_ranking

CONFIG = {"train.steps": 20}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder of an earlier sweep of twelve trials, each better than the one before it."""
    old = Sweep(tmp_path / "old", sweep_id="old")
    old.start(LR, config=CONFIG)
    for number in range(12):
        old.trial(number, lr=round(1e-5 * 1.4**number, 9))
    return old.folder


def new(folder: Path, *, steps: int = 20, named: tuple[str, ...] = ("old",), **search: Any) -> SweepSpec:
    config = {**CONFIG, "train.steps": steps}
    return sweep(folder, LR, config=config, trials=40, startup_trials=3, from_sweeps=named, **search)


def drive(spec: SweepSpec, trials: int) -> list[Mapping[str, Any]]:
    """Run some trials as a driver does that launches or resumes a sweep; returns their configurations."""
    earlier = earlier_sweep(spec)
    taken = take_earlier(spec, TRAINABLE) if earlier is None else read_taken(spec)
    configs = []
    with open_sweep(spec, TRAINABLE, earlier, taken) as records:
        recorder = Recorder(records.study, records.journal, None, spec, sweep=records.sweep)
        recorder.start_sweep({})
        for _ in range(trials):
            suggestion = records.study.ask()
            assert suggestion is not None
            recorder.start_trial(suggestion.number, suggestion.config)
            value = -abs(suggestion.config["optimizer.lr"] - 3e-4)
            recorder.report(suggestion.number, {"trial/step": 20, SUCCESS: value})
            recorder.end_trial(suggestion.number, Outcome("completed"))
            configs.append(suggestion.config)
    return configs


@pytest.mark.slow
@pytest.mark.parametrize(("method", "steps"), [("tpe", 20), ("tpe", 30), ("random", 20)])
def test_it_continues_the_same_although_the_earlier_sweep_was_deleted(tmp_path, old, method, steps):
    undisturbed = drive(new(tmp_path / "undisturbed", method=method, steps=steps), 10)
    alone = drive(new(tmp_path / "alone", method=method, steps=steps, named=()), 10)
    interrupted = new(tmp_path / "interrupted", method=method, steps=steps)
    found = drive(interrupted, 2)
    shutil.rmtree(old)
    for trials in (1, 7):
        found += drive(interrupted, trials)
    assert found == undisturbed
    assert found[0] != alone[0]


@pytest.mark.slow
def test_the_records_say_where_the_first_trials_came_from(tmp_path, old):
    spec = new(tmp_path / "new", steps=30, try_first=({"optimizer.lr": 2e-5},))
    drive(spec, 5)
    origins = ["search.try_first", "trial 11 of old", "trial 10 of old", "trial 9 of old", ""]
    for sweep_state in (read_sweep(spec.folder), read_summary(spec.folder)):
        assert [trial.origin for trial in sweep_state.trials.values()] == origins
    found = read_sweep(spec.folder)
    lines = events_as_lines(read_journal(spec.folder / JOURNAL).events)
    assert any("trial 1 started (trial 11 of old): " in line for line in lines)
    console = plain_console(200)
    print_ranking(console, found)
    assert "tried first: trial 0 (search.try_first), trial 1 (trial 11 of old), trial 2" in printed(console)
    listed = {trial["trial"]: trial["origin"] for trial in to_json(found)["trials"]}
    assert [listed[number] for number in range(5)] == origins


@pytest.mark.slow
def test_a_resumed_sweep_says_the_same_of_its_trials(tmp_path, old):
    spec = new(tmp_path / "new", steps=30)
    drive(spec, 1)
    with open_sweep(spec, TRAINABLE, earlier_sweep(spec), read_taken(spec)) as records:
        assert records.study.origin(0) == "trial 11 of old"


@pytest.mark.slow
def test_without_what_it_took_it_does_not_continue(tmp_path, old):
    spec = new(tmp_path / "new")
    drive(spec, 1)
    (spec.folder / EARLIER).unlink()
    with pytest.raises(UserError, match=r"earlier\.json cannot be read.*Restore the file"):
        drive(spec, 1)


@pytest.mark.slow
def test_a_begun_sweep_does_not_take_from_other_sweeps(tmp_path, old):
    drive(new(tmp_path / "new"), 1)
    with pytest.raises(SweepExistsError, match=r"search\.from was \[old\] and is now \[\]"):
        drive(new(tmp_path / "new", named=()), 1)


@pytest.mark.slow
def test_a_launch_that_begins_again_selects_again(tmp_path, old):
    """A driver that was killed before its sweep began leaves the file, and it does not count."""
    spec = new(tmp_path / "new")
    spec.folder.mkdir()
    for name in (EARLIER, STUDY):
        (spec.folder / name).write_text("cut off")
    assert earlier_sweep(spec) is None
    drive(spec, 1)
    assert len(read_taken(spec).known) == 12


@pytest.mark.slow
def test_the_second_of_two_launches_leaves_what_the_first_one_took(tmp_path, old):
    spec = new(tmp_path / "new")
    with open_sweep(spec, TRAINABLE, None, take_earlier(spec, TRAINABLE)):
        before = (spec.folder / EARLIER).read_text()
        other = dataclasses.replace(take_earlier(spec, TRAINABLE), known=())
        with (
            pytest.raises(UserError, match="another process is running this sweep"),
            open_sweep(spec, TRAINABLE, None, other),
        ):
            pass
        assert (spec.folder / EARLIER).read_text() == before
    assert not spec.folder.exists(), "no trial was recorded"


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_whole_sweeps_take_from_each_other(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    rate = Parameter("optimizer.lr", "float", 1e-3, 0.9, log=True)

    def of(name: str, trials: int, **search: Any) -> SweepSpec:
        made = spec(tmp_path / name, rate, trials=trials, search=SearchSpec(startup_trials=3, **search))
        return dataclasses.replace(made, resources=ResourceSpec(1, 0, 1, max_concurrent=1))

    assert run_sweep(of("old", 4, method="random"), console=plain_console()).exit_code == 0
    console = plain_console(200)
    undisturbed = run_sweep(of("undisturbed", 5, from_sweeps=("old",)), console=console)
    assert "old: the sampler learns from 4 trials" in printed(console)
    assert undisturbed.sweep.info["earlier"] == "old: the sampler learns from 4 trials"
    interrupted = of("interrupted", 2, from_sweeps=("old",))
    run_sweep(interrupted, console=plain_console())
    shutil.rmtree(tmp_path / "old")
    console = plain_console(200)
    result = run_sweep(dataclasses.replace(interrupted, budget=BudgetSpec(trials=5)), console=console)
    assert "learns from" not in printed(console), "it is said once"
    configs = [
        [trial.config for trial in read_sweep(one.sweep.folder).trials.values()]
        for one in (undisturbed, result)
    ]
    assert configs[0] == configs[1]
    assert len(configs[0]) == 5
    stored = json.loads((interrupted.folder / EARLIER).read_text())
    assert [one["number"] for one in stored["known"]] == [0, 1, 2, 3]
