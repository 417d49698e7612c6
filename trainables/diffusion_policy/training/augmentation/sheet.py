"""A sheet of pictures of a dataset as training changes them, for `sweeper data show`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from trainables.dataset.drawing import HEADER, MARGIN, SOFT, Page, plain_name, save_page
from trainables.dataset.errors import DatasetError
from trainables.dataset.lerobot_dataset import LeRobotDataset
from trainables.dataset.statistics import evenly
from trainables.diffusion_policy.config.diffusion_config import DiffusionConfig
from trainables.diffusion_policy.data import COLOURS, image_sizes
from trainables.diffusion_policy.training.augmentation.augment import LOTS_PER_CAMERA, Augmentation
from trainables.interface import silent

__all__ = ["draw_changes"]

FRAMES, CHANGES = 6, 7
CELL_PX, GAP, CAPTION = 152, 8, 22


def draw_changes(
    dataset: LeRobotDataset,
    config: DiffusionConfig,
    folder: Path,
    progress: Callable[[str], None] = silent,
) -> list[Path]:
    """Draw pictures of each camera beside random changes of them; nothing of a camera that cannot be read.

    Args:
        dataset: The opened dataset.
        config: The changes and the size of the pictures.
        folder: Where the sheets go.
        progress: Receives a message for each camera.
    """
    rows = evenly(len(dataset), FRAMES)
    written = []
    for camera, size in image_sizes(config, dataset.policy_features).items():
        progress(f"{camera}: changed pictures")
        try:
            pictures_NCHW = dataset.pictures(camera, rows, size)
        except DatasetError:
            continue  # which the contact sheet shows
        if pictures_NCHW.shape[1] == COLOURS:
            page = _sheet(config, camera, pictures_NCHW)
            written.append(save_page(page, folder / f"augmented-{plain_name(camera)}.png"))
    return written


def _sheet(config: DiffusionConfig, camera: str, pictures_NCHW: NDArray[np.uint8]) -> Image.Image:
    """Rows are pictures: as recorded, then changed."""
    count, _, height, width = pictures_NCHW.shape
    generator = torch.Generator().manual_seed(config.train.seed)
    repeated = torch.from_numpy(pictures_NCHW).repeat_interleave(CHANGES, dim=0)
    lots = torch.rand((len(repeated), LOTS_PER_CAMERA), generator=generator)
    changed = Augmentation(config.augment, [camera]).change(repeated, lots)
    cell = (CELL_PX, max(1, round(CELL_PX * height / width)))
    page = Page(
        2 * MARGIN + (1 + CHANGES) * (cell[0] + GAP) - GAP,
        HEADER + MARGIN + count * (cell[1] + GAP) + CAPTION,
        f"{camera} as training changes it",
        ", ".join(_settings(config)),
    )
    top = HEADER + MARGIN // 2
    page.write(MARGIN, top, "as recorded", 12, SOFT)
    page.write(MARGIN + cell[0] + GAP, top, "changed at random, before the crop", 12, SOFT)
    variants = changed.numpy().reshape(count, CHANGES, *pictures_NCHW.shape[1:])
    for row, (picture_CHW, variants_CHW) in enumerate(zip(pictures_NCHW, variants, strict=True)):
        for column, shown_CHW in enumerate([picture_CHW, *variants_CHW]):
            image = Image.fromarray(np.ascontiguousarray(np.moveaxis(shown_CHW, 0, -1))).resize(cell)
            left = MARGIN + column * (cell[0] + GAP)
            page.paste(left, top + CAPTION + row * (cell[1] + GAP), np.asarray(image))
    return page.image()


def _settings(config: DiffusionConfig) -> list[str]:
    """The changes in words."""
    values = dataclasses.asdict(config.augment)
    if not config.augment.erasing:
        del values["erasing_scale"]
    return [f"{name} {value:g}" for name, value in values.items() if value]
