"""Trained policies are evaluated by Ray actors, whatever happens to these."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reaching_policies import ReachingTrainable, write_checkpoint

from sweeper.errors import UserError
from sweeper.finalists.candidates import Candidate
from sweeper.finalists.evaluators import ATTEMPTS, Evaluators, Task, evaluators
from sweeper.spec.sweep import ResourceSpec
from trainables.interface import EvaluatesPolicies, Trainable

NAME = "reaching_policies:TRAINABLE"


def candidate(folder: Path, skill: float, **setting: Any) -> Candidate:
    return Candidate(f"skill {skill}", NAME, write_checkpoint(folder / str(skill), skill), setting)


@pytest.fixture
def two(cluster: Any) -> Iterator[Evaluators]:
    with evaluators(ResourceSpec(1, 0, 1)) as made:
        yield made


def test_the_trainable_of_these_tests_has_what_is_asked_for() -> None:
    assert isinstance(ReachingTrainable(), Trainable)
    assert isinstance(ReachingTrainable(), EvaluatesPolicies)


@pytest.mark.slow
def test_blocks_of_several_candidates_are_answered_each_once(two: Evaluators, tmp_path: Path) -> None:
    assert two.count == 2
    good, bad = candidate(tmp_path, 0.9), candidate(tmp_path, 0.1)
    tasks = [
        Task(one, "rollout", tuple(range(start, start + 4)), "confirm")
        for start in (0, 4, 8)
        for one in (good, bad)
    ]
    told: list[tuple[int, int]] = []
    answers = list(two.run(tasks, lambda done, of: told.append((done, of))))
    assert told == [(number, 6) for number in range(1, 7)]
    assert {id(answer.task) for answer in answers} == {id(task) for task in tasks}
    for one, share in ((good, 0.9), (bad, 0.1)):
        records = [record for answer in answers if answer.task.candidate is one for record in answer.records]
        assert sorted(record.episode for record in records) == list(range(12))
        assert {record.seed for record in records} == {20_000_000 + number for number in range(12)}
        assert abs(sum(record.success for record in records) / 12 - share) < 0.35


@pytest.mark.slow
def test_all_that_can_be_measured_is_answered_for_the_setting(two: Evaluators, tmp_path: Path) -> None:
    one = candidate(tmp_path, 0.5, luck=0.5)
    kinds = ("describe", "errors", "latency")
    tasks = [Task(one, kind, (3,) if kind == "latency" else (0, 1)) for kind in kinds]
    values = {answer.task.kind: answer.value for answer in two.run(tasks)}
    assert values["describe"]["setting"] == {"luck": 0.0, "effort": 1.0}
    assert len(values["errors"]) == 2
    assert len(values["latency"]) == 3


@pytest.mark.slow
def test_a_policy_that_fails_is_an_answer_and_the_others_go_on(two: Evaluators, tmp_path: Path) -> None:
    good = candidate(tmp_path, 0.9)
    broken = Candidate("gone", NAME, tmp_path / "nowhere")
    answers = {
        answer.task.candidate.label: answer
        for answer in two.run([Task(broken, "rollout", (0,)), Task(good, "rollout", (0, 1))])
    }
    assert "there is no policy" in answers["gone"].problem
    assert len(answers["skill 0.9"].records) == 2


@pytest.mark.slow
def test_a_process_that_is_lost_is_replaced(two: Evaluators, tmp_path: Path) -> None:
    one = candidate(tmp_path, 0.8, dies_once=str(tmp_path / "died"))
    (answer,) = two.run([Task(one, "rollout", (0, 1), "confirm")])
    assert (tmp_path / "died").is_file()
    assert len(answer.records) == 2
    mortal = candidate(tmp_path, 0.7, dies_once="always")
    (answer,) = two.run([Task(mortal, "rollout", (0,))])
    assert f"lost {ATTEMPTS} times" in answer.problem
    (answer,) = two.run([Task(candidate(tmp_path, 0.6), "rollout", (0,))])
    assert answer.problem == ""


@pytest.mark.slow
def test_what_does_not_fit_is_refused(cluster: Any) -> None:
    with pytest.raises(UserError, match="CPU"), evaluators(ResourceSpec(1, 0, 64)):
        pass
    assert os.getpid()
