"""Ways to compute a policy's chunks, timed in turns and compared with the plain loop.

Shapes: ``B`` samples, ``T`` action steps of the horizon, ``A`` action dimension.
"""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import psutil
import torch
from torch import Tensor

from trainables.diffusion_policy.acceleration import (
    BACKENDS,
    PRECISIONS,
    Backend,
    Precision,
    accelerate,
    shift_chunk,
)
from trainables.diffusion_policy.lerobot.beside import LeRobotProcess
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import ACTION
from trainables.inspection import BenchRow, Latency
from trainables.interface import ConfigError, Fault

__all__ = ["COMPARED", "Observations", "bench", "checked"]

COMPARED = 8
"""Observations at which the actions of two ways are compared."""
WARM_UP = 3
LEROBOT = "lerobot"
Setting = Mapping[str, Any]
Batch = Mapping[str, Tensor]


@dataclass(frozen=True)
class Observations:
    """What is predicted from.

    Attributes:
        values: (N, To, ...) of each input.
        words: What they are.
    """

    values: Batch
    words: str

    def each(self) -> list[Batch]:
        """Each of them alone, (1, To, ...)."""
        count = len(next(iter(self.values.values())))
        return [
            {name: value[number : number + 1] for name, value in self.values.items()}
            for number in range(count)
        ]


@dataclass
class _Way:
    """One row while it is measured.

    Attributes:
        row: Makes the row of the latency and the difference.
        policy: The policy with the row's setting.
        chunk: Gives the horizon for an observation.
        compared: The observations at which it is compared with the plain loop.
        timed_ms: Predicts once and times it.
        warm: What the plain loop is given to begin from the last chunk.
        times_ms: The times.
    """

    row: Callable[[Latency, float], BenchRow]
    policy: DiffusionPolicy
    chunk: Callable[[Batch], Tensor]
    compared: Sequence[Batch]
    timed_ms: Callable[[], float]
    warm: Mapping[str, Any] = field(default_factory=dict)
    times_ms: list[float] = field(default_factory=list)


def checked(backend: str, precision: str) -> tuple[Backend, Precision]:
    """A backend and a precision that exist.

    Raises:
        ConfigError: If one does not.
    """
    faults = [
        Fault(name, f"{value!r} is not one.", f"Use one of {', '.join(known)}.")
        for name, value, known in (
            ("backend", backend, BACKENDS),
            ("precision", precision, PRECISIONS),
        )
        if value not in known
    ]
    if faults:
        raise ConfigError(faults)
    return cast(Backend, backend), cast(Precision, precision)


def bench(
    policies: Sequence[tuple[Setting, DiffusionPolicy]],
    observations: Observations,
    backends: Sequence[str],
    precision: str,
    runs: int,
    lerobot: Path | None,
    progress: Callable[[str], None],
) -> list[BenchRow]:
    """Time every backend for every policy; see `trainables.interface.BenchmarksPolicies`.

    Args:
        policies: The same networks with several inference settings.
        observations: What is predicted from; the first one is timed.
        backends: Some of ``BACKENDS``.
        precision: One of ``PRECISIONS``.
        runs: Timed predictions of each.
        lerobot: A Python with LeRobot, or None.
        progress: Receives messages for the user.
    """
    every = observations.each()
    first = every[0]
    asked = [checked(backend, precision) for backend in backends]
    with contextlib.ExitStack() as opened:
        ways: list[_Way] = []
        for setting, policy in policies:
            for backend, width in asked:
                progress(f"warming up {backend}, {_named(policy)}")
                ways.append(_ours(setting, policy, every, backend, width))
            # LeRobot has no warm start, so it would compute something else.
            if lerobot is not None and not policy.warm_start_steps:
                progress(f"starting LeRobot, {_named(policy)}")
                folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="sweeper-bench-")))
                process = LeRobotProcess(lerobot, policy, folder, first, _noise(policy))
                ways.append(_theirs(setting, policy, opened.enter_context(process), first))
        progress(f"comparing actions: {observations.words}")
        differences = [_difference(way) for way in ways]
        for run in range(runs):
            progress(f"run {run + 1} of {runs}, {len(ways)} ways in turns")
            for way in ways:
                way.times_ms.append(way.timed_ms())
    return [
        dataclasses.replace(way.row(_latency(way), apart), compared=observations.words)
        for way, apart in zip(ways, differences, strict=True)
    ]


