"""Name and recording settings of the Push-T task."""

from __future__ import annotations

__all__ = ["FPS", "IMAGE", "IMAGE_SIZE_PX", "MAX_STEPS", "TASK"]

TASK = "Push the T-shaped block onto the T-shaped target."
IMAGE = "observation.image"
IMAGE_SIZE_PX = (96, 96)
"""Height and width of the demonstrations' images."""
FPS = 10
MAX_STEPS = 300
"""Step limit that gym-pusht is registered with."""
