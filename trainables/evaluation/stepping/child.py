"""The program of a process of simulators: it executes orders until the other end of its socket is closed."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import pickle
import signal
import socket
import sys
import traceback
from multiprocessing.connection import Connection
from typing import Any

from trainables.environment import SimulatorError
from trainables.evaluation.simulators import FAILURES, release
from trainables.evaluation.stepping.shared import SharedWriter
from trainables.evaluation.stepping.simulator import Played, Simulator
from trainables.features import PolicyFeatures
from trainables.interface import TrainableError

__all__ = ["Crashed", "Refused", "serve"]

_PR_SET_PDEATHSIG = 1


class Crashed(tuple[str, str]):
    """An answer: the simulator raised an error; its last line and its traceback.

    What else was ordered of the same simulator at the same time gets no answer.
    """


class Refused(str):
    """An answer: the simulator cannot be used, whatever is tried; why."""


def serve(orders_fd: int, memory_fd: int, log_fd: int, parent: int) -> None:
    """Execute orders.

    Args:
        orders_fd: The socket of orders and answers.
        memory_fd: The shared memory.
        log_fd: Receives the stacks of this process if it crashes, or hangs and gets ``SIGUSR1``.
        parent: The process that started this one.
    """
    _end_with(parent)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    faulthandler.enable(log_fd)
    faulthandler.register(signal.SIGUSR1, log_fd)
    connection = Connection(socket.socket(fileno=orders_fd).detach())
    memory = SharedWriter(memory_fd)
    with contextlib.suppress(EOFError, ConnectionError), contextlib.ExitStack() as closing:
        env_id, features, registered = connection.recv()
        _register(env_id, registered)
        seats = _Seats(env_id, features, memory)
        closing.callback(seats.close)
        connection.send(seats.describe())
        while True:
            failed: set[int] = set()
            for seat, order in connection.recv():
                if seat not in failed:
                    answer = seats.answer(seat, order)
                    connection.send(answer)
                    failed |= {seat} if isinstance(answer, Crashed) else set()
    # A thread of a simulator must not keep the process alive: everything is over anyway.
    os._exit(0)


class _Seats:
    def __init__(self, env_id: str, features: PolicyFeatures, memory: SharedWriter) -> None:
        self._env_id = env_id
        self._features = features
        self._memory = memory
        self._spare: Simulator | None = None
        self._simulators: dict[int, Simulator] = {}

    def describe(self) -> Any:
        """Make the first simulator: its step limit and its rate."""
        try:
            self._spare = self._made()
        except FAILURES as error:
            return _failed(error)
        return self._spare.environment.max_steps, self._spare.environment.fps

    def answer(self, seat: int, order: Any) -> Any:
        """Execute an order; after an error the simulator is made again at the next one."""
        try:
            if seat not in self._simulators:
                self._simulators[seat], self._spare = self._spare or self._made(), None
            played: Played = self._simulators[seat].execute(order)
            placed = [self._memory.put(seat, at, seen) for at, seen in enumerate(played.observations)]
        except FAILURES as error:
            broken = self._simulators.pop(seat, None)
            if broken is not None:
                release(broken.environment)
            return _failed(error)
        return placed, played.rewards, played.success, played.done

    def close(self) -> None:
        """Close the simulators, which may have started programs of their own."""
        for simulator in [*self._simulators.values(), *([self._spare] if self._spare else [])]:
            release(simulator.environment)

    def _made(self) -> Simulator:
        return Simulator(self._env_id, self._features, self._memory.count)


def _failed(error: BaseException) -> Crashed | Refused:
    if isinstance(error, TrainableError):
        return Refused(error)
    return Crashed((f"{type(error).__name__}: {error}", traceback.format_exc()))


def _end_with(parent: int) -> None:
    """End when the parent ends, even if it is killed and a simulator holds Python's lock."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def _register(env_id: str, registered: bytes | None) -> None:
    """Make known what only the parent's code has registered."""
    if registered is None:
        return
    import gymnasium

    from trainables.evaluation.simulators import make_known

    with contextlib.suppress(SimulatorError):
        make_known(env_id)
    gymnasium.registry.setdefault(env_id.rpartition(":")[2], pickle.loads(registered))
