"""The questions of a session as a sheet to fill in elsewhere, and the outcomes that it brings back.

A sheet is a CSV file with a row for each episode, in the order in which the policies are to run. A program
that judges may bring JSON instead: ``{"session": "pusht-quick/1", "episodes": [{"start": 1, "policy": "A",
"outcome": "success", "tag": ""}]}``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.finalists.judging.answers import Given, Outcome, kind_of_answer, valid_answers
from sweeper.finalists.judging.judging import Judging
from sweeper.finalists.judging.session import STARTS_PER_SESSION, Session, saved_session
from sweeper.text import counted

__all__ = ["Row", "Sheet", "enter_sheet", "read_sheet", "session_of", "sheet_text"]

COLUMNS = ("session", "start", "policy", "outcome", "tag")
DELIMITERS = ",;\t"
"""What separates the columns: programs for tables write what their language has."""
MOST_SHOWN = 8


@dataclass(frozen=True)
class Row:
    """The outcome of an episode.

    Attributes:
        where: Its place in the file, for messages.
        policy: The neutral name of the policy.
        start: The start, from 0.
        outcome: The outcome; None if the row is not filled in.
    """

    where: str
    policy: str
    start: int
    outcome: Outcome | None


@dataclass(frozen=True)
class Sheet:
    """A sheet that was read.

    Attributes:
        path: The file.
        session: The session that it belongs to: the name of its sweep and its number, e.g. ``pusht-quick/1``.
        rows: Its rows, in their order.
    """

    path: Path
    session: str
    rows: tuple[Row, ...]

    @property
    def starts(self) -> int:
        """How many starts it has."""
        return max(row.start for row in self.rows) + 1


def session_of(sheet: Sheet, folder: Path) -> Session:
    """The session of a sweep that a sheet belongs to.

    Args:
        sheet: The sheet.
        folder: The sweep's folder.

    Raises:
        UserError: If it is a session of another sweep, or there is none.
    """
    name, _, number = sheet.session.rpartition("/")
    if name != folder.name or not number.isdecimal():
        raise UserError(
            f"{sheet.path}: its session is {sheet.session!r}, which is not one of {folder.name}: "
            f"{folder.name}/1 is its first. Name the sweep that the sheet was written for."
        )
    return saved_session(folder, int(number))


def sheet_text(judging: Judging) -> str:
    """The sheet of a session: what was answered, and a row for each episode that is left.

    Args:
        judging: The session.
    """
    session, history, left = judging.session, judging.history(), judging.left()
    named = f"{session.folder.name}/{session.number}"
    valid = valid_answers(history)
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    for start in range(judging.options.episodes):
        for letter in session.order(start):
            given = [one.outcome for one in history if (one.letter, one.start) == (letter, start)]
            cells = [(_cell(outcome), outcome.tag) for outcome in given]
            if (letter, start) not in valid and letter in left:
                cells.append(("", ""))
            writer.writerows((named, start + 1, letter, *cell) for cell in cells)
    return file.getvalue()


def read_sheet(path: Path) -> Sheet:
    """Read a sheet.

    Raises:
        UserError: If it cannot be read, has no outcome, or a row is wrong. All faults are reported.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise UserError(f"{path} is not UTF-8. Save it as CSV in UTF-8.") from None
    found = _from_json(path, text) if path.suffix == ".json" else _from_csv(path, text)
    rows: list[Row] = []
    sessions: set[str] = set()
    faults: list[str] = []
    for where, cells in found:
        try:
            sessions.add(_text(cells, "session"))
            rows.append(_row(where, cells))
        except ValueError as fault:
            faults.append(f"{where}: {fault}")
    if len(sessions) > 1:
        faults.append(f"the rows belong to the sessions {', '.join(sorted(sessions))}. A sheet has one.")
    if faults:
        shown = faults[:MOST_SHOWN]
        more = [f"... and {len(faults) - len(shown)} more"] if len(faults) > len(shown) else []
        raise UserError("\n".join([f"{path}: nothing was recorded.", *shown, *more]))
    if not any(row.outcome for row in rows):
        raise UserError(f"{path}: no row has an outcome. Fill in the column outcome.")
    return Sheet(path, sessions.pop(), tuple(rows))


