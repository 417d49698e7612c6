"""How pictures are resized and cropped, so that the policy sees all that was recorded, undistorted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainables.features import Feature

__all__ = ["PictureSize", "picture_size"]

SHORT_SIDE_PX = 240
"""The shorter side of a picture after resizing: as in the paper's experiments on real robots."""
CROP_RATIO = 0.9
STEP_PX = 4


@dataclass(frozen=True)
class PictureSize:
    """How pictures are resized and cropped.

    Attributes:
        resize_shape: Height and width; None to leave them as they are recorded.
        crop_ratio: Share of each side that the random crop keeps.
        remark: What the user should know; empty if nothing.
    """

    resize_shape: tuple[int, int] | None
    crop_ratio: float
    remark: str = ""


def picture_size(cameras: Sequence[Feature]) -> PictureSize:
    """Choose the size of the pictures of some cameras; there is at least one."""
    sizes = Counter((camera.shape[1], camera.shape[2]) for camera in cameras)
    aspects = Counter({(height, width): count for (height, width), count in sizes.items()})
    height, width = max(aspects, key=lambda size: (aspects[size], size[0] * size[1]))
    scale = min(1.0, SHORT_SIDE_PX / min(height, width))
    shape = (height, width) if scale == 1.0 else (_whole(height * scale), _whole(width * scale))
    stretched = [
        f"{camera.name} ({camera.shape[1]}×{camera.shape[2]})"
        for camera in cameras
        if abs(camera.shape[2] / camera.shape[1] / (width / height) - 1) > 0.05
    ]
    remark = ""
    if stretched:
        remark = (
            f"policy.resize_shape: all cameras get the size {shape[0]}×{shape[1]}, which changes the aspect "
            f"of {', '.join(stretched)}. The policy learns from such pictures too, since they are always so."
        )
    same = len(sizes) == 1 and scale == 1.0
    return PictureSize(None if same else shape, CROP_RATIO, remark)


def _whole(pixels: float) -> int:
    return max(8, round(pixels / STEP_PX) * STEP_PX)