def _ours(
    setting: Setting,
    policy: DiffusionPolicy,
    observations: Sequence[Batch],
    backend: Backend,
    precision: Precision,
) -> _Way:
    before_mb = _memory_mb(policy)
    made = accelerate(policy, backend, precision)
    noise, warm = _noise(policy), _last_chunk(policy, observations[0])

    def chunk(observation: Batch) -> Tensor:
        # The copy back waits for the device, as sending the actions to the robot does.
        return made.predict_horizon(observation, noise, [torch.Generator().manual_seed(1)], **warm).cpu()

    def timed_ms() -> float:
        start_s = time.perf_counter()
        chunk(observations[0])
        return 1e3 * (time.perf_counter() - start_s)

    for _ in range(WARM_UP):
        chunk(observations[0])
    memory_mb = max(0.0, _memory_mb(policy) - before_mb)

    def row(latency: Latency, difference: float) -> BenchRow:
        replaced = made.how.backend != backend
        return BenchRow(
            made.how.backend,
            made.how.precision,
            policy.config.inference_sampler,
            policy.config.inference_steps,
            dict(setting),
            latency,
            memory_mb,
            difference,
            made.how.why if replaced else "",
        )

    return _Way(row, policy, chunk, observations, timed_ms, warm)


def _last_chunk(policy: DiffusionPolicy, observation: Batch) -> dict[str, Any]:
    """What a warm start begins from: a chunk for an observation; nothing if the policy begins from noise."""
    if not policy.warm_start_steps:
        return {}
    last_BTA = policy.predict_horizon(observation, generator=[torch.Generator().manual_seed(2)])
    shifted_BTA = shift_chunk(last_BTA, policy.n_action_steps)
    return {"previous": shifted_BTA, "skipped_steps": policy.warm_start_steps}


def _theirs(setting: Setting, policy: DiffusionPolicy, process: LeRobotProcess, observation: Batch) -> _Way:
    def timed_ms() -> float:
        return process.predict()[1]

    for _ in range(WARM_UP):
        timed_ms()

    def row(latency: Latency, difference: float) -> BenchRow:
        config = policy.config
        name = f"{LEROBOT} {process.version}"
        sampler, steps = config.inference_sampler, config.inference_steps
        return BenchRow(name, "fp32", sampler, steps, dict(setting), latency, None, difference)

    # Its process knows this observation only.
    return _Way(row, policy, lambda _: process.predict()[0], [observation], timed_ms)


def _difference(way: _Way) -> float:
    """The largest difference to the plain loop over the observations, as a share of the action's range."""
    return max(_difference_at(way, observation) for observation in way.compared)


def _difference_at(way: _Way, observation: Batch) -> float:
    policy = way.policy
    expected = policy.predict_horizon(
        observation, _noise(policy), [torch.Generator().manual_seed(1)], **way.warm
    ).cpu()
    found = way.chunk(observation)
    if found.shape != expected.shape:  # LeRobot gives the executed actions only
        expected = expected[:, policy.executed()]
    known = policy.statistics().get(ACTION, {})
    range_A = np.asarray(known.get("max", 1.0)) - np.asarray(known.get("min", 0.0))
    share = (found - expected).abs().numpy() / np.where(range_A > 0, range_A, 1.0)
    return float(share.max())


def _noise(policy: DiffusionPolicy) -> Tensor:
    shape = (1, policy.horizon, policy.action_dim)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _latency(way: _Way) -> Latency:
    device = way.policy.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Latency(tuple(way.times_ms), name, torch.get_num_threads(), way.policy.n_action_steps)


def _memory_mb(policy: DiffusionPolicy) -> float:
    """Memory in use: of the policy's GPU, or of this process."""
    if policy.device.type == "cuda":
        return torch.cuda.memory_allocated(policy.device) / 1e6
    return float(psutil.Process().memory_info().rss) / 1e6


def _named(policy: DiffusionPolicy) -> str:
    return f"{policy.config.inference_sampler} {policy.config.inference_steps}"
