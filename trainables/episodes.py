"""Records of episodes: the unit of evidence. Standard library only.

Every evaluation of a policy in a simulator leaves one record per episode, in a file of the trial::

    trials/7/episodes/002400-search.jsonl            the evaluation of step 2,400 during training
    trials/7/episodes/002400-confirm-3fa9c1d2.jsonl  the confirmation, with an inference setting
    trials/7/episodes/002400-real.jsonl              episodes of a real robot, judged by a person

The first line says what was evaluated, each further line is one episode. Blocks of episodes are appended. An
episode that was recorded twice (a process was killed in between) counts once, and a line that a kill cut
off does not count. A line takes about 130 bytes, so 20 evaluations of 50 episodes take 130 kB.

A person who judged an episode may correct that later: the correction is a further line, and the first one
stays.

Seeds are divided by purpose and never mixed: a reported result comes from starts that were not used for any
choice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "EPISODES",
    "OUTCOMES",
    "PURPOSES",
    "EpisodeFile",
    "EpisodeRecord",
    "Evaluated",
    "Judged",
    "Purpose",
    "first_seed",
    "last_episodes",
    "outcome_of",
    "read_answers",
    "read_episodes",
    "setting_key",
]

Purpose = Literal["search", "choice", "confirm", "look", "real"]
"""The purposes of episodes: comparing trials in the search, choosing an inference setting, confirming
finalists, watching one policy, or comparing policies on a real robot, where a person judges them."""

PURPOSES: tuple[Purpose, ...] = ("search", "choice", "confirm", "look", "real")

EPISODES = "episodes"
"""Name of the folder with the records in a trial's folder."""

OUTCOMES = {
    "rollout/success_rate": "success",
    "rollout/avg_max_reward": "max_reward",
    "rollout/avg_sum_reward": "sum_reward",
}
"""The metrics that are means of episodes, and the field of a record that each is the mean of."""

SEEDS_PER_PURPOSE = 10_000_000
"""Seeds of one purpose: no number of episodes reaches those of the next. Environments take 32 bits."""


def first_seed(seed: int, purpose: Purpose) -> int:
    """The seed from which episode 0 of a purpose starts.

    Args:
        seed: The seed of the search's episodes (``rollout.seed``).
        purpose: Purpose of the episodes.
    """
    return seed + PURPOSES.index(purpose) * SEEDS_PER_PURPOSE


@dataclass(frozen=True)
class Judged:
    """The answer of a person who watched an episode.

    Attributes:
        answer: Its number among all answers of the session; a later one for the same episode corrects it.
        time: When it was given, in seconds since 1970.
        word: The kind of answer: ``success``, ``failure``, ``score`` or ``void``.
        tag: What went wrong, in the person's words; may be empty.
        undoes: The number of the answer that this one takes back by repeating the one before it, or None.
    """

    answer: int
    time: float
    word: str
    tag: str = ""
    undoes: int | None = None

    @property
    def is_void(self) -> bool:
        """Whether the episode does not count and is to be repeated."""
        return self.word == "void"

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> Judged:
        """Read an answer.

        Raises:
            KeyError: If a value is missing.
            ValueError: If a value is illegal.
            TypeError: If a value has the wrong type.
        """
        undoes = values.get("undoes")
        return Judged(
            answer=int(values["answer"]),
            time=float(values["time"]),
            word=str(values["word"]),
            tag=str(values.get("tag", "")),
            undoes=None if undoes is None else int(undoes),
        )


@dataclass(frozen=True)
class EpisodeRecord:
    """The result of one episode.

    Attributes:
        episode: Number of the episode among those of its purpose.
        seed: The environment's seed from which it started.
        success: Whether the task was solved at some step.
        max_reward: Largest reward.
        sum_reward: Sum of the rewards.
        length: Control steps.
        chunk_ms: Mean time of a prediction that gave this episode an action chunk, in ms. Predictions are
            made for a batch of episodes, so this is not the latency on a robot.
        judged: The answer of the person who judged it; None if a simulator did. The rewards are then the
            score from 0 to 1, and the length and the time are unknown, which is 0.
    """

    episode: int
    seed: int
    success: bool
    max_reward: float
    sum_reward: float
    length: int
    chunk_ms: float = field(compare=False)
    judged: Judged | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as JSON values; rewards keep all digits, the time is rounded."""
        values = dataclasses.asdict(self) | {"chunk_ms": round(self.chunk_ms, 3)}
        if self.judged is None:
            del values["judged"]
        return values

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> EpisodeRecord:
        """Read a record. Unknown keys are ignored.

        Raises:
            KeyError: If a value is missing.
            ValueError: If a value is illegal.
            TypeError: If a value has the wrong type.
        """
        return EpisodeRecord(
            episode=int(values["episode"]),
            seed=int(values["seed"]),
            success=bool(values["success"]),
            max_reward=float(values["max_reward"]),
            sum_reward=float(values["sum_reward"]),
            length=int(values["length"]),
            chunk_ms=float(values.get("chunk_ms", 0.0)),
            judged=Judged.from_json(values["judged"]) if values.get("judged") is not None else None,
        )


def outcome_of(record: EpisodeRecord, metric: str) -> float:
    """The number of an episode whose mean is a metric of `OUTCOMES`."""
    return float(getattr(record, OUTCOMES[metric]))


@dataclass(frozen=True)
class Evaluated:
    """What the episodes of a file evaluate.

    Attributes:
        purpose: Their purpose.
        step: Optimiser steps of the policy.
        setting: The inference setting: fields whose value differs from that of the training.
        environment: The simulator, as ``rollout.env`` names it.
    """

    purpose: Purpose
    step: int
    setting: Mapping[str, Any]
    environment: str

    @property
    def name(self) -> str:
        """The name of the file."""
        key = setting_key(self.setting)
        return f"{self.step:06d}-{self.purpose}{f'-{key}' if key else ''}.jsonl"


def setting_key(setting: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits that identify an inference setting; empty for the one of the training."""
    if not setting:
        return ""
    text = json.dumps(dict(setting), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:8]


