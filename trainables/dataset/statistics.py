"""Statistics of a dataset's features, computed from the data itself.

The numbers in a dataset's own files are not used: they are those of *all* episodes, while a policy must see
nothing of the held-out ones, and the image statistics that LeRobot wrote up to 0.4.4 are wrong (its standard
deviation overflows in uint8).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "QUANTILES",
    "Statistics",
    "evenly",
    "image_histogram",
    "image_statistics",
    "imagenet_statistics",
    "sample_rows",
    "vector_statistics",
]

Statistics = dict[str, dict[str, np.ndarray]]
"""Feature -> ``min``, ``max``, ``mean``, ``std``, ``q01``, ``q10``, ``q50``, ``q90``, ``q99``, ``count``."""

QUANTILES: Mapping[str, float] = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PIXEL_VALUES = 256
SAMPLED_VALUES = 100_000_000
"""Pixel values that are counted for a camera's statistics: a second of work at most."""
FEWEST_FRAMES, MOST_FRAMES = 200, 1000
"""Whatever the size of a frame, at least and at most so many are counted."""


def vector_statistics(values: NDArray[np.generic]) -> dict[str, np.ndarray]:
    """Compute exact statistics over the first axis of ``values`` (N, ...), in float64.

    The standard deviation is the population's (divided by N), as everywhere in LeRobot. A value that is not
    finite spoils its dimension's statistics and no other.

    Raises:
        ValueError: If there is no row.
    """
    if len(values) == 0:
        raise ValueError("statistics need at least one row")
    numbers = values.astype(np.float64)
    with np.errstate(invalid="ignore"):
        quantiles = np.quantile(numbers, list(QUANTILES.values()), axis=0)
        return {
            "min": numbers.min(axis=0),
            "max": numbers.max(axis=0),
            "mean": numbers.mean(axis=0),
            "std": numbers.std(axis=0),
            **dict(zip(QUANTILES, quantiles, strict=True)),
            "count": np.array([len(numbers)]),
        }


def image_histogram(frames_NCHW: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Count the pixel values 0 to 255 of uint8 frames (N, C, H, W) per channel: (C, 256)."""
    by_channel = np.moveaxis(frames_NCHW, 1, 0)
    return np.stack([np.bincount(channel.reshape(-1), minlength=PIXEL_VALUES) for channel in by_channel])


def image_statistics(histogram: NDArray[np.int64], frames: int) -> dict[str, np.ndarray]:
    """Compute exact statistics of pixels from their histogram (C, 256).

    Args:
        histogram: How often each value occurs in each channel.
        frames: How many frames were counted; becomes ``count``.

    Returns:
        Statistics shaped (C, 1, 1) in [0, 1], where 255 is 1.

    Raises:
        ValueError: If no pixel was counted.
    """
    pixels = int(histogram[0].sum())
    if pixels == 0:
        raise ValueError("statistics need at least one pixel")
    levels = np.arange(PIXEL_VALUES, dtype=np.float64) / (PIXEL_VALUES - 1)
    mean = histogram @ levels / pixels
    variance = np.array([row @ (levels - m) ** 2 / pixels for row, m in zip(histogram, mean, strict=True)])
    cumulative = histogram.cumsum(axis=1)
    per_channel = {
        "min": levels[(histogram > 0).argmax(axis=1)],
        "max": levels[PIXEL_VALUES - 1 - (histogram[:, ::-1] > 0).argmax(axis=1)],
        "mean": mean,
        "std": np.sqrt(variance),
        **{
            name: np.array([_quantile(row, levels, share) for row in cumulative])
            for name, share in QUANTILES.items()
        },
    }
    return {name: value.reshape(-1, 1, 1) for name, value in per_channel.items()} | {
        "count": np.array([frames])
    }


def _quantile(cumulative: NDArray[np.int64], levels: NDArray[np.float64], share: float) -> float:
    """Interpolate between the two nearest values in rank, as ``np.quantile`` does."""
    rank = share * (int(cumulative[-1]) - 1)
    below = int(np.floor(rank))
    low, high = levels[np.searchsorted(cumulative, [below, np.ceil(rank)], side="right")]
    return float(low + (high - low) * (rank - below))


def imagenet_statistics() -> dict[str, np.ndarray]:
    """Give ImageNet's mean and std, shaped (3, 1, 1)."""
    return {
        "mean": np.array(IMAGENET_MEAN).reshape(3, 1, 1),
        "std": np.array(IMAGENET_STD).reshape(3, 1, 1),
    }


def sample_rows(rows: NDArray[np.int64], values_per_frame: int) -> NDArray[np.int64]:
    """Choose the frames whose pixels are counted: evenly spaced, always the same ones for the same rows."""
    most = min(max(SAMPLED_VALUES // values_per_frame, FEWEST_FRAMES), MOST_FRAMES)
    return rows[evenly(len(rows), most)]


def evenly(count: int, most: int) -> NDArray[np.int64]:
    """At most so many of the numbers below ``count``, evenly spread, the first and the last among them."""
    return np.linspace(0, count - 1, min(count, most)).round().astype(np.int64)
