"""Finalists are confirmed on fresh starts, and whatever interrupts that, the answer is the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from reaching_sweeps import ended_sweep
from small_sweeps import SUCCESS

from sweeper.errors import SweeperError, UserError
from sweeper.finalists.confirm import choose_finalists, confirm
from sweeper.finalists.evaluators import evaluators
from sweeper.finalists.racing import ConfirmOptions
from sweeper.finalists.recording import recording
from sweeper.layout import JOURNAL, trial_folder
from sweeper.records.sweep_state import SweepState, read_sweep
from sweeper.spec.sweep import ConfirmSpec, ResourceSpec
from trainables.episodes import read_episodes

pytestmark = pytest.mark.filterwarnings("default")  # Ray and MLflow warn of their own habits.


def confirmed(sweep: SweepState, top: int = 8, **options: Any) -> Any:
    finalists, _ = choose_finalists(sweep, top)
    with recording(sweep) as record, evaluators(ResourceSpec(1, 0, 1)) as actors:
        return confirm(record, finalists, ConfirmOptions(**options), actors)


def records_of(sweep: SweepState) -> dict[str, Any]:
    # A process that is killed while it writes leaves an unfinished file, which is not read.
    files = sorted(sweep.folder.glob("trials/*/episodes/*.jsonl"))
    return {str(path.relative_to(sweep.folder)): read_episodes(path) for path in files}


@pytest.mark.slow
def test_the_best_is_found_and_its_value_is_that_of_fresh_starts(cluster: Any, tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3, 0.85, 0.5)
    result = confirmed(sweep)
    first = result.found[0]
    assert (first["trial"], first["state"], first["p_best"]) == (1, "best", 1.0)
    assert result.complete
    assert "Trial 1 is the best of 3 finalists" in result.verdict
    metrics = first["metrics"]
    assert metrics[f"{SUCCESS}_low"] < 0.85 < metrics[f"{SUCCESS}_high"]
    assert metrics["search"] == pytest.approx(0.95)
    assert metrics["episodes"] < 400
    again = read_sweep(sweep.folder)
    assert again.confirmation["winner"] == 1
    assert again.trials[1].confirmed == metrics
    seeds = {record.seed for _, found in records_of(sweep).values() for record in found}
    assert min(seeds) >= 20_000_000


@pytest.mark.slow
def test_equals_are_not_told_apart_and_more_episodes_continue(cluster: Any, tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.5, 0.5)
    result = confirmed(sweep, episodes=64)
    assert {one["state"] for one in result.found} == {"left"}
    assert "Not told apart from it: trial 1. --episodes 128 continues" in result.verdict
    assert {one["metrics"]["episodes"] for one in result.found} == {64}
    before = records_of(sweep)
    confirmed(sweep, episodes=96)
    for name, (head, found) in records_of(sweep).items():
        assert (head, found[:64]) == before[name]
        assert len(found) == 96
    near = confirmed(sweep, episodes=96, epsilon=0.3)
    assert "at most 0.3 worse" in near.verdict


@pytest.mark.slow
def test_fewer_than_two_finalists_are_a_clear_error_and_one_can_be_measured(
    cluster: Any, tmp_path: Path
) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.5)
    with pytest.raises(UserError, match=r"at least two trials with a checkpoint.* --top 1"):
        choose_finalists(sweep, 8)
    result = confirmed(sweep, top=1, episodes=64)
    assert "measured alone, in 64 episodes" in result.verdict
    assert result.found[0]["state"] == "alone"
    assert "p_best" not in result.found[0]  # it was compared with no other
    assert result.found[0]["metrics"][f"{SUCCESS}_low"] < 0.5 < result.found[0]["metrics"][f"{SUCCESS}_high"]


@pytest.mark.slow
def test_a_finalist_that_cannot_be_evaluated_is_named_and_left_out(cluster: Any, tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3, 0.9, 0.6)
    (trial_folder(sweep.folder, 1) / "checkpoints" / "000010" / "skill.json").unlink()
    result = confirmed(sweep)
    assert [one["trial"] for one in result.found] == [2, 0]
    assert "trial 1 cannot be evaluated" in result.problems[0]
    (trial_folder(sweep.folder, 2) / "checkpoints" / "000010" / "skill.json").unlink()
    with pytest.raises(SweeperError, match="1 of 3 finalists can be evaluated"):
        confirmed(sweep)


def test_a_sweep_without_rollouts_cannot_be_confirmed(tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3, 0.9, objective="train/loss")
    with pytest.raises(UserError, match="not rolled out in a simulator"):
        choose_finalists(sweep, 8)


def test_a_sweep_that_is_in_use_is_not_touched(tmp_path: Path) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3, 0.9)
    with recording(sweep), pytest.raises(UserError, match="in use by another process"):  # noqa: SIM117
        with recording(read_sweep(sweep.folder)):
            pass


@pytest.mark.slow
def test_a_confirmation_that_is_killed_at_random_ends_as_one_that_was_not(tmp_path: Path) -> None:
    skills = (0.45, 0.55, 0.5)
    command = [sys.executable, "-m", "sweeper.cli", "confirm", "--json", "--episodes", "160"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    undisturbed = ended_sweep(tmp_path / "undisturbed", *skills)
    subprocess.run([*command, str(undisturbed.folder)], env=environment, check=True, capture_output=True)
    killed = ended_sweep(tmp_path / "killed", *skills)
    drawn = random.Random(3)
    for _ in range(3):
        process = subprocess.Popen(
            [*command, str(killed.folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        wanted = len(records_of(killed)) + 1
        until = time.monotonic() + 400
        while process.poll() is None and len(records_of(killed)) < wanted and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(drawn.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    last = subprocess.run(
        [*command, str(killed.folder)], env=environment, check=True, capture_output=True, text=True
    )
    assert records_of(killed) == records_of(undisturbed)
    expected = read_sweep(undisturbed.folder).confirmation
    found = json.loads(last.stdout)
    assert found["finalists"] == expected["finalists"]
    assert found["verdict"] == expected["verdict"]


@pytest.mark.slow
def test_each_configuration_can_be_trained_with_other_seeds_first(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3, 0.9)
    run_in(tmp_path, monkeypatch)
    assert ended("confirm", str(sweep.folder), "--seeds", "3", "--episodes", "64", "--json") == 0
    finalists = read_sweep(sweep.folder).confirmation["finalists"]
    assert [one["metrics"]["seeds"] for one in finalists] == [3, 3]
    assert all(one["metrics"]["seeds_sd"] >= 0 for one in finalists)
    child = read_sweep(sweep.folder / "seeds" / "1")
    assert sorted(trial.config["train.seed"] for trial in child.trials.values()) == [1, 2]


@pytest.mark.parametrize(
    ("asked", "played"), [(1, 1), (20, 20), (32, 32), (33, 32), (95, 64), (200, 192), (384, 384)]
)
def test_whole_blocks_are_played_or_fewer_episodes_than_one(asked: int, played: int) -> None:
    assert ConfirmSpec(episodes=asked).most_episodes == played


SPACE = """
name: asked
trainable: reaching_policies:TRAINABLE
parameters: {skill: {values: [0.2, 0.9]}}
metric: {name: rollout/success_rate}
search: {method: grid}
resources: {gpu_per_worker: 0, cpu_per_worker: 1}
inference: {parameters: {luck: {values: [-0.1, 0.05]}}, episodes: 32}
confirm: {top: 2, episodes: 96}
"""


@pytest.mark.slow
def test_a_sweep_confirms_its_winner_if_the_space_asks_for_it(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    (tmp_path / "space.yaml").write_text(SPACE)
    assert ended("launch", "space.yaml") == 0
    sweep = read_sweep(tmp_path / "sweeps" / "asked")
    assert sweep.confirmation["complete"]
    winner = sweep.confirmed_trial()
    assert winner is not None
    assert winner.values == {"skill": 0.9}
    assert sweep.confirmation["finalists"][0]["setting"] == winner.setting == {"luck": 0.05}
    assert "is the best of 2 finalists" in capsys.readouterr().out
    events = (sweep.folder / JOURNAL).read_text().count('"confirm_start"')
    assert ended("launch", "space.yaml") == 0
    assert (sweep.folder / JOURNAL).read_text().count('"confirm_start"') == events


@pytest.mark.slow
def test_a_sweep_of_which_one_trial_is_left_measures_that_one_alone(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_in(tmp_path, monkeypatch)
    (tmp_path / "space.yaml").write_text(SPACE)
    assert ended("launch", "space.yaml", "budget.trials=1", "confirm.episodes=100") == 0
    said = capsys.readouterr().out
    assert "Only trial 0 has completed with a checkpoint: it is compared with no other." in said
    assert "At most 96 episodes of each trial are played, not 100" in said
    assert "The nearest possible numbers are 96 and 128." in said
    assert "measured alone" in said
    assert "1 finalist on fresh starts" in said
    sweep = read_sweep(tmp_path / "sweeps" / "asked")
    (one,) = sweep.confirmation["finalists"]
    assert (one["trial"], one["state"], one["metrics"]["episodes"]) == (0, "alone", 96)
