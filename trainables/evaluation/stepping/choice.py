"""How many processes step the simulators of a rollout: as asked, or as many as are worth their start.

A process costs its start: Python, numpy, the simulator's packages. A step costs time on a processor, and it
may wait (for a physics engine's own process, a robot's clock, a GPU). What computes shares the processors;
what waits can wait in as many processes as memory allows.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from trainables.environment import SimulatorError
from trainables.evaluation.simulators import FAILURES, release
from trainables.evaluation.stepping.processes import ProcessSimulators
from trainables.evaluation.stepping.simulator import Play, Simulator, Start
from trainables.evaluation.stepping.simulators import LocalSimulators, Simulators
from trainables.features import PolicyFeatures

__all__ = ["StepCost", "Stepping", "Workload", "choose_simulators", "measured", "processes_for", "queued_s"]

TIMEOUT_S = 300.0
"""The default of ``rollout.timeout_s``: longer than a first step that loads assets or compiles shaders, much
shorter than the hour after which a service takes the whole trial for hung."""
MOST_WAITING = 16
"""Processes of simulators that mostly wait, at most: each takes about 100 MB."""
START_CPU_S = 0.4
"""What the start of a process takes at least, beside the making of the environment."""
GAIN_S = 1.0
"""Processes are started if they save this much at least, and a tenth of the time."""
PROBE_STEPS = 16
PROBE_S = 0.5
"""How much of a simulator is measured: so many steps, or so many seconds if that is less."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stepping:
    """How environments are stepped; it does not change the result.

    Attributes:
        processes: In how many processes; 1: in this one; ``auto``: chosen by a measurement.
        cpus: Processors that may be used; 0: all that this process may use.
        timeout_s: Seconds that a simulator in a process of its own may take for a reset or a step.
    """

    processes: int | Literal["auto"] = 1
    cpus: int = 0
    timeout_s: float = TIMEOUT_S

    @property
    def usable_cpus(self) -> int:
        """Processors that may be used."""
        if self.cpus > 0:
            return self.cpus
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Workload:
    """What is to be stepped.

    Attributes:
        env_id: What ``make_environment`` accepts.
        features: What the policy sees and does.
        episodes: How many episodes.
        seats: How many environments at once.
        max_steps: Steps of an episode; None: the environment's own limit.
        chunk: Actions between two predictions.
    """

    env_id: str
    features: PolicyFeatures
    episodes: int
    seats: int
    max_steps: int | None
    chunk: int


@dataclass(frozen=True)
class StepCost:
    """What a step of a simulator costs.

    Attributes:
        cpu_s: Time on a processor.
        wait_s: Time in which it only waits.
        made_s: Time to make the environment.
    """

    cpu_s: float
    wait_s: float
    made_s: float = 0.0


_COSTS: dict[tuple[str, PolicyFeatures], StepCost] = {}
"""Measured in this process before: the same choice for each of its evaluations."""
_LIMITS: dict[tuple[str, PolicyFeatures], int | None] = {}


@contextlib.contextmanager
def choose_simulators(workload: Workload, stepping: Stepping) -> Iterator[Simulators]:
    """The simulators of a rollout, closed at the end.

    Raises:
        SimulatorError: If the environment cannot be created.
    """
    simulators = _made(workload, stepping)
    try:
        yield simulators
    finally:
        simulators.close()


