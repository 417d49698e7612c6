"""Policies of this project, exported, in LeRobot."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from tests.interop.checks import Checks
from tests.interop.lerobot_process import LeRobot
from tests.interop.policies import compare_policy
from trainables.dataset.open import open_dataset
from trainables.diffusion_policy import lerobot as checkpoints
from trainables.diffusion_policy.network.policy import DiffusionPolicy, build_policy


def with_settings(policy: DiffusionPolicy, **changes: Any) -> DiffusionPolicy:
    """Build the same policy, weights and statistics included, with other settings."""
    config = dataclasses.replace(policy.config, **changes)
    changed = build_policy(config, policy.features, policy.statistics())
    changed.load_state_dict(policy.state_dict())
    return changed.eval()


def compare_export(
    checks: Checks,
    lerobot: LeRobot,
    policy: DiffusionPolicy,
    root: Path,
    *,
    fields: Collection[str],
    folder: Path,
    moved: Mapping[str, int] | None = None,
) -> None:
    """Export a policy where that has not been done, and compare it with what LeRobot makes of the export.

    Args:
        checks: Takes what comes out.
        lerobot: LeRobot's commands.
        policy: The policy.
        root: The dataset that it learnt from.
        fields: The fields of config.json that LeRobot knows.
        folder: Where the export is, or is written to.
        moved: See :func:`compare_policy`.
    """
    if not folder.exists():
        checkpoints.save(policy, folder, target=lerobot.release.target)
    written = set(json.loads((folder / "config.json").read_text()))
    wrong = sorted(written ^ set(fields))
    checks.holds("config.json: LeRobot's fields, no other", not wrong, str(wrong or f"{len(written)} fields"))
    compare_policy(checks, lerobot, folder, policy, open_dataset(root), moved)


def compare_averages(checks: Checks, checkpoint: Path, exported: Path) -> None:
    """Compare an export's weights with its checkpoint's averages, and with the weights as trained."""
    written = checkpoints.load(exported).state_dict()
    averaged = checkpoints.load(checkpoint).state_dict()
    trained = checkpoints.load(checkpoint, ema=False).state_dict()
    checks.same(
        "weights are the averages", {name: (written[name], value) for name, value in averaged.items()}
    )
    apart = max(float((written[name] - value).abs().max()) for name, value in trained.items())
    checks.holds("  and not those of the last step", apart > 0, f"{apart:.1e} apart")


def compare_train_settings(checks: Checks, lerobot: LeRobot, exported: Path) -> None:
    """Let LeRobot read the settings of training and write them again."""
    answer = lerobot.new_file("json")
    lerobot.ask("settings", str(exported), str(answer))
    ours = json.loads((exported / "train_config.json").read_text())
    theirs = json.loads(answer.read_text())
    # LeRobot names a run and its folder by the clock where it is told nothing.
    wrong = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    checks.holds("train_config.json, read and written by LeRobot", not wrong, f"{len(ours)} fields {wrong}")
