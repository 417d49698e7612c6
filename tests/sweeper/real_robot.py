"""A person who judges a robot, simulated: runs the policy that is asked for, and answers with its outcome."""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from reaching_policies import SKILL, ReachingPolicy

from sweeper.finalists.judging.answers import Outcome
from sweeper.finalists.judging.judging import Judging
from sweeper.finalists.judging.session import Session, named_source
from trainables.episodes import EpisodeRecord

Robot = Callable[[str, int], EpisodeRecord]
"""The episode that the policy with a neutral name has from a start."""


def reaching_robot(session: Session) -> Robot:
    """A robot that runs the policies of known skill of a session."""

    def run(letter: str, start: int) -> EpisodeRecord:
        checkpoint = named_source(session.folder, session.policy(letter)).checkpoint
        return ReachingPolicy(json.loads((checkpoint / SKILL).read_text())).rollout({}, "real", [start])[0]

    return run


def judge_all(judging: Judging, robot: Robot, most: int = 10_000) -> list[tuple[int, str]]:
    """Answer every question; returns the start and the policy of each."""
    asked: list[tuple[int, str]] = []
    while len(asked) < most and (question := judging.question()) is not None:
        asked.append((question.start, question.letter))
        judging.answer(question.key, verdict(robot(question.letter, question.start)))
    return asked


def verdict(episode: EpisodeRecord) -> Outcome:
    """What a person would answer."""
    return Outcome.of("success" if episode.success else "failure")


class Phone:
    """A browser that fills the page's forms, or a program that uses them with JSON."""

    def __init__(self, port: int, token: str | None = None, host: str = "127.0.0.1") -> None:
        self.port, self.host = port, host
        self.headers = {} if token is None else {"Authorization": f"Bearer {token}"}

    def send(
        self, method: str, path: str, form: Mapping[str, Any] | None = None, **headers: str
    ) -> tuple[int, dict[str, str], str]:
        """A request; returns status, headers and text."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=200)
        try:
            kind = {"Content-Type": "application/x-www-form-urlencoded"} if form is not None else {}
            body = None if form is None else urlencode(form)
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, self.headers | kind | sent)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode()
        finally:
            connection.close()

    def state(self) -> dict[str, Any]:
        """What a program reads to know which episode is next."""
        status, _, text = self.send("GET", "/state")
        assert status == 200, text
        return dict(json.loads(text))

    def answer(self, state: Mapping[str, Any], path: str = "/answer", **form: Any) -> dict[str, Any]:
        """Send a form as a program."""
        sent = {"csrf": state["csrf"], "key": state["key"], **form}
        status, _, text = self.send("POST", path, sent, Accept="application/json")
        assert status == 200, text
        return dict(json.loads(text)) if path != "/finish" else {"text": text}


def start_judge(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start the command on a sweep in a process of its own."""
    tests = Path(__file__).parent
    path = os.pathsep.join([str(tests), str(tests.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, "-m", "sweeper.cli", "judge", str(folder), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "COLUMNS": "100", **variables},
    )


def page_of(process: subprocess.Popen[str]) -> tuple[Phone, str]:
    """The page of a command once it is served, and what the command printed before."""
    assert process.stdout is not None
    shown = b""
    # Byte by byte: what a buffer took beyond the link would be missing from what `communicate` returns.
    while byte := os.read(process.stdout.fileno(), 1):
        shown += byte
        found = byte == b"\n" and re.search(r"http://([\d.]+):(\d+)(?:/\?token=(\S+))?\n", shown.decode())
        if found:
            return Phone(int(found[2]), found[3]), shown.decode()
    raise AssertionError(shown.decode())
