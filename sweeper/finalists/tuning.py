"""Choose the inference settings of trained policies on a cluster, several settings at once.

The choice itself is `sweeper.trial.inference.choose_setting`, as after the training of a trial. All that it
decides by is in files of episodes: a choice that was killed continues where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.errors import SweeperError, UserError
from sweeper.evidence.comparison import Comparison
from sweeper.evidence.paired import compare_paired_successes, compare_paired_values
from sweeper.finalists.candidates import Candidate
from sweeper.finalists.evaluators import Answer, Evaluators, Kind, Task
from sweeper.trial.inference import (
    Choice,
    InferencePlan,
    NoSettingError,
    choose_setting,
)
from trainables.episodes import OUTCOMES, EpisodeFile, EpisodeRecord, Evaluated, Purpose, outcome_of
from trainables.interface import Fault

__all__ = ["BLOCK", "Described", "RayMeasures", "Tuned", "default_values", "describe", "tune"]

BLOCK = 32
"""Episodes of a task: as many as one batch of predictions has on a CPU."""

DEFAULTS: Mapping[str, tuple[Any, ...]] = {
    "policy.n_action_steps": (2, 4, 8, 16),
    "policy.sampler": ("DDIM", "DPM-Solver++"),
    "policy.timestep_spacing": ("trailing",),
    "policy.num_inference_steps": (4, 8, 16),
}
"""What is examined if nothing is named.

