"""Weights that were read from a file: whether they fit a policy, and a policy with them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainables.diffusion_policy.config.sections import PolicyConfig
from trainables.diffusion_policy.network.normalize import Statistics
from trainables.diffusion_policy.network.policy import (
    DiffusionPolicy,
    Networks,
    assemble_policy,
    build_networks,
)
from trainables.diffusion_policy.network.shapes import mismatches
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig
from trainables.features import PolicyFeatures
from trainables.interface import TrainableError

__all__ = [
    "Pretrained",
    "WeightsError",
    "empty_networks",
    "policy_from_weights",
    "policy_shapes",
]

PREFIX = "diffusion."


class WeightsError(TrainableError):
    """Weights do not fit their configuration."""

    reason = "config"


def empty_networks(config: PolicyConfig, features: PolicyFeatures) -> Networks:
    """The networks of a policy without memory for their weights; nothing is drawn or fetched."""
    with torch.device("meta"):
        return build_networks(dataclasses.replace(config, pretrained_backbone_weights=None), features)


def policy_shapes(networks: Networks) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a policy's state dict."""
    return {f"{PREFIX}{name}": tuple(value.shape) for name, value in networks.state_dict().items()}


def policy_from_weights(
    config: PolicyConfig, features: PolicyFeatures, statistics: Statistics, weights: Mapping[str, Tensor]
) -> DiffusionPolicy:
    """Build a policy from weights; it takes over the tensors, so that they are not in memory twice.

    Args:
        config: The policy's configuration. Pretrained weights that it names are not fetched.
        features: What the policy sees and does.
        statistics: Statistics of the normalisation.
        weights: Under the names of the policy's state dict.

    Raises:
        WeightsError: If names or shapes do not fit, listing them.
        ConfigError: If the cameras' images do not fit the configuration.
        NormalizationError: If the statistics do not fit the features.
    """
    networks = empty_networks(config, features)
    problems = mismatches(policy_shapes(networks), {name: tuple(v.shape) for name, v in weights.items()})
    if problems:
        raise WeightsError(f"the weights do not fit the configuration: {'; '.join(problems)}.")
    own = {name.removeprefix(PREFIX): value for name, value in weights.items()}
    networks.load_state_dict(own, strict=True, assign=True)
    return assemble_policy(config, features, statistics, networks)


@dataclass(frozen=True)
class Pretrained:
    """A checkpoint's content.

    Attributes:
        config: Its configuration.
        weights: float32 on the CPU (integers stay), under the names of ``DiffusionPolicy.state_dict()``.
        statistics: Statistics of its observations and actions, for :class:`Normalizer`: vectors
            (D,), images (C, 1, 1), float32.
    """

    config: PretrainedConfig
    weights: dict[str, Tensor]
    statistics: Statistics

    @property
    def policy_config(self) -> PolicyConfig:
        """The policy's configuration; crops are drawn as in LeRobot if LeRobot wrote the checkpoint."""
        stated: dict[str, Any] = {
            name.removeprefix("policy."): tuple(value) if isinstance(value, list) else value
            for name, value in self.config.values.items()
            if name.startswith("policy.")
        }
        if self.config.format in ("lerobot", "lerobot_buffers"):
            stated.setdefault("crop_per", "batch")
        return PolicyConfig(**stated)
