"""Record learning curves on Push-T for `benchmarks.search`: ``python -m benchmarks.learning_curves``.

Trains tiny policies with configurations drawn at random from `SPACE`, one after the other on one core, and
writes their values at `RUNGS` evaluations to ``learning_curves.json`` beside this file. The draws depend on
their number alone, and trials that the file has already are not trained again: a second call continues, and
``--trials`` can be raised. A trial takes about half a minute of one core.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from scipy.stats import qmc

from benchmarks import machine
from sweeper.layout import write_whole
from sweeper.spec.space import Parameter, Space
from trainables.diffusion_policy.config.sections import BUILTIN_PUSHT
from trainables.diffusion_policy.trainable import TRAINABLE
from trainables.interface import TrainContext

__all__ = ["ERROR", "EVERY", "RUNGS", "SPACE", "STEPS", "TABLE", "draw", "read_table"]

TABLE = Path(__file__).with_name("learning_curves.json")
ERROR = "eval/action_mse"
"""Held-out action error. Rollouts would cost more than the trainings, and say little of such short ones."""
RUNGS, EVERY = 9, 80
"""Evaluations of a trial, and the optimiser steps between two of them."""
STEPS = RUNGS * EVERY
SPACE = Space(
    (
        Parameter("optimizer.lr", "float", low=1e-4, high=3e-2, log=True),
        Parameter("policy.horizon", "int", low=8, high=20, step=4),
        Parameter("ema.power", "float", low=0.4, high=0.95),
        Parameter("lr_scheduler.warmup_steps", "int", low=5, high=320, log=True),
    ),
    (),
)
"""Numbers only, so that every search method of the service can search it."""
CONFIG: Mapping[str, Any] = {
    "dataset.repo_id": BUILTIN_PUSHT,
    "dataset.observations": ["observation.state", "observation.environment_state"],
    "policy.n_action_steps": 8,
    "policy.n_obs_steps": 1,
    "policy.down_dims": [24, 48],
    "policy.diffusion_step_embed_dim": 32,
    "policy.prediction_type": "sample",
    "policy.sampler": "DDIM",
    "policy.num_inference_steps": 4,
    "train.steps": STEPS,
    "train.batch_size": 32,
    "train.log_every": EVERY,
    "train.eval_every": EVERY,
    "eval.windows": 128,
    "eval.num_inference_steps": 4,
    "eval.denoising_picture": False,
}


def read_table(file: Path = TABLE) -> dict[str, Any]:
    """The recorded table: ``machine``, ``every``, and ``trials`` with their configurations and values."""
    table: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return table


def draw(number: int) -> dict[str, Any]:
    """The configuration of a trial: points of a Sobol sequence, which cover the space evenly."""
    sequence = qmc.Sobol(len(SPACE.parameters), scramble=True, seed=0)
    if number:
        sequence.fast_forward(number)
    return {
        parameter.name: _value(parameter, float(share))
        for parameter, share in zip(SPACE.parameters, sequence.random()[0], strict=True)
    }


def _value(parameter: Parameter, share: float) -> float | int:
    low, high = parameter.bounds()
    if parameter.step is not None:
        grid = parameter.grid()
        return int(grid[min(len(grid) - 1, int(share * len(grid)))])
    value = low * (high / low) ** share if parameter.log else low + share * (high - low)
    return round(value) if parameter.kind == "int" else float(f"{value:.4g}")


def train(values: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Train a trial: its values at each evaluation, and its CPU seconds."""
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        context = TrainContext(folder=Path(folder), cache=cache, threads=1, objective=(ERROR, "minimize"))
        reports = list(TRAINABLE.train({**CONFIG, **values}, context))
    judged = [report.metrics for report in reports if ERROR in report.metrics]
    if len(judged) != RUNGS:
        raise RuntimeError(f"{values}: {len(judged)} evaluations instead of {RUNGS}")
    return {
        "values": dict(values),
        "cpu_s": round(time.process_time() - began, 1),
        ERROR: [float(f"{metrics[ERROR]:.5g}") for metrics in judged],
    }


def main() -> None:
    """Train what is missing, and write the file after each trial."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.learning_curves", description=__doc__)
    parser.add_argument("--trials", type=int, default=96)
    parser.add_argument("--file", type=Path, default=TABLE)
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/sweeper").expanduser())
    arguments = parser.parse_args()
    os.nice(19)
    torch.set_num_threads(1)
    trials = read_table(arguments.file)["trials"] if arguments.file.exists() else []
    for number in range(len(trials), arguments.trials):
        trials.append(train(draw(number), arguments.cache))
        newest = trials[-1]
        print(number, newest["cpu_s"], newest[ERROR][-1], newest["values"], flush=True)
        _write(arguments.file, trials)


def _write(file: Path, trials: list[dict[str, Any]]) -> None:
    head = {"machine": machine.describe(), "every": EVERY, "config": dict(CONFIG)}
    lines = ",\n".join(json.dumps(trial) for trial in trials)
    write_whole(file, json.dumps(head, indent=1)[:-2] + f',\n "trials": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
