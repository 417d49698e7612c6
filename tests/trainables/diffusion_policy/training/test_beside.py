"""Evaluation beside training: the same reports as inline, in the same order, whatever ends and when."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from circle_world import HOLD
from small_policy import small_settings
from training_runs import context, run, tensors_of, untimed

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.training import train
from trainables.diffusion_policy.training.beside import evaluations, evaluator_process
from trainables.diffusion_policy.training.beside.spare import CpuMeter, why_inline
from trainables.diffusion_policy.training.checkpoint import Checkpoints
from trainables.diffusion_policy.training.progress import DivergedError
from trainables.diffusion_policy.training.saver import CheckpointSaver
from trainables.environment import SimulatorError
from trainables.interface import Report, TrainContext

slow = pytest.mark.slow
WAIT_S = 300


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def settings_beside(circles: Path) -> dict[str, Any]:
    """Evaluations at steps 4, 8 and 12, and checkpoints at 3, 7 and 11."""
    return small_settings(circles) | {
        "train.evaluation": "beside",
        "train.eval_every": 4,
        "train.checkpoint_every": 3,
        "train.log_every": 1,
        "rollout.env": "circle_world:CircleWorld",
        "rollout.episodes": 3,
        "rollout.video": "never",
    }


@pytest.fixture
def config(circles: Path) -> dict[str, Any]:
    return settings_beside(circles)


@pytest.fixture(scope="module")
def inline(circles: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Report]]:
    """The same run with evaluations for which training waits."""
    folder = tmp_path_factory.mktemp("inline") / "run"
    torch.set_num_threads(1)
    return folder, run(settings_beside(circles) | {"train.evaluation": "inline"}, folder)


def said(reports: list[Report], folder: Path) -> list[tuple[Any, ...]]:
    """What is to be equal in reports: everything except times and the folder."""
    return [
        (
            report.step,
            untimed(report),
            {name: path.relative_to(folder) for name, path in report.artifacts.items()},
            report.final,
        )
        for report in reports
    ]


def kept(folder: Path) -> list[str]:
    return sorted(entry.name for entry in (folder / "checkpoints").iterdir())


def assert_equal_ends(folder: Path, other: Path) -> None:
    """Two runs left the same checkpoints, pointers and tensors."""
    assert kept(folder) == kept(other)
    for pointer in ("best", "last"):
        name = f"checkpoints/{pointer}.json"
        assert json.loads((folder / name).read_text()) == json.loads((other / name).read_text())
    expected, found = tensors_of(other), tensors_of(folder)
    assert expected.keys() == found.keys()
    assert [name for name in expected if not torch.equal(expected[name], found[name])] == []


def children_of(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children()
    except psutil.NoSuchProcess:
        return []


def evaluators() -> list[psutil.Process]:
    """The evaluating processes of this one."""
    found = []
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it ended while we looked
            if any("beside.evaluator" in part for part in child.cmdline()):
                found.append(child)
    return found


@pytest.fixture
def held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file: as long as it exists, no evaluation ends."""
    path = tmp_path.with_name(f"{tmp_path.name}-held")
    path.touch()
    monkeypatch.setenv(HOLD, str(path))
    return path


