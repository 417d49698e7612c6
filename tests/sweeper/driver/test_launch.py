"""Whole sweeps: from a space to a ranking. Every part is the real one; only the trainable is small."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from command_line import plain_console, printed
from rich.console import Console
from small_sweeps import LOSS, as_optuna_reads_it, choice, spec
from small_trainable import release

from sweeper.driver.launch import launch, run_sweep, steps_of_all
from sweeper.driver.preflight import preflight
from sweeper.driver.resume import resume
from sweeper.errors import ResourceError, SweepExistsError, UserError
from sweeper.layout import JOURNAL, trial_folder
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.expressions import Expression
from sweeper.spec.space import Space
from sweeper.spec.sweep import (
    BudgetSpec,
    EarlyStopSpec,
    ResourceSpec,
    SearchSpec,
    SweepSpec,
)
from sweeper.terminal.faults import checking
from sweeper.terminal.result import print_result
from trainables.interface import ConfigError

# MLflow and Ray Data warn of their own habits.
pytestmark = pytest.mark.filterwarnings("default")


def quiet() -> Console:
    return plain_console(width=200)


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture(scope="module")
def swept(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep of one good trial, three bad ones, and one that fails."""
    folder = tmp_path_factory.mktemp("sweeps") / "a sweep"
    good = {"optimizer.lr": 0.3, "fault": None, "hold_step": 0}
    sweep = spec(
        folder,
        choice("optimizer.lr", 0.3, 1e-3, 2e-3, 3e-3),
        choice("fault", None, "diverge"),
        # The bad ones wait to be stopped, however long the driver takes to see that they are bad.
        choice("hold_step", 0, 25),
        config={"train.steps": 400},
        trials=5,
        # The good trial is the first, and ends before the bad ones, which then are seen to be bad.
        search=SearchSpec(method="grid", try_first=(good,)),
        resources=ResourceSpec(1, 0, 1, max_concurrent=1),
        early_stop=EarlyStopSpec("asha", LOSS, "minimize", min_steps=20, reduction=4, max_steps=400),
    )
    constraints = (
        Expression("fault != 'diverge' or optimizer.lr == 0.3"),
        Expression("optimizer.lr == 0.3 or hold_step == 25"),
        Expression("optimizer.lr != 0.3 or hold_step == 0"),
    )
    sweep = dataclasses.replace(sweep, space=dataclasses.replace(sweep.space, constraints=constraints))
    console = quiet()
    result = run_sweep(sweep, console=console)
    print_result(console, result)
    return sweep, result, printed(console)


@pytest.mark.ray
@pytest.mark.slow
def test_every_trial_ends_and_is_counted_once(swept: Any) -> None:
    _, result, _ = swept
    assert result.exit_code == 0
    assert result.status == "done"
    assert sorted(result.sweep.trials) == [0, 1, 2, 3, 4]
    assert result.sweep.ended_trials == 5
    assert result.sweep.count("failed") == 1
    assert result.sweep.count("stopped_early") == 3
    best = result.sweep.best_trial()
    assert best.values["optimizer.lr"] == 0.3
    assert best.step == 400


@pytest.mark.ray
@pytest.mark.slow
def test_study_journal_and_mlflow_tell_the_same_story(swept: Any) -> None:
    from mlflow.tracking import MlflowClient

    sweep, result, _ = swept
    trials = result.sweep.trials
    states = {"completed": "COMPLETE", "stopped_early": "PRUNED", "failed": "FAIL"}
    failed = next(trial for trial in trials.values() if trial.status == "failed")
    with as_optuna_reads_it(sweep.folder) as study:
        assert {t.number: t.state.name for t in study.trials} == {
            number: states[trial.status] for number, trial in trials.items()
        }
        assert study.trials[failed.number].user_attrs["reason"] == "diverged"
    client = MlflowClient(f"sqlite:///{sweep.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tests").experiment_id
    runs = {run.data.tags.get("sweep.trial"): run for run in client.search_runs([experiment])}
    assert set(runs) == {None, "0", "1", "2", "3", "4"}
    assert runs[str(failed.number)].data.tags["reason"] == "diverged"
    assert runs[None].data.tags["git.commit" if "git.commit" in runs[None].data.tags else "sweep.name"]
    best = result.sweep.best_trial()
    history = client.get_metric_history(runs[str(best.number)].info.run_id, LOSS)
    assert [metric.step for metric in history] == list(range(5, 401, 5))
    assert any(name.startswith("system/") for name in runs[str(best.number)].data.metrics)
    assert result.delivery.complete


