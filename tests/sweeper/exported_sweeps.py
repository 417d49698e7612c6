"""A sweep with checkpoints whose weights show which one was exported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_sweeps import ERROR, LR, begin, sweep, this_process

from sweeper.cli import main
from sweeper.layout import JOURNAL
from sweeper.records.events import EventKind
from sweeper.records.journal import Journal
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.network.policy import build_policy
from trainables.diffusion_policy.training.checkpoint import Checkpoints, Snapshot
from trainables.features import Feature, FeatureType, PolicyFeatures

CONFIG = {
    "dataset.root": "somewhere",
    "train.steps": 40,
    "lr_scheduler.warmup_steps": 2,
    "policy.down_dims": [8],
    "policy.n_groups": 4,
    "policy.diffusion_step_embed_dim": 8,
    "policy.horizon": 8,
    "policy.n_action_steps": 4,
    "policy.num_train_timesteps": 10,
}


def write_checkpoint(trial: Path, step: int, *, best: bool, random: bool = False) -> Path:
    """A checkpoint whose every weight is its step, or random."""
    features = PolicyFeatures.of(
        [
            Feature("observation.state", FeatureType.STATE, (2,)),
            Feature("observation.environment_state", FeatureType.ENV, (3,)),
            Feature("action", FeatureType.ACTION, (2,)),
        ]
    )
    statistics = {
        feature.name: {"min": np.full(feature.shape, -1.0), "max": np.full(feature.shape, 1.0)}
        for feature in features.all()
    }
    config = DiffusionConfig.from_flat(CONFIG)
    weights = build_policy(config.policy, features, statistics).state_dict()
    model = (
        weights if random else {name: torch.full_like(value, float(step)) for name, value in weights.items()}
    )
    snapshot = Snapshot(step, config, features, statistics, model, None, {}, {})
    return Checkpoints(trial / "checkpoints").save(snapshot, best=best)


def write_sweep(folder: Path, *, random: bool = False) -> None:
    """A sweep of two trials that completed, the second the better, and one that failed before it kept one."""
    folder.mkdir(parents=True)
    spec = sweep(folder, LR, objectives={ERROR: "minimize"}, config=CONFIG)
    journal = Journal(folder / JOURNAL)
    begin(journal, spec, driver=this_process() | {"host": "h"})
    errors = {0: {10: 0.5, 20: 0.4}, 1: {30: 0.1, 40: 0.3}, 2: {}}
    for number, points in errors.items():
        journal.append(EventKind.TRIAL_START, trial=number, values={"optimizer.lr": 1e-4}, config=CONFIG)
        best = min(points, key=lambda step: points[step], default=None)
        for step, value in points.items():
            checkpoint = write_checkpoint(
                folder / "trials" / str(number), step, best=step == best, random=random
            )
            journal.append(
                EventKind.REPORT, trial=number, step=step, metrics={ERROR: value}, checkpoint=str(checkpoint)
            )
        status, reason = ("completed", "") if points else ("failed", "oom")
        final = {ERROR: list(points.values())[-1]} if points else {}
        told = {"final": final, "best": final, "sweep_best": final, "ended": number + 1}
        told |= {"step": max(points, default=0), "status": status, "reason": reason, "message": reason}
        journal.append(EventKind.TRIAL_END, trial=number, **told)


def exported(*arguments: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["export", *arguments])
    return int(end.value.code or 0)


def step_of(folder: Path) -> float:
    from safetensors.torch import load_file

    return float(load_file(folder / "model.safetensors")["diffusion.unet.final_conv.1.bias"][0])
