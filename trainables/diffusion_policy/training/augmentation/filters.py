"""Sharpness and blur of pictures, with a number for each picture.

Both are sums of shifted pictures, not convolutions: a convolution with a kernel for each picture is slow, and
its last bits depend on the pictures beside it.

Shapes: ``N`` pictures, ``C`` channels, ``H`` and ``W`` pixels, ``K`` cells of a kernel; values are floats in
[0, 1].
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["blur", "change_sharpness"]

SMOOTH_CENTRE, SMOOTH_SUM = 5, 13
"""Pillow's smoothing kernel, by which torchvision changes sharpness: eight ones around this, by their sum."""
REACH = 3
"""A Gaussian kernel ends after so many standard deviations."""
LEAST_SIGMA = 1e-3
"""Of a blur that changes nothing."""


def change_sharpness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Move the pixels away from the smoothed picture (or to it, below 1); the outermost pixels stay."""
    if min(images_NCHW.shape[-2:]) < 3:
        return images_NCHW
    rows = images_NCHW[..., :-2, :] + images_NCHW[..., 1:-1, :] + images_NCHW[..., 2:, :]
    around = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    inner = images_NCHW[..., 1:-1, 1:-1]
    smooth = (around + (SMOOTH_CENTRE - 1) * inner) / SMOOTH_SUM
    changed = torch.lerp(smooth, inner, factors_N[:, None, None, None]).clamp(0, 1)
    result = images_NCHW.clone()
    result[..., 1:-1, 1:-1] = changed
    return result


def blur(images_NCHW: Tensor, sigmas_N: Tensor, largest: float) -> Tensor:
    """Blur with Gaussians; pixels beyond the edge are mirrored.

    Args:
        images_NCHW: The pictures.
        sigmas_N: Standard deviation of each picture's kernel, in pixels; 0 changes nothing.
        largest: None of them is larger; decides the size of the kernels.
    """
    radius = min(math.ceil(REACH * largest), *(side - 1 for side in images_NCHW.shape[-2:]))
    cells_K = torch.arange(-radius, radius + 1, device=images_NCHW.device)
    weights_NK = torch.softmax(-0.5 * (cells_K / sigmas_N.clamp(min=LEAST_SIGMA)[:, None]) ** 2, dim=1)
    padded = F.pad(images_NCHW, (radius, radius, radius, radius), mode="reflect")
    return _weighted_sum(_weighted_sum(padded, weights_NK, dim=2), weights_NK, dim=3)


def _weighted_sum(padded: Tensor, weights_NK: Tensor, *, dim: int) -> Tensor:
    """The sum of the shifted pictures along a dimension."""
    cells = weights_NK.shape[1]
    length = padded.shape[dim] - cells + 1
    total = padded.narrow(dim, 0, length) * weights_NK[:, 0, None, None, None]
    for cell in range(1, cells):
        total.addcmul_(padded.narrow(dim, cell, length), weights_NK[:, cell, None, None, None])
    return total
