"""A web server of this machine for the tests that ask one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from socketserver import BaseRequestHandler


@contextlib.contextmanager
def http_server(handler: Callable[..., BaseRequestHandler]) -> Iterator[ThreadingHTTPServer]:
    """A server on a free port of 127.0.0.1, which ends with the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    # `shutdown` waits for the next poll, by default up to half a second.
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
