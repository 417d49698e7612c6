"""Which episode on the real robot is next, and what the answers so far say.

All that decides is in the files of episodes: the race is a function of them. So a session that was killed
continues with the same question, and a correction has the effect that the right answer would have had.
"""

from __future__ import annotations

import statistics
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from sweeper.errors import SweeperError, UserError
from sweeper.evidence.anytime import anytime_interval
from sweeper.evidence.probability_best import best_mean_probabilities
from sweeper.evidence.race import Race, RaceRule, RaceState, replay
from sweeper.finalists.judging.answers import Answers, Given, Outcome, valid_answers
from sweeper.finalists.judging.session import Session
from sweeper.text import ALONE, policy_words

__all__ = ["JudgeOptions", "Judgement", "Judging", "Question", "StaleError"]

BOUNDS = (0.0, 1.0)

FEWEST = 5
"""Starts from which on further ones are planned and P(best) is stated: fewer say nothing about that."""


class StaleError(SweeperError):
    """An answer to a question that is not the present one, e.g. because a button was pressed twice."""


@dataclass(frozen=True)
class JudgeOptions:
    """What is asked of a session.

    Attributes:
        episodes: Most starts, each of which every policy that is left meets once.
        epsilon: It ends if the leader is at most this much worse than any other; 0 for never.
        delta: Probability of a wrong answer.
    """

    episodes: int = 30
    epsilon: float = 0.0
    delta: float = 0.05


@dataclass(frozen=True)
class Question:
    """The next episode.

    Attributes:
        key: Identifies the question: an answer to another one is refused.
        letter: The neutral name of the policy.
        start: The start, from 0.
        position: The place of the episode among those of its start, from 1.
        policies: How many policies meet this start.
        again: Whether it is repeated, because it was void.
    """

    key: str
    letter: str
    start: int
    position: int
    policies: int
    again: bool


@dataclass(frozen=True)
class Judgement:
    """What came of a session.

    Attributes:
        found: A mapping for each policy, best first, as the journal has it.
        verdict: The answer in a sentence or two.
        complete: Whether nothing is left to do.
        starts: Starts that every policy that was left has met.
        further: Further starts that would decide it if they were like those so far; 0 if it is decided, None
            if no useful number would.
        seed: Decides the neutral names and the order.
        session: Number of the session.
    """

    found: list[dict[str, Any]]
    verdict: str
    complete: bool
    starts: int
    further: int | None
    seed: int
    session: int


