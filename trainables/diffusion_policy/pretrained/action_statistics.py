"""The statistics with which a checkpoint unnormalises its actions. Standard library only."""

from __future__ import annotations

from pathlib import Path

from trainables.diffusion_policy.pretrained.lerobot_processors import (
    POSTPROCESSOR,
    UNNORMALIZER,
    find_step,
    state_file,
)
from trainables.diffusion_policy.pretrained.pretrained_config import PretrainedConfig, read_json
from trainables.diffusion_policy.pretrained.tensor_file import TensorFileError, read_header, read_numbers
from trainables.interface import ConfigError

__all__ = ["action_statistics"]

STATISTICS = ("min", "max", "mean", "std", "q01", "q99")


def action_statistics(config: PretrainedConfig) -> dict[str, list[float]]:
    """Read a checkpoint's statistics of the action, each as one number per dimension.

    Returns:
        Empty if it has none, or they cannot be read without torch. Loading the checkpoint reports why.
    """
    name = config.features.action.name
    try:
        if config.format == "sweeper":
            return _read(config.folder / "statistics.safetensors", f"{name}/")
        if config.format == "lerobot_buffers":
            buffer = f"unnormalize_outputs.buffer_{name.replace('.', '_')}."
            return _read(config.folder / "model.safetensors", buffer)
        if config.format == "lerobot":
            step = find_step(read_json(config.folder / POSTPROCESSOR), UNNORMALIZER)
            found = {} if step is None else _read(state_file(config.folder, step), f"{name}.")
            if "ACTION" in config.deciles and {"q10", "q90"} <= set(found):
                found |= {"q01": found["q10"], "q99": found["q90"]}
            return found
    except (OSError, ValueError, TensorFileError, ConfigError):
        return {}
    return {}


def _read(file: Path, prefix: str) -> dict[str, list[float]]:
    entries = read_header(file)
    read = {name: read_numbers(file, entries, f"{prefix}{name}") for name in (*STATISTICS, "q10", "q90")}
    return {name: values for name, values in read.items() if values is not None}
