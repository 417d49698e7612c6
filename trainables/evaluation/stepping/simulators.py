"""Many simulators at once, each in a seat, in this process.

An error of a simulator costs its episode one retry: a new simulator starts the episode again, plays the
actions so far, and continues. The same seed and the same actions give the same episode, so the results
are the same.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Mapping
from typing import Protocol

from trainables.environment import FIELD, SimulatorError
from trainables.evaluation.simulators import FAILURES, release
from trainables.evaluation.stepping.simulator import Order, Play, Played, Simulator, Start
from trainables.features import PolicyFeatures
from trainables.interface import TrainableError

__all__ = ["Histories", "LocalSimulators", "Simulators"]


class Simulators(Protocol):
    """Simulators in seats 0, 1, 2, ...

    Attributes:
        max_steps: The task's limit of steps per episode, or None if it has none.
        fps: Control steps per second of simulated time.
        processes: Processes in which they are stepped.
    """

    max_steps: int | None
    fps: float
    processes: int

    def run(self, orders: Mapping[int, Order]) -> dict[int, Played]:
        """Execute one order in each of some seats.

        Raises:
            SimulatorError: If a simulator fails again after its episode's retry, or cannot be used.
        """
        ...

    def close(self) -> None:
        """Release everything."""
        ...


class Histories:
    """What each seat was ordered since its episode started, and which episodes have had their retry.

    Args:
        env_id: The environment, for messages.
        log: Receives what went wrong and what is done about it.
    """

    def __init__(self, env_id: str, log: Callable[[str], None]) -> None:
        self._env_id = env_id
        self._log = log
        self._orders: dict[int, list[Order]] = {}
        self._retried: set[int] = set()

    def add(self, seat: int, order: Order) -> None:
        """Remember an order before it is executed."""
        if isinstance(order, Start):
            self._orders[seat] = []
            self._retried.discard(seat)
        self._orders[seat].append(order)

    def again(self, seat: int, *, answered: bool) -> list[Order]:
        """The orders that bring a new simulator to where the seat was.

        Args:
            seat: The seat.
            answered: Whether the newest order was executed. If not, it is the last one here, to be answered.
        """
        orders = self._orders.get(seat, [])
        before = orders if answered else orders[:-1]
        quiet: list[Order] = [
            Play(order.actions, len(order.actions)) if isinstance(order, Play) else order for order in before
        ]
        return [*quiet, *orders[len(before) :]]

    def finished(self, seat: int) -> None:
        """Forget the episode of a seat, which is over."""
        self._orders.pop(seat, None)

    def failed(self, seat: int, what: str, details: str) -> None:
        """Charge a failure to the episode of a seat.

        Raises:
            SimulatorError: If the episode has already had its retry.
        """
        orders = self._orders[seat]
        start = next(order.seed for order in orders if isinstance(order, Start))
        steps = sum(len(order.actions) for order in orders[:-1] if isinstance(order, Play))
        where = f"in the episode of seed {start}, after {steps} steps"
        if seat in self._retried:
            raise SimulatorError(
                f"{FIELD}: {self._env_id!r} failed twice {where}: {what}\n{details}".rstrip()
                + "\nThe same start and actions failed again: correct the simulator, or change rollout.seed."
            )
        self._retried.add(seat)
        self._log(f"rollout: {self._env_id!r} failed {where}; the episode is retried once. {what}\n{details}")


class LocalSimulators:
    """Simulators in this process, stepped one after the other.

    Args:
        env_id: What ``make_environment`` accepts.
        features: What the policy sees and does.
        log: Receives what went wrong and what is done about it.
        first: A simulator that exists already.

    Raises:
        SimulatorError: If the environment cannot be created.
    """

    processes = 1

    def __init__(
        self,
        env_id: str,
        features: PolicyFeatures,
        log: Callable[[str], None],
        first: Simulator | None = None,
    ) -> None:
        self._env_id = env_id
        self._features = features
        self._simulators: dict[int, Simulator] = {0: first or self._made()}
        self._histories = Histories(env_id, log)
        self.max_steps = self._simulators[0].environment.max_steps
        self.fps = self._simulators[0].environment.fps

    def run(self, orders: Mapping[int, Order]) -> dict[int, Played]:
        """Execute one order in each of some seats.

        Raises:
            SimulatorError: If a simulator fails again after its episode's retry, or cannot be used.
        """
        return {seat: self._run(seat, order) for seat, order in orders.items()}

    def close(self) -> None:
        """Close the environments."""
        for simulator in self._simulators.values():
            release(simulator.environment)

    def _run(self, seat: int, order: Order) -> Played:
        self._histories.add(seat, order)
        orders = [order]
        while True:
            try:
                if seat not in self._simulators:
                    self._simulators[seat] = self._made()
                played = [self._simulators[seat].execute(order) for order in orders][-1]
            except TrainableError:
                raise
            except FAILURES as error:
                broken = self._simulators.pop(seat, None)
                if broken is not None:
                    release(broken.environment)
                what = f"{type(error).__name__}: {error}"
                self._histories.failed(seat, what, traceback.format_exc())
                orders = self._histories.again(seat, answered=False)
            else:
                if played.done:
                    self._histories.finished(seat)
                return played

    def _made(self) -> Simulator:
        return Simulator(self._env_id, self._features, _nothing)


def _nothing() -> None:
    pass