def enter_sheet(judging: Judging, sheet: Sheet) -> list[Given]:
    """Record the outcomes of a sheet that are new. The sheet counts: another outcome is a correction.

    Args:
        judging: The session.
        sheet: The sheet.

    Returns:
        What was recorded.

    Raises:
        UserError: If a policy is not in the session, or the disk does not take an outcome.
    """
    unknown = sorted({row.policy for row in sheet.rows} - set(judging.session.letters))
    if unknown:
        known = ", ".join(judging.session.letters)
        raise UserError(
            f"{sheet.path}: {unknown[0]!r} is not a policy of the session {sheet.session}, which has {known}."
        )
    entered: dict[tuple[str, int], list[Outcome]] = {}
    for row in sheet.rows:
        if row.outcome is not None:
            entered.setdefault((row.policy, row.start), []).append(row.outcome)
    known_outcomes: dict[tuple[str, int], list[Outcome]] = {}
    for given in judging.history():
        known_outcomes.setdefault((given.letter, given.start), []).append(given.outcome)
    recorded: list[Given] = []
    for (letter, start), outcomes in entered.items():
        for outcome in _new(known_outcomes.get((letter, start), []), outcomes):
            try:
                recorded.append(judging.enter(letter, start, outcome))
            except OSError as error:
                raise UserError(
                    f"{sheet.path}: after {counted(len(recorded), 'new outcome')} the disk took no more: "
                    f"{error.strerror or error}. Make room, and record the sheet again."
                ) from error
    return recorded


def _new(known: Sequence[Outcome], entered: Sequence[Outcome]) -> Sequence[Outcome]:
    """The outcomes of an episode to record, so that the last one that was entered counts."""
    if list(entered[: len(known)]) == list(known):
        return entered[len(known) :]
    return [] if known[-1] == entered[-1] else entered[-1:]


def _cell(outcome: Outcome) -> str:
    return repr(outcome.score) if outcome.word == "score" else outcome.word


# Reading


def _from_csv(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    head = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    titles = [title.strip().lower() for title in reader.fieldnames or ()]
    _check_columns(path, titles)
    reader.fieldnames = titles
    try:
        for cells in reader:
            if any(str(cell or "").strip() for cell in cells.values()):
                yield f"line {reader.line_num}", cells
    except csv.Error as error:
        raise UserError(f"{path}: line {reader.line_num} is not CSV: {error}.") from error


def _from_json(path: Path, text: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        whole = json.loads(text)
        session, episodes = whole["session"], whole["episodes"]
        listed = [{"session": session, **episode} for episode in episodes]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(
            f"{path} is not a sheet in JSON: {type(error).__name__}: {error}. Expected "
            '{"session": "NAME/1", "episodes": [{"start": 1, "policy": "A", "outcome": "success"}, ...]}.'
        ) from error
    for number, cells in enumerate(listed, start=1):
        yield f"episode {number}", cells


def _check_columns(path: Path, titles: Sequence[str]) -> None:
    missing = [name for name in COLUMNS[:-1] if name not in titles]
    if missing:
        raise UserError(
            f"{path}: the first line does not name {', '.join(missing)}. A sheet begins with the line "
            f"{','.join(COLUMNS)}; `sweeper judge NAME --bundles FOLDER` writes one."
        )


def _row(where: str, cells: Mapping[str, Any]) -> Row:
    start = _number(cells, "start")
    if not 1 <= start < STARTS_PER_SESSION:
        raise ValueError(f"the start is {start}. Allowed is 1 to {STARTS_PER_SESSION - 1}.")
    return Row(where, _text(cells, "policy").upper(), start - 1, _outcome(cells))


def _outcome(cells: Mapping[str, Any]) -> Outcome | None:
    typed, tag = _text(cells, "outcome"), _text(cells, "tag")
    if not typed:
        if tag:
            raise ValueError(f"there is a tag, {tag!r}, but no outcome.")
        return None
    kind = kind_of_answer(typed)
    return Outcome.of(typed if kind is None else kind, typed, tag)


def _number(cells: Mapping[str, Any], name: str) -> int:
    text = _text(cells, name)
    if not text.isdecimal():
        raise ValueError(f"the {name} is {text!r}. Expected a number.")
    return int(text)


def _text(cells: Mapping[str, Any], name: str) -> str:
    value = cells.get(name)
    return "" if value is None else str(value).strip()
