"""A policy on another machine, used like one on this machine.

numpy, websockets and msgpack only, so that a robot's computer needs no torch::

    from trainables.deployment import RemotePolicy

    with RemotePolicy("ws://192.168.1.20:8000", token="...") as policy:
        policy.reset(seed=0)  # at the start of each episode
        actions = policy.infer({"observation.state": state})["actions"]  # the server keeps the history

Shapes: B rows, To observation steps, T actions of a chunk, A action dimension.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np

from trainables.deployment.server import protocol
from trainables.features import Feature, FeatureType, PolicyFeatures
from trainables.interface import TrainableError

__all__ = ["RemotePolicy", "RemotePolicyError"]

CLOSE_S = 1.0
_FIXED = ("inputs", "action", "n_obs_steps", "n_action_steps", "available_actions")
"""What may not change when a client connects again."""


class RemotePolicyError(TrainableError):
    """The server cannot be reached, refuses the client, or reports an error in a message.

    Args:
        message: What happened.
        lost: Whether the connection is lost. The next call connects again; the server's history is then
            empty.
    """

    reason = "server"

    def __init__(self, message: str, *, lost: bool = False) -> None:
        super().__init__(message)
        self.lost = lost


class RemotePolicy:
    """The policy that a server serves. Several threads may use it; messages are sent one after the other.

    It can be used in two ways. :meth:`infer` sends one observation, and the server keeps the history.
    :meth:`predict_action` sends all observations that the policy takes, so that nothing depends on earlier
    messages; a controller and a rollout use that.

    Args:
        url: Address of the server, ``ws://HOST:PORT``.
        token: The server's token, if it has one.
        timeout_s: Seconds to wait for an answer, and for a connection.

    Raises:
        RemotePolicyError: If there is no such server.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 10.0) -> None:
        self.url = url if "://" in url else f"ws://{url}"
        self._token = token
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: Any = None
        self._open = contextlib.ExitStack()  # closes the connection
        self.metadata: Mapping[str, Any] = {}
        with self._lock:
            self._connect()
        self.features = _features(self.metadata)
        self.n_obs_steps: int = self.metadata["n_obs_steps"]
        self.n_action_steps: int = self.metadata["n_action_steps"]
        self.available_actions: int = self.metadata["available_actions"]

    def infer(self, observation: Mapping[str, np.ndarray], *, seed: int | None = None) -> dict[str, Any]:
        """Send one observation; the server adds it to the history of this session.

        Args:
            observation: By name, each with the shape of its feature; images uint8 (C, H, W).
            seed: Of this chunk's noise; None: the session's generator draws it.

        Returns:
            ``actions`` (T, A), and ``server_timing`` in ms.

        Raises:
            RemotePolicyError: If the server reports an error, or the connection is lost.
        """
        message = {**observation, **({} if seed is None else {protocol.SEED: seed})}
        return self._request(message)

    def observe(self, observation: Mapping[str, np.ndarray]) -> None:
        """Send an observation for which no actions are needed, so that the history has no gap.

        Raises:
            RemotePolicyError: As :meth:`infer`.
        """
        self._request({**observation, protocol.COMMAND: protocol.OBSERVE})

    def reset(self, seed: int | None = None) -> int:
        """Begin an episode: the server forgets the observations of this session.

        Args:
            seed: Of the session's noise; None for a random one.

        Returns:
            The seed.

        Raises:
            RemotePolicyError: As :meth:`infer`.
        """
        message = {protocol.COMMAND: protocol.RESET, **({} if seed is None else {protocol.SEED: seed})}
        return int(self._request(message)[protocol.SEED])

    def predict_action(
        self,
        observation: Mapping[str, Any],
        *,
        generator: Any = None,
        n_action_steps: int | None = None,
        known: Any = None,
        kept: Any = None,
    ) -> Any:
        """Predict actions from all observations that the policy takes; as the policy itself does.

        Args:
            observation: By name, (B, To, ...), numpy arrays or tensors.
            generator: Where the noise comes from: one seed or one ``torch.Generator`` on a CPU per row, or a
                single one if there is one row. Generators are advanced as if the policy were here. None: the
                session's generator.
            n_action_steps: Actions that are wanted, T; at most ``available_actions``, K.
            known: (B, K, A), actions that the chunks continue; None if they are free.
            kept: (K,), the weight of each of them from 0 to 1.

        Returns:
            Actions (B, T, A): a tensor if the observations are tensors, or else an array.

        Raises:
            RemotePolicyError: As :meth:`infer`.
        """
        message: dict[str, Any] = {name: _array(value) for name, value in observation.items()}
        if n_action_steps is not None:
            message[protocol.N_ACTION_STEPS] = n_action_steps
        if known is not None:
            message |= {protocol.KNOWN: _array(known), protocol.KEPT: _array(kept)}
        generators = _listed(generator)
        if generators and all(isinstance(one, (int, np.integer)) for one in generators):
            message[protocol.SEED] = [int(one) for one in generators]
        elif generators:
            message[protocol.GENERATOR] = [one.get_state().numpy() for one in generators]
        answer = self._request(message)
        for one, state in zip(generators, answer.get(protocol.GENERATOR, ()), strict=False):
            _set_state(one, state)
        return _like(answer[protocol.ACTIONS], observation)

    def close(self) -> None:
        """End the session."""
        with self._lock:
            self._disconnect()

    def __enter__(self) -> RemotePolicy:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _request(self, message: Mapping[str, Any]) -> dict[str, Any]:
        """Send a message and read its answer."""
        try:
            packed = protocol.pack(message)
        except protocol.ProtocolError as error:
            raise RemotePolicyError(str(error)) from error
        with self._lock:
            if self._connection is None:
                self._connect()
            data = self._exchange(packed)
        if isinstance(data, str):
            raise RemotePolicyError(f"{self.url}: {data}")
        answer: dict[str, Any] = protocol.unpack(data)
        return answer

    def _exchange(self, packed: bytes) -> bytes | str:
        closed = protocol.require("websockets.exceptions").ConnectionClosed
        try:
            self._connection.send(packed)
            data: bytes | str = self._connection.recv(timeout=self._timeout_s)
        except TimeoutError as error:
            self._disconnect()  # a late answer would be taken for that of the next message
            raise RemotePolicyError(f"{self.url}: no answer in {self._timeout_s:g} s", lost=True) from error
        except closed as error:
            self._disconnect()
            why = error.rcvd.reason or f"code {error.rcvd.code}" if error.rcvd else "the connection was lost"
            raise RemotePolicyError(f"{self.url}: the server closed the session: {why}", lost=True) from error
        except BaseException:
            self._disconnect()
            raise
        return data

    def _connect(self) -> None:
        client = protocol.require("websockets.sync.client")
        exceptions = protocol.require("websockets.exceptions")
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
        try:
            connecting = client.connect(
                self.url,
                additional_headers=headers,
                compression=None,
                max_size=None,
                open_timeout=self._timeout_s,
                close_timeout=CLOSE_S,
                proxy=None,
            )
            self._connection = self._open.enter_context(connecting)
            data = self._connection.recv(timeout=self._timeout_s)
        except exceptions.InvalidStatus as error:
            body = (error.response.body or b"").decode(errors="replace").strip()
            raise RemotePolicyError(
                f"{self.url}: the server refuses the session: {error.response.status_code} {body}", lost=True
            ) from error
        except (OSError, ValueError, exceptions.WebSocketException) as error:
            self._disconnect()
            raise RemotePolicyError(f"{self.url}: there is no policy server: {error}", lost=True) from error
        try:
            self.metadata = self._checked(data)
        except RemotePolicyError:
            self._disconnect()
            raise

    def _checked(self, data: bytes | str) -> dict[str, Any]:
        """The description of the server, which is the first message of a session."""
        try:
            metadata = None if isinstance(data, str) else protocol.unpack(data)
        except protocol.ProtocolError:
            metadata = None
        if not isinstance(metadata, dict) or metadata.get("protocol") != protocol.VERSION:
            raise RemotePolicyError(f"{self.url}: the server does not speak this client's protocol")
        if self.metadata and any(metadata[name] != self.metadata[name] for name in _FIXED):
            raise RemotePolicyError(f"{self.url}: another policy is served there now")
        return metadata

    def _disconnect(self) -> None:
        self._connection = None
        self._open.close()


