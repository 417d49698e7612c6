from __future__ import annotations

import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from faulty_simulator import ALWAYS, FAULT, FOLDER, SLEEP_S
from reach_simulator import PUSHT_ALL, REACH, NoisyNetwork, Recorder

from trainables.diffusion_policy.config.diffusion_config import field_faults
from trainables.environment import SimulatorError, Step
from trainables.evaluation.rollout import EpisodeResult, rollout
from trainables.evaluation.stepping import choice
from trainables.evaluation.stepping.choice import StepCost, Stepping, processes_for
from trainables.evaluation.stepping.processes import ProcessSimulators
from trainables.evaluation.stepping.simulator import Play, Simulator, Start
from trainables.features import STATE, PolicyFeatures

WANDERING = "faulty_simulator:Wandering"
MISBEHAVING = "misbehaving_gym:make"
PUSHT = "gym_pusht/PushT-v0"


@pytest.fixture(autouse=True)
def nothing_is_known_of_simulators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "_COSTS", {})
    monkeypatch.setattr(choice, "_LIMITS", {})


def wander(processes: int | str, timeout_s: float = 300.0, **changes: Any) -> list[EpisodeResult]:
    arguments: dict[str, Any] = {"episode_indices": range(7), "seed": 8, "parallel": 5, **changes}
    policy = arguments.pop("policy", None) or NoisyNetwork(REACH, n_action_steps=4)
    stepping = Stepping(processes, cpus=2, timeout_s=timeout_s)  # type: ignore[arg-type]
    return rollout(policy, arguments.pop("env", WANDERING), stepping=stepping, **arguments)


def assert_same(first: list[EpisodeResult], second: list[EpisodeResult]) -> None:
    assert first == second
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)


