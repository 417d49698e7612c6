"""Policies are compared on the same episodes, and what cannot be compared is refused in words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import ended, run_in
from reaching_policies import ReachingPolicy, write_checkpoint
from reaching_sweeps import ended_sweep, record_episodes
from small_sweeps import SUCCESS

from sweeper.errors import UserError
from sweeper.finalists.compare import _recorded, compare_recorded, find_contenders, metric_of
from sweeper.layout import trial_folder
from trainables import registry
from trainables.episodes import EPISODES, read_episodes

pytestmark = pytest.mark.filterwarnings("default")  # Ray warns of its own habits.


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep of three trials with recorded episodes of the search."""
    run_in(tmp_path, monkeypatch)
    skills = (0.3, 0.9, 0.8)
    made = ended_sweep(Path("sweeps/small"), *skills).folder
    for trial, skill in enumerate(skills):
        record_episodes(made, trial, skill, 40)
    return made


def compared(*named: str) -> Any:
    contenders = find_contenders(named, Path("sweeps"))
    return compare_recorded(contenders, metric_of(contenders))


def words(text: str) -> str:
    return " ".join(text.split())


def test_recorded_episodes_from_the_same_starts_are_compared(folder, capsys):
    found = compared("small:1", "small:0")
    assert (found.metric, found.purpose, found.paired) == (SUCCESS, "search", True)
    (pair,) = found.pairs
    successes = [
        sum(one.success for one in ReachingPolicy(skill).rollout({}, "search", range(40)))
        for skill in (0.9, 0.3)
    ]
    assert pair.difference == pytest.approx((successes[0] - successes[1]) / 40)
    # A better policy solves whatever a worse one solves.
    assert (pair.comparison.only_a, pair.comparison.only_b) == (successes[0] - successes[1], 0)
    assert pair.p_value == pytest.approx(2 * 0.5 ** (successes[0] - successes[1]))
    assert pair.interval[0] < pair.difference < pair.interval[1]
    assert found.differences == {"skill": [0.9, 0.3]}
    assert ended("compare", "small:1", "small:0") == 0
    out = words(capsys.readouterr().out)
    assert "they are told apart" in out
    assert "These episodes ranked the trials" in out


def test_it_is_said_how_many_further_episodes_are_needed(folder, capsys):
    assert ended("compare", "small:1", "small:2", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    further = plain["pairs"][0]["further_episodes"]
    assert further > 0
    assert ended("compare", "small:1", "small:2") == 0
    out = words(capsys.readouterr().out)
    assert (
        f"about {further:,} further episodes of each would tell them apart (--episodes {40 + further})" in out
    )


def test_several_comparisons_are_adjusted_for_their_number(folder):
    alone = compared("small:0", "small:1").pairs[0]
    first, second = compared("small:0", "small:1", "small:2").pairs
    assert max(first.p_value, second.p_value) <= 1
    assert first.p_value == pytest.approx(2 * alone.p_value)


def test_episodes_that_chose_nothing_come_first(folder):
    record_episodes(folder, 0, 0.3, 20, "confirm")
    record_episodes(folder, 1, 0.9, 30, "confirm")
    found = compared("small:0", "small:1")
    assert (found.purpose, found.policies[0]["count"]) == ("confirm", 20)
    # Those that chose a setting are never used.
    shutil.rmtree(trial_folder(folder, 2) / EPISODES)
    record_episodes(folder, 2, 0.8, 40, "choice")
    assert compared("small:0", "small:2") is None


def test_a_trial_without_a_checkpoint_is_compared_by_its_records(folder, capsys):
    shutil.rmtree(trial_folder(folder, 0) / "checkpoints")
    assert ended("compare", "small:1", "small:0") == 0
    capsys.readouterr()
    shutil.rmtree(trial_folder(folder, 0) / EPISODES)
    assert ended("compare", "small:1", "small:0") == 2
    assert "the checkpoint of trial 0 is gone" in words(capsys.readouterr().err)


def test_trials_of_other_sweeps_are_compared(folder):
    other = ended_sweep(Path("sweeps/other"), 0.5).folder
    record_episodes(other, 0, 0.5, 25)
    found = compared("small:1", "other")
    assert [one["policy"] for one in found.policies] == ["small:1", "other:0"]
    assert found.policies[0]["count"] == 25


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small:0"], "at least two policies"),
        (["small:1", "small"], "small:1 and small are the same policy"),
        (["small:0", "small:7"], "there is no trial 7"),
        (["small:0", "nothing"], "no sweep is called 'nothing'"),
        (["small:0", "small:1", "--metric", "train/loss"], "--metric train/loss: not a mean of episodes"),
    ],
)
def test_what_cannot_be_compared_is_refused(folder, capsys, arguments: Sequence[str], message: str):
    assert ended("compare", *arguments) == 2
    assert message in words(capsys.readouterr().err)


