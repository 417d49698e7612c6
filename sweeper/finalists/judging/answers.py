"""What a person answered about episodes on the real robot: appended to files of episodes, never changed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from sweeper.finalists.judging.session import JudgedPolicy, Session
from trainables.episodes import EpisodeFile, EpisodeRecord, Evaluated, Judged, read_answers

__all__ = ["LONGEST_TAG", "Answers", "Given", "Outcome", "Word", "kind_of_answer", "valid_answers"]

ENVIRONMENT = "real robot"

LONGEST_TAG = 80

Word = Literal["success", "failure", "score", "void"]

SHORT: dict[str, Word] = {"s": "success", "f": "failure", "v": "void"}


@dataclass(frozen=True)
class Outcome:
    """The outcome of an episode, as a person answered it.

    Attributes:
        word: The kind of answer. ``void``: the episode does not count and is repeated.
        score: From 0 to 1; 1 is success.
        tag: What went wrong, in a few words; may be empty.
    """

    word: Word
    score: float = 0.0
    tag: str = ""

    @staticmethod
    def of(word: str, score: str = "", tag: str = "") -> Outcome:
        """The outcome that was typed.

        Args:
            word: ``success``, ``failure``, ``score`` or ``void``.
            score: The number for ``score``; a comma is accepted as the decimal point.
            tag: A few words.

        Raises:
            ValueError: If it is none; the message contains what is allowed.
        """
        tag = " ".join(tag.split())
        if len(tag) > LONGEST_TAG:
            raise ValueError(f"The tag has {len(tag)} characters. At most {LONGEST_TAG} are allowed.")
        match word:
            case "success":
                return Outcome("success", 1.0, tag)
            case "failure":
                return Outcome("failure", 0.0, tag)
            case "void":
                return Outcome("void", 0.0, tag)
            case "score":
                return Outcome("score", _score(score), tag)
        raise ValueError(f"{word!r} is not an outcome. Allowed: success, failure, a score from 0 to 1, void.")

    def __str__(self) -> str:
        """In words."""
        text = f"score {self.score:g}" if self.word == "score" else self.word
        return f"{text} ({self.tag})" if self.tag else text


def kind_of_answer(typed: str) -> Word | None:
    """The kind of answer that a word or a number is, also in short; None if it is not an answer."""
    word = typed.lower()
    if word in SHORT:
        return SHORT[word]
    if word[:1].isdigit() or word[:1] in ("-", ".", ","):
        return "score"
    return next((known for known in SHORT.values() if known == word), None)


def _score(text: str) -> float:
    try:
        score = float(text.strip().replace(",", "."))
    except ValueError:
        score = -1.0
    if not 0.0 <= score <= 1.0:
        raise ValueError(f"The score is {text.strip()!r}. Allowed is a number from 0 to 1, e.g. 0.5.")
    return score


@dataclass(frozen=True)
class Given:
    """An answer that was given.

    Attributes:
        letter: The neutral name of the policy.
        start: The start of the episode, from 0.
        record: The record.
    """

    letter: str
    start: int
    record: EpisodeRecord

    @property
    def judged(self) -> Judged:
        """The answer itself."""
        assert self.record.judged is not None
        return self.record.judged

    @property
    def outcome(self) -> Outcome:
        """The outcome."""
        judged = self.judged
        return Outcome(judged.word, self.record.max_reward, judged.tag)  # type: ignore[arg-type]


class Answers:
    """The answers of a session. All of them are on the disk; this only remembers where.

    Args:
        session: The session.
    """

    def __init__(self, session: Session) -> None:
        self.session = session
        self._files = {policy.letter: self._file(policy) for policy in session.policies}

    def history(self) -> list[Given]:
        """All answers in the order in which they were given, with those that were corrected later."""
        found = []
        for letter, file in self._files.items():
            for record in read_answers(file.path) if file.path.is_file() else ():
                start = self.session.start(record.episode)
                if start is not None:
                    found.append(Given(letter, start, record))
        return sorted(found, key=lambda given: given.judged.answer)

    def add(self, letter: str, start: int, outcome: Outcome) -> Given:
        """Record an answer; it is on the disk when this returns. An earlier one for the episode is kept.

        Raises:
            OSError: If the disk does not take it.
        """
        return self._append(letter, start, outcome, None)

    def undo(self) -> Given | None:
        """Take back the last answer that was not taken back: the one before it counts again, if any.

        Returns:
            The answer that was taken back; None if there is none.

        Raises:
            OSError: If the disk does not take it.
        """
        history = self.history()
        undone = {given.judged.undoes for given in history}
        left = [
            given for given in history if given.judged.undoes is None and given.judged.answer not in undone
        ]
        if not left:
            return None
        last = left[-1]
        before = [given for given in left[:-1] if (given.letter, given.start) == (last.letter, last.start)]
        outcome = before[-1].outcome if before else Outcome("void", tag="undone")
        self._append(last.letter, last.start, outcome, last.judged.answer)
        return last

    def _append(self, letter: str, start: int, outcome: Outcome, undoes: int | None) -> Given:
        number = max((given.judged.answer for given in self.history()), default=0) + 1
        episode = self.session.episode(start)
        record = EpisodeRecord(
            episode=episode,
            seed=episode,
            success=outcome.score == 1.0,
            max_reward=outcome.score,
            sum_reward=outcome.score,
            length=0,
            chunk_ms=0.0,
            judged=Judged(number, round(time.time(), 3), outcome.word, outcome.tag, undoes),
        )
        self._files[letter].append([record])
        return Given(letter, start, record)

    def _file(self, policy: JudgedPolicy) -> EpisodeFile:
        evaluated = Evaluated("real", policy.step, policy.setting, ENVIRONMENT)
        return EpisodeFile(self.session.records(policy), evaluated)


def valid_answers(history: Sequence[Given]) -> dict[tuple[str, int], Given]:
    """The last answer for each episode, by letter and start, without void ones."""
    last = {(given.letter, given.start): given for given in history}
    return {key: given for key, given in last.items() if not given.judged.is_void}