@pytest.fixture
def savers(monkeypatch: pytest.MonkeyPatch) -> list[CheckpointSaver]:
    """What writes the checkpoints of the runs of a test."""
    made: list[CheckpointSaver] = []

    class Remembered(CheckpointSaver):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            made.append(self)

    monkeypatch.setattr(train, "CheckpointSaver", Remembered)
    return made


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when the result of an evaluation beside training has arrived."""
    event = threading.Event()

    class Answers(queue.Queue[Any]):
        def put(self, item: Any, *arguments: Any, **named: Any) -> None:
            super().put(item, *arguments, **named)
            if item is not None and "metrics" in item:
                event.set()

    queues = SimpleNamespace(SimpleQueue=Answers, Empty=queue.Empty)
    monkeypatch.setattr(evaluator_process, "queue", queues)
    return event


@slow
def test_reports_and_checkpoints_are_those_of_inline_evaluations(
    config: dict[str, Any], inline: tuple[Path, list[Report]], tmp_path: Path
) -> None:
    given: list[Report] = []
    told: list[str] = []
    for report in TRAINABLE.train(config, context(tmp_path, progress=told.append)):
        given.append(report)
        if "eval/action_mse" in report.metrics:
            assert report.checkpoint is not None, (
                "the checkpoint of an evaluation is there when it is reported"
            )
        assert report.checkpoint is None or report.checkpoint.is_dir()

    assert said(given, tmp_path) == said(inline[1], inline[0])
    assert_equal_ends(tmp_path, inline[0])
    assert "evaluations run beside training" in told
    assert any(message.startswith("step 4: rollout: ") for message in told)
    assert evaluators() == []


@slow
def test_training_goes_on_while_it_is_evaluated_and_reports_follow_in_order(
    config: dict[str, Any],
    inline: tuple[Path, list[Report]],
    tmp_path: Path,
    held: Path,
    savers: list[CheckpointSaver],
    answered: threading.Event,
) -> None:
    events: list[tuple[str, int]] = []
    steps = itertools.count(1)

    def stop_requested() -> bool:
        step = next(steps)
        events.append(("trained", step))
        if step == 5:  # its checkpoint is on the disk, so that it is handed over after this step
            savers[0].wait()
        if step == 6:  # it ends in the middle of training
            held.unlink()
            assert answered.wait(WAIT_S)
        return False

    given = []
    for report in TRAINABLE.train(config, context(tmp_path, stop_requested=stop_requested)):
        given.append(report)
        events.append(("reported", report.step))

    assert said(given, tmp_path) == said(inline[1], inline[0])
    assert events.index(("trained", 6)) < events.index(("reported", 4)) < events.index(("trained", 8))


@slow
def test_a_checkpoint_is_kept_if_it_is_written_while_earlier_reports_are_still_given(
    config: dict[str, Any],
    inline: tuple[Path, list[Report]],
    tmp_path: Path,
    held: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(evaluations, "SPACING_S", 0.0)
    steps = itertools.count(1)
    trained = [0]

    def stop_requested() -> bool:
        trained[0] = next(steps)
        if trained[0] == 8:  # reports 5 to 7, which have no checkpoint, wait until steps 9 to 11
            held.unlink()
        return False

    # The disk is slow: the second evaluation is handed over after those reports.
    monkeypatch.setattr(CheckpointSaver, "is_written", lambda _saver: not 8 <= trained[0] < 12)
    given, given_at, kept_for = [], {}, None
    config |= {"train.checkpoint_every": None}
    for report in TRAINABLE.train(config, context(tmp_path, stop_requested=stop_requested)):
        given.append(report)
        given_at[report.step] = trained[0]
        if report.step == 8:
            kept_for = json.loads((tmp_path / "checkpoints" / "evaluating.json").read_text())["step"]

    assert said(given, tmp_path) == said(inline[1], inline[0])
    assert [given_at[step] for step in (5, 6, 7, 8)] == [8, 9, 10, 12]
    assert kept_for == 8


def wait_until(reached: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not reached():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


PROGRAM = """
import itertools, json, sys, time
from pathlib import Path
from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.training.saver import CheckpointSaver
from trainables.interface import TrainContext
config, folder, last = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
steps, savers, init = itertools.count(1), [], CheckpointSaver.__init__

def remembered(self, *arguments):
    savers.append(self)
    init(self, *arguments)

def stop_requested():
    if next(steps) > last:
        time.sleep(3600)  # until it is killed
    savers[0].wait()  # a checkpoint that is on the disk is handed over after this step
    return False

CheckpointSaver.__init__ = remembered
context = TrainContext(folder=folder, cache=folder / "cache", threads=1, stop_requested=stop_requested)
for report in TRAINABLE.train(config, context):
    print(json.dumps([report.step, dict(report.metrics)]), flush=True)
