"""Export a checkpoint: the choice of its weights, and notes for the user."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainables.diffusion_policy.lerobot.write import save
from trainables.diffusion_policy.network.inference_settings import setting_faults, with_setting
from trainables.diffusion_policy.pretrained.pretrained_config import read_json
from trainables.diffusion_policy.pretrained.read import policy_of, read_checkpoint
from trainables.interface import ConfigError

__all__ = ["export"]


def export(
    checkpoint: Path,
    folder: Path,
    target: str,
    *,
    ema: bool,
    setting: Mapping[str, Any],
    replace: bool,
    progress: Callable[[str], None],
) -> list[str]:
    """Write a checkpoint as a version of LeRobot would have; see :func:`save`.

    Args:
        checkpoint: What :func:`read_checkpoint` takes.
        folder: The folder to create.
        target: The version of LeRobot to write for.
        ema: Whether the averaged weights are written if there are any, unless the setting
            has ``policy.use_ema``.
        setting: The inference setting that the policy is written with.
        replace: Replace an earlier export in ``folder``.
        progress: Receives a message for each step.

    Raises:
        ConfigError: If the checkpoint cannot be read.
        ExportError: If it cannot be expressed, or ``folder`` contains something else.
    """
    progress(f"reading {checkpoint}")
    ema = setting.get("policy.use_ema", ema)
    read = read_checkpoint(checkpoint, ema=ema)
    source = read.config
    notes = list(source.notes)
    settings = source.values
    if source.format == "sweeper":
        averaged = ema and (source.folder / "ema.safetensors").exists()
        weights = "the averaged weights (EMA)" if averaged else "the weights as trained, not averaged,"
        notes.append(f"{weights} were written.")
        settings = read_json(source.folder / "config.json")["config"]
    progress(f"writing {folder}")
    policy = policy_of(read)
    if setting:
        faults = setting_faults(policy.config, setting)
        if faults:
            raise ConfigError(faults)
        policy = with_setting(policy, setting)
        listed = ", ".join(f"{name.removeprefix('policy.')} {value}" for name, value in setting.items())
        notes.append(f"the inference setting that was chosen after the training was written: {listed}.")
    return [*notes, *save(policy, folder, target, settings=settings, replace=replace)]
