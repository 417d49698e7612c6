"""What goes wrong while a sweep runs, made to go wrong for real."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from held_diffusion import HOLD_STEP
from rich.console import Console
from small_sweeps import as_optuna_reads_it, choice, spec
from small_trainable import release

from sweeper.driver.launch import run_sweep
from sweeper.layout import JOURNAL, LOG, trial_folder
from sweeper.records.events import Event
from sweeper.records.journal import read_journal
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.sweep import FailureSpec, KeepSpec, Objective, SweepSpec
from sweeper.terminal.result import SweepResult

# MLflow and Ray Data warn of their own habits.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWEEPER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def events(sweep: SweepSpec, kind: str, trial: int | None = None) -> list[Event]:
    found = read_journal(sweep.folder / JOURNAL).events
    return [e for e in found if e["event"] == kind and trial in (None, e.get("trial"))]


def worker_of(folder: Path) -> psutil.Process | None:
    """The process that trains in a trial's folder: it prints to the log there."""
    for process in psutil.Process().children(recursive=True):
        try:
            if Path(f"/proc/{process.pid}/fd/1").readlink() == folder / LOG and "Train" in process.name():
                return process
        except (OSError, psutil.Error):
            continue
    return None


def driver_of(folder: Path) -> psutil.Process | None:
    """The process of Ray's in which a trial waits for its workers."""
    try:
        return psutil.Process(json.loads((folder / "attempt.json").read_text())["pid"])
    except (OSError, ValueError, psutil.Error):
        return None


class Killer(threading.Thread):
    """Kills a process of a trial that waits for it at its `hold_step`, once, and releases the trial.

    Args:
        sweep: The sweep.
        trial: The number of the trial.
        step: The trial has reported this step when it is killed.
        find: Finds the process in the trial's folder.
    """

    def __init__(
        self, sweep: SweepSpec, trial: int, step: int, find: Callable[[Path], psutil.Process | None]
    ) -> None:
        super().__init__(daemon=True)
        self._sweep, self._trial, self._step, self._find = sweep, trial, step, find
        self.killed = 0
        self.start()

    def run(self) -> None:
        until = time.monotonic() + 900
        folder = trial_folder(self._sweep.folder, self._trial)
        while time.monotonic() < until:
            if any(event["step"] >= self._step for event in events(self._sweep, "report", self._trial)):
                process = self._find(folder)
                if process is not None:
                    process.send_signal(signal.SIGKILL)
                    self.killed += 1
                    release(folder)
                    return
            time.sleep(0.02)


def run(sweep: SweepSpec) -> SweepResult:
    return run_sweep(sweep, console=Console(file=io.StringIO(), width=200))


