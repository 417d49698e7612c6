"""Trials one after the other in one slot: processes are used again, and nobody can tell by the results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from careless_trainable import DRAWN, LOSS, PID
from small_trainable import release
from trial_runs import run, settings

from sweeper.layout import trial_folder
from sweeper.trial.exchange import REPORTS, slot_of

pytestmark = [pytest.mark.ray, pytest.mark.slow]

A, B = {"lr": 0.1}, {"lr": 0.3, "mess": True}


def careless(folder: Path, **changes: Any) -> Any:
    changes = {"trainable": "careless_trainable:TRAINABLE", "trials_per_process": 20, **changes}
    return settings(folder, **changes)


def pids(observer: Any) -> list[int]:
    """The process of each trial, by number."""
    return [int(observer.results[number][0][PID]) for number in sorted(observer.results)]


def series(observer: Any, number: int) -> list[float]:
    return [result[LOSS] for result in observer.results[number]]


@pytest.fixture(scope="module")
def slotted(cluster: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Trials one after the other: equal ones after a messy one, a failure, a child, a thread."""
    folder = tmp_path_factory.mktemp("slotted")
    faults = [{**A, "fault": fault} for fault in ("raise", "child", "thread")]
    configs = [A, B, A, faults[0], A, faults[1], A, faults[2], A]
    _, observer = run(careless(folder), configs, at_once=1)
    return folder, configs, observer


def test_a_process_takes_the_next_trial(slotted: Any) -> None:
    folder, _, observer = slotted
    found = pids(observer)
    assert found[0] == found[1] == found[2] == found[3]
    assert len({slot_of(trial_folder(folder, number)) for number in range(4)}) == 1
    assert observer.errors == [3]


def test_a_process_is_replaced_after_a_failure_and_if_something_still_runs_in_it(slotted: Any) -> None:
    found = pids(slotted[2])
    assert found[4] not in found[:4]
    assert found[4] == found[5] != found[6]
    assert found[6] == found[7] != found[8]


def test_equal_trials_have_equal_results_whatever_their_process_did_before(slotted: Any) -> None:
    _, configs, observer = slotted
    first = series(observer, 0)
    assert len(first) == 5
    for number, config in enumerate(configs):
        if config["lr"] == A["lr"]:
            assert series(observer, number) == first, number
        assert {result["process/threads"] for result in observer.results[number]} == {1.0}
    assert series(observer, 1) != first
    # Numbers that nobody seeded differ, as they do between new processes.
    assert len({observer.results[number][0][DRAWN] for number in range(len(configs))}) == len(configs)


def test_each_trial_has_its_own_log_folder_and_environment(slotted: Any) -> None:
    folder, configs, _ = slotted
    for number in range(len(configs)):
        log = (trial_folder(folder, number) / "worker.log").read_text()
        assert log.count("the worker has started") == 1
        assert f"trial prints in {Path.cwd()}, CARELESS=None\n" in log


def test_after_the_trials_nothing_is_left(slotted: Any, settles: Any, processes: Any) -> None:
    import ray

    assert settles(lambda: ray.available_resources().get("CPU", 0) == 2.0)
    for name in ("RayTrainWorker", "ImplicitFunc", "left-behind"):
        assert settles(lambda name=name: not processes(name)), processes(name)


def test_trials_that_are_stopped_leave_their_process_to_the_next(cluster: Any, tmp_path: Path) -> None:
    endless = {**A, "train.steps": 1_000_000, "pause_s": 0.05}
    _, observer = run(careless(tmp_path), [endless, endless, A], stop_at=3, at_once=1)
    assert observer.errors == []
    assert observer.results[0][-1]["trial/step"] < 1_000_000
    assert len(set(pids(observer))) == 1
    assert series(observer, 0)[:3] == series(observer, 1)[:3] == series(observer, 2)[:3]


def test_a_process_is_replaced_after_its_number_of_trials(cluster: Any, tmp_path: Path) -> None:
    _, observer = run(careless(tmp_path, trials_per_process=2), [A, A, A], at_once=1)
    found = pids(observer)
    assert found[0] == found[1] != found[2]


def test_workers_of_one_trial_train_the_next_together(cluster: Any, tmp_path: Path) -> None:
    _, observer = run(careless(tmp_path, workers=2), [A, B, A], at_once=1)
    assert len(set(pids(observer))) == 1
    assert series(observer, 0) == series(observer, 2)
    assert {result["process/group"] for result in observer.results[2]} == {2.0}
    assert not observer.errors


def test_a_slot_without_a_trial_gives_its_place_back(cluster: Any, tmp_path: Path) -> None:
    import threading

    import ray

    free: list[float] = []
    over = threading.Event()

    def look() -> None:
        both = [trial_folder(tmp_path, number) / REPORTS for number in (0, 1)]
        while 1.0 not in free and not over.wait(0.1):
            if all(reports.exists() for reports in both):
                free.append(ray.available_resources().get("CPU", 0.0))
        release(trial_folder(tmp_path, 1))

    looking = threading.Thread(target=look)
    looking.start()
    try:
        # The first ends at once, nothing follows it, and the second waits until its place was seen free.
        _, observer = run(careless(tmp_path), [A, {**A, "hold_step": 3}], at_once=2, idle_s=2.0)
    finally:
        over.set()
        looking.join()
    assert 1.0 in free
    assert len(observer.results[1]) == 5
