"""Files of the original code (``.ckpt``), where they can be read without running what they contain."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainables.diffusion_policy.pretrained import PretrainedConfig, path_error

if TYPE_CHECKING:
    from trainables.diffusion_policy.lerobot.read import Pretrained

__all__ = ["read_original", "read_original_config"]


def read_original_config(file: Path) -> PretrainedConfig:
    """Read the configuration of a ``.ckpt`` file.

    Raises:
        ConfigError: Where it cannot be read safely.
    """
    return read_original(file, ema=True).config


def read_original(file: Path, *, ema: bool) -> Pretrained:
    """Read a ``.ckpt`` file.

    Raises:
        ConfigError: Where it cannot be read safely.
    """
    weights = "EMA weights" if ema else "weights"
    raise path_error(
        f"{file} cannot be read safely: such a file pickles objects, and loading them runs code.",
        f"Convert it where it was made: save its {weights} under LeRobot's names as safetensors.",
    )
