"""One trial: worker groups under Tune, and how they end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import ray
from trial_runs import run, settings

from sweeper.layout import trial_folder
from sweeper.trial.exchange import metrics_of, numbers_as_sent, progress_of, read_reports, request_stop
from sweeper.trial.failure import read_failure


@pytest.fixture(scope="module")
def ended(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trials that end in every way, two at a time."""
    folder = tmp_path_factory.mktemp("a sweep's folder")
    configs = [
        {"optimizer.lr": 0.1},
        {"optimizer.lr": 0.2, "train.steps": 1_000_000, "pause_s": 0.02, "fault": "child", "fault_step": 2},
        {"optimizer.lr": 0.1, "fault": "raise"},
        {"optimizer.lr": 2.0, "fault": "diverge"},
        {"optimizer.lr": 0.3, "fault": "die_always"},
    ]
    grid, observer = run(settings(folder), configs, stop_at=20)
    return folder, grid, observer


@pytest.mark.ray
@pytest.mark.slow
def test_every_report_of_the_worker_reaches_tune(ended: Any) -> None:
    _, _, observer = ended
    steps = [result["trial/step"] for result in observer.results[0]]
    assert steps == [5, 10, 15, 20]
    assert observer.results[0][-1]["train/loss"] == pytest.approx((10 * 0.8**20) ** 2)
    assert observer.results[0][-1]["final"]


@pytest.mark.ray
@pytest.mark.slow
def test_trials_start_no_actor_of_their_own_for_the_autoscaler(ended: Any) -> None:
    named = [one["name"] for one in ray.util.list_named_actors(all_namespaces=True)]
    assert not [name for name in named if "Autoscaling" in name]


@pytest.mark.ray
@pytest.mark.slow
def test_the_log_of_a_healthy_trial_shows_its_course(ended: Any) -> None:
    folder, _, _ = ended
    lines = (trial_folder(folder, 0) / "worker.log").read_text().splitlines()
    course = [line.partition(" ")[2].partition(" ")[2] for line in lines if line.startswith("20")]
    told = [line for line in course if "train/loss" not in line]
    assert told == ["the worker has started: loading the trainable", "begins", "done"]
    reports = [line.partition(":")[0] for line in course if "train/loss" in line]
    assert reports == ["step 5", "step 10", "step 15", "step 20"]
    assert course[2].endswith("; checkpoint written")


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_that_is_stopped_early_ends_without_error_and_before_its_steps(ended: Any) -> None:
    _, grid, observer = ended
    assert 20 <= observer.results[1][-1]["trial/step"] < 1_000_000
    assert 1 not in observer.errors
    assert grid[1].error is None


@pytest.mark.ray
@pytest.mark.slow
def test_a_failed_trial_says_why_and_the_others_go_on(ended: Any) -> None:
    folder, grid, observer = ended
    assert sorted(observer.errors) == [2, 3, 4]
    flat, lost = (read_failure(trial_folder(folder, number)) for number in (2, 3))
    assert flat is not None
    assert lost is not None
    assert (flat.reason, flat.message) == ("error", "ValueError: the parabola is flat here")
    assert (lost.reason, lost.message) == ("diverged", "the loss is nan at step 10")
    assert "_go_wrong" in flat.traceback
    assert "TrialError" in str(grid[3].error)
    text = (trial_folder(folder, 2) / "error.txt").read_text()
    assert text.startswith("error: ValueError: the parabola is flat here\n")
    assert flat.log in text


@pytest.mark.ray
@pytest.mark.slow
def test_a_trial_whose_worker_dies_ends_and_says_what_became_of_it(ended: Any) -> None:
    folder, grid, _ = ended
    # Whether or not anybody heard it before the worker died.
    assert [report["trial/step"] for report in read_reports(trial_folder(folder, 4))] == [5]
    assert "TrialError" in str(grid[4].error)
    failure = read_failure(trial_folder(folder, 4))
    assert failure is not None
    assert failure.reason == "lost"
    assert failure.message.startswith("worker 0 is gone: ")
    assert Path(failure.log).name == "worker.log"


