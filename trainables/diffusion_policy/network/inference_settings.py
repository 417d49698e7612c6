"""Inference settings: fields that change how a trained policy acts, without training it again."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainables.diffusion_policy.config.clashes import diffusion_faults, window_faults
from trainables.diffusion_policy.config.diffusion_config import FIELDS
from trainables.diffusion_policy.config.sections import EvalConfig, PolicyConfig
from trainables.diffusion_policy.network.policy import DiffusionPolicy, assemble_policy
from trainables.interface import Fault

__all__ = ["INFERENCE_FIELDS", "configured", "setting_faults", "setting_of", "with_setting"]

INFERENCE_FIELDS = tuple(name for name, field in FIELDS.items() if field.phase == "inference")
"""Every field that can change on a trained policy, by dotted name."""
_SECTION = "policy."


def setting_of(config: PolicyConfig) -> dict[str, Any]:
    """Every inference field of a policy, by dotted name."""
    return {name: getattr(config, name.removeprefix(_SECTION)) for name in INFERENCE_FIELDS}


def configured(config: PolicyConfig, setting: Mapping[str, Any]) -> PolicyConfig:
    """A policy's configuration with an inference setting, which `setting_faults` found legal."""
    return dataclasses.replace(
        config, **{name.removeprefix(_SECTION): value for name, value in setting.items()}
    )


def setting_faults(config: PolicyConfig, setting: Mapping[str, Any]) -> list[Fault]:
    """List the faults of an inference setting for a policy; empty if it is legal."""
    faults = []
    for name, value in setting.items():
        if name not in INFERENCE_FIELDS:
            problem = "a trained policy cannot change it." if name in FIELDS else "no field has this name."
            faults.append(Fault(name, problem, f"Inference fields are {', '.join(INFERENCE_FIELDS)}."))
        else:
            faults += FIELDS[name].faults(value)
    if faults:
        return faults
    changed = configured(config, setting)
    # Settings of the evaluation during training do not limit a trained policy.
    compared = EvalConfig(window_steps=1, num_inference_steps=1)
    return [
        fault
        for fault in (*window_faults(changed, compared), *diffusion_faults(changed, compared))
        if fault.where in INFERENCE_FIELDS
    ]


def with_setting(policy: DiffusionPolicy, setting: Mapping[str, Any]) -> DiffusionPolicy:
    """The same networks with another inference setting, in evaluation mode; the weights are shared.

    ``policy.use_ema`` decides which weights are read, so it changes nothing here.
    """
    config = configured(policy.config, setting)
    changed = assemble_policy(config, policy.features, policy.statistics(), policy.diffusion)
    return changed.to(policy.device).eval()
