"""Predictions for several clients at once, in one thread, so that the event loop never waits for the policy.

A client's actions must not depend on the other clients. The number of rows of a batch decides the last bits
of a matrix product, so it never changes: empty rows are filled with a copy. ``warm_up`` chooses a number for
which the place in the batch does not matter.

Shapes: B rows, To observation steps, K actions of a chunk that lie in the future, A action dimension.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from trainables.features import PolicyFeatures

__all__ = ["Batcher", "Prediction", "Row", "ServedPolicy", "available_actions", "predict_rows"]


class ServedPolicy(Protocol):
    """What the server needs from a policy; what a rollout needs, too.

    It may have more than the server needs: ``available_actions``, if ``predict_action`` has the argument
    ``n_action_steps``; and the arguments ``known`` (B, K, A) and ``kept`` (K,), if it can continue actions.
    """

    @property
    def n_obs_steps(self) -> int:
        """Observations that ``predict_action`` takes."""
        ...

    @property
    def n_action_steps(self) -> int:
        """Actions of a chunk."""
        ...

    @property
    def features(self) -> PolicyFeatures:
        """What the policy sees and does."""
        ...

    def predict_action(
        self, observation: Mapping[str, torch.Tensor], *, generator: list[torch.Generator]
    ) -> torch.Tensor:
        """Predict actions (B, n_action_steps, A) from observations (B, To, ...).

        Row i draws from ``generator[i]``.
        """
        ...


@dataclass
class Row:
    """One prediction that is wanted.

    Attributes:
        observation: The last observations by name, (To, ...).
        generator: What its noise is drawn from; it is advanced.
        known: (K, A), the actions that the chunk continues; None if it is free.
        kept: (K,), the weight of each of them. Rows of a batch have the same.
    """

    observation: Mapping[str, np.ndarray] = field(repr=False)
    generator: torch.Generator
    known: np.ndarray | None = None
    kept: np.ndarray | None = None

    @property
    def key(self) -> bytes | None:
        """What rows of a batch have in common."""
        return None if self.kept is None else self.kept.tobytes()


@dataclass(frozen=True)
class Prediction:
    """A chunk, and how long it took.

    Attributes:
        actions: (K, A), float32: all that lie in the future.
        waited_s: From the request to the start of the batch.
        predicted_s: Of the whole batch.
        rows: Rows of the batch that clients asked for.
    """

    actions: np.ndarray
    waited_s: float
    predicted_s: float
    rows: int


def available_actions(policy: ServedPolicy) -> int:
    """Actions of a chunk that lie in the future, K."""
    return int(getattr(policy, "available_actions", policy.n_action_steps))


def predict_rows(policy: ServedPolicy, rows: Sequence[Row], size: int) -> np.ndarray:
    """Predict one chunk per row (rows, K, A), in a batch of ``size`` rows."""
    first = rows[0]
    filling = [
        Row(first.observation, torch.Generator().manual_seed(0), first.known, first.kept)
        for _ in range(size - len(rows))
    ]
    filled = [*rows, *filling]
    observation = {
        feature.name: torch.from_numpy(np.stack([row.observation[feature.name] for row in filled]))
        for feature in policy.features.inputs
    }
    options: dict[str, Any] = {}
    if available_actions(policy) != policy.n_action_steps:
        options["n_action_steps"] = available_actions(policy)
    if first.kept is not None:
        options["known"] = torch.from_numpy(np.stack([row.known for row in filled if row.known is not None]))
        options["kept"] = torch.from_numpy(first.kept)
    generators = [row.generator for row in filled]
    predict: Any = policy.predict_action  # not every policy has the options
    with torch.inference_mode():
        predicted_BKA = predict(observation, generator=generators, **options)
    actions_BKA: np.ndarray = predicted_BKA.float().cpu().numpy()[: len(rows)]
    return actions_BKA


@dataclass
class _Waiting:
    row: Row
    answer: asyncio.Future[Prediction]
    since_s: float


class Batcher:
    """Collects rows and has the policy predict them; to be used in one event loop.

    Args:
        policy: In evaluation mode.
        size: Rows of every batch.
        wait_s: How long the first row of a batch waits for others.
        clients: How many clients may ask at the moment: nothing waits for a row that cannot come.
        observe: Receives the number of rows and the seconds of every batch.

    Attributes:
        task: What predicts, after :meth:`start`; it ends only by :meth:`close` or by an error of ours.
    """

    def __init__(
        self,
        policy: ServedPolicy,
        size: int,
        wait_s: float,
        clients: Callable[[], int],
        observe: Callable[[int, float], object],
    ) -> None:
        self._policy = policy
        self._size = size
        self._wait_s = wait_s
        self._clients = clients
        self._observe = observe
        self._requests: deque[deque[_Waiting]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="inference")
        self.task: asyncio.Task[None]

    def start(self) -> None:
        """Begin to predict."""
        self.task = asyncio.get_running_loop().create_task(self._run())

    @property
    def alive(self) -> bool:
        """Whether rows are predicted."""
        return not self.task.done()

    async def close(self) -> None:
        """End after the batch that is being predicted; no row gets an answer any more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        _end(itertools.chain.from_iterable(self._requests))
        self._requests.clear()
        await asyncio.get_running_loop().run_in_executor(None, self._thread.shutdown)

    async def predict(self, rows: Sequence[Row]) -> list[Prediction]:
        """Predict rows, together with those of others.

        Raises:
            Exception: What the policy raises.
            RuntimeError: If the batcher ends.
        """
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(row, loop.create_future(), time.perf_counter()) for row in rows]
        self._requests.append(deque(waiting))
        self._arrived.set()
        try:
            return list(await asyncio.gather(*(one.answer for one in waiting)))
        finally:
            for one in waiting:
                one.answer.cancel()  # does nothing to an answer that was given

    async def _run(self) -> None:
        while True:
            batch: list[_Waiting] = []
            try:
                await self._collect(batch)
                await self._predict(batch)
            except BaseException:
                _end(batch)
                raise

    async def _collect(self, batch: list[_Waiting]) -> None:
        """Fill the next batch, until it is full or its first row has waited."""
        while True:
            self._arrived.clear()
            self._take(batch)
            left_s = batch[0].since_s + self._wait_s - time.perf_counter() if batch else None
            full = len(batch) >= min(self._size, self._clients()) or bool(self._requests)
            if batch and (full or (left_s or 0.0) <= 0.0):
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._arrived.wait()

    def _take(self, batch: list[_Waiting]) -> None:
        """Move rows into a batch, one of each request in turn, so that long requests hold up no short one."""
        others: list[deque[_Waiting]] = []
        while self._requests and len(batch) < self._size:
            request = self._requests.popleft()
            if batch and request[0].row.key != batch[0].row.key:
                others.append(request)
                continue
            row = request.popleft()
            if request:
                self._requests.append(request)
            if not row.answer.done():  # or else its client is gone
                batch.append(row)
        self._requests.extendleft(reversed(others))

    async def _predict(self, batch: list[_Waiting]) -> None:
        start_s = time.perf_counter()
        rows = [one.row for one in batch]
        loop = asyncio.get_running_loop()
        try:
            actions = await loop.run_in_executor(self._thread, predict_rows, self._policy, rows, self._size)
        except Exception as error:  # an answer for these clients; the next batch may succeed
            for one in batch:
                if not one.answer.done():
                    one.answer.set_exception(error)
            return
        predicted_s = time.perf_counter() - start_s
        self._observe(len(batch), predicted_s)
        for one, actions_KA in zip(batch, actions, strict=True):
            if not one.answer.done():
                one.answer.set_result(Prediction(actions_KA, start_s - one.since_s, predicted_s, len(batch)))


def _end(waiting: Iterable[_Waiting]) -> None:
    """Refuse rows, because nothing is predicted any more."""
    for one in waiting:
        if not one.answer.done():
            one.answer.set_exception(RuntimeError("the server is ending"))
