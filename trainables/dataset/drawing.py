"""Drawing with Pillow: a page with a title, text, and histograms with axes. Knows numbers, no dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

__all__ = [
    "FAINT",
    "HEADER",
    "INK",
    "MARGIN",
    "PAPER",
    "SOFT",
    "Histogram",
    "draw_histogram",
    "fitted",
    "font",
    "new_page",
    "plain_number",
]

PAPER, INK, SOFT, FAINT = "#ffffff", "#1c2733", "#5d6b7a", "#dfe5ec"
MARGIN = 36
TITLE, SUBTITLE, TEXT = 26, 16, 14
HEADER = 84
"""Height of a page's title and the line below it."""
BINS = 48
LEFT, BOTTOM, TOP = 44, 42, 50
"""Room around a histogram's field for its axes and its name, in px."""


@cache
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The typeface that comes with Pillow."""
    return ImageFont.load_default(size)


def new_page(width: int, height: int, title: str, subtitle: str) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    """Make a page; what is drawn on it starts at ``HEADER`` px from the top."""
    page = Image.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(page)
    room = width - 2 * MARGIN
    draw.text((MARGIN, 26), fitted(title, TITLE, room), INK, font(TITLE))
    draw.text((MARGIN, 60), fitted(subtitle, SUBTITLE, room), SOFT, font(SUBTITLE))
    return page, draw


def fitted(text: str, size: int, room: float) -> str:
    """The text, or as much of it as fits into ``room`` px; letters that the typeface lacks become ``?``."""
    text = text.encode("latin-1", "replace").decode("latin-1")
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(text + "...") > room:
        text = text[:-1]
    return text + "..."


def plain_number(value: float) -> str:
    """A number as an axis shows it: at most four digits that count."""
    if value and not 1e-3 <= abs(value) < 1e5:
        return f"{value:.1e}"
    return f"{value:.4g}"


@dataclass(frozen=True)
class Histogram:
    """The values of one dimension.

    Attributes:
        name: What it is called.
        values: Its values; those that are not finite are left out.
        colour: Colour of the bars.
        unit: What the axis shows.
        marks: Values between which most lie, shaded; or None.
        counted: What a bar counts, e.g. ``frames``.
    """

    name: str
    values: NDArray[np.float32]
    colour: str
    unit: str = ""
    marks: tuple[float, float] | None = None
    counted: str = "frames"


def draw_histogram(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: tuple[int, int], histogram: Histogram
) -> None:
    """Draw a histogram with its name, its axes and their ticks into a box of ``size`` (width, height) px."""
    x, y = corner
    width, height = size
    values = histogram.values[np.isfinite(histogram.values)]
    draw.text((x, y), fitted(histogram.name, SUBTITLE, width), INK, font(SUBTITLE))
    if not len(values):
        draw.text((x, y + 24), "no finite values", SOFT, font(TEXT))
        return
    low, high = float(values.min()), float(values.max())
    said = f"always {plain_number(low)}" if low == high else f"{plain_number(low)} to {plain_number(high)}"
    draw.text((x, y + 21), fitted(f"{said} {histogram.unit}".rstrip(), TEXT, width), SOFT, font(TEXT))
    field = (x + LEFT, y + TOP, x + width, y + height - BOTTOM)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(values, BINS, (low, high))
    _shade(draw, field, histogram.marks, low, high)
    _bars(draw, field, counts / len(values), histogram.colour)
    _axes(draw, field, float(counts.max()) / len(values), np.linspace(low, high, 3).tolist())
    label = f"share of {histogram.counted}"
    draw.text((field[2], field[1] - 2), label, SOFT, font(TEXT - 3), anchor="rb")


def _shade(
    draw: ImageDraw.ImageDraw,
    field: tuple[int, int, int, int],
    marks: tuple[float, float] | None,
    low: float,
    high: float,
) -> None:
    """Shade the ground between two values."""
    if marks is None or marks[1] <= marks[0]:
        return
    left, top, right, bottom = field
    first, last = (left + (mark - low) / (high - low) * (right - left) for mark in marks)
    draw.rectangle((first, top, last, bottom), fill="#f1f4f8")


def _bars(
    draw: ImageDraw.ImageDraw,
    field: tuple[int, int, int, int],
    shares: NDArray[np.float64],
    colour: str,
) -> None:
    left, top, right, bottom = field
    edges = np.linspace(left, right, len(shares) + 1).round().astype(int).tolist()
    highest = shares.max()
    for place, share in enumerate(shares):
        if share:
            # What occurs at all is seen, be it a single frame.
            tall = max(1, round(float(share / highest) * (bottom - top)))
            draw.rectangle((edges[place], bottom - tall, edges[place + 1] - 2, bottom - 1), fill=colour)


def _axes(
    draw: ImageDraw.ImageDraw, field: tuple[int, int, int, int], highest: float, ticks: Sequence[float]
) -> None:
    left, top, right, bottom = field
    draw.line((left, top, left, bottom), fill=SOFT)
    draw.line((left, bottom, right, bottom), fill=SOFT)
    percent = f"{highest:.0%}" if highest >= 0.1 else f"{highest:.1%}"
    draw.text((left - 6, top), percent, SOFT, font(TEXT - 2), anchor="rm")
    draw.text((left - 6, bottom), "0", SOFT, font(TEXT - 2), anchor="rm")
    for place, (value, anchor) in enumerate(zip(ticks, ("la", "ma", "ra"), strict=True)):
        at = left + place * (right - left) / (len(ticks) - 1)
        draw.line((at, bottom, at, bottom + 4), fill=SOFT)
        draw.text((at, bottom + 7), plain_number(value), SOFT, font(TEXT - 1), anchor=anchor)
