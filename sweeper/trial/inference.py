"""Choose the inference setting of a trained policy: settings race on the same starts, and one is judged.

Starts that choose are not the starts that judge: settings are compared on episodes of the purpose ``choice``,
and the chosen one is then measured on the episodes by which the search judges all trials. So its value is not
the luckiest one of many, and trials stay comparable.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from sweeper.evidence.race import Race, RaceRule
from trainables.episodes import OUTCOMES, EpisodeFile, EpisodeRecord, Evaluated, Purpose, outcome_of
from trainables.interface import Fault, OpenPolicy, TrainableError, silent

__all__ = [
    "Choice",
    "InferencePlan",
    "Measures",
    "NoSettingError",
    "PolicyMeasures",
    "choose_setting",
]

BLOCK = 32
"""Episodes between two decisions: as many as one batch of predictions has on a CPU."""
LATENCY, RATE = "eval/chunk_latency_ms", "eval/action_rate_hz"

State = Literal["chosen", "left", "out", "too slow", "impossible", "failed"]


class NoSettingError(Exception):
    """No setting can be chosen; the message says why and what to do."""


@dataclass(frozen=True)
class InferencePlan:
    """How the inference setting of a policy is chosen.

    Attributes:
        settings: The settings to examine; the one of the training takes part in any case.
        metric: What they are compared by: a metric of rollouts, or ``eval/action_mse``.
        maximize: Whether larger values are better.
        episodes: Most episodes of a setting.
        limits: Bounds that a setting must keep: the largest latency, the smallest rate.
        reward_range: The least and the largest outcome of an episode.
        delta: Probability that a setting leaves although it is the best.
    """

    settings: tuple[Mapping[str, Any], ...]
    metric: str
    maximize: bool
    episodes: int = 100
    limits: Mapping[str, float] = field(default_factory=dict)
    reward_range: tuple[float, float] = (0.0, 1.0)
    delta: float = 0.05


@dataclass(frozen=True)
class Choice:
    """The setting that was chosen for a policy.

    Attributes:
        setting: Fields whose value differs from the one of the training.
        metrics: Its metrics on the episodes that judge trials, and its speed.
        untuned: The same of the setting of the training.
        tried: A mapping for each setting that was examined: ``setting``, ``state``, ``latency_ms``,
            ``episodes``, ``value`` and whether it is on the ``front`` of value against latency.
    """

    setting: dict[str, Any]
    metrics: dict[str, float]
    untuned: dict[str, float]
    tried: list[dict[str, Any]]


class Measures(Protocol):
    """How settings of one policy are measured: here one after the other, or on a cluster at once."""

    trained: Mapping[str, Any]
    """Every inference field with its value in the training."""

    @property
    def windows(self) -> int:
        """Held-out moments that can be asked for."""
        ...

    def faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        """Say what is wrong with a setting for this policy."""
        ...

    def speeds(self, settings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
        """The speed of each setting, as metrics."""
        ...

    def rollouts(
        self, settings: Sequence[Mapping[str, Any]], purpose: Purpose, episodes: range
    ) -> list[list[EpisodeRecord] | None]:
        """The same episodes with each setting; None if the policy fails with a setting."""
        ...

    def errors(self, settings: Sequence[Mapping[str, Any]], windows: Sequence[int]) -> list[Sequence[float]]:
        """The action errors at the same held-out moments with each setting."""
        ...

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> Mapping[str, float]:
        """Average episodes into metrics."""
        ...


class PolicyMeasures:
    """Measures an open policy in this process, and keeps its episodes beside the trial.

    Episodes that were recorded before are not run again: a process that was killed continues.

    Args:
        policy: The policy.
        records: Folder of its episode files.
    """

    def __init__(self, policy: OpenPolicy, records: Path) -> None:
        self.trained = policy.trained_setting
        self._policy = policy
        self._records = records

    @property
    def windows(self) -> int:
        """Held-out moments that can be asked for."""
        return self._policy.windows

    def faults(self, setting: Mapping[str, Any]) -> list[Fault]:
        """Say what is wrong with a setting for this policy."""
        return self._policy.setting_faults(setting)

    def speeds(self, settings: Sequence[Mapping[str, Any]]) -> list[Mapping[str, float]]:
        """The speed of each setting, as metrics."""
        return [self._policy.speed(setting) for setting in settings]

    def rollouts(
        self, settings: Sequence[Mapping[str, Any]], purpose: Purpose, episodes: range
    ) -> list[list[EpisodeRecord] | None]:
        """The same episodes with each setting; None if its actions are not finite."""
        return [self._rollout(setting, purpose, episodes) for setting in settings]

    def _rollout(
        self, setting: Mapping[str, Any], purpose: Purpose, episodes: range
    ) -> list[EpisodeRecord] | None:
        evaluated = Evaluated(purpose, self._policy.step, setting, self._policy.environment or "")
        file = EpisodeFile(self._records, evaluated)
        known = {record.episode: record for record in file.records()}
        missing = [episode for episode in episodes if episode not in known]
        if missing:
            try:
                found = self._policy.rollout(setting, purpose, missing)
            except TrainableError as error:
                if error.reason != "diverged":
                    raise
                return None
            file.append(found)
            known |= {record.episode: record for record in found}
        return [known[episode] for episode in episodes]

    def errors(self, settings: Sequence[Mapping[str, Any]], windows: Sequence[int]) -> list[Sequence[float]]:
        """The action errors at the same held-out moments with each setting."""
        return [self._policy.action_errors(setting, windows) for setting in settings]

    def metrics_of(self, records: Sequence[EpisodeRecord]) -> Mapping[str, float]:
        """Average episodes into metrics."""
        return self._policy.metrics_of(records)


@dataclass
class _Candidate:
    """A setting, and what is known of it."""

    setting: dict[str, Any]
    speed: Mapping[str, float] = field(default_factory=dict)
    state: State = "left"
    episodes: int = 0
    value: float | None = None

    def row(self, front: bool) -> dict[str, Any]:
        """What is recorded of it."""
        return {
            "setting": self.setting,
            "state": self.state,
            "latency_ms": None if LATENCY not in self.speed else round(self.speed[LATENCY], 3),
            "episodes": self.episodes,
            "value": self.value,
            "front": front,
        }


def choose_setting(measures: Measures, plan: InferencePlan, judged: int, progress: Any = silent) -> Choice:
    """Choose the inference setting of a policy.

    Args:
        measures: Measures the policy.
        plan: What is examined, and how.
        judged: Episodes on which the chosen setting is judged: as many as judge every trial.
        progress: Receives a sentence before everything that takes long.

    Raises:
        NoSettingError: If no setting is possible or keeps the limits, or an outcome is out of range.
    """
    candidates = _candidates(measures, plan)
    possible = [one for one in candidates if one.state != "impossible"]
    if not possible:
        raise NoSettingError("no setting is possible with this policy.")
    progress(f"timing {len(possible)} inference settings")
    for one, speed in zip(possible, measures.speeds([one.setting for one in possible]), strict=True):
        one.speed = speed
    kept = _within_limits(possible, plan.limits)
    # The faster one of equals is the better one.
    kept.sort(key=lambda one: one.speed[LATENCY])
    by_errors = plan.metric not in OUTCOMES
    chosen = _least_error(measures, kept) if by_errors else _race(measures, plan, kept, progress)
    chosen.state = "chosen"
    progress("judging the chosen inference setting")
    trained: dict[str, Any] = {}
    judge = _judge_errors if by_errors else _judge_episodes
    metrics, untuned = judge(measures, plan, [chosen.setting, trained], judged)
    if not metrics:
        raise NoSettingError(f"the policy's actions are not finite with {chosen.setting or 'its setting'}.")
    metrics |= chosen.speed
    untuned |= next(one.speed for one in candidates if not one.setting)
    front = _front(kept, plan.maximize)
    rows = [one.row(one in front) for one in candidates]
    return Choice(chosen.setting, metrics, untuned, rows)


def _candidates(measures: Measures, plan: InferencePlan) -> list[_Candidate]:
    """The settings without what they share with the training, each once; that of the training first."""
    found: list[_Candidate] = [_Candidate({})]
    for setting in plan.settings:
        changed = {name: value for name, value in setting.items() if measures.trained.get(name) != value}
        if all(one.setting != changed for one in found):
            state: State = "impossible" if measures.faults(changed) else "left"
            found.append(_Candidate(changed, state=state))
    return found


def _within_limits(candidates: Sequence[_Candidate], limits: Mapping[str, float]) -> list[_Candidate]:
    for one in candidates:
        too_slow = one.speed[LATENCY] > limits.get(LATENCY, float("inf"))
        if too_slow or one.speed[RATE] < limits.get(RATE, 0.0):
            one.state = "too slow"
    kept = [one for one in candidates if one.state == "left"]
    if kept:
        return kept
    fastest = min(candidates, key=lambda one: one.speed[LATENCY])
    listed = ", ".join(f"{name} {bound:g}" for name, bound in limits.items())
    raise NoSettingError(
        f"none of {len(candidates)} settings keeps the limits ({listed}). The fastest, "
        f"{fastest.setting or 'that of the training'}, takes {fastest.speed[LATENCY]:.1f} ms for a chunk, "
        f"{fastest.speed[RATE]:.1f} actions per second. Allow fewer denoising steps, or raise the limits."
    )


def _race(measures: Measures, plan: InferencePlan, kept: Sequence[_Candidate], progress: Any) -> _Candidate:
    """Race the settings in blocks of episodes; the one with the best mean of those that are left."""
    low, high = plan.reward_range if plan.metric != "rollout/success_rate" else (0.0, 1.0)
    block = min(BLOCK, plan.episodes)
    rule = RaceRule(budget=plan.episodes, block=block, delta=plan.delta, bounds=(low, high))
    if len(kept) == 1:
        return kept[0]
    race = Race(range(len(kept)), rule)
    failed: set[int] = set()
    while episodes := race.next_block:
        left = sorted(race.remaining)
        progress(f"racing {len(left)} inference settings: episodes {episodes.start} to {episodes.stop - 1}")
        played = measures.rollouts([kept[arm].setting for arm in left], "choice", episodes)
        # A setting that fails has the worst outcomes, and leaves.
        outcomes = {
            arm: [low] * len(episodes)
            if records is None
            else [_directed(outcome_of(record, plan.metric), plan) for record in records]
            for arm, records in zip(left, played, strict=True)
        }
        failed |= {arm for arm, records in zip(left, played, strict=True) if records is None}
        try:
            race.add_block(outcomes)
        except ValueError as error:
            raise NoSettingError(
                f"an episode is worth {error} Set inference.reward_range to the least and the largest "
                f"{plan.metric.rpartition('/')[2]} of an episode; it is [{low:g}, {high:g}]."
            ) from error
    for arm, one in enumerate(kept):
        found = race.outcomes(arm)
        one.episodes = len(found)
        one.value = _directed(statistics.fmean(found), plan)
        one.state = "failed" if arm in failed else "left" if arm in race.remaining else "out"
    sound = [arm for arm in race.remaining if arm not in failed]
    if not sound:
        raise NoSettingError("the policy's actions are not finite with any of the settings.")
    return kept[sound[0]]


def _directed(outcome: float, plan: InferencePlan) -> float:
    """An outcome so that larger is better, within the same bounds; the same again turns it back."""
    low, high = plan.reward_range if plan.metric != "rollout/success_rate" else (0.0, 1.0)
    return outcome if plan.maximize else low + high - outcome


def _least_error(measures: Measures, kept: Sequence[_Candidate]) -> _Candidate:
    """The setting with the least error at every other held-out moment; the rest of them judges."""
    choosing = range(0, measures.windows, 2)
    if not choosing:
        raise NoSettingError("no episode is held out, and there is no environment to compare settings in.")
    found = measures.errors([one.setting for one in kept], choosing)
    for one, errors in zip(kept, found, strict=True):
        one.episodes, one.value = len(errors), statistics.fmean(errors)
    return min(kept, key=lambda one: one.value or 0.0)


def _judge_errors(
    measures: Measures, plan: InferencePlan, settings: Sequence[Mapping[str, Any]], _judged: int
) -> list[dict[str, float]]:
    judging = range(1, measures.windows, 2) or range(measures.windows)
    return [{plan.metric: statistics.fmean(errors)} for errors in measures.errors(settings, judging)]


def _judge_episodes(
    measures: Measures, _plan: InferencePlan, settings: Sequence[Mapping[str, Any]], judged: int
) -> list[dict[str, float]]:
    played = measures.rollouts(settings, "search", range(judged))
    return [{} if records is None else dict(measures.metrics_of(records)) for records in played]


def _front(kept: Sequence[_Candidate], maximize: bool) -> list[_Candidate]:
    """Settings that no other one beats in value and latency together; those that left the race are not."""
    left = [one for one in kept if one.state in ("left", "chosen") and one.value is not None]
    sign = 1.0 if maximize else -1.0
    front: list[_Candidate] = []
    for one in sorted(left, key=lambda one: (one.speed[LATENCY], -sign * (one.value or 0.0))):
        if not front or sign * (one.value or 0.0) > sign * (front[-1].value or 0.0):
            front.append(one)
    return front
