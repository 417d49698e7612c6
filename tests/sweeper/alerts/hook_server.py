"""A real web server that receives alerts, and answers as a test wants."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.http_server import http_server


class Hook:
    """A webhook.

    Attributes:
        received: The bodies of the requests.
        answers: The codes of the next answers; 200 if there are none left.
        headers: Headers of every answer.
        arrived: The number of requests that have come, answered or not.
        answering: Cleared: requests wait for their answer until it is set.
    """

    def __init__(self, server: ThreadingHTTPServer) -> None:
        self.received: list[dict[str, Any]] = []
        self.answers: list[int] = []
        self.headers: dict[str, str] = {}
        self.arrived = 0
        self.answering = threading.Event()
        self.answering.set()
        self.url = f"http://127.0.0.1:{server.server_address[1]}/hook"


@contextlib.contextmanager
def hook_server() -> Iterator[Hook]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hook.arrived += 1
            hook.answering.wait(300)
            hook.received.append(json.loads(body))
            self.send_response(hook.answers.pop(0) if hook.answers else 200)
            for name, value in hook.headers.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with http_server(Handler) as server:
        hook = Hook(server)
        try:
            yield hook
        finally:
            hook.answering.set()
