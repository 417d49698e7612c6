"""The parts of the kit, each in a process of its own and with a share of the time.

An error that leaves a GPU unusable, or a case that never ends, costs its own part and no other.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from pathlib import Path

import torch

from benchmarks.gpu.beside_lerobot import cases as lerobot_cases
from benchmarks.gpu.cases import Case, Row, Setting, read_rows, run_cases
from benchmarks.gpu.correctness import cases as correctness_cases
from benchmarks.gpu.inference import cases as inference_cases
from benchmarks.gpu.memory import cases as memory_cases
from benchmarks.gpu.steps import cases as step_cases
from benchmarks.gpu.trials import cases as trial_cases

__all__ = ["PARTS", "Part", "run_parts"]

GRACE_S = 20.0
"""How much longer than its time a part may take, to end the case that it is at."""


@dataclass(frozen=True)
class Part:
    """Cases that belong together.

    Attributes:
        title: What is measured.
        cases: Makes the cases.
        share: Of the time that is left, beside the shares of the parts that follow.
    """

    title: str
    cases: Callable[[Setting], Iterable[Case]]
    share: float


PARTS: Mapping[str, Part] = {
    "correctness": Part("Correctness against the CPU", correctness_cases, 0.30),
    "steps": Part("Optimiser steps", step_cases, 0.28),
    "trials": Part("Trials: evaluations, checkpoints, several on one GPU", trial_cases, 0.20),
    "inference": Part("Action chunks", inference_cases, 0.10),
    "lerobot": Part("Beside LeRobot 0.6.1", lerobot_cases, 0.06),
    "memory": Part("Memory of training", memory_cases, 0.06),
}


def run_parts(
    names: Sequence[str], setting: Setting, seconds: float, threads: int
) -> Iterator[tuple[str, list[Row]]]:
    """Run parts one after the other; yields each one's rows when it has ended.

    Args:
        names: Keys of `PARTS`.
        setting: Where the kit runs.
        seconds: The time for all of them; what a part leaves the following ones have.
        threads: Threads of torch on the CPU; 0 leaves its own choice.
    """
    end = time.monotonic() + seconds
    for position, name in enumerate(names):
        following = sum(PARTS[other].share for other in names[position:])
        grace_s = min(GRACE_S, 0.1 * seconds)
        left_s = max(0.0, end - time.monotonic() - grace_s)
        yield name, _run_part(name, setting, left_s * PARTS[name].share / following, grace_s, threads)


def _run_part(name: str, setting: Setting, seconds: float, grace_s: float, threads: int) -> list[Row]:
    print(f"{PARTS[name].title}: at most {seconds:.0f} s", flush=True)
    rows, done = setting.folder / f"{name}.jsonl", setting.folder / f"{name}.done"
    # By the system's clock, so that the process may take its time to start.
    deadline = time.monotonic() + seconds
    process = multiprocessing.get_context("spawn").Process(
        target=_work, args=(name, setting, rows, done, deadline, threads)
    )
    process.start()
    try:
        process.join(seconds + grace_s)
        was_late = process.is_alive()
    finally:
        _end(process)
    found = read_rows(rows)
    if not done.exists():
        why = "it was ended: the time was up" if was_late else f"its process ended with {process.exitcode}"
        found.append(Row(f"the case after {len(found)} others", "failed", note=why))
    return found


def _work(name: str, setting: Setting, rows: Path, done: Path, deadline: float, threads: int) -> None:
    os.setsid()  # the compilers' processes are ended with this one
    if threads > 0:
        torch.set_num_threads(threads)
    if setting.on_gpu:
        torch.zeros(1, device=setting.device)  # memory can be asked about once there is some
    part = Setting(setting.device, setting.quick, setting.folder / name)
    part.folder.mkdir(exist_ok=True)
    run_cases(PARTS[name].cases(part), rows, part, deadline)
    done.touch()


def _end(process: SpawnProcess) -> None:
    """End a part's process, and those that it started."""
    if process.is_alive() and process.pid is not None:
        process.kill()
        with contextlib.suppress(ProcessLookupError):  # it has not got so far as to lead a group
            os.killpg(process.pid, signal.SIGKILL)
    process.join()