@dataclass
class Judging:
    """A session that runs. The terminal and the web page may use it at the same time.

    Attributes:
        session: The session.
        options: What is asked.
    """

    session: Session
    options: JudgeOptions
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def __post_init__(self) -> None:
        if self.options.epsilon >= 1.0:
            raise UserError(
                f"--epsilon {self.options.epsilon:g}: scores are from 0 to 1: it must be below 1, e.g. 0.1."
            )
        self._answers = Answers(self.session)

    def history(self) -> list[Given]:
        """All answers in the order in which they were given, with those that were corrected later."""
        with self._lock:
            return self._answers.history()

    def question(self) -> Question | None:
        """The next episode; None if the session has ended."""
        with self._lock:
            history = self.history()
            valid = valid_answers(history)
            found = self._next(valid)
            if found is None:
                return None
            start, letter, left = found
            again = any((given.letter, given.start) == (letter, start) for given in history)
            return Question(self._key(history), letter, start, left.index(letter) + 1, len(left), again)

    def answer(self, key: str, outcome: Outcome) -> Given:
        """Answer the present question.

        Args:
            key: The key of the question that is answered.
            outcome: The outcome of the episode.

        Raises:
            StaleError: If it is not the present question.
            OSError: If the disk does not take the answer.
        """
        with self._lock:
            question = self.question()
            if question is None or question.key != key:
                raise StaleError("This answer belongs to an earlier question, and was not recorded.")
            return self._answers.add(question.letter, question.start, outcome)

    def correct(self, key: str, letter: str, start: int, outcome: Outcome) -> Given:
        """Correct an earlier answer; the first one is kept.

        Args:
            key: What `key` returned when the correction was begun.
            letter: The neutral name of the policy.
            start: The start of the episode, from 0.
            outcome: What it should have been.

        Raises:
            StaleError: If another answer was given since.
            UserError: If the episode has no answer.
            OSError: If the disk does not take the answer.
        """
        with self._lock:
            history = self.history()
            if self._key(history) != key:
                raise StaleError("Another answer was given meanwhile. The correction was not recorded.")
            if not any((given.letter, given.start) == (letter, start) for given in history):
                raise UserError(
                    f"Start {start + 1} with policy {letter} has no answer yet: there is nothing to correct."
                )
            return self._answers.add(letter, start, outcome)

    def enter(self, letter: str, start: int, outcome: Outcome) -> Given:
        """Record the outcome of an episode that was judged elsewhere, whichever question is the present one.

        Args:
            letter: The neutral name of the policy.
            start: The start of the episode, from 0.
            outcome: The outcome of the episode; an earlier one is kept.

        Raises:
            OSError: If the disk does not take it.
        """
        with self._lock:
            return self._answers.add(letter, start, outcome)

    def undo(self, key: str) -> Given | None:
        """Take back the last answer.

        Args:
            key: What `key` returned when this was asked for.

        Returns:
            The answer that was taken back; None if there is none.

        Raises:
            StaleError: If another answer was given since.
            OSError: If the disk does not take it.
        """
        with self._lock:
            if self._key(self.history()) != key:
                raise StaleError("Another answer was given meanwhile. Nothing was taken back.")
            return self._answers.undo()

    def key(self) -> str:
        """Identifies the present state: it differs after every answer."""
        return self._key(self.history())

    def _key(self, history: list[Given]) -> str:
        return f"{self.session.number}-{len(history)}"

    def left(self) -> tuple[str, ...]:
        """The neutral names of the policies that have not left, in alphabetical order."""
        race = self._race(valid_answers(self.history()))
        return self.session.letters if race is None else tuple(sorted(race.remaining))

    def _next(self, valid: dict[tuple[str, int], Given]) -> tuple[int, str, list[str]] | None:
        """The start and the policy of the next episode, and who meets that start."""
        race = self._race(valid)
        starts = range(self.options.episodes) if race is None else race.next_block
        for start in starts:
            left = [name for name in self.session.order(start) if race is None or name in race.remaining]
            for letter in left:
                if (letter, start) not in valid:
                    return start, letter, left
        return None

    def _race(self, valid: dict[tuple[str, int], Given]) -> Race[str] | None:
        """The race that the answers give; None for a policy alone."""
        if len(self.session.policies) == 1:
            return None
        rule = RaceRule(self.options.episodes, 1, self.options.delta, self.options.epsilon, BOUNDS)
        outcomes = {
            letter: {
                start: given.record.max_reward for (name, start), given in valid.items() if name == letter
            }
            for letter in self.session.letters
        }
        return replay(self.session.letters, outcomes, rule)

    # The result

    def result(self) -> Judgement | None:
        """What the answers so far say; None if no start was met by every policy yet."""
        history = self.history()
        valid = valid_answers(history)
        race = self._race(valid)
        if race is None:
            return self._alone(history, valid)
        if not race.episodes:
            return None
        left = list(race.remaining)
        out = [departure.arm for departure in reversed(race.departures)]
        chances = best_mean_probabilities([race.outcomes(arm) for arm in left], paired=True).tolist()
        by_letter = dict(zip(left, chances, strict=True))
        found = []
        for letter in [*left, *out]:
            interval = race.interval(letter)
            state = "out" if letter in out else "left" if len(left) > 1 else "best"
            row = self._row(letter, len(race.outcomes(letter)), history, valid)
            row["metrics"] |= {"score_low": interval.low, "score_high": interval.high}
            chance = {} if race.episodes < FEWEST else {"p_best": by_letter.get(letter, 0.0)}
            found.append({**row, **chance, "state": state})
        ended = race.state is not RaceState.RACING
        further = None if race.episodes < FEWEST else race.further_episodes()
        return Judgement(
            found,
            self._verdict(race, further),
            ended,
            race.episodes,
            further,
            self.session.seed,
            self.session.number,
        )

    def _row(
        self, letter: str, starts: int, history: list[Given], valid: dict[tuple[str, int], Given]
    ) -> dict[str, Any]:
        policy = self.session.policy(letter)
        counted = [valid[letter, start].record for start in range(starts)]
        mine = [given for given in history if given.letter == letter]
        tags = Counter(
            record.judged.tag for record in counted if record.judged is not None and record.judged.tag
        )
        return {
            "trial": policy.trial,
            **({"policy": policy.named} if policy.trial is None else {}),
            "letter": letter,
            "setting": dict(policy.setting),
            "metrics": {
                "score": statistics.fmean(record.max_reward for record in counted),
                "success_rate": statistics.fmean(record.success for record in counted),
                "episodes": float(starts),
                "void": float(sum(one.judged.is_void and one.judged.undoes is None for one in mine)),
            },
            "tags": dict(tags.most_common()),
        }

    def _alone(self, history: list[Given], valid: dict[tuple[str, int], Given]) -> Judgement | None:
        (policy,) = self.session.policies
        starts = 0
        while (policy.letter, starts) in valid and starts < self.options.episodes:
            starts += 1
        if not starts:
            return None
        row = self._row(policy.letter, starts, history, valid)
        interval = anytime_interval(
            [valid[policy.letter, at].record.max_reward for at in range(starts)], BOUNDS
        )
        row["metrics"] |= {"score_low": interval.low, "score_high": interval.high}
        name = policy_words(policy.trial, policy.named, begin=True)
        verdict = f"{name} was judged alone, from {_starts(starts)}."
        found = [{**row, "state": ALONE}]
        complete = starts >= self.options.episodes
        return Judgement(found, verdict, complete, starts, 0, self.session.seed, self.session.number)

    def _verdict(self, race: Race[str], further: int | None) -> str:
        names = {policy.letter: policy.words for policy in self.session.policies}
        first = self.session.policy(race.leader)
        leader, after = policy_words(first.trial, first.named, begin=True), f"after {_starts(race.episodes)}"
        error = f"{self.options.delta:.0%}"
        if race.state is RaceState.DECIDED:
            sure = f"this is wrong with a probability of at most {error}"
            return f"{leader} is the best of {len(race.arms)} policies, {after} ({sure})."
        left = ", ".join(names[arm] for arm in race.remaining if arm != race.leader)
        if race.state is RaceState.WITHIN_EPSILON:
            return (
                f"{leader} is at most {self.options.epsilon:g} worse than the best, {after} (wrong "
                f"with a probability of at most {error}). Not told apart from it: {left}."
            )
        stopped = "It was stopped. " if race.state is RaceState.RACING else ""
        text = f"{stopped}{leader} leads {after}. Not told apart from it: {left}."
        if race.episodes < FEWEST:
            again = "The same command" if race.state is RaceState.RACING else "A larger --episodes"
            return f"{text} {again} continues."
        if further is None:
            return (
                f"{text} If further starts went like these, no useful number of them would decide it; "
                "--epsilon 0.1 ends once the leader is at most 0.1 worse than the best."
            )
        more = f"about {_starts(further, 'further ')} would decide it if they went like these"
        if race.state is RaceState.RACING and race.episodes + further <= self.options.episodes:
            return f"{text} {more[0].upper()}{more[1:]}. The same command continues."
        return f"{text} {more[0].upper()}{more[1:]}: --episodes {race.episodes + further} continues."


def _starts(count: int, kind: str = "") -> str:
    return f"{count} {kind}start{'' if count == 1 else 's'}"
