"""`sweeper tune` chooses settings on a cluster, and whatever interrupts it, the choice is the same."""

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
from command_line import ended, plain_console, printed, run_in
from reaching_policies import ReachingTrainable, write_checkpoint
from test_confirm import ended_sweep, records_of

from sweeper.finalists.candidates import Candidate, find_candidate
from sweeper.finalists.evaluators import Evaluators, Task, evaluators
from sweeper.finalists.tuning import RayMeasures, default_values, describe, tune
from sweeper.records.sweep_state import read_sweep
from sweeper.spec.space_file.read_inference import read_settings
from sweeper.spec.sweep import InferenceSpec, Objective, ResourceSpec
from sweeper.terminal.finalists.tuning import print_tuned
from sweeper.trial.inference import InferencePlan, PolicyMeasures, choose_setting
from trainables.diffusion_policy import TRAINABLE
from trainables.interface import ConfigError, EvaluationContext

pytestmark = pytest.mark.filterwarnings("default")  # Ray and MLflow warn of their own habits.

SUCCESS = "rollout/success_rate"
NAME = "reaching_policies:TRAINABLE"
BEST = Objective(SUCCESS, "maximize")


def read(*arguments: str, limits: tuple[str, ...] = ()) -> InferenceSpec:
    config = {"rollout.env": "gym_pusht/PushT-v0"}
    return read_settings(TRAINABLE, config, BEST, arguments, limits, episodes=64)