def _features(metadata: Mapping[str, Any]) -> PolicyFeatures:
    inputs = tuple(_feature(described) for described in metadata["inputs"])
    return PolicyFeatures(inputs, _feature(metadata["action"]))


def _feature(described: Mapping[str, Any]) -> Feature:
    return Feature(described["name"], FeatureType(described["type"]), tuple(described["shape"]))


def _array(value: Any) -> np.ndarray:
    """An array of a value that may be a tensor on any device; torch is not imported for it."""
    if isinstance(value, np.ndarray):
        return value
    return np.asarray(value.detach().cpu().numpy() if hasattr(value, "detach") else value)


def _listed(generator: Any) -> Sequence[Any]:
    if generator is None:
        return []
    return list(generator) if isinstance(generator, (list, tuple)) else [generator]


def _set_state(generator: Any, state: np.ndarray) -> None:
    """Advance a ``torch.Generator``; its own state is the tensor that is written to."""
    tensor = generator.get_state()
    tensor.numpy()[:] = state
    generator.set_state(tensor)


def _like(actions: np.ndarray, observation: Mapping[str, Any]) -> Any:
    """The actions as a tensor, on the observations' device, if those are tensors."""
    for value in observation.values():
        if hasattr(value, "new_tensor"):
            return value.float().new_tensor(actions)
    return np.array(actions)
