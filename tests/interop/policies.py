"""One policy in two programs: names, shapes, scaled inputs, loss and actions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torchvision.transforms.functional import resize

from tests.interop.checks import Checks
from tests.interop.lerobot_process import LeRobot
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.features import ACTION

SEED = 11
SAMPLES = 8
ROUNDING = 2e-5
"""Largest difference of actions that counts as rounding, as a share of the action's range; the loss likewise.

Two builds of torch sum in different orders, and up to a hundred denoising steps carry that along."""


def compare_policy(
    checks: Checks,
    lerobot: LeRobot,
    checkpoint: Path,
    policy: DiffusionPolicy,
    dataset: LeRobotDataset,
    moved: Mapping[str, int] | None = None,
) -> None:
    """Give both the same checkpoint, the same observations and the same noise.

    Args:
        checks: Takes what comes out.
        lerobot: LeRobot's commands.
        checkpoint: The checkpoint as LeRobot reads it.
        policy: The same policy here.
        dataset: Where the observations are taken from; LeRobot reads its features there too.
        moved: Dimensions that never vary in the data, by feature; here they do.
    """
    rows = np.linspace(0, len(dataset) - 1, SAMPLES).astype(int).tolist()
    batch = _batch_of(dataset, rows, policy)
    for name, dimension in (moved or {}).items():
        batch[name][..., dimension] += 0.5
    names = [feature.name for feature in policy.features.all()]
    given = {name: batch[name] for name in (*names, "action_is_pad")}
    generator = torch.Generator().manual_seed(SEED)
    noise = torch.randn(SAMPLES, policy.horizon, policy.action_dim, generator=generator)
    question = given | {"noise": noise.numpy(), "seed": np.array(SEED)}
    theirs = lerobot.exchange("predict", str(checkpoint), str(dataset.root), given=question)

    found = json.loads(str(theirs["names"]))
    wrong = {kind: found[kind] for kind in ("missing", "unexpected", "shapes") if found[kind]}
    checks.holds("weights: none missing, unexpected or of another shape", not wrong, _named(found, wrong))
    values = {name: torch.from_numpy(value) for name, value in given.items()}
    for name in names:
        mine = policy.normalizer.normalize(name, values[name])
        checks.close(f"{name}, normalised", mine, theirs[f"normalized/{name}"], 1e-5)
    with torch.no_grad():
        loss = policy.loss(
            values,
            noise=torch.from_numpy(theirs["eps"]),
            timesteps=torch.from_numpy(theirs["timesteps"]),
        )
    checks.close(f"loss ({float(loss):.4f})", loss, theirs["loss"], ROUNDING * max(1.0, float(loss)))
    torch.manual_seed(SEED)
    actions = policy.predict_action(values, noise=noise).numpy()
    scale = float(np.ptp(dataset.vector(ACTION), axis=0).max())
    config = policy.config
    sampler = f"{config.inference_sampler}, {config.inference_steps} steps"
    checks.close(f"actions by {sampler}, of {scale:.4g}", actions, theirs["actions"], ROUNDING * scale)
    torch.manual_seed(SEED + 1)
    others = policy.predict_action(values).numpy()
    apart = float(np.abs(others - theirs["actions"]).max())
    checks.holds("  other noise gives other actions", apart > ROUNDING * scale, f"{apart:.1e} apart")


def _batch_of(dataset: LeRobotDataset, rows: list[int], policy: DiffusionPolicy) -> dict[str, np.ndarray]:
    """Stack windows: raw values under LeRobot's names, pictures uint8.

    Where the cameras differ in size, their pictures come resized, as LeRobot must be given them.
    """
    windows = [dataset.window(row, policy.n_obs_steps, policy.horizon) for row in rows]
    batch = {name: np.stack([window[name] for window in windows]) for name in windows[0]}
    resized = policy.config.resize_shape
    if resized is not None and len({camera.shape for camera in policy.features.cameras}) > 1:
        for camera in policy.features.cameras:
            pictures = torch.from_numpy(batch[camera.name])
            smaller = resize(pictures.flatten(0, 1), list(resized))
            batch[camera.name] = smaller.unflatten(0, pictures.shape[:2]).numpy()
    return batch


def _named(found: dict[str, Any], wrong: dict[str, Any]) -> str:
    return json.dumps(wrong) if wrong else f"{found['tensors']} tensors, {', '.join(found['dtypes'])}"
