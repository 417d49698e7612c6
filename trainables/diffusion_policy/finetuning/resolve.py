"""A flat configuration completed from its checkpoint, checked, and built.

`DiffusionConfig.from_flat` builds only what is named. Here ``policy.path`` is read first: fields that the
configuration does not name are taken from that checkpoint, and fields that contradict it are faults.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from trainables.diffusion_policy.config.diffusion_config import (
    DiffusionConfig,
    build,
    combination_faults,
    field_faults,
)
from trainables.diffusion_policy.finetuning.starting_point import inherited, start_faults
from trainables.interface import ConfigError, Fault

__all__ = ["resolve", "resolve_faults"]


def resolve(config: Mapping[str, Any]) -> DiffusionConfig:
    """Complete a configuration from the checkpoint of its ``policy.path``, check it and build it.

    Args:
        config: Values by dotted name. With ``policy.path``, fields of ``policy`` that are not named are
            taken from that checkpoint. Without it, or if the path is not on this machine, they have their
            defaults.

    Raises:
        ConfigError: With every fault of ``config``, or if the checkpoint cannot be read.
    """
    faults = resolve_faults(config)
    if faults:
        raise ConfigError(faults)
    return _completed(config)


def resolve_faults(config: Mapping[str, Any], workers: int = 1) -> list[Fault]:
    """Every fault of a configuration, its checkpoint's values included.

    Args:
        config: As for `resolve`.
        workers: Processes that share each batch.
    """
    faults = field_faults(config)
    if faults:
        return faults
    try:
        completed = _completed(config)
    except ConfigError as error:
        return list(error.faults)
    started = [] if completed.policy.path is None else start_faults(completed)
    return [*started, *combination_faults(completed, workers)]


def _completed(config: Mapping[str, Any]) -> DiffusionConfig:
    return build({**config, **inherited(config)})
