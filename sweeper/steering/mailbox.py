"""Requests to a running sweep from other processes, and their answers, as small files in its folder.

The caller writes ``requests/<id>.json``. The driver takes the request by renaming the file, carries it out
and writes ``requests/<id>.answer``. A request names one driver: any other refuses it. A caller that stops
waiting withdraws its request, also by renaming the file: if two processes rename a file, only one succeeds.
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
"""The interval at which a caller looks for its answer."""
PATIENCE_S = 60.0
"""How long a caller waits. A driver that starts Ray or ends a trial takes no requests meanwhile."""
READ_PATIENCE_S = 2.0
"""How long an ending driver waits until its answers were read. Remote callers read through its actor."""
TAKEN_PATIENCE_S = 120.0
"""How much longer a caller waits if the driver has taken the request, which then cannot be withdrawn."""


@dataclass(frozen=True)
class Request:
    """A request to a driver.

    Attributes:
        action: The requested action.
        driver: The driver that shall carry it out, as the journal identifies it.
        trial: The number of the trial, or None for the whole sweep.
        changes: ``key=value`` texts.
        id: A unique name.
    """

    action: Action
    driver: Mapping[str, Any]
    trial: int | None = None
    changes: tuple[str, ...] = ()
    id: str = field(default_factory=lambda: f"{time.time_ns():020d}-{uuid.uuid4().hex[:8]}")


@dataclass(frozen=True)
class Answer:
    """The driver's answer to a request.

    Attributes:
        done: Whether the driver carries the request out.
        text: What it does, or why it refuses, for the user.
    """

    done: bool
    text: str


class Inbox:
    """The driver's side: takes requests and answers them.

    Args:
        folder: The sweep's folder.
        driver: Returns the identity of this driver, as the journal records it.
    """

    def __init__(self, folder: Path, driver: Callable[[], Mapping[str, Any]]) -> None:
        self._folder = folder / FOLDER
        self._driver = driver
        # Requests to an earlier driver: no caller waits for their answers any more.
        for path in self._folder.glob("*"):
            path.unlink(missing_ok=True)

    def take(self) -> list[Request]:
        """The requests that have arrived, in the order in which they were made."""
        requests = []
        for path in sorted(self._folder.glob("*.json")):
            taken = path.with_suffix(".taken")
            try:
                path.rename(taken)
            except FileNotFoundError:
                continue  # it was withdrawn
            try:
                requests.append(self._read(taken))
            except (OSError, ValueError, TypeError, KeyError) as error:
                self._answer(path.stem, Answer(False, f"the request cannot be read: {error}"))
        return requests

    def answer(self, request: Request, answer: Answer) -> None:
        """Answer a request."""
        self._answer(request.id, answer)

    def close(self, text: str) -> None:
        """Refuse the remaining requests because the driver ends; wait briefly until the answers were read."""
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
    """Send a request to the driver of a sweep and wait for its answer.

    Args:
        folder: The sweep's folder.
        action: The requested action.
        driver: The driver, as the journal identifies it.
        alive: Whether that driver still runs.
        trial: The number of the trial, or None for the whole sweep.
        changes: ``key=value`` texts.
        patience_s: How long to wait until the driver has taken the request.

    Raises:
        UserError: If the request cannot be written, or the driver ended. No file is left behind.
        SweeperError: If the driver does not answer in time. The request was withdrawn.
    """
    request = Request(action, driver, trial, tuple(changes))
    place = folder / FOLDER
    path, answered = place / f"{request.id}.json", place / f"{request.id}.answer"
    try:
        place.mkdir(exist_ok=True)
        write_whole(path, json.dumps(asdict(request)), durable=False)
    except OSError as error:
        raise UserError(f"{place}: the request cannot be written here: {error.strerror}.") from error
    started = time.monotonic()
    try:
        while True:
            if answered.exists():
                return Answer(**json.loads(answered.read_text()))
            if not alive():
                if _withdraw(path):
                    raise UserError(
                        "The driver of this sweep is not running, so the request was not carried out. "
                        "`sweeper resume` continues the sweep."
                    )
                raise UserError("The driver ended before it answered. See `sweeper status`.")
            waited_s = time.monotonic() - started
            if waited_s > patience_s and (_withdraw(path) or waited_s > patience_s + TAKEN_PATIENCE_S):
                raise SweeperError(
                    f"The driver (process {driver.get('pid')} on {driver.get('host')}) did not answer within "
                    f"{waited_s:.0f} s. The request was withdrawn. Try again, or see ray.log in {folder}. "
                    "If that machine is gone, `sweeper resume --take-over` continues the sweep."
                )
            time.sleep(LOOK_S)
    finally:
        path.unlink(missing_ok=True)
        answered.unlink(missing_ok=True)


def _withdraw(path: Path) -> bool:
    """Withdraw a request. Returns False if the driver has already taken it."""
    try:
        path.rename(path.with_suffix(".withdrawn"))
    except FileNotFoundError:
        return False
    path.with_suffix(".withdrawn").unlink(missing_ok=True)
    return True