def test_without_common_episodes_the_remedy_is_named(folder, monkeypatch):
    shutil.rmtree(trial_folder(folder, 0) / EPISODES)
    contenders = find_contenders(["small:0", "small:1"], Path("sweeps"))
    assert compare_recorded(contenders, metric_of(contenders)) is None
    with pytest.raises(UserError, match="at least two"):
        find_contenders(["small:0"], Path("sweeps"))


@pytest.mark.slow
def test_further_episodes_are_played_once_and_recorded_beside_trials(
    cluster: Any, folder, capsys, monkeypatch
):
    assert ended("compare", "small:1", "small:0", "--episodes", "50", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["purpose"], [one["count"] for one in plain["policies"]]) == ("look", [50, 50])
    path = trial_folder(folder, 1) / EPISODES / "000010-look.jsonl"
    before = path.read_bytes()
    _, records = read_episodes(path)
    assert [one.episode for one in records] == list(range(50))
    assert min(one.seed for one in records) >= 30_000_000
    # Only those that are missing are played, and only the first ones that were asked for are compared.
    assert ended("compare", "small:1", "small:0", "--episodes", "30", "--json") == 0
    assert json.loads(capsys.readouterr().out)["policies"][0]["count"] == 30
    assert path.read_bytes() == before
    # A checkpoint that is not a trial's plays the same starts, and its episodes are not kept.
    write_checkpoint(Path("policy"), 0.9)
    monkeypatch.setattr(registry, "names", lambda: ["reaching_policies:TRAINABLE"])
    assert ended("compare", "small:1", "policy", "--episodes", "30", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["pairs"][0]["difference"] == 0
    assert any("The episodes of policy are not kept" in note for note in plain["notes"])
    assert not list(Path("policy").glob("episodes"))


@pytest.mark.slow
def test_without_a_simulator_errors_at_held_out_moments_are_compared(
    cluster: Any, tmp_path, monkeypatch, capsys
):
    run_in(tmp_path, monkeypatch)
    ended_sweep(Path("sweeps/small"), 0.3, 0.9, objective="train/loss")
    assert ended("compare", "small:0", "small:1", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert (plain["metric"], plain["unit"], plain["paired"]) == ("eval/action_mse", "held-out moments", True)
    assert plain["pairs"][0]["difference"] == pytest.approx(0.6)
    # Smaller errors are better.
    assert plain["pairs"][0]["a_is_better"] < 0.01
    assert "held-out moments were compared" in plain["notes"][0]


@pytest.mark.slow
@pytest.mark.parametrize("field", ["rollout.latency_ms", "rollout.control", "rollout.max_steps"])
def test_an_episode_under_another_latency_is_another_one(folder, field):
    one, other = find_contenders(["small:0", "small:1"], Path("sweeps"))
    assert set(_recorded(one, "search")) == set(_recorded(other, "search"))
    changed = replace(other, config={**other.config, field: 7})
    assert not set(_recorded(one, "search")) & set(_recorded(changed, "search"))
