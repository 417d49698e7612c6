"""A server in its own thread: started, waited for, closed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any

from trainables.deployment.server import protocol
from trainables.deployment.server.batcher import ServedPolicy
from trainables.deployment.server.server import PolicyServer, message_limit, takes
from trainables.deployment.server.warm_up import choose_batch
from trainables.interface import ConfigError, Fault, ServeOptions, TrainableError, silent

__all__ = ["RunningServer", "ServeError", "start_server"]

WAIT_S = 0.5


class ServeError(TrainableError):
    """A server cannot be started, or has failed."""

    reason = "environment"


def start_server(
    policy: ServedPolicy,
    options: ServeOptions,
    description: Mapping[str, Any] | None = None,
    report: Callable[[str], object] = silent,
) -> RunningServer:
    """Serve a policy in another thread, until the returned server is closed.

    Args:
        policy: In evaluation mode.
        options: Where and for whom.
        description: JSON values for clients, beside what every server describes.
        report: Receives a sentence whenever a session begins, ends or is refused; from another thread.

    Raises:
        ConfigError: If a package is missing, or an option is not possible.
        ServeError: If the port cannot be used.
    """
    _check(options)
    for package in ("websockets", "msgpack", "prometheus_client"):
        try:
            protocol.require(package)
        except ImportError as error:
            raise ConfigError([Fault("serve", str(error))]) from error
    token = options.token
    if token is None and not is_local(options.host):
        token = secrets.token_urlsafe(24)
    if options.max_message_b is None:
        options = replace(options, max_message_b=message_limit(policy))
    batch = choose_batch(policy, options.batch)
    described = {**(description or {}), **_described(policy, options)}
    described["batch"] = {
        "rows": batch.rows,
        "chunk_ms": round(1e3 * batch.predicted_s, 3),
        "alike": batch.alike,
    }
    server = PolicyServer(policy, options, token, batch, described, report)
    return RunningServer(server, options, token, described)


def is_local(host: str) -> bool:
    """Whether only this machine can reach a host's address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class RunningServer:
    """A server that clients can connect to; made by :func:`start_server`. Leaving its context closes it.

    Attributes:
        url: What clients connect to.
        token: What they must send; None if they need none.
        description: What they receive first.
    """

    def __init__(
        self, server: PolicyServer, options: ServeOptions, token: str | None, description: Mapping[str, Any]
    ) -> None:
        self.token = token
        self.description = description
        self._server = server
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._started, self._ended = threading.Event(), threading.Event()
        self._port = 0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="policy-server", daemon=True)
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            raise _explained(self._failure, options) from self._failure
        host = f"[{options.host}]" if ":" in options.host else options.host
        self.url = f"ws://{host}:{self._port}"

    @property
    def counts(self) -> dict[str, int]:
        """How many ``sessions``, ``answers`` and ``errors`` there have been."""
        return dict(self._server.counts)

    def wait(self) -> None:
        """Wait until the server ends by itself, which is a failure.

        Raises:
            ServeError: If it has failed.
        """
        # In short steps, so that signals are handled. If one comes during `Thread.join`, Python believes that
        # the thread has ended.
        while not self._ended.wait(WAIT_S):
            pass
        if self._failure is not None:
            raise ServeError(f"the server failed: {self._failure}") from self._failure

    def close(self) -> None:
        """Answer what is being answered, close all connections, and end."""
        if self._loop is not None and self._stop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(self._stop.set)
        self._ended.wait()
        self._thread.join()

    def __enter__(self) -> RunningServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as failure:
            self._failure = failure
        finally:
            self._started.set()
            self._ended.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self._server.run(self._begin, self._stop)

    def _begin(self, port: int) -> None:
        self._port = port
        self._started.set()


def _check(options: ServeOptions) -> None:
    faults = [
        Fault(name, f"{value} is too small.", f"At least {least} is needed.")
        for name, value, least in (
            ("max_sessions", options.max_sessions, 1),
            ("idle_s", options.idle_s, 1),
            ("batch", options.batch, 1),
            ("batch_wait_ms", options.batch_wait_ms, 0),
            ("max_message_b", options.max_message_b, 1024),
        )
        if value is not None and value < least
    ]
    if options.token is not None and (not options.token.isascii() or len(options.token.split()) != 1):
        faults.append(
            Fault("token", "it is empty, has spaces, or letters outside ASCII.", "Choose another one.")
        )
    if faults:
        raise ConfigError(faults)


def _described(policy: ServedPolicy, options: ServeOptions) -> dict[str, Any]:
    """What a client must know, as JSON values."""
    wanted = takes(policy)
    features = wanted.features
    return {
        "protocol": protocol.VERSION,
        "name": options.name,
        "n_obs_steps": wanted.n_obs_steps,
        "n_action_steps": wanted.n_action_steps,
        "available_actions": wanted.available_actions,
        "continues": wanted.continues,
        "inputs": [
            {"name": feature.name, "type": str(feature.type), "shape": list(feature.shape)}
            for feature in features.inputs
        ],
        "action": {
            "name": features.action.name,
            "type": str(features.action.type),
            "shape": list(features.action.shape),
        },
        "limits": {
            "message_bytes": options.max_message_b,
            "sessions": options.max_sessions,
            "idle_s": options.idle_s,
        },
    }


def _explained(failure: BaseException, options: ServeOptions) -> TrainableError:
    if isinstance(failure, OSError):
        problem = failure.strerror or str(failure)
        return ServeError(
            f"the server cannot listen at {options.host}, port {options.port}: {problem}. "
            "Choose another --port, or 0 for any that is free."
        )
    return ServeError(f"the server failed to start: {type(failure).__name__}: {failure}")
