"""Simulators in processes of their own.

The processes are started as new programs, not forked: torch's threads and CUDA do not survive a fork. They
end when the socket to them is closed, and at the latest with the process that started them.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing import connection as connections
from multiprocessing.connection import Connection
from typing import Any

from trainables.environment import FIELD, Observation, SimulatorError
from trainables.evaluation.stepping.child import Crashed, Refused
from trainables.evaluation.stepping.shared import SharedReader, anonymous_file
from trainables.evaluation.stepping.simulator import Order, Played
from trainables.evaluation.stepping.simulators import Histories
from trainables.features import PolicyFeatures

__all__ = ["ProcessSimulators"]

LOOK_S = 0.5
"""How often it is looked for processes that hang, at the least."""
START_S = 300.0
"""How long a process may take to load its packages, on a busy machine, if ``rollout.timeout_s`` is less."""
CLOSE_S = 2.0
"""How long all processes together may take to close; then they are killed."""
STACKS_S = 0.5
"""How long a hanging process may take to write its stacks before it is killed."""
LONGEST_LOG = 4_000
PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from trainables.evaluation.stepping.child import serve; serve(*map(int, sys.argv[2:]))"
)


class ProcessSimulators:
    """Simulators in several processes: seat ``i`` is in process ``i % processes``.

    Args:
        env_id: What ``make_environment`` accepts.
        features: What the policy sees and does.
        processes: How many processes.
        timeout_s: How long a simulator may take to be made, for a reset or for a step.
        log: Receives what went wrong and what is done about it.

    Raises:
        SimulatorError: If the environment cannot be created in a new process.
    """

    def __init__(
        self,
        env_id: str,
        features: PolicyFeatures,
        processes: int,
        timeout_s: float,
        log: Callable[[str], None],
    ) -> None:
        self.processes = processes
        self._env_id = env_id
        self._greeting = env_id, features, _registered(env_id)
        self._timeout_s = timeout_s
        self._histories = Histories(env_id, log)
        self._seats: set[int] = set()
        self._children: list[_Child] = []
        try:
            for _ in range(processes):
                self._children.append(_Child(self._greeting))
            described = [self._described(child) for child in self._children]
        except BaseException:
            self.close(at_once=True)
            raise
        self.max_steps: int | None = described[0][0]
        self.fps: float = described[0][1]

    def run(self, orders: Mapping[int, Order]) -> dict[int, Played]:
        """Execute one order in each of some seats.

        Raises:
            SimulatorError: If a simulator fails again after its episode's retry, or cannot be used.
        """
        for seat, order in orders.items():
            self._histories.add(seat, order)
        self._seats |= set(orders)
        work: dict[int, _Work] = {}
        for seat, order in orders.items():
            work.setdefault(seat % self.processes, _Work()).later.append((seat, order, True))
        missing = set(orders)
        answers: dict[int, Played] = {}
        while work:
            for number, one in list(work.items()):
                if not one.sent and not one.later:
                    del work[number]
                elif not one.sent:
                    self._send(number, one)
            for number in self._ready(work):
                self._receive(number, work[number], missing, answers)
        return {seat: answers[seat] for seat in orders}

    def close(self, *, at_once: bool = False) -> None:
        """End the processes.

        Args:
            at_once: Do not wait for them to end by themselves.
        """
        deadline_s = time.monotonic() + (0 if at_once else CLOSE_S)
        for child in self._children:
            child.hang_up()
        for child in self._children:
            child.end(max(0.0, deadline_s - time.monotonic()))
        self._children = []

    def _send(self, number: int, work: _Work) -> None:
        """Send a process what is to be done; it has nothing else to do, so it receives all of it."""
        child = self._children[number]
        child.show_life()
        # A process that has died is noticed when its answer is awaited.
        with contextlib.suppress(OSError):
            child.connection.send([(seat, order) for seat, order, _ in work.later])
        work.sent = [(seat, wanted) for seat, _, wanted in work.later]
        work.later = []

    def _ready(self, work: Mapping[int, _Work]) -> list[int]:
        """The processes with an answer, or with none to come because they are dead or hang."""
        asked = {self._children[number].connection: number for number in work}
        while asked:
            look_s = min(LOOK_S, self._timeout_s / 4)
            found = [
                asked[one] for one in connections.wait(list(asked), look_s) if isinstance(one, Connection)
            ]
            late = [n for n in work if n not in found and self._children[n].silent_s() > self._timeout_s]
            if found or late:
                return found + late
        return []

    def _receive(self, number: int, work: _Work, missing: set[int], answers: dict[int, Played]) -> None:
        """Take the next answer of a process; a simulator or a process that failed is replaced."""
        child = self._children[number]
        seat, wanted = work.sent.pop(0)
        answer = child.answer()
        if answer is None:
            self._histories.failed(seat, *child.post_mortem(self._timeout_s))
            self._replace(number)
            lost = sorted(seat for seat in self._seats if seat % self.processes == number)
            work.sent, work.later = [], [again for one in lost for again in self._again(one, missing)]
        elif isinstance(answer, Refused):
            raise SimulatorError(str(answer))
        elif isinstance(answer, Crashed):
            # Its other simulators are not concerned: their answers come, and then this one is brought back.
            self._histories.failed(seat, *answer)
            work.sent = [one for one in work.sent if one[0] != seat]
            work.later += self._again(seat, missing)
        elif wanted:
            placed, rewards, success, done = answer
            seen: list[Observation] = [child.memory.get(one) for one in placed]
            answers[seat] = Played(seen, rewards, success, done)
            missing.discard(seat)
            if done:
                self._histories.finished(seat)

    def _again(self, seat: int, missing: set[int]) -> list[tuple[int, Order, bool]]:
        """What brings a new simulator to where a seat was, and answers its order if it has no answer yet."""
        orders = self._histories.again(seat, answered=seat not in missing)
        last = len(orders) - 1
        return [(seat, order, seat in missing and at == last) for at, order in enumerate(orders)]

    def _replace(self, number: int) -> None:
        self._children[number].end(0)
        self._children[number] = _Child(self._greeting)
        self._described(self._children[number])

    def _described(self, child: _Child) -> tuple[int | None, float]:
        """What a new process says about the environment."""
        limit_s = max(START_S, self._timeout_s)
        while not connections.wait([child.connection], min(LOOK_S, self._timeout_s / 4)):
            if child.silent_s() > limit_s:
                break
        answer = child.answer()
        if isinstance(answer, tuple) and not isinstance(answer, Crashed):
            return answer
        if isinstance(answer, Refused):
            raise SimulatorError(str(answer))
        what, details = answer or child.post_mortem(limit_s)
        raise SimulatorError(
            f"{FIELD}: {self._env_id!r} cannot be created in a process of its own: {what}\n{details}".rstrip()
            + "\nIf it only works in the training's process, set rollout.processes: 1."
        )


@dataclass
class _Work:
    """The orders of a process: those that it has, with whether their answer is wanted, and the next ones."""

    sent: list[tuple[int, bool]] = field(default_factory=list)
    later: list[tuple[int, Order, bool]] = field(default_factory=list)


class _Child:
    """A process of simulators, seen from outside."""

    def __init__(self, greeting: object) -> None:
        memory_fd = anonymous_file()
        self.memory = SharedReader(memory_fd)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process)
        ours, theirs = socket.socketpair()
        fds = theirs.fileno(), memory_fd, self._log.fileno()
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, json.dumps(sys.path), *map(str, (*fds, os.getpid()))],
            stdin=subprocess.DEVNULL,
            pass_fds=fds,
        )
        theirs.close()
        self.connection = Connection(ours.detach())
        self._count = 0
        self.show_life()
        with contextlib.suppress(OSError):
            self.connection.send(greeting)

    def show_life(self) -> None:
        """Begin to count the silence from now on."""
        self._last_s = time.monotonic()

    def silent_s(self) -> float:
        """Seconds since the simulators have last completed something."""
        count = self.memory.count
        if count != self._count:
            self._count = count
            self.show_life()
        return time.monotonic() - self._last_s

    def answer(self) -> Any:
        """The next answer; None if there is none, as the process has died or hangs."""
        try:
            return self.connection.recv() if self.connection.poll() else None
        except (EOFError, OSError):
            return None

    def post_mortem(self, timeout_s: float) -> tuple[str, str]:
        """Why there is no answer, and the stacks that the process has written; it is dead afterwards."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            # The socket may be closed a moment before the process has ended.
            code = self._process.wait(STACKS_S if self.silent_s() < timeout_s else 0)
            return f"its process {_ended(code)}.", self._stacks()
        self._process.send_signal(signal.SIGUSR1)
        deadline_s = time.monotonic() + STACKS_S
        while time.monotonic() < deadline_s and not os.fstat(self._log.fileno()).st_size:
            time.sleep(0.01)
        time.sleep(0.05)
        what = f"it did not finish a reset or a step within {timeout_s:g} s (rollout.timeout_s)."
        self._process.kill()
        self._process.wait()
        return what, self._stacks()

    def _stacks(self) -> str:
        self._log.seek(0)
        return self._log.read(LONGEST_LOG).decode(errors="replace").strip()

    def hang_up(self) -> None:
        """Let the process end by itself."""
        self.connection.close()

    def end(self, patience_s: float) -> None:
        """See that the process has ended, and release what belongs to it."""
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.connection.close()
        self._log.close()
        self.memory.close()


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _registered(env_id: str) -> bytes | None:
    """The registration of a gymnasium id, for processes that have not run the code that made it."""
    gymnasium = sys.modules.get("gymnasium")
    spec = None if gymnasium is None else gymnasium.registry.get(env_id.rpartition(":")[2])
    try:
        return None if spec is None else pickle.dumps(spec)
    except Exception:  # a function without a name: only the package itself can register it there
        return None