@pytest.mark.ray
@pytest.mark.slow
def test_the_end_says_the_ranking_the_folder_and_how_to_compare(swept: Any) -> None:
    sweep, result, text = swept
    assert "All 5 trials ended." in text
    assert f"Results are in {sweep.folder}" in text
    assert "sweeper ui 'a sweep'" in text
    assert result.links.comparison in text
    assert "/#/compare-runs?runs=" in result.links.comparison
    assert result.links.charts in text
    assert "compareRunsMode=CHART" in result.links.charts
    assert "failed (diverged)" in text
    assert "the loss is nan at step 10" in text


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_leaves_what_the_design_says_and_all_cpus(swept: Any, settles: Any) -> None:
    import ray

    sweep, _, _ = swept
    names = {path.name for path in sweep.folder.iterdir()}
    assert {"spec.yaml", "study.db", "journal.jsonl", "mlflow.db", "artifacts", "trials"} <= names
    assert "ray" not in names
    trial = sweep.folder / "trials" / "0"
    assert json.loads((trial / "config.json").read_text())["train.steps"] == 400
    assert settles(lambda: ray.available_resources().get("CPU", 0) == 2.0)
    states = {entry["state"] for entry in ray.util.placement_group_table().values()}
    assert states <= {"REMOVED"}


@pytest.mark.ray
@pytest.mark.slow
def test_a_complete_sweep_is_shown_and_not_run_again(swept: Any) -> None:
    sweep, _, _ = swept
    before = (sweep.folder / JOURNAL).read_bytes()
    console = quiet()
    assert launch(sweep, console=console) == 0
    assert "5 trials have ended" in printed(console)
    assert (sweep.folder / JOURNAL).read_bytes() == before


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_stops_cleanly_and_the_same_command_goes_on(cluster: Any, tmp_path: Path) -> None:
    sweep = spec(
        tmp_path / "interrupted",
        choice("optimizer.lr", 0.1),
        trials=1,
        config={"train.steps": 200, "hold_step": 100},
    )

    def interrupt() -> None:
        until = time.monotonic() + 400
        while time.monotonic() < until:
            if any(e["event"] == "report" for e in read_journal(sweep.folder / JOURNAL).events):
                os.kill(os.getpid(), signal.SIGINT)
                return
            time.sleep(0.1)

    thread = threading.Thread(target=interrupt)
    thread.start()
    console = quiet()
    code = launch(sweep, console=console)
    thread.join()
    assert code == 130
    assert "To continue it" in printed(console)
    interrupted = read_sweep(sweep.folder).trials[0]
    assert interrupted.status == "interrupted"
    assert 0 < interrupted.step < 200
    with contextlib.closing(sqlite3.connect(sweep.folder / "study.db")) as database:
        assert database.execute("select state from trials").fetchall() == [("RUNNING",)]

    release(trial_folder(sweep.folder, 0))
    console = quiet()
    assert launch(sweep, console=console) == 0
    trial = read_sweep(sweep.folder).trials[0]
    assert (trial.status, trial.step) == ("completed", 200)
    steps = [e["step"] for e in read_journal(sweep.folder / JOURNAL).events if e["event"] == "report"]
    assert steps == sorted(set(steps))  # went on from the checkpoint, repeated nothing


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_whose_trials_all_fail_gives_up_and_says_why(cluster: Any, tmp_path: Path) -> None:
    sweep = spec(
        tmp_path / "hopeless",
        choice("optimizer.lr", 0.1, 0.2, 0.3),
        trials=3,
        config={"fault": "raise", "fault_step": 1},
        budget=BudgetSpec(trials=3, max_failed=1),
    )
    console = quiet()
    assert launch(sweep, console=console) == 1
    assert "budget.max_failed" in printed(console)
    assert "ValueError: the parabola is flat here" in printed(console)
    assert read_sweep(sweep.folder).status == "failed"
    assert read_sweep(sweep.folder).count("failed") >= 1


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_without_gains_ends_and_continues_without_that_limit(cluster: Any, tmp_path: Path) -> None:
    sweep = spec(
        tmp_path / "stagnant",
        choice("optimizer.lr", 0.4, 0.1, 0.05, 0.01),
        search=SearchSpec(method="grid", try_first=({"optimizer.lr": 0.4}, {"optimizer.lr": 0.01})),
        resources=ResourceSpec(1, 0, 1, max_concurrent=1),
        budget=BudgetSpec(trials=4, stagnation=2),
    )
    console = quiet()
    assert launch(sweep, console=console) == 0
    ended = "budget.stagnation: none of the last 2 trials is better than trial 0."
    assert ended in printed(console)
    first = read_sweep(sweep.folder)
    assert (first.status, first.message, first.ended_trials) == ("done", ended, 3)
    with pytest.raises(UserError, match=r"stagnant budget.stagnation=null` continues without this limit"):
        resume(first, [], None, quiet())
    assert resume(first, ["budget.stagnation=null"], None, quiet()) == 0
    assert read_sweep(sweep.folder).ended_trials == 4


