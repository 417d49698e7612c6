"""LeRobot's processor files: the steps before and after the policy. Standard library only.

LeRobot from 0.4 on keeps statistics out of the weights: ``policy_preprocessor.json`` and
``policy_postprocessor.json`` list steps, and the normalising ones name a file with their statistics. If
``config.json`` differs from these files, LeRobot follows the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = [
    "NORMALIZER",
    "POSTPROCESSOR",
    "PREPROCESSOR",
    "RENAMER",
    "UNNORMALIZER",
    "find_step",
    "state_file",
]

PREPROCESSOR = "policy_preprocessor.json"
POSTPROCESSOR = "policy_postprocessor.json"
RENAMER = "rename_observations_processor"
NORMALIZER = "normalizer_processor"
UNNORMALIZER = "unnormalizer_processor"


def find_step(content: Mapping[str, Any], registered: str) -> dict[str, Any] | None:
    """The step of a processor file that is registered under a name, at any position; None: there is none.

    Raises:
        ValueError: If the file does not contain a list of steps.
    """
    steps = content.get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise ValueError("it does not contain a list of steps")
    found = next((step for step in steps if step.get("registry_name") == registered), None)
    if found is not None and not isinstance(found.get("config", {}), dict):
        raise ValueError(f"the config of {registered} is not a mapping")
    return found


def state_file(folder: Path, step: Mapping[str, Any]) -> Path:
    """The file of a step's statistics.

    Raises:
        ValueError: If the step does not name a file, or one outside of ``folder``.
    """
    name = step.get("state_file")
    if not isinstance(name, str) or name in ("", ".", "..") or Path(name).name != name or "\\" in name:
        raise ValueError(f"state_file {name!r} is not a file of the checkpoint's folder")
    return folder / name