def measured(simulator: Simulator, chunk: int, made_s: float) -> StepCost:
    """Measure a reset and some steps, drawn as often as in a rollout.

    Time without a processor is waiting only if it recurs in every step, and if no processor was wanted: on a
    busy machine other processes have it for most of the time.
    """
    still_TA = np.zeros((chunk, *simulator.environment.action_shape), np.float32)
    simulator.execute(Start(0))
    simulator.execute(Play(still_TA, chunk - 1))  # the first steps load and compile
    cpu_s: list[float] = []
    wait_s: list[float] = []
    begin_s = time.perf_counter()
    # Once at least, however long this process was stopped just now.
    while not cpu_s or (len(cpu_s) * chunk < PROBE_STEPS and time.perf_counter() - begin_s < PROBE_S):
        simulator.execute(Start(0))
        cpu, queued, wall = time.process_time(), queued_s(), time.perf_counter()
        played = simulator.execute(Play(still_TA, chunk - 1))
        wall, queued, cpu = time.perf_counter() - wall, queued_s() - queued, time.process_time() - cpu
        cpu_s.append(cpu / len(played.rewards))
        wait_s.append(max(0.0, wall - cpu - queued) / len(played.rewards))
    return StepCost(min(cpu_s), min(wait_s), made_s)


def queued_s() -> float:
    """Seconds for which this thread has wanted a processor so far and had none; 0 if unknown (not Linux)."""
    try:
        return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) / 1e9
    except (OSError, IndexError, ValueError):
        return 0.0


def processes_for(cost: StepCost, steps: int, seats: int, cpus: int) -> int:
    """The number of processes in which so many steps take the least time.

    Args:
        cost: What a step costs.
        steps: Steps of all episodes.
        seats: Environments at once: more processes have nothing to do.
        cpus: Processors that may be used.
    """
    start_s = START_CPU_S + cost.made_s
    alone_s = steps * (cost.cpu_s + cost.wait_s)

    def takes_s(processes: int) -> float:
        computing_s = steps * cost.cpu_s / min(processes, cpus)
        waiting_s = alone_s / (seats / math.ceil(seats / processes))
        return max(computing_s, waiting_s) + start_s * math.ceil(processes / cpus)

    most = min(seats, max(cpus, MOST_WAITING))
    best = min(range(2, most + 1), key=takes_s, default=1)
    return best if best > 1 and alone_s - takes_s(best) > max(GAIN_S, alone_s / 10) else 1


def _made(workload: Workload, stepping: Stepping) -> Simulators:
    env_id, features = workload.env_id, workload.features
    first: Simulator | None = None
    processes: int = 1
    if stepping.processes == "auto":
        first, processes = _chosen(workload, stepping)
    else:
        processes = min(stepping.processes, workload.seats)
    if processes == 1:
        return LocalSimulators(env_id, features, log.warning, first)
    try:
        made = ProcessSimulators(env_id, features, processes, stepping.timeout_s, log.warning)
    except SimulatorError as error:
        if stepping.processes != "auto":
            raise
        log.warning("rollout.processes: auto uses 1, because several cannot be started. %s", error)
        return LocalSimulators(env_id, features, log.warning, first)
    if first is not None:
        release(first.environment)
    return made


def _chosen(workload: Workload, stepping: Stepping) -> tuple[Simulator | None, int]:
    """How many processes, and the simulator that was made to measure it."""
    first: Simulator | None = None
    key = workload.env_id, workload.features
    if key not in _COSTS:
        start_s = time.perf_counter()
        first = Simulator(*key, stepped=lambda: None)
        made_s = time.perf_counter() - start_s
        try:
            _COSTS[key] = measured(first, workload.chunk, made_s)
        except FAILURES:  # the episodes will tell, with a retry
            log.info("rollout.processes: auto uses 1, because the simulator failed when it was measured")
            release(first.environment)
            return None, 1
        _LIMITS[key] = first.environment.max_steps
    cost, limit = _COSTS[key], workload.max_steps or _LIMITS[key] or 0
    processes = processes_for(cost, workload.episodes * limit, workload.seats, stepping.usable_cpus)
    log.info(
        "rollout.processes: auto uses %d for %d episodes of at most %d steps in %s (a step computes "
        "%.2f ms and waits %.2f ms, %d CPUs)",
        *(processes, workload.episodes, limit, workload.env_id, 1e3 * cost.cpu_s, 1e3 * cost.wait_s),
        stepping.usable_cpus,
    )
    return first, processes
