"""A digest that shows whether a checkpoint has changed."""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainables.files import add_content

__all__ = ["checkpoint_digest"]

WHOLE_B = 1024 * 1024
BLOCKS = 16
READ = ("*.json", "*.safetensors")
_OF_THE_TRAINING = ("train_config.json", "state.json", "optimizer.safetensors")
"""Files beside a checkpoint that a new run does not read."""


def checkpoint_digest(place: Path) -> str:
    """Identify the used parts of a checkpoint: its configuration, and sizes and blocks of its weights.

    Args:
        place: Its folder or ``.ckpt`` file, as `find_checkpoint` found it. Where it is does not matter.
    """
    digest = hashlib.sha256()
    files = [place] if place.is_file() else sorted({file for kind in READ for file in place.glob(kind)})
    for file in files:
        if file.name in _OF_THE_TRAINING:
            continue
        size = file.stat().st_size
        digest.update(f"{'' if file == place else file.name} {size}\n".encode())
        add_content(digest, file, size, whole_b=WHOLE_B, blocks=BLOCKS)
    return digest.hexdigest()
