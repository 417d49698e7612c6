"""A session on the real robot: the policies, their neutral names, and the order of the episodes."""

from __future__ import annotations

import json
import random
import secrets
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from sweeper.errors import UserError
from sweeper.finalists.candidates import Candidate, candidate_of, finalists
from sweeper.layout import trial_folder, write_whole
from sweeper.records.checkpoints import Source, find_source
from sweeper.records.sweep_state import SweepState
from sweeper.text import policy_words
from trainables.episodes import EPISODES

__all__ = [
    "REAL",
    "STARTS_PER_SESSION",
    "JudgedPolicy",
    "Session",
    "last_session",
    "named_source",
    "new_session",
    "saved_session",
    "source_name",
    "wanted_policies",
]

REAL = "real"
"""Name of the folder in a sweep's folder with the sessions."""

OTHERS = "policies"
"""Name of the folder in that one with the episodes of policies that are not trials of the sweep."""

STARTS_PER_SESSION = 10_000
"""Episodes of one session have other numbers than those of the next: a start is only common within one."""

_OF_OTHERS = ("named", "source", "digest")

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class JudgedPolicy:
    """A policy of a session.

    Attributes:
        letter: Its neutral name.
        trial: Number of its trial; None if it is not a trial of the sweep.
        step: Optimiser steps of its checkpoint; 0 if unknown.
        setting: Its inference setting: fields whose value differs from the one of the training.
        named: What the user called it; empty for a trial, like the following.
        source: What finds it from any folder: the path of a checkpoint or a bundle, or ``FOLDER:TRIAL``.
        digest: Identifies its content.
    """

    letter: str
    trial: int | None
    step: int
    setting: dict[str, Any]
    named: str = ""
    source: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """What it is called where its letter is known: the number of its trial, or what the user typed."""
        return self.named if self.trial is None else str(self.trial)

    @property
    def words(self) -> str:
        """The same in a sentence, e.g. ``trial 3``."""
        return policy_words(self.trial, self.named)

    @property
    def identity(self) -> tuple[int | None, int, str, str]:
        """What makes it another policy if it differs."""
        return self.trial, self.step, json.dumps(self.setting, sort_keys=True), self.digest


@dataclass(frozen=True)
class Session:
    """A session. It is a function of its file: the same after a crash.

    Attributes:
        folder: The sweep's folder.
        number: Its number among the sessions of the sweep, from 1.
        seed: Decides the neutral names and the order.
        started: When it started, in seconds since 1970.
        policies: Its policies, by letter.
    """

    folder: Path
    number: int
    seed: int
    started: float
    policies: tuple[JudgedPolicy, ...]

    @property
    def letters(self) -> tuple[str, ...]:
        """The neutral names."""
        return tuple(policy.letter for policy in self.policies)

    @property
    def path(self) -> Path:
        """Its file."""
        return self.folder / REAL / f"{self.number}.json"

    def policy(self, letter: str) -> JudgedPolicy:
        """The policy with a neutral name."""
        return next(policy for policy in self.policies if policy.letter == letter)

    def order(self, start: int) -> list[str]:
        """The order in which the policies meet a start, whoever is still left."""
        return random.Random(f"order of {self.seed}, start {start}").sample(self.letters, len(self.letters))

    def episode(self, start: int) -> int:
        """The number of the episodes from a start, in the files of episodes."""
        return self.number * STARTS_PER_SESSION + start

    def start(self, episode: int) -> int | None:
        """The start of an episode; None if it belongs to another session."""
        number, start = divmod(episode, STARTS_PER_SESSION)
        return start if number == self.number else None

    def records(self, policy: JudgedPolicy) -> Path:
        """The folder of a policy's files of episodes."""
        if policy.trial is None:
            return self.folder / REAL / OTHERS / policy.digest[:16] / EPISODES
        return trial_folder(self.folder, policy.trial) / EPISODES

    def save(self) -> None:
        """Write its file.

        Raises:
            UserError: If it cannot be written.
        """
        values = {
            "number": self.number,
            "seed": self.seed,
            "started": self.started,
            "policies": [
                # Sessions of trials alone are as earlier versions wrote them.
                {name: value for name, value in asdict(policy).items() if name not in _OF_OTHERS or value}
                for policy in self.policies
            ],
        }
        try:
            self.path.parent.mkdir(exist_ok=True)
            write_whole(self.path, json.dumps(values, indent=1) + "\n")
        except OSError as error:
            raise UserError(f"{self.path} cannot be written: {error.strerror}.") from error