"""


@slow
@pytest.mark.parametrize(("after", "last_step"), [("000004", 5), ("000007", 7)])
def test_a_run_that_is_killed_while_it_is_evaluated_loses_no_report(
    config: dict[str, Any],
    inline: tuple[Path, list[Report]],
    tmp_path: Path,
    held: Path,
    after: str,
    last_step: int,
) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(config), str(tmp_path), str(last_step)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment) as process:
        last = tmp_path / "checkpoints" / "last.json"
        wait_until(lambda: last.exists() and after in last.read_text() and children_of(process.pid) != [])
        children = children_of(process.pid)
        process.send_signal(signal.SIGKILL)
        printed = process.communicate()[0]
    assert psutil.wait_procs(children, timeout=WAIT_S)[1] == [], "the evaluator ends with the training"
    held.unlink()
    early = [json.loads(line) for line in printed.splitlines() if line.endswith("]")]

    resumed = run(config, tmp_path)

    steps = [report.step for report in resumed]
    assert steps == sorted(set(steps)), "no report twice"
    by_step = dict(early) | {report.step: report.metrics for report in resumed}
    expected = {report.step: untimed(report) for report in inline[1]}
    timed = {name for report in inline[1] for name in report.metrics} - set(expected[12])
    assert {
        step: {name: value for name, value in metrics.items() if name not in timed}
        for step, metrics in by_step.items()
    } == expected
    assert_equal_ends(tmp_path, inline[0])


@slow
def test_a_stop_request_waits_for_the_evaluation_and_the_run_continues(
    config: dict[str, Any], inline: tuple[Path, list[Report]], tmp_path: Path
) -> None:
    asked = iter([False] * 4 + [True])
    stopped = run(config, tmp_path, stop_requested=lambda: next(asked))
    assert [report.step for report in stopped] == [1, 2, 3, 4, 5]
    assert "eval/action_mse" in stopped[3].metrics
    assert stopped[-1].checkpoint is not None

    resumed = run(config, tmp_path)
    # The checkpoint of step 5 was written before the report of step 4 was given, so both are given again.
    assert said(resumed[:2], tmp_path) == said(stopped[3:], tmp_path)
    assert said([*stopped, *resumed[2:]], tmp_path) == said(inline[1], inline[0])
    assert_equal_ends(tmp_path, inline[0])


@slow
@pytest.mark.parametrize("kills", [1, 2])
def test_an_evaluator_that_dies_is_replaced_once_and_then_training_evaluates_itself(
    config: dict[str, Any], inline: tuple[Path, list[Report]], tmp_path: Path, held: Path, kills: int
) -> None:
    told: list[str] = []
    killed: set[int] = set()

    def kill_evaluators() -> None:
        end = time.monotonic() + WAIT_S
        while len(killed) < kills and time.monotonic() < end:
            for child in evaluators():
                if child.pid not in killed:
                    killed.add(child.pid)
                    child.kill()
            time.sleep(0.02)
        held.unlink()

    killer = threading.Thread(target=kill_evaluators)
    killer.start()
    given = run(config, tmp_path, progress=told.append)
    killer.join()

    assert said(given, tmp_path) == said(inline[1], inline[0])
    assert len(killed) == kills
    again = [message for message in told if message.endswith("evaluating again in another process")]
    assert again == [
        "step 4: the evaluating process ended with status -9: evaluating again in another process"
    ]
    given_up = [message for message in told if "evaluating inline" in message]
    assert len(given_up) == kills - 1
    assert_equal_ends(tmp_path, inline[0])


@slow
def test_a_simulator_that_fails_beside_training_fails_the_run_with_its_own_error(
    config: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(SimulatorError, match="the world does not turn"):
        run(config | {"rollout.env": "circle_world:broken"}, tmp_path)
    assert evaluators() == []


@slow
def test_a_run_that_diverges_reports_the_evaluation_that_was_running(
    config: dict[str, Any], tmp_path: Path
) -> None:
    def until_diverged(evaluation: str) -> Iterator[Report]:
        changed = {
            "train.evaluation": evaluation,
            "train.eval_every": 2,
            "optimizer.lr": 1e3,
            "rollout.env": None,
        }
        with pytest.raises(DivergedError):
            yield from TRAINABLE.train(config | changed, context(tmp_path / evaluation))

    inline, beside = list(until_diverged("inline")), list(until_diverged("beside"))
    assert [report.step for report in inline] == [1, 2]
    assert "eval/action_mse" in inline[-1].metrics
    assert [repr(untimed(report)) for report in beside] == [repr(untimed(report)) for report in inline]


@slow
def test_what_is_in_flight_may_be_evaluated_inline_after_a_restart(
    config: dict[str, Any], inline: tuple[Path, list[Report]], tmp_path: Path, held: Path
) -> None:
    reports = TRAINABLE.train(config, context(tmp_path, stop_requested=end_at(6)))
    with pytest.raises(KeyboardInterrupt):
        list(reports)
    held.unlink()
    resumed = run(config | {"train.evaluation": "inline"}, tmp_path)
    assert said(resumed, tmp_path) == said(inline[1][3:], inline[0])


def end_at(last: int) -> Callable[[], bool]:
    """A request to stop that ends the process at a step, as far as the run can see."""
    steps = itertools.count(1)

    def stop_requested() -> bool:
        if next(steps) > last:
            raise KeyboardInterrupt
        return False

    return stop_requested


def test_a_run_that_ended_leaves_no_checkpoint_that_was_not_reported(tmp_path: Path) -> None:
    store = Checkpoints(tmp_path)
    for step in (4, 8, 11):
        (tmp_path / f"{step:06d}").mkdir()
    store._point("evaluating", 8, "000008")
    store._point("last", 11, "000011")

    TRAINABLE.slim(tmp_path / "000004")

    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["000004", "last.json"]
    assert store.find("last") is None


class Meter(CpuMeter):
    """Measures what it is told."""

    def __init__(self, idle: float | None) -> None:
        self._idle = idle

    def idle(self) -> float | None:
        return self._idle


@pytest.mark.parametrize(
    ("changes", "inline_s", "idle", "is_beside", "reason"),
    [
        ({}, None, 2.0, False, "the first one is timed"),
        ({}, 4.0, 2.0, False, "one takes 4.0 s, less than 5 s"),
        ({}, 60.0, 0.5, False, "0.5 CPUs were idle during training, less than 0.8"),
        ({}, 60.0, None, False, "0.0 CPUs were idle during training, less than 0.8"),
        ({}, 60.0, 0.9, False, ""),
        ({}, 60.0, 0.1, True, "0.1 CPUs were idle during training, less than 0.8"),
        ({}, 60.0, None, True, ""),
        ({}, None, None, True, ""),
        ({"train.evaluation": "inline"}, 60.0, 2.0, False, "train.evaluation is inline"),
        ({"train.evaluation": "beside"}, None, 0.0, False, ""),
    ],
)
def test_auto_evaluates_beside_training_if_it_is_worth_it_and_a_cpu_is_idle(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    inline_s: float | None,
    idle: float | None,
    is_beside: bool,
    reason: str,
) -> None:
    monkeypatch.setattr("trainables.diffusion_policy.training.beside.spare.MEMORY_B", 0)
    built = DiffusionConfig.from_flat({"dataset.root": "x", **changes})
    found = why_inline(built, context(tmp_path), inline_s, Meter(idle), is_beside=is_beside)
    assert found == reason


def test_rollouts_that_depend_on_time_are_inline(tmp_path: Path) -> None:
    built = DiffusionConfig.from_flat({"dataset.root": "x"})
    measured = dataclasses.replace(built.rollout, env="circle_world:CircleWorld", latency_ms="measured")
    timed = dataclasses.replace(built, rollout=measured)
    found = why_inline(timed, context(tmp_path), 60.0, Meter(2.0), is_beside=False)
    assert found.startswith("rollout.latency_ms is measured")


def test_workers_share_the_episodes_inline(tmp_path: Path) -> None:
    built = DiffusionConfig.from_flat({"dataset.root": "x", "train.evaluation": "beside"})
    alone: TrainContext = context(tmp_path)
    many = dataclasses.replace(alone, world_size=2)
    assert why_inline(built, many, 60.0, Meter(2.0), is_beside=False).startswith("the 2 workers")


def test_a_container_has_no_more_idle_cpus_than_its_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    counters = iter([(0.0, 0.0, 0.0), (10.0, 80.0, 10.0), (0.5, 1.0, 0.0)])
    monkeypatch.setattr(CpuMeter, "_counters", lambda _self: next(counters))
    meter = CpuMeter(tmp_path)
    assert meter.idle() == pytest.approx(0.5)  # 8 CPUs are idle, but 1.5 are allowed, and 1 is used
    assert meter.idle() is None