def test_arguments_are_read_as_the_section(tmp_path: Path) -> None:
    found = read(
        "policy.n_action_steps=1,2",
        "policy.sampler=DDIM,UniPC",
        "policy.clip_sample=[true]",
        limits=("eval/chunk_latency_ms=50",),
    )
    assert found == InferenceSpec(
        {"policy.n_action_steps": (1, 2), "policy.sampler": ("DDIM", "UniPC"), "policy.clip_sample": (True,)},
        SUCCESS, "maximize", 64, {"eval/chunk_latency_ms": 50.0},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("policy.n_actions=1", "is not a field"),
        ("optimizer.lr=1e-4", "cannot be changed on a trained policy"),
        ("policy.sampler=PNDM", "not a known value"),
        ("policy.n_action_steps=2,2", "2 is listed twice"),
        ("policy.n_action_steps", "is not an override"),
        ("policy.n_action_steps=", "has no value"),
        (f"policy.n_action_steps={','.join(map(str, range(1, 300)))}", "settings are too many"),
    ],
)
def test_wrong_arguments_are_reported_with_the_words_of_the_section(argument: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(argument)
    assert words in str([fault.problem for fault in caught.value.faults])


def test_all_wrong_arguments_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        read("policy.n_actions=1", "policy.sampler=PNDM", limits=("eval/latency=1",))
    assert len(caught.value.faults) == 3


def test_the_default_settings_are_legal_and_need_no_actions_without_episodes() -> None:
    assert len(read(*default_values(TRAINABLE.fields, episodes=True)).settings()) == 24
    assert not [one for one in default_values(TRAINABLE.fields, episodes=False) if "n_action_steps" in one]
    assert default_values(ReachingTrainable().fields, episodes=True) == []


def measured(folder: Path, actors: Evaluators, skill: float = 0.4) -> tuple[Candidate, RayMeasures]:
    candidate = Candidate("policy", NAME, write_checkpoint(folder / "checkpoint", skill))
    return candidate, RayMeasures(candidate, describe(candidate, actors), actors, folder / "episodes")


@pytest.mark.slow
def test_a_cluster_chooses_as_one_process_does(cluster: Any, tmp_path: Path) -> None:
    settings = ({"luck": -0.3}, {"luck": 0.4, "effort": 2}, {"luck": 0.5, "diverges": True}, {"nonsense": 1})
    for plan in (
        InferencePlan(settings, SUCCESS, maximize=True, episodes=128),
        InferencePlan(settings[:2], "eval/action_mse", maximize=False),
    ):
        with evaluators(ResourceSpec(1, 0, 1)) as actors:
            candidate, measures = measured(tmp_path / "ray", actors)
            found = tune(candidate, measures, plan)
            policy = ReachingTrainable().open_policy(candidate.checkpoint, {}, EvaluationContext(tmp_path))
            here = PolicyMeasures(policy, tmp_path / "here")
            assert found.choice == choose_setting(here, plan, measures.judged() or plan.episodes)
        assert found.gain is not None
        assert found.gain.paired
        assert found.gain.interval.low <= found.gain.difference <= found.gain.interval.high
        assert found.gain.difference == pytest.approx(
            abs(found.choice.metrics[plan.metric] - found.choice.untuned[plan.metric])
        )


@pytest.mark.slow
def test_speeds_are_measured_one_after_the_other(cluster: Any, tmp_path: Path) -> None:
    with evaluators(ResourceSpec(1, 0, 1)) as actors:
        assert actors.count == 2
        candidate, _ = measured(tmp_path, actors)
        tasks = [Task(candidate, "speed") for _ in range(4)]
        before = len(actors._idle)
        assert len(list(actors.run(tasks, at_once=1))) == 4
        assert len(actors._idle) == max(1, before)


@pytest.mark.slow
def test_tuned_trials_are_recorded_ranked_and_exported_with_their_setting(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3, 0.6)
    run_in(tmp_path, monkeypatch)
    arguments = ("tune", str(sweep.folder), "luck=-0.2,0.3", "--top", "2", "--episodes", "64", "--json")
    assert ended(*arguments) == 0
    found = json.loads(capsys.readouterr().out)
    again = read_sweep(sweep.folder)
    assert [one["trial"] for one in found] == [1, 0]
    for one in found:
        trial = again.trials[one["trial"]]
        assert trial.setting == one["setting"] == {"luck": 0.3}
        assert trial.tried == one["tried"]
        assert trial.final[SUCCESS] == one["metrics"][SUCCESS] > trial.untuned[SUCCESS]
        assert one["gain"]["low"] > 0
    assert find_candidate(str(sweep.folder), tmp_path).checkpoint == Path(found[0]["checkpoint"])
    console = plain_console()
    print_tuned(console, found[0])
    text = printed(console)
    assert "Chosen: luck=0.3." in text
    assert "Gain +" in text
    assert "Front:" in text


@pytest.mark.slow
def test_a_checkpoint_changes_no_sweep_and_bad_input_loses_nothing(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sweep = ended_sweep(tmp_path / "sweep", 0.3)
    run_in(tmp_path, monkeypatch)
    before = (sweep.folder / "journal.jsonl").read_bytes()
    for arguments, words in (
        (("luck=0.1", "--limit", "eval/chunk_latency_ms=1"), "none of 2 settings keeps the limits"),
        ((), "nothing to search"),
        (("skill=0.1",), "cannot be changed on a trained policy"),
        (("luck=0.1", "--env", "other"), "has no field rollout.env"),
        (("luck=0.1", "--to", "kept"), "kept in its own folder"),
    ):
        assert ended("tune", str(sweep.folder), *arguments) == 2
        assert words in " ".join(capsys.readouterr().err.split())
    (sweep.folder / "trials" / "0" / "checkpoints" / "000010" / "skill.json").unlink()
    assert ended("tune", str(sweep.folder), "luck=0.1") == 2
    assert "there is no policy" in capsys.readouterr().err
    assert (sweep.folder / "journal.jsonl").read_bytes() == before


@pytest.mark.slow
def test_a_choice_that_is_killed_at_random_ends_as_one_that_was_not(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "sweeper.cli", "tune", "--json", "--episodes", "160"]
    values = ["luck=-0.1,0.05,0.1", "effort=0.5"]
    environment = {
        **os.environ,
        "PYTHONPATH": f"{Path(__file__).parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    undisturbed, killed = (ended_sweep(tmp_path / name, 0.5) for name in ("undisturbed", "killed"))

    def start(folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*command, str(folder), *values],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    whole, _ = start(undisturbed.folder).communicate()
    drawn = random.Random(5)
    for _ in range(2):
        process = start(killed.folder)
        wanted = len(records_of(killed)) + 1
        until = time.monotonic() + 400
        while process.poll() is None and len(records_of(killed)) < wanted and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(drawn.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    found, errors = start(killed.folder).communicate()
    assert records_of(killed) == records_of(undisturbed), errors
    chosen, expected = json.loads(found)[0], json.loads(whole)[0]
    for one in (chosen, expected):
        del one["checkpoint"], one["policy"]
    assert chosen == expected
    assert read_sweep(killed.folder).trials[0].setting == chosen["setting"]
