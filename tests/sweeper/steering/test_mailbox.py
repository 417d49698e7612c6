"""Requests to a driver: each is taken once, by the driver that it names, or not at all."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sweeper.errors import SweeperError, UserError
from sweeper.steering.mailbox import FOLDER, LARGEST_BYTES, Answer, Inbox, Request, send

DRIVER = {"host": "here", "pid": 1, "started": 2.5}


def left(folder: Path) -> list[str]:
    return [path.name for path in (folder / FOLDER).glob("*")]


def serving(inbox: Inbox, answer: Callable[[Request], Answer]) -> threading.Thread:
    """Answer one request, in a thread."""

    def serve() -> None:
        while not (requests := inbox.take()):
            time.sleep(0.01)
        inbox.answer(requests[0], answer(requests[0]))

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


@pytest.mark.slow
def test_an_answered_request_leaves_no_files(tmp_path: Path) -> None:
    thread = serving(
        Inbox(tmp_path, lambda: DRIVER),
        lambda request: Answer(True, f"{request.action} {request.trial} {request.changes}"),
    )
    answer = send(tmp_path, "budget", DRIVER, alive=lambda: True, trial=3, changes=["trials=+1"])
    thread.join()
    assert answer == Answer(True, "budget 3 ('trials=+1',)")
    assert left(tmp_path) == []


def test_a_request_to_a_dead_driver_is_refused_and_not_kept_for_the_next(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not running.*sweeper resume"):
        send(tmp_path, "cancel", DRIVER, alive=lambda: False)
    assert left(tmp_path) == []


def test_a_request_that_is_not_taken_is_withdrawn(tmp_path: Path) -> None:
    with pytest.raises(SweeperError, match=r"did not answer.*withdrawn"):
        send(tmp_path, "cancel", DRIVER, alive=lambda: True, patience_s=0.0)
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_driver_refuses_requests_to_another_driver(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, lambda: {**DRIVER, "pid": 2})
    done = threading.Event()

    def look() -> None:
        while not done.wait(0.01):
            assert inbox.take() == []

    thread = threading.Thread(target=look)
    thread.start()
    answer = send(tmp_path, "cancel", DRIVER, alive=lambda: True)
    done.set()
    thread.join()
    assert not answer.done
    assert "another driver" in answer.text


def test_a_new_driver_starts_with_an_empty_inbox(tmp_path: Path) -> None:
    place = tmp_path / FOLDER
    place.mkdir()
    (place / "1.json").write_text("{}")
    (place / "1.taken").write_text("{}")
    assert Inbox(tmp_path, lambda: DRIVER).take() == []
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"action": "rm"}',
        json.dumps({"action": "rm", "trial": None, "changes": [], "driver": DRIVER}),
        json.dumps({"action": "stop", "trial": "x", "changes": [], "driver": DRIVER}),
        json.dumps({"action": "stop", "trial": 1, "changes": 7, "driver": DRIVER}),
        "0" * (LARGEST_BYTES + 1),
    ],
)
def test_an_unreadable_request_is_refused(tmp_path: Path, text: str) -> None:
    inbox = Inbox(tmp_path, lambda: DRIVER)
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "1.json").write_text(text)
    assert inbox.take() == []
    answer = json.loads((tmp_path / FOLDER / "1.answer").read_text())
    assert not answer["done"]
    assert left(tmp_path) == ["1.answer"]


@pytest.mark.slow
def test_pending_requests_are_refused_when_the_sweep_ends(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, lambda: DRIVER)
    caught: list[Answer] = []
    thread = threading.Thread(
        target=lambda: caught.append(send(tmp_path, "stop", DRIVER, alive=lambda: True))
    )
    thread.start()
    while not any(name.endswith(".json") for name in left(tmp_path)):
        time.sleep(0.01)
    inbox.close("The sweep has just ended.")
    thread.join()
    assert caught == [Answer(False, "The sweep has just ended.")]
