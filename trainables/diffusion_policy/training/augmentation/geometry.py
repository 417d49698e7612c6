"""Rotation, shift and zoom of pictures, and rectangles that are erased, with numbers for each picture.

Shapes: ``N`` pictures, ``C`` channels, ``H`` and ``W`` pixels; values are floats in [0, 1].
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["erase", "move"]


def move(images_NCHW: Tensor, degrees_N: Tensor, shifts_N2: Tensor, scales_N: Tensor) -> Tensor:
    """Rotate and zoom around the centre, then shift; bilinear, and black where nothing was seen.

    Args:
        images_NCHW: The pictures.
        degrees_N: Rotation, clockwise.
        shifts_N2: Shift to the right and down, in pixels.
        scales_N: Zoom: above 1 things become larger.
    """
    height, width = images_NCHW.shape[-2:]
    device = images_NCHW.device
    radians_N11 = torch.deg2rad(degrees_N)[:, None, None]
    cosine, sine = torch.cos(radians_N11), torch.sin(radians_N11)
    scale_N11 = scales_N[:, None, None]
    # Where each pixel of the result comes from, in pixels from the centre.
    x_N1W = torch.arange(width, device=device) - (width - 1) / 2 - shifts_N2[:, 0, None, None]
    y_NH1 = (torch.arange(height, device=device) - (height - 1) / 2)[:, None] - shifts_N2[:, 1, None, None]
    from_x = (cosine * x_N1W + sine * y_NH1) / scale_N11
    from_y = (cosine * y_NH1 - sine * x_N1W) / scale_N11
    grid_NHW2 = torch.stack([from_x / (width / 2), from_y / (height / 2)], dim=-1)
    return F.grid_sample(images_NCHW, grid_NHW2, mode="bilinear", padding_mode="zeros", align_corners=False)


def erase(images_NCHW: Tensor, boxes_N4: Tensor) -> Tensor:
    """Make a rectangle of each picture black: (top, left, height, width); of height 0 none."""
    height, width = images_NCHW.shape[-2:]
    device = images_NCHW.device
    top, left, tall, wide = boxes_N4.unbind(1)
    rows_NH = _between(torch.arange(height, device=device), top, tall)
    columns_NW = _between(torch.arange(width, device=device), left, wide)
    return images_NCHW.masked_fill((rows_NH[:, :, None] & columns_NW[:, None, :])[:, None], 0.0)


def _between(places: Tensor, first_N: Tensor, count_N: Tensor) -> Tensor:
    return (places >= first_N[:, None]) & (places < (first_N + count_N)[:, None])
