"""A small web server that asks for the outcomes of episodes, e.g. on a phone in the same network.

Standard library only, no scripts, nothing from other servers. A request needs the token if the page is not
on this machine's own address, and every change also a secret that only the page contains.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from sweeper.errors import UserError
from sweeper.finalists.judging.addresses import Address
from sweeper.finalists.judging.answers import Outcome, valid_answers
from sweeper.finalists.judging.dialogue import given_text
from sweeper.finalists.judging.judging import Judging, StaleError
from sweeper.finalists.judging.page import asking_page, correcting_page, message_page, result_page
from sweeper.finalists.judging.servers import Served

__all__ = ["JudgePage"]

MOST_BYTES = 10_000
"""Largest body of a request."""

COOKIE = "sweeper_judge"

HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; "
    "frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


@dataclass
class JudgePage:
    """The web page of a session while it is served. Leaving its context ends it.

    Attributes:
        judging: The session.
        name: Name of the sweep.
        address: Where it listens.
        token: What the link contains if other machines can reach it; None for a random one.
        servers: Where each policy is served, for programs that run the robot.
        say: Receives a line for every answer; from another thread.
    """

    judging: Judging
    name: str
    address: Address
    token: str | None = None
    servers: Sequence[Served] = ()
    say: Callable[[str], object] = str
    ended: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        if self.address.is_local:
            self.token = None
        elif self.token is None:
            self.token = secrets.token_urlsafe(16)
        secret = (self.token or secrets.token_urlsafe(16)).encode()
        # The same after a restart with the same token, so that an open page stays usable.
        self.csrf = hmac.new(secret, b"forms", hashlib.sha256).hexdigest()
        self.cookie = hmac.new(secret, b"cookie", hashlib.sha256).hexdigest()

    def __enter__(self) -> JudgePage:
        """Begin to serve.

        Raises:
            UserError: If the port cannot be used.
        """
        page = self

        class Handler(_Handler):
            of = page

        family = socket.AF_INET6 if ":" in self.address.host else socket.AF_INET
        server = type("_Server", (ThreadingHTTPServer,), {"address_family": family, "daemon_threads": True})
        try:
            self._server = server((self.address.host, self.address.port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(
                f"--web-address {self.address.host}:{self.address.port} cannot be used: {error}. Name "
                "another port, e.g. --web-address 127.0.0.1:0 for any that is free."
            ) from error
        serve = partial(self._server.serve_forever, poll_interval=0.05)
        threading.Thread(target=serve, name="judge-page", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def port(self) -> int:
        """The port at which it listens."""
        return int(self._server.server_address[1])

    @property
    def link(self) -> str:
        """The link to the page."""
        query = "" if self.token is None else f"/?token={quote(self.token)}"
        return f"http://{self.address.reachable}:{self.port}{query}"

    def wait(self) -> None:
        """Wait until the user ends the session on the page."""
        while not self.ended.wait(0.5):  # in short steps: a signal is handled between them
            pass


class _RefusedError(Exception):
    """A request that is not answered as it wants."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    of: JudgePage
    timeout = 30
    server_version = "sweeper"
    sys_version = ""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: the terminal is the user's."""

    def do_GET(self) -> None:
        """Answer with a page, or with the state as JSON."""
        self._answer(self._get)

    def do_POST(self) -> None:
        """Record an answer."""
        self._answer(self._post)

    def _answer(self, work: Callable[[], None]) -> None:
        try:
            self._check_host()
            work()
        except _RefusedError as refused:
            self._refuse(refused.status, str(refused))
        except (StaleError, UserError) as fault:
            self._refuse(409, str(fault))
        except ValueError as fault:
            self._refuse(400, str(fault))
        except OSError as error:
            if not isinstance(error, ConnectionError | TimeoutError):
                self._refuse(500, f"The answer was not recorded: {error.strerror or error}.")

    def _refuse(self, status: int, message: str) -> None:
        if self._wants_json():
            self._send(status, json.dumps({"error": message}), "application/json")
        else:
            self._send(status, message_page(message, "" if status == 401 else "/"))

    # Who may do what

    def _check_host(self) -> None:
        """Refuse names of other sites that point at this machine (DNS rebinding)."""
        if self.of.token is None:
            host = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
            if host != self.of.address.host and host not in ("localhost", "127.0.0.1", "::1"):
                raise _RefusedError(403, "This page is served at 127.0.0.1 only.")

    def _check_token(self) -> None:
        token = self.of.token
        if token is None:
            return
        bearer = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if not _same(bearer, token) and not _same(self._cookie(), self.of.cookie):
            raise _RefusedError(401, "Open the link that the terminal shows: it contains the token.")

    def _cookie(self) -> str:
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get(COOKIE)
        except CookieError:
            return ""
        return found.value if found else ""

    def _form(self) -> dict[str, str]:
        """The form of a request, after it was found to come from our own page."""
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise _RefusedError(411, "The request has no length.") from None
        if not 0 <= length <= MOST_BYTES:
            raise _RefusedError(413, f"The request has {length} bytes. At most {MOST_BYTES} are allowed.")
        text = self.rfile.read(length).decode("utf-8", errors="replace")
        form = {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}
        if not _same(form.get("csrf", ""), self.of.csrf):
            raise _RefusedError(403, "This page is out of date. Nothing was recorded; open it again.")
        return form

    # What is answered

    def _get(self) -> None:
        asked = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(asked.query).items()}
        if asked.path == "/" and "token" in query and self.of.token is not None:
            if not _same(query["token"], self.of.token):
                raise _RefusedError(401, "The token of this link is not that of the session.")
            # The token does not stay in the address bar.
            cookie = f"{COOKIE}={self.of.cookie}; HttpOnly; SameSite=Strict; Path=/"
            self._send(303, "", headers={"Location": "/", "Set-Cookie": cookie})
            return
        self._check_token()
        match asked.path:
            case "/":
                note = query.get("note", "")
                self._send(200, asking_page(self.of.judging, self.of.name, self.of.csrf, NOTES.get(note, "")))
            case "/state":
                self._send(200, json.dumps(self._state()), "application/json")
            case "/correct":
                self._send(200, self._correcting(query))
            case _:
                raise _RefusedError(404, "There is no such page.")

    def _correcting(self, query: Mapping[str, str]) -> str:
        valid = valid_answers(self.of.judging.history())
        start = query.get("start", "")
        given = valid.get((query.get("letter", ""), int(start) if start.isdecimal() else -1))
        if given is None:
            raise _RefusedError(404, "This episode has no answer that counts.")
        return correcting_page(self.of.judging, self.of.name, self.of.csrf, given)

    def _state(self) -> dict[str, Any]:
        judging = self.of.judging
        question = judging.question()
        return {
            "question": None if question is None else asdict(question),
            "key": judging.key(),
            "csrf": self.of.csrf,
            "left": list(judging.left()),
            "starts": judging.options.episodes,
            "servers": {one.letter: {"url": one.url, "token": one.token} for one in self.of.servers},
        }

    def _post(self) -> None:
        self._check_token()
        form = self._form()
        judging, key = self.of.judging, form.get("key", "")
        match urlsplit(self.path).path:
            case "/answer":
                given = judging.answer(key, _outcome(form))
                self._done("recorded", given_text(given))
            case "/correct":
                start = form.get("start", "")
                number = int(start) if start.isdecimal() else -1
                given = judging.correct(key, form.get("letter", ""), number, _outcome(form))
                self._done("corrected", f"Corrected: {given_text(given)}")
            case "/undo":
                undone = judging.undo(key)
                if undone is None:
                    raise UserError("There is no answer to undo.")
                self._done("undone", f"Taken back: {given_text(undone)}")
            case "/finish":
                self._send(200, result_page(self.of.name, judging.result()))
                self.of.ended.set()
            case _:
                raise _RefusedError(404, "There is no such page.")

    def _done(self, note: str, line: str) -> None:
        self.of.say(line)
        if self._wants_json():
            self._send(200, json.dumps(self._state()), "application/json")
        else:
            self._send(303, "", headers={"Location": f"/?note={note}"})

    def _wants_json(self) -> bool:
        return "application/json" in self.headers.get("Accept", "")

    def _send(
        self, status: int, text: str, kind: str = "text/html", headers: Mapping[str, str] | None = None
    ) -> None:
        content = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        for name, value in {**HEADERS, **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)


NOTES = {
    "recorded": "The answer was recorded.",
    "corrected": "The correction was recorded; the first answer is kept.",
    "undone": "The last answer was taken back.",
}
"""What the page confirms after an answer: only these texts, whatever the link contains."""


def _outcome(form: Mapping[str, str]) -> Outcome:
    if form.get("quick"):
        return Outcome.of("score", form["quick"], form.get("tag", ""))
    if form.get("failed"):
        return Outcome.of("failure", tag=form["failed"])
    word = form.get("word", "")
    if not word:
        raise ValueError(
            "Press one of the buttons: success, failure, a score, or void. Nothing was recorded."
        )
    return Outcome.of(word, form.get("score", ""), form.get("tag", ""))


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(), wanted.encode())