# What is refused before anything starts


def refused(sweep: SweepSpec, error: type[Exception], match: str) -> str:
    console = quiet()
    with pytest.raises(error, match=match):
        launch(sweep, console=console)
    return printed(console)


def test_more_gpus_than_there_are_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    sweep = spec(tmp_path / "sweeps" / "big", choice("optimizer.lr", 0.1), resources=ResourceSpec(1, 1000, 1))
    refused(sweep, ResourceError, "needs 1000 GPUs")
    assert not (tmp_path / "sweeps").exists()


def test_what_the_preflight_finds_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    sweep = spec(tmp_path / "sweeps" / "bad", choice("optimizer.lr", 0.1), config={"fault": "preflight"})
    refused(sweep, ConfigError, "'preflight' is refused")
    assert not (tmp_path / "sweeps").exists()


def test_a_trial_that_is_larger_than_the_disk_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    sweep = spec(tmp_path / "sweeps" / "large", choice("optimizer.lr", 0.1), config={"fault": "large"})
    said = refused(sweep, ResourceError, "1,000,000,000.0 GB of disk")
    assert not (tmp_path / "sweeps").exists()
    # What `sweeper check` would have warned of is shown before that.
    assert "! The space has only 1 combination: the sweep ends after" in said


@pytest.mark.parametrize(
    ("cache", "words"),
    [("file/cache", "cannot be written: Not a directory"), ("~nobody-of-this-name/x", "no home folder")],
)
def test_a_cache_that_cannot_be_written_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: str, words: str
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SWEEPER_CACHE", cache if cache.startswith("~") else str(tmp_path / cache))
    sweep = spec(tmp_path / "sweeps" / "x", choice("optimizer.lr", 0.1))
    refused(sweep, UserError, f"SWEEPER_CACHE: .*{words}")
    assert not (tmp_path / "sweeps").exists()


def test_a_file_in_the_way_of_the_sweeps_folder_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("a file")
    refused(spec(tmp_path / "x", choice("optimizer.lr", 0.1)), SweepExistsError, "is not a folder.*name=x-2")
    assert (tmp_path / "x").read_text() == "a file"


def test_a_folder_that_cannot_be_made_is_the_users_mistake(tmp_path: Path) -> None:
    (tmp_path / "sweeps").write_text("a file")
    sweep = spec(tmp_path / "sweeps" / "x", choice("optimizer.lr", 0.1))
    refused(sweep, UserError, "cannot be created: Not a directory")


