"""What ``lerobot-train`` has just made, read here."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.interop import materials
from tests.interop.checks import Checks
from tests.interop.lerobot_process import LeRobot
from tests.interop.lerobot_side import VIDEO_BACKEND
from tests.interop.policies import compare_policy
from trainables.dataset.open import open_dataset
from trainables.diffusion_policy import lerobot as checkpoints
from trainables.interface import Report

LOGGED_LOSS = re.compile(r"\bloss:([0-9.]+)")


TINY: Mapping[str, Any] = {
    "policy.type": "diffusion",
    "policy.down_dims": "[32, 64]",
    "policy.n_groups": 4,
    "policy.diffusion_step_embed_dim": 32,
    "policy.optimizer_lr": 1e-3,
    "policy.scheduler_warmup_steps": 20,
}
"""A new policy of LeRobot's that learns in a minute."""


def train_there(
    lerobot: LeRobot, root: Path, out: Path, policy: Mapping[str, Any], *, steps: int, batch_size: int
) -> list[float]:
    """Let ``lerobot-train`` make a checkpoint in a folder; gives the losses that it logged."""
    options: Mapping[str, Any] = {
        "dataset.repo_id": "local/interop",
        "dataset.root": root,
        "dataset.video_backend": VIDEO_BACKEND,
        "output_dir": out,
        "policy.device": "cpu",
        "policy.push_to_hub": "false",
        **policy,
        "steps": steps,
        "batch_size": batch_size,
        "num_workers": 0,
        "log_freq": steps // 5,
        "save_freq": steps,
        lerobot.release.eval_every: 0,
        "wandb.enable": "false",
        "seed": 3,
    }
    printed = lerobot.tool("lerobot-train", *(f"--{name}={value}" for name, value in options.items()))
    return [float(loss) for loss in LOGGED_LOSS.findall(printed)]


def compare_import(checks: Checks, lerobot: LeRobot, trained: Path, root: Path) -> None:
    """Load what ``lerobot-train`` left, by the folder that it was told to write to, and compare."""
    policy = checkpoints.load(trained)
    compare_policy(checks, lerobot, trained / "checkpoints/last/pretrained_model", policy, open_dataset(root))


def compare_finetuning(
    checks: Checks, trained: Path, root: Path, folder: Path, cache: Path, loss_there: float
) -> None:
    """Fine-tune the checkpoint here: it begins where LeRobot stopped, not at zero."""
    shared: dict[str, Any] = {
        "dataset.root": str(root),
        "train.steps": 20,
        "train.batch_size": 32,
        "train.log_every": 10,
        "train.eval_every": 20,
        "train.eval_at_start": True,
        "optimizer.lr": 1e-4,
        "lr_scheduler.warmup_steps": 5,
    }
    start = {"policy.path": str(trained), "policy.stats": "checkpoint"}
    _, continued = materials.train(shared | start, folder / "finetuned", cache)
    _, fresh = materials.train({**shared, **materials.TINY}, folder / "from_scratch", cache)
    error, error_fresh = (reports[0].metrics["eval/action_mse"] for reports in (continued, fresh))
    loss, loss_fresh = (_first(reports, "train/loss") for reports in (continued, fresh))
    checks.holds(
        "fine-tuned here, first loss at LeRobot's last",
        loss < 1.5 * loss_there,
        f"{loss:.3f}; LeRobot {loss_there:.3f}; from scratch {loss_fresh:.3f}",
    )
    checks.holds(
        "first evaluation below half of a new policy's",
        error < error_fresh / 2,
        f"eval/action_mse {error:.1f}; from scratch {error_fresh:.1f}",
    )


def compare_finetuning_there(
    checks: Checks, lerobot: LeRobot, exported: Path, root: Path, folder: Path, loss_here: float
) -> None:
    """Fine-tune our export with ``lerobot-train``: it begins where we stopped."""
    policy = {"policy.path": exported, "policy.optimizer_lr": 1e-5}
    losses = train_there(lerobot, root, folder, policy, steps=20, batch_size=32)
    measured = f"{losses[0]:.3f}; our last {loss_here:.3f}"
    checks.holds("first loss that lerobot-train logged, at ours", losses[0] < 3 * loss_here, measured)


def _first(reports: list[Report], metric: str) -> float:
    return next(report.metrics[metric] for report in reports if metric in report.metrics)
