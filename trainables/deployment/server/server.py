"""The server: connections, pages on the same port, limits, and an orderly end.

One message of a client is answered at a time, so the answers come in order. What a client does affects only
its own connection: a fault in a message is answered with a text frame, and the connection stays open.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import inspect
import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from trainables.deployment.server import protocol
from trainables.deployment.server.batcher import Batcher, Prediction, ServedPolicy, available_actions
from trainables.deployment.server.metrics import Metrics
from trainables.deployment.server.observations import (
    MOST_ROWS,
    Request,
    RequestError,
    Reset,
    Takes,
    read_request,
)
from trainables.deployment.server.protocol import ProtocolError
from trainables.deployment.server.sessions import Session
from trainables.deployment.server.warm_up import BatchSize
from trainables.features import FeatureType
from trainables.interface import ServeOptions

__all__ = ["PolicyServer", "message_limit", "takes"]

OPEN_S, CLOSE_S, SEND_S = 10.0, 2.0, 20.0
"""Seconds for the handshake, for the end of a connection, and for a client to read an answer."""
DRAIN_S = 10.0
"""Seconds for messages that are being answered when the server ends."""
PING_S = 20.0
QUEUED = 2
"""Messages of a client that are read before the first of them is answered."""
_OTHER_B, _FEW_ROWS, _MUCH_B = 2**20, 4, 2**24
"""Room in a message for everything but observations; rows that always fit; bytes of rows that are much."""
_HEALTH, _METADATA, _METRICS = "/healthz", "/metadata", "/metrics"


def takes(policy: ServedPolicy) -> Takes:
    """What a policy takes."""
    arguments = inspect.signature(policy.predict_action).parameters
    return Takes(
        features=policy.features,
        n_obs_steps=policy.n_obs_steps,
        n_action_steps=policy.n_action_steps,
        available_actions=available_actions(policy),
        continues={protocol.KNOWN, protocol.KEPT} <= set(arguments),
    )


def message_limit(policy: ServedPolicy) -> int:
    """The largest message in bytes, unless one is given: all rows if they are small, or else a few."""
    step = sum(
        int(np.prod(feature.shape)) * (1 if feature.type is FeatureType.VISUAL else 8)
        for feature in policy.features.inputs
    )
    row = step * policy.n_obs_steps
    return _OTHER_B + max(_FEW_ROWS * row, min(MOST_ROWS * row, _MUCH_B))


class PolicyServer:
    """Serves one policy until it is stopped; to be used in one event loop.

    Args:
        policy: In evaluation mode.
        options: Where and for whom.
        token: What clients must send; None if they need none.
        batch: Rows of every batch.
        description: What every client receives first, and what ``/metadata`` shows.
        report: Receives a sentence whenever a session begins, ends or is refused.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        options: ServeOptions,
        token: str | None,
        batch: BatchSize,
        description: Mapping[str, Any],
        report: Callable[[str], object],
    ) -> None:
        self.metrics = Metrics()
        self.counts = {"sessions": 0, "answers": 0, "errors": 0}
        self._takes = takes(policy)
        self._options = options
        self._token = token
        self._description = dict(description)
        self._report = report
        self._sessions: dict[int, tuple[Session, Any]] = {}
        self._ending = False
        self._batcher = Batcher(
            policy, batch.rows, options.batch_wait_ms / 1e3, lambda: len(self._sessions), self.metrics.batch
        )

    async def run(self, started: Callable[[int], object], stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set, then answer what is being answered and close all connections.

        Args:
            started: Receives the port as soon as clients can connect.
            stop: Ends the server.

        Raises:
            OSError: If the port cannot be used.
            Exception: If the predictions have ended.
        """
        serving = protocol.require("websockets.asyncio.server")
        self._batcher.start()
        try:
            server = await serving.serve(
                self._handle,
                self._options.host,
                self._options.port,
                process_request=self._page,
                # A browser names the page that opens a connection, and no page may. Programs name none.
                origins=[None],
                compression=None,
                max_size=self._options.max_message_b,
                open_timeout=OPEN_S,
                close_timeout=CLOSE_S,
                ping_interval=PING_S,
                ping_timeout=PING_S,
                max_queue=QUEUED,
                server_header=None,
                logger=_quiet(),
            )
            try:
                started(server.sockets[0].getsockname()[1])
                stopped = asyncio.create_task(stop.wait())
                await asyncio.wait({stopped, self._batcher.task}, return_when=asyncio.FIRST_COMPLETED)
                stopped.cancel()
                if self._batcher.task.done():
                    await self._batcher.task  # which raises: no client would get an answer any more
                await self._drain()
            finally:
                server.close()
                await self._batcher.close()  # first, because sessions wait for its answers
                await server.wait_closed()
        finally:
            await self._batcher.close()

    async def _drain(self) -> None:
        """Take no more messages, and wait for those that are being answered."""
        self._ending = True
        idle = [connection for session, connection in self._sessions.values() if not session.busy]
        for connection in idle:
            asyncio.get_running_loop().create_task(connection.close(1001, "the server is ending"))
        deadline_s = time.monotonic() + DRAIN_S
        while any(session.busy for session, _ in self._sessions.values()) and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)

    # Pages and the handshake

    def _page(self, connection: Any, request: Any) -> Any:
        """The answer to a request for a page; None if the client wants a session and may have one."""
        path = request.path.partition("?")[0]
        if path == _HEALTH:
            alive = self._batcher.alive and not self._ending
            status = http.HTTPStatus.OK if alive else http.HTTPStatus.SERVICE_UNAVAILABLE
            return connection.respond(status, "OK\n" if alive else "ending\n")
        if not self._knows_token(request.headers):
            self._refuse("token", connection, "it sent no valid token")
            response = connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "This server needs its token: Authorization: Bearer TOKEN\n"
            )
            response.headers["WWW-Authenticate"] = "Bearer"
            return response
        if path == _METADATA:
            text = json.dumps({**self._description, "sessions": len(self._sessions)}, indent=2) + "\n"
            return _typed(connection.respond(http.HTTPStatus.OK, text), "application/json")
        if path == _METRICS:
            text = self.metrics.page().decode()
            return _typed(connection.respond(http.HTTPStatus.OK, text), self.metrics.content_type)
        if "Upgrade" not in request.headers:
            pages = ", ".join((_HEALTH, _METADATA, _METRICS))
            return connection.respond(
                http.HTTPStatus.NOT_FOUND, f"Pages are {pages}; everything else is a WebSocket.\n"
            )
        return self._full(connection)

    def _full(self, connection: Any) -> Any:
        if len(self._sessions) < self._options.max_sessions:
            return None
        self._refuse("sessions", connection, f"there are {len(self._sessions)} sessions already")
        return connection.respond(
            http.HTTPStatus.SERVICE_UNAVAILABLE,
            f"All {self._options.max_sessions} sessions are in use. Try again later.\n",
        )

    def _knows_token(self, headers: Any) -> bool:
        if self._token is None:
            return True
        given = headers.get_all("Authorization")
        scheme, _, token = (given[0] if len(given) == 1 else "").partition(" ")
        # openpi's clients write Api-Key. The comparison takes as long for any token.
        same = hmac.compare_digest(token.strip().encode(), self._token.encode())
        return same and scheme.lower() in ("bearer", "api-key")

    def _refuse(self, reason: str, connection: Any, why: str) -> None:
        self.metrics.refused(reason)
        self._report(f"refused {_address(connection)}: {why}")

    # Sessions

    async def _handle(self, connection: Any) -> None:
        """One session, from the first to the last message."""
        if len(self._sessions) >= self._options.max_sessions:  # two handshakes at the same moment
            self._refuse("sessions", connection, f"there are {len(self._sessions)} sessions already")
            await connection.close(1013, "all sessions are in use")
            return
        self.counts["sessions"] += 1
        session = Session(self.counts["sessions"], _address(connection), self._takes.n_obs_steps)
        self._sessions[session.number] = (session, connection)
        self.metrics.session_began()
        self._report(f"session {session.number} from {session.address} began")
        end = "the client is gone"
        try:
            end = await self._converse(session, connection)
        except protocol.require("websockets.exceptions").ConnectionClosed as closed:
            end = _why_closed(closed)
        finally:
            del self._sessions[session.number]
            self.metrics.session_ended()
            self._report(
                f"session {session.number} ended after {session.answers} answers and "
                f"{session.errors} errors: {end}"
            )

    async def _converse(self, session: Session, connection: Any) -> str:
        """Answer one message after the other; returns why the session ended."""
        first = {**self._description, "session": {"number": session.number, "seed": session.seed}}
        if not await _sent(connection, protocol.pack(first)):
            return "it does not read"
        while not self._ending:
            try:
                async with asyncio.timeout(self._options.idle_s):
                    data = await connection.recv()
            except TimeoutError:
                await connection.close(1000, f"idle for {self._options.idle_s:g} s")
                return f"idle for {self._options.idle_s:g} s"
            session.busy = True
            try:
                if not await _sent(connection, await self._answer(session, data)):
                    return "it does not read"
            finally:
                session.busy = False
        await connection.close(1001, "the server is ending")
        return "the server is ending"

    async def _answer(self, session: Session, data: bytes | str) -> bytes | str:
        """The answer to a message: bytes, or the text of an error."""
        try:
            return await self._reply(session, data)
        except (ProtocolError, RequestError) as error:
            outcome, text = "invalid", str(error)
        except Exception as error:  # of the policy: the other clients are not concerned
            outcome, text = "failed", f"the policy failed: {type(error).__name__}: {error}"
            self._report(f"session {session.number}: {text}")
        session.errors += 1
        self.counts["errors"] += 1
        self.metrics.answered(outcome)
        return text

    async def _reply(self, session: Session, data: bytes | str) -> bytes:
        begin_s = time.perf_counter()
        if isinstance(data, str):
            raise ProtocolError("the message is text: send msgpack in a binary frame")
        request = read_request(protocol.unpack(data), self._takes)
        if isinstance(request, Reset):
            session.reset(request.seed)
            self.metrics.answered("reset")
            return protocol.pack({protocol.RESET: True, protocol.SEED: session.seed})
        if request.observe_only:
            session.observe(request.values)
            self.metrics.answered("observed")
            return protocol.pack({"remembered": session.remembered})
        answer, prediction = await self._act(session, request)
        answer_s = time.perf_counter() - begin_s
        answer[protocol.TIMING] = {
            "infer_ms": 1e3 * prediction.predicted_s,
            "wait_ms": 1e3 * prediction.waited_s,
            "total_ms": 1e3 * answer_s,
            "rows": prediction.rows,
        }
        session.answers += 1
        self.counts["answers"] += 1
        self.metrics.answered("actions")
        self.metrics.predicted(answer_s, prediction.waited_s)
        return protocol.pack(answer)

    async def _act(self, session: Session, request: Request) -> tuple[dict[str, Any], Prediction]:
        """The actions for an observation, and how long the slowest row took."""
        rows = session.rows(request)
        predictions = await self._batcher.predict(rows)
        actions = np.stack([prediction.actions[: request.n_action_steps] for prediction in predictions])
        if not np.isfinite(actions).all():
            raise ArithmeticError("its actions are not finite. Its training has diverged.")
        answer: dict[str, Any] = {protocol.ACTIONS: actions if request.layout == "rows" else actions[0]}
        if request.states:
            answer[protocol.GENERATOR] = [row.generator.get_state().numpy() for row in rows]
        return answer, max(predictions, key=lambda one: one.waited_s + one.predicted_s)


async def _sent(connection: Any, data: bytes | str) -> bool:
    """Send a message; False if the client has not read it in time, and is cut off."""
    try:
        async with asyncio.timeout(SEND_S):
            await connection.send(data)
    except TimeoutError:
        connection.transport.abort()
        return False
    return True


def _typed(response: Any, content_type: str) -> Any:
    del response.headers["Content-Type"]
    response.headers["Content-Type"] = content_type
    return response


def _address(connection: Any) -> str:
    address = connection.remote_address
    return f"{address[0]}:{address[1]}" if isinstance(address, tuple) else "an unknown address"


def _why_closed(closed: Any) -> str:
    """Why a connection ended, in words."""
    ours, theirs = closed.sent, closed.rcvd
    if theirs is not None and not (ours is not None and closed.rcvd_then_sent is False):
        return f"the client closed it ({theirs.reason or theirs.code})"
    if ours is not None:
        return {
            1009: "its message is too large",
            1011: "it does not answer",
            1001: "the server is ending",
        }.get(ours.code, ours.reason or f"closed with {ours.code}")
    return "the connection was lost"


def _quiet() -> logging.Logger:
    """A logger for websockets: strangers who knock at the port are not errors of the server."""
    logger = logging.getLogger("trainables.deployment.server")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
        logger.propagate = False
    return logger
