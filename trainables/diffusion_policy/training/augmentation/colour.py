"""Brightness, contrast, saturation and hue of pictures, with a number for each picture.

Shapes: ``N`` pictures, ``C`` = 3 colour channels, ``H`` and ``W`` pixels; values are floats in [0, 1].
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["change_brightness", "change_contrast", "change_saturation", "shift_hue"]

RED, GREEN, BLUE = 0.2989, 0.587, 0.114
"""Weights of the channels in grey (ITU-R BT.601), as torchvision has them."""


def change_brightness(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Multiply the pixels; 1 changes nothing, 0 makes black."""
    return (images_NCHW * _spread(factors_N)).clamp(0, 1)


def change_contrast(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Move the pixels away from the picture's mean grey (or to it, below 1)."""
    mean_N111 = _grey(images_NCHW).mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean_N111, images_NCHW, _spread(factors_N)).clamp(0, 1)


def change_saturation(images_NCHW: Tensor, factors_N: Tensor) -> Tensor:
    """Move the pixels away from their own grey (or to it, below 1)."""
    return torch.lerp(_grey(images_NCHW), images_NCHW, _spread(factors_N)).clamp(0, 1)


def shift_hue(images_NCHW: Tensor, turns_N: Tensor) -> Tensor:
    """Turn the hues by a share of the colour circle, from -0.5 to 0.5; value and saturation stay.

    By the closed form of the conversion from HSV: with the hue in sixths of a turn, a channel is
    ``value - chroma * clamp(min(k, 4 - k), 0, 1)``, where ``k = (n + hue) mod 6`` and n is 5, 3 and 1.
    """
    red, green, blue = images_NCHW.unbind(1)
    value = images_NCHW.amax(1)
    chroma = value - images_NCHW.amin(1)
    divisor = torch.where(chroma == 0, 1.0, chroma)
    hue_NHW = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    hue_NHW = hue_NHW + 6 * turns_N[:, None, None]
    channels = torch.tensor([5.0, 3.0, 1.0], device=images_NCHW.device).view(1, 3, 1, 1)
    k = (channels + hue_NHW[:, None]).remainder(6)
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def _grey(images_NCHW: Tensor) -> Tensor:
    """(N, 1, H, W)."""
    red, green, blue = images_NCHW.unbind(1)
    return (RED * red + GREEN * green + BLUE * blue).unsqueeze(1)


def _spread(numbers_N: Tensor) -> Tensor:
    return numbers_N[:, None, None, None]
