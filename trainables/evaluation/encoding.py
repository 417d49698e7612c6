"""Observations that are encoded once, however many chunks are drawn for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from trainables.deployment.control.controller import KeepsEncodings

__all__ = ["encoded_once"]


def encoded_once(
    policy: object, observation: Mapping[str, Tensor], samples: int = 1
) -> tuple[Mapping[str, Tensor], dict[str, Any]]:
    """What a policy is to be given so that it encodes each observation once.

    Args:
        policy: A policy in evaluation mode.
        observation: (B, To, ...) by name, on the policy's device.
        samples: Rows to predict for each observation, one after the other.

    Returns:
        The observation, and further arguments by name, of a prediction of B times ``samples`` rows. A policy
        that cannot encode apart is given each observation ``samples`` times.
    """
    if isinstance(policy, KeepsEncodings):
        condition_BG = policy.encode(observation).flatten(start_dim=1)
        return {}, {"condition": condition_BG.repeat_interleave(samples, dim=0)}
    return {name: value.repeat_interleave(samples, dim=0) for name, value in observation.items()}, {}
