"""What is changed in the pictures of a training step, and by how much.

The random numbers come with the batch (`BatchStream`), drawn for the whole step on every worker: neither the
number of workers nor gradient accumulation changes a sample's pictures.

Shapes: ``B`` samples, ``To`` observation steps, ``S`` cameras, ``L`` random numbers of a camera, ``N`` its
pictures (B * To), ``C``, ``H``, ``W`` a picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainables.diffusion_policy.config.sections import AugmentConfig
from trainables.diffusion_policy.training.augmentation.colour import (
    change_brightness,
    change_contrast,
    change_saturation,
    shift_hue,
)
from trainables.diffusion_policy.training.augmentation.filters import blur, change_sharpness
from trainables.diffusion_policy.training.augmentation.geometry import erase, move
from trainables.diffusion_policy.training.stream import LOTS

__all__ = ["LOTS_PER_CAMERA", "Augmentation"]

BRIGHTNESS, CONTRAST, SATURATION, HUE, SHARPNESS = range(5)
DEGREES, RIGHT, DOWN, SCALE, BLUR, ERASING, AREA, RATIO, TOP, LEFT = range(5, 15)
LOTS_PER_CAMERA = 15
"""Each change has numbers of its own, whether or not others are on: a new one is added at the end."""

LEAST_ERASED, NARROWEST, WIDEST = 0.02, 0.3, 3.3
"""Of an erased rectangle: the least share of the picture, and the bounds of height by width (torchvision)."""


class Augmentation:
    """Changes the pictures of a batch. All observation steps of a sample change alike, each camera by itself.

    Args:
        settings: What is changed.
        cameras: Names of the cameras, in the order of the policy's features.
    """

    def __init__(self, settings: AugmentConfig, cameras: Sequence[str]) -> None:
        self._settings = settings
        self._cameras = tuple(cameras) if settings.is_on else ()

    @property
    def lots(self) -> tuple[int, int] | None:
        """Cameras, and random numbers of each, that a sample needs; None if nothing is changed."""
        return (len(self._cameras), LOTS_PER_CAMERA) if self._cameras else None

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Change the pictures of a batch; the batch itself if nothing is changed.

        Args:
            batch: Cameras (B, To, C, H, W) uint8, and their random numbers in [0, 1) as ``LOTS`` (B, S, L).
        """
        if not self._cameras:
            return batch
        changed = {name: value for name, value in batch.items() if name != LOTS}
        for number, camera in enumerate(self._cameras):
            images_NCHW = batch[camera].flatten(0, 1)
            lots_BL = batch[LOTS][:, number]
            steps = batch[camera].shape[1]
            images_NCHW = self.change(images_NCHW, lots_BL.repeat_interleave(steps, dim=0))
            changed[camera] = images_NCHW.reshape(batch[camera].shape)
        return changed

    def change(self, images_NCHW: Tensor, lots_NL: Tensor) -> Tensor:
        """Change pictures (N, C, H, W) uint8 by random numbers in [0, 1) (N, L)."""
        wanted, lots = self._settings, lots_NL.unbind(1)
        x = images_NCHW.float() / 255
        if wanted.brightness:
            x = change_brightness(x, 1 + _within(wanted.brightness, lots[BRIGHTNESS]))
        if wanted.contrast:
            x = change_contrast(x, 1 + _within(wanted.contrast, lots[CONTRAST]))
        if wanted.saturation:
            x = change_saturation(x, 1 + _within(wanted.saturation, lots[SATURATION]))
        if wanted.hue:
            x = shift_hue(x, _within(wanted.hue, lots[HUE]))
        if wanted.sharpness:
            x = change_sharpness(x, 1 + _within(wanted.sharpness, lots[SHARPNESS]))
        if wanted.affine_degrees or wanted.affine_translate or wanted.affine_scale:
            height, width = x.shape[-2:]
            shifts = [_within(wanted.affine_translate * width, lots[RIGHT])]
            shifts.append(_within(wanted.affine_translate * height, lots[DOWN]))
            scales = 1 + _within(wanted.affine_scale, lots[SCALE])
            x = move(x, _within(wanted.affine_degrees, lots[DEGREES]), torch.stack(shifts, dim=1), scales)
        if wanted.blur_sigma:
            x = blur(x, wanted.blur_sigma * lots[BLUR], wanted.blur_sigma)
        if wanted.erasing:
            x = erase(x, self._boxes(lots, (x.shape[-2], x.shape[-1])))
        # Pictures as a camera gives them: cropping and normalising are the same as without changes.
        return (x * 255).round().to(torch.uint8)

    def _boxes(self, lots: Sequence[Tensor], image: tuple[int, int]) -> Tensor:
        """The rectangles to erase, (N, 4): top, left, height, width; of height 0 if none is erased."""
        most = max(self._settings.erasing_scale, LEAST_ERASED)
        area = (LEAST_ERASED + (most - LEAST_ERASED) * lots[AREA]) * (image[0] * image[1])
        ratio = NARROWEST * torch.exp(math.log(WIDEST / NARROWEST) * lots[RATIO])
        tall = (area * ratio).sqrt().round().clamp(1, image[0])
        wide = (area / ratio).sqrt().round().clamp(1, image[1])
        top = (lots[TOP] * (image[0] - tall + 1)).floor()
        left = (lots[LEFT] * (image[1] - wide + 1)).floor()
        tall = torch.where(lots[ERASING] < self._settings.erasing, tall, 0.0)
        return torch.stack([top, left, tall, wide], dim=1)


def _within(bound: float, lots: Tensor) -> Tensor:
    """Random numbers from -bound to bound."""
    return bound * (2 * lots - 1)
