"""Finalists that race: their episodes are played on a cluster, recorded, and decide who leaves."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from sweeper.errors import SweeperError
from sweeper.evidence.race import Race, RaceRule, RaceState, replay
from sweeper.finalists.candidates import Candidate
from sweeper.finalists.evaluators import Evaluators, Task
from sweeper.spec.sweep import CONFIRM_BLOCK, ConfirmSpec, Objective
from trainables.episodes import EpisodeFile, EpisodeRecord, Evaluated, outcome_of

__all__ = ["ConfirmOptions", "Finalist", "FinalistRace"]


@dataclass(frozen=True)
class ConfirmOptions:
    """What is asked of a confirmation.

    Attributes:
        episodes: Most episodes of each finalist, rounded down to whole blocks of 32.
        epsilon: It ends if the leader is at most this much worse than any other; 0 for never.
        delta: Probability of a wrong answer.
    """

    episodes: int = ConfirmSpec.episodes
    epsilon: float = 0.0
    delta: float = 0.05


@dataclass(frozen=True)
class Finalist:
    """A trial that is confirmed.

    Attributes:
        trial: Its number.
        members: Its policy, and those of the same configuration that were trained with other seeds.
        search: The value that the search had of it.
    """

    trial: int
    members: tuple[Candidate, ...]
    search: float


@dataclass
class FinalistRace:
    """A confirmation while it runs.

    Attributes:
        metric: What the finalists are compared by.
        options: What is asked.
        evaluators: Where episodes are played.
        bounds: The least and the largest outcome of an episode.
        progress: Receives a sentence after every block.
        finalists: Those that can be evaluated, by trial.
        files: The files of episodes of each, in the order of its policies.
        problems: Why others cannot be evaluated, or failed, in a sentence each.
        failed: Trials that failed on the way: they have the worst outcomes from then on.
    """

    metric: Objective
    options: ConfirmOptions
    evaluators: Evaluators
    bounds: tuple[float, float]
    progress: Callable[[str], object]
    finalists: dict[int, Finalist] = field(default_factory=dict)
    files: dict[int, list[EpisodeFile]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    failed: set[int] = field(default_factory=set)

    def open(self, wanted: Sequence[Finalist]) -> None:
        """Open every policy once; those that cannot be evaluated are left out, with the reason."""
        asked = [[Task(member, "describe") for member in one.members] for one in wanted]
        tasks = [task for each in asked for task in each]
        answers = {id(answer.task): answer for answer in self.evaluators.run(tasks)}
        for one, each in zip(wanted, asked, strict=True):
            mine = [answers[id(task)] for task in each]
            bad = next((answer.problem for answer in mine if answer.problem), "")
            if not bad and any(answer.value["environment"] is None for answer in mine):
                bad = "it was trained without an environment (rollout.env)."
            if bad:
                self.problems.append(f"trial {one.trial} cannot be evaluated: {bad}")
                continue
            self.finalists[one.trial] = one
            self.files[one.trial] = [
                EpisodeFile(
                    member.records or member.checkpoint / "episodes",
                    Evaluated("confirm", answer.value["step"], member.setting, answer.value["environment"]),
                )
                for member, answer in zip(one.members, mine, strict=True)
            ]
        fewest = min(2, len(wanted))
        if len(self.finalists) < fewest:
            raise SweeperError(
                f"{len(self.finalists)} of {len(wanted)} finalists can be evaluated:\n"
                + "\n".join(self.problems)
            )

    @property
    def rule(self) -> RaceRule:
        """When a finalist leaves, and when the confirmation ends."""
        block = min(CONFIRM_BLOCK, self.options.episodes)
        return RaceRule(
            budget=self.options.episodes,
            block=block,
            delta=self.options.delta,
            epsilon=self.options.epsilon,
            bounds=self.bounds,
        )

    def run(self) -> RaceState:
        """Play blocks until the race has ended; what was played before is not played again."""
        if len(self.finalists) == 1:
            self._play(list(self.finalists), range(0, self.most_episodes))
            return RaceState.DECIDED
        race = self.race()
        while block := race.next_block:
            # With more machines than finalists, episodes of later blocks are played at the same time.
            tasks = sum(len(self.finalists[arm].members) for arm in race.remaining)
            ahead = max(1, self.evaluators.count // max(1, tasks))
            stop = min(block.stop + (ahead - 1) * self.rule.block, self.most_episodes)
            self._play(list(race.remaining), range(block.start, stop))
            before = race
            race = self.race()
            if race.episodes == before.episodes:
                break  # every finalist that is left has failed
            self.progress(self._standing(race))
        return race.state

    def race(self) -> Race[int]:
        """The race that the episodes so far give."""
        return replay(list(self.finalists), {arm: self.outcomes(arm) for arm in self.finalists}, self.rule)

    @property
    def most_episodes(self) -> int:
        """The most episodes of a finalist: whole blocks."""
        return ConfirmSpec(episodes=self.options.episodes).most_episodes

    def _play(self, arms: Sequence[int], episodes: range) -> None:
        """Play the missing ones of these episodes with every policy of these finalists."""
        tasks: list[Task] = []
        owners: dict[int, tuple[int, EpisodeFile]] = {}
        for arm in arms:
            for member, file in zip(self.finalists[arm].members, self.files[arm], strict=True):
                known = {record.episode for record in file.records()}
                missing = [episode for episode in episodes if episode not in known]
                for start in range(0, len(missing), CONFIRM_BLOCK):
                    task = Task(member, "rollout", tuple(missing[start : start + CONFIRM_BLOCK]), "confirm")
                    owners[id(task)] = (arm, file)
                    tasks.append(task)
        for answer in self.evaluators.run(tasks):
            arm, file = owners[id(answer.task)]
            if not answer.problem:
                file.append(answer.records)
            elif arm not in self.failed:
                self.failed.add(arm)
                self.problems.append(f"trial {arm} failed: {answer.problem}")

    def outcomes(self, arm: int) -> dict[int, float]:
        """Its outcomes by episode, the larger the better: of several seeds the mean."""
        by_member = [
            {record.episode: outcome_of(record, self.metric.name) for record in file.records()}
            for file in self.files[arm]
        ]
        shared = set.intersection(*(set(found) for found in by_member))
        low, high = self.bounds
        outcomes = {episode: statistics.fmean(found[episode] for found in by_member) for episode in shared}
        if self.metric.goal == "minimize":
            outcomes = {episode: low + high - value for episode, value in outcomes.items()}
        if arm in self.failed:
            # It has the worst outcomes from now on, and leaves.
            outcomes |= {episode: low for episode in range(self.most_episodes) if episode not in outcomes}
        return outcomes

    def records(self, arm: int, episodes: int) -> list[list[EpisodeRecord]]:
        """The episodes that count, of each of its policies."""
        return [
            [record for record in file.records() if record.episode < episodes] for file in self.files[arm]
        ]

    def _standing(self, race: Race[int]) -> str:
        leader = race.leader
        interval = race.interval(leader)
        low, high = self.turned(interval.low, interval.high)
        mean = self.turned(statistics.fmean(race.outcomes(leader)))[0]
        return (
            f"{race.episodes} of up to {self.most_episodes} episodes: trial {leader} leads with "
            f"{mean:.3f} [{low:.3f}, {high:.3f}], {len(race.remaining)} of {len(race.arms)} undecided"
        )

    def turned(self, *values: float) -> tuple[float, ...]:
        """Outcomes in the metric's own direction, in ascending order."""
        low, high = self.bounds
        turned = [low + high - value for value in values] if self.metric.goal == "minimize" else values
        return tuple(sorted(turned))