def test_a_space_without_a_legal_point_is_refused(tmp_path: Path) -> None:
    sweep = spec(tmp_path / "sweeps" / "none", choice("optimizer.lr", -1.0))
    refused(sweep, ConfigError, "optimizer.lr: -1.0 is too small")


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "chapter.txt").write_text("one")
    refused(spec(folder, choice("optimizer.lr", 0.1)), SweepExistsError, "name=thesis-2")
    assert [path.name for path in folder.iterdir()] == ["chapter.txt"]


@pytest.mark.slow
def test_another_sweep_of_the_same_name_is_refused_with_what_differs(
    tmp_path: Path, recorded: Callable[[SweepSpec], None]
) -> None:
    before = spec(tmp_path / "sweep", choice("optimizer.lr", 0.1))
    recorded(before)
    (tmp_path / "sweep-2").mkdir()
    now = dataclasses.replace(before, config={**before.config, "train.steps": 50})
    refused(now, SweepExistsError, r"config\.train\.steps was 40 and is now 50\..*name=sweep-3")
    now = dataclasses.replace(now, space=Space((choice("optimizer.lr", 0.1, 0.2),)))
    searched = r"parameters\.optimizer\.lr was {values: \[0\.1\]} and is now {values: \[0\.1, 0\.2\]}"
    words = rf"steps was 40 and is now 50\n  {searched}\n"
    refused(now, SweepExistsError, words)


@pytest.fixture
def recorded() -> Callable[[SweepSpec], None]:
    """Leave what a driver leaves that was killed before its first trial."""
    from sweeper.driver.recorder import Recorder
    from sweeper.records.journal import Journal
    from sweeper.search.study import Study

    def record(sweep: SweepSpec) -> None:
        with Study(sweep) as study, Journal(sweep.folder / JOURNAL) as journal:
            Recorder(study, journal, None, sweep).start_sweep({})

    return record


def test_every_combination_of_searched_data_fields_is_checked(tmp_path: Path) -> None:
    from small_trainable import Parabola

    seen = []

    class Watched(Parabola):
        fields: ClassVar = {
            **Parabola.fields,
            "fault": dataclasses.replace(Parabola.fields["fault"], phase="data"),
        }

        def preflight(self, config: Any, cache: Path, progress: Any = None) -> Any:
            seen.append(config["fault"])
            return super().preflight(config, cache)

    sweep = spec(
        tmp_path / "data", choice("optimizer.lr", 0.1, 0.2), choice("fault", "raise", "die", "preflight")
    )
    with pytest.raises(ConfigError, match="'preflight' is refused"):
        preflight(sweep, Watched(), tmp_path)
    assert sorted(seen) == ["die", "preflight", "raise"]


def test_a_log_hears_of_a_slow_check_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.terminal.faults.CHECKING_EVERY_S", 3600.0)
    console = plain_console(width=80)
    with checking(console, "slow") as progress:
        for number in range(100):
            progress(f"episode {number} [of 100]")
        monkeypatch.setattr("sweeper.terminal.faults.CHECKING_EVERY_S", 0.0)
        progress("episode 100 [of 100]")
    assert printed(console).splitlines() == ["Checking slow …", "episode 0 [of 100]", "episode 100 [of 100]"]


@pytest.mark.parametrize(
    ("config", "parameters", "steps"),
    [
        ({"train.steps": 2400}, (), 2400),
        ({}, (), 20),  # the trainable's own
        ({}, (choice("train.steps", 100, 200),), None),
    ],
)
def test_the_recorded_number_of_steps_is_that_of_the_trials(
    tmp_path: Path, config: dict[str, Any], parameters: tuple[Any, ...], steps: int | None
) -> None:
    import small_trainable

    sweep = dataclasses.replace(spec(tmp_path, *parameters), config=config)
    assert steps_of_all(sweep, small_trainable.TRAINABLE) == steps
