"""The initial weights of a fine-tuning run: read, compared with the new policy, loaded into it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.finetuning.compatibility import (
    feature_faults,
    image_remarks,
    layers_to_reinitialise,
    match_camera_order,
    rename_for_cameras,
    start_policy,
)
from trainables.diffusion_policy.network.normalize import Statistics
from trainables.diffusion_policy.network.policy import DiffusionPolicy
from trainables.diffusion_policy.network.shapes import DERIVED_BUFFER, layer_of, listed, reinitialised_layers
from trainables.diffusion_policy.pretrained.read import read_checkpoint
from trainables.features import PolicyFeatures
from trainables.interface import ConfigError, Fault, TrainContext

__all__ = ["START", "WarmStart", "read_warm_start", "tell"]

START = "start.json"
"""File in a trial's folder that describes its initial weights."""
MOST_LISTED = 6

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WarmStart:
    """A checkpoint at which a run starts, and how it fits.

    Attributes:
        config: The new run.
        folder: The checkpoint's folder.
        format: The format of the checkpoint.
        features: What the new policy sees and does, cameras in the order of the checkpoint's.
        statistics: The checkpoint's, if the run uses them.
        weights: The checkpoint's, under the names of the new policy.
        fetches_backbone: Whether the backbone is reinitialised, and so may use pretrained weights.
        other_backbone: Whether the backbone is another ResNet.
        notes: Notes for the user.
    """

    config: DiffusionConfig
    folder: Path
    format: str
    features: PolicyFeatures
    statistics: Statistics
    weights: Mapping[str, Tensor]
    fetches_backbone: bool
    other_backbone: bool
    notes: tuple[str, ...]

    def put_into(self, policy: DiffusionPolicy) -> dict[str, Any]:
        """Load the weights into a new policy.

        Returns:
            A record as JSON values; its ``begun_anew`` lists the layers that kept their new weights.

        Raises:
            ConfigError: If layers do not fit and must not be reinitialised, or a weight is not finite.
        """
        state = policy.state_dict()
        learnt = {name: value for name, value in self.weights.items() if not name.endswith(DERIVED_BUFFER)}
        reinitialised = reinitialised_layers(
            {name: tuple(value.shape) for name, value in learnt.items()},
            {name: tuple(value.shape) for name, value in state.items()},
            other_backbone=self.other_backbone,
        )
        left_out = sorted({layer_of(name) for name in learnt if name not in state})
        if (reinitialised or left_out) and not self.config.policy.reinit_mismatched:
            raise _misfit(self.folder, reinitialised, left_out)
        fresh = set(reinitialised)
        taken = {
            name: value for name, value in learnt.items() if name in state and layer_of(name) not in fresh
        }
        wrong = next((name for name, value in taken.items() if not bool(torch.isfinite(value).all())), None)
        if wrong is not None:
            raise _error(f"{self.folder}: {wrong} contains numbers that are not finite.")
        policy.load_state_dict(taken, strict=False)
        return {
            "path": self.config.policy.path,
            "folder": str(self.folder),
            "format": self.format,
            "statistics": self.config.policy.stats,
            "vision_encoder_lr_multiplier": self.config.optimizer.vision_encoder_lr_multiplier,
            "layers": len({layer_of(name) for name in state if not name.endswith(DERIVED_BUFFER)}),
            "begun_anew": reinitialised,
            "left_out": left_out,
            "notes": list(self.notes),
        }


def read_warm_start(config: DiffusionConfig, found: PolicyFeatures, context: TrainContext) -> WarmStart:
    """Read the checkpoint of ``policy.path`` and compare it with the configuration and the dataset.

    Args:
        config: The completed configuration of the run.
        found: The dataset's features.
        context: Receives the progress.

    Raises:
        ConfigError: If the checkpoint is missing or damaged, or if it does not fit and
            ``policy.reinit_mismatched`` is not set.
    """
    path = str(config.policy.path)
    context.progress(f"reading the checkpoint {path}")
    read = read_checkpoint(path, statistics=config.policy.stats == "checkpoint")
    faults = feature_faults(config, read.config, found)
    if faults:
        raise ConfigError(faults)
    before = start_policy(read.config)
    features = match_camera_order(found, read.config.features)
    backbone = [
        name for name in layers_to_reinitialise(config.policy, read.config, features) if ".backbone." in name
    ]
    return WarmStart(
        config=config,
        folder=read.config.folder,
        format=read.config.format,
        features=features,
        statistics=read.statistics,
        weights=rename_for_cameras(read.weights, before, read.config.features, features),
        fetches_backbone=bool(backbone),
        other_backbone=before.vision_backbone != config.policy.vision_backbone,
        notes=(*read.config.notes, *image_remarks(config.policy, read.config, features)),
    )


def tell(record: Mapping[str, Any], context: TrainContext) -> None:
    """Report the initial weights: in full in the log, in short as progress."""
    reinitialised, left_out = record["begun_anew"], record["left_out"]
    log.info("The weights come from %s (%s).", record["folder"], record["format"])
    for note in record["notes"]:
        log.warning("%s", note)
    for layers, words in ((reinitialised, "are reinitialised"), (left_out, "of the checkpoint are left out")):
        if layers:
            log.warning("%d layers %s: %s", len(layers), words, ", ".join(layers))
    short = (
        f"{len(reinitialised)} of {record['layers']} layers are reinitialised"
        if reinitialised
        else "all layers fit"
    )
    context.progress(f"starts from {record['folder']}: {short}")


def _misfit(folder: Path, reinitialised: list[str], left_out: list[str]) -> ConfigError:
    parts = []
    if reinitialised:
        parts.append(f"{len(reinitialised)} layers do not fit ({listed(reinitialised, MOST_LISTED)})")
    if left_out:
        parts.append(
            f"{len(left_out)} layers are not part of the new policy ({listed(left_out, MOST_LISTED)})"
        )
    remedy = "Use the checkpoint's own settings, or set policy.reinit_mismatched: true."
    return _error(f"{folder}: {' and '.join(parts)}.", remedy)


def _error(problem: str, remedy: str = "") -> ConfigError:
    return ConfigError([Fault("policy.path", problem, remedy)])
