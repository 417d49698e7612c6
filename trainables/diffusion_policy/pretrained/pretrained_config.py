"""A checkpoint's configuration, and reading its JSON files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from trainables.features import PolicyFeatures
from trainables.interface import ConfigError, Fault

__all__ = ["PretrainedConfig", "path_error", "read_json"]

MOST_JSON_BYTES = 8_000_000
"""A configuration takes a few kilobytes; a larger file is not one."""


@dataclass(frozen=True)
class PretrainedConfig:
    """A checkpoint's configuration.

    Attributes:
        folder: The checkpoint's folder, or the file of the original code.
        format: ``lerobot``; ``lerobot_buffers`` for LeRobot before 0.4; ``sweeper`` for this project's own;
            ``diffusion_policy`` for the original code.
        values: Its configuration by dotted name: ``policy.*``, and ``optimizer.*`` and ``lr_scheduler.*``
            if it has them.
        features: What the policy sees and does, cameras in the order of its encoders.
        notes: What was changed or ignored, in a sentence each.
        deciles: Types of features (``STATE``) whose 1st and 99th percentiles are in fact the 10th and 90th.
        faults: Contradictions to its own weights.
        crop_fault: A contradiction of its crop, which a new run may change; None if there is none.
        statistics_fault: Why it has no statistics; empty if it has them.
    """

    folder: Path
    format: str
    values: Mapping[str, Any]
    features: PolicyFeatures
    notes: tuple[str, ...] = ()
    deciles: frozenset[str] = frozenset()
    faults: tuple[Fault, ...] = ()
    crop_fault: Fault | None = None
    statistics_fault: str = ""


def path_error(problem: str, remedy: str = "") -> ConfigError:
    """An error about ``policy.path``."""
    return ConfigError([Fault("policy.path", problem, remedy)])


def read_json(file: Path) -> dict[str, Any]:
    """Read a JSON object of a checkpoint.

    Raises:
        ConfigError: If it is missing, not JSON, not an object, or larger than any configuration.
    """

    def fail(problem: str, cause: Exception | None = None) -> NoReturn:
        raise path_error(f"{file} {problem}.") from cause

    try:
        if file.stat().st_size > MOST_JSON_BYTES:
            fail(f"has more than {MOST_JSON_BYTES:,} bytes, more than the file of any checkpoint")
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        fail("is missing", error)
    except (OSError, ValueError, RecursionError) as error:
        fail(f"cannot be read ({error})", error)
    if not isinstance(value, dict):
        fail("is not a JSON object")
    return value