def children() -> set[int]:
    """The processes that this one has started and that have not ended."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            state, parent = stat.rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3, 9])
def test_the_number_of_processes_does_not_change_a_bit(processes: int) -> None:
    reference = wander(1)
    before = children()
    assert_same(wander(processes), reference)
    assert children() == before, "a process was left behind"
    assert len({result.record.sum_reward for result in reference}) == 7


@pytest.mark.slow
def test_camera_observations_are_the_same_through_shared_memory() -> None:
    policy = NoisyNetwork(PUSHT_ALL)
    arguments = {"policy": policy, "env": PUSHT, "episode_indices": range(5), "max_steps": 40}
    reference = wander(1, **arguments)
    for processes in (2, 3):
        assert_same(wander(processes, **arguments), reference)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_an_error_of_a_simulator_costs_its_episode_one_retry(
    processes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = wander(1)
    monkeypatch.setenv(FAULT, "raise")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert_same(wander(processes), reference)
    assert "the episode of seed 12" in caplog.text
    assert "RuntimeError: the physics exploded" in caplog.text
    # Attempts: the failing one, and the retry.
    assert len((tmp_path / "attempts").read_text().split()) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "said"), [("crash", "SIGSEGV"), ("hang", "within 10 s (rollout.timeout_s)")]
)
def test_a_process_that_crashes_or_hangs_costs_its_episode_one_retry(
    fault: str, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reference = wander(1)
    before = children()
    monkeypatch.setenv(FAULT, fault)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    assert_same(wander(2, timeout_s=10.0), reference)
    assert said in caplog.text
    assert "in _fail" in caplog.text, "the stacks of the process are missing"
    assert children() == before


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["crash", "raise"])
def test_a_simulator_that_always_fails_is_an_error_that_names_the_episode(
    fault: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = children()
    monkeypatch.setenv(FAULT, fault)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(ALWAYS, "1")
    with pytest.raises(
        SimulatorError, match=r"failed twice in the episode of seed 12, after 0 steps"
    ) as caught:
        wander(2)
    assert caught.value.reason == "environment"
    assert len((tmp_path / "attempts").read_text().split()) == 2
    assert children() == before


def test_an_error_in_this_process_is_raised_after_one_retry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(FAULT, "raise")
    monkeypatch.setenv(FOLDER, str(tmp_path))
    monkeypatch.setenv(ALWAYS, "1")
    with pytest.raises(SimulatorError, match="RuntimeError: the physics exploded"):
        wander(1)
    assert len((tmp_path / "attempts").read_text().split()) == 2


@pytest.mark.slow
def test_a_process_that_is_killed_between_two_chunks_is_replaced_without_a_trace() -> None:
    def play(kill: bool) -> list[list[float]]:
        simulators = ProcessSimulators(WANDERING, REACH, 2, 300.0, lambda _message: None)
        try:
            rewards = []
            simulators.run({seat: Start(seat) for seat in range(4)})
            for chunk in range(3):
                if kill and chunk == 2:
                    os.kill(simulators._children[1]._process.pid, signal.SIGKILL)
                orders = {seat: Play(np.full((3, 2), chunk + seat, np.float32), 2) for seat in range(4)}
                played = simulators.run(orders)
                rewards += [played[seat].rewards for seat in range(4)]
            return rewards
        finally:
            simulators.close()

    assert play(kill=True) == play(kill=False)


@pytest.mark.slow
def test_processes_end_when_their_parent_is_killed_even_while_a_simulator_hangs(tmp_path: Path) -> None:
    program = (
        f"import sys; sys.path[:] = {[place for place in sys.path if place]!r}\n"
        "from trainables.evaluation.stepping.processes import ProcessSimulators\n"
        "from trainables.evaluation.stepping.simulator import Play, Start\n"
        "import numpy as np, pickle\n"
        f"features = pickle.loads({pickle.dumps(REACH)!r})\n"
        "made = ProcessSimulators('faulty_simulator:Wandering', features, 2, 600.0, print)\n"
        "print(*[child._process.pid for child in made._children], flush=True)\n"
        "made.run({0: Start(12)})\n"
        "made.run({0: Play(np.zeros((5, 2), np.float32), 0)})\n"
    )
    environment = {**os.environ, FAULT: "hang", FOLDER: str(tmp_path)}
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        until(lambda: (tmp_path / "attempts").exists())
        parent.kill()
    until(lambda: not any(running(pid) for pid in pids))


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def until(true: Any) -> None:
    deadline_s = time.monotonic() + 300
    while not true():
        assert time.monotonic() < deadline_s, "it did not happen"
        time.sleep(0.05)


@pytest.mark.slow
def test_an_error_of_the_policy_leaves_no_process_behind() -> None:
    class Interrupted(Recorder):
        def answer(self, observation: Any, generator: Any) -> Any:
            raise KeyboardInterrupt

    before = children()
    with pytest.raises(KeyboardInterrupt):
        wander(2, policy=Interrupted(REACH))
    assert children() == before


@pytest.mark.slow
def test_an_environment_that_only_this_process_has_registered_is_known_to_the_others() -> None:
    gymnasium.register("OnlyHere-v0", entry_point="faulty_simulator:make_registered", max_episode_steps=5)
    try:
        arguments: dict[str, Any] = {"policy": Recorder(), "env": "OnlyHere-v0"}
        assert_same(wander(2, **arguments), wander(1, **arguments))
    finally:
        del gymnasium.registry["OnlyHere-v0"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "processes", "said"),
    [
        ("hang in reset", 2, "within 3 s (rollout.timeout_s)"),
        ("hang in step", 2, "within 3 s (rollout.timeout_s)"),
        ("os._exit in step", 2, "its process ended with code 7"),
        ("sys.exit in step", 2, "SystemExit: 7"),
        ("sys.exit in step", 1, "SystemExit: 7"),
    ],
)
def test_a_gymnasium_environment_that_fails_costs_its_episode_one_retry(
    fault: str,
    processes: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    arguments: dict[str, Any] = {"policy": Recorder(), "env": MISBEHAVING, "max_steps": 20, "timeout_s": 3.0}
    monkeypatch.setenv(FOLDER, str(tmp_path))
    reference = wander(1, **arguments)
    before = children()
    monkeypatch.setenv(FAULT, fault)
    assert_same(wander(processes, **arguments), reference)
    assert len([one for one in caplog.messages if "the episode is retried once" in one]) == 1
    assert said in caplog.text
    assert children() == before


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_a_gymnasium_environment_that_does_not_close_costs_nothing(
    processes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    arguments: dict[str, Any] = {"policy": Recorder(), "env": MISBEHAVING, "max_steps": 20}
    monkeypatch.setenv(FOLDER, str(tmp_path))
    reference = wander(1, **arguments)
    monkeypatch.setenv(FAULT, "raise in close")
    assert_same(wander(processes, **arguments), reference)
    closed = (tmp_path / "closed").read_text().split()
    assert len(closed) == 2 * 5, "each of the five environments at once is closed, after an error of another"
    assert ("a simulator could not be closed" in caplog.text) == (processes == 1)


@pytest.mark.slow
def test_processes_whose_environments_hang_in_close_are_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"policy": Recorder(), "env": MISBEHAVING, "max_steps": 20}
    monkeypatch.setenv(FOLDER, str(tmp_path))
    reference = wander(1, **arguments)
    before = children()
    monkeypatch.setenv(FAULT, "hang in close")
    assert_same(wander(2, **arguments), reference)
    assert children() == before


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_what_a_gymnasium_environment_prints_does_not_block_it(
    processes: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments: dict[str, Any] = {"policy": Recorder(), "env": MISBEHAVING, "max_steps": 20}
    monkeypatch.setenv(FOLDER, str(tmp_path))
    reference = wander(1, **arguments)
    monkeypatch.setenv(FAULT, "print in step")
    assert_same(wander(processes, **arguments), reference)
    assert len(capfd.readouterr().out) > 5_000_000


@pytest.mark.slow
def test_a_simulator_that_cannot_be_made_in_another_process_is_stepped_in_this_one_by_auto(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("FAULTY_PARENT", str(os.getpid()))
    monkeypatch.setattr(choice, "processes_for", lambda *_arguments: 2)
    arguments: dict[str, Any] = {
        "policy": Recorder(),
        "env": "faulty_simulator:make_parents_only",
        "max_steps": 3,
    }
    with pytest.raises(SimulatorError, match="one licence"):
        wander(2, **arguments)
    assert_same(wander("auto", **arguments), wander(1, **arguments))
    assert "several cannot be started" in caplog.text


@pytest.mark.slow
def test_auto_uses_more_processes_than_cpus_for_a_simulator_that_waits_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(SLEEP_S, "0.02")
    # Making the simulator takes a busy machine so long that more processes would not be worth it.
    cost = choice.measured
    monkeypatch.setattr(choice, "measured", lambda simulator, chunk, _made_s: cost(simulator, chunk, 0.0))
    used: list[int] = []
    chosen = choice.processes_for
    monkeypatch.setattr(
        choice, "processes_for", lambda *arguments: used.append(chosen(*arguments)) or used[-1]
    )
    with caplog.at_level(logging.INFO, "trainables"):
        wander("auto", episode_indices=range(20), parallel=20)
    assert used[0] > 2
    assert f"auto uses {used[0]} for 20 episodes of at most 30 steps" in caplog.text


class Computing:
    """Computes for a while in each step, and never waits."""

    action_shape, max_steps, fps = (2,), 100, 10.0

    def __init__(self, features: PolicyFeatures) -> None:
        pass

    def reset(self, seed: int) -> dict[str, np.ndarray]:
        return {STATE: np.zeros(2, np.float32)}

    def step(self, action: np.ndarray, observe: bool = True) -> Step:
        end_s = time.thread_time() + 0.02
        while time.thread_time() < end_s:
            pass
        return Step(self.reset(0) if observe else None, 0.0, False, False)

    def frame(self) -> np.ndarray:
        return np.zeros((8, 8, 3), np.uint8)

    def close(self) -> None:
        pass


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/thread-self/schedstat").exists(), reason="only Linux says who was queued")
def test_time_in_which_others_have_the_processor_is_not_waiting() -> None:
    cpus = os.sched_getaffinity(0)
    spin = "while True: pass"
    others: list[subprocess.Popen[bytes]] = []
    os.sched_setaffinity(0, {min(cpus)})  # the others inherit it: all want one processor
    try:
        others += [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2)]
        simulator = Simulator(f"{__name__}:Computing", REACH, stepped=lambda: None)
        queued = choice.queued_s()
        cost = choice.measured(simulator, 8, 0.0)
        assert choice.queued_s() - queued > 0.05
    finally:
        os.sched_setaffinity(0, cpus)
        for other in others:
            other.kill()
            other.wait()
    # Of each 20 ms of computing, two others had the processor for about 40 ms.
    assert cost.wait_s < 0.01


@pytest.mark.parametrize(
    ("cost", "steps", "cpus", "expected"),
    [
        (StepCost(0.000_1, 0.0), 15_000, 2, 1),  # 1.5 s: nothing worth mentioning is saved
        (StepCost(0.02, 0.0), 15_000, 2, 2),
        (StepCost(0.02, 0.0), 15_000, 8, 8),
        (StepCost(0.02, 0.0), 15_000, 1, 1),  # one processor computes no faster in two processes
        (StepCost(0.02, 0.0), 20, 8, 1),
        (StepCost(0.02, 0.0, made_s=280.0), 15_000, 8, 1),
    ],
)
def test_processes_are_worth_their_start_or_are_not_started(
    cost: StepCost, steps: int, cpus: int, expected: int
) -> None:
    assert processes_for(cost, steps, 32, cpus) == expected


def test_a_waiting_simulator_is_waited_for_in_a_limited_number_of_processes() -> None:
    waits = StepCost(0.000_1, 0.005)
    assert 5 <= processes_for(waits, 15_000, 32, 2) <= choice.MOST_WAITING
    assert processes_for(waits, 15_000, 3, 2) == 3
    assert processes_for(StepCost(0.0, 10.0), 15_000, 100, 2) <= choice.MOST_WAITING


def test_processes_are_a_number_or_auto() -> None:
    assert field_faults({"rollout.processes": "auto"}) == []
    assert field_faults({"rollout.processes": 3}) == []
    for wrong in ("many", 0, None, 1.5):
        (fault,) = field_faults({"rollout.processes": wrong})
        assert fault.remedy == "Expected an int of at least 1, or auto."
