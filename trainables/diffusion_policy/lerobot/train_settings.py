"""``train_config.json``: the settings of a training, in the form of LeRobot 0.4.4.

It is not needed for evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import FIELDS

__all__ = ["TRAIN_SETTINGS_TARGET", "train_settings"]

TRAIN_SETTINGS_TARGET = "lerobot==0.4.4"


def train_settings(policy: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every field of LeRobot 0.4.4's ``train_config.json``.

    Args:
        policy: The content of ``config.json``.
        settings: Settings of the training, by dotted name; missing ones are LeRobot's defaults.
    """

    def value(name: str) -> Any:
        return settings.get(name, FIELDS[name].default)

    every = value("train.eval_every")
    adam = value("optimizer.name") == "adam"
    return {
        "dataset": _dataset(settings),
        "env": None,
        "policy": dict(policy),
        "output_dir": None,
        "job_name": None,
        "resume": False,
        "seed": value("train.seed"),
        "num_workers": 4,
        "batch_size": value("train.batch_size"),
        "steps": value("train.steps"),
        "eval_freq": every,
        "log_freq": value("train.log_every"),
        "tolerance_s": value("dataset.tolerance_s"),
        "save_checkpoint": True,
        "save_freq": value("train.checkpoint_every") or every,
        # The preset is Adam; with it LeRobot would ignore the optimiser below.
        "use_policy_training_preset": adam,
        "optimizer": {
            "type": "adam" if adam else "adamw",
            "lr": policy["optimizer_lr"],
            "weight_decay": policy["optimizer_weight_decay"],
            "grad_clip_norm": value("optimizer.grad_clip_norm"),
            "betas": list(policy["optimizer_betas"]),
            "eps": policy["optimizer_eps"],
        },
        "scheduler": {
            "type": "diffuser",
            "num_warmup_steps": policy["scheduler_warmup_steps"],
            "name": policy["scheduler_name"],
        },
        "eval": {
            "n_episodes": value("rollout.episodes"),
            "batch_size": min(value("rollout.parallel"), value("rollout.episodes")),
            "use_async_envs": False,
        },
        "wandb": {
            "enable": False,
            "disable_artifact": False,
            "project": "lerobot",
            **dict.fromkeys(("entity", "notes", "run_id", "mode")),
        },
        "peft": None,
        "use_rabc": False,
        "rabc_progress_path": None,
        "rabc_kappa": 0.01,
        "rabc_epsilon": 1e-06,
        "rabc_head_mode": "sparse",
        "rename_map": {},
        "checkpoint_path": None,
    }


def _dataset(settings: Mapping[str, Any]) -> dict[str, Any]:
    root, repo_id = (_first(settings.get(f"dataset.{name}")) for name in ("root", "repo_id"))
    return {
        # LeRobot requires a name even of a folder.
        "repo_id": repo_id or (Path(root).name if root else ""),
        "root": root,
        "episodes": None,
        "image_transforms": {
            "enable": False,
            "max_num_transforms": 3,
            "random_order": False,
            "tfs": _image_transforms(),
        },
        "revision": settings.get("dataset.revision"),
        "use_imagenet_stats": settings.get("dataset.use_imagenet_stats", True),
        "video_backend": "torchcodec",
        "streaming": False,
    }


def _first(value: Any) -> str | None:
    """One name of a field that may have several; LeRobot accepts only one."""
    if isinstance(value, (list, tuple)):
        return next(iter(value), None)
    return value


def _image_transforms() -> dict[str, Any]:
    """LeRobot's list of image transforms, none of which is enabled."""
    jitter = {
        "brightness": [0.8, 1.2],
        "contrast": [0.8, 1.2],
        "saturation": [0.5, 1.5],
        "hue": [-0.05, 0.05],
    }
    affine = {"degrees": [-5.0, 5.0], "translate": [0.05, 0.05]}
    listed = itertools.chain(
        ((name, "ColorJitter", {name: span}) for name, span in jitter.items()),
        [("sharpness", "SharpnessJitter", {"sharpness": [0.5, 1.5]}), ("affine", "RandomAffine", affine)],
    )
    return {name: {"weight": 1.0, "type": kind, "kwargs": kwargs} for name, kind, kwargs in listed}