@pytest.fixture(scope="module")
def stormy(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A sweep whose trials lose a worker, a driver, all workers, and memory; it keeps one checkpoint."""
    folder = tmp_path_factory.mktemp("stormy") / "stormy"
    sweep = spec(
        folder,
        choice("fault", "sleep", "wait", "die_always", "memory"),
        config={"train.steps": 120, "hold_step": 55, "train.log_every": 10, "train.save_every": 20},
        failures=FailureSpec(retries=1, lighten=1),
        keep=KeepSpec(trials=1),
    )
    numbers = order(sweep)
    release(trial_folder(folder, numbers["memory"]))
    killers = [
        Killer(sweep, numbers["sleep"], 30, worker_of),
        Killer(sweep, numbers["wait"], 50, driver_of),
    ]
    result = run(sweep)
    return sweep, result, numbers, killers


def order(sweep: SweepSpec) -> dict[str, int]:
    """Which fault each trial of a grid has: a grid is shuffled by its seed."""
    import random

    points = list(sweep.space.points(sweep.config))
    random.Random(sweep.search.seed).shuffle(points)
    return {point["fault"]: number for number, point in enumerate(points)}


def test_a_killed_worker_and_a_killed_driver_cost_no_trial_and_no_report(stormy: Any) -> None:
    sweep, result, numbers, killers = stormy
    assert [killer.killed for killer in killers] == [1, 1]
    for fault in ("sleep", "wait"):
        trial = result.sweep.trials[numbers[fault]]
        assert (trial.status, trial.step, trial.retries) == ("completed", 120, {"lost": 1})
        reported = [event["step"] for event in events(sweep, "report", trial.number)]
        assert reported == list(range(10, 121, 10))
        assert len(events(sweep, "trial_start", trial.number)) == 2
        (retry,) = events(sweep, "trial_retry", trial.number)
        assert "is gone" in retry["message"]
        assert "(attempt 2 of 2)" in retry["message"]


def test_the_series_in_mlflow_have_no_gap_and_no_point_twice(stormy: Any) -> None:
    from mlflow.tracking import MlflowClient

    sweep, _, numbers, _ = stormy
    client = MlflowClient(f"sqlite:///{sweep.folder / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("tests").experiment_id
    runs = {run.data.tags.get("sweep.trial"): run for run in client.search_runs([experiment])}
    assert len(runs) == 5
    for fault in ("sleep", "wait", "memory"):
        run = runs[str(numbers[fault])]
        history = client.get_metric_history(run.info.run_id, "train/loss")
        assert [metric.step for metric in history] == list(range(10, 121, 10))
    lost = runs[str(numbers["die_always"])]
    assert (lost.info.status, lost.data.tags["reason"]) == ("FAILED", "lost")
    assert "error.txt" in [file.path for file in client.list_artifacts(lost.info.run_id)]
    lighter = runs[str(numbers["memory"])].data.tags
    assert (lighter["changed.parts"], lighter["retries"]) == ("2", "1")
    assert lighter["retry.1"].startswith("out_of_memory: ")


def test_a_trial_whose_workers_always_die_fails_after_its_retries_and_says_why(stormy: Any) -> None:
    sweep, result, numbers, _ = stormy
    trial = result.sweep.trials[numbers["die_always"]]
    assert (trial.status, trial.reason, trial.retries) == ("failed", "lost", {"lost": 1})
    assert "That was attempt 2 of 2" in trial.message
    error = (trial_folder(sweep.folder, trial.number) / "error.txt").read_text()
    assert error.startswith("lost: worker 0 is gone")
    assert f"The worker's log: {trial_folder(sweep.folder, trial.number) / LOG}" in error
    with as_optuna_reads_it(sweep.folder) as study:
        attributes = study.trials[trial.number].user_attrs
    assert (attributes["reason"], attributes["retries"]) == ("lost", {"lost": 1})


def test_a_trial_out_of_memory_goes_on_with_less_at_once(stormy: Any) -> None:
    sweep, result, numbers, _ = stormy
    trial = result.sweep.trials[numbers["memory"]]
    assert (trial.status, trial.retries, trial.changes) == ("completed", {"out_of_memory": 1}, {"parts": 2})
    assert trial.config["parts"] == 2
    (retry,) = events(sweep, "trial_retry", trial.number)
    assert "with less at once: parts 1 -> 2" in retry["message"]
    assert [e["step"] for e in events(sweep, "report", trial.number)] == list(range(10, 121, 10))


def test_only_the_best_trials_checkpoint_stays_and_nothing_points_at_another(stormy: Any) -> None:
    from sweeper.errors import UserError
    from sweeper.records.checkpoints import find_source

    sweep, _, _, _ = stormy
    found = read_sweep(sweep.folder)
    best = found.best_trial()
    assert find_source(f"{sweep.folder}:{best.number}", Path(), "best").checkpoint.is_dir()
    losers = [trial for trial in found.trials.values() if trial.status == "completed" and trial is not best]
    assert len(losers) == 2
    for trial in losers:
        assert (trial.checkpoint, trial.best_checkpoint) == (None, None)
        assert trial.dropped
        assert not any(Path(folder).exists() for folder in trial.dropped)
        with pytest.raises(UserError, match=f"Trials that have one: .*{best.number}"):
            find_source(f"{sweep.folder}:{trial.number}", Path(), "best")


def test_after_the_storm_all_cpus_are_back_and_no_process_is_left(
    stormy: Any, settles: Any, processes: Any
) -> None:
    import ray

    assert settles(lambda: ray.available_resources().get("CPU", 0) == 2.0)
    assert {entry["state"] for entry in ray.util.placement_group_table().values()} <= {"REMOVED"}
    for name in ("RayTrainWorker", "ImplicitFunc"):
        assert settles(lambda name=name: not processes(name)), processes(name)


def test_ctrl_c_twice_while_workers_start_leaves_nothing(
    cluster: Any, tmp_path: Path, settles: Any, processes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    monkeypatch.setattr("sweeper.driver.ending.GRACE_S", 3600.0)
    # Trials that do not hear of the first signal: without the second one the sweep would go on for long.
    endless = {"train.steps": 1_000_000, "pause_s": 0.05, "fault": "deaf"}
    sweep = spec(tmp_path / "cut", choice("optimizer.lr", 0.1, 0.2), trials=2, config=endless)

    def interrupt() -> None:
        while not events(sweep, "trial_start"):
            time.sleep(0.05)
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.3)

    thread = threading.Thread(target=interrupt, daemon=True)
    thread.start()
    result = run(sweep)
    thread.join()
    assert result.status == "interrupted"
    assert {trial.status for trial in result.sweep.trials.values()} == {"interrupted"}
    for name in ("RayTrainWorker", "ImplicitFunc"):
        assert settles(lambda name=name: not processes(name)), processes(name)
    assert settles(lambda: ray.available_resources().get("CPU", 0) == 2.0)
    assert {entry["state"] for entry in ray.util.placement_group_table().values()} <= {"REMOVED"}


def test_a_disk_that_is_full_ends_the_sweep_and_costs_no_trial(cluster: Any, tmp_path: Path) -> None:
    sweep = spec(
        tmp_path / "full",
        choice("optimizer.lr", 0.1),
        trials=1,
        config={"fault": "disk", "fault_step": 1},
    )
    result = run(sweep)
    assert (result.status, result.exit_code) == ("failed", 1)
    assert "There is no room to write: trial 0" in result.message
    assert "No space left on device" in result.message
    assert result.sweep.ended_trials == 0
    assert "interrupted" in {trial.status for trial in result.sweep.trials.values()}


# Exactly


TIMED = ("train/samples_per_s", "train/data_wait_fraction", "eval/chunk_latency_ms", "eval/action_rate_hz")


@pytest.fixture(scope="module")
def circles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LeRobot dataset of an arm that runs round a circle."""
    from trainables.dataset.format.schema import DatasetFeature
    from trainables.dataset.format.write import DatasetWriter

    root = tmp_path_factory.mktemp("data") / "circles"
    feature = DatasetFeature("float32", (2,), ["x", "y"])
    with DatasetWriter(root, fps=10, features={"observation.state": feature, "action": feature}) as writer:
        for number in range(8):
            angle = number + np.linspace(0, 2 * np.pi, 41)
            place = np.stack([100 * np.cos(angle), 50 * np.sin(angle)], axis=1).astype(np.float32)
            writer.add_episode({"observation.state": place[:-1], "action": place[1:]}, task="Run round.")
    return root


def test_a_trial_whose_worker_was_killed_equals_a_straight_one_bit_for_bit(
    cluster: Any, circles: Path, tmp_path: Path
) -> None:
    config = {
        "dataset.root": str(circles),
        "dataset.holdout_fraction": 0.25,
        "policy.horizon": 8,
        "policy.n_action_steps": 4,
        "policy.down_dims": [16, 32],
        "policy.n_groups": 4,
        "policy.num_train_timesteps": 20,
        "policy.num_inference_steps": 4,
        "policy.sampler": "DDIM",
        "lr_scheduler.warmup_steps": 5,
        "train.steps": 240,
        "train.batch_size": 16,
        "train.log_every": 7,
        "train.eval_every": 120,
        "train.checkpoint_every": 30,
        "eval.windows": 8,
        "eval.num_inference_steps": 4,
    }
    sweep = dataclasses.replace(
        # Without a simulator this parameter changes nothing: both trials train the same.
        spec(tmp_path / "twice", choice("rollout.episodes", 8, 16), trials=2),
        trainable="held_diffusion:TRAINABLE",
        config=config,
        objectives=(Objective("eval/action_mse", "minimize"),),
    )
    release(trial_folder(sweep.folder, 0))
    killer = Killer(sweep, 1, HOLD_STEP, worker_of)
    result = run(sweep)
    assert killer.killed == 1
    straight, killed = (result.sweep.trials[number] for number in (0, 1))
    assert (straight.retries, killed.retries) == ({}, {"lost": 1})
    assert straight.status == killed.status == "completed"

    for name in ("model", "ema"):  # the state of the optimiser is deleted when a trial completes
        files = [Path(trial.checkpoint) / f"{name}.safetensors" for trial in (straight, killed)]
        one, other = (hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
        assert one == other, name
    series = [
        [
            (e["step"], name, value)
            for e in events(sweep, "report", trial.number)
            for name, value in e["metrics"].items()
            if name not in TIMED and not name.startswith("system/")
        ]
        for trial in (straight, killed)
    ]
    assert len(series[0]) > 200
    assert series[0] == series[1]
