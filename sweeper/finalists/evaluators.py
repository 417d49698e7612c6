"""Ray actors that hold trained policies open and evaluate them, several at once.

An actor has the resources of one worker of the sweep. It keeps the policy of its last task open, and gets
tasks of that policy first: loading one takes seconds. If an
actor dies, another one does its task.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from sweeper.errors import SweeperError
from sweeper.finalists.candidates import Candidate
from sweeper.machines.cluster import settle
from sweeper.machines.connection import connect, disconnect, is_connected
from sweeper.machines.machine import usable_cache
from sweeper.spec.sweep import ResourceSpec
from sweeper.text import first_line
from trainables import registry
from trainables.episodes import EpisodeRecord, Purpose
from trainables.interface import EvaluatesPolicies, EvaluationContext, OpenPolicy, TrainableError

__all__ = ["Answer", "Evaluators", "Task", "evaluators"]

ATTEMPTS = 3
"""How often a task is begun before its candidate counts as failed: a machine may be lost."""
WAIT_S = 1.0

Kind = Literal["describe", "faults", "rollout", "metrics", "errors", "latency", "speed"]


@dataclass(frozen=True)
class Task:
    """Something to measure of a candidate.

    Attributes:
        candidate: The policy, and the setting that it has.
        kind: ``describe`` answers the policy's step, trained setting, environment and held-out windows as a
            mapping; ``rollout`` the records of numbered episodes; ``errors`` the action errors at numbered
            held-out moments; ``latency`` the times of single predictions, in ms; ``speed`` the metrics of
            speed; ``faults`` what is wrong with the setting; ``metrics`` the metrics of ``records``.
        numbers: Episodes or moments; the number of runs for ``latency``.
        purpose: What episodes are for.
        film: The film to write of the episodes, or None.
        film_episodes: How many of them it shows.
        records: The episodes whose metrics are asked for.
    """

    candidate: Candidate
    kind: Kind
    numbers: tuple[int, ...] = ()
    purpose: Purpose = "look"
    film: Path | None = None
    film_episodes: int = 4
    records: tuple[EpisodeRecord, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What came of a task.

    Attributes:
        task: The task.
        value: What was measured; None if there is a problem.
        problem: Why the candidate cannot be measured; empty if it was.
        lost: Whether the process that measured is gone.
        reason: The reason of the trainable's error, e.g. ``diverged``; empty if it gave none.
    """

    task: Task
    value: Any = None
    problem: str = ""
    lost: bool = False
    reason: str = ""

    @property
    def records(self) -> list[EpisodeRecord]:
        """The episodes of a ``rollout``."""
        return list(self.value or ())


@dataclass
class Evaluators:
    """Actors that evaluate; made by :func:`evaluators`.

    Args:
        count: How many work at once.
        cpu: CPUs of each.
        gpu: GPUs of each.
        cache: Folder for what the processes of a machine share.
    """

    count: int
    cpu: float
    gpu: float
    cache: Path
    _idle: list[_Actor] = field(default_factory=list)
    _started: list[_Actor] = field(default_factory=list)

    def run(
        self,
        tasks: Sequence[Task],
        progress: Callable[[int, int], object] = max,
        *,
        at_once: int | None = None,
    ) -> Iterator[Answer]:
        """Do tasks, several at once; answers come as they are ready.

        Args:
            tasks: What to measure. Those of one candidate are best given together.
            progress: Receives how many tasks are done, and how many there are.
            at_once: Most tasks at once; None for as many as there are actors. With 1, all are done by the
                same actor, and nothing else of ours loads its machine.

        Raises:
            SweeperError: If no actor can be started.
        """
        import ray

        waiting = [_Attempt(task) for task in tasks]
        running: dict[Any, tuple[_Actor, _Attempt]] = {}
        done, most = 0, self.count if at_once is None else at_once
        try:
            while waiting or running:
                while waiting and len(running) < most:
                    actor = self._idle.pop() if self._idle else self._start()
                    attempt = _next(waiting, actor.holds)
                    actor.holds = attempt.task.candidate
                    attempt.begun += 1
                    running[actor.handle.run.remote(attempt.task)] = (actor, attempt)
                ready, _ = ray.wait(list(running), num_returns=1, timeout=WAIT_S)
                for reference in ready:
                    actor, attempt = running.pop(reference)
                    answer = _answer(reference, attempt)
                    if answer is None:
                        # The actor is gone, perhaps with its machine; another one does the task.
                        waiting.append(attempt)
                        continue
                    if answer.lost:
                        actor.end()
                    else:
                        self._idle.append(actor)
                    done += 1
                    progress(done, len(tasks))
                    yield answer
        finally:
            for actor, _ in running.values():
                actor.end()

    def close(self) -> None:
        """End all actors."""
        while self._idle:
            self._idle.pop().end()

    def _start(self) -> _Actor:
        import ray

        threads = str(max(1, math.floor(self.cpu)))
        variables = dict.fromkeys(
            ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS"), threads
        )
        remote = ray.remote(num_cpus=self.cpu, num_gpus=self.gpu, max_restarts=0)(_Evaluator)
        handle = remote.options(runtime_env={"env_vars": variables}).remote(
            str(self.cache), int(threads), self.gpu > 0, [place or str(Path.cwd()) for place in sys.path]
        )
        actor = _Actor(handle)
        self._started.append(actor)
        return actor

    def held(self) -> dict[str, float]:
        """GPU-hours and CPU-hours that the actors have held so far, from the request for each to its end."""
        hours = sum(actor.held_s() for actor in self._started) / 3600
        return {"gpu_hours": hours * self.gpu, "cpu_hours": hours * self.cpu}


