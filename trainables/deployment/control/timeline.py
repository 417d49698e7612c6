"""Which action is executed at a tick, and when the next chunk is requested. It knows no clock and no thread.

The control loop of a robot and the rollouts in a simulator use it alike: the one with threads and measured
time, the other with a fixed delay.

Shapes: ``K`` actions of a chunk that lie in the future, ``A`` action dimension, ``N`` samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from trainables.deployment.control.settings import ControlSettings

__all__ = ["Request", "Timeline", "skipped_steps", "soft_mask"]

COHERENCE_DECAY = 0.5
"""Weight of each later action in the distance of two chunks; rho in bidirectional decoding."""
SLOWEST = 0.25
"""The lowest speed of a chunk that is stretched."""


@dataclass(frozen=True)
class Request:
    """A prediction that is asked for.

    Attributes:
        known: (K, A): what will be executed until the chunk arrives and what was planned after that; None if
            the chunk is free.
        kept: (K,): weight of each of these, from 1 (the chunk must have it) to 0 (the chunk is free).
    """

    known: np.ndarray | None = None
    kept: np.ndarray | None = None


@dataclass
class _Chunk:
    actions: np.ndarray
    position: float

    @property
    def left(self) -> float:
        return len(self.actions) - self.position


class Timeline:
    """The chunks of one robot over time.

    Args:
        settings: How chunks are requested and executed.
        n_action_steps: Actions of a chunk that are meant to be executed.

    Attributes:
        late_ticks: Ticks at which no action of a chunk was left, or it was stretched.
        dropped: Actions of chunks that were dropped because their time had passed on arrival.
        predictions: Chunks that arrived.
    """

    def __init__(self, settings: ControlSettings, n_action_steps: int) -> None:
        self.settings = settings
        self.late_ticks = 0
        self.dropped = 0
        self.predictions = 0
        self._steps = n_action_steps
        self._chunks: list[_Chunk] = []
        self._last_A: np.ndarray | None = None
        self._pending = False
        self._progress = 0.0
        self._delay = 0
        self._waited = 0

    @property
    def has_started(self) -> bool:
        """Whether the first chunk has arrived."""
        return bool(self._chunks)

    def wants(self) -> bool:
        """Whether a chunk is to be requested for the present observation."""
        if self._pending:
            return False
        if not self._chunks or self.settings.mode == "ensemble":
            return True
        remaining = self._steps - self._chunks[-1].position
        share = 0.0 if self.settings.mode == "sync" else self.settings.replan
        return remaining <= math.ceil(share * self._steps)

    def request(self, delay: int = 0) -> Request:
        """Record that a chunk is requested now.

        Args:
            delay: Ticks after which it is expected.
        """
        self._pending, self._progress, self._delay, self._waited = True, 0.0, delay, 0
        if self.settings.mode != "rtc" or not self._chunks:
            return Request()
        return self._continuation(self._chunks[-1], delay)

    def deliver(self, chunk_KA: np.ndarray) -> None:
        """Receive the chunk that was requested; its first action is for the tick of the request."""
        self._pending = False
        self.predictions += 1
        waits = self.settings.mode == "sync" or not self._chunks
        position = 0.0 if waits else min(round(self._progress), len(chunk_KA))
        self.dropped += int(position)
        arrived = _Chunk(chunk_KA, position)
        if self.settings.mode == "ensemble":
            self._chunks = [*(chunk for chunk in self._chunks if chunk.left > 0), arrived]
        else:
            self._chunks = [arrived]

    def choose(self, chunks_NKA: np.ndarray) -> np.ndarray:
        """The sample (K, A) that is nearest to what the last chunk had planned."""
        if len(chunks_NKA) == 1 or not self._chunks:
            return np.asarray(chunks_NKA[0])
        last = self._chunks[-1]
        planned_KA = last.actions[max(0, int(last.position - self._progress)) :]
        overlap = min(len(planned_KA), chunks_NKA.shape[1])
        if not overlap:
            return np.asarray(chunks_NKA[0])
        # Dimensions count alike, whatever their units.
        spread_A = chunks_NKA.reshape(-1, chunks_NKA.shape[-1]).std(axis=0) + 1e-9
        distance_NK = np.linalg.norm((chunks_NKA[:, :overlap] - planned_KA[:overlap]) / spread_A, axis=-1)
        coherence_N = distance_NK @ COHERENCE_DECAY ** np.arange(overlap)
        return np.asarray(chunks_NKA[int(coherence_N.argmin())])

    def rest(self) -> np.ndarray | None:
        """What the last chunk has from the present on, (K, A), its last action repeated; None without one.

        A policy with a warm start begins its next chunk there.
        """
        return self._rest(self._chunks[-1]) if self._chunks else None

    def advance(self, hold_A: np.ndarray | None = None) -> np.ndarray:
        """The action (A,) to execute at this tick.

        Args:
            hold_A: The action that holds the robot, for ``late: hold``.

        Raises:
            RuntimeError: If no chunk has arrived yet.
        """
        if not self._chunks:
            raise RuntimeError("no chunk has arrived yet: wait for the first one")
        speed = self._speed()
        action_A = self._planned()
        if action_A is None:
            self.late_ticks += 1
            held = self.settings.late == "hold" and hold_A is not None
            action_A = hold_A if held else self._last_A
            assert action_A is not None
        else:
            self.late_ticks += speed < 1
            for chunk in self._chunks:
                chunk.position += speed
            self._progress += speed
            self._last_A = action_A
        self._waited += 1
        return np.array(action_A, dtype=np.float32)

    def _planned(self) -> np.ndarray | None:
        """The action that the chunks have for this tick; None if they have ended."""
        if self.settings.mode == "ensemble":
            return self._averaged()
        chunk = self._chunks[-1]
        end = self._steps if self.settings.mode == "sync" else len(chunk.actions)
        return None if chunk.position >= end else _at(chunk.actions, chunk.position)

    def _averaged(self) -> np.ndarray | None:
        ready = [chunk for chunk in self._chunks if chunk.left > 0]
        if not ready:
            return None
        weights = np.exp(-self.settings.decay * np.arange(len(ready)))
        actions = np.stack([_at(chunk.actions, chunk.position) for chunk in ready])
        return np.asarray(weights @ actions / weights.sum())

    def _speed(self) -> float:
        """Actions per tick: below 1 if what is left is stretched until the next chunk is expected."""
        if self.settings.late != "slow" or not self._pending:
            return 1.0
        ticks = self._delay - self._waited
        left = max(chunk.left for chunk in self._chunks)
        return 1.0 if ticks <= left else max(SLOWEST, left / ticks)

    def _continuation(self, chunk: _Chunk, delay: int) -> Request:
        size = len(chunk.actions)
        return Request(self._rest(chunk), soft_mask(size, delay, size - math.floor(chunk.position)))

    @staticmethod
    def _rest(chunk: _Chunk) -> np.ndarray:
        size, first = len(chunk.actions), math.floor(chunk.position)
        rest_KA = np.repeat(chunk.actions[-1:], size, axis=0)
        rest_KA[: size - first] = chunk.actions[first:]
        return rest_KA


def skipped_steps(policy: object) -> int:
    """The first denoising steps of a policy that the rest of its last chunk replaces; 0 for no warm start.

    A policy that has ``warm_start_steps`` above 0 takes ``previous`` (B, K, A) and ``skipped_steps`` in
    ``predict_action``.
    """
    return int(getattr(policy, "warm_start_steps", 0))


def soft_mask(size: int, delay: int, planned: int) -> np.ndarray:
    """Weights (size,) of known actions: 1 until the chunk arrives, then falling to 0 where the plan ends.

    Black et al., arXiv 2506.07339, equation 5.

    Args:
        size: Actions of a chunk.
        delay: Ticks until it arrives: these actions will have been executed.
        planned: Actions of the last chunk that are left.
    """
    place = np.arange(size)
    share = np.clip((planned - place) / max(1, planned - delay + 1), 0.0, 1.0)
    soft = share * np.expm1(share) / np.expm1(1.0)
    return np.asarray(np.where(place < min(delay, planned), 1.0, np.where(place < planned, soft, 0.0)))


def _at(actions_KA: np.ndarray, position: float) -> np.ndarray:
    """The action at a place between two, interpolated."""
    low = int(position)
    share = position - low
    if share == 0 or low + 1 >= len(actions_KA):
        return np.asarray(actions_KA[low])
    return np.asarray((1 - share) * actions_KA[low] + share * actions_KA[low + 1])
