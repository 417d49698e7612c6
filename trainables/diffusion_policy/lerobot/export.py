"""Export a checkpoint: which weights, and what a person should know of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from trainables.diffusion_policy.lerobot.write import save
from trainables.diffusion_policy.pretrained.pretrained_config import read_json
from trainables.diffusion_policy.pretrained.read import policy_of, read_checkpoint

__all__ = ["export"]


def export(
    checkpoint: Path,
    folder: Path,
    target: str,
    *,
    ema: bool,
    replace: bool,
    progress: Callable[[str], None],
) -> list[str]:
    """Write a checkpoint as a version of LeRobot would have; see :func:`save`.

    Args:
        checkpoint: What :func:`read_checkpoint` takes.
        folder: The folder to make.
        target: The version of LeRobot to write for.
        ema: Whether the averaged weights are written if there are any.
        replace: Replace an earlier export in ``folder``.
        progress: Told what is done.

    Raises:
        ConfigError: If the checkpoint cannot be read.
        ExportError: If it cannot be expressed, or ``folder`` holds something else.
    """
    progress(f"reading {checkpoint}")
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
    return [*notes, *save(policy, folder, target, settings=settings, replace=replace)]
