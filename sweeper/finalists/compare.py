"""Compare trained policies: trials of sweeps, or checkpoints.

They are compared on episodes that all of them played from the same starts. Recorded episodes suffice; further
ones are played on a cluster. Without a simulator their errors at held-out moments are compared.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sweeper.certainty.standing import interval_of
from sweeper.errors import SweeperError, UserError
from sweeper.evidence.comparison import Comparison
from sweeper.evidence.intervals import mean_interval
from sweeper.evidence.leader import holm
from sweeper.evidence.paired import compare_paired_successes, compare_paired_values
from sweeper.evidence.unpaired import compare_values
from sweeper.finalists.candidates import Candidate, find_candidate
from sweeper.finalists.evaluators import Evaluators, Task
from sweeper.layout import trial_folder
from sweeper.records.sweep_state import SweepState, find_sweep, read_sweep
from sweeper.spec.sweep import Goal, Objective
from trainables import registry
from trainables.episodes import (
    EPISODES,
    OUTCOMES,
    EpisodeFile,
    EpisodeRecord,
    Evaluated,
    Purpose,
    last_episodes,
    outcome_of,
)

__all__ = [
    "Contender",
    "Pair",
    "PolicyComparison",
    "compare_errors",
    "compare_recorded",
    "differences",
    "find_contenders",
    "has_environment",
    "metric_of",
    "play",
]

SUCCESS = "rollout/success_rate"
ERROR = "eval/action_mse"
BLOCK = 32
"""Episodes of a task: as many as one batch of predictions has on a CPU."""
STARTS = (
    "rollout.env",
    "rollout.seed",
    "rollout.max_steps",
    "rollout.control",
    "rollout.latency_ms",
    "rollout.replan",
)
"""By convention the fields that decide what an episode with a number is, and its latency."""
DATA = ("dataset.", "eval.")
"""By convention the beginnings of the fields that decide what is held out, and how errors are measured."""
WINDOW = ("policy.horizon", "policy.n_obs_steps")
"""Fields of a policy that decide at which moments of an episode it can be compared."""
FRESH_FIRST: tuple[Purpose, ...] = ("confirm", "look", "search")
"""Episodes that were not used to choose a trial come first; those that chose a setting are not used."""

Outcomes = Mapping[tuple[Any, ...], float]


@dataclass(frozen=True)
class Contender:
    """A policy that is compared.

    Attributes:
        label: What it is called.
        candidate: The policy; None if its checkpoint was deleted.
        problem: Why there is no checkpoint.
        trainable: Name of its trainable.
        config: The configuration of its trial; empty for a checkpoint that was named by its path.
        setting: Its inference setting.
        records: Folder of its records of episodes; None for a checkpoint that was named by its path.
        objective: The first objective of its sweep; None likewise.
    """

    label: str
    candidate: Candidate | None
    problem: str
    trainable: str
    config: Mapping[str, Any] = field(default_factory=dict)
    setting: Mapping[str, Any] = field(default_factory=dict)
    records: Path | None = None
    objective: Objective | None = None

    @property
    def whole(self) -> dict[str, Any]:
        """Its configuration with the defaults of fields that it does not name, and its inference setting."""
        fields = registry.load(self.trainable).fields
        return {**{name: info.default for name, info in fields.items()}, **self.config, **self.setting}


@dataclass(frozen=True)
class Pair:
    """The first policy compared with another one.

    Attributes:
        a: Label of the first.
        b: Label of the other.
        difference: Of the metric, first minus other.
        interval: Of the difference.
        comparison: The comparison, of values turned so that larger is better.
        p_value: Adjusted for the number of comparisons.
    """

    a: str
    b: str
    difference: float
    interval: tuple[float, float]
    comparison: Comparison
    p_value: float


@dataclass(frozen=True)
class PolicyComparison:
    """What was found of several policies.

    Attributes:
        metric: What they are compared by.
        goal: Which direction is better.
        unit: What was counted: ``episodes`` or ``held-out moments``.
        purpose: Purpose of the episodes; empty for held-out moments.
        paired: Whether all were measured on the same episodes or moments.
        policies: A mapping for each: ``policy``, ``mean``, ``low``, ``high``, ``count``, ``setting``,
            and whether its configuration is known (``config_known``).
        pairs: The first with each of the others.
        differences: The fields that differ, with a value for each policy; None if unknown.
        notes: What limits the comparison, in a sentence each.
    """

    metric: str
    goal: Goal
    unit: str
    purpose: str
    paired: bool
    policies: list[dict[str, Any]]
    pairs: list[Pair]
    differences: Mapping[str, list[Any]]
    notes: tuple[str, ...] = ()


def find_contenders(named: Sequence[str], sweeps: Path) -> list[Contender]:
    """Find the policies that the user named.

    Raises:
        UserError: If there are fewer than two, one is named twice, or one does not exist.
    """
    if len(named) < 2:
        raise UserError("compare needs at least two policies, e.g. `sweeper compare NAME:0 NAME:3`.")
    found = [_contender(name, sweeps) for name in named]
    seen: dict[Any, str] = {}
    for one, name in zip(found, named, strict=True):
        checkpoint = None if one.candidate is None else one.candidate.checkpoint.resolve()
        key = one.records.resolve() if one.records is not None else checkpoint
        if key in seen:
            raise UserError(f"{seen[key]} and {name} are the same policy. Name another one.")
        seen[key] = name
    if len({one.label for one in found}) < len(found):
        found = [replace(one, label=name) for one, name in zip(found, named, strict=True)]
    return found


def _contender(named: str, sweeps: Path) -> Contender:
    try:
        candidate = find_candidate(named, sweeps)
    except UserError as error:
        name, _, number = named.rpartition(":")
        if not (name and number.isdigit()):
            raise
        sweep, trial = read_sweep(find_sweep(name, sweeps)), int(number)
        # Without a checkpoint its records still count.
        if trial not in sweep.trials or not (trial_folder(sweep.folder, trial) / EPISODES).is_dir():
            raise
        return _of_trial(sweep, trial, None, str(error))
    if candidate.records is None or candidate.trial is None:
        return Contender(named, candidate, "", candidate.trainable, setting=candidate.setting)
    sweep = read_sweep(candidate.records.parent.parent.parent)
    return _of_trial(sweep, candidate.trial, candidate, "")


def _of_trial(sweep: SweepState, number: int, candidate: Candidate | None, problem: str) -> Contender:
    trial = sweep.trials[number]
    setting = dict(trial.setting)
    return Contender(
        f"{sweep.name}:{number}",
        None if candidate is None else replace(candidate, setting=setting),
        problem,
        str(sweep.spec["trainable"]),
        trial.config,
        setting,
        trial_folder(sweep.folder, number) / EPISODES,
        sweep.objectives[0],
    )


def metric_of(contenders: Sequence[Contender], wanted: str | None = None) -> Objective:
    """What they are compared by: what was asked for, the first objective of episodes, or the success rate.

    Raises:
        UserError: If the metric that was asked for is not a mean of episodes.
    """
    if wanted is not None and wanted not in OUTCOMES:
        raise UserError(f"--metric {wanted}: not a mean of episodes. Allowed: {', '.join(OUTCOMES)}.")
    objectives = [one.objective for one in contenders if one.objective is not None]
    chosen = (one for one in objectives if one.name == wanted or (wanted is None and one.name in OUTCOMES))
    return next(chosen, Objective(wanted or SUCCESS, "maximize"))


def has_environment(contenders: Sequence[Contender], environment: str | None) -> bool | None:
    """Whether they can be rolled out; None if only the checkpoints know."""
    known = [one.whole.get("rollout.env") for one in contenders if "rollout.env" in one.whole and one.config]
    if environment is not None or any(known):
        return True
    return False if known else None


def differences(contenders: Sequence[Contender]) -> dict[str, list[Any]]:
    """The fields whose values differ, with a value for each policy; None if the configuration is unknown."""
    wholes = [one.whole if one.config else None for one in contenders]
    known = [whole for whole in wholes if whole is not None]
    names = dict.fromkeys(name for whole in known for name in whole)
    return {
        name: [None if whole is None else whole.get(name) for whole in wholes]
        for name in names
        if any(whole.get(name) != known[0].get(name) for whole in known)
    }


# Episodes


def compare_recorded(contenders: Sequence[Contender], metric: Objective) -> PolicyComparison | None:
    """Compare by recorded episodes that all of them played; None if there are none.

    Of episodes that were not used to choose a trial the purpose with most of them is taken, and otherwise
    those of the search.
    """
    options = []
    for purpose in FRESH_FIRST:
        found = [_recorded(one, purpose) for one in contenders]
        shared = set.intersection(*(set(records) for records in found))
        options.append((purpose != "search", len(shared), purpose, found))
    usable = [option for option in options if option[1]]
    if not usable:
        return None
    _, _, purpose, found = max(usable, key=lambda option: option[:2])
    return _of_episodes(contenders, metric, purpose, found)


Records = dict[tuple[Any, ...], EpisodeRecord]


def _recorded(one: Contender, purpose: Purpose) -> Records:
    read = None if one.records is None else last_episodes(one.records, purpose, one.setting)
    if read is None:
        return {}
    evaluated, records = read
    # The same start with another limit of steps, or under another latency, is another episode.
    how = tuple(one.whole.get(name) for name in STARTS if name not in ("rollout.env", "rollout.seed"))
    return {(evaluated.environment, how, record.seed): record for record in records}


def play(
    contenders: Sequence[Contender],
    metric: Objective,
    episodes: int,
    evaluators: Evaluators,
    environment: str | None = None,
    progress: Callable[[str], object] = str,
) -> PolicyComparison:
    """Compare by the first episodes of the purpose ``look``; those that are not recorded yet are played.

    The starts are those of no search, choice or confirmation, so looking at policies spoils none of these.

    Args:
        contenders: The policies.
        metric: What they are compared by.
        episodes: How many episodes of each.
        evaluators: Where they are played.
        environment: The simulator, in place of that of the training.
        progress: Receives a sentence now and then.

    Raises:
        UserError: If a policy has no checkpoint any more, or no environment.
        SweeperError: If a policy cannot be evaluated.
    """
    starts = _starts(contenders, environment)
    changed = [_changed(one, starts) for one in contenders]
    described = _described(changed, evaluators)
    files: list[EpisodeFile | None] = []
    found: list[dict[int, EpisodeRecord]] = []
    for one, answer in zip(changed, described, strict=True):
        if answer["environment"] is None:
            raise UserError(f"{one.label}: no environment is known (rollout.env). Name one with --env.")
        # Episodes with other values than those of the training are not the trial's own.
        own = one.records is not None and one.candidate is not None and not one.candidate.config
        evaluated = Evaluated("look", answer["step"], one.setting, answer["environment"])
        files.append(EpisodeFile(one.records, evaluated) if own and one.records is not None else None)
        known = [] if files[-1] is None else files[-1].records()
        found.append({record.episode: record for record in known if record.episode < episodes})
    tasks, owners = [], {}
    for place, one in enumerate(changed):
        missing = [episode for episode in range(episodes) if episode not in found[place]]
        for start in range(0, len(missing), BLOCK):
            assert one.candidate is not None
            task = Task(one.candidate, "rollout", tuple(missing[start : start + BLOCK]), "look")
            tasks.append(task)
            owners[id(task)] = place
    played = 0
    for reply in evaluators.run(tasks):
        place = owners[id(reply.task)]
        if reply.problem:
            raise SweeperError(f"{contenders[place].label} cannot be evaluated: {reply.problem}")
        file = files[place]
        if file is not None:
            file.append(reply.records)
        found[place] |= {record.episode: record for record in reply.records}
        played += len(reply.records)
        progress(f"{played} of {sum(len(task.numbers) for task in tasks)} episodes played")
    by_start: list[Records] = [
        {(answer["environment"], record.seed): record for record in records.values()}
        for answer, records in zip(described, found, strict=True)
    ]
    lost = [one.label for one, file in zip(contenders, files, strict=True) if file is None]
    notes = (
        [f"The episodes of {', '.join(lost)} are not kept: they are not those of a trial."] if lost else []
    )
    return _of_episodes(contenders, metric, "look", by_start, notes)


def _starts(contenders: Sequence[Contender], environment: str | None) -> dict[str, Any]:
    """The environment, seed and limit of steps of all: those of the first trial."""
    whole = next((one.whole for one in contenders if one.config), {})
    starts = {name: whole[name] for name in STARTS if whole.get(name) is not None}
    return starts if environment is None else {**starts, "rollout.env": environment}


def _changed(one: Contender, wanted: Mapping[str, Any]) -> Contender:
    """A policy that is evaluated with these values; those that it has already are not changed."""
    if one.candidate is None:
        raise UserError(f"{one.label} cannot be evaluated: {one.problem}")
    fields = registry.load(one.trainable).fields
    own = one.whole if one.config else {}
    config = {
        name: value
        for name, value in wanted.items()
        if name in fields and (name not in own or own[name] != value)
    }
    return replace(one, candidate=replace(one.candidate, config=config))


def _described(contenders: Sequence[Contender], evaluators: Evaluators) -> list[Mapping[str, Any]]:
    tasks = [Task(one.candidate, "describe") for one in contenders if one.candidate is not None]
    answers = {id(answer.task): answer for answer in evaluators.run(tasks)}
    found = [answers[id(task)] for task in tasks]
    for one, answer in zip(contenders, found, strict=True):
        if answer.problem:
            raise SweeperError(f"{one.label} cannot be evaluated: {answer.problem}")
    return [answer.value for answer in found]


def _of_episodes(
    contenders: Sequence[Contender],
    metric: Objective,
    purpose: Purpose,
    found: Sequence[Records],
    notes: Sequence[str] = (),
) -> PolicyComparison:
    shared = [start for start in found[0] if all(start in records for records in found)]
    if not shared:
        raise SweeperError("the policies played no episode from the same start.")
    values = [[outcome_of(records[start], metric.name) for start in shared] for records in found]
    notes = list(notes)
    if purpose == "search":
        notes.append(
            "These episodes ranked the trials, so the better value is a little too good. "
            "`--episodes N` plays fresh ones."
        )
    if purpose == "confirm":
        notes.append(
            "These are the episodes of a confirmation, which decided when to stop by looking at them."
        )
    return _result(contenders, metric, "episodes", purpose, values, True, notes)


# Held-out moments


def compare_errors(
    contenders: Sequence[Contender], evaluators: Evaluators, dataset: str | None = None
) -> PolicyComparison:
    """Compare the action errors at held-out moments.

    Args:
        contenders: The policies.
        evaluators: Where they are measured.
        dataset: The dataset's folder, in place of that of the training.

    Raises:
        UserError: If they have no held-out data, or not the same.
        SweeperError: If a policy cannot be evaluated.
    """
    whole = next((one.whole for one in contenders if one.config), {})
    data = {name: value for name, value in whole.items() if name.startswith(DATA) and value is not None}
    if dataset is not None:
        data["dataset.root"] = dataset
    for one in contenders:
        other = sorted(
            name for name in data if one.config and name in one.whole and one.whole[name] != data[name]
        )
        if other and dataset is None:
            raise UserError(
                f"{one.label} and {contenders[0].label} were not trained on or measured with the same data: "
                f"{', '.join(other)} differ. Their errors cannot be compared. Name a dataset that holds what "
                "none of them trained on: --dataset FOLDER."
            )
    changed = [_changed(one, data) for one in contenders]
    described = _described(changed, evaluators)
    counts = [int(answer["windows"]) for answer in described]
    for one, count in zip(contenders, counts, strict=True):
        if not count:
            raise UserError(
                f"{one.label}: neither an environment nor held-out episodes are known, so nothing can be "
                "compared. Name one with --env ID, or a dataset with --dataset FOLDER."
            )
    tasks = [
        Task(one.candidate, "errors", tuple(range(count)))
        for one, count in zip(changed, counts, strict=True)
        if one.candidate is not None
    ]
    answers = {id(answer.task): answer for answer in evaluators.run(tasks)}
    values = []
    for one, task in zip(contenders, tasks, strict=True):
        if answers[id(task)].problem:
            raise SweeperError(f"{one.label} cannot be evaluated: {answers[id(task)].problem}")
        values.append([float(error) for error in answers[id(task)].value])
    alike = all(
        one.config and all(one.whole.get(name) == whole.get(name) for name in WINDOW) for one in contenders
    )
    paired = alike and len(set(counts)) == 1
    notes = [
        "Errors at held-out moments were compared, not episodes: the policy with the smaller error does not "
        "always act better."
    ]
    if not paired:
        notes.append(
            "The held-out moments are not the same, because windows of the policies differ or are unknown "
            f"({', '.join(WINDOW)}). So they were not compared moment by moment."
        )
    return _result(contenders, Objective(ERROR, "minimize"), "held-out moments", "", values, paired, notes)


def _result(
    contenders: Sequence[Contender],
    metric: Objective,
    unit: str,
    purpose: str,
    values: Sequence[Sequence[float]],
    paired: bool,
    notes: Sequence[str],
) -> PolicyComparison:
    policies = []
    for one, found in zip(contenders, values, strict=True):
        low, high = _interval(found, metric.name)
        policies.append(
            {
                "policy": one.label,
                "mean": statistics.fmean(found),
                "low": low,
                "high": high,
                "count": len(found),
                "setting": dict(one.setting),
                "config_known": bool(one.config),
            }
        )
    made = [_comparison(values[0], other, metric, paired) for other in values[1:]]
    adjusted = holm([comparison.p_value for comparison in made]).tolist()
    sign = 1.0 if metric.goal == "maximize" else -1.0
    pairs = [
        Pair(
            contenders[0].label,
            one.label,
            sign * comparison.difference,
            _sorted(sign * comparison.interval.low, sign * comparison.interval.high),
            comparison,
            p_value,
        )
        for one, comparison, p_value in zip(contenders[1:], made, adjusted, strict=True)
    ]
    unknown = [one.label for one in contenders if not one.config]
    if unknown:
        notes = [*notes, f"The training's configuration of {', '.join(unknown)} is not known."]
    found_differences = differences(contenders)
    return PolicyComparison(
        metric.name, metric.goal, unit, purpose, paired, policies, pairs, found_differences, tuple(notes)
    )


def _interval(values: Sequence[float], metric: str) -> tuple[float | None, float | None]:
    if metric in OUTCOMES:
        return interval_of(values, metric)
    interval = mean_interval(values)
    return interval.low, interval.high


def _comparison(a: Sequence[float], b: Sequence[float], metric: Objective, paired: bool) -> Comparison:
    sign = 1.0 if metric.goal == "maximize" else -1.0
    if paired and metric.name == SUCCESS and sign > 0:
        return compare_paired_successes(a, b)
    first, second = [sign * value for value in a], [sign * value for value in b]
    return compare_paired_values(first, second) if paired else compare_values(first, second)


def _sorted(low: float, high: float) -> tuple[float, float]:
    return (min(low, high), max(low, high))
