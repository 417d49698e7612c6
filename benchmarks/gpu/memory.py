"""How much memory training takes, and that neither a checkpoint nor a resumed run takes more than it."""

from __future__ import annotations

import gc
import itertools
import shutil
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch

from benchmarks.gpu.cases import Case, Setting, Value, compared
from benchmarks.gpu.clock import Peak
from benchmarks.gpu.materials import DEFAULT_SIZE, SMALL_SIZE, TINY_SIZE, config_of, train
from trainables.diffusion_policy.trainable import TRAINABLE

__all__ = ["cases"]

WAYS: dict[str, dict[str, Any]] = {
    "whole": {},
    "checkpointed": {"train.gradient_checkpointing": True},
    "4 passes": {"train.gradient_accumulation_steps": 4},
}
CHECKPOINT_TOLERANCE = 0.02
"""Share of the training's peak by which a checkpoint or a resumed run may exceed it."""
ENDLESS: dict[str, Any] = {"train.steps": 1_000_000, "train.eval_every": 1_000_000, "train.log_every": 2}


def cases(setting: Setting) -> Iterator[Case]:
    """The peak of training, and of what is not training."""
    batches = (8,) if setting.quick else (64, 256)
    for batch, precision, way in itertools.product(batches, ("fp32", "bf16"), WAYS):
        yield Case(f"batch {batch}, {precision}, {way}", partial(_training, setting, batch, precision, way))
    yield Case("writing a checkpoint", partial(_beside_training, setting, resumed=False))
    yield Case("a resumed run", partial(_beside_training, setting, resumed=True))


def _training(setting: Setting, batch: int, precision: str, way: str) -> Mapping[str, Value]:
    changes = {"train.batch_size": batch, "train.precision": precision}
    size = TINY_SIZE if setting.quick else DEFAULT_SIZE
    config = config_of(setting, size, ENDLESS, WAYS[way], changes)
    peak = Peak(setting.device)
    train(config, setting, "memory", reports=1)
    return {"peak GB": peak.gb(), "memory_gb() says at least": TRAINABLE.memory_gb(config)}


def _beside_training(setting: Setting, *, resumed: bool) -> Mapping[str, Value]:
    """Compare two steps alone with two that end with a checkpoint, or that resume from it."""
    size = TINY_SIZE if setting.quick else SMALL_SIZE
    # A batch so small that the weights are most of it.
    config = config_of(setting, size, ENDLESS, {"train.batch_size": 8})
    saving = config | {"train.checkpoint_every": 2}
    shutil.rmtree(setting.folder / "trials" / "saving", ignore_errors=True)
    alone = _peak_gb(setting, config, "alone", 1)
    other = _peak_gb(setting, saving, "saving", 1)
    if resumed:
        # The first report is that of the checkpoint.
        other = _peak_gb(setting, saving, "saving", 2)
    if not setting.on_gpu:
        return {"peak GB": other, "training alone, GB": alone}
    more = max(0.0, other / alone - 1)
    return compared(more, CHECKPOINT_TOLERANCE, of="share of the peak") | {"peak GB": other}


def _peak_gb(setting: Setting, config: Mapping[str, Any], name: str, reports: int) -> float:
    gc.collect()
    if setting.on_gpu:
        torch.cuda.empty_cache()
    peak = Peak(setting.device)
    train(config, setting, name, reports=reports)
    return peak.gb()
