"""How a sweep that runs is asked for something from another process: small files in its folder.

Who asks writes ``requests/<id>.json``; the driver takes it by renaming it, does what it says, and writes
``requests/<id>.answer``. A request is meant for one driver: the next one refuses it. The caller that no
longer waits takes the request back, by renaming it, too: of two that rename a file one succeeds.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import SweeperError, UserError
from sweeper.layout import write_whole

__all__ = ["ACTIONS", "FOLDER", "Action", "Answer", "Inbox", "Request", "send"]

FOLDER = "requests"
Action = Literal["pause", "resume", "stop", "cancel", "budget"]
ACTIONS: tuple[Action, ...] = ("pause", "resume", "stop", "cancel", "budget")
LARGEST_BYTES = 64 * 1024
LOOK_S = 0.2
"""How often the one who asked looks for the answer."""
PATIENCE_S = 60.0
"""How long it does so: a driver that starts Ray, or ends a trial, does not look for requests meanwhile."""
READ_PATIENCE_S = 2.0
"""How long a driver that ends waits for its answers to be read; those from elsewhere go through its actor."""
TAKEN_PATIENCE_S = 120.0
"""How long it waits for what the driver has taken and cannot be called back."""


@dataclass(frozen=True)
class Request:
    """What somebody asks of a driver.

    Attributes:
        action: What is to be done.
        driver: Whom it is meant for, as the journal calls the driver.
        trial: The one trial that is meant, or None for the whole sweep.
        changes: ``key=value`` texts.
        id: Tells it from others.
    """

    action: Action
    driver: Mapping[str, Any]
    trial: int | None = None
    changes: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}")


@dataclass(frozen=True)
class Answer:
    """What the driver says to a request.

    Attributes:
        done: Whether it does what was asked.
        text: What it does, or why not, for a person.
    """

    done: bool
    text: str


class Inbox:
    """The driver's side.

    Args:
        folder: The sweep's folder.
        driver: Says who takes requests, as the journal calls the driver.
    """

    def __init__(self, folder: Path, driver: Callable[[], Mapping[str, Any]]) -> None:
        self._folder = folder / FOLDER
        self._driver = driver
        # What lies here was said to a driver that is gone, and nobody waits for it any more.
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)

    def take(self) -> list[Request]:
        """The requests that have come in, in the order in which they were made."""
        requests = []
        for path in sorted(self._folder.glob("*.json")):
            taken = path.with_suffix(".taken")
            try:
                path.rename(taken)
            except FileNotFoundError:
                continue  # it was taken back
            try:
                requests.append(self._read(taken))
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._answer(path.stem, Answer(False, f"the request cannot be read: {error}"))
        return requests

    def answer(self, request: Request, answer: Answer) -> None:
        """Say what came of a request."""
        self._answer(request.id, answer)

    def close(self, text: str) -> None:
        """Refuse what is left, because the driver ends; wait a moment until the answers have been read."""
        for request in self.take():
            self.answer(request, Answer(False, text))
        until = time.monotonic() + READ_PATIENCE_S
        while any(self._folder.glob("*.answer")) and time.monotonic() < until:
            time.sleep(LOOK_S)

    def _read(self, path: Path) -> Request:
        with path.open("rb") as file:
            data = file.read(LARGEST_BYTES + 1)
        if len(data) > LARGEST_BYTES:
            raise ValueError(f"it is larger than {LARGEST_BYTES} bytes")
        plain = json.loads(data)
        trial = plain["trial"]
        if plain["action"] not in ACTIONS or plain["driver"] != dict(self._driver()):
            raise ValueError("it is meant for another driver")
        return Request(
            plain["action"],
            plain["driver"],
            None if trial is None else int(trial),
            tuple(str(change) for change in plain["changes"]),
            path.stem,
        )

    def _answer(self, identity: str, answer: Answer) -> None:
        # Not durable, as requests are not: after a power cut no process waits for either.
        write_whole(self._folder / f"{identity}.answer", json.dumps(asdict(answer)), durable=False)
        (self._folder / f"{identity}.taken").unlink(missing_ok=True)


def send(
    folder: Path,
    action: Action,
    driver: Mapping[str, Any],
    *,
    alive: Callable[[], bool],
    trial: int | None = None,
    changes: Sequence[str] = (),
    patience_s: float = PATIENCE_S,
) -> Answer:
    """Ask the driver of a sweep for something and wait for its answer.

    Args:
        folder: The sweep's folder.
        action: What is to be done.
        driver: Who is asked, as the journal calls the driver.
        alive: Called to learn whether that driver still runs.
        trial: The one trial that is meant.
        changes: ``key=value`` texts.
        patience_s: How long to wait until the driver has taken the request.

    Raises:
        UserError: If the driver ended; nothing is left behind then.
        SweeperError: If it does not answer; the request was taken back.
    """
    request = Request(action, driver, trial, tuple(changes))
    place = folder / FOLDER
    path, answered = place / f"{request.id}.json", place / f"{request.id}.answer"
    try:
        place.mkdir(exist_ok=True)
        write_whole(path, json.dumps(asdict(request)), durable=False)
    except OSError as error:
        raise UserError(f"{place}: no request can be left here: {error.strerror}.") from error
    started = time.monotonic()
    try:
        while True:
            if answered.exists():
                return Answer(**json.loads(answered.read_text()))
            if not alive():
                if _take_back(path):
                    raise UserError(
                        "The driver of this sweep is gone, so nobody can do this. "
                        "`sweeper resume` continues the sweep."
                    )
                raise UserError("The driver ended before it answered; `sweeper status` says what came of it.")
            waited_s = time.monotonic() - started
            if waited_s > patience_s and (_take_back(path) or waited_s > patience_s + TAKEN_PATIENCE_S):
                raise SweeperError(
                    f"The driver (process {driver.get('pid')} on {driver.get('host')}) did not answer within "
                    f"{waited_s:.0f} s. The request was taken back; ask again, or see ray.log in {folder}. "
                    "Where that machine is gone, `sweeper resume --take-over` continues the sweep."
                )
            time.sleep(LOOK_S)
    finally:
        path.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def _take_back(path: Path) -> bool:
    """Take a request back; whether the driver had not taken it yet."""
    try:
        path.rename(path.with_suffix(".withdrawn"))
    except FileNotFoundError:
        return False
    path.with_suffix(".withdrawn").unlink(missing_ok=True)
    return True
