"""Training runs for tests, and what of them must be equal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from trainables.diffusion_policy import TRAINABLE
from trainables.diffusion_policy.training import checkpoint as checkpoints
from trainables.diffusion_policy.training.checkpoint import Checkpoints
from trainables.interface import Report, TrainContext

TIMED = {
    "train/samples_per_s",
    "train/data_wait_fraction",
    "eval/chunk_latency_ms",
    "eval/action_rate_hz",
}


def context(folder: Path, **changes: Any) -> TrainContext:
    return TrainContext(folder=folder, cache=folder / "cache", threads=1, **changes)


def run(config: Mapping[str, Any], folder: Path, **changes: Any) -> list[Report]:
    return list(TRAINABLE.train(config, context(folder, **changes)))


def untimed(report: Report) -> dict[str, float]:
    return {name: value for name, value in report.metrics.items() if name not in TIMED}


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    last = Checkpoints(folder / "checkpoints").find("last")
    assert last is not None
    snapshot = checkpoints.read(last)
    groups = {"model": snapshot.model, "ema": snapshot.ema or {}, "optimizer": snapshot.optimizer or {}}
    return {f"{group}/{name}": value for group, tensors in groups.items() for name, value in tensors.items()}