@pytest.mark.ray
@pytest.mark.slow
def test_a_worker_that_hangs_is_ended_and_says_where_it_hung(cluster: Any, tmp_path: Path) -> None:
    _, observer = run(settings(tmp_path, hang_s=20.0), [{"fault": "hang", "fault_step": 1}])
    assert observer.errors == [0]
    failure = read_failure(trial_folder(tmp_path, 0))
    assert failure is not None
    assert failure.reason == "hung"
    assert failure.message.startswith("no step, no report and no word of progress for 20 s.")
    log = (trial_folder(tmp_path, 0) / "worker.log").read_text()
    assert "No sign of life." in log
    assert "in _go_wrong" in log


@pytest.mark.ray
@pytest.mark.slow
def test_the_worker_has_its_threads_and_prints_to_the_trials_log(ended: Any) -> None:
    folder, _, _ = ended
    log = (trial_folder(folder, 0) / "worker.log").read_text()
    assert "rank 0 of 1 trains with 1 threads" in log
    assert "OMP_NUM_THREADS=1" in log
    # Relative paths in a configuration mean the folder that the sweep was launched from.
    assert f"works in {Path.cwd()}\n" in log
    assert "the parabola is flat here" in (trial_folder(folder, 2) / "worker.log").read_text()


@pytest.mark.ray
@pytest.mark.slow
def test_after_the_sweep_all_cpus_are_back_and_no_process_is_left(
    ended: Any, settles: Any, processes: Any
) -> None:
    import ray

    assert settles(lambda: ray.available_resources().get("CPU", 0) == 2.0)
    states = {entry["state"] for entry in ray.util.placement_group_table().values()}
    assert states == {"REMOVED"}
    for name in ("RayTrainWorker", "SynchronizationActor", "ImplicitFunc", "left-behind"):
        assert settles(lambda name=name: not processes(name)), processes(name)


@pytest.mark.ray
@pytest.mark.slow
def test_workers_of_one_trial_train_together_and_stop_when_asked(cluster: Any, tmp_path: Path) -> None:
    import threading
    import time

    both = settings(tmp_path, workers=2)
    folder = trial_folder(tmp_path, 0)

    def ask() -> None:
        until = time.monotonic() + 400
        while not (folder / "checkpoints" / "last.json").exists() and time.monotonic() < until:
            time.sleep(0.2)
        request_stop(folder)

    asking = threading.Thread(target=ask)
    asking.start()
    # Rank 0 ends because rank 1 was told to stop.
    grid, observer = run(both, [{"train.steps": 1_000_000, "pause_s": 0.02, "fault": "deaf"}])
    asking.join()
    assert "interrupted" in str(grid[0].error)
    assert "rank 1 of 2" in (folder / "worker-1.log").read_text()
    last = json.loads((folder / "checkpoints" / "last.json").read_text())
    assert last["step"] == observer.results[0][-1]["trial/step"] < 1_000_000


def test_progress_is_empty_where_nothing_was_said(tmp_path: Path) -> None:
    assert progress_of(tmp_path) == ""
    (tmp_path / "progress.json").write_text('{"time": 1, "message": "decoding 40 %"}')
    assert progress_of(tmp_path) == "decoding 40 %"


def test_asking_a_trial_to_stop_that_never_began_does_nothing(tmp_path: Path) -> None:
    request_stop(tmp_path / "absent")
    assert list(tmp_path.iterdir()) == []


def test_a_metric_needs_no_slash_and_may_have_a_name_of_tunes():
    sent = numbers_as_sent({"loss": 1, "done": 0.5, "train/lr": 0.1})
    assert sent == {"metrics": {"loss": 1.0, "done": 0.5}, "train/lr": 0.1}
    of_tune = {
        "done": True,
        "training_iteration": 3,
        "time_total_s": 1.5,
        "config": {"lr": 1},
        "trial/on": True,
    }
    assert metrics_of({**sent, **of_tune}) == {"loss": 1.0, "done": 0.5, "train/lr": 0.1}
    assert metrics_of({"train/loss": 1.0, "metrics": 3, "train/text": "x"}) == {"train/loss": 1.0}
    assert numbers_as_sent({"train/loss": 2}) == {"train/loss": 2.0}