@contextlib.contextmanager
def evaluators(
    wanted: ResourceSpec,
    *,
    address: str | None = None,
    tasks: int | None = None,
    report: Callable[[str], object] = str,
) -> Iterator[Evaluators]:
    """Connect to Ray, or start it on this machine, and make room for actors that evaluate.

    Args:
        wanted: The resources of a trial; an actor gets those of one worker.
        address: A cluster's address; None for RAY_ADDRESS, or a private Ray if that is not set.
        tasks: How many tasks there will be at once; None for as many as fit.
        report: Receives a sentence if Ray has to be started again.

    Raises:
        UserError: If no cluster answers, or not even one actor fits.
        SweeperError: If a private Ray does not start.
    """
    ours = not is_connected()
    cluster = connect(address, report=report)
    made: Evaluators | None = None
    try:
        one = ResourceSpec(1, wanted.gpu_per_worker, wanted.cpu_per_worker, wanted.max_concurrent)
        settled = settle(one, cluster, tasks)
        made = Evaluators(settled.at_once, settled.cpu_per_worker, settled.gpu_per_worker, usable_cache())
        yield made
    finally:
        if made is not None:
            made.close()
        if ours:
            disconnect()


@dataclass
class _Attempt:
    task: Task
    begun: int = 0


@dataclass(eq=False)
class _Actor:
    """A running actor, and the candidate whose policy it holds open."""

    handle: Any
    holds: Candidate | None = None
    started: float = field(default_factory=time.monotonic)
    ended: float | None = None

    def held_s(self) -> float:
        """Seconds for which it has held its resources."""
        return (time.monotonic() if self.ended is None else self.ended) - self.started

    def end(self) -> None:
        """End it, whatever it does."""
        import ray

        self.ended = self.ended or time.monotonic()
        with contextlib.suppress(Exception):
            ray.kill(self.handle)


def _next(waiting: list[_Attempt], held: Candidate | None) -> _Attempt:
    """Take the next task: one of the policy that is open already, or else the first."""
    key = None if held is None else _key(held)
    chosen = next((attempt for attempt in waiting if _key(attempt.task.candidate) == key), waiting[0])
    waiting.remove(chosen)
    return chosen


def _key(candidate: Candidate) -> tuple[str, Path, str]:
    """What decides which policy is opened; the setting does not."""
    return candidate.trainable, candidate.checkpoint, repr(sorted(candidate.config.items(), key=str))


def _answer(reference: Any, attempt: _Attempt) -> Answer | None:
    """What came of an attempt; None if it was lost and another one may succeed."""
    import ray

    try:
        return Answer(attempt.task, ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        return Answer(attempt.task, problem=_problem(error), reason=_reason(error))
    except ray.exceptions.RayError as error:
        if attempt.begun < ATTEMPTS:
            return None
        problem = f"its process was lost {ATTEMPTS} times: {first_line(error)}"
        return Answer(attempt.task, problem=problem, lost=True)


def _problem(error: Exception) -> str:
    """Why a task failed, in words."""
    cause = getattr(error, "cause", None) or error
    if isinstance(cause, (TrainableError, SweeperError)):
        return str(cause)
    return f"{type(cause).__name__}: {first_line(cause)}"


def _reason(error: Exception) -> str:
    cause = getattr(error, "cause", None)
    return cause.reason if isinstance(cause, TrainableError) else ""


class _Evaluator:
    """In its own process: holds one policy open and measures."""

    def __init__(self, cache: str, threads: int, gpu: bool, python_path: Sequence[str]) -> None:
        sys.path += [place for place in python_path if place not in sys.path and Path(place).exists()]
        self._context = EvaluationContext(Path(cache), "cuda:0" if gpu else "cpu", threads)
        self._held: tuple[Any, OpenPolicy] | None = None

    def ping(self) -> None:
        """Answer."""

    def run(self, task: Task) -> Any:
        """Do a task."""
        policy, setting = self._open(task.candidate), task.candidate.setting
        match task.kind:
            case "describe":
                return _described(policy)
            case "rollout":
                return policy.rollout(
                    setting, task.purpose, task.numbers, film=task.film, film_episodes=task.film_episodes
                )
            case "errors":
                return policy.action_errors(setting, task.numbers)
            case "latency":
                return policy.latency_ms(setting, task.numbers[0])
            case "speed":
                return dict(policy.speed(setting))
            case "faults":
                return policy.setting_faults(setting)
            case "metrics":
                return dict(policy.metrics_of(task.records))

    def _open(self, candidate: Candidate) -> OpenPolicy:
        key = _key(candidate)
        if self._held is None or self._held[0] != key:
            self._held = None  # two large policies may not fit at once
            trainable = registry.load(candidate.trainable)
            assert isinstance(trainable, EvaluatesPolicies)
            self._held = key, trainable.open_policy(candidate.checkpoint, candidate.config, self._context)
        return self._held[1]


def _described(policy: OpenPolicy) -> Mapping[str, Any]:
    return {
        "step": policy.step,
        "setting": dict(policy.trained_setting),
        "environment": policy.environment,
        "windows": policy.windows,
    }
