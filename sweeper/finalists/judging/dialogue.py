"""Asks for the outcomes of episodes in the terminal."""

from __future__ import annotations

from collections.abc import Callable

from sweeper.errors import UserError
from sweeper.finalists.judging.answers import Given, Outcome, kind_of_answer
from sweeper.finalists.judging.judging import Judging, Question, StaleError

__all__ = ["converse", "given_text"]

PROMPT = "outcome> "

END_PROMPT = "Enter to end> "

HELP = """\
  s [TAG]             success
  f [TAG]             failure, e.g. `f dropped it`
  0.5 [TAG]           a score from 0 to 1
  v [REASON]          void: the episode does not count and is repeated
  u                   undo the last answer
  c START POLICY ...  correct an earlier answer, e.g. `c 3 B f dropped it`
  l                   list the last answers
  q                   stop; the same command continues"""

LISTED = 12


def converse(judging: Judging, read: Callable[[str], str], say: Callable[[str], object]) -> bool:
    """Ask until the session has ended and the user agrees, or stops it.

    Args:
        judging: The session.
        read: Returns a line that the user typed after a prompt; raises EOFError at the end.
        say: Shows a line.

    Returns:
        Whether nothing is left to judge.
    """
    shown: Question | None = None
    first = True
    while True:
        question = judging.question()
        if first or question is None or shown is None or question.key != shown.key:
            for line in _introduction(judging, question, shown):
                say(line)
        shown, first = question, False
        try:
            typed = read(END_PROMPT if question is None else PROMPT).strip()
        except EOFError:
            say("")
            return question is None
        if typed.lower() in ("q", "quit", "exit") or (question is None and not typed):
            return question is None
        try:
            reply(judging, question, typed, say)
        except (ValueError, UserError, StaleError) as fault:
            say(str(fault))
        except OSError as error:
            say(f"The answer was not recorded: {error.strerror or error}. Make room, and answer again.")


def _introduction(judging: Judging, question: Question | None, before: Question | None) -> list[str]:
    if question is None:
        return ["", "The session has ended. u undoes the last answer, c corrects one, l lists them."]
    return question_lines(judging, question, before)


def reply(judging: Judging, question: Question | None, typed: str, say: Callable[[str], object]) -> None:
    """Do what the user typed.

    Args:
        judging: The session.
        question: The question that was shown; None if the session has ended.
        typed: What was typed.
        say: Shows a line.

    Raises:
        ValueError: If it is not understood.
        UserError: If an episode that is to be corrected has no answer.
        StaleError: If an answer was given elsewhere meanwhile.
    """
    word, _, rest = typed.partition(" ")
    key = judging.key() if question is None else question.key
    match word.lower():
        case "" | "?" | "h" | "help":
            say(HELP)
        case "l" | "list":
            for given in judging.history()[-LISTED:]:
                say(f"  {given_text(given)}")
        case "u" | "undo":
            undone = judging.undo(key)
            say("There is no answer to undo." if undone is None else f"Taken back: {given_text(undone)}.")
        case "c" | "correct":
            start, letter, outcome = _correction(judging, rest)
            given = judging.correct(key, letter, start, outcome)
            say(f"Corrected: {given_text(given)}.")
        case _:
            judging.answer(key, _outcome(typed))


def question_lines(judging: Judging, question: Question, before: Question | None = None) -> list[str]:
    """The lines that ask for an episode.

    Args:
        judging: The session.
        question: The question.
        before: The question before it; None if it is the first one of this process.
    """
    lines = [""]
    if before is None or before.start != question.start:
        lines.append(
            f"Start {question.start + 1} of up to {judging.options.episodes}: set up the scene. Every policy "
            "that is left meets the same one."
        )
    policies = f"{question.position} of {question.policies} from this start"
    again = ", again" if question.again else ""
    return [
        *lines,
        f"Policy {question.letter}{again} ({policies}). Reset the scene, run it, and answer (? for help).",
    ]


def given_text(given: Given) -> str:
    """An answer in words."""
    undoes = " (after an undo)" if given.judged.undoes is not None else ""
    return f"start {given.start + 1}, policy {given.letter}: {given.outcome}{undoes}"


def _outcome(typed: str) -> Outcome:
    word, _, tag = typed.partition(" ")
    kind = kind_of_answer(word)
    if kind is None:
        raise ValueError(f"{typed!r} is not an answer. Answers are:\n{HELP}")
    return Outcome.of(kind, word, tag)


def _correction(judging: Judging, typed: str) -> tuple[int, str, Outcome]:
    words = typed.split(maxsplit=2)
    usage = "A correction is: c START POLICY OUTCOME, e.g. `c 3 B f dropped it`."
    if len(words) < 3 or not words[0].isdigit():
        raise ValueError(f"{typed!r} is not a correction. {usage}")
    letter = words[1].upper()
    if letter not in judging.session.letters:
        raise ValueError(f"{words[1]!r} is not a policy: {', '.join(judging.session.letters)}. {usage}")
    return int(words[0]) - 1, letter, _outcome(words[2])