def wanted_policies(
    sweep: SweepState, top: int, trials: Sequence[int] = ()
) -> tuple[list[JudgedPolicy], list[str]]:
    """The policies that a session is asked to compare; their letters are still empty.

    Trials that were confirmed come first, in the order of the confirmation, then those of the ranking.

    Args:
        sweep: The sweep.
        top: How many, if no trials are named.
        trials: The trials that are meant.

    Returns:
        The policies, and why others are missing, in a sentence each.

    Raises:
        UserError: If there is none, or a trial has no checkpoint.
    """
    missing: list[str] = []
    if trials:
        found = [candidate_of(sweep, number) for number in dict.fromkeys(trials)]
    else:
        found, missing = _best(sweep, top)
    if not found:
        reasons = "".join(f"\n{reason}" for reason in missing)
        raise UserError(f"{sweep.name}: no trial has a checkpoint to judge.{reasons}")
    return [_policy(sweep, one) for one in found], missing


def _best(sweep: SweepState, top: int) -> tuple[list[Candidate], list[str]]:
    ranked, missing = finalists(sweep, len(sweep.trials))
    confirmed = [
        one["trial"]
        for one in sweep.confirmation.get("finalists", ())
        if one.get("state", "failed") != "failed"
    ]
    by_trial = {one.trial: one for one in ranked}
    first = [by_trial.pop(number) for number in confirmed if number in by_trial]
    found = [*first, *by_trial.values()][:top]
    return found, missing if len(found) < top else []


def _policy(sweep: SweepState, found: Candidate) -> JudgedPolicy:
    assert found.trial is not None
    trial = sweep.trials[found.trial]
    step = int(found.checkpoint.name) if found.checkpoint.name.isdigit() else trial.step
    return JudgedPolicy("", found.trial, step, dict(trial.setting))


def new_session(folder: Path, wanted: Sequence[JudgedPolicy], seed: int | None = None) -> Session:
    """Make a session with these policies and write its file.

    Args:
        folder: The sweep's folder.
        wanted: The policies.
        seed: Decides the names and the order; None for a random one.

    Raises:
        UserError: If there are more policies than letters, or its file cannot be written.
    """
    if len(wanted) > len(LETTERS):
        raise UserError(f"{len(wanted)} policies cannot be judged in one session: {len(LETTERS)} at most.")
    number = max(_numbers(folder), default=0) + 1
    seed = secrets.randbelow(2**31) if seed is None else seed
    named = random.Random(f"names of {seed}").sample(sorted(wanted, key=_place), len(wanted))
    policies = tuple(replace(one, letter=letter) for letter, one in zip(LETTERS, named, strict=False))
    session = Session(folder, number, seed, time.time(), policies)
    session.save()
    return session


def _place(policy: JudgedPolicy) -> tuple[bool, int, str]:
    """Its place in an order that does not depend on how the policies were named."""
    return policy.trial is None, policy.trial or 0, policy.digest


def named_source(folder: Path, policy: JudgedPolicy) -> Source:
    """The checkpoint of a policy of a session, with the inference setting of the session.

    Args:
        folder: The sweep's folder.
        policy: The policy.

    Raises:
        UserError: If it does not exist any more.
        BundleError: If it is a bundle that is damaged.
    """
    return replace(find_source(source_name(folder, policy), folder.parent, None), setting=policy.setting)


def source_name(folder: Path, policy: JudgedPolicy) -> str:
    """What `find_source` finds a policy of a session by, from any folder."""
    return policy.source or f"{folder.absolute()}:{policy.trial}"


def last_session(folder: Path) -> Session | None:
    """The last session of a sweep; None if there was none.

    Raises:
        UserError: If its file is damaged.
    """
    numbers = _numbers(folder)
    return saved_session(folder, max(numbers)) if numbers else None


def saved_session(folder: Path, number: int) -> Session:
    """A session of a sweep by its number.

    Raises:
        UserError: If there is none, or its file is damaged.
    """
    numbers = sorted(_numbers(folder))
    if number not in numbers:
        known = ", ".join(str(one) for one in numbers) or "none"
        raise UserError(f"{folder.name} has no session {number} on the real robot. Its sessions: {known}.")
    path = folder / REAL / f"{number}.json"
    try:
        values = json.loads(path.read_text())
        policies = tuple(JudgedPolicy(**one) for one in values["policies"])
        return Session(folder, int(values["number"]), int(values["seed"]), float(values["started"]), policies)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read as a session: {type(error).__name__}: {error}. It names the policies of "
            "the episodes that were judged. Restore it, or start another session: --new."
        ) from error


def _numbers(folder: Path) -> list[int]:
    return [int(path.stem) for path in (folder / REAL).glob("*.json") if path.stem.isdigit()]
