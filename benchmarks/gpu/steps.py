"""How long an optimiser step takes: precision, compilation, CUDA graph, channels-last weights, batch, size.

The training loop is the trainable's own, data and average included. No evaluation and no checkpoint falls
into what is timed. The trainable has no option for channels-last weights: the kit sets them around it.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from benchmarks.gpu.arithmetic import channels_last, train_precision
from benchmarks.gpu.cases import Case, NotHereError, Setting, Value
from benchmarks.gpu.clock import Peak, StepClock
from benchmarks.gpu.materials import config_of, sizes, train

__all__ = ["cases"]

WARMUP, STEPS = 8, 30
QUICK_WARMUP, QUICK_STEPS = 2, 3
COMPILED_FIRST = ("bf16", "TF32")
"""Compiling takes about a minute: these are compiled before the rest."""

GRAPH = "graph"
"""The whole step as a CUDA graph, among the modes of compilation."""

SWITCHES: Mapping[str, Mapping[str, Any]] = {
    "cuDNN benchmark": {"train.cudnn_benchmark": True},
    "average every 4th step": {"ema.every": 4},
}
"""Options of the trainable, each compared with the eager step in bf16."""


def cases(setting: Setting) -> Iterator[Case]:
    """Eager steps in every combination, then compiled ones, the most telling first."""
    batches = (4,) if setting.quick else (64, 256)
    precisions = ("fp32", "bf16") if setting.quick else ("fp32", "TF32", "bf16")
    for size, batch, precision, nhwc in itertools.product(sizes(setting), batches, precisions, (False, True)):
        yield _case(setting, size, batch, precision, "eager", nhwc)
    for size, batch, precision in itertools.product(sizes(setting), batches, precisions):
        yield _case(setting, size, batch, precision, GRAPH, True)
    modes = ("default",) if setting.quick else ("default", "reduce-overhead")
    compiled = itertools.product(
        sizes(setting), batches, COMPILED_FIRST[:1] if setting.quick else COMPILED_FIRST
    )
    for size, batch, precision in compiled:
        for mode, nhwc in itertools.product(modes, (False,) if setting.quick else (True, False)):
            yield _case(setting, size, batch, precision, mode, nhwc)
    for switch, changes in SWITCHES.items():
        for size in sizes(setting):
            name = f"{size}, batch {batches[0]}, bf16, eager, channels last, {switch}"
            measure = partial(_measure, setting, size, batches[0], "bf16", "eager", True, changes)
            yield Case(name, measure)
    if not setting.quick:
        for size, batch, mode in itertools.product(sizes(setting), batches, modes):
            yield _case(setting, size, batch, "fp32", mode, False)


def _case(setting: Setting, size: str, batch: int, precision: str, mode: str, nhwc: bool) -> Case:
    layout = "channels last" if nhwc else "default layout"
    name = f"{size}, batch {batch}, {precision}, {mode}, {layout}"
    return Case(name, partial(_measure, setting, size, batch, precision, mode, nhwc))


def _measure(
    setting: Setting,
    size: str,
    batch: int,
    precision: str,
    mode: str,
    nhwc: bool,
    changes: Mapping[str, Any] | None = None,
) -> Mapping[str, Value]:
    if mode == GRAPH and not setting.on_gpu:
        raise NotHereError("only a GPU has CUDA graphs")
    warmup, steps = (QUICK_WARMUP, QUICK_STEPS) if setting.quick else (WARMUP, STEPS)
    clock, peak = StepClock(setting.device), Peak(setting.device)
    endless: dict[str, Any] = {
        "train.batch_size": batch,
        "train.precision": train_precision(precision),
        "train.tf32": precision == "TF32",
        "train.compile": GRAPH if mode == GRAPH else mode != "eager",
        "train.compile_mode": "default" if mode in ("eager", GRAPH) else mode,
        "train.steps": 1_000_000,
        "train.eval_every": 1_000_000,
        "train.log_every": warmup + steps,
    }
    config = config_of(setting, sizes(setting)[size], endless, changes or {})
    with channels_last(nhwc):
        report = train(config, setting, "steps", stop_requested=clock, reports=1)[0]
    times_ms = clock.steps_ms(warmup)
    median = statistics.median(times_ms)
    return {
        "ms a step": median,
        "90 % below": statistics.quantiles(times_ms, n=10, method="inclusive")[-1],
        "samples/s": batch / median * 1e3,
        "waiting for data, %": 100 * report.metrics["train/data_wait_fraction"],
        "peak GB": peak.gb(),
    }