DDIM needs 10 to 16 steps, a second-order solver half of that. With few steps the timesteps must begin at the
last one (`trailing`). Settings that a policy cannot have are left out: more actions than its horizon holds.
"""

USERS_REASONS = ("config", "data", "environment")
"""Reasons of a trainable's errors that are the user's to mend."""


@dataclass(frozen=True)
class Described:
    """What a policy says of itself.

    Attributes:
        step: Its optimiser steps.
        trained: Every inference field with its value in the training.
        environment: Its simulator, or None.
        windows: Its held-out moments; 0 without a dataset.
    """

    step: int
    trained: Mapping[str, Any]
    environment: str | None
    windows: int


@dataclass(frozen=True)
class Tuned:
    """The setting that was chosen for a policy.

    Attributes:
        candidate: The policy.
        choice: What was chosen, and what of.
        gain: The chosen setting against that of the training on the starts that judge; None if they are
            the same, or the policy fails with the latter.
    """

    candidate: Candidate
    choice: Choice
    gain: Comparison | None


def default_values(fields: Mapping[str, Any], *, episodes: bool) -> list[str]:
    """The arguments of `sweeper tune` that hold if none are given; none for a trainable without such fields.

    Args:
        fields: The fields of the trainable.
        episodes: Whether settings are compared by episodes; the held-out error is the same for every
            ``policy.n_action_steps``.
    """
    return [
        f"{name}={','.join(map(str, values))}"
        for name, values in DEFAULTS.items()
        if name in fields and (episodes or name != "policy.n_action_steps")
    ]


def describe(candidate: Candidate, evaluators: Evaluators) -> Described:
    """Open a policy once.

    Raises:
        UserError: If it cannot be evaluated.
        SweeperError: If its process is lost.
    """
    (answer,) = evaluators.run([Task(candidate, "describe")])
    value = _value(answer)
    return Described(value["step"], value["setting"], value["environment"], value["windows"])


class RayMeasures:
    """Measures settings of a policy on a cluster, and keeps the episodes in files.

    Args:
        candidate: The policy.
        described: What it says of itself.
        evaluators: Where it is measured.
        records: Folder of its episode files.
    """

    def __init__(
        self, candidate: Candidate, described: Described, evaluators: Evaluators, records: Path
    ) -> None:
        self.trained = described.trained
        self.windows = described.windows
        self._candidate = replace(candidate, setting={})
        self._described = described
        self._evaluators = evaluators
        self._records = records
        self._errors: dict[tuple[str, tuple[int, ...]], list[float]] = {}

    def faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        """Say what is wrong with a setting for this policy."""
        return list(self._values([self._task(setting, "faults")])[0])

    def speeds(self, settings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
        """The speed of each setting: measured one after the other in one process, and nothing beside it."""
        return self._values([self._task(setting, "speed") for setting in settings], at_once=1)

    def rollouts(
        self, settings: Sequence[Mapping[str, Any]], purpose: Purpose, episodes: range
    ) -> list[list[EpisodeRecord] | None]:
        """The same episodes with each setting, several blocks at once; None if its actions are not finite."""
        files = [self._file(setting, purpose) for setting in settings]
        owners: dict[int, int] = {}
        tasks: list[Task] = []
        for number, (setting, file) in enumerate(zip(settings, files, strict=True)):
            known = {record.episode for record in file.records()}
            missing = [episode for episode in episodes if episode not in known]
            for start in range(0, len(missing), BLOCK):
                block = tuple(missing[start : start + BLOCK])
                tasks.append(self._task(setting, "rollout", numbers=block, purpose=purpose))
                owners[id(tasks[-1])] = number
        failed: set[int] = set()
        for answer in self._evaluators.run(tasks):
            number = owners[id(answer.task)]
            if answer.reason == "diverged":
                failed.add(number)
            else:
                files[number].append(_value(answer))
        found: list[list[EpisodeRecord] | None] = []
        for number, file in enumerate(files):
            wanted = [record for record in file.records() if record.episode in episodes]
            found.append(None if number in failed else wanted)
        return found

    def errors(self, settings: Sequence[Mapping[str, Any]], windows: Sequence[int]) -> list[Sequence[float]]:
        """The action errors at the same held-out moments with each setting; each is measured once."""
        keys = [(repr(sorted(setting.items())), tuple(windows)) for setting in settings]
        missing = {
            key: setting for key, setting in zip(keys, settings, strict=True) if key not in self._errors
        }
        tasks = [self._task(setting, "errors", numbers=tuple(windows)) for setting in missing.values()]
        self._errors.update(zip(missing, self._values(tasks), strict=True))
        return [self._errors[key] for key in keys]

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> Mapping[str, float]:
        """Average episodes into metrics."""
        found: Mapping[str, float] = self._values([self._task({}, "metrics", records=tuple(records))])[0]
        return found

    def judged(self) -> int:
        """Episodes of the last evaluation in the training, which judged the policy; 0 if there are none."""
        return len(self._file({}, "search").records())

    def _file(self, setting: Mapping[str, Any], purpose: Purpose) -> EpisodeFile:
        environment = self._described.environment or ""
        return EpisodeFile(self._records, Evaluated(purpose, self._described.step, setting, environment))

    def _task(self, setting: Mapping[str, Any], kind: Kind, **others: Any) -> Task:
        return Task(replace(self._candidate, setting=dict(setting)), kind, **others)

    def _values(self, tasks: Sequence[Task], at_once: int | None = None) -> list[Any]:
        """The values of tasks, in their order."""
        found = {id(answer.task): _value(answer) for answer in self._evaluators.run(tasks, at_once=at_once)}
        return [found[id(task)] for task in tasks]


def tune(
    candidate: Candidate,
    measures: RayMeasures,
    plan: InferencePlan,
    progress: Callable[[str], object] = str,
) -> Tuned:
    """Choose the inference setting of a policy.

    Args:
        candidate: The policy.
        measures: Measures it.
        plan: What is examined, and how.
        progress: Receives a sentence before everything that takes long.

    Raises:
        UserError: If no setting is possible, or keeps the limits; or the policy cannot be evaluated.
        SweeperError: If its process is lost.
    """
    judged = measures.judged() or plan.episodes
    try:
        choice = choose_setting(measures, plan, judged, progress)
    except NoSettingError as error:
        raise UserError(f"{candidate.label}: {error}") from error
    return Tuned(candidate, choice, _gain(measures, plan, choice, judged))


def _gain(measures: RayMeasures, plan: InferencePlan, choice: Choice, judged: int) -> Comparison | None:
    """The chosen setting against that of the training; larger is better, as everywhere in the evidence."""
    if not choice.setting:
        return None
    pair: list[Mapping[str, Any]] = [choice.setting, {}]
    sign = 1.0 if plan.maximize else -1.0
    if plan.metric not in OUTCOMES:
        windows = range(1, measures.windows, 2) or range(measures.windows)
        a, b = ([sign * error for error in errors] for errors in measures.errors(pair, windows))
        return compare_paired_values(a, b)
    chosen, trained = measures.rollouts(pair, "search", range(judged))
    if chosen is None or trained is None:
        return None
    first = [outcome_of(record, plan.metric) for record in chosen]
    second = [outcome_of(record, plan.metric) for record in trained]
    if plan.metric == "rollout/success_rate":
        return compare_paired_successes(*((first, second) if plan.maximize else (second, first)))
    return compare_paired_values([sign * value for value in first], [sign * value for value in second])


def _value(answer: Answer) -> Any:
    """What was measured.

    Raises:
        UserError: If the user can mend what is wrong.
        SweeperError: If the policy cannot be measured for another reason.
    """
    if not answer.problem:
        return answer.value
    text = f"{answer.task.candidate.label}: {answer.problem}"
    raise UserError(text) if answer.reason in USERS_REASONS else SweeperError(text)