class EpisodeFile:
    """The records of one policy, inference setting and purpose.

    Args:
        folder: The trial's ``episodes`` folder; created if something is written.
        evaluated: What the episodes evaluate.
    """

    def __init__(self, folder: Path, evaluated: Evaluated) -> None:
        self.path = folder / evaluated.name
        self.evaluated = evaluated

    def records(self) -> list[EpisodeRecord]:
        """The records so far, by episode; none if nothing was written."""
        return read_episodes(self.path)[1] if self.path.is_file() else []

    def write(self, records: Iterable[EpisodeRecord]) -> Path:
        """Write all records at once; the file has either its old content or the new one."""
        beside = self.path.with_name(f".{self.path.name}.{os.getpid()}.writing")
        beside.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("w") as file:
            file.write(_lines([self._head(), *(record.to_json() for record in records)]))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(self.path)
        return self.path

    def append(self, records: Iterable[EpisodeRecord]) -> Path:
        """Add a block of records; it is on the disk when this returns."""
        if not self.path.is_file():
            return self.write(records)
        with self.path.open("rb+") as file:
            file.seek(0, os.SEEK_END)
            end = file.tell()
            file.seek(max(end - 1, 0))
            # A kill may have cut the last line: new lines must not become part of it.
            broken = end > 0 and file.read(1) != b"\n"
            file.seek(0, os.SEEK_END)
            file.write((b"\n" if broken else b"") + _lines(record.to_json() for record in records).encode())
            file.flush()
            os.fsync(file.fileno())
        return self.path

    def _head(self) -> dict[str, Any]:
        return dataclasses.asdict(self.evaluated)


def read_episodes(path: Path) -> tuple[Evaluated, list[EpisodeRecord]]:
    """Read a file of records: what was evaluated, and one record per episode, by its number.

    Lines that are cut off or damaged are left out; of two records of an episode the later one counts. An
    episode whose last record is void has none.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If its first line does not describe what was evaluated.
    """
    evaluated, lines = _read_lines(path)
    records = {record.episode: record for record in lines}
    valid = [record for record in records.values() if record.judged is None or not record.judged.is_void]
    return evaluated, sorted(valid, key=lambda record: record.episode)


def read_answers(path: Path) -> list[EpisodeRecord]:
    """All answers of the person who judged the episodes of a file, in order, also those corrected later.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If its first line does not describe what was evaluated.
    """
    return [record for record in _read_lines(path)[1] if record.judged is not None]


def _read_lines(path: Path) -> tuple[Evaluated, list[EpisodeRecord]]:
    """What the episodes of a file evaluate, and the record of every line that is whole."""
    first, *rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    try:
        head = json.loads(first)
        evaluated = Evaluated(
            purpose=head["purpose"],
            step=int(head["step"]),
            setting=dict(head["setting"]),
            environment=str(head["environment"]),
        )
        if evaluated.purpose not in PURPOSES:
            raise ValueError(f"{evaluated.purpose!r} is not one of {', '.join(PURPOSES)}")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: the first line does not describe what was evaluated: {error}") from error
    records: list[EpisodeRecord] = []
    for line in rest:
        with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
            records.append(EpisodeRecord.from_json(json.loads(line)))
    return evaluated, records


def last_episodes(
    folder: Path, purpose: Purpose, setting: Mapping[str, Any]
) -> tuple[Evaluated, list[EpisodeRecord]] | None:
    """The records of the last policy of a trial that was evaluated with an inference setting.

    Args:
        folder: The trial's ``episodes`` folder.
        purpose: Purpose of the episodes.
        setting: The inference setting.

    Returns:
        What `read_episodes` returns; None if there are no such records, or they cannot be read.
    """
    name = Evaluated(purpose, 0, setting, "").name.partition("-")[2]
    steps = {
        int(path.name.partition("-")[0]): path
        for path in folder.glob(f"*-{name}")
        if path.name.partition("-")[0].isdigit() and path.name.partition("-")[2] == name
    }
    if not steps:
        return None
    try:
        return read_episodes(steps[max(steps)])
    except (OSError, ValueError):
        return None


def _lines(values: Iterable[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(value, separators=(",", ":")) + "\n" for value in values)
