"""The inference setting of a policy is chosen on starts that do not judge it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from reaching_policies import ReachingPolicy

from sweeper.trial.inference import Choice, InferencePlan, NoSettingError, PolicyMeasures, choose_setting
from trainables.episodes import EpisodeFile, Evaluated, read_episodes

SUCCESS, ERROR = "rollout/success_rate", "eval/action_mse"


def settings(*lucks: float, **others: Any) -> tuple[dict[str, Any], ...]:
    return tuple({"luck": luck, **others} for luck in lucks)


def plan(*chosen: dict[str, Any], **changes: Any) -> InferencePlan:
    return InferencePlan(chosen, SUCCESS, maximize=True, **{"episodes": 128, **changes})


def choose(folder: Path, wanted: InferencePlan, skill: float = 0.4, judged: int = 40) -> Choice:
    return choose_setting(PolicyMeasures(ReachingPolicy(skill), folder), wanted, judged)


def test_the_best_setting_is_chosen_and_judged_on_other_starts(tmp_path: Path) -> None:
    choice = choose(tmp_path, plan(*settings(-0.3, 0.0, 0.4)))
    assert choice.setting == {"luck": 0.4}
    judged = ReachingPolicy(0.4).rollout(choice.setting, "search", range(40))
    assert choice.metrics[SUCCESS] == sum(record.success for record in judged) / 40
    as_trained = ReachingPolicy(0.4).rollout({}, "search", range(40))
    assert choice.untuned[SUCCESS] == sum(record.success for record in as_trained) / 40
    purposes = {path.name.split("-")[1].removesuffix(".jsonl") for path in tmp_path.iterdir()}
    assert purposes == {"search", "choice"}


def test_the_setting_of_the_training_takes_part_and_is_an_empty_one(tmp_path: Path) -> None:
    choice = choose(tmp_path, plan(*settings(-0.3, -0.2)))
    assert choice.setting == {}
    assert choice.metrics == choice.untuned
    assert [row["setting"] for row in choice.tried] == [{}, {"luck": -0.3}, {"luck": -0.2}]
    assert choice.tried[0]["state"] == "chosen"


def test_clearly_worse_settings_leave_before_the_last_episode(tmp_path: Path) -> None:
    choice = choose(tmp_path, plan(*settings(-0.6, 0.3), episodes=256), skill=0.65)
    rows = {row["setting"].get("luck", 0.0): row for row in choice.tried}
    assert rows[-0.6]["state"] == "out"
    assert rows[-0.6]["episodes"] < 256
    assert rows[0.3]["state"] == "chosen"
    played = read_episodes(EpisodeFile(tmp_path, Evaluated("choice", 10, {"luck": -0.6}, "reaching")).path)[1]
    assert len(played) == rows[-0.6]["episodes"]


def test_limits_are_kept_and_the_faster_of_equals_is_chosen(tmp_path: Path) -> None:
    slow, fast = {"luck": 0.4, "effort": 4}, {"luck": 0.3, "effort": 0.5}
    choice = choose(tmp_path, plan(slow, fast, limits={"eval/chunk_latency_ms": 20}))
    assert choice.setting == fast
    assert {row["state"] for row in choice.tried if row["setting"] == slow} == {"too slow"}
    assert choice.metrics["eval/chunk_latency_ms"] == 5.0
    same = choose(tmp_path / "same", plan({"effort": 3}, {"effort": 0.5}))
    assert same.setting == {"effort": 0.5}
    by_rate = choose(tmp_path / "rate", plan(slow, fast, limits={"eval/action_rate_hz": 90}))
    assert by_rate.setting == fast


def test_limits_that_no_setting_keeps_are_an_error_with_the_fastest(tmp_path: Path) -> None:
    with pytest.raises(NoSettingError, match=r"none of 3 settings keeps .* takes 5\.0 ms"):
        choose(tmp_path, plan({"effort": 3}, {"effort": 0.5}, limits={"eval/chunk_latency_ms": 1}))


def test_the_front_has_the_settings_that_no_other_beats(tmp_path: Path) -> None:
    wanted = plan({"luck": 0.2, "effort": 3}, {"luck": -0.01, "effort": 2}, {"luck": 0.1, "effort": 0.5})
    rows = choose(tmp_path, wanted).tried
    front = [row["setting"] for row in rows if row["front"]]
    assert {"luck": 0.1, "effort": 0.5} in front
    assert {"luck": -0.01, "effort": 2} not in front


def test_impossible_settings_are_left_out_and_said(tmp_path: Path) -> None:
    choice = choose(tmp_path, plan({"nonsense": 1}, {"luck": 0.4}))
    assert choice.setting == {"luck": 0.4}
    assert choice.tried[1]["state"] == "impossible"


def test_a_setting_with_which_the_policy_fails_leaves(tmp_path: Path) -> None:
    choice = choose(tmp_path, plan({"luck": 0.5, "diverges": True}, {"luck": 0.1}))
    assert choice.setting == {"luck": 0.1}
    assert choice.tried[1]["state"] == "failed"


def test_a_killed_choice_continues_with_the_episodes_it_has(tmp_path: Path) -> None:
    wanted = plan(*settings(-0.2, 0.2, 0.3))
    whole = choose(tmp_path / "whole", wanted)

    class Killed(ReachingPolicy):
        left = 5

        def rollout(self, *arguments: Any, **others: Any) -> Any:
            Killed.left -= 1
            if Killed.left < 0:
                raise KeyboardInterrupt
            return super().rollout(*arguments, **others)

    with pytest.raises(KeyboardInterrupt):
        choose_setting(PolicyMeasures(Killed(0.4), tmp_path / "killed"), wanted, 40)
    assert choose(tmp_path / "killed", wanted) == whole
    names = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert names == sorted(path.name for path in (tmp_path / "killed").iterdir())
    for name in names:
        assert read_episodes(tmp_path / "whole" / name) == read_episodes(tmp_path / "killed" / name)


def test_without_a_simulator_half_of_the_moments_choose_and_the_others_judge(tmp_path: Path) -> None:
    asked: list[tuple[int, ...]] = []

    class Watched(ReachingPolicy):
        def action_errors(self, setting: Any, windows: Any) -> Any:
            asked.append(tuple(windows))
            return super().action_errors(setting, windows)

    wanted = InferencePlan(settings(0.1, 0.3), ERROR, maximize=False)
    choice = choose_setting(PolicyMeasures(Watched(0.4), tmp_path), wanted, 0)
    assert choice.setting == {"luck": 0.3}
    assert set(asked) == {(0, 2, 4, 6), (1, 3, 5, 7)}
    assert choice.metrics[ERROR] == pytest.approx(1 - 0.4 - 0.3 + 0.01 * 4)
    assert not list(tmp_path.iterdir())


def test_rewards_beyond_their_range_are_an_error_that_names_the_field(tmp_path: Path) -> None:
    wanted = InferencePlan(settings(0.1), "rollout/avg_max_reward", maximize=True, reward_range=(0.0, 0.5))
    with pytest.raises(NoSettingError, match=r"inference\.reward_range"):
        choose_setting(PolicyMeasures(ReachingPolicy(0.4), tmp_path), wanted, 8)


def test_what_is_minimised_is_minimised(tmp_path: Path) -> None:
    wanted = InferencePlan(settings(-0.3, 0.3), SUCCESS, maximize=False, episodes=64)
    choice = choose_setting(PolicyMeasures(ReachingPolicy(0.5), tmp_path), wanted, 8)
    assert choice.setting == {"luck": -0.3}
    assert 0.0 <= next(row for row in choice.tried if row["state"] == "chosen")["value"] < 0.5
